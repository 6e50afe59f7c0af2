"""Who must show papers at an age gate: the rule that a gate found, and whom of a table it lets pass.

In: ages and stored distributions. Out: who passes. Knows neither how the threshold was found (``evaluation.gates``) nor
tables. Legend of shapes: N faces, A = 101 ages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from agescale.ages import cdf

By = Literal["age", "probability"]


@dataclass(frozen=True)
class PapersRule:
    """Papers where the predicted age is below ``threshold`` (years), or where the predicted probability of being under
    ``gate_age`` is above it.

    >>> rule = PapersRule("age", 18, 25.0)
    >>> rule.where, rule.passes(np.array([24.9, 25.0, np.nan])).tolist()
    ('age < 25', [False, True, False])
    """

    by: By
    gate_age: int
    threshold: float

    def passes(self, score_N: np.ndarray) -> np.ndarray:
        """Who passes without papers, (N,), by ages or probabilities; nobody of whom that is not known (NaN)."""
        return score_N >= self.threshold if self.by == "age" else score_N <= self.threshold

    def scores(self, age_N: np.ndarray, cdf_NA: np.ndarray) -> np.ndarray:
        """What decides, (N,), of predicted ages and their distributions as they are stored."""
        return age_N if self.by == "age" else cdf.probability_under(cdf_NA, self.gate_age).round(6)

    @property
    def where(self) -> str:
        """The rule in the columns of the tables, as in ``jobs/table.py --probability-under``."""
        if self.by == "age":
            return f"age < {self.threshold:g}"
        return f"probability_under_{self.gate_age} > {self.threshold:g}"
