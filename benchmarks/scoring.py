"""Scoring a folder of faces: jobs/score.py against scoring_by_hand.py, and with --ray against scoring_by_ray.py, same
images, same network, in turn; ratios.

    python benchmarks/scoring.py --num-faces 4000 --repetitions 2 --backends eager openvino
    python benchmarks/scoring.py --network resnet50 --num-faces 1000 --ray

Whole processes are timed, start-up included, and their steady state, from the first images that are done to the last
(for Ray's way from its first file to its last one, where it writes several).
Drawn faces and random weights: speed does not depend on either.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import pyarrow.parquet as pq
import torch
import tyro
from networks import network
from turns import in_turn, machine, run, tell

from agescale.models import checkpoints
from agescale.models.age_model import AgeModel
from agescale.models.spec import ModelSpec
from agescale.synthetic import dataset

UNIT_ROWS = 250
BY_HAND, BY_RAY = "a DataLoader by hand", "Ray's documented way"
WANTED = {"whole": 3.5, "steady": 6.0, "ray": 4.0}
"""Ratios, of mobilenet_v2 at 224 px and 4,000 images."""


@dataclass(frozen=True)
class BenchConfig:
    num_faces: int = 4000
    """Drawn faces to score."""
    network: Literal["mobilenet_v2", "resnet50", "cnn"] = "mobilenet_v2"
    """Torchvision's, or a small one of four convolutions."""
    image_size: int = 224
    """Side that the network looks at, pixels."""
    repetitions: int = 2
    """Runs of each, in turn."""
    backends: tuple[str, ...] = ("auto",)
    """What is to compute the network, such as eager openvino: each is a row."""
    ray: bool = False
    """Ray's documented way is a row, too."""


@dataclass(frozen=True)
class Run:
    seconds: float  # of the whole process
    steady: float  # images a second, from the first images that are done to the last; 0 where that is not known

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s, {self.steady:.1f} images/s in steady state"


def main(config: BenchConfig) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        num_faces = dataset.write_dataset(folder / "faces", "unlabelled", config.num_faces, size=200, num_broken=0)
        encoder = "cnn" if config.network == "cnn" else f"torchvision/{config.network}"
        spec = ModelSpec(encoder, "distribution", "25-years", config.image_size)
        checkpoints.save(str(folder / "checkpoint"), spec, AgeModel(spec).state_dict(), checkpoints.RunProgress(), {})
        torch.save(network(config.network, config.image_size).state_dict(), folder / "weights.pt")
        run("jobs/catalog.py", "--source", folder / "faces", "--out", folder / "catalog")

        print(f"{machine()} at the start", flush=True)
        ways: dict[str, Callable[[], Run]] = {BY_HAND: partial(score_by_hand, folder, config)}
        if config.ray:
            ways[BY_RAY] = partial(score_by_ray, folder, config)
        runs = in_turn(ways | {each: partial(score, folder, each) for each in config.backends}, config.repetitions)
    seconds = {name: statistics.median(run.seconds for run in of_one) for name, of_one in runs.items()}
    steady = {name: statistics.median(run.steady for run in of_one) for name, of_one in runs.items()}
    print("\n| | whole job, start-up included | ratio | in steady state | ratio |\n| --- | --- | --- | --- | --- |")
    for name, of_one in runs.items():
        each = ", ".join(f"{run.seconds:.0f} s" for run in of_one)
        whole = f"{num_faces / seconds[name]:.1f} images/s ({each}) | {seconds[BY_HAND] / seconds[name]:.2f}"
        print(f"| {name} | {whole} | {steady[name]:.1f} images/s | {steady[name] / steady[BY_HAND]:.2f} |")
    print(f"\n{num_faces:,} images, {config.network}, {config.image_size} px, CPU, {machine()}")
    for name in config.backends:
        what, whole_s = f"scoring {config.network} by {name}", seconds[name]
        wanted = WANTED if config.network == "mobilenet_v2" else {}
        tell(f"{what}, whole job, against {BY_HAND}", seconds[BY_HAND] / whole_s, wanted.get("whole"))
        tell(f"{what}, steady state, against {BY_HAND}", steady[name] / steady[BY_HAND], wanted.get("steady"))
        if config.ray:
            tell(f"{what}, whole job, against {BY_RAY}", seconds[BY_RAY] / whole_s, wanted.get("ray"))


def score_by_hand(folder: Path, config: BenchConfig) -> Run:
    arguments = (folder / "faces", folder / "weights.pt", folder / "ages.parquet", config.image_size, config.network)
    seconds, said = run("benchmarks/scoring_by_hand.py", *arguments)
    return Run(seconds, float(said.split()[-1]))


def score_by_ray(folder: Path, config: BenchConfig) -> Run:
    out = folder / "ages-by-ray"
    arguments = (folder / "faces", folder / "weights.pt", out, config.image_size, config.network)
    seconds, _ = run("benchmarks/scoring_by_ray.py", *arguments)
    return Run(seconds, steady_of(out, num_first=1))


def score(folder: Path, backend: str) -> Run:
    """Its steady state is that of its units after the first one of each process: when their files appear."""
    out, first = folder / "ages", os.cpu_count() or 1
    arguments = ("--catalog", folder / "catalog", "--checkpoint", folder / "checkpoint", "--out", out)
    seconds, _ = run("jobs/score.py", *arguments, "--unit-rows", UNIT_ROWS, "--backend", backend)
    return Run(seconds, steady_of(out, first))


def steady_of(out: Path, num_first: int) -> float:
    """Images a second after the first files, by when these and the others have appeared; then they are removed."""
    ended = sorted((file.stat().st_mtime, pq.read_metadata(file).num_rows) for file in out.glob("*.parquet"))
    shutil.rmtree(out)
    if len(ended) <= num_first:
        return 0.0
    return sum(num_rows for _, num_rows in ended[num_first:]) / (ended[-1][0] - ended[num_first - 1][0])


if __name__ == "__main__":
    main(tyro.cli(BenchConfig))
