"""What learns: its rates, and what a learner goes on with."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from agescale.config import TrainConfig
from agescale.models.age_model import AgeModel
from agescale.models.spec import ModelSpec
from agescale.training.cells import Cells
from agescale.training.finetuning import parse_phases
from agescale.training.learner import Learner
from agescale.training.plan import Plan

CONFIG = TrainConfig(layer_decay=0.5, schedule="constant", warmup_epochs=0, ema_decay=0.0)


def build_learner(config: TrainConfig = CONFIG) -> Learner:
    spec = ModelSpec("cnn", "distribution", "25-years", image_size=16, widths=(4, 8), num_features=16)
    plan = Plan(config, "", spec, parse_phases("all:2@1e-2"), {}, {}, "mae", "", Cells(0, ()))
    torch.manual_seed(0)
    return Learner(plan, AgeModel(spec).state_dict(), torch.device("cpu"), world_size=1)


def take_steps(learner: Learner, first: int, last: int) -> None:
    learner.enter_phase(0, lambda module: module)
    for step in range(first, last):
        drawn = torch.Generator().manual_seed(step)
        images_NHWC = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8, generator=drawn)
        learner.set_lr(step, steps_per_epoch=4)
        ages = torch.arange(4.0) * 20
        learner.step(
            {"image": images_NHWC, "index": torch.arange(4)},
            {"age_low": ages, "age_high": ages + 1, "weight": torch.ones(4)},
            drawn,
        )


def test_every_group_learns_at_its_part_of_the_rate() -> None:
    learner = build_learner()
    learner.enter_phase(0, lambda module: module)
    learner.set_lr(3, steps_per_epoch=4)
    rates = {id(p): group["lr"] for group in learner.optimizer.param_groups for p in group["params"]}
    first, second, dense = learner.model.encoder.blocks()
    for scale, part in ((0.125, first), (0.25, second), (0.5, dense), (1.0, learner.model.head)):
        assert {rates[id(parameter)] for parameter in part.parameters()} == {1e-2 * scale}


def test_a_phase_goes_on_with_its_rates_and_its_optimizer() -> None:
    undisturbed, stopped, resumed = build_learner(), build_learner(), build_learner()
    take_steps(undisturbed, 0, 5)
    take_steps(stopped, 0, 3)
    resumed.load(stopped.state(), same_phase=True)
    take_steps(resumed, 3, 5)
    for name, tensor in undisturbed.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name


def test_bfloat16_makes_nearly_the_same_of_weights_that_stay_float32() -> None:
    exact, half = build_learner(), build_learner(replace(CONFIG, precision="bfloat16"))
    before = copy.deepcopy(exact.model.state_dict())
    take_steps(exact, 0, 1)
    take_steps(half, 0, 1)
    for name, tensor in half.model.encoder.state_dict().items():
        same, old = exact.model.encoder.state_dict()[name], before[f"encoder.{name}"]
        assert tensor.dtype == same.dtype
        if tensor.is_floating_point() and not torch.equal(same, old):
            assert not torch.equal(tensor, same), name
            step = (same - old).flatten()
            assert torch.nn.functional.cosine_similarity((tensor - old).flatten(), step, dim=0) > 0.9, name


def test_the_state_of_an_older_agescale_knows_no_parts_of_rates() -> None:
    stopped, resumed = build_learner(), build_learner()
    take_steps(stopped, 0, 1)
    state = stopped.state()
    for group in state["optimizer"]["param_groups"]:
        del group["lr_scale"]
    resumed.load(state, same_phase=True)
    resumed.enter_phase(0, lambda module: module)
    resumed.set_lr(0, steps_per_epoch=4)
    assert {group["lr"] for group in resumed.optimizer.param_groups} == {1e-2}
