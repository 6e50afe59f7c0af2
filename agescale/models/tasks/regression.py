"""How old: one number.

Exact ages and age ranges train it together; class names without bounds cannot. Knows no uncertainty: the spread of
what it decodes to is that of the stored form, and says nothing of how wrong the age may be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agescale.ages.groups import MAX_AGE, AgeGroups
from agescale.models.tasks.heads import Reads, dense_head
from agescale.models.tasks.labels import AgeLabels, check_ages
from agescale.models.tasks.prediction import Prediction

CENTRE_YEARS, SCALE_YEARS = 40.0, 20.0
"""The output is (age - 40) / 20: about 0 with a spread of 1 on any mixture of ages, as ordinary learning rates want."""

HUBER_YEARS = 5.0


@dataclass(frozen=True)
class Regression:
    """The distance to the label, in years: ``l1``, or ``huber``, which is smooth near 0 and l1 less 2.5 far away.

    A range [25, 50) costs the distance to the nearest age that it admits, 25..49 on the labels' scale; exact ages are
    the ranges of one age. Ages above 100 count as 100. ``huber`` is that of Huber ("Robust Estimation of a Location
    Parameter", 1964) with delta = 5 years, divided by delta, so that it is years too: error^2 / 10 up to 5 years.

    The output 0 is the age 40: 6 years above 34, inside [25, 50), 20 years below [60, infinity):

    >>> nan, inf = float("nan"), float("inf")
    >>> batch = {"age_low": torch.tensor([34, 25, 60, nan]), "age_high": torch.tensor([35, 50, inf, nan])}
    >>> loss_N, weight_N = Regression().loss(torch.zeros(4, 1), batch)
    >>> loss_N.tolist(), weight_N.tolist()
    ([6.0, 0.0, 20.0, 0.0], [1.0, 1.0, 1.0, 0.0])
    >>> Regression(loss_name="huber").loss(torch.zeros(4, 1), batch)[0].tolist()
    [3.5, 0.0, 17.5, 0.0]
    """

    age_groups: AgeGroups | None = None
    loss_name: str = "l1"
    losses: ClassVar[tuple[str, ...]] = ("l1", "huber")
    reads: ClassVar[Reads] = "features"
    predicts_age: ClassVar[bool] = True
    metric: ClassVar[str] = "mae"

    def build_head(self, encoder: nn.Module, head_sizes: tuple[int, ...], dropout: float) -> nn.Module:
        head = dense_head(encoder, head_sizes, dropout, 1)
        nn.init.zeros_(cast(nn.Linear, head[-1]).bias)
        return head

    def loss(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Loss in years per image (N,), and 1 for images with an age or a range, 0 for the others, whose loss is 0."""
        labels, age_N = AgeLabels.of(batch), _age(outputs)
        last_N = torch.where(labels.is_exact_N, labels.low_N, torch.maximum(labels.low_N, labels.high_N - 1))
        nearest_N = torch.clamp(age_N, labels.low_N, last_N)
        if self.loss_name == "huber":
            loss_N = F.smooth_l1_loss(age_N, nearest_N, beta=HUBER_YEARS, reduction="none")
        else:
            loss_N = (age_N - nearest_N).abs()
        return torch.where(labels.is_labelled_N, loss_N, 0.0), labels.is_labelled_N.float()

    def predict(self, outputs: Tensor) -> Prediction:
        """The age, brought to 0..100, as mass in the two bins next to it, shared out so that the median is that age.

        The mean is within 0.09 years of it, and the mode is the nearer bin. 34.25 is two thirds in bin 34:

        >>> probs_NA = Regression().predict(torch.tensor([[(34.25 - 40) / 20]])).age_probs_NA
        >>> probs_NA[0, 33:37].round(decimals=3).tolist()
        [0.0, 0.6669999957084656, 0.3330000042915344, 0.0]

        Half of all mass is 3/4 of that in bin 34, and 34 + 3/4 - 1/2 is the median (``cdf.median_age``).
        """
        age_N1 = _age(outputs).clamp(0, MAX_AGE)[:, None]
        distance_NA = (age_N1 - torch.arange(MAX_AGE + 1, device=outputs.device)).abs().clamp(max=1)
        near_NA, far_NA = 1 / (1 + 2 * distance_NA), (2 - 2 * distance_NA) / (3 - 2 * distance_NA)
        return Prediction(age_probs_NA=torch.where(distance_NA <= 0.5, near_NA, far_NA))

    def check_labels(self, num_exact: int, num_range: int, num_group: int, num_unlabelled: int) -> None:
        check_ages("regression", num_exact, num_range, num_group, num_unlabelled)


def _age(outputs: Tensor) -> Tensor:
    return CENTRE_YEARS + SCALE_YEARS * outputs.float()[:, 0]
