"""The age distribution as it is stored, and every number that is derived from it.

In: age probabilities from a model. Out: the stored form, 101 integers a face, ``65535 * P(age < k years)`` at
k = 0..100, and from *that* form (never from the model's floats) the age, its spread and the group. So a number in a
predictions table can always be recomputed from the ``age_cdf`` beside it. Knows nothing of models, tables or files.

The 101 bins are [a, a+1) years for a = 0..99, and [100, infinity), which counts as [100, 101) here. Ages stand on the
labels' scale: a person labelled 34 is somewhere in [34, 35), so all mass in bin 34 is the age 34.0. Legend of shapes:
N faces, A = 101 ages, G groups.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from agescale.ages.calibration import Calibration
from agescale.ages.groups import MAX_AGE, AgeGroups

NUM_AGES = MAX_AGE + 1
SCALE = 65535
"""Odd, so that no stored value is exactly one half and the median is always unique."""

INTERVAL_SHARE = 0.8
"""Share of the predicted distribution that lies in the interval of ages that people are told."""

PointEstimate = Literal["median", "mean", "mode"]
"""How a distribution becomes one age: the median is best for the mean absolute error, the mean for the squared one."""


def quantize(age_probs_NA: np.ndarray) -> np.ndarray:
    """Probabilities (N, 101) of the age bins as the stored CDF (N, 101), uint16, never falling, from 0.

    Rows are brought to the sum 1 first. Raises ValueError where a row is no distribution (NaN, negative, all zero).

    >>> probs = np.zeros((1, 101)); probs[0, 34] = 0.5; probs[0, 35] = 0.5
    >>> quantize(probs)[0, 33:38].tolist()
    [0, 0, 32768, 65535, 65535]
    """
    probs_NA = np.asarray(age_probs_NA, dtype=np.float64)
    if probs_NA.ndim != 2 or probs_NA.shape[1] != NUM_AGES:
        raise ValueError(f"age probabilities must have the shape (N, {NUM_AGES}), not {probs_NA.shape}")
    totals_N1 = probs_NA.sum(axis=1, keepdims=True)
    if not np.isfinite(totals_N1).all() or (totals_N1 <= 0).any() or (probs_NA < 0).any():
        raise ValueError("age probabilities hold a row that is no distribution (not finite, negative, or all zero)")
    below_NA = np.zeros_like(probs_NA)
    np.cumsum(probs_NA[:, :-1] / totals_N1, axis=1, out=below_NA[:, 1:])
    return np.rint(np.minimum(below_NA, 1.0) * SCALE).astype(np.uint16)


def dequantize(cdf_NA: np.ndarray) -> np.ndarray:
    """The stored CDF as float64 P(age < k years), k = 0..100, shape (N, 101)."""
    cdf_NA = np.asarray(cdf_NA)
    assert cdf_NA.shape == (len(cdf_NA), NUM_AGES), f"a stored CDF is (N, {NUM_AGES}), not {cdf_NA.shape}"
    return cdf_NA.astype(np.float64) / SCALE


def age_probabilities(cdf_NA: np.ndarray) -> np.ndarray:
    """Probability of each age bin, float64 (N, 101), each row with the sum 1."""
    return np.diff(dequantize(cdf_NA), axis=1, append=1.0)


def probability_under(cdf_NA: np.ndarray, age_years: float) -> np.ndarray:
    """P(age < age_years), float64 (N,), for 0 <= age_years <= 100: of a birthday what is stored, else linear between
    two. Under 18 are those who have not had their 18th birthday. Raises ValueError for another age.

    >>> probs = np.zeros((1, 101)); probs[0, 17] = 0.2; probs[0, 18] = 0.8
    >>> [round(float(probability_under(quantize(probs), age)[0]), 3) for age in (17, 18, 18.5, 19)]
    [0.0, 0.2, 0.6, 1.0]
    """
    if not 0 <= age_years <= MAX_AGE:
        raise ValueError(f"an age from 0 to {MAX_AGE} years, not {age_years}")
    birthday = min(int(age_years), MAX_AGE - 1)
    below_N2 = _below(cdf_NA, np.array([birthday, birthday + 1]))
    since = age_years - birthday
    return (1 - since) * below_N2[:, 0] + since * below_N2[:, 1]


def share_below(cdf_NA: np.ndarray, age_N: np.ndarray) -> np.ndarray:
    """Share (N,) of the mass that lies below an age (N,) in years of its own: what ``quantile_age`` is the inverse of.
    Ages of 100 and more are 100, NaN stays.

    >>> probs = np.zeros((2, 101)); probs[:, 20] = 0.25; probs[:, 30] = 0.75
    >>> share_below(quantize(probs), np.array([30.0, np.nan])).round(3)
    array([0.625,   nan])
    """
    place_N = np.nan_to_num(np.minimum(age_N, MAX_AGE)) + 0.5
    bin_N = place_N.astype(np.int64)
    below_N, next_N = (_of_each(cdf_NA, each_N) for each_N in (bin_N, bin_N + 1))
    return np.where(np.isnan(age_N), np.nan, below_N + (place_N - bin_N) * (next_N - below_N))


def _of_each(cdf_NA: np.ndarray, edge_N: np.ndarray) -> np.ndarray:
    """P(age < edge) of each row, float64 (N,); the edge 101 stands for infinity."""
    stored_N = np.take_along_axis(np.asarray(cdf_NA), edge_N.clip(max=MAX_AGE)[:, None], axis=1)[:, 0]
    return np.where(edge_N > MAX_AGE, 1.0, stored_N / SCALE)


def quantile_age(cdf_NA: np.ndarray, q: float) -> np.ndarray:
    """Age (N,) in years below which lies the share ``q``, 0 < q < 1, of the mass; see ``median_age`` for the scale."""
    assert 0 < q < 1, q
    below_NA = dequantize(cdf_NA)
    bins_N1 = (below_NA < q).sum(axis=1, keepdims=True) - 1  # the bin in which the CDF reaches q; its mass is > 0
    below_N = np.take_along_axis(below_NA, bins_N1, axis=1)[:, 0]
    mass_N = np.take_along_axis(age_probabilities(cdf_NA), bins_N1, axis=1)[:, 0]
    return np.maximum(bins_N1[:, 0] + (q - below_N) / mass_N - 0.5, 0.0)


def median_age(cdf_NA: np.ndarray) -> np.ndarray:
    """Median age (N,): linear inside the bin, less the half year between a birthday and the middle of its year.

    >>> one = np.zeros((1, 101)); one[0, 34] = 1
    >>> median_age(quantize(one))
    array([34.])

    A quarter in bin 20 and three quarters in bin 30: a third of bin 30 lies below the median, 30 + 1/3 - 1/2.

    >>> two = np.zeros((1, 101)); two[0, 20] = 0.25; two[0, 30] = 0.75
    >>> median_age(quantize(two)).round(3)
    array([29.833])
    """
    return quantile_age(cdf_NA, 0.5)


def central_interval(cdf_NA: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Ages (N,), (N,) in years between which the central ``share`` of the mass lies; see ``median_age`` for the scale.

    It is what the model says of its own doubt, not calibrated. Of twenty equally likely years a tenth is two years:

    >>> even = np.zeros((1, 101)); even[0, 20:40] = 0.05
    >>> low_N, high_N = central_interval(quantize(even), 0.8)
    >>> low_N.round(2), high_N.round(2)
    (array([21.5]), array([37.5]))
    """
    return quantile_age(cdf_NA, (1 - share) / 2), quantile_age(cdf_NA, (1 + share) / 2)


def mean_age(cdf_NA: np.ndarray) -> np.ndarray:
    """Mean age (N,), each bin counted as the label that it is.

    >>> two = np.zeros((1, 101)); two[0, 20] = 0.25; two[0, 30] = 0.75
    >>> mean_age(quantize(two)).round(3), std(quantize(two)).round(3), mode_age(quantize(two))
    (array([27.5]), array([4.33]), array([30.]))
    """
    return age_probabilities(cdf_NA) @ np.arange(NUM_AGES, dtype=np.float64)


def mode_age(cdf_NA: np.ndarray) -> np.ndarray:
    """The likeliest bin (N,) as an age in whole years; the youngest of equals."""
    return age_probabilities(cdf_NA).argmax(axis=1).astype(np.float64)


def point_estimate(cdf_NA: np.ndarray, rule: PointEstimate) -> np.ndarray:
    """Age (N,) by ``rule``. Raises ValueError for an unknown one."""
    if rule not in get_args(PointEstimate):
        raise ValueError(f"decode rule {rule!r} is none of {', '.join(get_args(PointEstimate))}")
    return {"median": median_age, "mean": mean_age, "mode": mode_age}[rule](cdf_NA)


def std(cdf_NA: np.ndarray) -> np.ndarray:
    """Standard deviation (N,) of the age in years, about the mean; 0 where all mass stands in one bin."""
    ages_A = np.arange(NUM_AGES, dtype=np.float64)
    deviations_NA = ages_A - mean_age(cdf_NA)[:, None]
    return np.sqrt((age_probabilities(cdf_NA) * deviations_NA**2).sum(axis=1))


def group_probabilities(cdf_NA: np.ndarray, groups: AgeGroups) -> np.ndarray:
    """Probability of each group, (N, G). Sums to less than 1 where the groups leave ages out.

    Raises ValueError where the groups have names only.

    >>> probs = np.zeros((1, 101)); probs[0, 12] = 0.2; probs[0, 13] = 0.5; probs[0, 70] = 0.3
    >>> group_probabilities(quantize(probs), AgeGroups.parse("child=0-12,adult=13-59,senior=60-")).round(3)
    array([[0.2, 0.5, 0.3]])
    """
    edges_G2 = np.array([(low, min(high, MAX_AGE + 1)) for low, high in groups.bounds()], dtype=np.int64)
    low_NG, high_NG = (_below(cdf_NA, edges_G2[:, end]) for end in (0, 1))
    return high_NG - low_NG


def _below(cdf_NA: np.ndarray, edges_G: np.ndarray) -> np.ndarray:
    """``dequantize`` at these edges only, float64 (N, G); the edge 101 stands for infinity. A table of any size is told
    in other groups by this, so it takes no time for the other ages."""
    below_NG = cdf_NA[:, edges_G.clip(max=MAX_AGE)].astype(np.float64) / SCALE
    below_NG[:, edges_G > MAX_AGE] = 1.0
    return below_NG


def prediction_columns(
    cdf_NA: np.ndarray,
    groups: AgeGroups | None,
    rule: PointEstimate = "median",
    calibration: Calibration | None = None,
) -> dict[str, np.ndarray]:
    """The columns of a predictions table that derive from ``age_cdf``, each of length N.

    ``age`` and ``age_std`` in years (float32), ``group`` (names, object array) and ``group_probability`` (float32). The
    group is the likeliest one, which near a border need not be the one that holds ``age``. It is None where the groups
    leave out all ages that have any mass, and everywhere where ``groups`` is None or has names only. With a
    ``calibration`` also ``age_lower`` and ``age_upper`` (years, float32).

    >>> probs = np.zeros((1, 101)); probs[0, 12] = 0.4; probs[0, 13:18] = 0.12
    >>> columns = prediction_columns(quantize(probs), AgeGroups.parse("child=0-12,teenager=13-19"))
    >>> columns["age"].round(2).tolist(), columns["group"].tolist(), columns["group_probability"].round(2).tolist()
    ([13.329999923706055], ['teenager'], [0.6000000238418579])
    """
    columns = {"age": point_estimate(cdf_NA, rule).astype(np.float32), "age_std": std(cdf_NA).astype(np.float32)}
    if calibration:
        low_N, high_N = central_interval(cdf_NA, calibration.coverage)
        columns["age_lower"], columns["age_upper"] = calibration.intervals(columns["age"], low_N, high_N)
    return columns | group_columns(cdf_NA, groups)


def group_columns(cdf_NA: np.ndarray, groups: AgeGroups | None) -> dict[str, np.ndarray]:
    """Those of ``prediction_columns`` that depend on the age groups: of any groups, whatever the model was made for."""
    num_faces = len(cdf_NA)
    names: np.ndarray = np.full(num_faces, None, dtype=object)
    probability = np.full(num_faces, np.nan, dtype=np.float32)
    if groups is not None and groups.is_bounded:
        probs_NG = group_probabilities(cdf_NA, groups)
        best_N = probs_NG.argmax(axis=1)
        probability = np.take_along_axis(probs_NG, best_N[:, None], axis=1)[:, 0].astype(np.float32)
        has_group_N = probability > 0
        names[has_group_N] = np.array(groups.names, dtype=object)[best_N[has_group_N]]
    return {"group": names, "group_probability": probability}
