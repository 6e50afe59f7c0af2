"""Every recipe on one catalog, side by side: trains, scores, evaluates, and prints the table of docs/results.md.

python benchmarks/recipes.py --catalog runs/utk/catalog --out runs/recipes \
    --weights torchvision/mobilenet_v2=mobilenet_v2.pth torchvision/vgg16=vgg16.pth

Recipes that would take hours on two cores get a smaller budget, which the table names; ``--full`` gives them their own.
The same command goes on where it was stopped.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from agescale.config import TrainConfig
from agescale.models import checkpoints
from agescale.models.checkpoints import Epoch
from agescale.store import paths
from agescale.training import recipes
from agescale.training.finetuning import format_phases, parse_phases

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Budget:
    """Images, and phases in place of the recipe's own; what is None stays."""

    max_images: int | None = None
    phases: str | None = None


TWO_CORES = {
    "best": Budget(600, "head:1@1e-3,all:1@2e-4"),
    "resnet50-classes": Budget(400, "head:1@1e-3,last3:1@1e-5"),
    "cnn-128": Budget(4000, "all:5@1e-3"),
    "resnet50-two-phase": Budget(600, "head:2@1e-4,last1:1@1e-5"),
    "mobilenet-two-phase": Budget(4000, "head:4@1e-4,last2:2@1e-5"),
    "attention-cnn-160": Budget(1500, "all:3@1e-3"),
    "small-cnn": Budget(8000, "all:6@1e-3"),
    "skip-cnn-regression": Budget(600, "all:3@1e-3"),
    "autoencoder": Budget(2000, "all:2@1e-3"),
    "autoencoder-finetune": Budget(2000, "head:2@1e-3,all:2@1e-4"),
    "resnet50-regression-224": Budget(300, "all:2@1e-4"),
    "vgg16-25y": Budget(600, "head:2@1e-3"),
}
"""For all but ``fast``: some minutes each."""


@dataclass(frozen=True)
class Config:
    """Train, score and evaluate every recipe on one catalog."""

    catalog: str
    """Catalog with the splits train, val and test."""
    out: str
    """Folder of all runs."""
    weights: tuple[str, ...] = ()
    """ENCODER=FILE of initial weights, such as torchvision/vgg16=vgg16.pth. Encoders without one start from random."""
    recipes: tuple[str, ...] = tuple(name for name in recipes.RECIPES if name != "drawn")
    """Which recipes."""
    full: bool = False
    """Give every recipe its own budget."""


def main(config: Config) -> None:
    config = replace(config, catalog=paths.absolute(config.catalog), out=paths.absolute(config.out))
    weights = {encoder: paths.absolute(file) for encoder, _, file in (item.partition("=") for item in config.weights)}
    lines = [HEADER, *(measure(name, config, weights) for name in config.recipes)]
    baselines = next((line for line in (baseline(name, config) for name in config.recipes) if line), "")
    print("\n".join([f"\n{machine()}\n", *lines, baselines]))


HEADER = """| recipe | initial weights | images | phases | minutes | MAE | CS@5 | accuracy | macro F1 |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


def machine() -> str:
    info = Path("/proc/cpuinfo")
    models = [line.partition(": ")[2] for line in info.read_text().splitlines() if line.startswith("model name")]
    return f"{next(iter(models), platform.machine())}, {os.cpu_count()} cores, test split"


def measure(name: str, config: Config, weights: dict[str, str]) -> str:
    """One row of the table."""
    recipe = recipes.RECIPES[name].config
    out = f"{config.out}/{name}"
    source = f"{config.out}/autoencoder/run/best" if name == "autoencoder-finetune" else weights.get(recipe.encoder, "")
    budget = Budget() if config.full else TWO_CORES.get(name, Budget())
    planned = replace(recipe, max_images=budget.max_images, phases=budget.phases or recipe.phases, weights=source)
    run("train", name, "--catalog", config.catalog, "--out", f"{out}/run", *changes(planned))
    checkpoint = checkpoints.read(f"{out}/run/best")
    history = checkpoint.progress.history
    minutes = sum(entry["seconds"] for entry in history) / 60
    images = checkpoint.provenance["num_images"]["train"]
    initial = "autoencoder" if name == "autoencoder-finetune" else Path(source).name or "random"
    told = f"| {name} | {initial} | {images:,} | {done(planned.phases, history)} | {minutes:.1f} "
    if recipe.task == "reconstruction":
        return f"{told}| validation: squared error {checkpoint.progress.best_value:.3f} | | | |"
    scored = ("--catalog", config.catalog, "--checkpoint", f"{out}/run/best", "--split", "test")
    run("score", *scored, "--out", f"{out}/ages")
    run("evaluate", "--catalog", config.catalog, "--predictions", f"{out}/ages", "--out", f"{out}/report")
    test = judged(name, config)
    low, high = test["intervals"]["mae"]
    return (
        f"{told}| {test['mae']:.2f} ({low:.2f} to {high:.2f}) | {test['cs_at_5']:.1%} | {test['accuracy']:.1%} "
        f"| {test['macro_f1']:.3f} |"
    )


def judged(name: str, config: Config) -> dict[str, Any]:
    return dict(json.loads(Path(config.out, name, "report", "metrics.json").read_text())["test"])


def baseline(name: str, config: Config) -> str:
    """The last row: what needs no model at all, in the five 25-year groups."""
    recipe = recipes.RECIPES[name].config
    if recipe.task == "reconstruction" or recipe.age_groups not in (None, "25-years"):
        return ""
    constant = judged(name, config)["baselines"]
    median, majority = constant["median_age"], constant["majority_group"]
    return (
        f"| always the median age, the largest group | | | | | {median['mae']:.2f} | {median['cs_at_5']:.1%} "
        f"| {majority['accuracy']:.1%} | {majority['macro_f1']:.3f} |"
    )


def changes(planned: TrainConfig) -> list[str]:
    """The arguments that make ``planned`` of the recipe."""
    arguments = ["--weights", planned.weights, "--phases", planned.phases]
    return arguments + (["--max-images", str(planned.max_images)] if planned.max_images else [])


def done(phases: str, history: Sequence[Epoch]) -> str:
    """The phases with the epochs that they were given: one ends early when it brings nothing better."""
    epochs = Counter(entry["phase_index"] for entry in history)
    return format_phases(tuple(replace(p, epochs=epochs[i]) for i, p in enumerate(parse_phases(phases)) if epochs[i]))


def run(job: str, *arguments: str) -> None:
    subprocess.run([sys.executable, f"jobs/{job}.py", *arguments], cwd=ROOT, check=True)


if __name__ == "__main__":
    main(tyro.cli(Config))
