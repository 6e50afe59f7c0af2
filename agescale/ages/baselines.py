"""What is right most often without looking at a face: the numbers that a model must beat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Constant:
    """A predictor that says the same of everybody: the median age, the most frequent group (index). None = unknown."""

    age: float | None
    group: int | None


def constant_predictor(true_age_N: np.ndarray, true_group_N: np.ndarray) -> Constant:
    """The best constant answers for these labels: the median of the known ages, the most frequent known group."""
    ages, groups = true_age_N[~np.isnan(true_age_N)], true_group_N[true_group_N >= 0]
    return Constant(
        age=float(np.median(ages)) if len(ages) else None,
        group=int(np.bincount(groups).argmax()) if len(groups) else None,
    )
