"""Trains a model on a catalog with Ray Train; a run is its output folder.

    <out>/run.json          what the run is: its settings and the images it learns from
    <out>/last/             the checkpoint that training goes on from, after every epoch
    <out>/best/             the checkpoint with the best validation metric
    <out>/history.parquet   a row an epoch, derived from last/

Whatever dies, ``train`` with the same settings goes on after the last whole epoch. Ray restarts a dead worker group by
itself; ``last/`` is ours and not Ray's, because it must outlive the driver at any moment and load without Ray.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.experimental import tqdm_ray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from agescale import age_cdf, catalogs, checkpoints, finetuning, storage
from agescale.age_groups import EXACT_YEARS, AgeGroups
from agescale.age_model import AgeModel, ModelSpec, build_spec_task, describe_blocks
from agescale.augment import AUGMENTATIONS, augment
from agescale.checkpoints import Progress
from agescale.config import EXECUTION_FIELDS, TrainConfig
from agescale.data import (
    FaceDecoder,
    check_resources,
    decoded_dataset,
    fingerprint,
    fits_in_object_store,
    labelled_rows,
    num_gpus,
    start_ray,
)
from agescale.models import load_backbone_weights
from agescale.progress import ImageProgress
from agescale.tasks import METRIC_DIRECTIONS, Task

MAX_FAILURES = 3
"""Deaths of workers that a run survives by itself; then the same command continues it."""

STALL_TIMEOUT_S = 600
"""A training process that finishes no step for so long ends with a traceback instead of hanging."""

SHUFFLE_BUFFER_IMAGES = 1024


@dataclass(frozen=True)
class Plan:
    """All that is decided before the first process starts, and checked: what each worker is given."""

    config: TrainConfig
    out: str
    spec: ModelSpec
    phases: tuple[finetuning.Phase, ...]
    provenance: dict[str, Any]
    num_train: int
    metric: str
    has_terminal: bool


def train(config: TrainConfig, callbacks: tuple[ray.train.UserCallback, ...] = ()) -> Progress:
    """Trains, or continues, or says that there is nothing left to do. Returns the progress of the finished run.

    Raises ValueError, before anything is started, for settings that cannot work.
    """
    out = storage.absolute(config.out)
    catalogs.check_complete(storage.absolute(config.catalog))
    age_groups = _age_groups(config)
    rows = labelled_rows(storage.absolute(config.catalog), age_groups)
    spec = _spec(config, age_groups)
    run = {"settings": _identity(config), "data": fingerprint(rows)}
    finished = _check_same_run(out, run)
    if finished is not None:
        print(f"{out}: this run is finished, after {finished.epochs_done} epochs; nothing to do")
        return finished

    phases = finetuning.parse_phases(config.phases)
    if config.epochs is not None:
        phases = finetuning.cap_epochs(phases, config.epochs)
    splits = {name: rows.filter(pc.equal(rows["split"], name)) for name in ("train", "val")}
    metric = _check_labels(build_spec_task(spec), splits)
    model = _initial_model(config, spec, phases)
    if config.num_workers < 1 or config.batch_size < 1:
        raise ValueError(f"--num-workers {config.num_workers} --batch-size {config.batch_size}: at least 1 each")
    if config.batch_size % config.num_workers:
        raise ValueError(f"--batch-size {config.batch_size} is no multiple of --num-workers {config.num_workers}")
    storage.check_writable(out)

    start_ray(min_cpus=config.num_workers * config.cpus_per_worker + 1)
    use_gpu = config.device == "cuda" or (config.device == "auto" and num_gpus() > 0)
    check_resources(config.num_workers, config.cpus_per_worker, float(use_gpu), extra_cpus=1)
    print(f"training on {config.num_workers} x {'GPU' if use_gpu else 'CPU'}", flush=True)
    storage.write_bytes(storage.join(out, "run.json"), json.dumps(run, indent=1).encode())

    datasets = {name: _dataset(config, split, is_train=name == "train") for name, split in splits.items()}
    plan = Plan(
        config=config,
        out=out,
        spec=spec,
        phases=phases,
        provenance=_provenance(config, run, splits, model),
        num_train=datasets["train"][1],
        metric=metric,
        has_terminal=sys.stdout.isatty(),
    )
    with tempfile.TemporaryDirectory(prefix="agescale-") as scratch:  # Ray's own records; nothing we keep stands there
        trainer = ray.train.torch.TorchTrainer(
            train_fn_per_worker,
            train_loop_config={"plan": plan, "initial_weights": ray.put(model.state_dict())},
            scaling_config=ray.train.ScalingConfig(
                num_workers=config.num_workers,
                use_gpu=use_gpu,
                resources_per_worker={"CPU": config.cpus_per_worker, **({"GPU": 1} if use_gpu else {})},
            ),
            run_config=ray.train.RunConfig(
                name="run",
                storage_path=scratch,
                failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
                callbacks=list(callbacks),
                logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            ),
            torch_config=ray.train.torch.TorchConfig(timeout_s=STALL_TIMEOUT_S),
            datasets={name: dataset for name, (dataset, _) in datasets.items()},
            dataset_config=ray.train.DataConfig(datasets_to_split=["train"]),
        )
        diverged = trainer.fit().return_value
    if diverged:
        raise ValueError(diverged)
    return checkpoints.read(storage.join(out, "last")).progress


# ----------------------------------------------------------------------------------------------------------------------
# before the first process starts


def _identity(config: TrainConfig) -> dict[str, Any]:
    values = {name: value for name, value in asdict(config).items() if name not in EXECUTION_FIELDS}
    values["catalog"] = storage.absolute(config.catalog)
    return dict(json.loads(json.dumps(values)))


def _check_same_run(out: str, run: dict[str, Any]) -> Progress | None:
    """The progress of a finished run in ``out``; ValueError where another run stands there."""
    if not storage.exists(storage.join(out, "run.json")):
        return None
    before = json.loads(storage.read_bytes(storage.join(out, "run.json")))
    old, new = before["settings"], run["settings"]
    different = [
        f"{name} was {old.get(name)!r}, is {new.get(name)!r}" for name in new if old.get(name) != new.get(name)
    ]
    if different:
        raise ValueError(f"{out}: another run stands there ({'; '.join(different)}); give another --out")
    if before["data"] != run["data"]:
        raise ValueError(f"{out}: the catalog has changed since this run began; give another --out")
    last = storage.join(out, "last")
    if not checkpoints.exists(last):
        return None
    _derive(out)
    progress = checkpoints.read(last).progress
    return progress if progress.is_finished else None


def _age_groups(config: TrainConfig) -> AgeGroups:
    if config.age_groups:
        return AgeGroups.parse(config.age_groups)
    groups = catalogs.age_groups(storage.absolute(config.catalog))
    if groups is None:
        raise ValueError(
            f"{config.catalog}: an unlabelled catalog; training needs labels (--layout of jobs/catalog.py)"
        )
    return groups


def _spec(config: TrainConfig, age_groups: AgeGroups) -> ModelSpec:
    if not 0 < config.center_crop <= 1:
        raise ValueError(f"--center-crop {config.center_crop}: a share above 0, at most 1")
    return ModelSpec(
        encoder=config.encoder,
        task=config.task,
        age_groups=age_groups.format(),
        image_size=config.image_size,
        hidden=config.hidden,
        dropout=config.dropout,
        center_crop=config.center_crop,
    )


def _check_labels(task: Task, splits: Mapping[str, pa.Table]) -> str:
    """The validation metric to watch. Raises ValueError where a split is empty or its labels cannot be used."""
    for name, rows in splits.items():
        if len(rows) == 0:
            raise ValueError(f"the catalog has no usable labelled image in its {name} split; see its findings.parquet")
        num_exact, num_range, num_group, _ = _label_counts(rows)
        task.check_labels(num_exact, num_range, num_group, len(rows) - num_exact - num_range)
    num_exact, _, num_group, _ = _label_counts(splits["val"])
    is_known = num_exact if task.metric == "mae" else num_group
    return task.metric if is_known else "loss"


def _label_counts(rows: pa.Table) -> tuple[int, int, int, int]:
    width = pc.subtract(rows["age_high"], rows["age_low"])
    num_aged = len(rows) - rows["age_low"].null_count
    num_exact = pc.sum(pc.less_equal(width, EXACT_YEARS)).as_py() or 0
    num_group = pc.sum(pc.greater_equal(rows["group"], 0)).as_py() or 0
    return num_exact, num_aged - num_exact, num_group, len(rows)


def _initial_model(config: TrainConfig, spec: ModelSpec, phases: tuple[finetuning.Phase, ...]) -> AgeModel:
    """The model that training starts from; says what its weights lack and have too much."""
    torch.manual_seed(config.seed)
    model = AgeModel(spec)
    for phase in phases:
        finetuning.freeze(model, phase.scope)  # raises where a phase names more blocks than there are
    if config.weights:
        is_file = config.weights.endswith((".pt", ".pth", ".bin")) or "/" in config.weights
        source = (
            checkpoints.read_tensors(storage.absolute(config.weights), config.weights_sha256)
            if is_file
            else config.weights
        )
        missing, unexpected = load_backbone_weights(model.encoder, source)
        print(f"weights: {config.weights}: {_name_some('lacks', missing)}; {_name_some('has too much', unexpected)}")
    return model


def _name_some(what: str, names: list[str]) -> str:
    if not names:
        return f"{what} nothing"
    return f"{what} {len(names)} tensors ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def _dataset(config: TrainConfig, rows: pa.Table, is_train: bool) -> tuple[ray.data.Dataset, int]:
    """Decoded faces and their number; held in the object store for all epochs where they fit, else decoded in each."""
    catalog = storage.absolute(config.catalog)
    pack = int(catalogs.settings(catalog).get("pack") or 0)
    use_packed = catalogs.can_use_packed(pack, config.image_size, config.center_crop)
    decoder = FaceDecoder(catalog, config.image_size, config.center_crop, use_packed)
    seed = ray.data.RandomSeedConfig(seed=config.seed, reseed_after_execution=True) if is_train else None
    fits = config.cache == "auto" and fits_in_object_store(len(rows), config.image_size)
    if config.cache == "always" or fits:
        print(f"decoding {len(rows):,} images, once for all epochs", flush=True)
        dataset = decoded_dataset(rows, decoder, seed=None).materialize()
        num_images = int(dataset.count())
        if num_images < len(rows):
            print(
                f"{len(rows) - num_images} images cannot be read any more and are left out; run jobs/catalog.py again"
            )
        return (dataset.randomize_block_order(seed=seed) if seed else dataset), num_images
    return decoded_dataset(rows, decoder, seed), len(rows)


def _provenance(
    config: TrainConfig, run: dict[str, Any], splits: Mapping[str, pa.Table], model: AgeModel
) -> dict[str, Any]:
    """Where the model comes from, for whoever deploys or audits it."""
    return {
        "settings": run["settings"],
        "data": run["data"],
        "num_images": {name: len(rows) for name, rows in splits.items()},
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "blocks": describe_blocks(model),
        "initial_weights": {
            "source": config.weights or "random",
            "sha256": config.weights_sha256 or None,
            "license": config.weights_license or None,
        },
        "data_license": config.data_license or None,
        "versions": checkpoints.library_versions(),
    }


# ----------------------------------------------------------------------------------------------------------------------
# in each training process


def train_fn_per_worker(loop: dict[str, Any]) -> str | None:
    """The training loop of one process, which Ray Train calls on each. Returns why it gave up, or None."""
    plan: Plan = loop["plan"]
    config = plan.config
    logging.getLogger().setLevel(logging.WARNING)  # else Ray prints every report, metric by metric
    rank = ray.train.get_context().get_world_rank()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        local = ray.train.get_context().get_local_world_size()
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local))

    model = AgeModel(plan.spec)
    model.load_state_dict(ray.get(loop["initial_weights"]))
    model.to(device)
    ema = finetuning.build_ema(model, config.ema_decay) if config.ema_decay else None
    judged = cast(AgeModel, ema.module) if ema is not None else model
    progress, optimizer_state = _restore(plan, model, ema)

    phase_index: int | None = None
    learner: nn.Module | None = None
    while (next_index := _next_phase(plan.phases, progress, config.patience)) is not None:
        phase = plan.phases[next_index]
        if next_index != phase_index:
            phase_index, learner = next_index, None  # lets go of the former phase's wrapper before the next one is made
            finetuning.freeze(model, phase.scope)
            optimizer = torch.optim.AdamW(finetuning.param_groups(model, config.weight_decay), lr=phase.lr)
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
        entry |= _train_epoch(plan, learner, ema, optimizer, progress, phase)
        entry["images_per_s"] = round(entry.pop("num_images") / (time.monotonic() - started), 1)
        entry |= _validate(plan, judged)
        faulthandler.cancel_dump_traceback_later()  # what follows are stores, which have time limits of their own
        if not math.isfinite(entry["train_loss"] + entry["val_loss"]):  # the same on every process
            return f"training diverged: epoch {entry['epoch']}'s loss is not finite; lower the learning rate"
        entry["seconds"] = round(time.monotonic() - started, 1)

        progress = _extend(progress, entry, plan)
        if rank == 0:
            _save(plan, progress, model, ema, optimizer)
            _print_epoch(plan, progress)
        metrics = {key: value for key, value in entry.items() if isinstance(value, int | float)}
        ray.train.report({**metrics, "best_value": progress.best_value})
    return None


def _restore(plan: Plan, model: AgeModel, ema: AveragedModel | None) -> tuple[Progress, dict[str, Any] | None]:
    """Brings model and average to where ``last/`` left them. Returns its progress, and the optimizer's state where the
    phase that it belongs to goes on."""
    last = storage.join(plan.out, "last")
    if not checkpoints.exists(last):
        return Progress(metric=plan.metric), None
    checkpoint = checkpoints.read(last)
    state = checkpoints.load_training(last, checkpoint)
    model.load_state_dict(state["model"])
    if ema is not None:
        ema.load_state_dict(state["ema"])
    progress = checkpoint.progress
    same_phase = _next_phase(plan.phases, progress, plan.config.patience) == progress.history[-1]["phase_index"]
    return progress, state["optimizer"] if same_phase else None


def _next_phase(phases: tuple[finetuning.Phase, ...], progress: Progress, patience: int) -> int | None:
    """Index of the phase of the next epoch, None after the last. A phase ends early when it brings nothing better."""
    if not progress.history:
        return 0
    index = progress.history[-1]["phase_index"]
    epochs_before = sum(entry["phase_index"] < index for entry in progress.history)
    epochs_in_phase = progress.epochs_done - epochs_before
    epochs_without_better = progress.epochs_done - max(progress.best_epoch or 0, epochs_before)
    if epochs_in_phase < phases[index].epochs and epochs_without_better < patience:
        return int(index)
    return index + 1 if index + 1 < len(phases) else None


def _train_epoch(
    plan: Plan,
    learner: nn.Module,
    ema: AveragedModel | None,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    phase: finetuning.Phase,
) -> dict[str, Any]:
    """One pass over this process's share of the images. The gradient of a step is that of the whole global batch."""
    config = plan.config
    rank, world_size = ray.train.get_context().get_world_rank(), ray.train.get_context().get_world_size()
    device = next(learner.parameters()).device
    task, augmentation = build_spec_task(plan.spec), AUGMENTATIONS[config.augmentation]
    epoch = progress.epochs_done + 1
    seed = (config.seed * 1_000_003 + epoch) * 1009 + rank
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)

    num_local, batch_size = plan.num_train // world_size, config.batch_size // world_size
    steps_per_epoch = max(1, num_local // batch_size)
    step = sum(entry["phase_index"] == plan.phases.index(phase) for entry in progress.history) * steps_per_epoch
    batches = ray.train.get_dataset_shard("train").iter_torch_batches(
        batch_size=batch_size,
        drop_last=num_local >= batch_size,  # every process must take the same number of steps
        local_shuffle_buffer_size=min(SHUFFLE_BUFFER_IMAGES, max(1, num_local // 2)),
        local_shuffle_seed=seed,
    )
    sums = torch.zeros(3, dtype=torch.float64, device=device)  # losses, their weights, images
    with _progress(plan, f"epoch {epoch} ({phase.scope})", plan.num_train, is_shown=rank == 0) as shown:
        for batch in batches:
            lr = finetuning.lr_at(
                step, phase.epochs * steps_per_epoch, int(config.warmup_epochs * steps_per_epoch), phase.lr
            )
            for group in optimizer.param_groups:
                group["lr"] = lr
            images_NCHW = augment(batch["image"].permute(0, 3, 1, 2), augmentation, generator)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
                outputs = learner(images_NCHW)
            loss_N, weight_N = task.loss(outputs, batch)
            batch_sums = torch.stack([loss_N.detach().sum(), weight_N.sum()]).double()
            _reduce(batch_sums)
            # DDP averages gradients over processes; this makes the average the mean over the global batch
            loss = loss_N.sum() * world_size / batch_sums[1].clamp(min=1).to(loss_N.dtype)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if config.clip_norm:
                nn.utils.clip_grad_norm_(learner.parameters(), config.clip_norm)
            optimizer.step()
            if ema is not None:
                ema.update_parameters(getattr(learner, "module", learner))
            _wind_watchdog()
            num_images = len(images_NCHW) * world_size
            sums += torch.cat([batch_sums, batch_sums.new_tensor([num_images])])
            step += 1
            shown.add(num_images, f"loss {sums[0] / sums[1]:.3f}" if rank == 0 and device.type == "cpu" else "")
    return {"train_loss": float(sums[0] / sums[1].clamp(min=1)), "num_images": int(sums[2])}


def _validate(plan: Plan, model: AgeModel) -> dict[str, Any]:
    """Loss, MAE and accuracy over all validation images, each counted once: every process judges those that are its
    own, and sums are added up over the processes."""
    rank, world_size = ray.train.get_context().get_world_rank(), ray.train.get_context().get_world_size()
    if world_size > 1:
        for (
            buffer
        ) in model.buffers():  # batch-norm statistics differ between processes; the first one's are what is kept
            dist.broadcast(buffer, 0)
    model.eval()
    task, age_groups = build_spec_task(plan.spec), AgeGroups.parse(plan.spec.age_groups)
    device = next(model.parameters()).device
    sums = torch.zeros(6, dtype=torch.float64, device=device)
    for batch in ray.train.get_dataset_shard("val").iter_torch_batches(batch_size=plan.config.batch_size):
        _wind_watchdog()
        is_mine = batch["index"] % world_size == rank
        batch = {name: values[is_mine] for name, values in batch.items()}
        if len(batch["index"]) == 0:
            continue
        with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            outputs = model(batch["image"].permute(0, 3, 1, 2))
        if not outputs.isfinite().all():
            sums[0] = math.inf
            continue
        loss_N, weight_N = task.loss(outputs, batch)
        errors, num_exact, hits, num_groups = _errors(task, outputs, batch, age_groups)
        sums += sums.new_tensor([float(loss_N.sum()), float(weight_N.sum()), errors, num_exact, hits, num_groups])
    _reduce(sums)
    loss, num_loss, errors, num_exact, hits, num_groups = sums.tolist()
    return {
        "val_loss": loss / max(num_loss, 1),
        "val_mae": errors / num_exact if num_exact else None,
        "val_accuracy": hits / num_groups if num_groups else None,
    }


def _errors(
    task: Task, outputs: Tensor, batch: Mapping[str, Tensor], age_groups: AgeGroups
) -> tuple[float, int, int, int]:
    """Sum and count of absolute age errors (exact labels), hits and count of groups; by the path that scoring takes."""
    prediction = task.decode(outputs)
    group_N = batch["group"].cpu().numpy()
    if prediction.age_probs_NA is None:
        assert prediction.group_probs_NG is not None
        predicted_N = prediction.group_probs_NG.argmax(dim=1).cpu().numpy()
        return 0.0, 0, int((predicted_N == group_N)[group_N >= 0].sum()), int((group_N >= 0).sum())
    cdf_NA = age_cdf.encode(prediction.age_probs_NA.cpu().numpy())
    low_N, high_N = batch["age_low"].cpu().numpy(), batch["age_high"].cpu().numpy()
    is_exact_N = high_N - low_N <= EXACT_YEARS
    error_N = np.abs(age_cdf.median_age(cdf_NA) - low_N)[is_exact_N]
    if not age_groups.is_bounded:
        return float(error_N.sum()), len(error_N), 0, 0
    predicted_N = age_cdf.group_probabilities(cdf_NA, age_groups).argmax(axis=1)
    is_hit_N = (predicted_N == group_N)[group_N >= 0]
    return float(error_N.sum()), len(error_N), int(is_hit_N.sum()), len(is_hit_N)


def _reduce(sums: Tensor) -> None:
    """Adds ``sums`` up over all processes, in place."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(sums)


def _wind_watchdog() -> None:
    """Gives this process another STALL_TIMEOUT_S to come by here again; then it ends with a traceback."""
    faulthandler.dump_traceback_later(STALL_TIMEOUT_S, exit=True)


def _extend(progress: Progress, entry: dict[str, Any], plan: Plan) -> Progress:
    """Progress with one more epoch."""
    value = entry[f"val_{plan.metric}"]
    sign = -1 if METRIC_DIRECTIONS.get(plan.metric, "min") == "max" else 1
    is_best = progress.best_value is None or sign * value < sign * progress.best_value
    progress = replace(progress, epochs_done=entry["epoch"], history=(*progress.history, entry))
    if is_best:
        progress = replace(progress, best_epoch=entry["epoch"], best_value=value)
    is_finished = _next_phase(plan.phases, progress, plan.config.patience) is None
    return replace(progress, is_finished=is_finished)


def _save(
    plan: Plan,
    progress: Progress,
    model: AgeModel,
    ema: AveragedModel | None,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Writes last/, then what derives from it; a death in between is mended by the next start."""
    judged = cast(AgeModel, ema.module if ema is not None else model)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in judged.state_dict().items()}
    training = {
        "model": model.state_dict(),
        "ema": ema.state_dict() if ema is not None else {},
        "optimizer": optimizer.state_dict(),
    }
    checkpoints.save(storage.join(plan.out, "last"), plan.spec, weights, progress, plan.provenance, training)
    _derive(plan.out)


def _derive(out: str) -> None:
    """Brings best/ and history.parquet up to date with last/."""
    best, last = storage.join(out, "best"), storage.join(out, "last")
    newest = checkpoints.read(last)
    progress = newest.progress
    kept = checkpoints.read(best).progress if checkpoints.exists(best) else None
    if progress.best_epoch == progress.epochs_done and (kept is None or kept.history != progress.history):
        weights = checkpoints.load_tensors(last, newest.weights_file, newest.weights_sha256)
        checkpoints.save(best, newest.spec, weights, progress, newest.provenance)
    elif progress.is_finished and kept is not None and not kept.is_finished:
        checkpoints.update_progress(best, progress)
    _write_history(out, progress)


HISTORY_SCHEMA = pa.schema(
    [
        ("epoch", pa.int32()), ("phase", pa.string()), ("phase_index", pa.int32()), ("lr", pa.float64()),
        ("train_loss", pa.float64()), ("images_per_s", pa.float64()), ("val_loss", pa.float64()),
        ("val_mae", pa.float64()), ("val_accuracy", pa.float64()), ("seconds", pa.float64()),
    ]
)  # fmt: skip


def _write_history(out: str, progress: Progress) -> None:
    uri = storage.join(out, "history.parquet")
    if not storage.exists(uri) or storage.num_rows(uri) != len(progress.history):
        storage.write_table(uri, pa.Table.from_pylist(list(progress.history), schema=HISTORY_SCHEMA))


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
def _progress(plan: Plan, verb: str, total: int, is_shown: bool) -> Iterator[ImageProgress | _TerminalBar]:
    if is_shown and plan.has_terminal:
        bar = _TerminalBar(verb, total)
        yield bar
        bar._bar.close()
    else:
        yield ImageProgress(verb, total, is_quiet=not is_shown)  # no last line: the epoch's summary says it all
