"""How much worse some people fare than others, and whether that is more than may be: gaps between parts of the faces.

In: outcomes, and the part that each is of. Out: a ``Gap`` for each two parts of a kind with enough persons, the largest
first. A gap is the difference of a metric's means. Its uncertainty is Welch's (1947), over persons: photos of one stand
or fall together (linearised means), and of a share it is never taken to be less than that of a share with one hit and
one miss more (Agresti and Caffo 2000), so that 0 of 20 is not known for sure.

A gap is *over* its limit where the hypothesis that the true one is no larger is rejected: chance alone does that with a
probability of 0.05 at most for all comparisons of a command together (Holm 1979). It is *within* where its interval
is, which holds for all comparisons together too (Bonferroni). Else the faces do not tell, which is no pass. Faces are
compared as they are: of parts with other ages some of the gap may be that of the ages; ``gender+decade`` compares the
same.

Legend of shapes: N rows, P parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from scipy.stats import t

from agescale.ages.few import ENOUGH_FACES
from agescale.ages.parts import Parts, crossed, num_persons
from agescale.evaluation.age_gate import GATE_AGE
from agescale.evaluation.metrics import CS_YEARS, Outcomes
from agescale.evaluation.records import Gap

LEVEL = 0.05
MANY_PERSONS = 100
"""Parts of fewer are taken to spread at least as all parts together do: errors are skewed, so that some tens of them
that happen to be small happen to be alike too, and would seem surer than they are."""
MINORS, ADULTS = (14, 18), (18, 25)
"""The ages [low, high) at which an age gate is judged: those who are hardest to tell. Of all minors, and of all
adults, the shares would be those of how many infants and elderly a part has."""
UNITS = {"mae": "years", "bias": "years"}
"""Of metrics that are no shares."""


@dataclass(frozen=True)
class Limit:
    """The gap that there may be at most in a metric, between any two parts of each of the kinds in ``by``."""

    metric: str
    max_gap: float
    by: tuple[str, ...]
    option: str = ""  # as it was asked for


@dataclass(frozen=True)
class Verdict:
    """What became of a limit."""

    limit: Limit
    gaps: list[Gap]  # the largest first
    num_comparisons: int  # of all limits together

    @property
    def over(self) -> list[Gap]:
        return [gap for gap in self.gaps if gap.is_over]

    @property
    def is_within(self) -> bool:
        return bool(self.gaps) and all(max(-gap.gap_low, gap.gap_high) <= self.limit.max_gap for gap in self.gaps)

    def line(self) -> str:
        """What was found, for people."""
        option = self.limit.option
        if self.over:
            others = f", and {len(self.over) - 1} more" if len(self.over) > 1 else ""
            more = f"; p {self.over[0].p_value:.2g} by Holm of {self.num_comparisons} comparisons"
            return f"{option}: over it is {words(self.over[0])}{more}{others}"
        largest = words(self.gaps[0])
        if self.is_within:
            return f"{option}: kept; the largest gap is {largest}"
        return f"{option}: not shown to be over, nor to be kept, which would take more faces; the largest is {largest}"


def words(gap: Gap) -> str:
    """A gap with who is meant and how sure it is.

    >>> words(Gap("mae", "gender", "female", 8.49, 861, "male", 5.47, 964, 3.02, 2.4, 3.64, 1e-9, True))
    'mae 8.49 years of female (n 861) against 5.47 of male (n 964), a gap of 3.02 (2.40 to 3.64)'
    """
    unit = f" {UNITS[gap.metric]}" if gap.metric in UNITS else ""
    return (
        f"{gap.metric} {said(gap.metric, gap.value)}{unit} of {gap.name} (n {gap.num_rows:,}) against "
        f"{said(gap.metric, gap.other_value)} of {gap.other} (n {gap.num_other_rows:,}), a gap of "
        f"{said(gap.metric, gap.gap)} ({said(gap.metric, gap.gap_low)} to {said(gap.metric, gap.gap_high)})"
    )


def said(metric: str, value: float) -> str:
    """A metric's value, or a difference of two, in years or as a share of 100."""
    return f"{value:.2f}" if metric in UNITS else f"{100 * value:.1f}%"


def values_of(outcomes: Outcomes, metric: str) -> np.ndarray:
    """What the metric is the mean of, (N,), NaN where a row has no part in it.

    >>> ages = np.array([15.0, 15.0, 24.0, 40.0]), np.array([19.0, 17.0, 17.5, 12.0])
    >>> outcomes = Outcomes(*ages, np.array([0, 0, -1, 1]), np.array([0, 1, 1, 1]), np.arange(4), 2)
    >>> {name: values_of(outcomes, name).tolist() for name in ("mae", "minors", "adults", "accuracy")}
    ... # doctest: +NORMALIZE_WHITESPACE
    {'mae': [4.0, 2.0, 6.5, 28.0], 'minors': [1.0, 0.0, nan, nan], 'adults': [nan, nan, 1.0, nan],
     'accuracy': [1.0, 0.0, nan, 1.0]}
    """
    true_N, said_N, error_N = outcomes.true_age_N, outcomes.predicted_age_N, outcomes.error_N
    if metric == "accuracy":
        is_known_N = outcomes.true_group_N >= 0
        return np.where(is_known_N, outcomes.true_group_N == outcomes.predicted_group_N, np.nan)
    if metric in ("minors", "adults"):
        low, high = MINORS if metric == "minors" else ADULTS
        is_meant_N = (true_N >= low) & (true_N < high) & ~np.isnan(said_N)
        return np.where(is_meant_N, (said_N >= GATE_AGE) == (metric == "minors"), np.nan)
    of_ages = {"mae": np.abs(error_N), "bias": error_N, "cs_at_5": np.abs(error_N) <= CS_YEARS}
    return np.where(np.isnan(error_N), np.nan, of_ages[metric])


def judged(outcomes: Outcomes, parts: Parts, limits: Sequence[Limit]) -> list[Verdict]:
    """What becomes of each limit."""
    found = [
        [gap for by in limit.by for gap in _gaps(outcomes, *crossed(parts, by), limit.metric, by, limit.max_gap)]
        for limit in limits
    ]
    p_values, num = holm([compared.gap.p_value for each in found for compared in each]), sum(map(len, found))
    verdicts = []
    for limit, each in zip(limits, found, strict=True):
        own, p_values = p_values[: len(each)], p_values[len(each) :]
        told = [_told(compared, p_value, num) for compared, p_value in zip(each, own, strict=True)]
        verdicts.append(Verdict(limit, sorted(told, key=lambda gap: (-gap.gap, gap.p_value)), num))
    return verdicts


@dataclass(frozen=True)
class _Means:
    """Of each of P parts its mean, how uncertain that is, and of how many rows and persons."""

    mean_P: np.ndarray
    variance_P: np.ndarray  # of the mean
    rows_P: np.ndarray
    persons_P: np.ndarray


def _means(value_N: np.ndarray, part_N: np.ndarray, cluster_N: np.ndarray, num_parts: int) -> _Means:
    """Of rows that all have a value and a part."""
    rows_P = np.bincount(part_N, minlength=num_parts)
    mean_P = np.bincount(part_N, value_N, num_parts) / np.maximum(rows_P, 1)
    unit_N = part_N * (int(cluster_N.max(initial=0)) + 1) + cluster_N
    units, unit_N = np.unique(unit_N, return_inverse=True)
    part_U = np.zeros(len(units), np.int64)
    part_U[unit_N] = part_N
    residual_U = np.bincount(unit_N, value_N - mean_P[part_N])
    persons_P = np.bincount(part_U, minlength=num_parts)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale_P = persons_P / (persons_P - 1) / rows_P.astype(np.float64) ** 2
        variance_P = np.bincount(part_U, residual_U**2, num_parts) * scale_P
        spread = residual_U @ residual_U / max(int((persons_P - 1).clip(0).sum()), 1)
        pooled_P = spread * persons_P / rows_P.astype(np.float64) ** 2
    variance_P = np.where(persons_P < MANY_PERSONS, np.maximum(variance_P, pooled_P), variance_P)
    if np.isin(value_N, (0, 1)).all():
        share_P = (mean_P * persons_P + 1) / (persons_P + 2)
        variance_P = np.maximum(variance_P, share_P * (1 - share_P) / (persons_P + 2))
    return _Means(mean_P, variance_P, rows_P, persons_P)


@dataclass(frozen=True)
class _Compared:
    """A gap before it is known how many there are: with its p-value by itself, and no interval."""

    gap: Gap
    error: float  # standard error
    freedom: float  # degrees of it


def _gaps(
    outcomes: Outcomes, part_N: np.ndarray, names: Sequence[str], metric: str, by: str, max_gap: float
) -> list[_Compared]:
    """Of each two parts with enough persons, with a p-value by itself: of a true gap of no more than ``max_gap``."""
    value_N = values_of(outcomes, metric)
    known_N = (part_N >= 0) & ~np.isnan(value_N)
    means = _means(value_N[known_N], part_N[known_N], outcomes.cluster_N[known_N], len(names))
    found = []
    for pair in combinations(np.flatnonzero(means.persons_P >= ENOUGH_FACES).tolist(), 2):
        more, less = sorted(pair, key=lambda part: -means.mean_P[part])
        gap = float(means.mean_P[more] - means.mean_P[less])
        variances, persons = means.variance_P[[more, less]], means.persons_P[[more, less]]
        error = float(np.sqrt(variances.sum()))
        freedom = float(variances.sum() ** 2 / (variances**2 / (persons - 1)).sum()) if error else 1.0
        p_value = _p_value(gap, error, freedom, max_gap)
        row = Gap(
            metric=metric,
            by=by,
            name=names[more],
            value=float(means.mean_P[more]),
            num_rows=int(means.rows_P[more]),
            other=names[less],
            other_value=float(means.mean_P[less]),
            num_other_rows=int(means.rows_P[less]),
            gap=gap,
            gap_low=gap,
            gap_high=gap,
            p_value=p_value,
            is_over=False,
        )
        found.append(_Compared(row, error, freedom))
    return found


def _p_value(gap: float, error: float, freedom: float, max_gap: float) -> float:
    """With what probability chance alone makes a gap so large, either way, where the true one is ``max_gap``."""
    if not error:
        return float(gap <= max_gap)
    return min(1.0, float(t.sf((gap - max_gap) / error, freedom) + t.sf((gap + max_gap) / error, freedom)))


def _told(compared: _Compared, p_value: float, num_comparisons: int) -> Gap:
    """With the interval, and the p-value, that hold for all comparisons together."""
    half = float(t.isf(LEVEL / 2 / num_comparisons, compared.freedom)) * compared.error
    gap = compared.gap.gap
    return replace(compared.gap, gap_low=gap - half, gap_high=gap + half, p_value=p_value, is_over=p_value <= LEVEL)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of a family of comparisons, each adjusted for all of them (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable").tolist()):
        largest = max(largest, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(largest, 1.0)
    return adjusted


def small_parts(outcomes: Outcomes, parts: Parts, limit: Limit) -> dict[str, dict[str, int]]:
    """By kind the parts that have too few persons to be compared, and how many."""
    value_N, found = values_of(outcomes, limit.metric), {}
    for by in limit.by:
        part_N, names = crossed(parts, by)
        known_N = (part_N >= 0) & ~np.isnan(value_N)
        counts = num_persons(part_N[known_N], outcomes.cluster_N[known_N], len(names)).tolist()
        found[by] = {name: num for name, num in zip(names, counts, strict=True) if 0 < num < ENOUGH_FACES}
    return found
