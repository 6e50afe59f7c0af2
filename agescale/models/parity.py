"""Whether two forms of a model say the same: images to ask both, and how far what they say lies apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from agescale.ages import cdf

MAX_APART = 0.001
"""Years by which a distribution may be moved, as the mean over its quantiles (Wasserstein-1); and, where there are no
ages, what a probability may differ by."""
NUM_PROBES = 6


def probes(size: int) -> np.ndarray:
    """Images (N, S, S, 3) to compare two forms of a model on, always the same: grey, gradients, noise."""
    ramp_S = np.linspace(0, 255, size)
    images: list[np.ndarray] = [np.full((size, size, 3), level, dtype=np.float64) for level in (0, 128)]
    images += [
        np.broadcast_to(ramp_S[:, None, None], (size, size, 3)),
        np.broadcast_to(ramp_S[:, None], (size, size, 3)),
    ]
    rng = np.random.default_rng(0)
    images += [rng.integers(0, 256, (size, size, 3)) for _ in range(NUM_PROBES - len(images))]
    return np.stack(images).astype(np.uint8)


def years_apart(one_NA: np.ndarray, other_NA: np.ndarray) -> float:
    """The furthest that two stored distributions of one image are apart: years, the mean over their quantiles.

    >>> young, old = np.zeros((1, 101)), np.zeros((1, 101))
    >>> young[0, 20], old[0, 23] = 1, 1
    >>> years_apart(cdf.quantize(young), cdf.quantize(old))
    3.0
    """
    return float(np.abs(cdf.dequantize(one_NA) - cdf.dequantize(other_NA)).sum(axis=1).max())


def apart(said: Mapping[str, Any], expected: Mapping[str, Any]) -> float:
    """How far the columns of two forms lie apart, to be held against ``MAX_APART``."""
    if "age_cdf" in expected:
        return years_apart(np.stack(said["age_cdf"]), np.stack(expected["age_cdf"]))
    probs_NG, expected_NG = (np.asarray(columns["group_probabilities"]) for columns in (said, expected))
    return float(np.abs(probs_NG - expected_NG).max())
