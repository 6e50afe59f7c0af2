"""Scoring a folder of faces: jobs/score.py against scoring_by_hand.py, same images, same network, in turn; ratios.

    python benchmarks/scoring.py --num-faces 4000 --repetitions 2 --backends eager openvino

Whole processes are timed, start-up included, and their steady state, from the first images that are done to the last.
Drawn faces and random weights: speed does not depend on either.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import torch
import tyro
from torch import nn
from torchvision.models import mobilenet_v2

from agescale.models import checkpoints
from agescale.models.age_model import AgeModel, ModelSpec
from agescale.synthetic import dataset

ROOT = Path(__file__).parent.parent
UNIT_ROWS = 250


@dataclass(frozen=True)
class BenchConfig:
    num_faces: int = 4000
    """Drawn faces to score."""
    image_size: int = 224
    """Side that the network looks at, pixels."""
    repetitions: int = 2
    """Runs of each, in turn."""
    backends: tuple[str, ...] = ("auto",)
    """What is to compute the network, such as eager openvino: each is a row."""


@dataclass(frozen=True)
class Run:
    seconds: float  # of the whole process
    steady: float  # images a second, from the first images that are done to the last


def main(config: BenchConfig) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        num_faces = dataset.write_dataset(folder / "faces", "unlabelled", config.num_faces, size=200, num_broken=0)
        spec = ModelSpec("torchvision/mobilenet_v2", "distribution", "25-years", config.image_size)
        checkpoints.save(str(folder / "checkpoint"), spec, AgeModel(spec).state_dict(), checkpoints.RunProgress(), {})
        network = mobilenet_v2()
        network.classifier = nn.Linear(1280, 101)
        torch.save(network.state_dict(), folder / "weights.pt")
        run("jobs/catalog.py", "--source", folder / "faces", "--out", folder / "catalog")

        runs: dict[str, list[Run]] = {"by hand": [], **{backend: [] for backend in config.backends}}
        for _ in range(config.repetitions):
            runs["by hand"].append(score_by_hand(folder, config.image_size))
            for backend in config.backends:
                runs[backend].append(score(folder, backend))
                print(f"{backend}: {runs[backend][-1]}, load average {os.getloadavg()[0]:.1f}", flush=True)
    seconds = {name: statistics.median(run.seconds for run in of_one) for name, of_one in runs.items()}
    steady = {name: statistics.median(run.steady for run in of_one) for name, of_one in runs.items()}
    print("\n| | whole job, start-up included | ratio | in steady state | ratio |\n| --- | --- | --- | --- | --- |")
    for name, of_one in runs.items():
        each = ", ".join(f"{run.seconds:.0f} s" for run in of_one)
        whole = f"{num_faces / seconds[name]:.1f} images/s ({each}) | {seconds['by hand'] / seconds[name]:.2f}"
        print(f"| {name} | {whole} | {steady[name]:.1f} images/s | {steady[name] / steady['by hand']:.2f} |")
    print(f"\n{num_faces:,} images, mobilenet_v2, {config.image_size} px, CPU, {os.cpu_count()} cores")


def score_by_hand(folder: Path, image_size: int) -> Run:
    arguments = (folder / "faces", folder / "weights.pt", folder / "ages.parquet", image_size)
    seconds, said = run("benchmarks/scoring_by_hand.py", *arguments)
    return Run(seconds, float(said.split()[-1]))


def score(folder: Path, backend: str) -> Run:
    """Its steady state is that of its units after the first one of each process: when their files appear."""
    out, first = folder / "ages", os.cpu_count() or 1
    arguments = ("--catalog", folder / "catalog", "--checkpoint", folder / "checkpoint", "--out", out)
    seconds, _ = run("jobs/score.py", *arguments, "--unit-rows", UNIT_ROWS, "--backend", backend)
    ended = sorted((file.stat().st_mtime, pq.read_metadata(file).num_rows) for file in out.glob("part-*.parquet"))
    shutil.rmtree(out)
    steady = sum(num_rows for _, num_rows in ended[first:]) / (ended[-1][0] - ended[first - 1][0])
    return Run(seconds, steady)


def run(*command: object) -> tuple[float, str]:
    """Seconds, and what it printed."""
    started = time.monotonic()
    ended = subprocess.run(
        [sys.executable, *map(str, command)], check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    return time.monotonic() - started, ended.stdout


if __name__ == "__main__":
    main(tyro.cli(BenchConfig))
