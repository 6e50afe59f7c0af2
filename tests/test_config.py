"""Settings say what is wrong with them, in the same line in Python and on the command line."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from typing import Any

import pytest
from conftest import REPO

from agescale import config as settings
from agescale.config import (
    CatalogConfig,
    Checked,
    CompactConfig,
    DrawConfig,
    GateConfig,
    RegroupConfig,
    ScoreConfig,
    SweepConfig,
    TrainConfig,
)

GATE = {"catalog": "c", "predictions": "p", "out": "o"}
MISTAKES: list[tuple[type[Checked], dict[str, Any], str]] = [
    (TrainConfig, {"dropout": 1.5}, "--dropout 1.5: a share from 0 to 1"),
    (TrainConfig, {"center_crop": 0.0}, "--center-crop 0.0: a share above 0, at most 1"),
    (TrainConfig, {"mixup": -0.2}, "--mixup -0.2: at least 0"),
    (TrainConfig, {"max_images": 0}, "--max-images 0: at least 1"),
    (TrainConfig, {"widths": (8, 0)}, "--widths 8 0: at least 1"),
    (TrainConfig, {"head_sizes": (0,)}, "--head-sizes 0: at least 1"),
    (TrainConfig, {"spatial_dropout": 1.0}, "--spatial-dropout 1.0: at least 0 and below 1"),
    (TrainConfig, {"weight_decay": float("nan")}, "--weight-decay nan: a finite number"),
    (TrainConfig, {"task": "age"}, "--task age: one of classification, regression, distribution, ordinal, "
                                   "reconstruction"),
    (SweepConfig, {"catalog": "c", "out": "o", "hours": 0.0}, "--hours 0.0: more than 0"),
    (SweepConfig, {"catalog": "c", "out": "o", "reduction_factor": 1.0}, "--reduction-factor 1.0: more than 1"),
    (SweepConfig, {"catalog": "c", "out": "o", "weights": ("vgg16.pth",)},
     "--weights vgg16.pth: ENCODER=SOURCE, such as torchvision/vgg16=vgg16.pth"),
    (ScoreConfig, {"catalog": "c", "checkpoint": "m", "out": "o", "unit_rows": 20_000},
     "--unit-rows 20000: from 1 to 10,000"),
    (CatalogConfig, {"source": "s", "out": "o", "max_deleted_fraction": 1.1},
     "--max-deleted-fraction 1.1: a share from 0 to 1"),
    (CatalogConfig, {"source": "s", "out": "o", "layout": "csv"}, "--csv and --layout csv go together"),
    (RegroupConfig, {"predictions": "p", "out": "o"}, "--age-groups or --gate: one of them is needed"),
    (CompactConfig, {"catalog": "c", "out": "o", "predictions": "p"},
     "--predictions and --out-predictions go together"),
    (DrawConfig, {"out": "o", "num_broken": -1}, "--num-broken -1: at least 0"),
    (GateConfig, GATE | {"max_false_positive_rate": 1.0}, "--max-false-positive-rate 1.0: a share above 0 and below 1"),
    (GateConfig, GATE | {"confidence": 0.0}, "--confidence 0.0: a share above 0 and below 1"),
    (GateConfig, GATE | {"age": 60}, "--age 60: whole years from 1 to 59"),
    (GateConfig, GATE | {"by": "group"}, "--by group: one of age, probability"),
    (GateConfig, GATE | {"band": (14, 18)}, "--band 14 18: the first and the last year of it, both below --age 18"),
    (GateConfig, GATE | {"band": (17, 14)}, "--band 17 14: the first and the last year of it, both below --age 18"),
    (GateConfig, GATE | {"band": (14,)}, "--band 14: the first and the last year of it, both below --age 18"),
]  # fmt: skip
JOBS = {
    TrainConfig: "train", SweepConfig: "sweep", ScoreConfig: "score", CatalogConfig: "catalog",
    CompactConfig: "compact", DrawConfig: "draw", GateConfig: "gate", RegroupConfig: "regroup",
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "values", "line"), MISTAKES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_mistake_is_one_line(kind: type[Checked], values: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        kind(**values)


@pytest.mark.parametrize("index", [0, 4, 8, 12, 22])
def test_the_command_line_says_the_same(index: int) -> None:
    kind, values, line = MISTAKES[index]
    arguments = [
        part
        for name, value in values.items()
        for part in (settings.option_of(name), *map(str, value if isinstance(value, tuple) else (value,)))
    ]
    done = subprocess.run(
        [sys.executable, f"jobs/{JOBS[kind]}.py", *arguments], cwd=REPO, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {line}\n")


def test_what_is_not_given_is_no_mistake() -> None:
    TrainConfig(max_images=None, head_weight_decay=None, widths=())
    assert TrainConfig(age_groups="") == TrainConfig(age_groups=None)
    assert [GateConfig(**GATE, age=age).minors for age in (18, 21, 2)] == [(14, 17), (17, 20), (0, 1)]
    assert doctest.testmod(settings).failed == 0
