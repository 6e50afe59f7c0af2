"""What each of Ray Train's processes does: a plan in, epochs trained, validated, told and saved into the run."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypedDict

import numpy as np
import ray
import ray.data
import ray.train
import ray.train.collective
import ray.train.torch
import torch
import torch.distributed as dist
from ray.experimental import tqdm_ray
from ray.util import metrics
from torch import Tensor

from agescale.ages.calibration import Calibration
from agescale.ages.groups import AgeGroups
from agescale.models import checkpoints
from agescale.models.age_model import autocast
from agescale.models.checkpoints import Epoch, LearnerState, Order, RunProgress, Step, Validation
from agescale.runtime import bottleneck
from agescale.runtime.bottleneck import Meter
from agescale.runtime.progress import ImageProgress
from agescale.store import paths
from agescale.store.writers import Writer
from agescale.training import calibration, finetuning, runs, shares, validation
from agescale.training.batch_loss import batch_loss
from agescale.training.failures import said_once
from agescale.training.learner import Learner, add_up, labels_of
from agescale.training.plan import Plan

STALL_TIMEOUT_S = 600
"""A training process that finishes no step for so long ends with a traceback instead of hanging."""

LOOK_S = 2.0
"""A notice that a node will be taken away is looked for about so often."""
LEAVES = "a node will be taken away"
"""What a training returns that has made room for it, to be started again elsewhere."""
GOES_ON = "the next phase learns from images"
"""What a training returns that has learned from features as long as it could, to be started again with images."""

SHUFFLE_BUFFER_IMAGES = 1024

Labels = Mapping[str, Tensor]
"""What is learned of all images of a split, by column; an image is its index."""


class TrainLoopConfig(TypedDict):
    """What Ray Train's processes are told, all the same."""

    plan: Plan
    writer: Writer
    initial_weights: ray.ObjectRef  # of a state dict
    labels: ray.ObjectRef  # of arrays by split and column
    catalog_ids: Sequence[str]
    num_train: int  # images
    is_held: bool  # these, decoded once for all epochs
    on_features: bool  # of them, made once
    made_s: float  # what making them took, and before which epoch that was
    made_before: int
    num_phases: int  # the first ones, in which what is given to them suffices
    has_terminal: bool
    use_gpu: bool
    num_trainings: int  # at a time on one machine


@said_once()
def train_fn_per_worker(loop: TrainLoopConfig) -> str | None:
    """The training loop of one process, which Ray Train calls on each. Returns why it ended early, or None."""
    logging.getLogger().setLevel(logging.WARNING)  # else Ray prints every report, metric by metric
    try:
        return _train_epochs(loop)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _train_epochs(loop: TrainLoopConfig) -> str | None:
    plan = loop["plan"]
    learner, labels = _set_up(loop)
    if _rank() == 0:
        runs.take_over(plan.out, loop["writer"])  # from one that died, or seems to have
    progress, begun = _restore(loop, learner)
    meter = Meter(base="model")
    while (index := runs.next_phase(plan.phases, progress, plan.config.patience)) is not None:
        if index >= loop["num_phases"]:
            return GOES_ON
        learner.enter_phase(index, partial(ray.train.torch.prepare_model, move_to_device=False))
        ended = _run_epoch(loop, learner, labels, progress, begun, meter)
        faulthandler.cancel_dump_traceback_later()  # what follows are stores, which have time limits of their own
        if ended is None:
            return LEAVES
        epoch, made = ended
        begun = Step(begun.order)
        if epoch["val_loss"] is None:
            return "no image of the val split can be read"
        if not math.isfinite(epoch["train_loss"] + epoch["val_loss"]):  # the same on every process
            return f"training diverged: epoch {epoch['epoch']}'s loss is NaN or infinite; lower the learning rate"
        if validation.value_of(epoch, plan.metric) is None:
            return f"no image of the val split whose label gives {plan.metric} can be read"
        epoch["stage_seconds"] = _stage_seconds(loop, meter, epoch["epoch"], learner.device)
        meter.begin()
        progress = runs.extend(progress, epoch, plan)
        if _rank() == 0:
            judged = learner.judged.state_dict()
            with meter.stage("write"):
                progress = runs.save(plan, progress, judged, learner.state(), loop["writer"], made)
            _print_epoch(plan, progress)
            _export(epoch)
        numbers = {key: value for key, value in epoch.items() if isinstance(value, int | float)}
        ray.train.report({**numbers, "best_value": progress.best_value})
    return None


def _stage_seconds(loop: TrainLoopConfig, meter: Meter, epoch: int, device: torch.device) -> dict[str, float]:
    """By stage since the meter began, with what came before the first epoch."""
    seconds = bottleneck.divided(meter.end(), on_cpu=device.type == "cpu")
    if not loop["is_held"]:  # who took the processor meanwhile decodes, as a rule
        seconds["images"] = seconds.get("images", 0.0) + seconds.pop("waiting", 0.0)
    if epoch == loop["made_before"]:
        made = "features" if loop["on_features"] else "images"
        seconds[made] = seconds.get(made, 0.0) + loop["made_s"]
    return {stage: round(seconds[stage], 2) for stage in bottleneck.STAGES if seconds.get(stage, 0) > 0}


def _rank() -> int:
    return int(ray.train.get_context().get_world_rank())


def _world_size() -> int:
    return int(ray.train.get_context().get_world_size())


def _set_up(loop: TrainLoopConfig) -> tuple[Learner, dict[str, Labels]]:
    """What this process learns with, and the labels of each split, on its device."""
    device = ray.train.torch.get_device() if loop["use_gpu"] else torch.device("cpu")
    if device.type == "cpu":
        num_here = ray.train.get_context().get_local_world_size() * loop["num_trainings"]
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // num_here))
    learner = Learner(loop["plan"], ray.get(loop["initial_weights"]), device, _world_size(), loop["on_features"])
    labels: dict[str, Labels] = {
        split: {name: torch.as_tensor(values.copy(), device=device) for name, values in columns.items()}
        for split, columns in ray.get(loop["labels"]).items()
    }
    return learner, labels


def _restore(loop: TrainLoopConfig, learner: Learner) -> tuple[RunProgress, Step]:
    """Brings the learner to where ``step/``, else ``last/``, left it. Returns the run's progress, and how far the epoch
    after it is."""
    plan, last = loop["plan"], paths.join(loop["plan"].out, "last")
    ray.train.collective.barrier()  # what the first process has taken over nobody else writes any more
    checkpoint = checkpoints.read(last) if checkpoints.exists(last) else None
    progress = checkpoint.progress if checkpoint else RunProgress(metric=plan.metric)
    beginning = Step(Order(plan.config.num_workers or 1, loop["num_train"], loop["is_held"]))
    if (found := _read_step(plan, progress, beginning.order)) is not None:
        step, state = found
        learner.load(state, same_phase=True)
        if _rank() == 0:
            print(f"epoch {progress.epochs_done + 1}: continues after step {step.number}", flush=True)
        return progress, step
    if checkpoint is not None:
        next_phase = runs.next_phase(plan.phases, progress, plan.config.patience)
        same_phase = next_phase == progress.history[-1]["phase_index"]
        learner.load(checkpoints.load_training(last, checkpoint), same_phase)
    return progress, beginning


def _read_step(plan: Plan, progress: RunProgress, order: Order) -> tuple[Step, LearnerState] | None:
    """What ``runs.read_step`` returns, or None where it is damaged; the same for all processes."""
    found = None
    try:
        found = runs.read_step(plan, progress, order)
    except ValueError as error:
        if _rank() == 0:
            print(f"{error}; the epoch begins anew", flush=True)
    if not ray.train.collective.broadcast_from_rank_zero(found is not None):
        return None
    assert found is not None, "only the first process can read step/"
    return found


def _run_epoch(
    loop: TrainLoopConfig,
    learner: Learner,
    labels: dict[str, Labels],
    progress: RunProgress,
    begun: Step,
    meter: Meter,
) -> tuple[Epoch, Calibration | None] | None:
    """Trains, from the step where it has ``begun``, validates once more, and calibrates by what it has seen of that;
    None where a node will be taken away."""
    started = time.monotonic() - begun.seconds
    plan, index, number = loop["plan"], learner.phase_index, progress.epochs_done + 1
    assert index is not None
    phase = plan.phases[index]
    finetuning.set_train_mode(learner.model, phase.scope, plan.config.freeze_batch_norm)
    with _progress(loop, f"epoch {number} ({phase.scope})") as shown:
        ended = _train(loop, learner, labels["train"], progress, begun, shown, meter)
    if ended is None:
        return None
    images_per_s = round(ended.num_images / (time.monotonic() - started), 1)
    with meter.stage("validation"):
        validated, said_NS = _validate(plan, learner, labels["val"], meter)
    epoch: Epoch = {
        "epoch": number,
        "phase": phase.scope,
        "phase_index": index,
        "lr": phase.lr,
        "train_loss": ended.sums[0] / max(ended.sums[1], 1e-9),
        "images_per_s": images_per_s,
        **validated,
        "seconds": round(time.monotonic() - started, 1),
    }
    if not calibration.is_wanted(plan.config):
        return epoch, None
    known = {name: labels["val"][name].cpu().numpy() for name in ("age_low", "is_counted")}
    coverage, ids = plan.config.interval_coverage, loop["catalog_ids"]
    return epoch, calibration.calibration_of(said_NS, known, epoch["decode"], plan.spec, coverage, ids)


def _train(
    loop: TrainLoopConfig,
    learner: Learner,
    labels: Labels,
    progress: RunProgress,
    begun: Step,
    shown: ImageProgress | _TerminalBar,
    meter: Meter,
) -> Step | None:
    """One pass over this process's share of the images, or what is left of it where it has ``begun``. What is drawn in
    a step hangs on seed, epoch, rank and step alone. Returns what the steps of all processes add up to, or None where
    they are saved, because a node will be taken away."""
    config, rank, world_size = loop["plan"].config, _rank(), _world_size()
    epoch, started = progress.epochs_done + 1, time.monotonic()
    num_local, sizes = loop["num_train"] // world_size, shares.share_sizes(config.batch_size, world_size)
    steps_per_epoch = max(1, loop["num_train"] // config.batch_size)
    num_epochs_before = sum(before["phase_index"] == learner.phase_index for before in progress.history)
    batches = ray.train.get_dataset_shard("train").iter_torch_batches(
        batch_size=config.batch_size,
        local_shuffle_buffer_size=min(SHUFFLE_BUFFER_IMAGES, max(1, num_local // 2)),
        local_shuffle_seed=_seed(config.seed, epoch, rank),
        device=str(learner.device),
    )
    sums = torch.tensor(begun.sums, dtype=torch.float64, device=learner.device)
    step, saved, notices = begun, time.monotonic(), Notices()
    shown.add(begun.num_images)
    for number, batch in enumerate(meter.each("images", shares.deal(batches, sizes, rank))):
        _wind_watchdog()
        if number < begun.number:  # taken before; its images come all the same, for the others to come as they did
            continue
        seed = _seed(config.seed, epoch, rank, number)
        torch.manual_seed(seed)
        learner.set_lr(num_epochs_before * steps_per_epoch + number, steps_per_epoch)
        sums += learner.step(batch, labels, torch.Generator().manual_seed(seed))
        num_local_now = len(batch["index"])  # a whole share of it, or all there is
        num_now = config.batch_size if num_local_now >= min(sizes) else num_local_now * world_size
        step = replace(step, number=number + 1, num_images=step.num_images + num_now)
        is_told = rank == 0 and learner.device.type == "cpu"  # a GPU would have to be waited for
        shown.add(num_now, f"loss {sums[0] / sums[1]:.3f}" if is_told else "")
        leaves = notices.are_there()
        is_due = config.save_minutes and time.monotonic() - saved > 60 * config.save_minutes
        if rank == 0 and (is_due or leaves):
            with meter.stage("write"):
                _save_step(loop, learner, progress, _with_sums(step, sums, begun.seconds + time.monotonic() - started))
            saved = time.monotonic()
        if leaves:
            return None
    return _with_sums(step, sums, begun.seconds + time.monotonic() - started)


class Notices:
    """Notices that a node of this training will be taken away. All processes look for them after the same steps, since
    Ray answers all of them at once; about every LOOK_S."""

    def __init__(self) -> None:
        self.interval = self.steps_left = 1
        self.looked = time.monotonic()

    def are_there(self) -> bool:
        """To be asked after each step."""
        self.steps_left -= 1
        if self.steps_left:
            return False
        now = time.monotonic()
        steps = self.interval * LOOK_S / max(now - self.looked, 1e-9)
        steps = max(1, min(int(steps), 2 * self.interval))  # the first ones say little
        self.interval = self.steps_left = ray.train.collective.broadcast_from_rank_zero(steps)
        self.looked = now
        return ray.train.get_preemption_info() is not None


def _seed(*numbers: int) -> int:
    """A seed that hangs on all ``numbers``, which may be any."""
    return int(np.random.SeedSequence([number % 2**64 for number in numbers]).generate_state(1)[0])


def _with_sums(step: Step, sums: Tensor, seconds: float) -> Step:
    return replace(step, sums=(float(sums[0]), float(sums[1])), seconds=seconds)


def _save_step(loop: TrainLoopConfig, learner: Learner, progress: RunProgress, step: Step) -> None:
    """What every process needs in order to go on from here is in the first one: before each step DDP gives its buffers
    to the others."""
    faulthandler.cancel_dump_traceback_later()
    runs.save_step(loop["plan"], progress, step, learner.judged.state_dict(), learner.state(), loop["writer"])
    _wind_watchdog()


def _validate(plan: Plan, learner: Learner, labels: Labels, meter: Meter) -> tuple[Validation, np.ndarray]:
    """Metrics over all N validation images, each counted once: every process judges those that are its own, and sums
    are added up over the processes. And what was said of each, as ``calibration.said_of`` does."""
    rank, world_size, model = _rank(), _world_size(), learner.judged
    if world_size > 1:
        for buffer in model.buffers():  # batch-norm statistics differ between processes; the first one's are kept
            dist.broadcast(buffer, 0)
    model.eval()
    judged_part = learner.whole_or_top(model)
    age_groups = AgeGroups.parse(plan.spec.age_groups)
    num_catalogs, num_sums = len(plan.config.catalog), validation.num_sums(plan.cells.num)
    sums_CS = torch.zeros((num_catalogs, num_sums), dtype=torch.float64, device=learner.device)
    said_NS = torch.zeros((len(labels["age_low"]), calibration.NUM_SAID), device=learner.device)
    batches = ray.train.get_dataset_shard("val").iter_torch_batches(
        batch_size=plan.config.batch_size, device=str(learner.device)
    )
    for batch in meter.each("images", batches):
        _wind_watchdog()
        is_mine = batch["index"] % world_size == rank
        batch = {name: values[is_mine] for name, values in batch.items()}
        if len(batch["index"]) == 0:
            continue
        inputs = learner.inputs(batch)
        with torch.inference_mode(), autocast(learner.device):
            outputs = judged_part(inputs)
        if not outputs.task.isfinite().all():
            sums_CS[:, 0] = math.inf
            continue
        known = labels_of(model, batch["index"], inputs, labels)
        loss_N, weight_N = batch_loss(learner.task, outputs, known, plan.config.auxiliary_weight)
        for number in known["catalog"].unique().tolist():
            is_its = known["catalog"] == number
            its = {name: values[is_its] for name, values in known.items()}
            judged = validation.judge(learner.task, age_groups, plan.cells.num, outputs.task[is_its], its)
            losses = (float(loss_N[is_its].sum()), float(weight_N[is_its].sum()))
            sums_CS[number] += sums_CS.new_tensor([*losses, *judged])
        if calibration.is_wanted(plan.config):
            said = calibration.said_of(learner.task, outputs.task, plan.config.interval_coverage)
            said_NS[batch["index"]] = said.to(learner.device)
    for values in (sums_CS, said_NS):
        add_up(values)
    return validation.summarise(sums_CS.cpu(), plan.cells.parts, plan.config.mix), said_NS.cpu().numpy()


def _wind_watchdog() -> None:
    """Gives this process another STALL_TIMEOUT_S to come by here again; then it ends with a traceback."""
    faulthandler.dump_traceback_later(STALL_TIMEOUT_S, exit=True, file=sys.__stderr__ or 2)


def _print_epoch(plan: Plan, progress: RunProgress) -> None:
    entry = progress.history[-1]
    maes = zip(_short_names(plan.config.catalog), entry["mae_by_catalog"], strict=True)
    by_catalog = ", ".join(f"{name} {mae:.3f}" for name, mae in maes if mae is not None)
    known = {"MAE": entry["val_mae"], "accuracy": entry["val_accuracy"], "loss": entry["val_loss"]}
    said = {name: f"{name} {value:.3f}" for name, value in known.items() if value is not None}
    if len(plan.config.catalog) > 1 and by_catalog:
        said["MAE"] += f" ({by_catalog})"
    judged = ", ".join(said.values())
    epochs = sum(phase.epochs for phase in plan.phases)
    left_s = (epochs - progress.epochs_done) * entry["seconds"]
    print(
        f"epoch {entry['epoch']}/{epochs} ({entry['phase']}): loss {entry['train_loss']:.3f}, validation {judged}; "
        f"{entry['images_per_s']:.0f} images/s, {entry['seconds']:.0f} s, {left_s / 60:.1f} min left at most",
        flush=True,
    )


def _short_names(uris: Sequence[str]) -> Sequence[str]:
    """Names of the folders, or all of the URIs where two have the same name.

    >>> _short_names(("s3://work/utk", "s3://work/appa")), _short_names(("a/faces", "b/faces"))
    (['utk', 'appa'], ('a/faces', 'b/faces'))
    """
    names = [paths.name_of(uri) for uri in uris]
    return names if len(set(names)) == len(names) else uris


def _export(epoch: Epoch) -> None:
    """Sets what Prometheus reads of a training."""
    metrics.Gauge("agescale_epoch", "Epochs of a training that have ended").set(epoch["epoch"])
    metrics.Gauge("agescale_images_per_s", "Images a second in the last epoch of a training").set(epoch["images_per_s"])
    stage_seconds = metrics.Counter("agescale_stage_seconds", "Seconds of processes, by stage", ("stage",))
    for stage, seconds in epoch.get("stage_seconds", {}).items():
        if seconds > 0:
            stage_seconds.inc(seconds, {"stage": stage})
    judged = {"mae": epoch["val_mae"], "accuracy": epoch["val_accuracy"], "loss": epoch["val_loss"]}
    gauge = metrics.Gauge("agescale_validation_metric", "On the validation split, after each epoch", ("metric",))
    for name, value in judged.items():
        if value is not None:
            gauge.set(value, {"metric": name})


class _TerminalBar:
    """Ray's own bar on the driver's terminal, fed from a worker."""

    def __init__(self, verb: str, total: int) -> None:
        self._bar = tqdm_ray.tqdm(desc=verb, total=total, unit=" images")

    def add(self, num_images: int, note: str = "") -> None:
        self._bar.update(num_images)


@contextlib.contextmanager
def _progress(loop: TrainLoopConfig, verb: str) -> Iterator[ImageProgress | _TerminalBar]:
    is_shown = _rank() == 0
    if is_shown and loop["has_terminal"]:
        bar = _TerminalBar(verb, loop["num_train"])
        yield bar
        bar._bar.close()
    else:  # no last line: the epoch's summary says it all
        yield ImageProgress(verb, loop["num_train"], is_quiet=not is_shown)
