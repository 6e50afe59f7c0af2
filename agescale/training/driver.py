"""Trains a model on a catalog with Ray Train, into a folder that ``runs`` describes.

Whatever dies, ``train`` with the same settings goes on after the last whole epoch, or the last step that was saved of
the next one. Ray restarts a dead worker group by itself; ``last/`` and ``step/`` are ours and not Ray's, because they
must outlive the driver at any moment and load without Ray.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import pyarrow as pa
import ray
import ray.train
import ray.train.torch
import torch

from agescale.config import TrainConfig
from agescale.faces.augment import AUGMENTATIONS
from agescale.models import checkpoints
from agescale.models.age_model import AgeModel
from agescale.models.checkpoints import RunProgress, StateDict
from agescale.models.inference import find_device
from agescale.runtime import nodes, terminal
from agescale.runtime.bottleneck import Bottleneck
from agescale.runtime.cluster import allocator_environment, start_ray
from agescale.runtime.network import TorchConfig
from agescale.runtime.resources import WORKER_BYTES, check_resources, uses_gpu
from agescale.store import paths
from agescale.store.writers import Writer
from agescale.tables.catalogs import Catalog
from agescale.tables.faces import found_on_the_fly
from agescale.training import calibration, finetuning, runs
from agescale.training import plan as training_plan
from agescale.training.failures import Diverged, InvalidSettings, OutOfMemory, lasting_store_error, said_once
from agescale.training.feeds import Feed, Feeder, from_the_next_epoch, in_order, labelled_framing
from agescale.training.finetuning import Phase
from agescale.training.ingest import feature_bytes, fits_in_object_store
from agescale.training.plan import Plan, Selected
from agescale.training.worker import GOES_ON, LEAVES, STALL_TIMEOUT_S, TrainLoopConfig, train_fn_per_worker

MAX_FAILURES = 3
"""Deaths of workers that a run survives by itself; then the same command continues it."""

RESIZE_S = 600.0
"""Whether there is room for more processes is looked at so often: it costs what was done since the last save."""

REMEDIES = {
    "images": "feed it faster: packed images (jobs/catalog.py --pack), --cache always where they fit into memory, or "
    "more CPUs",
    "features": "features of a frozen encoder are made once: a GPU or more CPUs make them faster",
    "model": "compute faster: a GPU, more processes (--num-workers), a smaller --image-size or a smaller --encoder",
    "validation": "validate on fewer images: a smaller val split",
    "write": "write faster: --out on a disk or a store nearby, and rarer saves (--save-minutes)",
    "waiting": "processes waited for one another or for processors that other programs had: leave more of them to it",
}
"""What to change where that took longest."""

LABEL_COLUMNS = ("group", "age_low", "age_high", "gender", "ethnicity", "weight", "catalog", "is_counted", "cell")
"""What is learned of an image: numbers, looked up by its index."""


class Watch(ray.train.UserCallback):
    """Ends a training, instead of starting it again, where a store has said what it will say again, and where memory
    has not sufficed twice."""

    def __init__(self) -> None:
        self.num_out_of_memory = 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        wanting = [error for error in worker_exceptions.values() if is_out_of_memory(error)]
        self.num_out_of_memory += bool(wanting)
        if self.num_out_of_memory > 1:
            raise OutOfMemory("twice") from wanting[0]
        for error in map(lasting_store_error, worker_exceptions.values()):
            if error is not None:
                with said_once():
                    raise error


@dataclass(frozen=True)
class Shared:
    """What the trainings of a sweep have in common."""

    selected: Selected
    faces: Any  # the actor that holds decoded images, a SharedFaces
    num_trainings: int  # at a time on one machine


def train(
    config: TrainConfig,
    callbacks: tuple[ray.train.UserCallback, ...] = (),
    shared: Shared | None = None,
    selected: Selected | None = None,
) -> RunProgress:
    """Trains, or continues, or says that there is nothing left to do. Returns the progress of the finished run.

    ``selected`` are the images of another run that differs in nothing of this. Raises ValueError, before anything is
    started, for settings that cannot work.
    """
    if not config.catalog or not all(config.catalog):
        raise ValueError("--catalog: missing; jobs/catalog.py makes one, and --catalog drawn draws faces to try it on")
    config = paths.with_absolute_uris(config)
    out = config.out
    known = selected or (shared.selected if shared else None)
    output = training_plan.output(paths.join(out, runs.RUN_NAME), "a run")
    selected = training_plan.select(config, paths.join(out, runs.RUN_NAME), known)
    progress = runs.check_same(out, selected.run)
    if progress is not None and progress.is_finished and runs.is_over(out):
        return _say_finished(out, progress)
    if shared is None:
        output.check(selected.places)
    try:
        plan, splits, model = training_plan.build_plan(config, selected, begins=progress is None)
    except ValueError as error:
        raise InvalidSettings(str(error)) from error
    with output.held(config.lease) as held:
        writer = Writer(held.claim)
        before, progress = progress, runs.begin(out, selected, writer, pins_images=shared is None)
        if progress is None and before is not None:
            raise ValueError(f"{out}: the run was deleted meanwhile; run the same command again")
        if progress is not None and progress.is_finished:
            return _say_finished(out, progress)
        if progress is not None:
            num_epochs = sum(phase.epochs for phase in plan.phases)
            print(f"{out}: continues after epoch {progress.epochs_done} of {num_epochs}", flush=True)
        elif plan.loaded:
            print(f"weights: {config.weights}: {plan.loaded}", flush=True)
        _fit(config, plan, selected.catalogs, splits, model, writer, callbacks, shared)
        if shared is None:
            made = checkpoints.read(paths.join(out, "best")).spec.calibration
            num_counted = int(splits["val"]["is_counted"].to_numpy().sum())
            if said := calibration.told(config, plan.spec, made, num_counted):
                print(said, flush=True)
        progress = checkpoints.read(paths.join(out, "last")).progress
        if shared is None and (said := bottleneck_of(progress).line(REMEDIES)):
            print(said, flush=True)
        return progress


def bottleneck_of(progress: RunProgress) -> Bottleneck:
    """What limited the epochs of a run, by the seconds of its first process."""
    seconds: dict[str, float] = {}
    for epoch in progress.history:
        for stage, spent_s in epoch.get("stage_seconds", {}).items():
            seconds[stage] = seconds.get(stage, 0.0) + spent_s
    return Bottleneck(seconds, 1)


def _say_finished(out: str, progress: RunProgress) -> RunProgress:
    print(f"{out}: this run is finished, after {progress.epochs_done} epochs; nothing to do")
    return progress


def _fit(
    config: TrainConfig,
    plan: Plan,
    catalogs: tuple[Catalog, ...],
    splits: dict[str, pa.Table],
    model: AgeModel,
    writer: Writer,
    callbacks: tuple[ray.train.UserCallback, ...],
    shared: Shared | None,
) -> None:
    """Runs Ray Train over what is left of the plan. Raises Diverged, OutOfMemory, and a lasting StoreError."""
    is_apart = config.num_workers != 0  # from this process
    num_decoders = os.cpu_count() or 1  # who give way; an epoch begins once some thousand images are there
    start_ray(min_cpus=config.worker_range[0] * config.cpus_per_worker + num_decoders, has_dashboard=is_apart)
    if shared is None:  # of a sweep, which has asked for all its trainings
        nodes.check_shared(plan.out, *config.catalog)
    scaling = _scaling(config)
    num = scaling.min_workers if scaling.min_workers == scaling.max_workers else config.num_workers
    where = f"{num} x" if is_apart else "in this process, on"
    print(f"training {where} {'GPU' if scaling.use_gpu else 'CPU'}", flush=True)

    labels = {name: {column: split[column].to_numpy() for column in LABEL_COLUMNS} for name, split in splits.items()}
    loop: TrainLoopConfig = {
        "plan": plan,
        "writer": writer,
        "initial_weights": ray.put(model.state_dict()),
        "labels": ray.put(labels),
        "catalog_ids": [catalog.id for catalog in catalogs],
        "num_train": 0,  # this and the next one say what the processes are fed with
        "is_held": False,
        "on_features": False,
        "made_s": 0.0,
        "made_before": 0,
        "num_phases": len(plan.phases),
        "has_terminal": is_apart and terminal.is_terminal(),
        "use_gpu": scaling.use_gpu,
        "num_trainings": shared.num_trainings if shared else 1,
    }

    def run(loop: TrainLoopConfig, make: Callable[[str, pa.Table], Feed]) -> str | None:
        started, made_before = time.monotonic(), _epochs_done(plan) + 1
        feeds = {name: make(name, split) for name, split in splits.items()}
        loop = {**loop, "num_train": feeds["train"].num_images, "is_held": feeds["train"].is_held}
        loop = {**loop, "made_s": time.monotonic() - started, "made_before": made_before}
        while (ended := run_once(loop, feeds)) == LEAVES:  # Ray places nothing where a node will be taken away
            print(f"{LEAVES}: saved; goes on elsewhere, as soon as there is room", flush=True)
        return ended

    def run_once(loop: TrainLoopConfig, feeds: dict[str, Feed]) -> str | None:
        with tempfile.TemporaryDirectory(prefix="agescale-") as scratch:  # Ray's own records; we keep nothing there
            trainer = ray.train.torch.TorchTrainer(
                train_fn_per_worker,
                train_loop_config=loop,
                scaling_config=scaling,
                run_config=_run_config(scratch, callbacks),
                torch_config=TorchConfig(timeout_s=STALL_TIMEOUT_S),
                datasets={
                    "train": partial(from_the_next_epoch, feeds["train"].dataset, plan.out),
                    "val": feeds["val"].dataset,
                },
                dataset_config=ray.train.DataConfig(datasets_to_split=["train"], execution_options=in_order()),
            )
            return _result(trainer, config)

    for catalog in catalogs if shared is None else ():
        if said := found_on_the_fly(catalog, labelled_framing(plan.spec, catalog)):
            print(said, flush=True)
    feeder = Feeder(config, plan.spec, catalogs, shared.faces if shared else None, scaling.use_gpu)
    ended: str | None = GOES_ON
    num_top_phases = _num_top_phases(config, plan.phases, model, sum(map(len, splits.values())))
    if num_top_phases and (next_phase := _next_phase(plan)) is not None and next_phase < num_top_phases:
        weights = ray.put(_weights_so_far(plan, model))
        ended = run(
            {**loop, "on_features": True, "num_phases": num_top_phases}, partial(feeder.features, weights=weights)
        )
    if ended == GOES_ON:
        ended = run(loop, feeder.images)
    if ended:
        raise Diverged(ended)


def _scaling(config: TrainConfig) -> ray.train.ScalingConfig:
    """How many processes train on what. Raises ValueError where the cluster has no place for them."""
    if not config.num_workers:
        return ray.train.ScalingConfig(num_workers=0, use_gpu=find_device(config.device) != "cpu")
    use_gpu = uses_gpu(config.device)
    gpus_each = config.gpus_per_worker * use_gpu
    low, high = config.worker_range
    check_resources(low, config.cpus_per_worker, gpus_each, extra_cpus=1, bytes_per_worker=WORKER_BYTES)
    gpus = {"GPU": config.gpus_per_worker} if use_gpu else {}
    if not use_gpu:  # one CPU is left for decoding, or nothing would ever come
        room = int((ray.cluster_resources().get("CPU", 0.0) - 1) / config.cpus_per_worker + 1e-9)
        high = max(low, min(high, room))
    return ray.train.ScalingConfig(
        num_workers=(low, high) if low < high else low,
        elastic_resize_monitor_interval_s=RESIZE_S,
        use_gpu=use_gpu,
        resources_per_worker={"CPU": config.cpus_per_worker, **gpus},
    )


def _run_config(scratch: str, callbacks: tuple[ray.train.UserCallback, ...]) -> ray.train.RunConfig:
    return ray.train.RunConfig(
        name="run",
        storage_path=scratch,
        failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
        callbacks=[*callbacks, Watch()],
        logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        worker_runtime_env=allocator_environment(),
    )


def _result(trainer: ray.train.torch.TorchTrainer, config: TrainConfig) -> str | None:
    """Trains. Returns why the processes ended early, or None; raises what of Ray's errors says what went wrong."""
    try:
        return cast("str | None", trainer.fit().return_value)
    except ray.train.WorkerGroupError as error:
        if not any(map(is_out_of_memory, error.worker_failures.values())):
            raise
        raise _out_of_memory(config) from error
    except ray.train.ControllerError as error:
        if is_out_of_memory(error.controller_failure):
            raise _out_of_memory(config) from error
        raise lasting_store_error(error.controller_failure) or error from error
    except SystemExit as error:  # what Ray makes of Ctrl+C
        raise KeyboardInterrupt from error
    except (RuntimeError, MemoryError) as error:  # of this process
        if is_out_of_memory(error):
            raise _out_of_memory(config) from error
        raise


def _out_of_memory(config: TrainConfig) -> OutOfMemory:
    return OutOfMemory(f"out of memory with --batch-size {config.batch_size}; try half of it, or a smaller image size")


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether that is why a training process ended, or what it was caused by."""
    if isinstance(error, OutOfMemory):
        return True
    error = getattr(error, "health_check_failure", error)  # what Ray found of a process that was killed
    if isinstance(error, torch.OutOfMemoryError | ray.exceptions.OutOfMemoryError):
        return True
    if isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error):
        return True
    return error is not None and is_out_of_memory(error.__cause__)


def _num_top_phases(config: TrainConfig, phases: tuple[Phase, ...], model: AgeModel, num_images: int) -> int:
    """The first phases that learn from features made once: those that train dense layers alone, from images that are
    the same in each epoch, or mirrored; where the features fit into memory, and there is more than one epoch."""
    augmentation = AUGMENTATIONS[config.augmentation]
    if config.cache == "never" or not augmentation.only_flips or config.mixup:
        return 0
    num_phases = finetuning.num_top_phases(model, phases)
    fits = config.cache == "always" or fits_in_object_store(num_images * feature_bytes(model, augmentation))
    return num_phases if fits and sum(phase.epochs for phase in phases[:num_phases]) > 1 else 0


def _next_phase(plan: Plan) -> int | None:
    last = paths.join(plan.out, "last")
    if not checkpoints.exists(last):
        return 0
    return runs.next_phase(plan.phases, checkpoints.read(last).progress, plan.config.patience)


def _epochs_done(plan: Plan) -> int:
    last = paths.join(plan.out, "last")
    return checkpoints.read(last).progress.epochs_done if checkpoints.exists(last) else 0


def _weights_so_far(plan: Plan, model: AgeModel) -> StateDict:
    """Those that the run goes on with."""
    last = paths.join(plan.out, "last")
    if not checkpoints.exists(last):
        return model.state_dict()
    return checkpoints.load_training(last, checkpoints.read(last))["model"]
