"""Labels that the source tells otherwise than the catalog: which those are, in words, and the parts that tell them.

Known rows and new labels in, parts of the catalog out. An image that has other labels now is the same image: its row
is copied, facts, pixels and key, into a part that ``relabels``, and what was predicted of it stays true. Where that
puts it into another split, it becomes a row of its own, of another version, as if it had been listed again: whoever
scores a split has to find it there. What was found of its faces comes along. Reads no image.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from agescale.cataloging import findings
from agescale.store import parquet, paths
from agescale.tables import catalogs, faces, features, folders, schema

PART_ROWS = 1024
"""Rows of a part; they may hold packed pixels."""
TOLD = (*catalogs.LABEL_COLUMNS, "split")
"""What a source tells of a row."""
IN_WORDS = ("subject", "gender", "ethnicity", "split")


@dataclass(frozen=True)
class Relabelled:
    """A current row of the catalog (uri, version, part, row, TOLD), and what the source tells of it now (TOLD)."""

    before: Mapping[str, Any]
    now: Mapping[str, Any]

    @property
    def uri(self) -> str:
        return str(self.before["uri"])

    @property
    def moves(self) -> bool:
        """Whether it stands in another split now."""
        return bool(self.before["split"] != self.now["split"])

    @property
    def words(self) -> str:
        """What is new, such as ``34 -> 43, gender fmale -> female``; empty where only an error has other words."""
        labels = [findings.say(dict(row)) for row in (self.before, self.now)]
        found = [f"{labels[0]} -> {labels[1]}"] if labels[0] != labels[1] else []
        for name in IN_WORDS:
            if self.before[name] != self.now[name]:
                found.append(f"{name} {self.before[name] or 'nothing'} -> {self.now[name] or 'nothing'}")
        if not found and _rounded(self.before["boxes"]) != _rounded(self.now["boxes"]):
            found.append("boxes, or what is told of a face in them")
        return ", ".join(found)


def compare(before: Mapping[str, Any], now: Mapping[str, Any]) -> Relabelled | None:
    """What is new about a row's labels, or None."""
    is_same = all(_rounded(before[name]) == _rounded(now[name]) for name in TOLD)
    return None if is_same else Relabelled(before, now)


def _rounded(value: Any) -> Any:
    """``value`` as it is compared: the catalog keeps ages in 32 bits."""
    if isinstance(value, list):
        return [{name: _rounded(said) for name, said in box.items()} for box in value]
    return round(value, 3) if isinstance(value, float) and math.isfinite(value) else value


def write_parts(
    out: str,
    relabelled: Sequence[Relabelled],
    metadata: Mapping[str, Any],
    listing_number: int,
    first: int,
    prove: Callable[[], None],
) -> list[str]:
    """Writes the parts of the listing of that number that hold these rows, numbered from ``first`` on, and returns
    their names. Of no rows it is one part, which tells the settings. ``prove`` raises where the catalog is another
    job's."""
    names: list[str] = []
    which, source = metadata["settings"].get("faces"), metadata["settings"].get("suspects")
    kept = [faces.table(faces.default_geometry(which))] if which else []
    kept += [features.table(source)] if source else []

    def add(rows: pa.Table, moves: bool) -> None:
        prove()
        table_schema = schema.with_metadata("catalog", {**metadata, "replaces": moves, "relabels": not moves})
        names.append(catalogs.part_name(listing_number, first + len(names)))
        folders.write_new_part(out, names[-1], rows.cast(table_schema), catalogs.ROW_GROUP_ROWS)

    for moves in (False, True):
        ordered = [each for each in relabelled if each.moves == moves]
        ordered.sort(key=lambda each: (each.before["part"], each.before["row"]))
        for number, rows in enumerate(_tables(out, ordered, listing_number)):
            add(rows, moves)
            if moves and kept:
                before = [each.before for each in ordered[number * PART_ROWS :][: len(rows)]]
                keys = pa.table({name: [each[name] for each in before] for name in ("uri", "version")})
                parts = sorted({each["part"] for each in before})
                for table in kept:
                    table.carry(out, parts, out, names[-1], rows, catalogs.keys_of(keys))
    if not relabelled:
        add(schema.CATALOG.empty_table(), moves=False)
    return names


def _tables(out: str, relabelled: Sequence[Relabelled], listing_number: int) -> Iterator[pa.Table]:
    """Their rows with what is told now, PART_ROWS at a time; parts of the catalog are read one after the other, in the
    order in which they come."""
    held = [schema.CATALOG.empty_table()]
    for part, group in groupby(relabelled, key=lambda each: each.before["part"]):
        known = parquet.read_table(paths.join(out, part), schema=schema.CATALOG)
        held.append(_copied(known, list(group), listing_number))
        rows = pa.concat_tables(held)
        while len(rows) >= PART_ROWS:
            yield rows.slice(0, PART_ROWS)
            rows = rows.slice(PART_ROWS)
        held = [rows]
    if len(held[0]):
        yield held[0]


def _copied(rows: pa.Table, relabelled: Sequence[Relabelled], listing_number: int) -> pa.Table:
    rows = rows.take(np.array([each.before["row"] for each in relabelled]))
    columns = {name: [each.now[name] for each in relabelled] for name in TOLD}
    columns["listed_at"] = [dt.datetime.now(dt.UTC)] * len(relabelled)
    columns["version"] = [_version(each, listing_number) for each in relabelled]
    for name, values in columns.items():
        field = schema.CATALOG.field(name)
        rows = rows.set_column(rows.schema.get_field_index(name), field, pa.array(values, field.type))
    return rows


def _version(relabelled: Relabelled, listing_number: int) -> str:
    version = str(relabelled.before["version"])
    return f"{catalogs.as_listed(version)}@{listing_number}" if relabelled.moves else version
