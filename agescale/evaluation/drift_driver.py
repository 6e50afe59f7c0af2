"""From two tables of predictions, or two stretches of one, to their drift and its page.

In: a ``DriftConfig``. Out: the folder that ``drift_report.write_report`` fills. Reads the columns that are counted,
some files at a time, so memory hangs on no table's size. Counts rows as they stand, one a face. Never runs a model.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from agescale.config import DriftConfig
from agescale.evaluation import drift_report
from agescale.evaluation.drift import LEAST_ROWS, WORDS, Drift, Histograms, drifts_of
from agescale.evaluation.drift_report import About
from agescale.store import objects, parquet, paths
from agescale.tables.predictions import Predictions

NUMBERS = ("age", "age_std", "gender_probability", "ethnicity_probability", "face_width", "face_score")
COLUMNS = [*NUMBERS, *WORDS, "width", "height", "scored_at"]
FILES_AHEAD = 16
"""Files read ahead, of 10,000 rows at most each."""


@dataclass(frozen=True)
class Found:
    """Where the page is; empty where there is too little to tell. What is worth a line, and what has drifted."""

    page: str  # URI
    notes: list[str]
    answer: str
    drifted: list[Drift]


def find_drift(config: DriftConfig) -> Found:
    """Writes ``drift.json`` and ``drift.html``. Raises ValueError, before anything is written, where there is nothing
    to compare with."""
    config = paths.with_absolute_uris(config)
    one, other = Predictions.open(config.predictions), Predictions.open(config.against)
    drift_report.claim(config.out, {**one.places, **other.places})
    if one.uri == other.uri and config.since is None:
        raise ValueError(f"--against {config.against}: the same table; --since DATE compares what it got from then on")
    since = config.since_time
    before = since if one.uri == other.uri else None
    has_groups = one.run["age_groups"] == other.run["age_groups"]
    ours, theirs = histograms(one, has_groups, since=since), histograms(other, has_groups, before=before)
    when = f" since {config.since}" if since else ""
    if theirs.num_rows < LEAST_ROWS:
        raise ValueError(f"--against {config.against}: {theirs.num_rows:,} rows, {LEAST_ROWS} are needed at least")
    if ours.num_rows < LEAST_ROWS:
        few = f"{config.predictions}: {ours.num_rows:,} rows{when}, too few to tell; {LEAST_ROWS} are needed at least"
        return Found("", [], few, [])
    drifts = drifts_of(ours, theirs, config.max_psi)
    about = About(
        predictions=one.uri,
        against=other.uri,
        since=config.since,
        max_psi=config.max_psi,
        num_rows=ours.num_rows,
        num_against=theirs.num_rows,
        run=one.run,
        run_against=other.run,
        judged_on=dt.datetime.now(dt.UTC).date().isoformat(),
    )
    notes = _notes(about)
    page = drift_report.write_report(config.out, about, drifts, notes)
    return Found(page, notes, drift_report.answer(about, drifts), [drift for drift in drifts if drift.has_drifted])


def histograms(
    table: Predictions, has_groups: bool, since: dt.datetime | None = None, before: dt.datetime | None = None
) -> Histograms:
    """Of the rows of a table that were scored in between; without ``has_groups`` not of their age groups."""
    total = Histograms()
    with objects.read_pool() as pool:
        tasks = (pool.submit(_of_file, file, has_groups, since, before) for file in table.files)
        for each in objects.ahead(tasks, FILES_AHEAD):
            total += each
    return total


def _of_file(file: str, has_groups: bool, since: dt.datetime | None, before: dt.datetime | None) -> Histograms:
    rows = parquet.read_table(file, COLUMNS)
    if since:
        rows = rows.filter(pc.greater_equal(rows["scored_at"], pa.scalar(since, pa.timestamp("us", "UTC"))))
    if before:
        rows = rows.filter(pc.less(rows["scored_at"], pa.scalar(before, pa.timestamp("us", "UTC"))))
    ok = rows.filter(pc.equal(rows["status"], "ok"))
    numbers = {name: _known(ok[name]) for name in NUMBERS}
    numbers["short_side"] = _known(pc.min_element_wise(ok["width"], ok["height"]))
    words = {name: _counted(ok[name]) for name in WORDS if name != "status" and (has_groups or name != "group")}
    return Histograms.of(len(rows), numbers, words | {"status": _counted(rows["status"])})


def _known(column: pa.ChunkedArray) -> np.ndarray:
    return pc.cast(column.drop_null(), pa.float64()).to_numpy()


def _counted(column: pa.ChunkedArray) -> Counter[str]:
    counted = pc.value_counts(column.drop_null()).to_pylist()
    return Counter({each["values"]: each["counts"] for each in counted})


def _notes(about: About) -> list[str]:
    """What of the two runs is not the same, and may be all that differs."""
    told = {"model": "models", "tta": "ways with mirror images", "faces": "ways to look for faces"}
    pairs = {name: (about.run_against.get(name), about.run.get(name)) for name in told}
    return [
        f"the predictions are of two {told[name]} ({before}, now {now}): what differs may be that"
        for name, (before, now) in pairs.items()
        if before != now
    ]
