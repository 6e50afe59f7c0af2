"""What is measured after each epoch adds up over batches, and the best way to tell one age is found."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import torch

from agescale.ages import cdf
from agescale.ages.groups import AgeGroups
from agescale.models.tasks import build_task
from agescale.training import validation

GROUPS = AgeGroups.parse("25-years")
NUM = len(GROUPS)
PARTS = [[group] for group in range(NUM)]


def labels_of(ages: list[float], width: float = 1) -> dict[str, torch.Tensor]:
    low = torch.tensor(ages)
    return {"age_low": low, "age_high": low + width, "group": (low // 25).long(), "cell": (low // 25).long()}


def test_the_worked_example_holds() -> None:
    assert doctest.testmod(validation).failed == 0
    assert doctest.testmod(validation).attempted > 0


def test_sums_of_batches_are_the_sums_of_the_whole() -> None:
    task, outputs = build_task("distribution", GROUPS), torch.randn(6, 101)
    labels = labels_of([1, 20, 34, 50, 77, 90])
    whole = validation.judge(task, GROUPS, NUM, outputs, labels)
    parts = [
        validation.judge(task, GROUPS, NUM, outputs[rows], {k: v[rows] for k, v in labels.items()})
        for rows in (slice(0, 2), slice(2, 6))
    ]
    np.testing.assert_allclose(whole, np.sum(parts, axis=0))


def test_ages_are_judged_as_they_will_be_scored() -> None:
    task, outputs = build_task("distribution", GROUPS), torch.randn(3, 101)
    judged = validation.judge(task, GROUPS, NUM, outputs, labels_of([10, 40, 70]))
    assert len(judged) + 2 == validation.num_sums(NUM)
    num_groups, _, num_exact, *errors = judged[: 3 + len(validation.RULES)]
    assert (num_exact, num_groups) == (3, 3)
    cdf_NA = cdf.quantize(outputs.softmax(1).numpy())
    for rule, error in zip(validation.RULES, errors, strict=True):
        assert error == pytest.approx(np.abs(cdf.point_estimate(cdf_NA, rule) - [10, 40, 70]).sum())


def test_the_rule_with_the_smallest_error_is_kept() -> None:
    """Half of the mass at 10, the rest far to the right: the mode is 10, the median and mean are not."""
    probs_NA = torch.full((1, 101), 1e-9)
    probs_NA[0, 10], probs_NA[0, 40:90] = 0.4, 0.6 / 50
    judged = validation.judge(build_task("distribution", GROUPS), GROUPS, NUM, probs_NA.log(), labels_of([10]))
    metrics = validation.summarise(torch.tensor([[2.0, 1.0, *judged]]), PARTS)
    assert metrics["decode"] == "mode"
    assert metrics["val_mae"] == 0


def test_the_worst_group_is_the_one_with_the_largest_error_of_those_with_enough_faces() -> None:
    """All are told to be 10: 30 children of 12, 25 adults of 30, and one of 70, who is too few."""
    outputs = torch.full((56, 101), -20.0)
    outputs[:, 10] = 20
    labels = labels_of([12.0] * 30 + [30.0] * 25 + [70.0])
    judged = validation.judge(build_task("distribution", GROUPS), GROUPS, NUM, outputs, labels)
    metrics = validation.summarise(torch.tensor([[56.0, 56.0, *judged]]), PARTS)
    assert metrics["val_worst_group_mae"] == pytest.approx(20, abs=0.6)
    assert metrics["val_mae"] == pytest.approx((30 * 2 + 25 * 20 + 60) / 56, abs=0.6)


def test_a_small_catalog_counts_as_much_as_its_share_says() -> None:
    """Forty faces that are told right, and ten that are 8 years older than told."""
    outputs = torch.full((1, 101), -20.0)
    outputs[:, 10] = 20
    rows = [
        [1.0, num, *validation.judge(build_task("distribution", GROUPS), GROUPS, NUM, outputs.expand(num, -1), labels)]
        for num, labels in ((40, labels_of([10.0] * 40)), (10, labels_of([18.0] * 10)))
    ]
    right, wrong = (validation.summarise(torch.tensor([row]), PARTS) for row in rows)
    plain = validation.summarise(torch.tensor(rows), PARTS)
    assert plain["val_mae"] == pytest.approx(1.6)
    assert plain["mae_by_catalog"] == [right["val_mae"], wrong["val_mae"]] == pytest.approx([0, 8])
    for mix in ((0.5, 0.5), (2, 2)):
        mixed = validation.summarise(torch.tensor(rows), PARTS, mix)
        assert mixed["val_mae"] == mixed["val_worst_group_mae"] == pytest.approx(4)
        assert mixed["val_loss"] == pytest.approx((1 / 40 + 1 / 10) / 2)
        assert mixed["mae_by_catalog"] == plain["mae_by_catalog"]
    nothing = torch.zeros((2, validation.num_sums(NUM)))
    nothing[0] = torch.tensor(rows[0])
    alone = validation.summarise(nothing, PARTS, (1, 9))
    assert alone == {**right, "mae_by_catalog": [right["val_mae"], None]}
    nothing[:, 0] = torch.inf
    assert validation.summarise(nothing, PARTS, (1, 9))["val_loss"] == torch.inf


def test_ranges_are_judged_by_their_group_alone() -> None:
    outputs = torch.randn(2, 101)
    judged = validation.judge(build_task("distribution", GROUPS), GROUPS, NUM, outputs, labels_of([25, 50], width=25))
    metrics = validation.summarise(torch.tensor([[2.0, 2.0, *judged]]), PARTS)
    assert metrics["val_mae"] is None
    assert metrics["val_accuracy"] is not None


def test_groups_with_names_only_have_an_accuracy_and_no_error() -> None:
    groups = AgeGroups.parse("YOUNG,OLD")
    task = build_task("classification", groups)
    labels = {"age_low": torch.full((3,), torch.nan), "age_high": torch.full((3,), torch.nan)}
    judged = validation.judge(
        task, groups, 2, torch.tensor([[1.0, 0], [0, 1.0], [1.0, 0]]), {**labels, "group": torch.tensor([0, 0, -1])}
    )
    metrics = validation.summarise(torch.tensor([[2.0, 2.0, *judged]]), PARTS[:2])
    assert (metrics["val_mae"], metrics["val_accuracy"]) == (None, 0.5)


def test_a_loss_of_nothing_is_none_and_of_outputs_that_are_no_numbers_infinite() -> None:
    nothing = torch.zeros((1, validation.num_sums(NUM)))
    assert validation.summarise(nothing, PARTS)["val_loss"] is None
    nothing[0, 0] = torch.inf
    assert validation.summarise(nothing, PARTS)["val_loss"] == torch.inf
