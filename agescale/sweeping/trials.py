"""The trials of a sweep, as they stand in its folder: what each tried, how it went, and which is best.

    <out>/sweep.json          what the sweep is; another one is refused
    <out>/images.parquet      the images that its trials learn from
    <out>/trials/0007.json    the settings of a trial, and how it ended
    <out>/runs/0007/          its run (see ``runs``); of those that are over, only the best keeps a checkpoint

In: a sweep's folder. Out: trials, their curves, the leaderboard. Starts no training.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal, TypedDict

import numpy as np
import pyarrow as pa

from agescale.models import checkpoints
from agescale.models.checkpoints import Epoch
from agescale.store import listing, objects, parquet, paths
from agescale.store.errors import Damaged
from agescale.store.outputs import check_unchanged
from agescale.sweeping.spaces import Alternative, Point
from agescale.training import runs, validation

SWEEP_NAME, LEADERBOARD_NAME = "sweep.json", "leaderboard.parquet"
Curve = list[Epoch]
"""What each epoch of a trial brought."""
Status = Literal["running", "finished", "stopped", "diverged", "failed"]


class Identity(TypedDict):
    """sweep.json: what has to stay while a sweep goes on; its budget may grow."""

    space: list[Alternative]  # see spaces.describe
    searcher: str
    scheduler: str
    objective: str
    epochs: int
    weights: list[str]
    settings: list[str]  # of every trial, as arguments of jobs/train.py
    data: str  # names the images


class Suggestion(TypedDict):
    """What Ray Tune hands to the process of a trial."""

    number: int
    point: Point


class Row(TypedDict):
    """A row of the leaderboard. ``value`` is that of the objective; on the Pareto front neither of the two errors nor
    the number of parameters can be made smaller unless another one of the three grows."""

    number: int
    status: Status
    reason: str
    epochs: int
    best_epoch: int | None
    value: float | None
    mae: float | None
    worst_group_mae: float | None
    accuracy: float | None
    images_per_s: float | None
    seconds: float
    num_parameters: int | None
    is_on_front: bool
    settings: Point


@dataclass(frozen=True)
class Trial:
    """One training of a sweep. ``asked`` are its values by the searcher's own names, where it has such. One that is
    ``running`` while no sweep runs was cut off; the same command continues it."""

    number: int
    point: Point
    asked: Mapping[str, Any]
    status: Status = "running"
    reason: str = ""
    num_parameters: int | None = None
    num_halvings: int = 0  # of its batch, which ran out of memory

    @property
    def name(self) -> str:
        return f"{self.number:04d}"


def run_of(out: str, number: int) -> str:
    """The folder of a trial's run."""
    return paths.join(out, f"runs/{number:04d}")


def read_trials(out: str) -> list[Trial]:
    """All trials that have begun, in the order in which they were proposed."""
    names = [name for name in objects.list_names(paths.join(out, "trials")) if re.fullmatch(r"\d{4,}\.json", name)]
    with objects.read_pool() as pool:
        return list(pool.map(lambda name: read_trial(out, int(name.removesuffix(".json"))), names))


def read_trial(out: str, number: int) -> Trial:
    """What a trial is. Raises ValueError, with what to do, where its file is damaged."""
    uri = trial_uri(out, number)
    try:
        return Trial(**json.loads(objects.read_bytes(uri)))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{uri}: damaged, not a valid record of a trial; {_another_instead(out, number)}") from error


def trial_uri(out: str, number: int) -> str:
    return paths.join(out, f"trials/{number:04d}.json")


def _another_instead(out: str, number: int) -> str:
    return f"delete {trial_uri(out, number)} and {run_of(out, number)}: another trial takes its place"


def write_trial(out: str, trial: Trial) -> None:
    objects.write_bytes(trial_uri(out, trial.number), json.dumps(asdict(trial), indent=1).encode())


def read_curve(out: str, trial: Trial) -> Curve:
    """What each epoch of a trial brought; nothing where it has finished none. Raises ValueError, with what to do, where
    that is damaged; the run of a trial that goes on mends it by itself."""
    uri = paths.join(run_of(out, trial.number), runs.HISTORY_NAME)
    try:
        return parquet.read_table(uri, runs.HISTORY_SCHEMA.names).to_pylist() if objects.exists(uri) else []
    except Damaged as error:
        raise ValueError(f"{error}; {_another_instead(out, trial.number)}") from error


def read_curves(out: str, some: Iterable[Trial]) -> dict[int, Curve]:
    """The curves of trials, by number."""
    some = list(some)
    with objects.read_pool() as pool:
        return dict(zip((trial.number for trial in some), pool.map(partial(read_curve, out), some), strict=True))


def begin(out: str, sweep: Identity) -> None:
    """Says what the sweep is. Raises ValueError where another one stands in its folder."""
    uri, new = paths.join(out, SWEEP_NAME), json.loads(json.dumps(sweep))
    try:
        before = dict(json.loads(objects.read_bytes(uri))) if objects.exists(uri) else new
    except (ValueError, TypeError) as error:
        hint = "delete it, and give the settings that the sweep began with"
        raise ValueError(f"{uri}: damaged, not a valid record of a sweep; {hint}") from error
    check_unchanged(out, "another sweep", before, new)
    objects.write_bytes(uri, json.dumps(new, indent=1).encode())


def leaderboard(some: Iterable[Trial], curves: Mapping[int, Curve], objective: str) -> list[Row]:
    """Trials, the best one first, those without a value last. A trial is judged at the epoch that its checkpoint
    keeps, on the validation split; ``images_per_s`` are those of training."""
    rows = [_row(trial, curves[trial.number], objective) for trial in some]
    rows.sort(key=lambda row: (row["value"] is None, validation.sign(objective) * (row["value"] or 0.0), row["number"]))
    front = _front([[row["mae"], row["worst_group_mae"], row["num_parameters"]] for row in rows])
    return [{**row, "is_on_front": is_on_front} for row, is_on_front in zip(rows, front, strict=True)]


def _row(trial: Trial, curve: Curve, objective: str) -> Row:
    kept = best_epoch(curve)
    speeds = [entry["images_per_s"] for entry in curve]
    return {
        "number": trial.number,
        "status": trial.status,
        "reason": trial.reason,
        "epochs": len(curve),
        "best_epoch": kept["epoch"] if kept else None,
        "value": value_of(curve, objective),
        "mae": kept["val_mae"] if kept else None,
        "worst_group_mae": kept["val_worst_group_mae"] if kept else None,
        "accuracy": kept["val_accuracy"] if kept else None,
        "images_per_s": float(np.median(speeds)) if speeds else None,
        "seconds": sum(entry["seconds"] for entry in curve),
        "num_parameters": trial.num_parameters,
        "is_on_front": False,  # which only all rows together tell
        "settings": trial.point,
    }


def best_epoch(curve: Curve) -> Epoch | None:
    """The epoch whose model a run keeps; None where there is none yet."""
    return next((entry for entry in reversed(curve) if entry.get("is_best")), None)


def value_of(curve: Curve, objective: str) -> float | None:
    """What the model that a run keeps has reached; None where there is none."""
    kept = best_epoch(curve)
    return validation.value_of(kept, objective) if kept else None


def _front(goals: Sequence[Sequence[float | None]]) -> list[bool]:
    """Which rows no other row beats in one goal without losing in another.

    >>> _front([[5.0, 9.0, 10], [6.0, 8.0, 10], [6.0, 9.0, 10], [None, 1.0, 1]])
    [True, True, False, False]
    """
    values_NG = np.array([[np.nan if goal is None else goal for goal in row] for row in goals], float)
    is_known_N = np.isfinite(values_NG).all(axis=1) if len(values_NG) else np.zeros(0, bool)
    known_MG = values_NG[is_known_N]
    return [
        bool(is_known and not ((known_MG <= row).all(axis=1) & (known_MG < row).any(axis=1)).any())
        for row, is_known in zip(values_NG, is_known_N, strict=True)
    ]


def write_leaderboard(out: str, rows: Sequence[Row]) -> str:
    """``leaderboard.parquet``, with the settings of each trial as JSON. Returns its URI."""
    uri = paths.join(out, LEADERBOARD_NAME)
    flat = [{**row, "settings": json.dumps(row["settings"])} for row in rows]
    parquet.write_table(uri, pa.Table.from_pylist(flat, schema=LEADERBOARD))
    return uri


LEADERBOARD = pa.schema(
    [
        ("number", pa.int32()), ("status", pa.string()), ("reason", pa.string()), ("epochs", pa.int32()),
        ("best_epoch", pa.int32()), ("value", pa.float64()), ("mae", pa.float64()), ("worst_group_mae", pa.float64()),
        ("accuracy", pa.float64()), ("images_per_s", pa.float64()), ("seconds", pa.float64()),
        ("num_parameters", pa.int64()), ("is_on_front", pa.bool_()), ("settings", pa.string()),
    ]
)  # fmt: skip


def drop_checkpoints(out: str, number: int, folders: Sequence[str] = ("last", "step", "best")) -> None:
    """Removes what a trial's run keeps of its model; what it did stays."""
    for folder in folders:
        _empty(paths.join(run_of(out, number), folder))


def drop_run(out: str, number: int) -> None:
    """Removes a trial's run as if it had not begun."""
    drop_checkpoints(out, number)
    _empty(run_of(out, number))


def _empty(folder: str) -> None:
    for name in objects.list_names(folder):
        objects.delete(paths.join(folder, name))


def tidy(out: str, rows: Sequence[Row]) -> int:
    """Removes the checkpoints of trials that are over, but for the best one's, and returns the bytes that are left.

    What a trial that was stopped wrote while it was being stopped goes with them.
    """
    over = [row for row in rows if row["status"] != "running"]
    kept = next((row["number"] for row in over if row["value"] is not None), None)
    for row in over:
        drop_checkpoints(out, row["number"], ("last", "step") if row["number"] == kept else ("last", "step", "best"))
    return sum(item.size_bytes for item in listing.list_files(out))


def copy_best(out: str, number: int) -> str:
    """Copies the checkpoint of a trial to ``<out>/best``, whole or not at all. Returns its URI."""
    source, best = paths.join(run_of(out, number), "best"), paths.join(out, "best")
    names = objects.list_names(source)
    assert checkpoints.CONFIG_NAME in names, f"{source} is no checkpoint"
    for name in sorted(names, key=lambda name: name == checkpoints.CONFIG_NAME):  # which makes it a checkpoint, last
        objects.write_bytes(paths.join(best, name), objects.read_bytes(paths.join(source, name)))
    for name in set(objects.list_names(best)) - set(names):
        objects.delete(paths.join(best, name))
    return best


def end_trial(out: str, trial: Trial) -> Trial:
    """Says how a trial ended, unless its own process has said so already."""
    said = read_trial(out, trial.number)
    if said.status == "running":
        last = paths.join(run_of(out, trial.number), "last")
        checkpoint = checkpoints.read(last) if checkpoints.exists(last) else None
        is_finished = checkpoint is not None and checkpoint.progress.is_finished
        num_parameters = checkpoint.provenance.get("num_parameters") if checkpoint else None
        said = replace(said, status="finished" if is_finished else "stopped", num_parameters=num_parameters)
        write_trial(out, said)
    return said


def give_reason(out: str, number: int, reason: str) -> None:
    """Says why a trial is not over."""
    said = read_trial(out, number)
    if said.status == "running":
        write_trial(out, replace(said, reason=reason))
