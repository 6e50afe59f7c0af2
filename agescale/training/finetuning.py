"""Fine-tuning: which part of a model learns, for how many epochs, at what learning rate.

In: a model with an ``encoder`` and a ``head``, and a text such as ``"head:1@1e-3,last2:3@1e-4,all:10@3e-5"``.
Out: frozen and trainable parameters, optimiser groups, learning rates, an averaged model. Runs no training.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from agescale.models.age_model import AgeModel, dense_of
from agescale.models.encoders import Encoder


@dataclass(frozen=True)
class Phase:
    """``scope`` is ``head``, ``lastN`` (the head and the last N blocks of the encoder) or ``all``."""

    scope: str
    epochs: int
    lr: float


def parse_phases(text: str) -> tuple[Phase, ...]:
    """Phases from ``scope:epochs@learning_rate,...``. Raises ValueError, in one line, for anything else.

    >>> parse_phases("head:1@1e-3,last2:3@1e-4")
    (Phase(scope='head', epochs=1, lr=0.001), Phase(scope='last2', epochs=3, lr=0.0001))
    """
    return tuple(_parse_phase(item.strip()) for item in text.split(","))


def format_phases(phases: tuple[Phase, ...]) -> str:
    """The text that ``parse_phases`` reads back."""
    return ",".join(f"{phase.scope}:{phase.epochs}@{phase.lr!r}" for phase in phases)


def cap_epochs(phases: tuple[Phase, ...], num_epochs: int) -> tuple[Phase, ...]:
    """The first ``num_epochs`` epochs of the phases; all of them where they have no more.

    >>> format_phases(cap_epochs(parse_phases("head:1@0.001,last2:3@0.0001,all:10@0.00003"), 3))
    'head:1@0.001,last2:2@0.0001'
    """
    if num_epochs < 1:
        raise ValueError(f"at least one epoch is needed, not {num_epochs}")
    capped: list[Phase] = []
    for phase in phases:
        epochs = min(phase.epochs, num_epochs - sum(p.epochs for p in capped))
        if epochs > 0:
            capped.append(replace(phase, epochs=epochs))
    return tuple(capped)


def freeze(model: nn.Module, scope: str) -> None:
    """Let only the parameters in ``scope`` learn; ``set_train_mode`` does the same for batch-norm statistics.

    Distributed wrappers look at what learns when they are built, so freeze before wrapping. Raises ValueError, in one
    line, where the encoder has fewer blocks than ``lastN`` counts.
    """
    blocks = _trained_blocks(model, scope)
    model.requires_grad_(True)
    if scope != "all":
        cast(nn.Module, model.encoder).requires_grad_(False)
        for block in blocks:
            block.requires_grad_(True)


def set_train_mode(model: nn.Module, scope: str, freeze_batch_norm: bool = False) -> None:
    """Like ``model.train()``, with the frozen part in evaluation mode: its batch-norm statistics stay as they are; with
    ``freeze_batch_norm`` those of the whole encoder do, and are what it normalises by.

    To be called at the start of each epoch, since evaluation changes the mode.
    """
    model.train()
    encoder = cast(nn.Module, model.encoder)
    if scope != "all":
        encoder.eval()
        for block in _trained_blocks(model, scope):
            block.train()
    if freeze_batch_norm:
        for module in encoder.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def num_top_phases(model: AgeModel, phases: tuple[Phase, ...]) -> int:
    """How many of the first phases train nothing but dense layers, so that what these take stays as it is."""
    if model.reads == "feature_map":
        return 0
    dense = dense_of(model)
    trains_more = (any(block is not dense for block in _trained_blocks(model, phase.scope)) for phase in phases)
    return next((index for index, trains in enumerate(trains_more) if trains), len(phases))


def param_groups(
    model: nn.Module, weight_decay: float, head_weight_decay: float | None = None, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Optimiser groups of what learns: weight decay on matrices and filters, none on biases and norms (vectors); the
    encoder's and the heads' may differ.

    ``lr_scale``, as timm calls it, is what a group's learning rate is multiplied by: 1 for the heads, ``layer_decay``
    for the encoder's last block, its square for the one before, and so on (Bao et al., "BEiT", ICLR 2022).
    """
    blocks = reversed(cast(Encoder, model.encoder).blocks())
    scales = {id(each): layer_decay**depth for depth, block in enumerate(blocks, 1) for each in block.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            is_head = id(parameter) not in scales and head_weight_decay is not None
            decay = cast(float, head_weight_decay) if is_head else weight_decay
            key = (decay if parameter.ndim > 1 else 0.0, scales.get(id(parameter), 1.0))
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr_scale": scale}
        for (decay, scale), parameters in groups.items()
    ]


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
}
"""Decay is decoupled in adamw (Loshchilov and Hutter, ICLR 2019); in adam and sgd it is an L2 penalty of half of it."""


SCHEDULES: dict[str, Callable[[float, float, float], float]] = {
    "constant": lambda lr, lr_min, progress: lr,
    "exponential": lambda lr, lr_min, progress: lr * (lr_min / lr) ** progress,
    "cosine": lambda lr, lr_min, progress: lr_min + (lr - lr_min) * (1 + math.cos(math.pi * progress)) / 2,
}
"""Learning rate as a function of its start, its end and the progress from 0 to 1."""


def lr_at(
    step: int, num_steps: int, warmup_steps: int, lr: float, lr_min: float = 1e-6, schedule: str = "cosine"
) -> float:
    """Learning rate of step 0..num_steps-1: a linear warm-up to ``lr``, then the schedule down to ``lr_min``.

    >>> [round(lr_at(step, 6, 2, 1.0, lr_min=0.0), 3) for step in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.25, 0.0]
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"no learning-rate schedule is called {schedule!r}; there are {', '.join(SCHEDULES)}")
    warmup_steps = min(warmup_steps, num_steps // 2)
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, num_steps - 1 - warmup_steps)
    return SCHEDULES[schedule](lr, min(lr, lr_min), min(1.0, progress))


def build_ema(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of ``model``, to be fed by ``update_parameters(model)`` after each step.

    After n updates the decay is min(decay, (1 + n) / (10 + n)), so that a short run is averaged as well. Batch-norm
    statistics are averaged like weights; integer buffers, which count, are copied.
    """

    def average(averaged: Any, current: Any, num_averaged: Tensor | int) -> None:
        if not averaged[0].is_floating_point():
            for target, source in zip(averaged, current, strict=True):
                target.copy_(source)
            return
        n = int(num_averaged)
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averaged, current, num_averaged)

    ema = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    return ema.requires_grad_(False).eval()


def _parse_phase(item: str) -> Phase:
    match = re.fullmatch(r"(head|all|last[1-9]\d*):([1-9]\d*)@([\d.]+(?:[eE][-+]?\d+)?)", item)
    try:
        phase = Phase(match[1], int(match[2]), float(match[3])) if match else None
    except ValueError:
        phase = None
    if phase is None or not 0 < phase.lr < math.inf:
        raise ValueError(
            f"phases: {item!r} is not scope:epochs@learning_rate with the scope head, lastN or all, such as head:1@1e-3"
        )
    return phase


def _trained_blocks(model: nn.Module, scope: str) -> list[nn.Module]:
    blocks = cast(Encoder, model.encoder).blocks()
    if scope in ("head", "all"):
        return [] if scope == "head" else blocks
    assert re.fullmatch(r"last[1-9]\d*", scope), scope
    num_blocks = int(scope.removeprefix("last"))
    if num_blocks > len(blocks):
        raise ValueError(f"phases: {scope} is more than the {len(blocks)} blocks of this encoder; use all")
    return blocks[-num_blocks:]
