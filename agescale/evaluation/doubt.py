"""What a model's doubt is worth: whether it is as large as the model says, and how much better its answers get where
those that it doubts most go to a person.

In: numbers, row by row. Out: ``records``. Reads no tables and draws nothing. Legend of shapes: N rows.
"""

from __future__ import annotations

import numpy as np

from agescale.evaluation import metrics
from agescale.evaluation.age_gate import GATE_AGE
from agescale.evaluation.intervals import interval_of_mean, wilson_interval
from agescale.evaluation.metrics import Outcomes
from agescale.evaluation.records import HandedOver, Reliability

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Shares of a distribution that lie between the ends of its central intervals."""
NUM_BINS = 10
"""Of probabilities, each a tenth wide."""
HANDED_OVER = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
"""Shares of the faces that go to a person."""

INTERVALS, GROUPS, UNDER_GATE = "intervals", "groups", f"under {GATE_AGE}"
"""What a model says how sure it is of: its central intervals, its groups, that somebody is under the age of a gate."""


def of_intervals(share_below_N: np.ndarray) -> list[Reliability]:
    """How many of the central intervals of predicted distributions hold the true age, for each of ``LEVELS``, from the
    shares of the distributions that lie below it (the probability integral transform: Dawid 1984); NaN is left out.

    >>> [(row.said, row.observed) for row in of_intervals(np.array([0.5, 0.2, 0.99, np.nan]))][5:7]
    [(0.6, 0.6666666666666666), (0.7, 0.6666666666666666)]
    """
    known_N = share_below_N[~np.isnan(share_below_N)]
    if not len(known_N):
        return []
    reach_N = np.abs(2 * known_N - 1)  # the least share whose interval holds it
    return [_reliability(level, reach_N <= level + 1e-6) for level in LEVELS]


def of_probabilities(said_N: np.ndarray, is_so_N: np.ndarray) -> list[Reliability]:
    """How often it is so, of what is said to be so with about the same probability (a reliability diagram: Murphy and
    Winkler 1977); a row for each tenth in which there are any, NaN is left out.

    >>> rows = of_probabilities(np.array([0.02, 0.04, 0.91, np.nan]), np.array([False, False, True, True]))
    >>> [(round(row.said, 2), row.num_rows, row.observed) for row in rows]
    [(0.03, 2, 0.0), (0.91, 1, 1.0)]
    """
    known_N = ~np.isnan(said_N)
    said_N, is_so_N = said_N[known_N], is_so_N[known_N]
    bin_N = (said_N * NUM_BINS).astype(np.int64).clip(0, NUM_BINS - 1)
    return [_reliability(float(said_N[bin_N == each].mean()), is_so_N[bin_N == each]) for each in np.unique(bin_N)]


def _reliability(said: float, is_so_N: np.ndarray) -> Reliability:
    num_so, num_rows = int(is_so_N.sum()), len(is_so_N)
    return Reliability(said, num_rows, num_so / num_rows, *wilson_interval(num_so, num_rows))


def mean_gap(rows: list[Reliability]) -> float:
    """How far what is said is from what is so, on average over the answers: of probabilities the expected calibration
    error (Naeini et al. 2015).

    >>> mean_gap([Reliability(0.9, 30, 0.8, None, None), Reliability(0.2, 10, 0.2, None, None)])
    0.075
    """
    total = sum(row.num_rows for row in rows)
    return round(sum(row.num_rows * abs(row.said - row.observed) for row in rows) / total, 9)


def handed_over(outcomes: Outcomes, doubt_N: np.ndarray) -> list[HandedOver]:
    """How wrong the others are where a share of the faces, those of most ``doubt_N``, goes to a person, for each of
    ``HANDED_OVER`` (a risk-coverage curve: El-Yaniv and Wiener 2010). Of those of the same doubt the last ones go;
    faces without one (NaN) are in no row. None where all are doubted alike.

    >>> none_N = np.full(4, -1)
    >>> ages = Outcomes(np.full(4, 30.0), np.array([31.0, 32.0, 33.0, 50.0]), none_N, none_N, np.arange(4), 0)
    >>> [(row.handed_over, row.num_rows, row.mae) for row in handed_over(ages, np.array([1.0, 1.0, 2.0, 8.0]))][::6]
    [(0.0, 4, 6.5), (0.5, 2, 1.5)]
    """
    known_N = ~np.isnan(doubt_N)
    outcomes, doubt_N = outcomes.where(known_N), doubt_N[known_N]
    if not len(doubt_N) or doubt_N.min() == doubt_N.max():
        return []
    order_N = np.argsort(doubt_N, kind="stable")
    rows = []
    for share in HANDED_OVER:
        is_kept_N = np.zeros(len(order_N), bool)
        is_kept_N[order_N[: len(order_N) - round(share * len(order_N))]] = True
        kept = outcomes.where(is_kept_N)
        values = metrics.plain(metrics.scores(kept))
        of_ages = kept.where(~np.isnan(kept.error_N))
        mean_age = float(of_ages.true_age_N.mean()) if len(of_ages) else None
        low, high = interval_of_mean(np.abs(of_ages.error_N), of_ages.cluster_N) or (None, None)
        mae, near, right = (values[name] for name in ("mae", "cs_at_5", "accuracy"))
        rows.append(HandedOver(share, len(kept), mean_age, mae, low, high, near, right))
    return rows
