"""Predictions as if they had been made for other age groups, or behind an age gate: scored once, decided later.

A table of predictions in, another one out, file by file under the same names: the rows of the first one with ``group``
and ``group_probability`` from its ``age_cdf``, and ``needs_papers`` by the rule of a gate. It is a table of predictions
like that one, which every job reads; only nothing is scored into it. Needs no images, no model, no catalog and no Ray;
memory is that of some files.

A file appears whole or not at all and names the version of the one that it was made of. So the same command continues
after a kill, adds what has been scored since, and makes anew what was scored again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from agescale.ages.groups import AgeGroups
from agescale.ages.papers import PapersRule
from agescale.config import RegroupConfig
from agescale.runtime.progress import ImageProgress
from agescale.store import objects, parquet, paths
from agescale.store.errors import Damaged
from agescale.store.lease import Lease
from agescale.store.outputs import check_unchanged
from agescale.tables import folders, footers, schema
from agescale.tables.gates import read_rule
from agescale.tables.predictions import Predictions, by_status, has_summary, regrouped, summary_uri, with_papers

FILES_AHEAD = 6
"""Files that are held at once."""
Said = dict[str, Any]
"""What a file of the new table says: its ``Counts``, and ``made_of``, the version of the file that it was made of."""


@dataclass(frozen=True)
class Regrouped:
    """What the new table holds, and what of it was written now."""

    num_files: int
    num_files_now: int
    by_status: dict[str, int]
    is_complete: bool  # of all that is to be scored
    papers_where: str  # empty without a gate


@dataclass(frozen=True)
class View:
    """What the rows of a file become."""

    old: Predictions
    run: Mapping[str, Any]  # what the new files belong to
    groups: AgeGroups | None  # as they are
    rule: PapersRule | None

    def rows(self, rows: pa.Table) -> pa.Table:
        rows = regrouped(rows, self.groups) if self.groups else rows
        return with_papers(rows, self.rule) if self.rule else rows


def regroup(config: RegroupConfig) -> Regrouped:
    """Writes ``config.out``. Raises ValueError, before anything is written, where the predictions cannot be told in
    those groups or by that gate, or where something else stands there."""
    config = paths.with_absolute_uris(config)
    was_complete = has_summary(config.predictions)  # asked first: what is written last was there before the listing
    old = Predictions.open(config.predictions)
    output = folders.output(config.out, "predictions")
    output.check(old.places, "the new table")
    view = view_of(config, old)
    with output.held(config.lease) as held:
        return _write(view, config.out, held, was_complete)


def view_of(config: RegroupConfig, old: Predictions) -> View:
    """Raises ValueError where the predictions cannot be told so."""
    groups = old.view(config.age_groups) if config.age_groups else None
    rule = read_rule(config.gate, old) if config.gate else None
    own = old.groups_of_model
    run = {**old.run, "age_groups": groups.format() if groups else old.run["age_groups"], "regrouped_from": own}
    if rule:
        run["papers_where"] = rule.where
    return View(old, run, groups, rule)


def _write(view: View, out: str, held: Lease, was_complete: bool) -> Regrouped:
    before, old = Predictions.find(out), view.old
    if before.names:
        check_unchanged(out, "another table of predictions", before.run, {"papers_where": None, **view.run})
    standing = footers.read(out, before.versions, _read_said)
    todo = [name for name in old.versions if standing.get(name, {}).get("made_of") != old.versions[name]]
    gone = standing.keys() - old.versions.keys()
    if todo or gone:
        objects.delete(summary_uri(out))
    for name in gone:  # of a file that was found wrong, and is to be scored again
        held.prove()
        objects.delete(paths.join(out, name))
        del standing[name]
    num_rows = sum(_num_rows(old.counts[name]) for name in todo)
    with ImageProgress("regrouping", num_rows) as progress:
        for name, said in write_files(view, out, {name: before.versions.get(name) for name in todo}):
            held.check()
            standing[name] = said
            progress.add(_num_rows(said))
    held.prove()
    footers.keep(out, "predictions", standing)
    counts, is_complete = by_status(standing), was_complete and has_summary(old.uri)
    if is_complete and (todo or gone or not has_summary(out)):
        summary = {**view.run, "num_rows": sum(counts.values()), "by_status": counts, "num_units": len(standing)}
        objects.write_bytes(summary_uri(out), json.dumps(summary, indent=1).encode())
    papers_where = str(view.run.get("papers_where", ""))
    return Regrouped(len(standing), len(todo), counts, is_complete, papers_where)


def write_files(view: View, out: str, versions: Mapping[str, str | None]) -> Iterator[tuple[str, Said]]:
    """Writes the files of these names, each in the place of that version of it, if any; says what each says then."""
    with objects.read_pool() as pool:
        tasks = (pool.submit(_write_file, view, out, name, expected) for name, expected in versions.items())
        yield from zip(versions, objects.ahead(tasks, FILES_AHEAD), strict=True)


def _write_file(view: View, out: str, name: str, expected: str | None) -> Said:
    """Writes one file, in the place of that version of it, if any. Returns what the file says that stands then."""
    rows = parquet.read_table(paths.join(view.old.uri, name))
    said = folders.metadata_in(paths.join(view.old.uri, name), rows.schema, "predictions")
    rows = view.rows(rows.select(view.old.schema.names))
    counts: Said = {"statuses": Counter(rows["status"].to_pylist()), "gone": said.get("gone", {})}
    made_of = {**counts, "made_of": view.old.versions[name]}  # listed before it was read, so it is never a later one
    rows = rows.cast(schema.with_metadata("predictions", {**said, "run": view.run, **made_of}))
    if expected is None:
        is_written = folders.write_new_part(out, name, rows)
    else:
        is_written = folders.replace_part(out, name, rows, expected)
    return made_of if is_written else _read_said(paths.join(out, name))


def _read_said(file: str) -> Said:
    try:
        said = folders.read_metadata(file, "predictions")
    except Damaged:  # it is made anew
        return {"statuses": {}, "gone": {}, "made_of": None}
    return {"statuses": said["statuses"], "gone": said["gone"], "made_of": said.get("made_of")}


def _num_rows(said: Mapping[str, Any]) -> int:
    return sum(said["statuses"].values())
