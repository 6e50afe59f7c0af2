"""What every age task decodes to."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Prediction:
    """Probabilities of a batch of N images, float32, each row summing to 1. One of the two is None.

    ``age_probs_NA``: over the 101 age bins, [a, a+1) years for a = 0..99 and [100, infinity).
    ``group_probs_NG``: over the age groups, where these have names only, so that no age can be predicted.
    """

    age_probs_NA: Tensor | None = None
    group_probs_NG: Tensor | None = None
