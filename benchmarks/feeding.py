"""Whether a model is fed: scoring with a network so small that decoding is the limit, by threads of the scoring
processes and by tasks apart, beside what as many cores decode that do nothing else.

    python benchmarks/feeding.py --num-faces 4000 --repetitions 2

On a machine with a GPU, with a network of one's own size, it is the measure of the GPU's share of its speed:

    python benchmarks/feeding.py --num-faces 100000 --encoder torchvision/mobilenet_v2 --image-size 224 --device cuda
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from scoring import UNIT_ROWS, steady_of
from turns import in_turn, machine, run, tell

from agescale.faces.loading import Framing
from agescale.models import checkpoints
from agescale.models.age_model import AgeModel
from agescale.models.predictor import Predictor
from agescale.models.spec import ModelSpec
from agescale.synthetic import dataset
from agescale.tables import packed
from agescale.tables.catalogs import Catalog

WANTED = 0.85


@dataclass(frozen=True)
class BenchConfig:
    num_faces: int = 4000
    """Drawn faces to score."""
    picture_size: int = 600
    """Their side, pixels: JPEGs as cameras and scrapers leave them take longer to decode than a small network does."""
    image_size: int = 112
    """Side that the network looks at, pixels."""
    encoder: str = "cnn"
    """The network; ``cnn`` is one of two layers of 4 filters."""
    repetitions: int = 2
    """Runs of each, in turn."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the network is."""


def main(config: BenchConfig) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = config.picture_size
        dataset.write_dataset(folder / "faces", "unlabelled", config.num_faces, size=size, num_broken=0)
        spec = ModelSpec(config.encoder, "distribution", "25-years", config.image_size)
        if config.encoder == "cnn":
            spec = replace(spec, widths=(4, 4))
        checkpoints.save(str(folder / "checkpoint"), spec, AgeModel(spec).state_dict(), checkpoints.RunProgress(), {})
        run("jobs/catalog.py", "--source", folder / "faces", "--out", folder / "catalog")

        print(f"{machine()} at the start", flush=True)
        ways: dict[str, Callable[[], Any]] = {
            "decoding alone, one core": partial(decode_alone, folder, config),
            "the model alone, one process": partial(model_alone, folder, config),
        }
        ways |= {mode: partial(score, folder, config, mode) for mode in ("inside", "apart")}
        rates = {way: statistics.median(of_one) for way, of_one in in_turn(ways, config.repetitions).items()}
    decoding, model = (rates[way] for way in list(ways)[:2])
    cores, on_gpu = os.cpu_count() or 1, config.device == "cuda"
    # on CPUs the model, small as it is, has its share of the cores
    ceiling = min(cores * decoding, model) if on_gpu else cores / (1 / decoding + 1 / model)
    print("\n| | images/s | of the ceiling |\n| --- | --- | --- |")
    for way, rate in rates.items():
        print(f"| {way} | {rate:.1f} | {f'{rate / ceiling:.2f}' if way in ('inside', 'apart') else ''} |")
    print(f"\n{config.num_faces:,} images of {size} px, {config.encoder} at {config.image_size} px on {config.device}")
    print(f"ceiling {ceiling:.1f} images/s, {machine()}")
    for mode in ("inside", "apart"):
        tell(f"feeding, decoded {mode}, of what the cores decode and compute", rates[mode] / ceiling, WANTED)


def decode_alone(folder: Path, config: BenchConfig) -> float:
    """Images a second that one core reads and decodes, one after the other."""
    catalog = Catalog.open(str(folder / "catalog"))
    rows = catalog.read(["uri", "version", "size_bytes"]).slice(0, 500)
    with ThreadPoolExecutor(1) as pool:
        started, cpu_s = time.perf_counter(), time.process_time()
        num = sum(1 for _ in packed.load_faces(catalog.uri, rows, Framing(config.image_size), False, pool))
        print(f"  {num / (time.perf_counter() - started):.0f} images/s on the clock", flush=True)
        return num / (time.process_time() - cpu_s)


def model_alone(folder: Path, config: BenchConfig) -> float:
    """Images a second of batches that are there; on the CPU on one core."""
    torch.set_num_threads(1)
    predictor = Predictor(str(folder / "checkpoint"), config.device)
    images_NHWC = torch.randint(0, 256, (64, config.image_size, config.image_size, 3), dtype=torch.uint8).numpy()
    predictor(images_NHWC)
    started, num = time.perf_counter(), 0
    while time.perf_counter() - started < 5:
        predictor(images_NHWC)
        num += len(images_NHWC)
    return num / (time.perf_counter() - started)


def score(folder: Path, config: BenchConfig, mode: str) -> float:
    """Images a second in steady state, of ``jobs/score.py``."""
    out = folder / "ages"
    arguments = ("--catalog", folder / "catalog", "--checkpoint", folder / "checkpoint", "--out", out)
    settings = ["--unit-rows", UNIT_ROWS, "--device", config.device, "--backend", "eager", "--decode", mode]
    if mode == "apart" and config.device == "cpu":
        settings += ["--num-workers", 1]
    run("jobs/score.py", *arguments, *settings)
    limited = json.loads(Path(f"{out}.agescale", "summary.json").read_bytes())["bottleneck"]
    print(f"  limited by {limited['limited_by']}: {limited['shares']}", flush=True)
    return steady_of(out, num_first=2)


if __name__ == "__main__":
    main(tyro.cli(BenchConfig))
