"""From predictions, and other ones, those before in the same table or the photos of a catalog, to their drift and page.

In: a ``DriftConfig``. Out: the folder that ``drift_report.write_report`` fills. Reads the columns that are counted,
some files at a time, so memory hangs on no table's size. Counts rows as they stand, one a face; but one a photo where a
catalog is the reference. With that nothing but sizes is compared: it has labels, and predicted ages are closer to the
middle than these, of the very same photos, too. Never runs a model.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from agescale.config import DriftConfig
from agescale.evaluation import drift_report
from agescale.evaluation.drift import LEAST_ROWS, WORDS, Drift, Histograms, drifts_of
from agescale.evaluation.drift_report import About
from agescale.models import checkpoints
from agescale.store import objects, parquet, paths
from agescale.tables.catalogs import Catalog
from agescale.tables.predictions import Predictions

NUMBERS = ("age", "age_std", "gender_probability", "ethnicity_probability", "face_width", "face_score")
COLUMNS = [*NUMBERS, *WORDS, "width", "height", "scored_at"]
SIZE_COLUMNS = ["face", "width", "height", "scored_at"]
ONLY_SIZES = (
    "{}: a catalog; of its photos only the sizes are compared, as what it has of ages are labels, no predictions"
)
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
    one, other = Predictions.open(config.predictions), Predictions.find(config.against)
    if not other.versions:
        if photos := _photos_of(config.against):
            return _drift_of_sizes(config, one, *photos)
        other = Predictions.open(config.against)  # which tells what is there instead
    drift_report.claim(config.out, {**one.places, **other.places})
    if one.uri == other.uri and config.since is None:
        raise ValueError(f"--against {config.against}: the same table; --since DATE compares what it got from then on")
    since = config.since_time
    before = since if one.uri == other.uri else None
    has_groups = one.run["age_groups"] == other.run["age_groups"]
    ours, theirs = histograms(one, has_groups, since=since), histograms(other, has_groups, before=before)
    return _told(config, one, ours, theirs, other.run, _notes(other.run, one.run))


def _photos_of(uri: str) -> tuple[list[Catalog], str | None] | None:
    """The catalog at ``uri``, or those that the checkpoint there has learned from, and the split whose photos are
    meant, or None for all; None where neither is there."""
    if catalog := Catalog.find(uri):
        return [catalog], None
    if not checkpoints.exists(uri):
        return None
    learned = checkpoints.read(uri).provenance.get("settings", {}).get("catalog") or ()
    if not learned:
        raise ValueError(f"--against {uri}: the checkpoint does not tell what it has learned from; name the catalog")
    return [Catalog.open(each) for each in ([learned] if isinstance(learned, str) else learned)], "train"


def _drift_of_sizes(config: DriftConfig, one: Predictions, catalogs: Sequence[Catalog], split: str | None) -> Found:
    places = {uri: what for catalog in catalogs for uri, what in catalog.places.items()}
    drift_report.claim(config.out, {**one.places, **places})
    theirs = sum((_sizes(rows) for catalog in catalogs for rows in _listed(catalog, split)), Histograms())
    if not theirs.num_rows:
        raise ValueError(
            f"--against {config.against}: its photos were only listed; jobs/catalog.py --inspect reads sizes"
        )
    ours = histograms(one, has_groups=False, since=config.since_time, only_sizes=True)
    of = {"catalog": ", ".join(catalog.uri for catalog in catalogs), "split": split or "all"}
    return _told(config, one, ours, theirs, of, [ONLY_SIZES.format(of["catalog"])])


def _listed(catalog: Catalog, split: str | None) -> Iterator[pa.Table]:
    for rows in catalog.current_rows(["width", "height", "split"]):
        yield rows.filter(pc.equal(rows["split"], split)) if split else rows


def _sizes(rows: pa.Table) -> Histograms:
    """Of rows of either table, one a photo."""
    side_N = _known(pc.min_element_wise(rows["width"], rows["height"]))
    return Histograms.of(len(side_N), {"short_side": side_N}, {})


def _told(
    config: DriftConfig, one: Predictions, ours: Histograms, theirs: Histograms, of: dict[str, Any], notes: list[str]
) -> Found:
    """Writes the page of the drift of ``ours`` from ``theirs``, which are ``of`` such a run."""
    when = f" since {config.since}" if config.since else ""
    if theirs.num_rows < LEAST_ROWS:
        raise ValueError(f"--against {config.against}: {theirs.num_rows:,} rows, {LEAST_ROWS} are needed at least")
    if ours.num_rows < LEAST_ROWS:
        few = f"{config.predictions}: {ours.num_rows:,} rows{when}, too few to tell; {LEAST_ROWS} are needed at least"
        return Found("", [], few, [])
    drifts = drifts_of(ours, theirs, config.max_psi)
    about = About(
        predictions=one.uri,
        against=config.against,
        since=config.since,
        max_psi=config.max_psi,
        num_rows=ours.num_rows,
        num_against=theirs.num_rows,
        run=one.run,
        run_against=of,
        judged_on=dt.datetime.now(dt.UTC).date().isoformat(),
    )
    page = drift_report.write_report(config.out, about, drifts, notes)
    return Found(page, notes, drift_report.answer(about, drifts), [drift for drift in drifts if drift.has_drifted])


def histograms(
    table: Predictions,
    has_groups: bool,
    since: dt.datetime | None = None,
    before: dt.datetime | None = None,
    only_sizes: bool = False,
) -> Histograms:
    """Of the rows of a table that were scored in between; without ``has_groups`` not of their age groups, with
    ``only_sizes`` those of its photos and nothing else."""
    total = Histograms()
    with objects.read_pool() as pool:
        tasks = (pool.submit(_of_file, file, has_groups, since, before, only_sizes) for file in table.files)
        for each in objects.ahead(tasks, FILES_AHEAD):
            total += each
    return total


def _of_file(
    file: str, has_groups: bool, since: dt.datetime | None, before: dt.datetime | None, only_sizes: bool
) -> Histograms:
    rows = parquet.read_table(file, SIZE_COLUMNS if only_sizes else COLUMNS)
    if since:
        rows = rows.filter(pc.greater_equal(rows["scored_at"], pa.scalar(since, pa.timestamp("us", "UTC"))))
    if before:
        rows = rows.filter(pc.less(rows["scored_at"], pa.scalar(before, pa.timestamp("us", "UTC"))))
    if only_sizes:
        return _sizes(rows.filter(pc.equal(rows["face"], 0)))
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


def _notes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What of the two runs is not the same, and may be all that differs."""
    told = {"model": "models", "tta": "ways with mirror images", "faces": "ways to look for faces"}
    return [
        f"the predictions are of two {told[name]} ({before.get(name)}, now {now.get(name)}): what differs may be that"
        for name in told
        if before.get(name) != now.get(name)
    ]
