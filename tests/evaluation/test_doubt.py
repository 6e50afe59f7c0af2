"""What a model's doubt is worth: what it says of its doubt is held to what is so."""

from __future__ import annotations

import doctest
from itertools import pairwise

import numpy as np
import pytest

from agescale.evaluation import doubt
from agescale.evaluation.metrics import Outcomes

NUM_FACES = 4000


def test_the_worked_examples_hold() -> None:
    found = doctest.testmod(doubt)
    assert (found.failed, found.attempted) == (0, 7)


@pytest.mark.parametrize(("spread", "said"), [(5.0, "right"), (2.0, "too narrow"), (15.0, "too wide")])
def test_intervals_are_as_wide_as_they_should_be_or_not(spread: float, said: str) -> None:
    rng = np.random.default_rng(0)
    error_N = rng.normal(0, 5.0, NUM_FACES)
    grid = np.linspace(-60, 60, 4001)
    density = np.exp(-0.5 * (grid / spread) ** 2)
    below_N = np.interp(error_N, grid, np.cumsum(density) / density.sum())  # of a normal distribution of that spread
    rows = doubt.of_intervals(below_N)
    observed = np.array([row.observed for row in rows])
    if said == "right":
        assert np.abs(observed - doubt.LEVELS).max() < 0.03
    else:
        assert ((observed < doubt.LEVELS) == (said == "too narrow")).all()
        assert doubt.mean_gap(rows) > 0.2


def test_probabilities_that_come_true_lie_on_the_diagonal() -> None:
    rng = np.random.default_rng(0)
    said_N = rng.uniform(0, 1, NUM_FACES)
    is_so_N = rng.uniform(0, 1, NUM_FACES) < said_N
    honest, boastful = (doubt.of_probabilities(each_N, is_so_N) for each_N in (said_N, np.sqrt(said_N)))
    assert [row.num_rows > 300 for row in honest] == [True] * doubt.NUM_BINS
    assert sum(row.observed_low < row.said < row.observed_high for row in honest) >= 9
    assert doubt.mean_gap(honest) < 0.03 < 0.1 < doubt.mean_gap(boastful)
    assert doubt.of_probabilities(np.array([1.0, np.nan]), np.array([True, True]))[0].num_rows == 1


def judged(error_N: np.ndarray, group_N: np.ndarray | None = None) -> Outcomes:
    true_N = np.full(len(error_N), 40.0)
    none_N = np.full(len(error_N), -1)
    right_N = none_N if group_N is None else np.zeros(len(error_N), np.int64)
    return Outcomes(
        true_N, true_N + error_N, right_N, none_N if group_N is None else group_N, np.arange(len(error_N)), 2
    )


def test_a_model_that_doubts_the_right_faces_is_better_without_them_and_one_that_guesses_is_not() -> None:
    rng, num_faces = np.random.default_rng(0), 500
    spread_N = rng.uniform(2, 12, num_faces)
    outcomes = judged(rng.normal(0, spread_N))
    knowing = doubt.handed_over(outcomes, spread_N)
    guessing = doubt.handed_over(outcomes, rng.permutation(spread_N))
    assert [row.handed_over for row in knowing] == list(doubt.HANDED_OVER)
    assert [row.num_rows for row in knowing] == [round((1 - share) * num_faces) for share in doubt.HANDED_OVER]
    assert knowing[0].mae == guessing[0].mae == pytest.approx(np.abs(outcomes.error_N).mean())
    assert all(later.mae < row.mae for row, later in pairwise(knowing))
    assert knowing[-1].mae < 0.7 * knowing[0].mae
    assert guessing[-1].mae_low < guessing[0].mae < guessing[-1].mae_high


def test_doubt_that_is_unknown_or_the_same_for_all_says_nothing() -> None:
    outcomes = judged(np.array([1.0, 2.0, 30.0]))
    assert doubt.handed_over(outcomes, np.full(3, np.nan)) == []
    assert doubt.handed_over(outcomes, np.full(3, 5.0)) == []
    assert doubt.handed_over(outcomes, np.array([1.0, np.nan, 2.0]))[0].num_rows == 2


def test_where_there_are_groups_only_the_others_are_more_often_right() -> None:
    outcomes = judged(np.full(10, np.nan), np.array([0] * 8 + [1] * 2))
    rows = doubt.handed_over(outcomes, np.linspace(0, 1, 10))
    assert (rows[0].mae, rows[0].accuracy, rows[3].accuracy) == (None, 0.8, 1.0)
