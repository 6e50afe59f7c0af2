"""Named, runnable configurations: ``python jobs/train.py NAME --catalog ... --out ...``; any setting can be changed.

Each tells where it comes from and what it is expected to reach; README.md has the measured table.
"""

from __future__ import annotations

from agescale.config import TrainConfig

DRAWN = TrainConfig(
    encoder="cnn", image_size=64, phases="all:20@1e-3", batch_size=64, augmentation="light", ema_decay=0.99
)
"""A small CNN from scratch, for drawn faces: about a minute on two cores. The one of ``make demo``."""

FAST = TrainConfig(
    encoder="torchvision/mobilenet_v2",
    weights="IMAGENET1K_V1",
    image_size=112,
    phases="head:1@1e-3,all:12@5e-4",
    batch_size=64,
    augmentation="light",
    ema_decay=0.998,
)
"""MobileNetV2 from ImageNet at 112 px, DLDL-v2 over ages 0..100+: a laptop's hour for 15,000 faces."""

RECIPES: dict[str, TrainConfig] = {"drawn": DRAWN, "fast": FAST}


def describe() -> str:
    """The recipes for ``--help``: names, and what each changes."""
    default = TrainConfig()
    lines = []
    for name, recipe in RECIPES.items():
        changes = [f"{key} {value}" for key, value in vars(recipe).items() if value != getattr(default, key)]
        lines.append(f"{name}: {', '.join(changes)}")
    return "Recipes, to be named first: " + "; ".join(lines)


def take_name(arguments: list[str]) -> str | None:
    """Removes a recipe's name from the front of a command line (the program's name stays) and returns it."""
    if len(arguments) > 1 and not arguments[1].startswith("-"):
        if arguments[1] not in RECIPES:
            raise SystemExit(f"error: no recipe is called {arguments[1]!r}; there are {', '.join(RECIPES)}")
        return arguments.pop(1)
    return None
