"""A table of predictions for other people: the current rows and nothing else, as CSV, one Parquet file, or a folder.

In: a catalog and its predictions. Out: rows of the images that the catalog lists now, a unit after the other, so memory
is flat however many there are. What an image was before it changed, and images that have gone, are left out. One file
appears whole or not at all. A folder fills with parts, under names that their place decides; while it is filling, its
``.agescale`` neighbour has no summary. Runs no model and needs no Ray.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from agescale.ages import cdf
from agescale.ages.groups import AgeGroups
from agescale.ages.papers import PapersRule
from agescale.config import TableConfig
from agescale.reports import formats
from agescale.runtime.progress import ImageProgress
from agescale.store import objects, parquet, paths
from agescale.store.outputs import Output
from agescale.tables import catalogs, filters, folders, schema, units
from agescale.tables.catalogs import Catalog
from agescale.tables.gates import read_rule
from agescale.tables.labels import BOX_COLUMNS, told_of_rows
from agescale.tables.predictions import Predictions, regrouped, stored_cdfs, summary_uri, with_papers
from agescale.tables.units import Unit

DEFAULT_COLUMNS = (
    "file", "age", "age_lower", "age_upper", "age_std", "group", "group_probability", "status", "error"
)  # fmt: skip
LABELS = {"label_group": "group", "label_gender": "gender", "label_ethnicity": "ethnicity"}
"""Columns of the catalog that predictions have a name for as well."""
CATALOG_COLUMNS = ("age_low", "age_high", "subject", "split", "size_bytes", "listed_at", "content_hash")
UNDER = "probability_under_"
BATCH_ROWS = 100_000
"""Rows of a row group, and of what is written at once."""
PART_ROWS = 1_000_000
"""Rows of a part of a folder."""
UNITS_AHEAD = 16


@dataclass(frozen=True)
class Exported:
    """What was written: rows, and how many current images have no prediction yet."""

    num_rows: int
    num_not_scored: int


def export(config: TableConfig) -> Exported:
    """Writes the current rows of ``config.predictions`` to ``config.out``. Raises ValueError, before anything is
    written, for columns that there are not, and where catalog and predictions do not belong together."""
    config = paths.with_absolute_uris(config)
    catalog, predictions, out = Catalog.open(config.catalog), Predictions.open(config.predictions), config.out
    predictions.check_of(catalog)
    catalog.check_complete()
    columns = _columns(config, predictions)
    if out.endswith((".csv", ".parquet")):
        folders.check_file(out)
    else:
        output = _output(out)
        output.check({**catalog.places, **predictions.places})
    groups = None if config.age_groups is None else predictions.view(config.age_groups)
    rule = read_rule(config.gate, predictions) if config.gate else None
    all_units = units.cut(catalog.parts, predictions.run["unit_rows"])
    reader = CurrentRows(catalog, predictions, columns, config.where, groups, rule)
    with ImageProgress("exporting", sum(map(len, all_units))) as progress:
        batches = _batches(reader.read(all_units, progress), reader.schema)
        if out.endswith(".csv"):
            with objects.open_whole(out) as file:
                _write_csv(file, batches, reader.schema)
        elif out.endswith(".parquet"):
            with objects.open_whole(out) as file:
                _write_parquet(file, batches, reader.schema)
        else:
            with output.held(config.lease):
                _write_folder(out, batches, reader)
    return Exported(reader.num_rows, reader.num_not_scored)


def _columns(config: TableConfig, predictions: Predictions) -> tuple[str, ...]:
    known = ["file", *predictions.schema.names, *CATALOG_COLUMNS, *LABELS]
    has_all_faces = predictions.run.get("faces") == "all"
    columns = config.columns or (*DEFAULT_COLUMNS[:1], *(["face"] if has_all_faces else []), *DEFAULT_COLUMNS[1:])
    if unknown := [name for name in columns if name not in known]:
        raise ValueError(f"--columns {unknown[0]}: there are {', '.join(known)}")
    if config.out.endswith(".csv") and (lists := [name for name in columns if _is_list(name)]):
        raise ValueError(
            f"--columns {lists[0]}: a list does not fit into a CSV; give --out a name that ends in .parquet, or ask "
            "for --probability-under 18 21"
        )
    more = [f"{UNDER}{age}" for age in config.probability_under] + [schema.NEEDS_PAPERS.name] * bool(config.gate)
    return tuple(dict.fromkeys([*columns, *more]))


def _is_list(name: str) -> bool:
    return name in schema.PREDICTIONS.names and pa.types.is_list(schema.PREDICTIONS.field(name).type)


class CurrentRows:
    """The rows that are written, unit by unit, and what is counted on the way."""

    def __init__(
        self,
        catalog: Catalog,
        predictions: Predictions,
        columns: Sequence[str],
        where: str,
        groups: AgeGroups | None,
        rule: PapersRule | None,
    ) -> None:
        self.catalog = catalog
        self.predictions = predictions
        self.run = predictions.run
        self.where = where
        self.groups = groups
        self.rule = rule
        self.schema = pa.schema([_field(name) for name in columns])
        self.splits = predictions.splits
        self.superseded, self.new_labels = catalog.superseded(), catalog.new_labels()
        self.num_rows = self.num_not_scored = 0

    def read(self, all_units: Sequence[Unit], progress: ImageProgress) -> Iterator[pa.Table]:
        """Tables of ``schema``. A part of the catalog is read once."""
        columns = [*CATALOG_COLUMNS, *LABELS.values(), *(BOX_COLUMNS if self.catalog.has_boxes else ())]
        with objects.read_pool() as pool:
            for part, of_part in groupby(all_units, key=attrgetter("part")):
                part_units = list(of_part)
                whole = Unit(part, 0, part_units[-1].stop)
                listed = units.listed_rows(self.catalog, whole, self.splits, columns)
                listed = self.new_labels.told(self.superseded.current(listed, catalogs.listing_of(part)))
                tasks = (pool.submit(self._unit, unit, units.rows_of(unit, listed)) for unit in part_units)
                for unit, (rows, num_not_scored) in zip(part_units, objects.ahead(tasks, UNITS_AHEAD), strict=True):
                    self.num_rows += len(rows)
                    self.num_not_scored += num_not_scored
                    yield rows
                    progress.add(len(unit))

    def _unit(self, unit: Unit, listed: pa.Table) -> tuple[pa.Table, int]:
        """The rows of a unit, and how many of its current images have none."""
        name = unit.file_name(str(self.run["model"]))
        if name not in self.predictions.versions or not len(listed):
            return self.schema.empty_table(), len(listed)
        rows = parquet.read_table(paths.join(self.predictions.uri, name), self.predictions.schema.names)
        place = pc.index_in(catalogs.keys_of(rows), value_set=catalogs.keys_of(listed))
        is_current = pc.is_valid(place)
        rows, place = rows.filter(is_current), place.filter(is_current)
        if self.groups:
            rows = regrouped(rows, self.groups)
        if self.rule:
            rows = with_papers(rows, self.rule)
        num_not_scored = len(listed) - pc.count_distinct(place).as_py()
        told = listed.take(place)
        if self.catalog.has_boxes:
            of_faces = told_of_rows(rows, listed, np.asarray(place))
            for name in schema.BOX_LABEL:
                told = told.set_column(told.schema.get_field_index(name), name, of_faces[name])
        for name, column in {**{name: name for name in CATALOG_COLUMNS}, **LABELS}.items():
            rows = rows.append_column(name, told[column])
        source = self.catalog.source
        is_below = pc.starts_with(rows["uri"], f"{source}/")
        relative = pc.utf8_slice_codeunits(rows["uri"], len(source) + 1)
        rows = rows.append_column("file", pc.if_else(is_below, relative, rows["uri"]))
        for field in self.schema:
            if field.name.startswith(UNDER):
                rows = rows.append_column(field, _probability_under(rows["age_cdf"], int(field.name.rsplit("_", 1)[1])))
        if self.where and len(rows):
            rows = rows.filter(filters.mask_of(rows.drop_columns(["age_cdf"]), self.where))
        return rows.select(self.schema.names).cast(self.schema), num_not_scored


def _field(name: str) -> pa.Field:
    if name.startswith(UNDER):
        return pa.field(name, pa.float32())
    if name == "file":
        return pa.field(name, pa.string())
    if name == schema.NEEDS_PAPERS.name:
        return schema.NEEDS_PAPERS.with_nullable(True)
    table = schema.PREDICTIONS if name in schema.PREDICTIONS.names else schema.CATALOG
    field = table.field(LABELS.get(name, name))
    return pa.field(name, field.type)


def _probability_under(cdfs: pa.ChunkedArray, age: int) -> pa.Array:
    """P(age < ``age`` years) of each stored distribution, null where there is none."""
    is_known = pc.is_valid(cdfs).to_numpy(zero_copy_only=False)
    values_N = np.zeros(len(cdfs), np.float32)
    values_N[is_known] = cdf.probability_under(stored_cdfs(cdfs), age)
    return pa.array(values_N, pa.float32(), mask=~is_known)


def _batches(some: Iterable[pa.Table], table_schema: pa.Schema) -> Iterator[pa.Table]:
    """The same rows, BATCH_ROWS at a time or a little more; what is left comes last."""
    held: list[pa.Table] = []
    for rows in some:
        held.append(rows)
        if sum(map(len, held)) >= BATCH_ROWS:
            yield pa.concat_tables(held)
            held = []
    yield pa.concat_tables([table_schema.empty_table(), *held])


def _write_csv(file: BinaryIO, batches: Iterable[pa.Table], table_schema: pa.Schema) -> None:
    file.write(formats.BYTE_ORDER_MARK.encode())
    with pacsv.CSVWriter(file, table_schema) as writer:
        for rows in batches:
            writer.write_table(
                formats.harmless(rows).combine_chunks()
            )  # pyarrow 21 writes the header again behind an empty chunk


def _write_parquet(file: BinaryIO, batches: Iterable[pa.Table], table_schema: pa.Schema) -> None:
    with pq.ParquetWriter(file, table_schema, compression="zstd") as writer:
        for rows in batches:
            writer.write_table(rows)


def _output(out: str) -> Output:
    """The folder of a table; nothing may stand there but an export that was cut short."""

    def find_stranger(name: str) -> str | None:
        is_cut_short = objects.exists(_begun_uri(out)) and not objects.exists(summary_uri(out))
        return None if is_cut_short else name

    return Output(out, "the table", find_stranger, folders.beside(out))


def _begun_uri(out: str) -> str:
    return paths.join(folders.beside(out), "export.json")


def _write_folder(out: str, batches: Iterable[pa.Table], reader: CurrentRows) -> None:
    """Parts of PART_ROWS rows or a little more."""
    objects.write_bytes(_begun_uri(out), b"{}")
    number, held = 0, [reader.schema.empty_table()]
    for rows in batches:
        held.append(rows)
        if sum(map(len, held)) >= PART_ROWS:
            _write_part(out, number, held)
            number, held = number + 1, []
    if held:
        _write_part(out, number, held)
        number += 1
    for name in objects.list_names(out, prefix="part-", suffix=".parquet"):
        if name >= _part_name(number):  # of one that was cut short when there was more
            objects.delete(paths.join(out, name))
    objects.write_bytes(summary_uri(out), json.dumps({"num_rows": reader.num_rows, "run": reader.run}).encode())


def _write_part(out: str, number: int, held: Sequence[pa.Table]) -> None:
    parquet.write_table(
        paths.join(out, _part_name(number)), pa.concat_tables(held), BATCH_ROWS, scratch=folders.beside(out)
    )


def _part_name(number: int) -> str:
    return f"part-{number:06d}.parquet"
