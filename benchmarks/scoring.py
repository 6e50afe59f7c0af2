"""Scoring a folder of faces: jobs/score.py against scoring_by_hand.py, same images, same network, in turn; ratios.

    python benchmarks/scoring.py --num-faces 4000 --repetitions 2

Whole processes are timed, start-up included, on drawn faces and random weights (speed does not depend on either).
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import nn
from torchvision.models import mobilenet_v2

from agescale import checkpoints, synthetic
from agescale.age_model import AgeModel, ModelSpec

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class BenchConfig:
    num_faces: int = 4000
    """Drawn faces to score."""
    image_size: int = 224
    """Side that the network looks at, pixels."""
    repetitions: int = 2
    """Runs of each, in turn."""


def run(*command: object) -> float:
    started = time.monotonic()
    subprocess.run([sys.executable, *map(str, command)], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def main(config: BenchConfig) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        num_faces = synthetic.write_dataset(folder / "faces", "unlabelled", config.num_faces, size=200, num_broken=0)
        spec = ModelSpec("torchvision/mobilenet_v2", "distribution", "25-years", config.image_size)
        checkpoints.save(str(folder / "checkpoint"), spec, AgeModel(spec).state_dict(), checkpoints.Progress(), {})
        network = mobilenet_v2()
        network.classifier = nn.Linear(1280, 101)
        torch.save(network.state_dict(), folder / "weights.pt")
        run("jobs/catalog.py", "--source", folder / "faces", "--out", folder / "catalog")

        seconds: dict[str, list[float]] = {"by hand": [], "agescale": []}
        for _ in range(config.repetitions):
            by_hand = (
                "benchmarks/scoring_by_hand.py",
                folder / "faces",
                folder / "weights.pt",
                folder / "ages.parquet",
            )
            seconds["by hand"].append(run(*by_hand, config.image_size))
            ours = ("--catalog", folder / "catalog", "--checkpoint", folder / "checkpoint", "--out", folder / "ages")
            seconds["agescale"].append(run("jobs/score.py", *ours))
            shutil.rmtree(folder / "ages")
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        for name, values in seconds.items():
            runs = ", ".join(f"{value:.1f} s" for value in values)
            print(f"{name}: {num_faces / medians[name]:.1f} images/s over the whole job (runs of {runs})")
        ratio = medians["by hand"] / medians["agescale"]
        print(f"agescale is {ratio:.2f} times as fast: mobilenet_v2, {config.image_size} px, CPU, start-up included")


if __name__ == "__main__":
    main(tyro.cli(BenchConfig))
