"""Fine-tuning: phases, freezing, optimiser groups, learning rates and the averaged model."""

from __future__ import annotations

import doctest
from itertools import pairwise

import pytest
import torch
from torch import nn

from agescale.training import finetuning
from agescale.training.finetuning import (
    SCHEDULES,
    Phase,
    build_ema,
    cap_epochs,
    format_phases,
    freeze,
    lr_at,
    param_groups,
    parse_phases,
    set_train_mode,
)


class Blocks(nn.Module):
    """Three blocks with batch norm, the third with dropout as well."""

    num_features = 4

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.1)) for _ in "abc")

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

    def blocks(self):
        return list(self.layers)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = Blocks()
        self.head = nn.Linear(4, 2)
        self.register_buffer("mean", torch.tensor([0.5]))

    def forward(self, x):
        return self.head(self.encoder(x - self.mean))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model()


def test_worked_examples_in_the_docstrings_hold():
    results = doctest.testmod(finetuning)
    assert results.attempted > 0
    assert results.failed == 0


def test_phases_are_read_and_written():
    phases = parse_phases("head:1@1e-3, last2:3@1e-4,all:10@3e-5")
    assert phases == (Phase("head", 1, 1e-3), Phase("last2", 3, 1e-4), Phase("all", 10, 3e-5))
    assert parse_phases(format_phases(phases)) == phases
    odd = (Phase("all", 1, 0.1 + 0.2),)
    assert parse_phases(format_phases(odd)) == odd


@pytest.mark.parametrize(
    "text",
    [
        "",
        "head",
        "head:1",
        "head:0@1e-3",
        "last0:1@1e-3",
        "last:1@1e-3",
        "all:1@0",
        "all:1@1e999",
        "all:1@-1",
        "all:1@1.2.3",
        "head:1@1e-3,",
    ],
)
def test_what_is_no_phase_is_one_clear_line(text):
    with pytest.raises(ValueError, match=r"phases: .* is not scope:epochs@learning_rate") as caught:
        parse_phases(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("num_epochs", "capped"),
    [
        (1, "head:1@0.1"),
        (2, "head:1@0.1,last2:1@0.2"),
        (4, "head:1@0.1,last2:3@0.2"),
        (99, "head:1@0.1,last2:3@0.2,all:9@0.3"),
    ],
)
def test_capped_epochs_are_the_first_ones(num_epochs, capped):
    assert format_phases(cap_epochs(parse_phases("head:1@0.1,last2:3@0.2,all:9@0.3"), num_epochs)) == capped


def test_no_epoch_at_all_is_refused():
    with pytest.raises(ValueError, match="at least one epoch"):
        cap_epochs(parse_phases("all:9@0.3"), 0)


@pytest.mark.parametrize(("scope", "num_learning"), [("head", 0), ("last1", 1), ("last2", 2), ("last3", 3), ("all", 3)])
def test_scope_decides_which_blocks_learn_and_which_statistics_move(model, scope, num_learning):
    freeze(model, "all")
    freeze(model, scope)
    model.eval()
    set_train_mode(model, scope)
    is_learning = [False] * (3 - num_learning) + [True] * num_learning
    for block, learns in zip(model.encoder.blocks(), is_learning, strict=True):
        assert {parameter.requires_grad for parameter in block.parameters()} == {learns}
        assert {module.training for module in block.modules()} == {learns}
    assert all(parameter.requires_grad for parameter in model.head.parameters())
    assert model.head.training

    before = [block[1].running_mean.clone() for block in model.encoder.blocks()]
    model(torch.randn(8, 4)).sum().backward()
    moved = [not torch.equal(b, block[1].running_mean) for b, block in zip(before, model.encoder.blocks(), strict=True)]
    assert moved == is_learning


def test_frozen_batch_norms_predict_as_in_evaluation_and_stay_while_all_else_learns(model):
    """Folded ones know nothing of their inputs: mean 0, variance 1, as those of a new model."""
    images = torch.randn(8, 4) + 1
    model.eval()
    predicted = model(images)
    freeze(model, "all")
    for layer in model.encoder.layers:
        layer[2].p = 0.0

    set_train_mode(model, "all", freeze_batch_norm=True)
    first = model(images)
    assert torch.equal(first, predicted)
    assert all(layer[0].training and layer[2].training for layer in model.encoder.layers)
    assert not any(layer[1].running_mean.any() for layer in model.encoder.layers)
    first.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())

    set_train_mode(model, "all")
    assert not torch.allclose(model(images), predicted, atol=0.1)
    assert all(layer[1].running_mean.any() for layer in model.encoder.layers)


def test_later_phases_unfreeze_what_earlier_ones_froze(model):
    freeze(model, "head")
    freeze(model, "last2")
    assert sum(p.requires_grad for p in model.encoder.parameters()) == 8
    freeze(model, "all")
    assert all(p.requires_grad for p in model.parameters())


def test_more_blocks_than_there_are_is_one_clear_line(model):
    with pytest.raises(ValueError, match="last4 is more than the 3 blocks of this encoder"):
        freeze(model, "last4")
    assert all(p.requires_grad for p in model.parameters())


def test_weight_decay_spares_biases_norms_and_what_is_frozen(model):
    freeze(model, "last1")
    decayed, spared = param_groups(model, 0.05)
    assert decayed["weight_decay"] == 0.05
    assert spared["weight_decay"] == 0.0
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert [names[id(p)] for p in decayed["params"]] == ["encoder.layers.2.0.weight", "head.weight"]
    assert len(spared["params"]) == 4  # a bias, a norm's weight and bias, the head's bias
    torch.optim.AdamW([decayed, spared], lr=1e-3)


def test_each_block_learns_at_a_part_of_the_rate_of_the_one_behind_it(model):
    freeze(model, "all")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = param_groups(model, 0.05, head_weight_decay=0.1, layer_decay=0.75)
    scales = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    assert scales.keys() == set(names.values())
    for name, scale in scales.items():
        assert scale == (1.0 if name.startswith("head") else 0.75 ** (3 - int(name.split(".")[2]))), name
    plain = {names[id(p)]: group["weight_decay"] for group in param_groups(model, 0.05, 0.1) for p in group["params"]}
    assert {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]} == plain
    assert len(param_groups(model, 0.05, 0.1)) == 3  # decay of the encoder's, of the head's, none
    freeze(model, "last1")
    assert {group["lr_scale"] for group in param_groups(model, 0.05, layer_decay=0.75)} == {1.0, 0.75}


def test_learning_rate_warms_up_and_falls_to_its_end():
    rates = [lr_at(step, 100, 10, 1e-3) for step in range(100)]
    assert rates[:2] == pytest.approx([1e-4, 2e-4])
    assert max(rates) == rates[9] == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-6)
    assert rates[9:] == sorted(rates[9:], reverse=True)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_stays_within_its_bounds_even_for_one_step(schedule):
    for num_steps, warmup_steps in [(1, 0), (1, 1), (2, 5), (50, 5)]:
        rates = [lr_at(step, num_steps, warmup_steps, 1e-3, schedule=schedule) for step in range(num_steps)]
        assert all(1e-6 <= rate <= 1e-3 * (1 + 1e-9) for rate in rates)
    assert lr_at(7, 10, 0, 1e-7, schedule=schedule) == pytest.approx(1e-7)  # lr_min never raises it


def test_exponential_falls_by_the_same_factor_each_step():
    rates = [lr_at(step, 10, 0, 1e-3, schedule="exponential") for step in range(10)]
    assert [b / a for a, b in pairwise(rates)] == pytest.approx([1e-3 ** (1 / 9)] * 9)


def test_unknown_schedule_is_one_line():
    with pytest.raises(ValueError, match="'linear'; there are constant, exponential, cosine"):
        lr_at(0, 1, 0, 1.0, schedule="linear")


def train_a_step(model):
    for parameter in model.parameters():
        parameter.data.add_(1.0)
    model(torch.randn(8, 4))  # moves the batch-norm statistics


def test_average_warms_its_decay_up(model):
    ema = build_ema(model, decay=0.999)
    weights = [model.head.weight.detach().clone()]
    expected = weights[0]
    for n in range(6):
        train_a_step(model)
        ema.update_parameters(model)
        decay = min(0.999, (1 + n) / (10 + n)) if n else 0.0  # the first update copies
        expected = decay * expected + (1 - decay) * model.head.weight.detach()
    torch.testing.assert_close(ema.module.head.weight, expected)


def test_average_holds_its_decay_once_warm(model):
    ema = build_ema(model, decay=0.5)
    ema.n_averaged.fill_(1000)
    before = ema.module.head.weight.clone()
    train_a_step(model)
    ema.update_parameters(model)
    torch.testing.assert_close(ema.module.head.weight, (before + model.head.weight.detach()) / 2)


def test_batch_norm_statistics_are_averaged_and_counters_copied(model):
    ema = build_ema(model, decay=0.5)
    ema.n_averaged.fill_(1000)
    before = ema.module.encoder.layers[0][1].running_mean.clone()
    train_a_step(model)
    ema.update_parameters(model)
    now = model.encoder.layers[0][1].running_mean
    assert not torch.equal(before, now)
    torch.testing.assert_close(ema.module.encoder.layers[0][1].running_mean, (before + now) / 2)
    assert ema.module.encoder.layers[0][1].num_batches_tracked == model.encoder.layers[0][1].num_batches_tracked == 1
    assert torch.equal(ema.module.mean, model.mean)


def test_average_neither_learns_nor_changes_the_model(model):
    ema = build_ema(model, decay=0.9)
    assert not any(p.requires_grad for p in ema.parameters())
    assert not ema.training
    before = [p.detach().clone() for p in model.parameters()]
    ema.update_parameters(model)
    ema.update_parameters(model)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.requires_grad for p in model.parameters())


def test_average_continues_from_its_state_dict(model):
    torch.manual_seed(1)
    ema = build_ema(model, decay=0.9)
    for _ in range(3):
        train_a_step(model)
        ema.update_parameters(model)
    resumed = build_ema(Model(), decay=0.9)
    resumed.load_state_dict(ema.state_dict())
    train_a_step(model)
    for average in (ema, resumed):
        average.update_parameters(model)
    assert all(torch.equal(a, b) for a, b in zip(ema.state_dict().values(), resumed.state_dict().values(), strict=True))
