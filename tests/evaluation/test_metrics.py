"""Errors, scores, intervals, baselines and breakdowns."""

from __future__ import annotations

import doctest
import warnings
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, precision_recall_fscore_support

from agescale.ages import baselines
from agescale.ages.baselines import Constant
from agescale.ages.parts import decades
from agescale.evaluation import age_gate, metrics
from agescale.evaluation.metrics import Outcomes
from agescale.evaluation.records import MajorityGroup


def made_up(num_rows: int = 400, seed: int = 0, noise: float = 6.0) -> Outcomes:
    """Ages 0..79 in four groups of twenty years, predicted with normal errors."""
    rng = np.random.default_rng(seed)
    true_age_N = rng.integers(0, 80, num_rows).astype(float)
    predicted_age_N = true_age_N + rng.normal(0, noise, num_rows)
    predicted_group_N = (predicted_age_N // 20).clip(0, 3).astype(int)
    return Outcomes(
        true_age_N, predicted_age_N, (true_age_N // 20).astype(int), predicted_group_N, np.arange(num_rows), 4
    )


def test_the_worked_examples_hold() -> None:
    results = doctest.testmod(metrics)
    assert results.attempted >= 10
    assert results.failed == 0


def test_scores_of_groups_agree_with_scikit_learn() -> None:
    outcomes = made_up(noise=15)
    counts_GH = metrics.confusion_matrix(outcomes.true_group_N, outcomes.predicted_group_N, 4)
    scores = metrics.group_scores(counts_GH)
    precision_G, recall_G, f1_G, support_G = precision_recall_fscore_support(
        outcomes.true_group_N, outcomes.predicted_group_N
    )
    for name, expected_G in {"precision": precision_G, "recall": recall_G, "f1": f1_G, "support": support_G}.items():
        np.testing.assert_allclose(scores[name], expected_G)
    assert scores["macro_f1"] == pytest.approx(f1_G.mean())
    assert scores["accuracy"] == pytest.approx((outcomes.true_group_N == outcomes.predicted_group_N).mean())
    assert scores["balanced_accuracy"] == pytest.approx(
        balanced_accuracy_score(outcomes.true_group_N, outcomes.predicted_group_N)
    )


def test_accuracy_78_57_with_f1_97_20_cannot_come_out() -> None:
    """Of one evaluation with G groups, macro F1 <= 1 - (1 - accuracy) / G and micro F1 = accuracy, so both figures that
    were once reported together for four groups contradict each other; scores of one matrix never can."""
    counts_MGH = np.random.default_rng(0).integers(0, 40, (5000, 4, 5)) ** np.array([[[1], [2], [0], [3]]])
    counts_MGH[:, np.arange(4), np.arange(4)] *= np.random.default_rng(1).integers(1, 50, (5000, 4))
    scores = metrics.group_scores(counts_MGH)
    assert (scores["macro_f1"] <= 1 - (1 - scores["accuracy"]) / 4 + 1e-12).all()
    assert 0.9720 > 1 - (1 - 0.7857) / 4
    weighted_recall_M = (scores["recall"] * scores["support"]).sum(axis=1) / scores["support"].sum(axis=1)
    np.testing.assert_allclose(weighted_recall_M, scores["accuracy"])


def test_a_prediction_without_a_group_is_wrong_not_forgotten() -> None:
    scores = metrics.group_scores(metrics.confusion_matrix(np.array([0, 0, 1]), np.array([0, -1, 1]), 2))
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["recall"].tolist() == [0.5, 1.0]
    assert scores["precision"].tolist() == [1.0, 1.0]


def test_a_group_that_neither_occurs_nor_is_predicted_is_unknown_not_zero() -> None:
    scores = metrics.group_scores(metrics.confusion_matrix(np.array([0, 1]), np.array([0, 1]), 3))
    assert np.isnan(scores["f1"][2])
    assert scores["macro_f1"] == 1.0


def test_an_error_of_exactly_five_years_counts_in_cs_at_5() -> None:
    assert metrics.age_scores(np.array([5.0, -5.0, 5.01, -6.0]))["cs_at_5"] == 0.5


def test_wide_labels_count_for_groups_only() -> None:
    outcomes = Outcomes(
        np.array([30.0, np.nan]), np.array([33.0, 50.0]), np.array([1, 1]), np.array([1, 2]), np.arange(2), 3
    )
    result = metrics.summary(outcomes, Constant(30.0, 1), ["a", "b", "c"])
    assert (result.num_rows, result.num_with_age, result.num_with_group) == (2, 1, 2)
    assert (result.mae, result.accuracy) == (3.0, 0.5)
    assert result.baselines.median_age.mae == 0.0


def test_nothing_known_is_null_and_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        empty = made_up(0)
        result = metrics.summary(
            empty, baselines.constant_predictor(empty.true_age_N, empty.true_group_N), list("abcd")
        )
    assert result.mae is None
    assert result.accuracy is None
    assert set(result.intervals.values()) == {None}
    assert result.baselines.majority_group == MajorityGroup(None, None, None, None, labels_of="train")


def test_baselines_say_the_same_of_everybody() -> None:
    outcomes = made_up()
    constant = baselines.constant_predictor(np.array([20.0, 31.0, 90.0, np.nan]), np.array([2, 2, 1, -1]))
    assert constant == Constant(age=31.0, group=2)
    result = metrics.constant_scores(outcomes, constant)
    assert result["mae"] == pytest.approx(np.abs(outcomes.true_age_N - 31).mean())
    assert result["accuracy"] == pytest.approx((outcomes.true_group_N == 2).mean())


def test_a_bootstrap_interval_agrees_with_drawing_rows_by_hand() -> None:
    outcomes, rng = made_up(), np.random.default_rng(1)
    by_hand = {name: [] for name in ("mae", "bias", "accuracy", "macro_f1")}
    for _ in range(1000):
        drawn = metrics.scores(outcomes.where(rng.integers(0, len(outcomes), len(outcomes))))
        for name, values in by_hand.items():
            values.append(drawn[name])
    found = metrics.intervals(outcomes)
    for name, values in by_hand.items():
        low, high = np.percentile(values, (2.5, 97.5))
        assert found[name] == pytest.approx([low, high], abs=0.15 * (high - low))


def test_the_same_seed_gives_the_same_interval_in_any_order_of_rows() -> None:
    outcomes = made_up()
    shuffled = outcomes.where(np.random.default_rng(3).permutation(len(outcomes)))
    assert metrics.intervals(outcomes) == metrics.intervals(outcomes)
    for name, interval in metrics.intervals(shuffled).items():
        assert interval == pytest.approx(metrics.intervals(outcomes)[name])
    assert metrics.intervals(outcomes, seed=1) != metrics.intervals(outcomes)


def test_many_pictures_of_few_people_give_a_wider_interval() -> None:
    people = made_up(40)
    repeated = people.where(np.repeat(np.arange(40), 10))
    alone = metrics.Outcomes(**{**repeated.__dict__, "cluster_N": np.arange(400)})
    width = {name: np.diff(metrics.intervals(rows)["mae"])[0] for name, rows in (("people", repeated), ("rows", alone))}
    assert width["people"] == pytest.approx(width["rows"] * np.sqrt(10), rel=0.2)


def test_a_single_unit_has_no_interval() -> None:
    one_person = made_up(20).where(np.arange(20))
    one_person = metrics.Outcomes(**{**one_person.__dict__, "cluster_N": np.zeros(20, dtype=int)})
    assert set(metrics.intervals(one_person).values()) == {None}


def test_an_interval_without_width_is_no_interval() -> None:
    exact = made_up(20, noise=0)
    assert metrics.scores(exact)["accuracy"] == 1
    assert metrics.intervals(exact)["accuracy"] is None


def test_resampling_in_several_chunks_keeps_the_interval() -> None:
    outcomes = made_up(4000)
    low, high = metrics.intervals(outcomes)["mae"]
    assert metrics.intervals(outcomes, num_replicates=2500)["mae"] == pytest.approx([low, high], abs=0.2 * (high - low))


def test_breakdowns_add_up_to_the_whole() -> None:
    outcomes = made_up()
    subgroup_N, names = decades(outcomes.true_age_N)
    rows = metrics.breakdown(outcomes, subgroup_N, names)
    assert [row.name for row in rows] == names[:8]
    assert sum(row.num_rows for row in rows) == len(outcomes)
    total = sum(row.mae * row.num_with_age for row in rows) / len(outcomes)
    assert total == pytest.approx(metrics.scores(outcomes)["mae"])
    assert all(row.mae_low <= row.mae <= row.mae_high for row in rows)


def test_rows_without_the_label_are_in_no_part_of_a_breakdown() -> None:
    rows = metrics.breakdown(made_up(30), np.repeat([0, -1], 15), ["female", "male"])
    assert [(row.name, row.num_rows) for row in rows] == [("female", 15)]


def test_the_gate_counts_minors_let_in_and_adults_turned_away() -> None:
    true_N = np.array([10.0, 17.0, 17.0, 18.0, 22.0, 50.0, np.nan])
    predicted_N = np.array([9.0, 18.0, 17.9, 17.0, 25.0, 49.0, 30.0])
    rows = {row.name: row for row in age_gate.age_gate(true_N, predicted_N)}
    assert rows["16-17"].num_wrong == 1
    assert rows["all under 18"].wrong == pytest.approx(1 / 3)
    assert rows["all 18 and over"].wrong == pytest.approx(1 / 3)
    assert rows["25-29"].wrong is None
    assert rows["0-12"].wrong_high > 0.7  # none of one proves little
    bands = [row for name, row in rows.items() if not name.startswith("all")]
    assert sum(row.num_rows for row in bands) == 6


def test_a_paired_difference_is_that_of_the_two_and_far_surer_than_either() -> None:
    one = made_up(1000, noise=6.0)
    shift_N = np.random.default_rng(1).normal(0.0, 1.0, len(one))
    other = replace(one, predicted_age_N=one.predicted_age_N + shift_N + 0.3 * np.sign(one.error_N))
    row = metrics.compared(one, other, np.zeros(len(one), int), ["all"])[0]
    assert row.mae == pytest.approx(metrics.scores(one)["mae"])
    assert row.mae_against == pytest.approx(metrics.scores(other)["mae"])
    assert row.mae_difference == pytest.approx(row.mae - row.mae_against)
    difference_N, rng = np.abs(one.error_N) - np.abs(other.error_N), np.random.default_rng(2)
    by_hand = [rng.choice(difference_N, len(difference_N)).mean() for _ in range(2000)]
    bounds = [row.mae_difference_low, row.mae_difference_high]
    assert bounds == pytest.approx(np.percentile(by_hand, (2.5, 97.5)), abs=0.02)
    assert row.mae_difference_high < 0
    intervals = [metrics.intervals(each)["mae"] for each in (one, other)]
    assert intervals[0][1] > intervals[1][0], "side by side their intervals overlap"
    both_ways = metrics.compared(other, one, np.zeros(len(one), int), ["all"])[0]
    assert both_ways.accuracy_difference == pytest.approx(-row.accuracy_difference)


def test_a_comparison_counts_what_both_say_and_knows_what_it_cannot() -> None:
    one = made_up(40)
    silent_N = np.arange(40) < 10
    other = replace(
        one,
        predicted_age_N=np.where(silent_N, np.nan, one.predicted_age_N),
        true_group_N=np.full(40, -1),
    )
    parts = np.where(silent_N, 0, 1)
    nothing, same = metrics.compared(one, other, parts, ["silent", "heard", "nobody"])
    assert (nothing.num_rows, nothing.num_with_age, nothing.mae, nothing.accuracy) == (10, 0, None, None)
    assert (same.num_with_age, same.mae_difference, same.mae_difference_low) == (30, 0.0, None)
    assert (same.num_with_group, same.accuracy_difference) == (0, None)


def parts_of(num_faces: int, num_parts: int, seed: int, extra: float = 0.0) -> tuple[Outcomes, np.ndarray, list[str]]:
    """Errors of the same kind in every part, but for ``extra`` years in the last one."""
    rng = np.random.default_rng(seed)
    subgroup_N = rng.integers(0, num_parts, num_faces)
    said_N = 40 + rng.normal(0, 6, num_faces) + np.where(subgroup_N == num_parts - 1, extra, 0)
    none = np.full(num_faces, -1)
    outcomes = Outcomes(np.full(num_faces, 40.0), said_N, none, none, np.arange(num_faces), 0)
    return outcomes, subgroup_N, [f"part {index}" for index in range(num_parts)]


@pytest.mark.parametrize("num_parts", [2, 5])
def test_the_worst_of_equal_parts_is_rarely_told_apart_and_one_that_is_worse_nearly_always(num_parts: int) -> None:
    def is_clear(seed: int, extra: float) -> bool:
        worst = metrics.worst_subgroup(*parts_of(200, num_parts, seed, extra))
        assert worst is not None
        return bool(worst.difference_low > 0) and (not extra or worst.name == f"part {num_parts - 1}")

    assert sum(is_clear(seed, extra=0.0) for seed in range(40)) <= 6
    assert sum(is_clear(seed, extra=12.0) for seed in range(10)) >= 9


def test_a_difference_on_fewer_than_five_people_has_no_interval() -> None:
    outcomes, subgroup_N, names = parts_of(60, 2, seed=0)
    others = replace(outcomes, predicted_age_N=outcomes.predicted_age_N + np.linspace(0, 3, 60))
    few, enough = (metrics.compared(outcomes.where(mask_N), others.where(mask_N), subgroup_N[mask_N] * 0, names[:1])[0]
                   for mask_N in (np.arange(60) < 4, np.arange(60) < 5))  # fmt: skip
    assert few.mae_difference is not None
    assert few.mae_difference_low is few.mae_difference_high is None
    assert enough.mae_difference_low < enough.mae_difference_high


def test_no_part_is_the_worst_of_one_or_of_too_few() -> None:
    outcomes, subgroup_N, names = parts_of(60, 2, seed=0)
    assert metrics.worst_subgroup(outcomes, np.zeros_like(subgroup_N), names) is None
    assert metrics.worst_subgroup(outcomes.where(subgroup_N < 2), np.where(np.arange(60) < 4, 1, 0), names) is None
    assert metrics.worst_subgroup(replace(outcomes, predicted_age_N=np.full(60, np.nan)), subgroup_N, names) is None


def test_nobody_is_worst_by_the_pictures_of_one_person_or_beside_those_of_whom_little_is_known() -> None:
    true_N, part_N = np.full(52, 40.0), np.repeat([0, 1, 2], [20, 20, 12])
    off_N = np.repeat([5.0, 4.0, 30.0], [20, 20, 12])
    person_N = np.where(part_N == 2, 1000, np.arange(52))
    none = np.full(52, -1)
    worst = metrics.worst_subgroup(Outcomes(true_N, true_N + off_N, none, none, person_N, 0), part_N, ["a", "b", "c"])
    assert worst is not None
    assert (worst.name, worst.others, worst.difference, worst.too_few) == ("a", "b", 1.0, {"c": 12})


def test_the_pictures_of_one_person_stand_or_fall_together_in_a_difference() -> None:
    outcomes, subgroup_N, names = parts_of(200, 2, seed=0, extra=4.0)
    alone = metrics.worst_subgroup(outcomes, subgroup_N, names)
    people = metrics.worst_subgroup(replace(outcomes, cluster_N=np.arange(200) % 8), subgroup_N, names)
    doubled = metrics.worst_subgroup(
        Outcomes(*(np.tile(getattr(outcomes, name), 2) for name in ("true_age_N", "predicted_age_N", "true_group_N",
                 "predicted_group_N", "cluster_N")), num_groups=0), np.tile(subgroup_N, 2), names)  # fmt: skip
    assert alone is not None
    assert people is not None
    assert doubled is not None
    assert doubled.difference_low == pytest.approx(alone.difference_low, abs=0.3)
    assert people.difference == alone.difference
