"""What the labels of a batch say, to the tasks that learn ages: exact ages and ranges side by side.

In: a batch's ``age_low`` and ``age_high``. Out: ``AgeLabels``, and the age bins that they leave out. Class names
without bounds say nothing here. Legend of shapes: N images, A = 101 age bins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from agescale.ages.groups import MAX_AGE
from agescale.ages.labels import is_exact


@dataclass(frozen=True, eq=False)
class AgeLabels:
    """Labels [low, high) of N images in years; ``low_N`` is 0..100, ``high_N`` infinity where open.

    An image without a label is [0, infinity), so that losses stay finite before they are masked out.
    """

    low_N: Tensor
    high_N: Tensor
    is_exact_N: Tensor
    is_labelled_N: Tensor

    @staticmethod
    def of(batch: Mapping[str, Tensor]) -> AgeLabels:
        """The labels of a batch; ages above 100 count as 100.

        >>> labels = AgeLabels.of({"age_low": torch.tensor([110, 25]), "age_high": torch.tensor([111, 50])})
        >>> labels.low_N.tolist(), labels.high_N.tolist(), labels.is_exact_N.tolist()
        ([100.0, 25.0], [111.0, 50.0], [True, False])
        """
        low_N, high_N = batch["age_low"].float(), batch["age_high"].float()
        is_labelled_N = ~(low_N.isnan() | high_N.isnan())
        return AgeLabels(
            low_N=torch.where(is_labelled_N, low_N, 0.0).clamp(0, MAX_AGE),
            high_N=torch.where(is_labelled_N, high_N, torch.inf),
            is_exact_N=is_labelled_N & is_exact(low_N, high_N),
            is_labelled_N=is_labelled_N,
        )

    def outside_bins(self) -> Tensor:
        """Which age bins (N, 101) a label leaves out. An exact age leaves all out but the bin that it starts in.

        >>> labels = AgeLabels.of({"age_low": torch.tensor([34.5, 25]), "age_high": torch.tensor([35.5, 50])})
        >>> [(~is_outside_A).nonzero().flatten().tolist()[::24] for is_outside_A in labels.outside_bins()]
        [[34], [25, 49]]
        """
        high_N = torch.where(self.is_exact_N, self.low_N.floor() + 1, self.high_N)
        age_A = torch.arange(MAX_AGE + 1, device=high_N.device, dtype=torch.float32)
        is_outside_NA = (age_A + 1 <= self.low_N[:, None]) | (age_A >= high_N.clamp(min=1)[:, None])
        is_outside_NA[:, MAX_AGE] &= high_N <= MAX_AGE  # the last bin is open, so it holds [105, 110) too
        return is_outside_NA


def check_ages(task: str, num_exact: int, num_range: int, num_group: int, num_unlabelled: int) -> None:
    """Raises ValueError, in one line, where no image has an age or a range; the counts are ``Task.check_labels``'s."""
    if num_exact + num_range == 0:
        raise ValueError(
            f"{task} needs ages or age ranges: {num_group} images have only the name of an age group and "
            f"{num_unlabelled} no label; give the groups bounds (the same jobs/catalog.py command with "
            "--age-groups name=low-high,...), or use --task classification"
        )
