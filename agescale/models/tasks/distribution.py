"""How old: a distribution over the ages 0..99 and 100 or more.

Exact ages and age ranges train it together; class names without bounds cannot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from agescale.ages.groups import MAX_AGE, AgeGroups
from agescale.models.tasks.heads import Reads, dense_head
from agescale.models.tasks.labels import AgeLabels, check_ages
from agescale.models.tasks.prediction import Prediction

MEAN_WEIGHT, VARIANCE_WEIGHT = 0.2, 0.05
"""Of the parts of the mean-variance loss beside the cross-entropy, as in its paper."""


@dataclass(frozen=True)
class Distribution:
    """DLDL-v2 or mean-variance for exact ages, an interval-censored likelihood for age ranges.

    ``dldl``: an exact age [34, 35) is learned as a normal distribution around 34 of ``sigma`` years, taken at the ages
    0..100 and summing to 1: the loss is KL(label || prediction) + ``l1_weight`` * |expected age - 34|
    (Gao et al., "Age Estimation Using Expectation of Label Distribution Learning", IJCAI 2018).

    ``mean-variance``: -log P(34) + 0.2 * (expected age - 34)^2 / 2 + 0.05 * variance
    (Pan et al., "Mean-Variance Loss for Deep Age Estimation from a Face", CVPR 2018).

    With both, a range [25, 50) costs -log P(25 <= age < 50).

    Uniform outputs have the expectation 50, and 25 of the 101 bins lie in [25, 50), -log(25 / 101) = 1.396:

    >>> task = Distribution()
    >>> nan = float("nan")
    >>> batch = {"age_low": torch.tensor([34, 25, nan]), "age_high": torch.tensor([35, 50, nan])}
    >>> loss_N, weight_N = task.loss(torch.zeros(3, 101), batch)
    >>> [round(loss, 3) for loss in loss_N.tolist()], weight_N.tolist()
    ([18.503, 1.396, 0.0], [1.0, 1.0, 0.0])

    The first is ln 101 - ln(2 sqrt(2 pi e)) = 2.503, and 50 - 34 = 16. With the variance (101^2 - 1) / 12 = 850, the
    other loss is ln 101 + 0.1 * 16^2 + 0.05 * 850 = 4.615 + 25.6 + 42.5:

    >>> loss_N, _ = Distribution(loss_name="mean-variance").loss(torch.zeros(3, 101), batch)
    >>> [round(loss, 3) for loss in loss_N.tolist()]
    [72.715, 1.396, 0.0]
    """

    age_groups: AgeGroups | None = None
    loss_name: str = "dldl"
    sigma: float = 2.0
    l1_weight: float = 1.0
    losses: ClassVar[tuple[str, ...]] = ("dldl", "mean-variance")
    reads: ClassVar[Reads] = "features"
    predicts_age: ClassVar[bool] = True
    metric: ClassVar[str] = "mae"

    def build_head(self, encoder: nn.Module, head_sizes: tuple[int, ...], dropout: float) -> nn.Module:
        return dense_head(encoder, head_sizes, dropout, MAX_AGE + 1)

    def loss(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Loss per image (N,), and 1 for images with an age or a range, 0 for the others, whose loss is 0."""
        labels, log_probs_NA = AgeLabels.of(batch), outputs.float().log_softmax(dim=1)
        exact_loss = self._mean_variance if self.loss_name == "mean-variance" else self._dldl
        range_loss_N = -log_probs_NA.masked_fill(labels.outside_bins(), -torch.inf).logsumexp(dim=1)
        loss_N = torch.where(labels.is_exact_N, exact_loss(log_probs_NA, labels.low_N), range_loss_N)
        return torch.where(labels.is_labelled_N, loss_N, 0.0), labels.is_labelled_N.float()

    def _dldl(self, log_probs_NA: Tensor, age_N: Tensor) -> Tensor:
        age_A = _ages(log_probs_NA)
        label_log_probs_NA = (-0.5 * ((age_A - age_N[:, None]) / self.sigma) ** 2).log_softmax(dim=1)
        kl_N = (label_log_probs_NA.exp() * (label_log_probs_NA - log_probs_NA)).sum(dim=1)
        expected_age_N = (log_probs_NA.exp() * age_A).sum(dim=1)
        return kl_N + self.l1_weight * (expected_age_N - age_N).abs()

    def _mean_variance(self, log_probs_NA: Tensor, age_N: Tensor) -> Tensor:
        age_A, probs_NA = _ages(log_probs_NA), log_probs_NA.exp()
        cross_entropy_N = -log_probs_NA.gather(1, age_N[:, None].long())[:, 0]
        mean_N = (probs_NA * age_A).sum(dim=1)
        variance_N = (probs_NA * (age_A - mean_N[:, None]) ** 2).sum(dim=1)
        return cross_entropy_N + MEAN_WEIGHT * (mean_N - age_N) ** 2 / 2 + VARIANCE_WEIGHT * variance_N

    def predict(self, outputs: Tensor) -> Prediction:
        return Prediction(age_probs_NA=outputs.float().softmax(dim=1))

    def check_labels(self, num_exact: int, num_range: int, num_group: int, num_unlabelled: int) -> None:
        check_ages("distribution", num_exact, num_range, num_group, num_unlabelled)


def _ages(like: Tensor) -> Tensor:
    return torch.arange(MAX_AGE + 1, device=like.device, dtype=torch.float32)
