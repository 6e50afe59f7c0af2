"""The units of scoring: some rows of one part of a catalog, and the one file of predictions that they become.

A catalog in, row ranges and file names out. A unit's file is named after part, rows and model, and appears whole or not
at all: that is how anybody knows what is done. Its metadata say what run it is of: model, age_groups, catalog and its
id, unit_rows, split, mirror. Runs no model and writes nothing.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from agescale.ages.groups import AgeGroups
from agescale.store import objects, paths
from agescale.store.errors import StoreError
from agescale.tables import catalogs, folders
from agescale.tables.catalogs import Part

SUMMARY_NAME = "summary.json"
"""Beside the table: that all units stand, and their counts by status. Written last."""
MIN_UNIT_ROWS, MAX_UNIT_ROWS = 1000, 10_000


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


def part_of(file_name: str) -> str:
    """The part that a file of predictions is of.

    >>> part_of("part-00001-000000-rows-000002000-000003000-3ab5.parquet")
    'part-00001-000000.parquet'
    """
    return f"{file_name.partition('-rows-')[0]}.parquet"


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


def list_files(out: str) -> list[str]:
    """Names of the files of a table of predictions; none where none stands."""
    return folders.list_parts(out, "predictions")


def prediction_files(out: str) -> list[str]:
    """URIs of the files of a table of predictions. Raises ValueError where there are none."""
    names = list_files(out)
    if not names:
        raise folders.nothing_there(out, "predictions", "make them with jobs/score.py --out PREDICTIONS")
    return [paths.join(paths.absolute(out), name) for name in names]


def read_metadata(file: str) -> dict[str, Any]:
    """What a file of predictions says: its ``run``, its ``model_card``, its counts by status, the ``statuses``."""
    return folders.read_metadata(file, "predictions")


def read_counts(file: str) -> dict[str, dict[str, int]]:
    """Counts by status of one file of predictions: ``statuses`` of all rows, and ``gone`` of those that are not scored
    again, because their image has changed or gone since."""
    said = read_metadata(file)
    return {"statuses": said["statuses"], "gone": said["gone"]}


def by_status(said: Mapping[str, Mapping[str, Mapping[str, int]]]) -> dict[str, int]:
    """Rows by status of all files that say so (``read_counts``), the most frequent first."""
    total: Counter[str] = Counter()
    for counts in said.values():
        total.update(counts["statuses"])
    return dict(total.most_common())


def read_run(out: str, catalog: str = "") -> dict[str, Any]:
    """What the predictions in ``out`` belong to. Raises ValueError where there are none, or none that can be read, or
    where they are not of that ``catalog``."""
    run = run_of(prediction_files(out))
    if catalog and run["catalog_id"] != catalogs.metadata(catalog)["id"]:
        raise ValueError(f"{out}: predictions of another catalog than {catalog}; theirs was {run['catalog']}")
    return run


def run_of(files: Sequence[str]) -> dict[str, Any]:
    """The run of files of predictions, of which there is at least one. Raises ValueError where none can be read."""
    mistakes: list[Exception] = []
    for file in files:
        try:
            return dict(read_metadata(file)["run"])
        except StoreError as mistake:  # a file that is closed to us, and
            if not mistake.is_about_one_file:
                raise
            mistakes.append(mistake)
        except ValueError as mistake:  # a damaged one; the others say the same
            mistakes.append(mistake)
    raise mistakes[0]


def says_ages(metadata: Mapping[str, Any]) -> bool:
    """Whether rows of predictions with such ``read_metadata`` have ages, from which any age groups derive: all models
    but those that only choose among groups without bounds."""
    card = metadata.get("model_card") or {}
    return card.get("task") != "classification" or AgeGroups.parse(metadata["run"]["age_groups"]).is_bounded


def parse_view(text: str, predictions: str, metadata: Mapping[str, Any]) -> AgeGroups:
    """The age groups of ``--age-groups``, for ``folders.regrouped``. Raises ValueError where these predictions, which
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
    return paths.join(folders.beside(out), SUMMARY_NAME)


def has_summary(out: str) -> bool:
    """Whether the summary stands there, and is whole."""
    uri = summary_uri(out)
    try:
        return objects.exists(uri) and "by_status" in json.loads(objects.read_bytes(uri))
    except (ValueError, TypeError):
        return False
