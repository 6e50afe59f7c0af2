"""How the rows of a listing are cut into the parts that a catalog is written in."""

from __future__ import annotations

import datetime as dt
import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from agescale.cataloging import relabelling
from agescale.cataloging.layouts import Label, Labels
from agescale.store.listing import Listed
from agescale.tables import catalogs, labels, schema, splits

INSPECTED_PART_ROWS = 1024
"""Rows of a part whose images are read: some tens of MB where they are packed."""
MIN_PARTS = 8
"""So that a small catalog is read in parallel too."""


def told(label: Label) -> dict[str, Any]:
    """What the source tells of a row: its columns ``relabelling.TOLD``."""
    told = {name: getattr(label, name) for name in schema.BOX_LABEL}
    boxes = [{**asdict(box), **{name: getattr(of_face, name) for name in told}} for box, of_face in label.boxes]
    return {**told, "label_error": label.error, "split": label.split, "boxes": boxes or None}


def split_of(row: Mapping[str, Any], content_hash: str | None, fractions: splits.Fractions | None) -> str | None:
    """The split that a row is told, else the one that these shares give to its subject or its picture, if any. A photo
    of several persons goes by its picture: where that parts a person's photos, a finding says so."""
    subjects = {row["subject"], *(box["subject"] for box in labels.boxes_of(row))} - {None}
    key = subjects.pop() if len(subjects) == 1 else content_hash
    if row["split"] is not None or not fractions or not key:
        return row["split"]
    return splits.assign(key, fractions)


def planned_parts(
    pictures: list[Listed], told_of: Labels, listing_number: int, first: int, replaces: bool, in_parallel: bool
) -> list[pa.Table]:
    """Tables of rows to read and write, one a part, numbered from ``first`` on.

    Rows stand in the order of a hash of their names: every run of rows is then a fair sample, which is what training
    shuffles, while names in the order of a bucket often are in the order of ages. Members of an archive that are read
    together stand in one part, which several such runs share.
    """
    order = sorted(pictures, key=lambda item: (_digest(item.run or item.relative), _digest(item.relative)))
    part_rows = min(INSPECTED_PART_ROWS, max(1, math.ceil(len(order) / (MIN_PARTS if in_parallel else 1))))
    now = dt.datetime.now(dt.UTC)
    starts = range(0, len(order), part_rows)
    if any(item.run for item in order):
        chunks = (order[start : start + part_rows] for start in starts)
        order = [item for chunk in chunks for item in sorted(chunk, key=lambda item: _digest(item.relative))]
    facts = ({"uri": item.uri, "version": item.version, "size_bytes": item.size_bytes} for item in order)
    rows = [
        {"listed_at": now, "deleted": False, **fact, **told(told_of.by_path[item.relative])}
        for fact, item in zip(facts, order, strict=True)
    ]
    return [
        _planned_part(rows[start : start + part_rows], listing_number, first + index, True, replaces)
        for index, start in enumerate(starts)
    ]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def tombstones(gone: list[dict[str, Any]], listing_number: int, first: int) -> list[pa.Table]:
    now = dt.datetime.now(dt.UTC)
    rows = [{"uri": row["uri"], "version": row["version"], "listed_at": now, "deleted": True} for row in gone]
    size = catalogs.LISTED_PART_ROWS
    chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
    return [_planned_part(chunk, listing_number, first + index, False, True) for index, chunk in enumerate(chunks)]


LISTED_FIELDS = ("uri", "version", "size_bytes", "listed_at", "deleted", *relabelling.TOLD)
PLANNED_SCHEMA = pa.schema(
    [
        *(schema.CATALOG.field(name) for name in LISTED_FIELDS),
        pa.field("part", pa.string()),
        pa.field("is_read", pa.bool_()),
        pa.field("replaces", pa.bool_()),
    ]
)
PLANNED_FIELDS = ["part", "is_read", "replaces"]
"""Of a planned part as a whole, not of its rows."""


def _planned_part(
    rows: list[dict[str, Any]], listing_number: int, index: int, is_read: bool, replaces: bool
) -> pa.Table:
    part = catalogs.part_name(listing_number, index)
    of_part = dict(zip(PLANNED_FIELDS, (part, is_read, replaces), strict=True))
    return pa.Table.from_pylist([{**row, **of_part} for row in rows], schema=PLANNED_SCHEMA)
