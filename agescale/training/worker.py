"""What each of Ray Train's processes does: a plan in, epochs trained, validated, told and saved into the run."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import math
import os
import time
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import ray
import ray.data
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.experimental import tqdm_ray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from agescale.ages.groups import AgeGroups
from agescale.faces.augment import AUGMENTATIONS, augment, mix
from agescale.models import checkpoints
from agescale.models.age_model import AgeModel
from agescale.models.checkpoints import Progress
from agescale.runtime.progress import ImageProgress
from agescale.store import paths
from agescale.training import finetuning, runs, validation
from agescale.training.batch_loss import Mixed, batch_loss
from agescale.training.failures import said_once
from agescale.training.plan import Plan

STALL_TIMEOUT_S = 600
"""A training process that finishes no step for so long ends with a traceback instead of hanging."""

SHUFFLE_BUFFER_IMAGES = 1024


# ----------------------------------------------------------------------------------------------------------------------
# in each training process


@said_once()
def train_fn_per_worker(loop: dict[str, Any]) -> str | None:
    """The training loop of one process, which Ray Train calls on each. Returns why it gave up, or None."""
    plan: Plan = loop["plan"]
    config = plan.config
    logging.getLogger().setLevel(logging.WARNING)  # else Ray prints every report, metric by metric
    rank = ray.train.get_context().get_world_rank()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        local = ray.train.get_context().get_local_world_size()
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // (local * loop["num_trainings"])))

    model = AgeModel(plan.spec)
    model.load_state_dict(ray.get(loop["initial_weights"]))
    model.to(device)
    labels = {split: _to_tensors(columns, device) for split, columns in ray.get(loop["labels"]).items()}
    ema = finetuning.build_ema(model, config.ema_decay) if config.ema_decay else None
    judged = cast(AgeModel, ema.module) if ema is not None else model
    if rank == 0:
        runs.take_over(plan.out, loop["writer"])  # from one that died, or seems to have
    progress, optimizer_state = _restore(plan, model, ema)

    phase_index: int | None = None
    learner: nn.Module | None = None
    while (next_index := runs.next_phase(plan.phases, progress, config.patience)) is not None:
        phase = plan.phases[next_index]
        if next_index != phase_index:
            phase_index, learner = next_index, None  # lets go of the former phase's wrapper before the next one is made
            finetuning.freeze(model, phase.scope)
            groups = finetuning.param_groups(model, config.weight_decay, config.head_weight_decay)
            optimizer = finetuning.OPTIMIZERS[config.optimizer](groups, lr=phase.lr)
            if optimizer_state is not None:
                optimizer.load_state_dict(optimizer_state)
            learner = ray.train.torch.prepare_model(model)
        assert learner is not None
        optimizer_state = None

        started = time.monotonic()
        finetuning.set_train_mode(model, phase.scope)
        entry: dict[str, Any] = {
            "epoch": progress.epochs_done + 1,
            "phase": phase.scope,
            "phase_index": phase_index,
            "lr": phase.lr,
        }
        with _progress(loop, f"epoch {entry['epoch']} ({phase.scope})", is_shown=rank == 0) as shown:
            num_before = sum(before["phase_index"] == phase_index for before in progress.history)
            epoch = (entry["epoch"], phase, num_before)
            entry |= _train_epoch(loop, learner, ema, optimizer, labels["train"], *epoch, shown)
        entry["images_per_s"] = round(entry.pop("num_images") / (time.monotonic() - started), 1)
        entry |= _validate(plan, judged, labels["val"])
        faulthandler.cancel_dump_traceback_later()  # what follows are stores, which have time limits of their own
        if entry["val_loss"] is None:
            return "no image of the val split can be read"
        if not math.isfinite(entry["train_loss"] + entry["val_loss"]):  # the same on every process
            return f"training diverged: epoch {entry['epoch']}'s loss is not finite; lower the learning rate"
        entry["seconds"] = round(time.monotonic() - started, 1)

        progress = runs.extend(progress, entry, plan)
        if rank == 0:
            training = {
                "model": model.state_dict(),
                "ema": ema.state_dict() if ema is not None else {},
                "optimizer": optimizer.state_dict(),
            }
            progress = runs.save(plan, progress, judged.state_dict(), training, loop["writer"])
            _print_epoch(plan, progress)
        metrics = {key: value for key, value in entry.items() if isinstance(value, int | float)}
        ray.train.report({**metrics, "best_value": progress.best_value})
    return None


def _restore(plan: Plan, model: AgeModel, ema: AveragedModel | None) -> tuple[Progress, dict[str, Any] | None]:
    """Brings model and average to where ``last/`` left them. Returns its progress, and the optimizer's state where the
    phase that it belongs to goes on."""
    last = paths.join(plan.out, "last")
    if not checkpoints.exists(last):
        return Progress(metric=plan.metric), None
    checkpoint = checkpoints.read(last)
    state = checkpoints.load_training(last, checkpoint)
    model.load_state_dict(state["model"])
    if ema is not None:
        ema.load_state_dict(state["ema"])
    progress = checkpoint.progress
    same_phase = runs.next_phase(plan.phases, progress, plan.config.patience) == progress.history[-1]["phase_index"]
    return progress, state["optimizer"] if same_phase else None


def _train_epoch(
    loop: dict[str, Any],
    learner: nn.Module,
    ema: AveragedModel | None,
    optimizer: torch.optim.Optimizer,
    labels: dict[str, Tensor],
    epoch: int,
    phase: finetuning.Phase,
    num_epochs_before: int,
    shown: ImageProgress | _TerminalBar,
) -> dict[str, Any]:
    """One pass over this process's share of the images, the epoch after ``num_epochs_before`` ones of its phase. The
    gradient of a step is that of the whole global batch."""
    plan: Plan = loop["plan"]
    config = plan.config
    rank, world_size = ray.train.get_context().get_world_rank(), ray.train.get_context().get_world_size()
    device = next(learner.parameters()).device
    task = plan.build_task()
    model = cast(AgeModel, getattr(learner, "module", learner))
    seed = (config.seed * 1_000_003 + epoch) * 1009 + rank
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)

    num_local, batch_size = loop["num_train"] // world_size, config.batch_size // world_size
    steps_per_epoch = max(1, num_local // batch_size)
    step = num_epochs_before * steps_per_epoch
    batches = ray.train.get_dataset_shard("train").iter_torch_batches(
        batch_size=batch_size,
        drop_last=num_local >= batch_size,  # every process must take the same number of steps
        local_shuffle_buffer_size=min(SHUFFLE_BUFFER_IMAGES, max(1, num_local // 2)),
        local_shuffle_seed=seed,
    )
    sums = torch.zeros(3, dtype=torch.float64, device=device)  # losses, their weights, images
    for batch in batches:
        lr = finetuning.lr_at(
            step,
            num_steps=phase.epochs * steps_per_epoch,
            warmup_steps=int(config.warmup_epochs * steps_per_epoch),
            lr=phase.lr,
            schedule=config.schedule,
        )
        for group in optimizer.param_groups:
            group["lr"] = lr
        images_NCHW, batch, mixed = _prepare(plan, model, batch, labels, generator)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            outputs = learner(images_NCHW)
        loss_N, weight_N = batch_loss(task, outputs, batch, config.auxiliary_weight, mixed)
        batch_sums = torch.stack([loss_N.detach().sum(), weight_N.sum()]).double()
        _reduce(batch_sums)
        # DDP averages gradients over processes; this makes the average the mean over the global batch
        loss = loss_N.sum() * world_size / batch_sums[1].clamp(min=1e-9).to(loss_N.dtype)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if config.clip_norm:
            nn.utils.clip_grad_norm_(learner.parameters(), config.clip_norm)
        optimizer.step()
        if ema is not None:
            ema.update_parameters(model)
        _wind_watchdog()
        num_images = len(images_NCHW) * world_size
        sums += torch.cat([batch_sums, batch_sums.new_tensor([num_images])])
        step += 1
        shown.add(num_images, f"loss {sums[0] / sums[1]:.3f}" if rank == 0 and device.type == "cpu" else "")
    return {"train_loss": float(sums[0] / sums[1].clamp(min=1e-9)), "num_images": int(sums[2])}


def _to_tensors(columns: dict[str, np.ndarray], device: torch.device) -> dict[str, Tensor]:
    return {name: torch.as_tensor(values.copy(), device=device) for name, values in columns.items()}


def _prepare(
    plan: Plan, model: AgeModel, batch: dict[str, Tensor], labels: dict[str, Tensor], generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor], Mixed | None]:
    """Changed images, what is learned of them, and how they were mixed."""
    labels = {name: values[batch["index"]] for name, values in labels.items()}
    augmentation = AUGMENTATIONS[plan.config.augmentation]
    images_NCHW = augment(batch["image"].permute(0, 3, 1, 2), augmentation, generator, plan.spec.image_size)
    mixed = None
    if plan.config.mixup:
        images_NCHW, *mixing = mix(images_NCHW, plan.config.mixup, generator)
        mixed = (mixing[0], mixing[1])
    return images_NCHW, labels | _targets(model, images_NCHW), mixed


def _targets(model: AgeModel, images_NCHW: Tensor) -> dict[str, Tensor]:
    """What a reconstruction is compared with: the very images that the encoder sees."""
    return {"target": model.normalise(images_NCHW)} if model.reads == "feature_map" else {}


def _validate(plan: Plan, model: AgeModel, labels: dict[str, Tensor]) -> dict[str, Any]:
    """Metrics over all validation images, each counted once: every process judges those that are its own, and sums are
    added up over the processes."""
    rank, world_size = ray.train.get_context().get_world_rank(), ray.train.get_context().get_world_size()
    if world_size > 1:
        for (
            buffer
        ) in model.buffers():  # batch-norm statistics differ between processes; the first one's are what is kept
            dist.broadcast(buffer, 0)
    model.eval()
    task, age_groups = plan.build_task(), AgeGroups.parse(plan.spec.age_groups)
    device = next(model.parameters()).device
    sums = torch.zeros(validation.num_sums(age_groups), dtype=torch.float64, device=device)
    for batch in ray.train.get_dataset_shard("val").iter_torch_batches(batch_size=plan.config.batch_size):
        _wind_watchdog()
        is_mine = batch["index"] % world_size == rank
        batch = {name: values[is_mine] for name, values in batch.items()}
        if len(batch["index"]) == 0:
            continue
        images_NCHW = batch["image"].permute(0, 3, 1, 2)
        with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            outputs = model(images_NCHW)
        if not outputs.task.isfinite().all():
            sums[0] = math.inf
            continue
        known = {name: values[batch["index"]] for name, values in labels.items()} | _targets(model, images_NCHW)
        loss_N, weight_N = batch_loss(task, outputs, known, plan.config.auxiliary_weight)
        judged = validation.judge(task, age_groups, outputs.task, known)
        sums += sums.new_tensor([float(loss_N.sum()), float(weight_N.sum()), *judged])
    _reduce(sums)
    return validation.summarise(sums.cpu())


def _reduce(sums: Tensor) -> None:
    """Adds ``sums`` up over all processes, in place."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(sums)


def _wind_watchdog() -> None:
    """Gives this process another STALL_TIMEOUT_S to come by here again; then it ends with a traceback."""
    faulthandler.dump_traceback_later(STALL_TIMEOUT_S, exit=True)


def _print_epoch(plan: Plan, progress: Progress) -> None:
    entry = progress.history[-1]
    known = {"MAE": entry["val_mae"], "accuracy": entry["val_accuracy"], "loss": entry["val_loss"]}
    judged = ", ".join(f"{name} {value:.3f}" for name, value in known.items() if value is not None)
    epochs = sum(phase.epochs for phase in plan.phases)
    left_s = (epochs - progress.epochs_done) * entry["seconds"]
    print(
        f"epoch {entry['epoch']}/{epochs} ({entry['phase']}): loss {entry['train_loss']:.3f}, validation {judged}; "
        f"{entry['images_per_s']:.0f} images/s, {entry['seconds']:.0f} s, {left_s / 60:.1f} min left at most",
        flush=True,
    )


class _TerminalBar:
    """Ray's own bar on the driver's terminal, fed from a worker."""

    def __init__(self, verb: str, total: int) -> None:
        self._bar = tqdm_ray.tqdm(desc=verb, total=total, unit=" images")

    def add(self, num_images: int, note: str = "") -> None:
        self._bar.update(num_images)


@contextlib.contextmanager
def _progress(loop: dict[str, Any], verb: str, is_shown: bool) -> Iterator[ImageProgress | _TerminalBar]:
    if is_shown and loop["has_terminal"]:
        bar = _TerminalBar(verb, loop["num_train"])
        yield bar
        bar._bar.close()
    else:  # no last line: the epoch's summary says it all
        yield ImageProgress(verb, loop["num_train"], is_quiet=not is_shown)
