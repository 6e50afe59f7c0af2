"""A phase that trains the head alone: on features made once for all epochs, as agescale does, against --cache never,
which makes them in each, as a plain loop would; jobs/train.py, same images, same network, in turn; ratios.

    python benchmarks/frozen.py --weights vgg16.pth --num-faces 1000 --image-size 64 --epochs 30

Seconds of all epochs, with what comes before the first of them, start-up aside. Both are to have the same losses of
validation, which is checked.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import tyro
from turns import in_turn, machine, run, tell

from agescale.models import checkpoints
from agescale.synthetic import dataset

WANTED = 10.0
TOLERANCE = 1e-3
"""Of a loss of validation, relative: sums in another order."""


@dataclass(frozen=True)
class BenchConfig:
    encoder: str = "torchvision/vgg16"
    """Whose head is trained."""
    weights: str = ""
    """File of its weights. Default: random ones, which cost the same."""
    num_faces: int = 1000
    """Drawn faces, of which a tenth is validation."""
    image_size: int = 64
    """Side that the network looks at, pixels."""
    epochs: int = 30
    """Of the head."""
    repetitions: int = 1
    """Runs of each, in turn."""


@dataclass(frozen=True)
class Run:
    seconds: float
    losses: list[float]  # of validation, by epoch

    def __str__(self) -> str:
        return f"{self.seconds:.1f} s, last loss of validation {self.losses[-1]:.4f}"


def main(config: BenchConfig) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset.write_dataset(folder / "faces", "utkface", config.num_faces, size=200, num_broken=0)
        source = ("--source", folder / "faces", "--layout", "utkface", "--split", 0.9, 0.1, 0.0)
        run("jobs/catalog.py", *source, "--out", folder / "catalog")
        print(f"{machine()} at the start", flush=True)
        ways = {cache: partial(train, folder, config, cache) for cache in ("never", "auto")}
        runs = in_turn(ways, config.repetitions)
    seconds = {cache: median(each.seconds for each in of_one) for cache, of_one in runs.items()}
    print(f"\n| {config.epochs} epochs of the head | seconds | ratio | last loss of validation |")
    print("| --- | --- | --- | --- |")
    for cache, name in (("never", "features in each epoch"), ("auto", "once for all of them")):
        said = f"{seconds[cache]:.1f} | {seconds['never'] / seconds[cache]:.1f} | {runs[cache][0].losses[-1]:.4f}"
        print(f"| {name} | {said} |")
    differ = max(
        abs(once - each) / each for each, once in zip(runs["never"][0].losses, runs["auto"][0].losses, strict=True)
    )
    print(f"\n{config.num_faces:,} images, {config.encoder}, {config.image_size} px, CPU, {machine()}")
    print(f"losses of validation differ by {differ:.1e} at most, relative")
    tell(f"{config.epochs} epochs of a head, features made once", seconds["never"] / seconds["auto"], WANTED)
    if differ > TOLERANCE:
        sys.exit(f"error: losses of validation differ by {differ:.1e}, more than {TOLERANCE:g}")


def train(folder: Path, config: BenchConfig, cache: str) -> Run:
    out = folder / f"run-{time.monotonic_ns()}"
    run(
        *("jobs/train.py", "--catalog", folder / "catalog", "--out", out, "--encoder", config.encoder),
        *("--weights", config.weights, "--image-size", config.image_size, "--phases", f"head:{config.epochs}@1e-3"),
        *("--augmentation", "none", "--patience", 1000, "--dropout", 0, "--cache", cache),
    )
    history = checkpoints.read(str(out / "last")).progress.history
    before = history[0]["stage_seconds"].get("features", 0.0)
    return Run(before + sum(epoch["seconds"] for epoch in history), [epoch["val_loss"] or 0.0 for epoch in history])


if __name__ == "__main__":
    main(tyro.cli(BenchConfig, description=__doc__))
