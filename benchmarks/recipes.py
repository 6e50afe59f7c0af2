"""Every recipe on one catalog, side by side: trains, scores, evaluates, and prints the table of README.md.

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
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from agescale import checkpoints, recipes, storage
from agescale.config import TrainConfig
from agescale.finetuning import cap_epochs, format_phases, parse_phases

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Budget:
    """Images, and phases in place of the recipe's own; what is None stays."""

    max_images: int | None = None
    phases: str | None = None


TWO_CORES = {
    "best": Budget(1500, "head:1@1e-3,all:1@2e-4"),
    "resnet50-classes": Budget(1000, "head:2@1e-3,last3:2@1e-5"),
    "cnn-128": Budget(6000, "all:6@1e-3"),
    "resnet50-two-phase": Budget(3000, "head:3@1e-4,last1:2@1e-5"),
    "mobilenet-two-phase": Budget(6000, "head:5@1e-4,last2:3@1e-5"),
    "attention-cnn-160": Budget(4000, "all:6@1e-3"),
    "small-cnn": Budget(6000, "all:8@1e-3"),
    "skip-cnn-regression": Budget(4000, "all:5@1e-3"),
    "autoencoder": Budget(6000, "all:3@1e-3"),
    "autoencoder-finetune": Budget(6000, "head:3@1e-3,all:4@1e-4"),
    "resnet50-regression-224": Budget(800, "all:2@1e-4"),
    "vgg16-25y": Budget(3000, "head:5@1e-3"),
}
"""For recipes whose own budget is more than about ten minutes of two cores."""


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
    config = replace(config, catalog=storage.absolute(config.catalog), out=storage.absolute(config.out))
    weights = {encoder: storage.absolute(file) for encoder, _, file in (item.partition("=") for item in config.weights)}
    rows = []
    for name in config.recipes:
        rows.append(measure(name, config, weights))
        print(rows[-1], flush=True)
    print(f"\n{platform.processor() or platform.machine()}, {os.cpu_count()} cores\n")
    print("| recipe | initial weights | images | phases | minutes | MAE | CS@5 | accuracy | macro F1 |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    print("\n".join(rows))


def measure(name: str, config: Config, weights: dict[str, str]) -> str:
    """One row of the table."""
    recipe = recipes.RECIPES[name]
    out = f"{config.out}/{name}"
    source = f"{config.out}/autoencoder/best" if name == "autoencoder-finetune" else weights.get(recipe.encoder, "")
    budget = Budget() if config.full else TWO_CORES.get(name, Budget())
    planned = replace(recipe, max_images=budget.max_images, phases=budget.phases or recipe.phases, weights=source)
    run("train", name, "--catalog", config.catalog, "--out", f"{out}/run", *changes(planned))
    checkpoint = checkpoints.read(f"{out}/run/best")
    history = checkpoint.progress.history
    minutes = sum(entry["seconds"] for entry in history) / 60
    images = checkpoint.provenance["num_images"]["train"]
    told = f"| {name} | {Path(source).name or 'random'} | {images:,} | {done(planned, len(history))} | {minutes:.1f} "
    if recipe.task == "reconstruction":
        return f"{told}| squared error {checkpoint.progress.best_value:.3f} of 1 | | | |"
    run("score", "--catalog", config.catalog, "--checkpoint", f"{out}/run/best", "--out", f"{out}/ages")
    run("evaluate", "--catalog", config.catalog, "--predictions", f"{out}/ages", "--out", f"{out}/report")
    test = json.loads(Path(out, "report", "metrics.json").read_text())["test"]
    low, high = test["intervals"]["mae"]
    return (
        f"{told}| {test['mae']:.2f} ({low:.2f} to {high:.2f}) | {test['cs_at_5']:.1%} | {test['accuracy']:.1%} "
        f"| {test['macro_f1']:.3f} |"
    )


def changes(planned: TrainConfig) -> list[str]:
    """The arguments that make ``planned`` of the recipe."""
    arguments = ["--weights", planned.weights, "--phases", planned.phases]
    return arguments + (["--max-images", str(planned.max_images)] if planned.max_images else [])


def done(planned: TrainConfig, num_epochs: int) -> str:
    return format_phases(cap_epochs(parse_phases(planned.phases), num_epochs))


def run(job: str, *arguments: str) -> None:
    subprocess.run([sys.executable, f"jobs/{job}.py", *arguments], cwd=ROOT, check=True)


if __name__ == "__main__":
    main(tyro.cli(Config))
