"""Settings that decide are told from those that do not, also where points have settings of their own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from agescale.sweeping.importance import importances


def points(num: int) -> tuple[list[dict[str, Any]], list[float]]:
    """Two architectures, one with a dropout that makes no difference; the task decides most, then the learning rate."""
    rng = np.random.default_rng(0)
    settings, values = [], []
    for _ in range(num):
        point = {"encoder": str(rng.choice(["cnn", "resnet18"])), "lr": 10 ** rng.uniform(-4, -2), "size": 64}
        point |= {"task": str(rng.choice(["ordinal", "regression"])), "widths": [[32], [64]][int(rng.integers(2))]}
        if point["encoder"] == "cnn":
            point["dropout"] = float(rng.choice([0.0, 0.5]))
        settings.append(point)
        values.append(5 + 2 * (point["task"] == "regression") + abs(math.log10(point["lr"]) + 3) + rng.normal(0, 0.1))
    return settings, values


def test_what_decides_comes_first_and_shares_sum_to_one() -> None:
    shares = importances(*points(60))
    assert [name for name, _ in shares[:2]] == ["task", "lr"]
    assert sum(share for _, share in shares) == pytest.approx(1)
    assert {name for name, _ in shares} == {"task", "lr", "encoder", "widths", "dropout"}
    assert all(share < 0.05 for name, share in shares if name not in ("task", "lr"))


def test_the_same_seed_gives_the_same_shares() -> None:
    assert importances(*points(20), seed=1) == importances(*points(20), seed=1)


def test_one_training_that_went_astray_changes_little() -> None:
    settings, values = points(60)
    before, after = (dict(importances(settings, [*values[:-1], last])) for last in (9.0, 1e6))
    assert before == after


def test_a_setting_is_not_important_because_only_bad_architectures_have_it() -> None:
    settings, values = points(60)
    worse = [value + 5 * ("dropout" in point) for point, value in zip(settings, values, strict=True)]
    shares = dict(importances(settings, worse))
    assert shares["encoder"] > 0.3
    assert shares["dropout"] < 0.05


def test_nothing_is_said_where_nothing_can_be_told() -> None:
    settings, values = points(40)
    assert importances(settings[:7], values[:7]) == []
    assert importances(settings, [5.0] * 40) == []
    assert importances([{"task": "ordinal"}] * 40, values) == []
    assert importances([{"task": "ordinal"}, {"task": "ordinal", "mixup": 0.1}] * 20, values) == []
    assert importances([{"lr": 0.1}, {"lr": 0.2}] * 20, [value for value in values[:20] for _ in "ab"]) == []
    assert importances([], []) == []
