"""A table of predictions as a value: opened once, then asked what it is of, what it counts, and in which age groups it
can be told.

Each file is a unit of a catalog (see ``units``) and appears whole or not at all; its metadata say what run it is of:
model, age_groups, catalog and its id, unit_rows, split, tta, faces. Where ``regrouping`` made it of another table it
says the model's own groups, too, ``regrouped_from``, and with an age gate ``papers_where``. Runs no model and writes
nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from agescale.ages import cdf
from agescale.ages.groups import AgeGroups
from agescale.ages.papers import PapersRule
from agescale.store import objects, paths
from agescale.store.errors import StoreError
from agescale.tables import folders, footers, schema
from agescale.tables.catalogs import Catalog

SUMMARY_NAME = "summary.json"
"""Beside the table: that all units stand, and their counts by status. Written last."""

Counts = Mapping[str, Mapping[str, int]]
"""What one file counts: ``statuses`` of all its rows, and ``gone`` of those that are not scored again, because their
image has changed or gone since; each by status."""


@dataclass(frozen=True)
class Predictions:
    """A table of predictions as it was listed when it was opened. What has to be read, is read once."""

    uri: str
    versions: Mapping[str, str] = field(repr=False, hash=False)  # of its files

    @classmethod
    def open(cls, uri: str) -> Predictions:
        """Costs one listing. Raises ValueError where there are none."""
        found = cls.find(uri)
        if not found.versions:
            raise folders.nothing_there(uri, "predictions", "make them with jobs/score.py --out PREDICTIONS")
        return found

    @classmethod
    def find(cls, uri: str) -> Predictions:
        """As ``open``, of a table that may have no file yet."""
        uri = paths.absolute(uri)
        return cls(uri, folders.list_versions(uri, "predictions"))

    @property
    def names(self) -> list[str]:
        return list(self.versions)

    @property
    def files(self) -> list[str]:
        """URIs of the files."""
        return [paths.join(self.uri, name) for name in self.versions]

    @property
    def models(self) -> list[str]:
        """Digests of the models, which are in the files' names."""
        return sorted({model_of(name) for name in self.versions})

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """What the first file says that can be read, of which all say ``run`` and ``model_card`` alike. Raises what the
        first one raises, where none can."""
        mistakes: list[Exception] = []
        for file in self.files:
            try:
                return read_metadata(file)
            except StoreError as mistake:  # a file that is closed to us, and
                if not mistake.is_about_one_file:
                    raise
                mistakes.append(mistake)
            except ValueError as mistake:  # a damaged one; the others say the same
                mistakes.append(mistake)
        raise mistakes[0]

    @property
    def run(self) -> dict[str, Any]:
        """What the predictions belong to."""
        return dict(self.metadata["run"])

    @property
    def schema(self) -> pa.Schema:
        """The columns of each file."""
        return schema.predictions_of(self.run)

    @property
    def is_regrouped(self) -> bool:
        """Whether ``regrouping`` made them of other ones: nothing is to be scored into them."""
        return "regrouped_from" in self.run

    @property
    def splits(self) -> tuple[str, ...]:
        """Of which images are scored; of none in particular: of all."""
        return tuple(filter(None, self.run["split"].split(",")))

    @property
    def model_card(self) -> dict[str, Any]:
        return dict(self.metadata.get("model_card") or {})

    @property
    def interval_coverage(self) -> float | None:
        """The share of faces that their intervals are to cover; None where the model is not calibrated."""
        calibration = self.model_card.get("calibration")
        return float(calibration["coverage"]) if calibration else None

    def calibrated_splits(self, catalog_id: str) -> list[str]:
        """The splits of a catalog with whose faces their intervals were made."""
        calibration = self.model_card.get("calibration")
        if not calibration or catalog_id not in calibration["catalog_id"].split(","):
            return []
        return list(calibration["split"].split(","))

    @property
    def age_groups(self) -> AgeGroups | None:
        """The groups that they were made in."""
        text = self.run["age_groups"]
        return AgeGroups.parse(text) if text else None

    @property
    def groups_of_model(self) -> str | None:
        """The groups that the model was made for, as text: others than ``age_groups`` where these were chosen later."""
        own: str | None = self.run.get("regrouped_from", self.run["age_groups"])
        return own

    def check_of(self, catalog: Catalog) -> None:
        """Raises ValueError where they are not of that catalog."""
        if self.run["catalog_id"] != catalog.id:
            raise ValueError(
                f"{self.uri}: predictions of another catalog than {catalog.uri}; theirs was {self.run['catalog']}"
            )

    @cached_property
    def counts(self) -> dict[str, Counts]:
        """What each file counts, by its name. Costs a file, and a footer for each that came since they were kept."""
        return footers.read(self.uri, self.versions, read_counts)

    @property
    def says_ages(self) -> bool:
        """Whether rows have ages, from which any age groups derive: of all models but those that only choose among
        groups without bounds."""
        if self.model_card.get("task") != "classification":
            return True
        return self.age_groups is not None and self.age_groups.is_bounded

    def view(self, text: str) -> AgeGroups:
        """The age groups of ``--age-groups``, for ``regrouped``. Raises ValueError where these predictions can be told
        in no others than their own."""
        groups = AgeGroups.parse(text)
        if not groups.is_bounded:
            raise ValueError(f"--age-groups {text}: names without bounds; write name=low-high, such as teenager=13-19")
        if not self.says_ages:
            raise ValueError(
                f"--age-groups: {self.uri} has no ages to derive groups from, its model only chooses among "
                f"{self.run['age_groups']}; leave it out, or train on groups with bounds"
            )
        return groups

    @property
    def places(self) -> dict[str, str]:
        """The folders of the table, for ``Output.check``."""
        return {
            self.uri: "the table of predictions",
            folders.beside(self.uri): "what belongs to the predictions",
        }


def read_metadata(file: str) -> dict[str, Any]:
    """What a file of predictions says: its ``run``, its ``model_card``, its counts by status, the ``statuses``."""
    return folders.read_metadata(file, "predictions")


def read_counts(file: str) -> Counts:
    said = read_metadata(file)
    return {"statuses": said["statuses"], "gone": said["gone"]}


def by_status(counts: Mapping[str, Counts]) -> dict[str, int]:
    """Rows by status of all files that count so, the most frequent first."""
    total: Counter[str] = Counter()
    for each in counts.values():
        total.update(each["statuses"])
    return dict(total.most_common())


def part_of(file_name: str) -> str:
    """The part of a catalog that a file of predictions is of.

    >>> part_of("part-00001-000000-rows-000002000-000003000-3ab5.parquet")
    'part-00001-000000.parquet'
    """
    return f"{file_name.partition('-rows-')[0]}.parquet"


def model_of(file_name: str) -> str:
    """The digest of the model that a file of predictions is by.

    >>> model_of("part-00001-000000-rows-000002000-000003000-3ab5.parquet")
    '3ab5'
    """
    return file_name.removesuffix(".parquet").rpartition("-")[2]


def summary_uri(table: str) -> str:
    return paths.join(folders.beside(table), SUMMARY_NAME)


def has_summary(table: str) -> bool:
    """Whether the summary stands there, and is whole."""
    return told_by_status(table) is not None


def told_by_status(table: str) -> dict[str, int] | None:
    """Rows by status as the summary tells them; None where none stands there, or it is not whole."""
    uri = summary_uri(table)
    try:
        told = json.loads(objects.read_bytes(uri))["by_status"] if objects.exists(uri) else None
    except (ValueError, TypeError, KeyError):
        return None
    return told if isinstance(told, dict) else None


def stored_cdfs(column: pa.ChunkedArray) -> np.ndarray:
    """The values of an ``age_cdf`` column that are not null, int32 (N, 101), as ``ages.cdf`` takes them."""
    values = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return np.concatenate([np.zeros(0, np.int32), *values]).reshape(-1, 101)


def regrouped(rows: pa.Table, groups: AgeGroups) -> pa.Table:
    """Rows of predictions with ``group`` and ``group_probability`` in these ``groups``, from their ``age_cdf``: what
    the same model would have said had it been made for them. Rows without a distribution have no group."""
    has_ages_N = pc.is_valid(rows["age_cdf"]).to_numpy(zero_copy_only=False)
    derived = cdf.group_columns(stored_cdfs(rows["age_cdf"]), groups)
    for name, values in derived.items():
        column_N = np.full(len(rows), None, dtype=object)
        column_N[has_ages_N] = values
        field = schema.PREDICTIONS.field(name)
        rows = rows.set_column(rows.schema.get_field_index(name), field, pa.array(column_N, field.type))
    return rows


def with_papers(rows: pa.Table, rule: PapersRule) -> pa.Table:
    """Rows of predictions with ``needs_papers``: who does not pass by this ``rule``, and all without an age."""
    has_ages_N = pc.is_valid(rows["age_cdf"]).to_numpy(zero_copy_only=False)
    age_N = rows["age"].to_numpy()[has_ages_N]
    needs_N = np.ones(len(rows), bool)
    needs_N[has_ages_N] = ~rule.passes(rule.scores(age_N, stored_cdfs(rows["age_cdf"])))
    column = pa.array(needs_N)
    if schema.NEEDS_PAPERS.name in rows.column_names:
        return rows.set_column(rows.schema.get_field_index(schema.NEEDS_PAPERS.name), schema.NEEDS_PAPERS, column)
    return rows.append_column(schema.NEEDS_PAPERS, column)
