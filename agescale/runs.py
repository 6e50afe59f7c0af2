"""A run is its output folder; what stands there, and what comes next in it.

    <out>/run.json          what the run is: its settings and the images it learns from
    <out>/last/             the checkpoint that training goes on from, after every epoch
    <out>/best/             the checkpoint with the best validation metric
    <out>/history.parquet   a row an epoch, derived from last/

``last/`` decides; the others are brought up to date with it, so a death in between is mended by the next start.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa

from agescale import checkpoints, storage, validation
from agescale.checkpoints import Progress, StateDict
from agescale.config import TrainConfig, check_unchanged
from agescale.finetuning import Phase
from agescale.training_plan import Plan

DEFAULTS = json.loads(json.dumps(asdict(TrainConfig())))


def check_same(out: str, run: dict[str, Any]) -> Progress | None:
    """The progress of a finished run in ``out``; ValueError where another run stands there."""
    if not storage.exists(storage.join(out, "run.json")):
        return None
    before = json.loads(storage.read_bytes(storage.join(out, "run.json")))
    old, new = before["settings"], run["settings"]
    known = DEFAULTS | old  # a setting may be newer than the run
    check_unchanged(out, "another run", known, new)
    if before["data"] != run["data"]:
        raise ValueError(f"{out}: the catalog has changed since this run began; give another --out")
    last = storage.join(out, "last")
    if not checkpoints.exists(last):
        return None
    _derive(out)
    progress = checkpoints.read(last).progress
    return progress if progress.is_finished else None


def begin(out: str, run: dict[str, Any]) -> None:
    storage.write_bytes(storage.join(out, "run.json"), json.dumps(run, indent=1).encode())


def next_phase(phases: tuple[Phase, ...], progress: Progress, patience: int) -> int | None:
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


def extend(progress: Progress, entry: dict[str, Any], plan: Plan) -> Progress:
    """Progress with one more epoch."""
    value = entry[f"val_{plan.metric}"]
    sign = validation.sign(plan.metric)
    is_best = progress.best_value is None or sign * value < sign * progress.best_value or plan.config.refit
    history = (*progress.history, {**entry, "is_best": is_best})
    progress = replace(progress, epochs_done=entry["epoch"], history=history)
    if is_best:
        progress = replace(progress, best_epoch=entry["epoch"], best_value=value)
    is_finished = next_phase(plan.phases, progress, plan.config.patience) is None
    return replace(progress, is_finished=is_finished)


def save(plan: Plan, progress: Progress, judged: StateDict, training: dict[str, Any]) -> None:
    """Writes last/, with the weights that were validated and what going on needs besides, then what derives from it."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in judged.items()}
    spec = replace(plan.spec, decode=progress.history[-1]["decode"])
    checkpoints.save(storage.join(plan.out, "last"), spec, weights, progress, plan.provenance, training)
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
        ("val_mae", pa.float64()), ("val_worst_group_mae", pa.float64()), ("val_accuracy", pa.float64()),
        ("decode", pa.string()), ("seconds", pa.float64()), ("is_best", pa.bool_()),
    ]
)  # fmt: skip


def _write_history(out: str, progress: Progress) -> None:
    uri = storage.join(out, "history.parquet")
    if not storage.exists(uri) or storage.num_rows(uri) != len(progress.history):
        storage.write_table(uri, pa.Table.from_pylist(list(progress.history), schema=HISTORY_SCHEMA))
