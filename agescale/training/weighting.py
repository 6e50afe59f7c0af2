"""How much each training image counts, where some labels are rare and others common.

In: labels of N images, as a catalog has them. Out: weights that are 1 on average over the images given, so that the
size of the loss, and with it the learning rate, stays what it was; the same with a share for each catalog; and the
importance of each threshold of the ordinal task. Only numbers: knows nothing of tables, tensors or tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agescale.ages.groups import MAX_AGE
from agescale.ages.labels import is_exact

KERNEL = np.exp(-0.5 * (np.arange(-2, 3) / 2) ** 2)
"""Size 5, sigma 2 years."""

MAX_WEIGHT = 10.0


def class_weights(group_N: np.ndarray, num_groups: int) -> np.ndarray:
    """Weight (N,) float32 of each image: inverse to the frequency of its group; 1 where it has none (-1).

    The groups that occur weigh the same together: n / (number of groups that occur * n of this group), which is
    scikit-learn's "balanced" (King and Zeng, "Logistic Regression in Rare Events Data", 2001).

    Three of four are in group 0, 4 / (2 * 3), and one in group 2, 4 / (2 * 1):

    >>> class_weights(np.array([0, 0, 0, 2, -1]), num_groups=3).round(3).tolist()
    [0.6669999957084656, 0.6669999957084656, 0.6669999957084656, 2.0, 1.0]
    """
    weight_N = np.ones(len(group_N))
    known_N = group_N >= 0
    counts_G = np.bincount(group_N[known_N], minlength=num_groups)
    assert len(counts_G) == num_groups, f"group {group_N.max()} of {num_groups}"
    weight_N[known_N] = known_N.sum() / ((counts_G > 0).sum() * counts_G[group_N[known_N]])
    return weight_N.astype(np.float32)


def part_weights(part_N: np.ndarray) -> np.ndarray:
    """Weight (N,) float32 of each image: as ``class_weights`` for parts such as women of 20 to 29, but none more than
    10 times the mean of those whose part is known: of a part of two faces each would weigh as much as hundreds.

    >>> part_weights(np.array([0] * 39 + [1, -1]))[-3:].round(3).tolist()
    [0.7689999938011169, 10.0, 1.0]
    """
    weight_N = class_weights(part_N, int(part_N.max(initial=-1)) + 1)
    known_N = part_N >= 0
    if known_N.any():
        weight_N[known_N] = _cap(weight_N[known_N])
    return weight_N


def label_density_weights(age_low_N: np.ndarray, age_high_N: np.ndarray) -> np.ndarray:
    """Weight (N,) float32 of each image: inverse to the square root of how many have an exact age near its own.

    Label distribution smoothing (Yang et al., "Delving into Deep Imbalanced Regression", ICML 2021) with a gaussian
    kernel; the square root is taken of the smoothed histogram, and at the ages 0 and 100 the kernel is cut off rather
    than filled up with ages that nobody has. Among the exact ages the mean is 1 and none weighs more than 10. Ranges
    and unlabelled images (NaN) weigh 1: the histogram counts exact ages alone, and cannot say how rare a range is.

    Three people of 30 and one of 70 weigh 1 / sqrt(3) to 1, on average (sqrt(3) + 1) / 4 = 0.683:

    >>> low_N = np.array([30.0, 30, 30, 70, 25, np.nan])
    >>> label_density_weights(low_N, np.array([31.0, 31, 31, 71, 50, np.nan]))[2:].round(3).tolist()
    [0.8450000286102295, 1.4639999866485596, 1.0, 1.0]
    """
    weight_N = np.ones(len(age_low_N))
    is_exact_N = is_exact(age_low_N, age_high_N)
    if is_exact_N.any():
        age_N = _whole_years(age_low_N[is_exact_N])
        counts_A = np.bincount(age_N, minlength=MAX_AGE + 1)
        density_A = np.convolve(counts_A, KERNEL, "same") / np.convolve(np.ones(MAX_AGE + 1), KERNEL, "same")
        weight_N[is_exact_N] = _cap(1 / np.sqrt(density_A[age_N]))
    return weight_N.astype(np.float32)


def mixed(weight_N: np.ndarray, catalog_N: np.ndarray, mix: Sequence[float]) -> np.ndarray:
    """Weights (N,) float32 whose sums over the images of each catalog (N,) have the proportions of ``mix`` (one share
    for each catalog), and whose sum over all stays the same.

    Three images and one, each of which is to have half of four:

    >>> mixed(np.ones(4, np.float32), np.array([0, 0, 0, 1]), (1, 1)).round(3).tolist()
    [0.6669999957084656, 0.6669999957084656, 0.6669999957084656, 2.0]
    """
    sum_C = np.bincount(catalog_N, weight_N, minlength=len(mix))
    factor_C = np.array(mix) / sum(mix) * sum_C.sum() / sum_C
    return (weight_N * factor_C[catalog_N]).astype(np.float32)


def rank_weights(age_low_N: np.ndarray, age_high_N: np.ndarray) -> tuple[float, ...]:
    """Importance, 0..1, of the 100 questions "at least k years old?", k = 1..100, from the exact ages among the labels.

    sqrt(M_k) / max_i sqrt(M_i) with M_k = max(S_k, N - S_k), S_k of the N ages being k or more (Cao, Mirjalili,
    Raschka, "Rank consistent ordinal regression for neural networks with application to age estimation", 2020): the
    most even question counts least. All 1 where no age is exact.

    Of the ages 10, 20, 30, 40 all are 10 or more, two are 25 or more, and three are under 40:

    >>> low_N = np.array([10.0, 20, 30, 40])
    >>> weights = rank_weights(low_N, low_N + 1)
    >>> [round(weights[k - 1], 3) for k in (10, 25, 40, 41)]  # sqrt of 4/4, 2/4, 3/4, 4/4
    [1.0, 0.707, 0.866, 1.0]
    """
    age_N = _whole_years(age_low_N[is_exact(age_low_N, age_high_N)])
    if not len(age_N):
        return (1.0,) * MAX_AGE
    reached_K = len(age_N) - np.bincount(age_N, minlength=MAX_AGE + 1).cumsum()[:-1]
    larger_K = np.maximum(reached_K, len(age_N) - reached_K)
    return tuple(np.sqrt(larger_K / larger_K.max()).tolist())


def _whole_years(age_N: np.ndarray) -> np.ndarray:
    return np.floor(age_N).clip(0, MAX_AGE).astype(np.int64)


def _cap(weight_N: np.ndarray) -> np.ndarray:
    """Weights with the mean 1, the largest cut down to 10."""
    while weight_N.max() > MAX_WEIGHT * weight_N.mean() * (1 + 1e-6):  # each cut lowers the mean, less and less
        weight_N = np.minimum(weight_N, MAX_WEIGHT * weight_N.mean())
    return weight_N / weight_N.mean()
