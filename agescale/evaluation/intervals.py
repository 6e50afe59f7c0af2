"""How sure a number is: Wilson's interval of a share, and bootstrap intervals over subjects."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

NUM_REPLICATES = 1000
LEAST = 5
"""Of parts with fewer rows nothing is said in words, nor is an interval of a difference given."""


def wilson_interval(num_hits: int, num_rows: int) -> tuple[float | None, float | None]:
    """95 % Wilson score interval of a share; (None, None) where there are no rows.

    >>> [round(end, 3) for end in wilson_interval(0, 10)]
    [0.0, 0.278]
    """
    if not num_rows:
        return None, None
    z, share = 1.959964, num_hits / num_rows
    centre = share + z * z / (2 * num_rows)
    half = z * math.sqrt(share * (1 - share) / num_rows + z * z / (4 * num_rows**2))
    scale = 1 + z * z / num_rows
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def resampled_sums(
    columns: Iterable[np.ndarray],
    alike_N: np.ndarray,
    cluster_N: np.ndarray,
    num_replicates: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Sums (B, K) of the ``columns``, each (N,), over units drawn with replacement, as many as there are.

    Where each row is its own unit, rows that are ``alike`` (the same cell, the same error to 0.01 years) are drawn as
    one kind: a million rows stay cheap.
    """
    cluster_N = np.unique(cluster_N, return_inverse=True)[1]
    num_units = int(cluster_N.max()) + 1
    num_alike_U = np.ones(num_units, dtype=np.int64)
    if num_units == len(cluster_N):
        cluster_N, num_alike_U = np.unique(alike_N, return_inverse=True, return_counts=True)[1:]
    sums_UK = np.stack([np.bincount(cluster_N, weights=column) for column in columns], axis=1) / num_alike_U[:, None]
    chunk = max(1, 4_000_000 // len(sums_UK))
    sizes = [min(chunk, num_replicates - start) for start in range(0, num_replicates, chunk)]
    shares_U = num_alike_U / num_units
    return np.concatenate([rng.multinomial(num_units, shares_U, size=size) @ sums_UK for size in sizes])


def interval_of_mean(value_N: np.ndarray, cluster_N: np.ndarray) -> list[float] | None:
    """95 % bootstrap interval of a mean, None where the replicates agree or there are fewer than LEAST units."""
    if len(np.unique(cluster_N)) < LEAST:
        return None
    columns, alike_N = (np.ones(len(value_N)), value_N), np.rint(value_N * 100)
    num_B, sum_B = resampled_sums(columns, alike_N, cluster_N, NUM_REPLICATES, np.random.default_rng(0)).T
    return percentiles(sum_B / num_B)


def interval_of_difference(
    value_N: np.ndarray, is_one_N: np.ndarray, is_other_N: np.ndarray, cluster_N: np.ndarray, level: float
) -> list[float] | None:
    """Bootstrap interval of the mean value of some rows minus that of others, none of which is among the first."""
    either_N = is_one_N | is_other_N
    value_N, is_one_N, is_other_N = value_N[either_N], is_one_N[either_N], is_other_N[either_N]
    columns = (is_one_N, np.where(is_one_N, value_N, 0), is_other_N, np.where(is_other_N, value_N, 0))
    alike_N = 2 * np.rint(value_N * 100) + is_one_N
    rng = np.random.default_rng(0)
    one_B, sum_B, other_B, other_sum_B = resampled_sums(
        columns, alike_N, cluster_N[either_N], 4 * NUM_REPLICATES, rng
    ).T
    difference_B = ratio(sum_B, one_B) - ratio(other_sum_B, other_B)
    return percentiles(difference_B[~np.isnan(difference_B)], level)


def percentiles(values_B: np.ndarray, level: float = 0.95) -> list[float] | None:
    """Percentile interval of replicates; None where they all agree."""
    low, high = np.percentile(values_B, (50 * (1 - level), 50 * (1 + level)))
    return [float(low), float(high)] if high - low > 1e-9 else None


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)
