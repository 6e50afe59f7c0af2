"""The units of scoring: some rows of one part of a catalog, and the one file of predictions that they become.

A catalog in, row ranges and file names out. A unit's file is named after part, rows and model, and appears whole or not
at all: that is how anybody knows what is done. Its metadata say what run it is of: model, age_groups, catalog and its
id, unit_rows, split, tta. Runs no model and writes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from agescale.config import MAX_UNIT_ROWS
from agescale.tables.catalogs import Catalog, Part

MIN_UNIT_ROWS = 1000


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


def cut(parts: Iterable[Part], unit_rows: int | None) -> list[Unit]:
    """The units of a catalog's parts, in their order, of ``unit_rows`` rows each; parts that relabel list no image.

    With None each part decides by its own size, whatever else the catalog has or will have: into ten units, but of at
    least MIN_UNIT_ROWS and at most MAX_UNIT_ROWS.
    """
    return [
        Unit(part.name, start, min(start + num, part.num_rows))
        for part in parts
        if not part.relabels
        for num in [unit_rows or rows_of_units(part.num_rows)]
        for start in range(0, part.num_rows, num)
    ]


def rows_of_units(num_rows: int) -> int:
    """Rows of each unit of a part of ``num_rows``.

    >>> [rows_of_units(num_rows) for num_rows in (300, 1024, 25_003, 100_000, 1_000_000)]
    [300, 1024, 2501, 10000, 10000]
    """
    if num_rows < 2 * MIN_UNIT_ROWS:
        return max(num_rows, 1)
    return min(max(math.ceil(num_rows / 10), MIN_UNIT_ROWS), MAX_UNIT_ROWS)


def listed_rows(catalog: Catalog, unit: Unit, splits: Sequence[str], columns: Sequence[str] = ()) -> pa.Table:
    """``uri, version, part, row`` of the unit's rows that stand for images (of ``splits``, where any are named), and
    those other ``columns`` of them."""
    rows = catalog.read_part(unit.part, list(dict.fromkeys(["uri", "version", "deleted", "split", *columns])))
    rows = rows.slice(unit.start, unit.stop - unit.start)
    is_listed = pc.invert(rows["deleted"])
    if splits:
        is_listed = pc.and_(is_listed, pc.fill_null(pc.is_in(rows["split"], pa.array(splits)), False))
    return rows.filter(is_listed).select(["uri", "version", *columns, "part", "row"])


def rows_of(unit: Unit, listed: pa.Table) -> pa.Table:
    """A unit's share of the ``listed_rows`` of its part."""
    first, stop = np.searchsorted(listed["row"], [unit.start, unit.stop])
    return listed.slice(first, stop - first)
