"""Verifies a table of predictions against its catalog: rows in = rows out.

In: a catalog and the predictions of it. Out: counts, and what is wrong, one line each. Each unit (some rows of a part
of the catalog, and their one file; see ``units``) is verified alone, so memory does not grow with the table. Changes
nothing, and judges no ages (``evaluation`` does).

A unit's file holds each image that its part lists there at most once, and nothing else. It must hold those that no
later listing names again. The others, which have changed or gone since, may stand or not: that depends on whether they
were scored before or after. No two units hold the same key (uri, version): no catalog lists one twice, as what comes
back as it had been gets a version of its own (see ``changes``), so it is looked for in the predictions alone.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from agescale.ages.groups import AgeGroups
from agescale.config import VerifyConfig
from agescale.store import objects, parquet, paths
from agescale.store.errors import Damaged, StoreError
from agescale.tables import catalogs, folders, keys, schema, units
from agescale.tables.catalogs import Catalog
from agescale.tables.predictions import Predictions, read_metadata, summary_uri
from agescale.tables.units import Unit

MAX_PROBLEMS = 50
"""Problems that are told; the rest are counted."""
PARTS_AHEAD = 2
UNITS_AHEAD = 64
MAX_HELD_ROWS = 1_000_000
"""Listed rows without a prediction that are held until the later listings are asked about them, all at once."""

KEY = ["uri", "version", "face"]
COLUMNS = [*KEY, "num_faces", "status", "error", "age", "group", "model"]
INTERVAL = ["age_lower", "age_upper"]
"""Read as well where the model is calibrated."""


@dataclass(frozen=True)
class Verification:
    """What stands in a table of predictions, and the first of its problems, one line each."""

    num_rows: int
    num_units: int
    by_status: dict[str, int]
    run: dict[str, Any]  # what the predictions belong to: model, split, ...
    problems: tuple[str, ...]
    num_problems: int
    wrong_files: tuple[str, ...]  # names of those to be deleted and scored again
    num_kept: int  # files that this user, or this version of agescale, cannot read, and that may be right


def verify(config: VerifyConfig) -> Verification:
    """Reads every unit's file. Raises ValueError where there is no table or no complete catalog to hold it against,
    StoreError where the store does not let anybody read them."""
    config = paths.with_absolute_uris(config)
    catalog, table = Catalog.open(config.catalog), Predictions.open(config.predictions)
    table.check_of(catalog)
    catalog.check_complete()
    predictions, run, superseded = table.uri, table.run, catalog.superseded()
    all_units = units.cut(catalog.parts, run["unit_rows"])
    expected = {unit.file_name(run["model"]) for unit in all_units}
    names = set(objects.list_names(predictions))  # whatever lies there, others read too

    problems: list[str] = []
    num_problems = num_kept = 0
    wrong: set[str] = set()
    by_status: Counter[str] = Counter()
    missing: list[pa.Table] = []
    num_missing = 0

    def tell(more: list[str]) -> None:
        nonlocal num_problems
        problems.extend(more[: MAX_PROBLEMS - len(problems)])
        num_problems += len(more)
        wrong.update(problem.partition(": ")[0] for problem in more)

    tell(_unscored(sorted(expected - names)))
    with keys.HashCount() as count:
        for found in _check_units(catalog, table, all_units, names):
            by_status.update(found.by_status)
            if found.is_kept:
                problems, num_problems, num_kept = [*problems, *found.problems], num_problems + 1, num_kept + 1
                continue
            tell(found.problems)
            count.add(found.hashes)
            if found.missing is not None:
                missing.append(found.missing)
                num_missing += len(found.missing)
            if num_missing >= MAX_HELD_ROWS:
                tell(_without_row(superseded, missing))
                missing, num_missing = [], 0
        tell(_in_two_files(predictions, sorted(names & expected), count.twice()))
    if missing:
        tell(_without_row(superseded, missing))
    tell([f"{name}: belongs to no unit of this catalog and model" for name in sorted(names - expected)])
    tell(_wrong_summary(predictions, None if num_problems else by_status))
    counts = dict(by_status.most_common())
    ours = tuple(sorted(name for name in wrong & names if folders.PARTS["predictions"].fullmatch(name)))
    return Verification(
        by_status.total(), len(all_units), counts, run, tuple(problems[:MAX_PROBLEMS]), num_problems, ours, num_kept
    )


def wrong_files(catalog: Catalog, predictions: str) -> tuple[str, ...]:
    """Names of the files of predictions that are damaged or not what they should be; where the catalog is not complete,
    or no file can be read, only those that are damaged. Raises what ``verify`` raises."""
    files = Predictions.find(predictions).files
    damaged = tuple(paths.name_of(file) for file in files if _is_damaged(file))
    if catalog.is_complete and len(damaged) < len(files):
        return verify(VerifyConfig(catalog.uri, predictions)).wrong_files
    return damaged


def _is_damaged(file: str) -> bool:
    try:
        read_metadata(file)
    except Damaged:
        return True
    except StoreError as error:
        if not error.is_about_one_file:
            raise
    return False


@dataclass(frozen=True)
class UnitFindings:
    """What one file holds, what is wrong with it, and (uri, part, file) the listed rows without a prediction, if any.

    Whether these are missed depends on later listings, so it is found out for many units at a time.
    """

    by_status: dict[str, int]
    problems: list[str]
    missing: pa.Table | None = None
    is_kept: bool = False  # whatever it holds, because this user or this version cannot read it
    hashes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint64))  # of its keys, where these are right


def _unscored(names: list[str]) -> list[str]:
    """One line for all units without a file: they are very many where a run has just begun.

    >>> _unscored(["part-00001-000000-rows-000000000-000001000-3ab5.parquet", "...", "..."])
    ['part-00001-000000-rows-000000000-000001000-3ab5.parquet: not scored yet, nor are 2 other units']
    """
    others = (
        f", nor {'are' if len(names) > 2 else 'is'} {_count(len(names) - 1, 'other unit')}" if len(names) > 1 else ""
    )
    return [f"{name}: not scored yet{others}" for name in names[:1]]


def _check_units(
    catalog: Catalog, table: Predictions, all_units: Sequence[Unit], names: set[str]
) -> Iterator[UnitFindings]:
    """What is found in the file of each unit that has one, in their order. A part of the catalog is read once."""
    predictions, run, splits = table.uri, table.run, table.splits
    by_part = [list(group) for _, group in groupby(all_units, key=attrgetter("part"))]
    with objects.read_pool() as pool:
        readings = (
            pool.submit(units.listed_rows, catalog, Unit(group[0].part, 0, group[-1].stop), splits) for group in by_part
        )
        checks = (
            pool.submit(_check_unit, paths.join(predictions, name), units.rows_of(unit, listed), run)
            for group, listed in zip(by_part, objects.ahead(readings, PARTS_AHEAD), strict=True)
            for unit in group
            if (name := unit.file_name(run["model"])) in names
        )
        yield from objects.ahead(checks, UNITS_AHEAD)


def _check_unit(file: str, listed: pa.Table, run: dict[str, Any]) -> UnitFindings:
    """Holds one file against the rows that the catalog lists for it."""
    name = paths.name_of(file)
    try:
        data = objects.read_bytes(file)
    except StoreError as error:
        if not error.is_about_one_file:
            raise
        return UnitFindings({}, [f"{name}: cannot be read ({error.status})"], is_kept=error.status == "forbidden")
    try:
        part = pq.ParquetFile(pa.BufferReader(data))
        metadata = schema.read_metadata(part.schema_arrow, "predictions")
        if not part.schema_arrow.equals(columns := schema.predictions_of(run)):
            return UnitFindings({}, [f"{name}: other columns ({_other_columns(part.schema_arrow, columns)})"])
        ends = INTERVAL if (metadata.get("model_card") or {}).get("calibration") else []
        rows = part.read([*COLUMNS, *ends], use_threads=False)
    except (ValueError, OSError) as error:  # of bytes that are here: they are no Parquet file, or not one of ours
        text = " ".join(str(error).split())[:200]
        return UnitFindings({}, [f"{name}: {text}"], is_kept=isinstance(error, schema.OtherVersion))
    by_status = {each["values"]: each["counts"] for each in pc.value_counts(rows["status"]).to_pylist()}
    problems = _wrong_metadata(metadata, by_status, run) + _wrong_values(rows, by_status, run)
    missing, wrong_keys = _compare_keys(listed, rows, has_all_faces=run.get("faces") == "all")
    if missing is not None:
        missing = missing.append_column("file", pa.array([name] * len(missing), pa.string()))
    told = [f"{name}: {problem}" for problem in problems + wrong_keys]
    if wrong_keys:
        return UnitFindings(by_status, told, missing)
    first_faces = rows.filter(pc.equal(rows["face"], 0))
    return UnitFindings(by_status, told, missing, hashes=keys.hashes_of(catalogs.keys_of(first_faces)))


def _in_two_files(predictions: str, names: Sequence[str], twice: np.ndarray) -> list[str]:
    """A line for each file that holds keys which a file before it holds too, whose hashes are among ``twice``."""
    if not len(twice):
        return []
    file_of: dict[str, str] = {}
    problems = []
    for name in names:
        try:
            rows = parquet.read_table(paths.join(predictions, name), ["uri", "version"])
        except (StoreError, Damaged):
            continue  # told already
        found = catalogs.keys_of(rows)
        suspects = dict.fromkeys(found.filter(pa.array(np.isin(keys.hashes_of(found), twice))).to_pylist())
        again = [key for key in suspects if key in file_of]
        if again:
            uris = pa.chunked_array([[key.partition("\n")[0] for key in again]])
            problems += [f"{name}: {each}" for each in _describe(uris, f"that {file_of[again[0]]} has too")]
        file_of |= {key: file_of.get(key, name) for key in suspects}
    return problems


def _other_columns(found: pa.Schema, columns: pa.Schema) -> str:
    names = set(found.names) ^ set(columns.names)
    both = set(found.names) & set(columns.names)
    names |= {name for name in both if not found.field(name).equals(columns.field(name))}
    return ", ".join(sorted(names)) or "their order"


def _wrong_metadata(metadata: dict[str, Any], by_status: dict[str, int], run: dict[str, Any]) -> list[str]:
    said = {**metadata.get("run", {}), "statuses": metadata.get("statuses")}
    return [
        f"its metadata have {key} {said.get(key)} instead of {value}"
        for key, value in {**run, "statuses": by_status}.items()
        if said.get(key) != value
    ]


def _wrong_values(rows: pa.Table, by_status: dict[str, int], run: dict[str, Any]) -> list[str]:
    problems = []
    models = sorted(set(pc.unique(rows["model"]).to_pylist()) - {run["model"]})
    if models:
        problems.append(f"rows of another model: {', '.join(models[:3])}")
    unknown = sorted(set(by_status) - set(schema.STATUSES))
    if unknown:
        problems.append(f"unknown statuses: {', '.join(unknown[:3])}")
    is_ok = pc.equal(rows["status"], "ok")
    ends = [name for name in INTERVAL if name in rows.column_names]
    for column in required_columns(AgeGroups.parse(run["age_groups"])) + ends:
        is_empty = pc.and_(is_ok, pc.is_null(rows[column], nan_is_null=True))
        problems += _describe(rows["uri"].filter(is_empty), f"ok without {column}")
    is_unexplained = pc.and_(pc.invert(is_ok), pc.is_null(rows["error"]))
    return problems + _describe(rows["uri"].filter(is_unexplained), "failed without an error")


def required_columns(groups: AgeGroups) -> list[str]:
    """What each scored row has. Names without bounds give no age, and where no group holds an age there is no group.

    >>> required_columns(AgeGroups.parse("minor=0-17,adult=18-")), required_columns(AgeGroups.parse("YOUNG,OLD"))
    (['age', 'group'], ['group'])
    >>> required_columns(AgeGroups.parse("teenager=13-19"))
    ['age']
    """
    if not groups.is_bounded:
        return ["group"]
    bounds = groups.bounds()
    has_gap = any(before[1] != after[0] for before, after in pairwise(bounds))
    return ["age"] if bounds[0][0] > 0 or has_gap or not math.isinf(bounds[-1][1]) else ["age", "group"]


def _compare_keys(listed: pa.Table, rows: pa.Table, has_all_faces: bool) -> tuple[pa.Table | None, list[str]]:
    """``uri, part`` of listed rows without a prediction, if any, and what is wrong with the keys that there are.

    Predictions nearly always stand in the order of the catalog, all of them: then two columns are compared as they are.
    """
    if (
        not has_all_faces
        and rows["uri"].equals(listed["uri"])
        and rows["version"].equals(listed["version"])
        and not pc.any(pc.not_equal(rows["face"], 0)).as_py()
        and pc.count_distinct(rows["uri"]).as_py() == len(rows)
    ):
        return None, []
    wanted = listed.append_column("face", pa.array(np.zeros(len(listed)), pa.int32()))
    found, key = rows.select(KEY), KEY[:2] if has_all_faces else KEY
    missing = wanted.join(found, KEY, join_type="left anti").select(["uri", "part"])
    not_listed = found.join(wanted.select(key), key, join_type="left anti")
    twice = found.group_by(KEY).aggregate([([], "count_all")])
    problems = _describe(not_listed["uri"], "that the catalog does not list here")
    problems += _describe(twice["uri"].filter(pc.greater(twice["count_all"], 1)), "more than once")
    if has_all_faces:
        of_image = rows.group_by(KEY[:2]).aggregate([([], "count_all"), ("face", "max"), ("num_faces", "max")])
        said = pc.max_element_wise(pc.add(of_image["face_max"], 1), of_image["num_faces_max"])
        is_wrong = pc.not_equal(of_image["count_all"], said)
        problems += _describe(of_image["uri"].filter(is_wrong), "of an image, and not one for each of its faces")
    return missing if len(missing) else None, problems


def _describe(uris: pa.ChunkedArray, what: str) -> list[str]:
    """One line that counts rows by their URIs and names the first; none where there are none.

    >>> _describe(pa.chunked_array([["/b.jpg", "/a.jpg"]]), "more than once")
    ['2 rows more than once, such as /a.jpg']
    """
    return [f"{_count(len(uris), 'row')} {what}, such as {pc.min(uris).as_py()}"] if len(uris) else []


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _without_row(superseded: catalogs.Superseded, missing: Sequence[pa.Table]) -> list[str]:
    """Of listed rows without a prediction those that must have one: no later listing names their image again."""
    by_listing: dict[int, list[pa.Table]] = defaultdict(list)
    for rows in missing:  # each of one unit
        by_listing[catalogs.listing_of(rows["part"][0].as_py())].append(rows)
    rows = pa.concat_tables(
        superseded.current(rows, listing)
        for listing, rows in ((listing, pa.concat_tables(held)) for listing, held in by_listing.items())
    )
    by_file = rows.group_by("file").aggregate([("uri", "count"), ("uri", "min")]).sort_by("file")
    return [
        f"{each['file']}: {_count(each['uri_count'], 'image')} of the catalog without a row, such as {each['uri_min']}"
        for each in by_file.to_pylist()
    ]


def _wrong_summary(predictions: str, by_status: Counter[str] | None) -> list[str]:
    """Whether the run came to its end; and whether it counted what stands here, where ``by_status`` can be trusted."""
    name = summary_uri(predictions)
    if not objects.exists(name):
        return [f"{name}: not there, so the run did not come to its end"]
    if by_status is None:
        return []
    try:
        summary = json.loads(objects.read_bytes(name))
        said = (summary["num_rows"], summary["by_status"])
    except (ValueError, KeyError, TypeError) as error:
        return [f"{name}: not as jobs/score.py writes it ({error})"]
    here = (by_status.total(), dict(by_status))
    if said != here:
        return [f"{name}: says {said[0]} rows, {said[1]}; the files hold {here[0]}, {here[1]}"]
    return []
