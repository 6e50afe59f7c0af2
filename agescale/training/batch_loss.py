"""What a batch costs: the task's loss, that of the auxiliary heads, weights of images, and mixed labels.

In: a model's outputs and a batch of labels. Out: losses and weights per image, to be summed over all workers. Knows
nothing of optimisers or of where batches come from.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from agescale.models.age_model import Outputs
from agescale.models.tasks import Task

Mixed = tuple[Tensor, Tensor]
"""Each image's partner (N,), and the share (N,) of the image itself: see augment.mix."""


def batch_loss(
    task: Task, outputs: Outputs, batch: Mapping[str, Tensor], auxiliary_weight: float, mixed: Mixed | None = None
) -> tuple[Tensor, Tensor]:
    """Losses (N,) and weights (N,); the loss of a batch is sum(losses) / sum(weights), both over all workers.

    A batch holds what the task's loss reads, ``weight`` (N,), and an index (N,) into the classes of each auxiliary
    head, -1 where its label is missing: then that head learns nothing from the image. Nor does it where the task has no
    use for the image.
    """
    loss_N, weight_N = _loss(task, outputs, batch, auxiliary_weight)
    if mixed is None:
        return loss_N, weight_N
    partner_N, share_N = mixed
    partners = {name: values[partner_N] for name, values in batch.items()}
    other_loss_N, other_weight_N = _loss(task, outputs, partners, auxiliary_weight)
    return torch.lerp(other_loss_N, loss_N, share_N), torch.lerp(other_weight_N, weight_N, share_N)


def _loss(task: Task, outputs: Outputs, batch: Mapping[str, Tensor], auxiliary_weight: float) -> tuple[Tensor, Tensor]:
    loss_N, weight_N = task.loss(outputs.task, batch)
    for column, logits_NK in outputs.auxiliary.items():
        cross_entropy_N = F.cross_entropy(logits_NK.float(), batch[column], ignore_index=-1, reduction="none")
        loss_N = loss_N + auxiliary_weight * weight_N * cross_entropy_N  # who has no age is not in the denominator
    return loss_N * batch["weight"], weight_N * batch["weight"]
