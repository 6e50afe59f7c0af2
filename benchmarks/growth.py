"""How the cost of scoring grows with the images: seconds of each further image against decoding and the forward pass
alone, and memory.

    python benchmarks/growth.py --num-faces 1000 4000 16000

Drawn faces, whole jobs; memory is what all processes of a job hold of their own, at most, Ray's included. Decoding and
forward pass alone: one image after the other and batch by batch, in this process, before the first job and after the
last one; what they take together is what an image would cost if nothing else did, on as many cores as there are.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
import tyro
from turns import machine, tell

from agescale.faces import images
from agescale.models import checkpoints
from agescale.models.age_model import AgeModel
from agescale.models.predictor import Predictor
from agescale.models.spec import ModelSpec
from agescale.synthetic import dataset

ROOT = Path(__file__).parent.parent
BATCH = 64
MAX_SLOPE = 1.3
LOOK_S = 0.5


@dataclass(frozen=True)
class GrowthConfig:
    num_faces: tuple[int, ...] = (1000, 4000, 16000)
    """Drawn faces to score, ascending."""
    image_size: int = 112
    """Side that the network looks at, pixels."""


@dataclass(frozen=True)
class Job:
    seconds: float
    megabytes: float  # held at most


def main(config: GrowthConfig) -> None:
    print(f"{machine()} at the start", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = ModelSpec("torchvision/mobilenet_v2", "distribution", "25-years", config.image_size)
        checkpoints.save(str(folder / "checkpoint"), spec, AgeModel(spec).state_dict(), checkpoints.RunProgress(), {})
        for number in config.num_faces:
            faces = folder / f"faces-{number}"
            dataset.write_dataset(faces, "unlabelled", number, size=200, num_broken=0)
            run("catalog", "--source", faces, "--out", folder / f"catalog-{number}")
        alone = [alone_s(folder, config)]
        jobs = {number: score(folder, number) for number in config.num_faces}
        alone.append(alone_s(folder, config))
    print("| images | seconds | MB held at most |\n| --- | --- | --- |")
    for number, job in jobs.items():
        print(f"| {number:,} | {job.seconds:.1f} | {job.megabytes:,.0f} |")
    least, most = min(jobs), max(jobs)
    each_s = (jobs[most].seconds - jobs[least].seconds) / (most - least)
    alone_each_s = sum(alone) / len(alone)
    slope, memory = each_s / alone_each_s, jobs[most].megabytes / jobs[least].megabytes
    said = " and ".join(f"{seconds * 1000:.2f}" for seconds in alone)
    print(
        f"\n{each_s * 1000:.2f} ms each further image, {said} ms of decoding and forward pass alone: {slope:.2f} times"
    )
    print(f"memory: {memory:.2f} times; mobilenet_v2, {config.image_size} px, {machine()}")
    tell("each further image, against decoding and forward pass alone", 1 / slope, 1 / MAX_SLOPE)
    tell(f"memory of {most:,} images, against {least:,}", 1 / memory, 0.9)


def alone_s(folder: Path, config: GrowthConfig) -> float:
    """Seconds of decoding and forward pass of an image, on all cores together."""
    torch.set_num_threads(1)
    predictor = Predictor(str(folder / "checkpoint"))
    files = [path for path in (folder / f"faces-{min(config.num_faces)}").rglob("*") if images.is_image_name(path.name)]
    pictures = [path.read_bytes() for path in files[: 4 * BATCH]]
    started = time.monotonic()
    faces = [images.load_face(picture, config.image_size).pixels for picture in pictures]
    for start in range(0, len(faces), BATCH):
        predictor(np.stack(faces[start : start + BATCH]))
    return (time.monotonic() - started) / len(pictures) / (os.cpu_count() or 1)


def score(folder: Path, number: int) -> Job:
    places = ("--catalog", folder / f"catalog-{number}", "--checkpoint", folder / "checkpoint")
    return run("score", *places, "--out", folder / f"ages-{number}", "--backend", "eager")


def run(job: str, *arguments: object) -> Job:
    started, megabytes = time.monotonic(), 0.0
    command = [sys.executable, f"jobs/{job}.py", *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            megabytes = max(megabytes, megabytes_of(process.pid))
            time.sleep(LOOK_S)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Job(time.monotonic() - started, megabytes)


def megabytes_of(pid: int) -> float:
    """What a process and all below it hold of their own."""
    held = 0
    with contextlib.suppress(psutil.NoSuchProcess):  # one that ends meanwhile
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                memory = each.memory_info()
                held += memory.rss - getattr(memory, "shared", 0)
    return held / 2**20


if __name__ == "__main__":
    main(tyro.cli(GrowthConfig, description=__doc__))
