"""What a batch costs: numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from agescale.ages.groups import AgeGroups
from agescale.models.age_model import Outputs
from agescale.models.tasks import build_task
from agescale.training.batch_loss import batch_loss

TASK = build_task("classification", AgeGroups.parse("life-stages"))


def batch_of(num_images: int = 4) -> dict[str, Tensor]:
    return {
        "group": torch.tensor([0, 1, 2, -1])[:num_images],
        "gender": torch.tensor([0, 1, -1, 1])[:num_images],
        "weight": torch.ones(num_images),
    }


def outputs_of(gender: bool = False) -> Outputs:
    generator = torch.Generator().manual_seed(0)
    return Outputs(
        torch.randn(4, 4, generator=generator), {"gender": torch.randn(4, 2, generator=generator)} if gender else {}
    )


def test_without_anything_further_it_is_the_tasks_loss() -> None:
    outputs, batch = outputs_of(), batch_of()
    for ours, theirs in zip(batch_loss(TASK, outputs, batch, 0.2), TASK.loss(outputs.task, batch), strict=True):
        assert torch.equal(ours, theirs)


def test_an_image_of_weight_three_counts_like_three_images() -> None:
    outputs, batch = outputs_of(), batch_of()
    loss_N, weight_N = batch_loss(TASK, outputs, {**batch, "weight": torch.tensor([3.0, 1, 1, 1])}, 0.2)
    rows = [0, 0, 0, 1, 2, 3]
    repeated = {name: values[rows] for name, values in batch.items()}
    losses, weights = batch_loss(TASK, Outputs(outputs.task[rows], {}), repeated, 0.2)
    torch.testing.assert_close(loss_N.sum() / weight_N.sum(), losses.sum() / weights.sum())


def test_auxiliary_heads_add_their_cross_entropy_where_their_label_is_known() -> None:
    outputs, batch = outputs_of(gender=True), batch_of()
    loss_N, weight_N = batch_loss(TASK, outputs, batch, 0.5)
    alone_N, alone_weight_N = TASK.loss(outputs.task, batch)
    logits_NK = outputs.auxiliary["gender"]
    torch.testing.assert_close(loss_N[0], alone_N[0] + 0.5 * F.cross_entropy(logits_NK[0], torch.tensor(0)))
    assert loss_N[2] == alone_N[2]  # its gender is missing
    assert torch.equal(weight_N, alone_weight_N)


def test_an_image_that_the_task_cannot_use_pulls_no_auxiliary_head_either() -> None:
    """It is not in the sum of weights, by which the losses are divided: alone in a batch it would weigh infinitely."""
    loss_N, weight_N = batch_loss(TASK, outputs_of(gender=True), batch_of(), 0.5)
    assert (float(loss_N[3]), float(weight_N[3])) == (0, 0)


def test_mixed_labels_cost_their_shares() -> None:
    """Uniform outputs cost ln 4 for each label; the share of an image's own label is what counts of it."""
    outputs = Outputs(torch.tensor([[0.0, 0, 0, 0], [2.0, 0, 0, 0]]), {})
    batch = {"group": torch.tensor([0, 1]), "weight": torch.ones(2)}
    mixed = (torch.tensor([1, 0]), torch.tensor([0.75, 0.6]))
    loss_N, weight_N = batch_loss(TASK, outputs, batch, 0.2, mixed)
    own, partners = (-torch.log_softmax(outputs.task[1], 0)[index].item() for index in (1, 0))
    assert loss_N.tolist() == pytest.approx([math.log(4), 0.6 * own + 0.4 * partners])
    assert weight_N.tolist() == [1, 1]


def test_a_mixed_image_whose_partner_has_no_label_counts_by_its_own_share() -> None:
    batch = {"group": torch.tensor([0, -1]), "weight": torch.ones(2)}
    mixed = (torch.tensor([1, 0]), torch.tensor([0.75, 0.6]))
    loss_N, weight_N = batch_loss(TASK, Outputs(torch.zeros(2, 4), {}), batch, 0.2, mixed)
    assert weight_N.tolist() == pytest.approx([0.75, 0.4])
    torch.testing.assert_close(loss_N, weight_N * math.log(4))
