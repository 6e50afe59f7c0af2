"""A catalog that has seen many nights, and predictions of it, as new tables of few files.

A complete catalog in; a catalog of its current rows out, in whole parts, and for predictions of the one predictions of
the other. Nothing is listed, read or scored for it, and the nights go on with the new tables as with the old, which are
only read and stay right all the while. What a part or a file of predictions holds, the old catalog decides, and it
appears whole or not at all: so the same command continues after a kill. Needs no Ray; memory is that of some parts.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from agescale.config import CompactConfig, parse_names
from agescale.reports import formats
from agescale.runtime.progress import ImageProgress
from agescale.store import lease, objects, parquet, paths
from agescale.store.outputs import check_unchanged
from agescale.tables import catalogs, folders, footers, schema, units
from agescale.tables.catalogs import Part

READ_PART_ROWS = 1024
"""Rows of a new part where images were only listed, and where they were read and may be packed. It may hold fewer,
because what is not current falls out, but for the last old part in it no more."""


@dataclass(frozen=True)
class Compacted:
    """Parts and rows of the catalogs, and files and rows of the predictions, before and after."""

    num_parts: tuple[int, int]
    num_rows: tuple[int, int]
    num_files: tuple[int, int]
    num_predicted: int


def compact(config: CompactConfig) -> Compacted:
    """Writes ``config.out``, and ``config.out_predictions`` where there are predictions. Raises ValueError, before
    anything is written, where tables do not belong together or an --out is something else's."""
    old, new = paths.absolute(config.catalog), paths.absolute(config.out)
    if bool(config.predictions) != bool(config.out_predictions):
        raise ValueError("--predictions and --out-predictions go together")
    catalogs.check_complete(old)
    predictions = paths.absolute(config.predictions) if config.predictions else ""
    run = units.read_run(predictions, old) if predictions else {}
    parts = catalogs.read_parts(old)
    out = paths.absolute(config.out_predictions) if predictions else ""
    _claim(old, predictions, new, out)
    with lease.hold(new, folders.beside(new), config.lease) as held:
        metadata = _write_catalog(old, parts, new, held)
    new_parts = catalogs.read_parts(new)
    num_files, num_predicted = (0, 0), 0
    if predictions:
        with lease.hold(out, folders.beside(out), config.lease) as held:
            run = {**run, "catalog": new, "catalog_id": metadata["id"]}
            num_files, num_predicted = _write_predictions(predictions, new, new_parts, out, run, held)
    num_rows = sum(part.num_rows for part in parts), sum(part.num_rows for part in new_parts)
    return Compacted((len(parts), len(new_parts)), num_rows, num_files, num_predicted)


def _claim(old: str, predictions: str, new: str, new_predictions: str) -> None:
    """Raises ValueError, before anything is written, where a new table has no place for itself."""
    places = {**catalogs.places(old), **(folders.places(predictions) if predictions else {})}
    folders.check_apart(new, places, "the new catalog")
    if new_predictions:
        places |= {new: "the new catalog", folders.beside(new): "what belongs to the new catalog"}
        folders.check_apart(new_predictions, places, "the table", "--out-predictions")
        folders.claim(new_predictions, "predictions")
    folders.claim(new, "catalog")


def _write_catalog(old: str, parts: Sequence[Part], new: str, held: lease.Lease) -> dict[str, Any]:
    """Writes the parts of the new catalog that do not stand yet; returns what each of them says."""
    about = catalogs.metadata(old, parts[-1].name)
    was_listed = not about["settings"].get("inspect") and about["settings"]["layout"] == "unlabelled"
    metadata = _begin(old, about, parts, new)
    if objects.exists(catalogs.findings_uri(new)):  # it is whole, and may have grown since
        return metadata
    superseded, new_labels = catalogs.Superseded(old, parts), catalogs.NewLabels(old, parts)
    parts = [part for part in parts if not part.relabels]
    standing = set(catalogs.list_parts(new))
    with ImageProgress("compacting", sum(part.num_rows for part in parts)) as progress:
        for number, group in enumerate(_groups(parts, catalogs.LISTED_PART_ROWS if was_listed else READ_PART_ROWS)):
            name = f"part-{metadata['compacted']['listing']:05d}-{number:06d}.parquet"
            if name not in standing:
                held.prove()
                of_parts = [_current_rows(old, part, superseded) for part in group]
                rows = new_labels.told(pa.concat_tables(of_parts))
                if was_listed:
                    rows = rows.sort_by("uri")
                said = {**metadata, "replaces": False, "from": [part.name for part in group]}
                rows = rows.cast(schema.with_metadata("catalog", said))
                row_group_rows = catalogs.LISTED_GROUP_ROWS if was_listed else catalogs.ROW_GROUP_ROWS
                folders.write_new_part(new, name, rows, row_group_rows)
            progress.add(sum(part.num_rows for part in group))
    held.prove()
    catalogs.keep_footers(new)
    covered = schema.with_metadata("findings", {"id": metadata["id"], "parts": catalogs.part_names(new)})
    findings = catalogs.read_findings(old)
    objects.write_bytes(catalogs.findings_uri(new, "csv"), formats.to_bytes(findings, "csv"))
    parquet.write_table(catalogs.findings_uri(new), findings.cast(covered))
    return metadata


def _begin(old: str, about: dict[str, Any], parts: Sequence[Part], new: str) -> dict[str, Any]:
    """What every part of the new catalog says. Its listing has the number of the old one's last, because versions of
    rows may end in it (``changes``). Raises ValueError where something else stands there."""
    of = {"id": about["id"], "listing": catalogs.listing_of(parts[-1].name), "num_parts": len(parts)}
    names = catalogs.list_parts(new)
    known: dict[str, Any] = catalogs.metadata(new, names[0]) if names else {"id": uuid.uuid4().hex, "compacted": of}
    before: dict[str, Any] = known.get("compacted", {})
    check_unchanged(new, f"another catalog than {old} compacted as it is now", before, of)
    return {"id": known["id"], "settings": about["settings"], "compacted": of}


def _groups(parts: Sequence[Part], least_rows: int) -> Iterator[list[Part]]:
    """Runs of parts that have so many rows together; the last one may have fewer."""
    group: list[Part] = []
    for part in parts:
        group.append(part)
        if sum(each.num_rows for each in group) >= least_rows:
            yield group
            group = []
    if group:
        yield group


def _current_rows(catalog: str, part: Part, superseded: catalogs.Superseded) -> pa.Table:
    rows = parquet.read_table(paths.join(catalog, part.name)).replace_schema_metadata(None)
    rows = rows.filter(pc.invert(rows["deleted"]))
    return superseded.current(rows, catalogs.listing_of(part.name))


def _write_predictions(
    predictions: str, new: str, new_parts: Sequence[Part], out: str, run: dict[str, Any], held: lease.Lease
) -> tuple[tuple[int, int], int]:
    """Writes the file of each new unit all of whose images have been scored; the others are left to jobs/score.py.
    Returns the numbers of files, before and after, and of rows."""
    files = units.list_files(predictions)
    of_part = {part: list(names) for part, names in groupby(files, key=units.part_of)}
    said = units.read_metadata(paths.join(predictions, files[0]))
    standing: dict[str, Mapping[str, Any]] = {**footers.read(out, "predictions", units.read_counts)}
    if standing:
        check_unchanged(out, "another table of predictions", units.run_of([paths.join(out, min(standing))]), run)
    splits = parse_names(run["split"])
    rows_of_part = {part.name: part.num_rows for part in new_parts}
    all_units = units.cut(new_parts, run["unit_rows"])
    with ImageProgress("compacting predictions", sum(map(len, all_units))) as progress, objects.read_pool() as pool:
        for part, of_new in groupby(all_units, key=attrgetter("part")):
            missing = [unit for unit in of_new if unit.file_name(run["model"]) not in standing]
            if missing:
                held.prove()
                sources = folders.read_metadata(paths.join(new, part), "catalog").get("from", ())
                names = [name for source in sources for name in of_part.get(source, ())]
                uris = [paths.join(predictions, name) for name in names]
                known = pool.map(lambda file: parquet.read_table(file, schema.PREDICTIONS.names), uris)
                scored = pa.concat_tables([schema.PREDICTIONS.empty_table(), *known])
                for unit in missing:
                    rows = _scored_rows(units.listed_rows(new, unit, splits), scored)
                    if rows is not None:
                        counts: Mapping[str, Any] = {"statuses": Counter(rows["status"].to_pylist()), "gone": {}}
                        table_schema = schema.with_metadata("predictions", {**said, "run": run, **counts})
                        folders.write_new_part(out, unit.file_name(run["model"]), rows.cast(table_schema))
                        standing[unit.file_name(run["model"])] = counts
            progress.add(rows_of_part[part])
    held.prove()
    footers.keep(out, "predictions", standing)
    by_status = units.by_status(standing)
    num_rows = sum(by_status.values())
    if len(standing) == len(all_units):
        summary = {**run, "num_rows": num_rows, "by_status": by_status, "num_units": len(all_units)}
        objects.write_bytes(units.summary_uri(out), json.dumps(summary, indent=1).encode())
    return (len(files), len(standing)), num_rows


def _scored_rows(listed: pa.Table, scored: pa.Table) -> pa.Table | None:
    """The predictions of the ``listed`` images, in their order; None where one of them has none."""
    place = pc.index_in(catalogs.keys_of(listed), value_set=catalogs.keys_of(scored))
    return None if place.null_count else scored.take(place).replace_schema_metadata(None)
