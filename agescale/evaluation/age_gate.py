"""How an age gate would do: whom it lets pass, and whom it stops, at several thresholds."""

from __future__ import annotations

import math

import numpy as np

from agescale.ages.labels import FULL_AGE
from agescale.evaluation.intervals import wilson_interval
from agescale.evaluation.records import GateBand

GATE_AGE = FULL_AGE
GATE_BANDS = ((0, 13), (13, 16), (16, 18), (18, 21), (21, 25), (25, 30), (30, math.inf))


def age_gate(true_age_N: np.ndarray, predicted_age_N: np.ndarray, gate_age: int = GATE_AGE) -> list[GateBand]:
    """Who passes, or is stopped at, a gate at ``gate_age`` years that trusts the predicted age, by band of true age.

    A row a band, then the totals "all under 18" and "all 18 and over": ``wrong`` is the share of minors predicted at or
    over the gate, or of adults predicted under it, with a 95 % Wilson interval (Wilson 1927), which, unlike a
    bootstrap, stays honest where none of a few is wrong: none of 10 is [0, 0.278].

    >>> age_gate(np.array([12.0, 17.0, 40.0]), np.array([10.0, 18.5, 39.0]))[-2].wrong
    0.5
    """
    known_N = ~np.isnan(true_age_N) & ~np.isnan(predicted_age_N)
    true_N, wrong_N = true_age_N[known_N], ((predicted_age_N >= gate_age) != (true_age_N >= gate_age))[known_N]
    totals = [(f"all under {gate_age}", 0, gate_age), (f"all {gate_age} and over", gate_age, math.inf)]
    bands = [(f"{low}-{high - 1}" if high < math.inf else f"{low}+", low, high) for low, high in GATE_BANDS]
    rows = []
    for name, low, high in bands + totals:
        inside_N = (true_N >= low) & (true_N < high)
        num_rows, num_wrong = int(inside_N.sum()), int(wrong_N[inside_N].sum())
        wrong_low, wrong_high = wilson_interval(num_wrong, num_rows)
        wrong = num_wrong / num_rows if num_rows else None
        rows.append(GateBand(name, high <= gate_age, num_rows, num_wrong, wrong, wrong_low, wrong_high))
    return rows
