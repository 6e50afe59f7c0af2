"""A run is its output folder; what stands there, and what comes next in it.

    <out>/run.json          what the run is: its settings and the images it learns from
    <out>/images.parquet    these images, their labels, and the parts of the catalog that they come from
    <out>/last/             the checkpoint that training goes on from, after every epoch
    <out>/step/             that of an epoch under way, where it takes long; outdated once last/ has that epoch
    <out>/best/             the checkpoint with the best validation metric
    <out>/history.parquet   a row an epoch, derived from last/

``last/`` decides; the others are brought up to date with it wherever a process begins, and before ``last/`` goes on, so
a death in between is mended by whoever comes next. Who writes has the run, and proves it (see ``writers``).
"""

from __future__ import annotations

import json
import uuid
from dataclasses import asdict, replace

import pyarrow as pa

from agescale.ages.calibration import Calibration
from agescale.config import TrainConfig
from agescale.models import checkpoints
from agescale.models.checkpoints import Checkpoint, Epoch, LearnerState, Order, RunProgress, StateDict, Step
from agescale.store import lease, objects, parquet, paths, writers
from agescale.store.errors import Damaged, StoreError
from agescale.store.outputs import check_unchanged
from agescale.store.writers import Writer
from agescale.training import plan as training_plan
from agescale.training import validation
from agescale.training.finetuning import Phase
from agescale.training.plan import Identity, Plan, Selected

RUN_NAME, HISTORY_NAME, STEP_NAME = "run.json", "history.parquet", "step"
MAX_CLAIMS = 5

DEFAULTS = json.loads(json.dumps(asdict(TrainConfig())))


def check_same(out: str, run: Identity) -> RunProgress | None:
    """The progress of the run in ``out``, None where it has not finished an epoch. Only reads. Raises ValueError where
    another run stands there."""
    uri, last = paths.join(out, RUN_NAME), paths.join(out, "last")
    if not objects.exists(uri):
        if checkpoints.exists(last):
            raise ValueError(f"{last}: a checkpoint of a run whose {RUN_NAME} is missing; give another --out")
        return None
    try:
        before = json.loads(objects.read_bytes(uri))
        known, data = DEFAULTS | before["settings"], before["data"]  # a setting may be newer than the run
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{uri}: damaged, not a valid record of a run ({_one_line(error)}); give another --out"
        ) from error
    new = run["settings"]
    is_longer = {name for name in new if known.get(name) != new[name]} <= {"phases", "epochs"}
    way = f"--weights {out}/best --out ANOTHER trains on from its best epoch" if is_longer else "give another --out"
    if {name for name in new if known.get(name) != new[name]} == {"interval_coverage"}:
        way = f"jobs/calibrate.py --checkpoint {out}/best makes one of the same weights with other intervals"
    check_unchanged(out, "another run", known, new, way)
    if data != run["data"]:
        raise ValueError(f"{out}: other images than this run began with; give another --out")
    return _read_last(out).progress if checkpoints.exists(last) else None


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _read_last(out: str, has_files: bool = False) -> Checkpoint:
    """The checkpoint that the run goes on from, with ``has_files`` seen to be whole. Raises ValueError, with what to
    do, where it is damaged."""
    last, best = paths.join(out, "last"), paths.join(out, "best")
    try:
        newest = checkpoints.read(last)
        if has_files:
            checkpoints.check_files(last, newest)
        return newest
    except ValueError as error:
        kept = _whole(best)
        way = f"delete {last} to begin anew"
        if kept:
            way = (
                f"{best} is whole (epoch {kept.epoch}): use it, train on with --weights {best} --out ANOTHER, or {way}"
            )
        raise ValueError(f"{error}; {way}") from error


def _whole(folder: str) -> Checkpoint | None:
    """The checkpoint in ``folder``; None where there is none, or it is damaged."""
    try:
        checkpoint = checkpoints.read(folder)
        checkpoints.check_files(folder, checkpoint)
        return checkpoint
    except ValueError:
        return None


def is_over(out: str) -> bool:
    """Whether the run in ``out`` has finished, and all that it leaves is whole."""
    newest, kept = _whole(paths.join(out, "last")), _whole(paths.join(out, "best"))
    if newest is None or kept is None or not newest.progress.is_finished:
        return False
    if checkpoints.exists(paths.join(out, STEP_NAME)):
        return False
    return kept.progress == newest.progress and kept.is_best and _is_history(out, newest.progress)


def begin(out: str, selected: Selected, writer: Writer, pins_images: bool = True) -> RunProgress | None:
    """Says what the run is for the job that holds it, and takes it over. Returns what ``check_same`` does.

    A trial of a sweep pins no images: the sweep has done it.
    """
    with writer.writing():
        objects.remove_partial(out)
        _check_whole(out, check_same(out, selected.run))
        if not objects.exists(paths.join(out, RUN_NAME)):
            if pins_images:
                training_plan.pin_images(out, selected)
            objects.write_bytes(paths.join(out, RUN_NAME), json.dumps(selected.run, indent=1).encode())
    take_over(out, writer)
    last = paths.join(out, "last")
    return checkpoints.read(last).progress if checkpoints.exists(last) else None


def _check_whole(out: str, progress: RunProgress | None) -> None:
    """Raises ValueError where last/ is damaged, and removes a best/ that is, for last/ to take its place."""
    best = paths.join(out, "best")
    if progress is not None:
        _read_last(out, has_files=True)
        if checkpoints.exists(best) and _whole(best) is None:
            objects.delete(paths.join(best, checkpoints.CONFIG_NAME))


def take_over(out: str, writer: Writer) -> None:
    """Makes the run this process's, of all that may still live: mends what a killed one left, and removes what that was
    about to write."""
    with writer.writing():
        _drop_outdated_step(out)
        for folder in (paths.join(out, name) for name in ("last", "best", STEP_NAME)):
            if checkpoints.exists(folder):
                _claim(folder, writer)
                checkpoints.remove_strays(folder)
            objects.remove_partial(folder)
        _derive(out, writer)


def _claim(folder: str, writer: Writer) -> None:
    """Replaces config.json, so that on S3 what a process before this one still wants to write there is refused."""
    for num_left in reversed(range(MAX_CLAIMS)):
        try:
            checkpoints.update(folder, writer, holder=f"{writer.holder} {uuid.uuid4().hex}")
            return
        except lease.Held:  # that process was faster, just now
            writer.prove()
            if not num_left:
                raise


def _drop_outdated_step(out: str) -> None:
    """Removes a step/ of an epoch that last/ has, or that says nothing."""
    folder, epochs_done = paths.join(out, STEP_NAME), _epochs_done(out)
    try:
        if checkpoints.exists(folder) and checkpoints.read(folder).epoch == epochs_done:
            return
    except ValueError as error:
        print(f"{error}; the epoch begins anew", flush=True)
    _drop_step(out)


def _drop_step(out: str) -> None:
    folder = paths.join(out, STEP_NAME)
    for name in sorted(objects.list_names(folder), key=lambda name: name == checkpoints.CONFIG_NAME):  # which is last
        objects.delete(paths.join(folder, name))


def _epochs_done(out: str) -> int:
    last = paths.join(out, "last")
    return checkpoints.read(last).progress.epochs_done if checkpoints.exists(last) else 0


def next_phase(phases: tuple[Phase, ...], progress: RunProgress, patience: int) -> int | None:
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


def extend(progress: RunProgress, epoch: Epoch, plan: Plan) -> RunProgress:
    """RunProgress with one more epoch."""
    value = validation.value_of(epoch, plan.metric)
    assert value is not None, f"{plan.metric} of epoch {epoch['epoch']}"
    sign = validation.sign(plan.metric)
    is_best = progress.best_value is None or sign * value < sign * progress.best_value or plan.config.refit
    history = (*progress.history, _marked(epoch, is_best))
    progress = replace(progress, epochs_done=epoch["epoch"], history=history)
    if is_best:
        progress = replace(progress, best_epoch=epoch["epoch"], best_value=value)
    is_finished = next_phase(plan.phases, progress, plan.config.patience) is None
    return replace(progress, is_finished=is_finished)


def _marked(epoch: Epoch, is_best: bool) -> Epoch:
    return {**epoch, "is_best": is_best}


def save(
    plan: Plan,
    progress: RunProgress,
    judged: StateDict,
    training: LearnerState,
    writer: Writer,
    calibration: Calibration | None = None,
) -> RunProgress:
    """Writes last/, with the weights that were validated, their ``calibration`` and what going on needs besides, then
    what derives from it. Returns the progress that it tells."""
    spec = replace(plan.spec, decode=progress.history[-1]["decode"], calibration=calibration)
    last = paths.join(plan.out, "last")
    with writer.writing():
        _derive(plan.out, writer)
        _check_stands(plan.out, progress.epochs_done - 1)
        saved = checkpoints.save(last, spec, _on_cpu(judged), progress, plan.provenance, training, writer)
        _derive(plan.out, writer)
        if progress.is_finished:  # before, somebody who has the run now may have written another one
            _drop_step(plan.out)
    return saved.progress


def save_step(
    plan: Plan, progress: RunProgress, step: Step, judged: StateDict, training: LearnerState, writer: Writer
) -> None:
    """Writes step/: how far the epoch after ``progress`` is, with all that going on from there needs."""
    with writer.writing():
        _check_stands(plan.out, progress.epochs_done)
        folder = paths.join(plan.out, STEP_NAME)
        checkpoints.save(folder, plan.spec, _on_cpu(judged), progress, plan.provenance, training, writer, step)


def read_step(plan: Plan, progress: RunProgress, order: Order) -> tuple[Step, LearnerState] | None:
    """How far the epoch after ``progress`` is, and what learns; None where its order of images was another, and where
    there is nothing. Raises ValueError where it is damaged."""
    folder = paths.join(plan.out, STEP_NAME)
    if not checkpoints.exists(folder):
        return None
    found = checkpoints.read(folder)
    if found.step is None or (found.epoch, found.step.order) != (progress.epochs_done, order):
        return None
    if any(found.provenance.get(name) != plan.provenance.get(name) for name in ("settings", "data", "versions")):
        return None
    return found.step, checkpoints.load_training(folder, found)


def _on_cpu(weights: StateDict) -> StateDict:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}


def _check_stands(out: str, epochs_done: int) -> None:
    """Raises Held where another process, which this one's job has started in its place, is further."""
    written = _epochs_done(out)
    if written != epochs_done:
        raise lease.Held(f"{out}/last: epoch {written} was written there by another process; this one stops")


def _derive(out: str, writer: Writer) -> None:
    """Brings best/ and history.parquet up to date with last/."""
    best, last = paths.join(out, "best"), paths.join(out, "last")
    if not checkpoints.exists(last):
        return
    newest = checkpoints.read(last)
    progress = newest.progress
    kept = checkpoints.read(best) if checkpoints.exists(best) else None
    if kept is None or kept.weights_sha256 != progress.best_sha256:
        if not newest.is_best:
            newest = _fall_back(out, newest, writer)
            progress = newest.progress
        checkpoints.copy_weights(last, newest, best, writer)
    elif kept.progress != progress and (newest.is_best or progress.is_finished):
        checkpoints.update(best, writer, progress=progress)
    history = paths.join(out, HISTORY_NAME)
    seen = writers.seen(history)
    if not _is_history(out, progress):
        writer.prove()
        writer.replace(history, parquet.as_parquet(_as_history(progress)), seen)


def _fall_back(out: str, newest: Checkpoint, writer: Writer) -> Checkpoint:
    """Makes the last epoch the best one, where the weights of the best one are gone, and says so."""
    progress = newest.progress
    said = f"the weights of epoch {progress.best_epoch} are gone or damaged"
    print(f"{out}/best: {said}; replaced by those of the last epoch, {newest.epoch}", flush=True)
    history = (*progress.history[:-1], _marked(progress.history[-1], is_best=True))
    value = validation.value_of(progress.history[-1], progress.metric)
    progress = replace(
        progress, history=history, best_epoch=newest.epoch, best_value=value, best_sha256=newest.weights_sha256
    )
    last = paths.join(out, "last")
    checkpoints.update(last, writer, progress=progress)
    return checkpoints.read(last)


HISTORY_SCHEMA = pa.schema(
    [
        ("epoch", pa.int32()), ("phase", pa.string()), ("phase_index", pa.int32()), ("lr", pa.float64()),
        ("train_loss", pa.float64()), ("images_per_s", pa.float64()), ("val_loss", pa.float64()),
        ("val_mae", pa.float64()), ("val_worst_group_mae", pa.float64()), ("val_accuracy", pa.float64()),
        ("mae_by_catalog", pa.list_(pa.float64())), ("decode", pa.string()), ("seconds", pa.float64()),
        ("is_best", pa.bool_()),
    ]
)  # fmt: skip


def _as_history(progress: RunProgress) -> pa.Table:
    return pa.Table.from_pylist(list(progress.history), schema=HISTORY_SCHEMA)


def _is_history(out: str, progress: RunProgress) -> bool:
    uri = paths.join(out, HISTORY_NAME)
    try:
        return parquet.read_table(uri).equals(_as_history(progress))
    except Damaged:
        return False
    except StoreError as error:
        if error.status != "missing" and paths.is_remote(uri):
            raise
        return False
