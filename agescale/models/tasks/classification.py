"""Which age group: cross-entropy over the groups.

Takes labels as group indices, so class names without bounds train it too. Predicts ages only where the groups have
bounds, and then as coarsely as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agescale.ages.groups import MAX_AGE, AgeGroups
from agescale.models.tasks.heads import Reads, dense_head
from agescale.models.tasks.prediction import Prediction


@dataclass(frozen=True)
class Classification:
    """Softmax over the age groups. ``label_smoothing`` in 0..1 spreads that part of each label over all groups.

    Uniform outputs over four groups cost ln 4 = 1.386; an image without a group weighs nothing:

    >>> task = Classification(AgeGroups.parse("life-stages"))
    >>> loss_N, weight_N = task.loss(torch.zeros(2, 4), {"group": torch.tensor([3, -1])})
    >>> [round(loss, 3) for loss in loss_N.tolist()], weight_N.tolist()
    ([1.386, 0.0], [1.0, 0.0])

    A group's probability is spread evenly over its ages, 13-19 over seven:

    >>> logits_NG = torch.tensor([[0.0, 0.7, 0.0, 0.3]]).log()
    >>> probs_NA = task.predict(logits_NG).age_probs_NA
    >>> round(float(probs_NA[0, 15]), 3), round(float(probs_NA[0, 13:20].sum()), 3)
    (0.1, 0.7)
    """

    age_groups: AgeGroups
    loss_name: str = "cross-entropy"
    label_smoothing: float = 0.0
    losses: ClassVar[tuple[str, ...]] = ("cross-entropy",)
    reads: ClassVar[Reads] = "features"
    predicts_age: ClassVar[bool] = True
    metric: ClassVar[str] = "accuracy"

    def build_head(self, encoder: nn.Module, head_sizes: tuple[int, ...], dropout: float) -> nn.Module:
        return dense_head(encoder, head_sizes, dropout, len(self.age_groups))

    def loss(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Cross-entropy in nats per image (N,), and 1 for images with a group, 0 for the others, whose loss is 0."""
        group_N = batch["group"]
        loss_N = F.cross_entropy(
            outputs.float(), group_N, ignore_index=-1, reduction="none", label_smoothing=self.label_smoothing
        )
        return loss_N, (group_N >= 0).float()

    def predict(self, outputs: Tensor) -> Prediction:
        probs_NG = outputs.float().softmax(dim=1)
        if not self.age_groups.is_bounded:
            return Prediction(group_probs_NG=probs_NG)
        group_A, share_A = _spread(self.age_groups)
        return Prediction(age_probs_NA=probs_NG[:, group_A.to(probs_NG.device)] * share_A.to(probs_NG.device))

    def check_labels(self, num_exact: int, num_range: int, num_group: int, num_unlabelled: int) -> None:
        if num_group == 0:
            raise ValueError(
                f"classification has nothing to learn from: no image falls into one of the age groups "
                f"{self.age_groups.format()} ({num_exact} exact ages, {num_range} age ranges, {num_unlabelled} "
                "without a label); use other --age-groups, or --task distribution for ages and ranges"
            )


def _spread(age_groups: AgeGroups) -> tuple[Tensor, Tensor]:
    """Each age bin's group, and its share of that group: 1 over the group's number of bins; 0 in gaps between groups.

    Two vectors rather than a matrix, whose product automatic mixed precision would round.
    """
    low_G, high_G = torch.tensor(age_groups.bounds()).T
    age_A = torch.arange(MAX_AGE + 1)
    is_inside_GA = (age_A >= low_G[:, None]) & (age_A < high_G[:, None])
    shares_GA = is_inside_GA / is_inside_GA.sum(dim=1, keepdim=True)
    return is_inside_GA.int().argmax(dim=0), shares_GA.sum(dim=0)
