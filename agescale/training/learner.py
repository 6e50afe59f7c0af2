"""What learns: a model, its averaged weights and an optimizer; one batch in, one step taken.

In: a plan, initial weights, batches of faces and their labels. Out: a model that has learned, and the sums that a loss
is told from. Knows nothing of epochs or of where batches come from; the steps of several processes are one step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from agescale.faces.augment import AUGMENTATIONS, augment, flip, mix
from agescale.models.age_model import AgeModel, Top, autocast
from agescale.models.checkpoints import LearnerState, StateDict
from agescale.training import finetuning
from agescale.training.batch_loss import Mixed, batch_loss
from agescale.training.depthwise import StridedDepthwise
from agescale.training.plan import Plan


class Learner:
    """``judged`` is the model that is validated and kept: the averaged one, where weights are averaged. With
    ``on_features`` only the model's top learns, of features that what is below it has made."""

    learner: nn.Module
    optimizer: torch.optim.Optimizer

    def __init__(
        self, plan: Plan, weights: StateDict, device: torch.device, world_size: int, on_features: bool = False
    ) -> None:
        self.plan, self.device, self.world_size, self.on_features = plan, device, world_size, on_features
        self.task = plan.build_task()
        self.model = AgeModel(plan.spec)
        self.model.load_state_dict(weights)
        self.model.to(device)
        decay = plan.config.ema_decay
        self.ema = finetuning.build_ema(self.model, decay) if decay else None
        self.judged = self.model if self.ema is None else cast(AgeModel, self.ema.module)
        self.phase_index: int | None = None
        self._optimizer_state: dict[str, Any] | None = None

    def load(self, state: LearnerState, same_phase: bool) -> None:
        """Goes on from a ``state``, whose optimizer belongs to the phase that comes next only in the ``same_phase``."""
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self._optimizer_state = state["optimizer"] if same_phase else None

    def state(self) -> LearnerState:
        ema = self.ema.state_dict() if self.ema is not None else {}
        return {"model": self.model.state_dict(), "ema": ema, "optimizer": self.optimizer.state_dict()}

    def enter_phase(self, index: int, wrap: Callable[[nn.Module], nn.Module]) -> None:
        """Lets only what the phase is about learn, by a fresh optimizer; ``wrap`` makes the model average gradients
        over processes."""
        if index == self.phase_index:
            return
        config, phase = self.plan.config, self.plan.phases[index]
        self.phase_index, self.learner = index, self.model  # lets go of the former phase's wrapper before the next one
        finetuning.freeze(self.model, phase.scope)
        groups = finetuning.param_groups(self.model, config.weight_decay, config.head_weight_decay, config.layer_decay)
        self.optimizer = finetuning.OPTIMIZERS[config.optimizer](groups, lr=phase.lr)
        if self._optimizer_state is not None:
            self.optimizer.load_state_dict(self._optimizer_state)
            self._optimizer_state = None
        self.learner = wrap(self.whole_or_top(self.model))

    def whole_or_top(self, model: AgeModel) -> nn.Module:
        """What of a model the batches are for."""
        return Top(model) if self.on_features else model

    def inputs(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Of a batch, for ``whole_or_top``: features (N, ...), or images (N, 3, H, W)."""
        return batch["features"][:, 0] if self.on_features else batch["image"].permute(0, 3, 1, 2)

    def set_lr(self, step: int, steps_per_epoch: int) -> None:
        """The learning rate of a ``step`` of the phase."""
        assert self.phase_index is not None
        config, phase = self.plan.config, self.plan.phases[self.phase_index]
        lr = finetuning.lr_at(
            step,
            num_steps=phase.epochs * steps_per_epoch,
            warmup_steps=int(config.warmup_epochs * steps_per_epoch),
            lr=phase.lr,
            schedule=config.schedule,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)  # the state of an older agescale has none

    def step(self, batch: Mapping[str, Tensor], labels: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """One step, whose gradient is that of the global batch. Returns the sums of its losses and of their weights
        over all processes (2,), float64."""
        config = self.plan.config
        inputs, known, mixed = self._prepare(batch, labels, generator)
        with autocast(self.device, config.precision), self._convolutions():
            outputs = self.learner(inputs)
        loss_N, weight_N = batch_loss(self.task, outputs, known, config.auxiliary_weight, mixed)
        sums = torch.stack([loss_N.detach().sum(), weight_N.sum()]).double()
        add_up(sums)
        # DDP averages gradients over processes; this makes the average the mean over the global batch
        loss = loss_N.sum() * self.world_size / sums[1].clamp(min=1e-9).to(loss_N.dtype)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if config.clip_norm:
            nn.utils.clip_grad_norm_(self.learner.parameters(), config.clip_norm)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        return sums

    def _convolutions(self) -> contextlib.AbstractContextManager[Any]:
        """What computes some of them otherwise: nothing where there is none to gain, as it looks at each operation."""
        is_slow = self.device.type == "cpu" and self.plan.config.precision == "bfloat16"
        return StridedDepthwise() if is_slow else contextlib.nullcontext()

    def _prepare(
        self, batch: Mapping[str, Tensor], labels: Mapping[str, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor], Mixed | None]:
        """Features, or changed images; what is learned of them, and how they were mixed."""
        config = self.plan.config
        augmentation = AUGMENTATIONS[config.augmentation]
        if self.on_features:
            features = flip(batch["features"][:, 0], batch["features"][:, -1], augmentation, generator)
            return features, labels_of(self.model, batch["index"], features, labels), None
        images_NCHW = augment(self.inputs(batch), augmentation, generator, self.plan.spec.image_size)
        mixed = None
        if config.mixup:
            images_NCHW, *mixing = mix(images_NCHW, config.mixup, generator)
            mixed = (mixing[0], mixing[1])
        return images_NCHW, labels_of(self.model, batch["index"], images_NCHW, labels), mixed


def labels_of(model: AgeModel, index_N: Tensor, inputs: Tensor, labels: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is known of some images, by their index; a reconstruction is compared with the very images that the encoder
    sees, its ``inputs``."""
    known = {name: values[index_N] for name, values in labels.items()}
    return known | ({"target": model.normalise(inputs)} if model.reads == "feature_map" else {})


def add_up(sums: Tensor) -> None:
    """Adds ``sums`` up over all processes, in place."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(sums)
