"""The worst MAE of an epoch is told by the parts that gaps are judged by."""

from __future__ import annotations

import doctest
import re

import numpy as np
import pyarrow as pa
import pytest
import torch

from agescale.ages import cdf, parts
from agescale.ages.groups import AgeGroups
from agescale.config import SweepConfig, TrainConfig
from agescale.models.tasks import build_task
from agescale.training import validation
from agescale.training.cells import cells_of

GROUPS = AgeGroups.parse("25-years")


def rows_of(*lots: tuple[int, float, str | None, str | None], persons: int | None = None) -> pa.Table:
    """Faces of (how many, age, gender, ethnicity); of so many persons, where that is told."""
    each = [lot for num, *lot in lots for _ in range(num)]
    ages, genders, ethnicities = zip(*each, strict=True)
    low = np.array(ages, np.float32)
    subjects = [None if persons is None else f"{index % persons}" for index in range(len(each))]
    return pa.table({
        "age_low": low, "age_high": low + 1, "gender": pa.array(genders, pa.string()),
        "ethnicity": pa.array(ethnicities, pa.string()), "subject": pa.array(subjects, pa.string()),
        "catalog": np.zeros(len(each), np.int16), "group": pa.nulls(len(each), pa.string()),
    })  # fmt: skip


ROWS = rows_of((30, 12, "female", "a"), (25, 32, "female", "b"), (25, 12, "male", "b"), (5, 52, "male", "c"))


def worst(rows: pa.Table, worst_of: str) -> float | None:
    """Where all are told to be 10."""
    cell_N, cells = cells_of(rows, GROUPS, worst_of)
    probs_NA = torch.full((len(rows), 101), -20.0)
    probs_NA[:, 10] = 20
    batch = {name: torch.from_numpy(rows[name].to_numpy().copy()) for name in ("age_low", "age_high")}
    batch |= {"cell": torch.from_numpy(cell_N), "group": torch.zeros(len(rows), dtype=torch.long)}
    judged = validation.judge(build_task("distribution", GROUPS), GROUPS, cells.num, probs_NA, batch)
    return validation.summarise(torch.tensor([[1.0, 1.0, *judged]]), cells.parts)["val_worst_group_mae"]


def test_the_worked_examples_hold() -> None:
    found = doctest.testmod(parts)
    assert (found.failed, found.attempted) == (0, 6)


@pytest.mark.parametrize(
    ("worst_of", "mae"),
    [
        ("", 22),  # those of 25 to 49
        ("gender", (30 * 2 + 25 * 22) / 55),
        ("ethnicity", (25 * 22 + 25 * 2) / 50),
        ("gender,ethnicity", (25 * 22 + 25 * 2) / 50),
        ("decade", 22),
        ("gender+ethnicity,gender", 22),
    ],
)
def test_the_worst_part_is_that_of_all_kinds_with_enough_faces(worst_of: str, mae: float) -> None:
    told = cdf.point_estimate(cdf.quantize(np.eye(101)[10:11]), "mean")[0]
    assert worst(ROWS, worst_of) == pytest.approx(mae + 10 - told, abs=0.01)


@pytest.mark.parametrize(
    ("rows", "worst_of", "message"),
    [
        (rows_of((30, 12, None, "a")), "ethnicity,gender", r"by gender has 20 persons .*\(no label tells any\); leave"),
        (rows_of((19, 12, "male", "a")), "gender", r"--worst-of gender: .* \(male has most, 19\)"),
        (rows_of((60, 12, "male", "a"), persons=19), "gender", r"\(male has most, 19\)"),
        (rows_of((10, 12, "male", "a"), (19, 32, "male", "a")), "gender+decade", r"\(male 30-39 has most, 19\)"),
    ],
)
def test_a_kind_that_nobody_can_judge_is_refused(rows: pa.Table, worst_of: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        cells_of(rows, GROUPS, worst_of)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("worst_of", ["gendr", "gender+gender", "gender,", "gender decade"])
def test_what_is_no_part_is_refused(worst_of: str) -> None:
    for settings in (lambda: TrainConfig(worst_of=worst_of), lambda: SweepConfig("in", "out", worst_of=worst_of)):
        with pytest.raises(ValueError, match=f"^--worst-of {re.escape(worst_of)}: PART,..., such as gender,ethnicity"):
            settings()
