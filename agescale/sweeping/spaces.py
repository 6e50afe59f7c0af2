"""What a sweep may try: a list of alternatives, each a dict from settings of training to the values they may have.

A setting's values are a list, or of scipy.stats ``uniform``, ``loguniform(1e-4, 1e-2)`` or ``randint``.
A list of dicts is what scikit-learn's ParameterGrid and ParameterSampler take, and what makes a space conditional: each
alternative has settings of its own. Beside the fields of TrainConfig there is ``lr``: ``phases`` is then a template in
which ``{lr}`` is that rate, and ``{epochs}`` what the other phases leave of a trial's epochs.

In: a space's name or file. Out: points (one value a setting), and the TrainConfig that a point is. Runs nothing.
"""

from __future__ import annotations

import math
import runpy
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from scipy.stats import loguniform

from agescale.config import EXECUTION_FIELDS, TrainConfig, option_of
from agescale.runtime import terminal

if TYPE_CHECKING:  # these take seconds, which the table of spaces in --help need not wait
    import optuna

Alternative = dict[str, Any]
"""The values that settings may have, by name."""
Space = list[Alternative]
Point = dict[str, Any]
"""A value for each setting of one alternative; which they are, the user's own space says."""

FROM_SCRATCH = "all:{epochs}@{lr}"
HEAD_FIRST = "head:1@1e-3,all:{epochs}@{lr}"
RATES = f"'phases': ['{FROM_SCRATCH}'], 'lr': [1e-3, 3e-4]"
"""How a space of learning rates is written."""

QUICK: Space = [
    {
        "encoder": ["cnn"],
        "image_size": [48, 64],
        "task": ["distribution", "regression"],
        "phases": [FROM_SCRATCH],
        "lr": loguniform(1e-4, 1e-2),
        "augmentation": ["none", "light"],
    }
]

ARCHITECTURES: Space = [
    {
        "encoder": [f"torchvision/{name}" for name in ("mobilenet_v2", "squeezenet1_0", "resnet18", "resnet50")],
        "task": ["distribution", "ordinal", "regression"],
        "image_size": [112],
        "phases": [HEAD_FIRST],
        "lr": loguniform(1e-4, 2e-3),
        "augmentation": ["light"],
    },
    {
        "encoder": ["cnn", "skip_cnn", "attention_cnn"],
        "task": ["distribution", "ordinal", "regression"],
        "image_size": [64],
        "phases": [FROM_SCRATCH],
        "lr": loguniform(3e-4, 3e-3),
        "augmentation": ["light"],
    },
]

FULL: Space = [
    *(
        alternative
        | {
            "dropout": [0.0, 0.2, 0.5],
            "augmentation": ["none", "light", "heavy"],
            "mixup": [0.0, 0.2],
            "weighting": ["none", "density"],
            "weight_decay": loguniform(1e-3, 1e-1),
        }
        for alternative in ARCHITECTURES
    ),
    {
        "encoder": ["torchvision/vit_b_16", "torchvision/swin_t", "torchvision/convnext_tiny"],
        "task": ["distribution", "ordinal"],
        "image_size": [224],
        "phases": ["head:1@1e-3,last4:{epochs}@{lr}", HEAD_FIRST],
        "lr": loguniform(1e-5, 3e-4),
        "augmentation": ["light", "heavy"],
    },
]


@dataclass(frozen=True)
class NamedSpace:
    space: Space
    purpose: str


SPACES: dict[str, NamedSpace] = {
    "quick": NamedSpace(QUICK, "a small CNN from scratch, for drawn faces: minutes on a laptop"),
    "architectures": NamedSpace(
        ARCHITECTURES, "networks with initial weights of their own, networks from scratch, three tasks"
    ),
    "full": NamedSpace(FULL, "everything that changes what is learned; for GPUs"),
}


def print_spaces() -> None:
    """The spaces as a table, for ``--help``."""
    print("\nSpaces, for --space:")
    rows = []
    for name, named in SPACES.items():
        encoders = dict.fromkeys(encoder for each in named.space for encoder in each["encoder"])
        sizes = sorted({size for each in named.space for size in each["image_size"]})
        settings = dict.fromkeys(setting for each in named.space for setting in each)
        varied = [each for each in settings if each not in ("encoder", "image_size")]
        rows.append([name, f"{len(encoders)}", ", ".join(map(str, sizes)), f"{named.purpose} ({', '.join(varied)})"])
    terminal.print_table(["space", "encoders", "pixels", "for (and the settings that it varies besides)"], rows)


DISTRIBUTIONS = ("uniform", "loguniform", "reciprocal", "randint")
"""Of scipy.stats, those that every searcher can draw from; reciprocal is another name of loguniform."""

FIXED_FIELDS = {*EXECUTION_FIELDS, "catalog", "where", "max_images", "coarse_labels", "gender_from", "age_groups"}
FIXED_FIELDS |= {"mix", "auxiliary", "center_crop", "faces", "epochs", "refit"}
"""Fields that a space may not name: trials that see or learn something else cannot be compared."""


def load(name: str) -> Space:
    """The space of that name, or the SPACE of that Python file. Raises ValueError for anything else."""
    if name in SPACES:
        return SPACES[name].space
    if not name.endswith(".py"):
        raise ValueError(f"--space {name}: none of {', '.join(SPACES)}, and no Python file")
    if not Path(name).is_file():
        raise ValueError(f"--space {name}: no such file")
    try:
        space = runpy.run_path(name).get("SPACE")
    except Exception as error:  # whatever the user's own file raises
        raise ValueError(f"--space {name}: {type(error).__name__}: {error}") from error
    check(space, name)
    return cast(Space, space)


def check(space: Any, name: str) -> None:
    """Raises ValueError, in one line, where it is no list of dicts from settings to values."""
    if not (isinstance(space, list) and space and all(isinstance(each, dict) and each for each in space)):
        raise ValueError(f"--space {name}: SPACE is a list of dicts, from settings to the values they may have")
    known = {field.name for field in fields(TrainConfig)} - FIXED_FIELDS | {"lr"}
    for alternative in space:
        for setting, values in alternative.items():
            if setting not in known:
                why = "the same for all trials" if setting in FIXED_FIELDS else "no setting of training"
                hint = f"; rates are {RATES}" if "rate" in setting or "lr" in setting else ""
                raise ValueError(f"--space {name}: {setting!r} is {why}{hint}")
            if not (isinstance(values, list) and values) and not is_distribution(values):
                raise ValueError(
                    f"--space {name}: {setting}: {values!r} is neither a list nor a scipy.stats distribution"
                )
            if is_distribution(values) and values.dist.name not in DISTRIBUTIONS:
                known_ones = ", ".join(DISTRIBUTIONS)
                raise ValueError(f"--space {name}: {setting}: {values.dist.name} is none of {known_ones}")
            if is_distribution(values) and not all(map(math.isfinite, values.support())):
                raise ValueError(f"--space {name}: {setting}: a distribution with two ends is needed")
        if "lr" in alternative and not all("{lr}" in text for text in alternative.get("phases", [""])):
            raise ValueError(f"--space {name}: lr needs phases that contain {{lr}}, such as {RATES}")


def is_distribution(values: Any) -> bool:
    """Whether a setting's values are one of scipy.stats' distributions, and not a list."""
    return hasattr(values, "rvs")


def _ends(values: Any) -> tuple[float, float]:
    """The smallest and the largest value of a distribution."""
    low, high = values.support()
    return (int(low), int(high)) if values.dist.name == "randint" else (float(low), float(high))


def describe(space: Space) -> list[Alternative]:
    """A space as JSON, its distributions by name and arguments: two that say the same are the same.

    >>> describe([{"encoder": ["cnn"], "lr": loguniform(1e-4, 1e-2)}])
    [{'encoder': ['cnn'], 'lr': 'loguniform(0.0001, 0.01)'}]
    """
    return [
        {k: f"{v.dist.name}{(*v.args, *v.kwds.values())}" if is_distribution(v) else v for k, v in alternative.items()}
        for alternative in space
    ]


def grid(space: Space, seed: int) -> list[Point]:
    """Every point of a space without distributions, in an order drawn by ``seed``, so that the first of them, which may
    be all that a budget allows, and by which a scheduler judges the others, come from everywhere in the space."""
    for alternative in space:
        for setting, values in alternative.items():
            if is_distribution(values):
                raise ValueError(f"--searcher grid: {setting} has a distribution; give a list of values")
    from sklearn.model_selection import ParameterGrid

    points = ParameterGrid(space)
    return [_plain(points[index]) for index in np.random.default_rng(seed).permutation(len(points))]


def sample(space: Space, num: int, seed: int) -> list[Point]:
    """``num`` random points, each alternative as likely as the others; fewer, where the space has no more."""
    from sklearn.model_selection import ParameterGrid, ParameterSampler

    if not any(is_distribution(values) for alternative in space for values in alternative.values()):
        num = min(num, len(ParameterGrid(space)))
    return [_plain(point) for point in ParameterSampler(space, num, random_state=seed)]


def suggest(space: Space, trial: optuna.Trial) -> Point:
    """A point of Optuna's choice. Values are named after their alternative, whose settings belong to it alone."""
    number = trial.suggest_categorical("alternative", list(range(len(space)))) if len(space) > 1 else 0
    point: Point = {}
    for setting, values in space[number].items():
        name = f"{number}.{setting}"
        if is_distribution(values):
            low, high = _ends(values)
            if values.dist.name == "randint":
                point[setting] = trial.suggest_int(name, int(low), int(high))
            else:
                point[setting] = trial.suggest_float(name, low, high, log=values.dist.name != "uniform")
        else:
            point[setting] = values[trial.suggest_categorical(name, list(range(len(values))))]
    return _plain(point)


def to_config(base: TrainConfig, point: Point, epochs: int) -> TrainConfig:
    """The training that a point stands for, of ``epochs`` at most.

    >>> to_config(TrainConfig(), {"phases": "head:1@1e-3,all:{epochs}@{lr}", "lr": 5e-4}, epochs=10).phases
    'head:1@0.001,all:9@0.0005'
    """
    from agescale.training.finetuning import cap_epochs, format_phases, parse_phases  # imports torch

    settings: Point = {name: tuple(value) if isinstance(value, list) else value for name, value in point.items()}
    text = str(settings.get("phases", base.phases)).replace("{lr}", repr(settings.pop("lr", None)))
    if "{epochs}" in text:
        fixed = sum(phase.epochs for phase in parse_phases(text.replace("{epochs}", "1"))) - text.count("{epochs}")
        text = text.replace("{epochs}", str(max(1, (epochs - fixed) // text.count("{epochs}"))))
    settings["phases"] = format_phases(cap_epochs(parse_phases(text), epochs))
    return replace(base, **settings)


def to_arguments(config: TrainConfig) -> list[str]:
    """The command line of jobs/train.py that says what ``config`` says.

    >>> to_arguments(TrainConfig(encoder="cnn", widths=(16, 32), phases="all:2@1e-3"))
    ['--widths', '16', '32', '--phases', 'all:2@1e-3']
    >>> to_arguments(TrainConfig(refit=True, lease=False))
    ['--refit', '--no-lease']
    """
    default, arguments = TrainConfig(), []
    for field in fields(TrainConfig):
        value = getattr(config, field.name)
        if value == getattr(default, field.name):
            continue
        if isinstance(value, bool):
            arguments.append(f"--{'' if value else 'no-'}{field.name.replace('_', '-')}")
        else:
            values = value if isinstance(value, tuple) else (value,)
            arguments += [option_of(field.name), *map(str, values)]
    return arguments


def examples(space: Space) -> Iterator[Point]:
    """Points that together name every value of every list, and both ends of every distribution: what to check."""
    for alternative in space:
        ends = {k: list(_ends(v)) if is_distribution(v) else v for k, v in alternative.items()}
        first = {setting: values[0] for setting, values in ends.items()}
        for setting, values in ends.items():
            for value in values:
                yield _plain({**first, setting: value})


def _plain(point: Point) -> Point:
    """A point of Python's own numbers, with three digits: it stands in file names' JSON and on command lines."""
    plain = {k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in sorted(point.items())}
    return {k: int(v) if isinstance(v, Integral) and not isinstance(v, bool) else v for k, v in plain.items()}
