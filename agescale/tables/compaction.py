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
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from agescale.config import CompactConfig
from agescale.reports import formats
from agescale.runtime.progress import ImageProgress
from agescale.store import lease, objects, parquet, paths
from agescale.store.outputs import Output, check_unchanged
from agescale.tables import catalogs, faces, features, folders, footers, schema, units
from agescale.tables.catalogs import Catalog, Part
from agescale.tables.predictions import Counts, Predictions, part_of, summary_uri
from agescale.tables.predictions import by_status as count_by_status

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
    config = paths.with_absolute_uris(config)
    old, new = Catalog.open(config.catalog), config.out
    old.check_complete()
    predictions = Predictions.open(config.predictions) if config.predictions else None
    if predictions:
        predictions.check_of(old)
    with ExitStack() as stack:
        outputs = _outputs(old, predictions, new, config.out_predictions)
        held = [stack.enter_context(output.held(config.lease)) for output in outputs]
        _write_catalog(old, new, held[0])
        compacted = Catalog.open(new)
        num_files, num_predicted = (0, 0), 0
        if predictions:
            num_files, num_predicted = _write_predictions(predictions, compacted, config.out_predictions, held[1])
    num_rows = sum(part.num_rows for part in old.parts), sum(part.num_rows for part in compacted.parts)
    return Compacted((len(old.parts), len(compacted.parts)), num_rows, num_files, num_predicted)


def _outputs(old: Catalog, predictions: Predictions | None, new: str, new_predictions: str) -> list[Output]:
    """The folders of the new tables. Raises ValueError, before anything is written, where one is somebody else's."""
    places = {**old.places, **(predictions.places if predictions else {})}
    outputs = [folders.output(new, "catalog")]
    outputs[0].check(places, "the new catalog")
    if new_predictions:
        places |= {new: "the new catalog", folders.beside(new): "what belongs to the new catalog"}
        outputs.append(folders.output(new_predictions, "predictions", "--out-predictions"))
        outputs[1].check(places, "the table")
    return outputs


def _write_catalog(old: Catalog, new: str, held: lease.Lease) -> None:
    """Writes the parts of the new catalog that do not stand yet."""
    was_listed = not old.settings.get("inspect") and old.settings["layout"] == "unlabelled"
    begun = Catalog.find(new)
    metadata = _begin(old, begun, new)
    if objects.exists(catalogs.findings_uri(new)):  # it is whole, and may have grown since
        return
    superseded, new_labels = old.superseded(), old.new_labels()
    parts = [part for part in old.parts if not part.relabels]
    standing = set(begun.names if begun else ())
    with ImageProgress("compacting", sum(part.num_rows for part in parts)) as progress:
        for number, group in enumerate(_groups(parts, catalogs.LISTED_PART_ROWS if was_listed else READ_PART_ROWS)):
            name = catalogs.part_name(metadata["compacted"]["listing"], number)
            if name not in standing:
                held.prove()
                of_parts = [_current_rows(old.file(part.name), superseded) for part in group]
                rows = new_labels.told(pa.concat_tables(of_parts))
                if was_listed:
                    rows = rows.sort_by("uri")
                said = {**metadata, "replaces": False, "from": [part.name for part in group]}
                _write_companions(old, group, new, name, rows)
                rows = rows.cast(schema.with_metadata("catalog", said))
                row_group_rows = catalogs.LISTED_GROUP_ROWS if was_listed else catalogs.ROW_GROUP_ROWS
                folders.write_new_part(new, name, rows, row_group_rows)
            progress.add(sum(part.num_rows for part in group))
    _copy_indexes(folders.archives(old.uri), folders.archives(new))
    held.prove()
    compacted = Catalog.open(new)
    compacted.keep_footers()
    covered = schema.with_metadata("findings", {"id": metadata["id"], "parts": compacted.names})
    objects.write_bytes(catalogs.findings_uri(new, "csv"), formats.to_bytes(old.findings, "csv"))
    parquet.write_table(catalogs.findings_uri(new), old.findings.cast(covered))


def _copy_indexes(old: str, new: str) -> None:
    """What the archives of the source hold is kept beside the new catalog, too."""
    names = objects.list_names(old)
    if names:
        with objects.read_pool() as pool:
            uris = [(paths.join(old, name), paths.join(new, name)) for name in names]
            list(pool.map(lambda pair: objects.write_bytes(pair[1], objects.read_bytes(pair[0])), uris))


def _begin(old: Catalog, begun: Catalog | None, new: str) -> dict[str, Any]:
    """What every part of the new catalog says. Its listing has the number of the old one's last, because versions of
    rows may end in it (``changes``). Raises ValueError where something else stands there."""
    of = {"id": old.id, "listing": catalogs.listing_of(old.names[-1]), "num_parts": len(old.names)}
    oldest = begun and begun.only(begun.names[:1])  # it may have grown since
    known: Mapping[str, Any] = oldest.metadata if oldest else {"id": uuid.uuid4().hex, "compacted": of}
    before: dict[str, Any] = known.get("compacted", {})
    check_unchanged(new, f"another catalog than {old.uri} compacted as it is now", before, of)
    return {"id": known["id"], "settings": old.settings, "compacted": of}


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


def _current_rows(part: str, superseded: catalogs.Superseded) -> pa.Table:
    rows = parquet.read_table(part, schema=schema.CATALOG)
    rows = rows.filter(pc.invert(rows["deleted"]))
    return superseded.current(rows, catalogs.listing_of(paths.name_of(part)))


def _write_companions(old: Catalog, group: Sequence[Part], new: str, name: str, rows: pa.Table) -> None:
    """Writes where the faces of ``rows`` are, and their features, as the part of that name will hold them, if all have
    been looked at."""
    parts = [part.name for part in group if part.num_rows]
    geometry = faces.geometry_of(old)
    for table in (faces.table(geometry) if geometry else None, features.table_of(old)):
        if table:
            table.carry(old.uri, parts, new, name, rows, catalogs.keys_of(rows))


def _write_predictions(
    predictions: Predictions, new: Catalog, out: str, held: lease.Lease
) -> tuple[tuple[int, int], int]:
    """Writes the file of each new unit all of whose images have been scored; the others are left to jobs/score.py.
    Returns the numbers of files, before and after, and of rows."""
    run = {**predictions.run, "catalog": new.uri, "catalog_id": new.id}
    of_part = {part: list(names) for part, names in groupby(predictions.names, key=part_of)}
    before = Predictions.find(out)
    if before.names:
        check_unchanged(out, "another table of predictions", before.run, run)
    standing, columns = dict(before.counts), predictions.schema
    rows_of_part = {part.name: part.num_rows for part in new.parts}
    all_units = units.cut(new.parts, run["unit_rows"])
    with ImageProgress("compacting predictions", sum(map(len, all_units))) as progress, objects.read_pool() as pool:
        for part, of_new in groupby(all_units, key=attrgetter("part")):
            missing = [unit for unit in of_new if unit.file_name(run["model"]) not in standing]
            if missing:
                held.prove()
                sources = folders.read_metadata(new.file(part), "catalog").get("from", ())
                names = [name for source in sources for name in of_part.get(source, ())]
                uris = [paths.join(predictions.uri, name) for name in names]
                known = pool.map(lambda file: parquet.read_table(file, columns.names), uris)
                scored = pa.concat_tables([columns.empty_table(), *known])
                for unit in missing:
                    rows = _scored_rows(units.listed_rows(new, unit, predictions.splits), scored)
                    if rows is not None:
                        counts: Counts = {"statuses": Counter(rows["status"].to_pylist()), "gone": {}}
                        said = {**predictions.metadata, "run": run, **counts}
                        rows = rows.cast(schema.with_metadata("predictions", said))
                        folders.write_new_part(out, unit.file_name(run["model"]), rows)
                        standing[unit.file_name(run["model"])] = counts
            progress.add(rows_of_part[part])
    held.prove()
    footers.keep(out, "predictions", standing)
    by_status = count_by_status(standing)
    num_rows = sum(by_status.values())
    if len(standing) == len(all_units):
        summary = {**run, "num_rows": num_rows, "by_status": by_status, "num_units": len(all_units)}
        objects.write_bytes(summary_uri(out), json.dumps(summary, indent=1).encode())
    return (len(predictions.names), len(standing)), num_rows


def _scored_rows(listed: pa.Table, scored: pa.Table) -> pa.Table | None:
    """The predictions of the ``listed`` images, in their order and that of their faces; None where one of them has
    none."""
    place = pc.index_in(catalogs.keys_of(scored), value_set=catalogs.keys_of(listed))
    scored, place = scored.filter(pc.is_valid(place)), place.drop_null()
    if pc.count_distinct(place).as_py() < len(listed):
        return None
    order = pc.sort_indices(
        pa.table({"place": place, "face": scored["face"]}), [("place", "ascending"), ("face", "ascending")]
    )
    return scored.take(order).replace_schema_metadata(None)
