"""The units of scoring: some rows of one part of a catalog, and the one file of predictions that they become.

A catalog in, row ranges and file names out. A unit's file is named after part, rows and model, and appears whole or not
at all: that is how anybody knows what is done. Its metadata say what run it is of: model, age_groups, catalog and its
id, unit_rows, split, mirror. Runs no model and writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from agescale import catalogs, storage, tables
from agescale.age_groups import AgeGroups

SUMMARY_NAME = "summary.json"
"""Beside the table: that all units stand, and their counts by status. Written last."""
MAX_UNIT_ROWS = 10_000


@dataclass(frozen=True)
class Unit:
    """The rows ``start`` to ``stop`` (exclusive) of one part of a catalog."""

    part: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def file_name(self, model: str) -> str:
        """Name of the unit's file of predictions by the model with that digest.

        >>> Unit("part-00001-000000.parquet", 2000, 3000).file_name("3ab5")
        'part-00001-000000-rows-000002000-000003000-3ab5.parquet'
        """
        return f"{self.part.removesuffix('.parquet')}-rows-{self.start:09d}-{self.stop:09d}-{model}.parquet"


def part_sizes(catalog: str, parts: Sequence[str]) -> dict[str, int]:
    """Rows of each part. Reads footers only."""
    with storage.read_pool() as pool:
        return dict(
            zip(parts, pool.map(lambda part: storage.num_rows(storage.join(catalog, part)), parts), strict=True)
        )


def cut(sizes: Mapping[str, int], unit_rows: int) -> list[Unit]:
    """The units of parts with so many rows, in the parts' order.

    >>> cut({"part-a": 5, "part-b": 2}, unit_rows=3)
    [Unit(part='part-a', start=0, stop=3), Unit(part='part-a', start=3, stop=5), Unit(part='part-b', start=0, stop=2)]
    """
    return [
        Unit(part, start, min(start + unit_rows, num_rows))
        for part, num_rows in sizes.items()
        for start in range(0, num_rows, unit_rows)
    ]


def list_units(catalog: str, parts: Sequence[str], unit_rows: int) -> list[Unit]:
    """Every unit of the catalog, in the order of its parts."""
    return cut(part_sizes(catalog, parts), unit_rows)


def listed_rows(catalog: str, unit: Unit, splits: Sequence[str], columns: Sequence[str] = ()) -> pa.Table:
    """``uri, version, part, row`` of the unit's rows that stand for images (of ``splits``, where any are named), and
    those other ``columns`` of them."""
    rows = catalogs.read_part(catalog, unit.part, list(dict.fromkeys(["uri", "version", "deleted", "split", *columns])))
    rows = rows.slice(unit.start, unit.stop - unit.start)
    is_listed = pc.invert(rows["deleted"])
    if splits:
        is_listed = pc.and_(is_listed, pc.fill_null(pc.is_in(rows["split"], pa.array(splits)), False))
    return rows.filter(is_listed).select(["uri", "version", *columns, "part", "row"])


def rows_of(unit: Unit, listed: pa.Table) -> pa.Table:
    """A unit's share of the ``listed_rows`` of its part."""
    first, stop = np.searchsorted(listed["row"], [unit.start, unit.stop])
    return listed.slice(first, stop - first)


def current_rows(rows: pa.Table, superseded: pa.ChunkedArray) -> pa.Table:
    """Of the ``listed_rows`` of a unit those that no later listing names again (``catalogs.superseded``)."""
    return rows.filter(pc.invert(pc.is_in(rows["uri"], superseded.combine_chunks())))


def list_files(out: str) -> list[str]:
    """Names of the files of a table of predictions; none where none stands."""
    return tables.list_parts(out, "predictions")


def prediction_files(out: str) -> list[str]:
    """URIs of the files of a table of predictions. Raises ValueError where there are none."""
    names = list_files(out)
    if not names:
        raise tables.nothing_there(out, "predictions", "make them with jobs/score.py --out PREDICTIONS")
    return [storage.join(storage.absolute(out), name) for name in names]


def read_metadata(file: str) -> dict[str, Any]:
    """What a file of predictions says: its ``run``, its ``model_card``, its counts by status, the ``statuses``."""
    return tables.read_metadata(file, "predictions")


def read_run(out: str, catalog: str = "") -> dict[str, Any]:
    """What the predictions in ``out`` belong to. Raises ValueError where there are none, or none that can be read, or
    where they are not of that ``catalog``."""
    run = run_of(prediction_files(out))
    if catalog and run["catalog_id"] != catalogs.metadata(catalog)["id"]:
        raise ValueError(f"{out}: predictions of another catalog than {catalog}; theirs was {run['catalog']}")
    return run


def run_of(files: Sequence[str]) -> dict[str, Any]:
    """The run of files of predictions, of which there is at least one. Raises ValueError where none can be read."""
    mistakes: list[ValueError] = []
    for file in files:
        try:
            return dict(read_metadata(file)["run"])
        except ValueError as mistake:  # a damaged file; the others say the same
            mistakes.append(mistake)
    raise mistakes[0]


def says_ages(metadata: Mapping[str, Any]) -> bool:
    """Whether rows of predictions with such ``read_metadata`` have ages, from which any age groups derive: all models
    but those that only choose among groups without bounds."""
    card = metadata.get("model_card") or {}
    return card.get("task") != "classification" or AgeGroups.parse(metadata["run"]["age_groups"]).is_bounded


def parse_view(text: str, predictions: str, metadata: Mapping[str, Any]) -> AgeGroups:
    """The age groups of ``--age-groups``, for ``tables.regrouped``. Raises ValueError where these predictions, which
    say that ``metadata``, can be told in no others than their own."""
    groups = AgeGroups.parse(text)
    if not groups.is_bounded:
        raise ValueError(f"--age-groups {text}: names without bounds; write name=low-high, such as teenager=13-19")
    if not says_ages(metadata):
        raise ValueError(
            f"--age-groups: {predictions} has no ages to derive groups from, its model only chooses among "
            f"{metadata['run']['age_groups']}; leave it out, or train on groups with bounds"
        )
    return groups


def summary_uri(out: str) -> str:
    return storage.join(tables.beside(out), SUMMARY_NAME)
