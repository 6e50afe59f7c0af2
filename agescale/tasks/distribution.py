"""How old: a distribution over the ages 0..99 and 100 or more.

Exact ages and age ranges train it together; class names without bounds cannot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from agescale.age_groups import EXACT_YEARS, MAX_AGE, AgeGroups
from agescale.tasks.heads import dense_head
from agescale.tasks.prediction import Prediction


@dataclass(frozen=True)
class Distribution:
    """DLDL-v2 for exact ages, an interval-censored likelihood for age ranges.

    An exact age [34, 35) is learned as a normal distribution around 34 of ``sigma`` years, taken at the ages 0..100
    and summing to 1: the loss is KL(label || prediction) + ``l1_weight`` * |expected age - 34|
    (Gao et al., "Age Estimation Using Expectation of Label Distribution Learning", IJCAI 2018).
    A range [25, 50) costs -log P(25 <= age < 50).

    Uniform outputs have the expectation 50, and 25 of the 101 bins lie in [25, 50), -log(25 / 101) = 1.396:

    >>> task = Distribution()
    >>> nan = float("nan")
    >>> batch = {"age_low": torch.tensor([34, 25, nan]), "age_high": torch.tensor([35, 50, nan])}
    >>> loss_N, weight_N = task.loss(torch.zeros(3, 101), batch)
    >>> [round(loss, 3) for loss in loss_N.tolist()], weight_N.tolist()
    ([18.503, 1.396, 0.0], [1.0, 1.0, 0.0])

    The first is ln 101 - ln(2 sqrt(2 pi e)) = 2.503, and 50 - 34 = 16.
    """

    age_groups: AgeGroups | None = None
    sigma: float = 2.0
    l1_weight: float = 1.0
    metric: ClassVar[str] = "mae"

    def build_head(self, num_features: int, hidden: tuple[int, ...], dropout: float) -> nn.Module:
        return dense_head(num_features, hidden, dropout, MAX_AGE + 1)

    def loss(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Loss in nats per image (N,), and 1 for images with an age or a range, 0 for the others, whose loss is 0."""
        log_probs_NA = outputs.float().log_softmax(dim=1)
        low_N, high_N = batch["age_low"], batch["age_high"]
        is_labelled_N = ~(low_N.isnan() | high_N.isnan())
        is_exact_N = is_labelled_N & (high_N - low_N <= EXACT_YEARS)
        low_N, high_N = low_N.nan_to_num(0.0).clamp(0, MAX_AGE), torch.where(is_labelled_N, high_N, torch.inf)

        age_A = torch.arange(MAX_AGE + 1, device=outputs.device, dtype=torch.float32)
        label_log_probs_NA = (-0.5 * ((age_A - low_N[:, None]) / self.sigma) ** 2).log_softmax(dim=1)
        label_probs_NA = label_log_probs_NA.exp()
        kl_N = (label_probs_NA * (label_log_probs_NA - log_probs_NA)).sum(dim=1)
        expected_age_N = (log_probs_NA.exp() * age_A).sum(dim=1)
        exact_loss_N = kl_N + self.l1_weight * (expected_age_N - low_N).abs()

        is_outside_NA = (age_A + 1 <= low_N[:, None]) | (age_A >= high_N.clamp(min=1)[:, None])
        is_outside_NA[:, MAX_AGE] &= high_N <= MAX_AGE  # the last bin is open, so it holds [105, 110) too
        range_loss_N = -log_probs_NA.masked_fill(is_outside_NA, -torch.inf).logsumexp(dim=1)

        loss_N = torch.where(is_exact_N, exact_loss_N, range_loss_N)
        return torch.where(is_labelled_N, loss_N, 0.0), is_labelled_N.float()

    def decode(self, outputs: Tensor) -> Prediction:
        return Prediction(age_probs_NA=outputs.float().softmax(dim=1))

    def check_labels(self, num_exact: int, num_range: int, num_group: int, num_unlabelled: int) -> None:
        if num_exact + num_range == 0:
            raise ValueError(
                f"distribution needs ages or age ranges: {num_group} images have only the name of an age group and "
                f"{num_unlabelled} no label; give the groups bounds (--age-groups name=low-high,...) when cataloging, "
                "or use --task classification"
            )
