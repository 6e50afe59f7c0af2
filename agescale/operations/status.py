"""What stands in a folder, how far it is, and who works there: for a person at three in the morning. Writes nothing.

A URI in, a ``Standing`` out. Everything is told by what the jobs themselves leave: the parts of tables, a run's
checkpoint, a sweep's trials, the lock or lease of whoever works there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from agescale.evaluation import drift_report, gate_report, report
from agescale.models import checkpoints
from agescale.operations import executions
from agescale.store import lease, objects, paths
from agescale.sweeping import trials
from agescale.tables import catalogs, folders, units
from agescale.tables.catalogs import Catalog
from agescale.tables.predictions import Predictions, by_status, has_summary
from agescale.training import finetuning, runs

Kind = Literal["catalog", "predictions", "run", "sweep", "checkpoint", "report", "gate", "drift", "nothing"]


@dataclass(frozen=True)
class Standing:
    """What is known of a folder. ``done`` and ``total`` count its ``unit`` (images, epochs, trials), where known."""

    out: str
    kind: Kind
    is_complete: bool = False
    unit: str = ""
    done: int | None = None
    total: int | None = None
    says: str = ""
    counts: dict[str, int] = field(default_factory=dict)  # predictions by status, trials by status
    holder: lease.Holder | None = None
    written_s_ago: float | None = None  # since what tells of progress was last written
    execution: executions.Execution | None = None  # of a job there, which began last

    @property
    def state(self) -> str:
        """``working`` while its job lives, else ``complete``, or ``stopped`` before its end; empty for nothing."""
        if self.holder and self.holder.is_alive:
            return "working"
        return "" if self.kind == "nothing" else "complete" if self.is_complete else "stopped"


def look(uri: str) -> Standing:
    """What stands in the folder ``uri`` (a path or ``s3://``). Raises StoreError where it cannot be asked, and
    ValueError where what stands there is damaged."""
    out = paths.absolute(uri)
    return replace(_look(out), execution=executions.newest(out))


def _look(out: str) -> Standing:
    for mark, ask in MARKS.items():
        if objects.exists(paths.join(out, mark)):
            return ask(out)
    for kind, ask in TABLES.items():
        if folders.list_parts(out, kind):
            return ask(out)
    beside = lease.look(out, folders.beside(out))  # a table of which no part stands yet
    return Standing(out, "nothing", holder=beside, says="" if beside is None else "no part of a table yet")


def _catalog(out: str) -> Standing:
    catalog = Catalog.open(out)
    parts = catalog.parts
    num_rows, num_listings = sum(part.num_rows for part in parts), len({catalogs.listing_of(p.name) for p in parts})
    says = f"{num_listings:,} listings, {len(parts):,} parts"
    return Standing(
        out, "catalog", catalog.is_complete, "rows", num_rows, None, says,
        holder=lease.look(out, folders.beside(out)), written_s_ago=objects.age_s(catalog.file(parts[-1].name)),
    )  # fmt: skip


def _predictions(out: str) -> Standing:
    predictions = Predictions.open(out)
    run, counted = predictions.run, by_status(predictions.counts)
    try:
        total = len(units.cut(Catalog.open(run["catalog"]).parts, run["unit_rows"]))
    except (OSError, ValueError):  # it may lie where this machine does not get to
        total = None
    return Standing(
        out, "predictions", has_summary(out), "units", len(predictions.names), total,
        f"{sum(counted.values()):,} images by model {run['model']}", counted,
        lease.look(out, folders.beside(out)), objects.age_s(predictions.files[-1]),
    )  # fmt: skip


def _run(out: str) -> Standing:
    settings = json.loads(objects.read_bytes(paths.join(out, runs.RUN_NAME)))["settings"]
    phases = finetuning.parse_phases(settings["phases"])
    if settings.get("epochs"):
        phases = finetuning.cap_epochs(phases, settings["epochs"])
    total = sum(phase.epochs for phase in phases)
    last = paths.join(out, "last")
    if not checkpoints.exists(last):
        return Standing(out, "run", False, "epochs", 0, total, "no epoch has ended yet", holder=lease.look(out))
    newest = checkpoints.read(last)
    progress, calibration = newest.progress, newest.spec.calibration
    intervals = f", {100 * calibration.coverage:g} % intervals" if calibration else ""
    best = "" if progress.best_value is None else f"best {progress.metric} {progress.best_value:.3f} "
    return Standing(
        out, "run", progress.is_finished, "epochs", progress.epochs_done, total,
        f"{best}(epoch {progress.best_epoch}){intervals}" if best else "", holder=lease.look(out),
        written_s_ago=objects.age_s(paths.join(last, checkpoints.CONFIG_NAME)),
    )  # fmt: skip


def _sweep(out: str) -> Standing:
    some = trials.read_trials(out)
    counts = Counter[str](trial.status for trial in some)
    newest = objects.age_s(trials.trial_uri(out, some[-1].number)) if some else None
    is_complete = objects.exists(paths.join(out, trials.LEADERBOARD_NAME)) and not counts["running"]
    over = len(some) - counts["running"]
    return Standing(
        out, "sweep", is_complete, "trials", over, len(some), "", dict(counts), lease.look(out), newest
    )  # fmt: skip


def _checkpoint(out: str) -> Standing:
    checkpoint = checkpoints.read(out)
    says = f"{checkpoint.spec.encoder}, digest {checkpoint.digest}"
    if checkpoint.spec.calibration:
        says += f", {100 * checkpoint.spec.calibration.coverage:g} % intervals"
    age_s = objects.age_s(paths.join(out, checkpoints.CONFIG_NAME))
    return Standing(out, "checkpoint", True, "epochs", checkpoint.epoch, None, says, written_s_ago=age_s)


def _report(out: str) -> Standing:
    uri = paths.join(out, report.METRICS_NAME)
    about = json.loads(objects.read_bytes(uri))["about"]
    is_complete = objects.exists(paths.join(out, report.PAGE_NAME))
    return Standing(out, "report", is_complete, says=f"of {about['predictions']}", written_s_ago=objects.age_s(uri))


def _gate(out: str) -> Standing:
    uri = paths.join(out, gate_report.NUMBERS_NAME)
    says = f"papers where {json.loads(objects.read_bytes(uri))['papers_where']}"
    is_complete = objects.exists(paths.join(out, gate_report.PAGE_NAME))
    return Standing(out, "gate", is_complete, says=says, written_s_ago=objects.age_s(uri))


def _drift(out: str) -> Standing:
    uri = paths.join(out, drift_report.NUMBERS_NAME)
    is_complete = objects.exists(paths.join(out, drift_report.PAGE_NAME))
    says = str(json.loads(objects.read_bytes(uri))["answer"])
    return Standing(out, "drift", is_complete, says=says, written_s_ago=objects.age_s(uri))


MARKS: dict[str, Callable[[str], Standing]] = {
    runs.RUN_NAME: _run,
    trials.SWEEP_NAME: _sweep,
    checkpoints.CONFIG_NAME: _checkpoint,
    report.METRICS_NAME: _report,
    gate_report.NUMBERS_NAME: _gate,
    drift_report.NUMBERS_NAME: _drift,
}
"""What tells the kind of a folder by one file in it."""
TABLES: dict[str, Callable[[str], Standing]] = {"predictions": _predictions, "catalog": _catalog}
