"""A right table is told to be right, and whatever is wrong with one is told, each thing by itself."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agescale.config import VerifyConfig
from agescale.scoring import verification
from agescale.scoring.verification import verify
from agescale.store import objects, parquet, paths
from agescale.tables import catalogs, folders, schema, units
from agescale.tables.catalogs import Catalog
from agescale.tables.predictions import summary_uri
from agescale.tables.units import Unit

Row = dict[str, Any]
CATALOG_ID = "1"
MODEL = "3ab5"
UNIT_ROWS = 3
NUM_ROWS, NUM_UNITS = 13, 5  # parts of 5, 5 and 3 rows
THIRD_UNIT = Unit("part-00001-000001.parquet", 0, 3)
GROUPS = "minor=0-17,adult=18-"


class Table:
    """A catalog and its predictions, made by hand: three parts, some images that failed, everything right."""

    def __init__(self, folder: Path) -> None:
        self.catalog, self.out = str(folder / "catalog"), str(folder / "predictions")
        self.run: Row = {"model": MODEL, "age_groups": GROUPS, "catalog": self.catalog, "unit_rows": UNIT_ROWS}
        self.run |= {"split": "", "tta": False, "catalog_id": CATALOG_ID}
        uris = [f"/photos/{index:02d} ü.jpg" for index in range(NUM_ROWS)]
        self.list_again([{"uri": uri} for uri in uris[:5]], 1, number=0)
        self.list_again([{"uri": uri} for uri in uris[5:10]], 1, number=1)
        self.list_again([{"uri": uri} for uri in uris[10:]], 1, number=2)

    def list_again(self, rows: list[Row], listing: int, number: int = 0) -> str:
        """Adds a part to the catalog."""
        name = f"part-{listing:05d}-{number:06d}.parquet"
        rows = [{"version": "1", "deleted": False, **row} for row in rows]
        table = pa.Table.from_pylist(rows, schema.with_metadata("catalog", {"id": CATALOG_ID, "settings": {}}))
        parquet.write_table(paths.join(self.catalog, name), table, row_group_size=2)
        said = {"id": CATALOG_ID, "parts": Catalog.open(self.catalog).names}
        covered = schema.with_metadata("findings", said)
        parquet.write_table(catalogs.findings_uri(self.catalog), covered.empty_table())
        return name

    def score(self) -> None:
        """Predicts what is current in the units that have no file yet."""
        catalog = Catalog.open(self.catalog)
        superseded = catalog.superseded()
        for unit in units.cut(catalog.parts, UNIT_ROWS):
            if not objects.exists(self.file(unit)):
                rows = units.listed_rows(catalog, unit, self.run["split"].split(",") if self.run["split"] else [])
                rows = superseded.current(rows, catalogs.listing_of(unit.part))
                self.write(unit, [predicted(row) for row in rows.select(["uri", "version"]).to_pylist()])
        self.write_summary()

    def write_summary(self, **changed: Any) -> None:
        counts: Counter[str] = Counter()
        for name in objects.list_names(self.out, "part-"):
            counts.update(parquet.read_table(paths.join(self.out, name), ["status"])["status"].to_pylist())
        summary = {"num_rows": counts.total(), "by_status": counts, "model": MODEL, **changed}
        objects.write_bytes(summary_uri(self.out), json.dumps(summary).encode())

    def file(self, unit: Unit) -> str:
        return paths.join(self.out, unit.file_name(self.run["model"]))

    def write(self, unit: Unit, rows: list[Row], columns: pa.Schema = schema.PREDICTIONS, **metadata: Any) -> None:
        of_file = {"run": {**self.run, **metadata}, "checkpoint": "/best", "model_card": {}}
        of_file["statuses"] = metadata.get("statuses", Counter(row["status"] for row in rows))
        said = schema.with_metadata("predictions", of_file).metadata
        parquet.write_table(self.file(unit), pa.Table.from_pylist(rows, columns.with_metadata(said)))

    def change(self, unit: Unit, change: Callable[[list[Row]], None], **metadata: Any) -> None:
        rows = parquet.read_table(self.file(unit)).to_pylist()
        change(rows)
        self.write(unit, rows, **metadata)

    def verify(self) -> verification.Verification:
        return verify(VerifyConfig(self.catalog, self.out))


def predicted(row: Row) -> Row:
    row = {**row, "face": 0, "model": MODEL}
    if "7" in row["uri"]:
        return row | {"status": "unreadable", "error": "no image"}
    return row | {"status": "ok", "age": 30.5, "group": "adult", "group_probability": 0.9}


@pytest.fixture
def table(tmp_path: Path) -> Table:
    table = Table(tmp_path)
    table.score()
    return table


def test_a_right_table_is_counted(table: Table) -> None:
    found = table.verify()
    assert (found.problems, found.num_problems) == ((), 0)
    assert (found.num_rows, found.num_units) == (NUM_ROWS, NUM_UNITS)
    assert found.by_status == {"ok": 12, "unreadable": 1}
    assert found.run["model"] == MODEL


def test_the_order_of_rows_does_not_matter(table: Table) -> None:
    table.change(THIRD_UNIT, lambda rows: rows.reverse())
    assert table.verify().problems == ()


def set_value(position: int, **values: Any) -> Callable[[list[Row]], None]:
    return lambda rows: rows[position].update(values)


# rows 5, 6 and 7 stand in the third unit; 7 is unreadable
WRONG_ROWS: dict[str, tuple[Callable[[list[Row]], Any], str]] = {
    "missing": (lambda rows: rows.pop(1), "1 image of the catalog without a row, such as /photos/06 ü.jpg"),
    "all missing": (lambda rows: rows.clear(), "3 images of the catalog without a row, such as /photos/05 ü.jpg"),
    "too many": (
        lambda rows: rows.append({**rows[0], "uri": "/other.jpg"}),
        "1 row that the catalog does not list here, such as /other.jpg",
    ),
    "of another unit": (
        lambda rows: rows.append({**rows[0], "uri": "/photos/08 ü.jpg"}),
        "1 row that the catalog does not list here, such as /photos/08 ü.jpg",
    ),
    "a second face": (
        lambda rows: rows.append({**rows[0], "face": 1}),
        "1 row that the catalog does not list here, such as /photos/05 ü.jpg",
    ),
    "twice": (lambda rows: rows.append(rows[0]), "1 row more than once, such as /photos/05 ü.jpg"),
    "model": (set_value(0, model="beef"), "rows of another model: beef"),
    "status": (set_value(2, status="odd"), "unknown statuses: odd"),
    "no age": (set_value(0, age=None), "1 row ok without age, such as /photos/05 ü.jpg"),
    "age not a number": (set_value(0, age=float("nan")), "1 row ok without age, such as /photos/05 ü.jpg"),
    "no group": (set_value(1, group=None), "1 row ok without group, such as /photos/06 ü.jpg"),
    "no error": (set_value(2, error=None), "1 row failed without an error, such as /photos/07 ü.jpg"),
}


@pytest.mark.parametrize("kind", WRONG_ROWS)
def test_what_is_wrong_with_rows_is_told_and_nothing_else(kind: str, table: Table) -> None:
    change, problem = WRONG_ROWS[kind]
    table.change(THIRD_UNIT, change)
    found = table.verify()
    assert found.problems == (f"{THIRD_UNIT.file_name(MODEL)}: {problem}",)
    assert found.num_problems == 1


def test_another_version_of_an_image_is_a_row_too_many_and_one_missing(table: Table) -> None:
    table.change(THIRD_UNIT, set_value(0, version="2"))
    assert [problem.split(": ")[1] for problem in table.verify().problems] == [
        "1 row that the catalog does not list here, such as /photos/05 ü.jpg",
        "1 image of the catalog without a row, such as /photos/05 ü.jpg",
    ]


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ({"model": "beef"}, "its metadata have model beef instead of 3ab5"),
        ({"age_groups": "YOUNG,OLD"}, f"its metadata have age_groups YOUNG,OLD instead of {GROUPS}"),
        ({"statuses": {"ok": 3}}, "its metadata have statuses {'ok': 3} instead of {'ok': 2, 'unreadable': 1}"),
    ],
)
def test_metadata_that_say_something_else_are_told(metadata: Row, problem: str, table: Table) -> None:
    table.change(THIRD_UNIT, lambda rows: None, **metadata)
    assert table.verify().problems == (f"{THIRD_UNIT.file_name(MODEL)}: {problem}",)


def write_text(table: Table) -> None:
    Path(table.file(THIRD_UNIT)).write_text("no Parquet")


def write_half(table: Table) -> None:
    path = Path(table.file(THIRD_UNIT))
    path.write_bytes(path.read_bytes()[:2000])


def write_garbled(table: Table) -> None:
    path = Path(table.file(THIRD_UNIT))
    data = bytearray(path.read_bytes())
    data[4:600] = bytes(596)
    path.write_bytes(data)


def write_foreign(table: Table) -> None:
    pq.write_table(pa.table({"uri": ["/a.jpg"]}), table.file(THIRD_UNIT))


def write_newer(table: Table) -> None:
    rows = parquet.read_table(table.file(THIRD_UNIT))
    metadata = {**rows.schema.metadata, b"agescale.schema_version": b"99"}
    pq.write_table(rows.replace_schema_metadata(metadata), table.file(THIRD_UNIT))


def write_other_columns(table: Table) -> None:
    names = schema.PREDICTIONS.names
    of_double = schema.PREDICTIONS.set(names.index("age"), pa.field("age", pa.float64()))
    rows = parquet.read_table(table.file(THIRD_UNIT)).to_pylist()
    table.write(THIRD_UNIT, rows, of_double.remove(names.index("age_upper")))


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (write_text, "Parquet magic bytes not found"),
        (write_half, "Parquet magic bytes not found"),
        (write_garbled, ""),
        (write_foreign, "not a table written by agescale"),
        (write_newer, "written by a newer agescale"),
        (write_other_columns, "other columns (age, age_upper)"),
    ],
)
def test_a_file_that_cannot_be_read_or_is_foreign_is_told(
    spoil: Callable[[Table], None], problem: str, table: Table
) -> None:
    spoil(table)
    found = table.verify()
    assert found.num_problems == 1
    assert found.problems[0].startswith(f"{THIRD_UNIT.file_name(MODEL)}: ")
    assert problem in found.problems[0]
    assert "\n" not in found.problems[0]
    assert found.num_rows == NUM_ROWS - 3


def test_units_that_are_not_scored_are_one_line(table: Table) -> None:
    Path(table.file(THIRD_UNIT)).unlink()
    name = THIRD_UNIT.file_name(MODEL)
    assert table.verify().problems == (f"{name}: not scored yet",)
    Path(table.file(Unit("part-00001-000002.parquet", 0, 3))).unlink()
    assert table.verify().problems == (f"{name}: not scored yet, nor is 1 other unit",)


def test_files_of_no_unit_are_told(table: Table) -> None:
    scored = Path(table.file(THIRD_UNIT))
    orphans = [THIRD_UNIT.file_name("beef"), Unit(THIRD_UNIT.part, 0, 2).file_name(MODEL), "part-0.parquet"]
    for name in orphans:
        scored.with_name(name).write_bytes(scored.read_bytes())
    assert table.verify().problems == tuple(
        f"{name}: belongs to no unit of this catalog and model" for name in sorted(orphans)
    )


def test_a_run_that_did_not_end_or_counted_something_else_is_told(table: Table) -> None:
    summary = summary_uri(table.out)
    table.write_summary(num_rows=14)
    (problem,) = table.verify().problems
    counts = "{'ok': 12, 'unreadable': 1}"
    assert problem == f"{summary}: says 14 rows, {counts}; the files hold 13, {counts}"
    objects.write_bytes(summary, b"[")
    (problem,) = table.verify().problems
    assert problem.startswith(f"{summary}: not as jobs/score.py writes it")
    objects.delete(summary)
    assert table.verify().problems == (f"{summary}: not there, so the run did not come to its end",)


def test_more_problems_than_are_told_are_counted(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "MAX_PROBLEMS", 3)
    for unit in units.cut(Catalog.open(table.catalog).parts, UNIT_ROWS):
        table.change(unit, set_value(0, model="beef"))
    found = table.verify()
    assert (len(found.problems), found.num_problems) == (3, NUM_UNITS)


def test_groups_without_bounds_need_no_age_and_groups_with_gaps_no_group(tmp_path: Path) -> None:
    for groups, unneeded, needed in (("YOUNG,OLD", "age", "group"), ("teenager=13-19", "group", "age")):
        table = Table(tmp_path / unneeded)
        table.run["age_groups"] = groups
        table.score()
        table.change(THIRD_UNIT, set_value(0, **{unneeded: None}))
        assert table.verify().problems == ()
        table.change(THIRD_UNIT, set_value(0, **{needed: None}))
        assert f"ok without {needed}" in table.verify().problems[0]


def grow(table: Table) -> None:
    """Lists again: an image has changed, one is new, one is gone."""
    table.list_again([{"uri": "/photos/05 ü.jpg", "version": "2"}, {"uri": "/photos/new.jpg"}], 2)
    table.list_again([{"uri": "/photos/06 ü.jpg", "deleted": True}], 2, number=1)


def test_predictions_of_images_that_have_changed_or_gone_since_may_stay(table: Table) -> None:
    grow(table)
    assert "not scored yet" in table.verify().problems[0]
    table.score()
    found = table.verify()
    assert found.problems == ()
    assert found.num_rows == NUM_ROWS + 2


def test_what_had_changed_or_gone_before_it_was_scored_needs_no_row(tmp_path: Path) -> None:
    table = Table(tmp_path)
    grow(table)
    table.score()
    found = table.verify()
    assert found.problems == ()
    assert found.num_rows == NUM_ROWS
    table.change(THIRD_UNIT, lambda rows: rows.clear())  # of 05, 06 and 07 only 07 is current
    assert table.verify().problems == (
        f"{THIRD_UNIT.file_name(MODEL)}: 1 image of the catalog without a row, such as /photos/07 ü.jpg",
    )
    table.change(Unit("part-00002-000000.parquet", 0, 2), lambda rows: rows.pop(0))
    assert "1 image of the catalog without a row, such as /photos/05 ü.jpg" in table.verify().problems[-1]


def test_missing_rows_are_found_however_few_are_held_at_once(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "MAX_HELD_ROWS", 2)
    grow(table)
    table.score()
    for unit in units.cut(Catalog.open(table.catalog).parts, UNIT_ROWS):
        table.change(unit, lambda rows: rows.clear())
    numbers = [int(problem.split(": ")[1].split()[0]) for problem in table.verify().problems]
    assert numbers == [3, 2, 1, 2, 3, 2]
    assert sum(numbers) == NUM_ROWS  # one is gone, one is new, one has another version


def test_an_image_that_came_back_as_it_was_is_asked_of_the_newest_listing(table: Table) -> None:
    table.list_again([{"uri": "/photos/06 ü.jpg", "deleted": True}], 2)
    table.list_again([{"uri": "/photos/06 ü.jpg", "version": "1@3"}], 3)
    table.score()
    assert table.verify().problems == ()
    table.change(Unit("part-00003-000000.parquet", 0, 1), lambda rows: rows.clear())  # the newest listing's must
    assert "without a row, such as /photos/06 ü.jpg" in table.verify().problems[0]


def test_only_the_images_of_the_splits_that_were_scored_count(tmp_path: Path) -> None:
    table = Table(tmp_path)
    splits = ("test", "train", "val", None)
    rows = [{"uri": f"/labelled/{index}.jpg", "split": splits[index % 4]} for index in range(8)]
    part = table.list_again(rows, 1, number=3)
    table.run["split"] = "test,val"
    table.score()
    found = table.verify()
    assert (found.problems, found.num_rows) == ((), 4)
    row = predicted({"uri": "/labelled/1.jpg", "version": "1"})
    table.change(Unit(part, 0, 3), lambda rows: rows.append(row))
    (problem,) = table.verify().problems
    assert "1 row that the catalog does not list here, such as /labelled/1.jpg" in problem


def test_there_must_be_predictions_and_a_complete_catalog(table: Table, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no predictions there; make them with"):
        verify(VerifyConfig(table.catalog, str(tmp_path / "nothing")))
    with pytest.raises(ValueError, match="no catalog there"):
        verify(VerifyConfig(str(tmp_path / "nothing"), table.out))
    objects.delete(catalogs.findings_uri(table.catalog))
    with pytest.raises(ValueError, match="the catalog is not complete"):
        table.verify()


def test_a_table_in_a_bucket_is_verified_too(table: Table, s3: str) -> None:
    for folder in (table.catalog, table.out, folders.beside(table.catalog), folders.beside(table.out)):
        for name in objects.list_names(folder):
            copy = paths.join(s3, "verified", paths.name_of(folder), name)
            objects.write_bytes(copy, objects.read_bytes(paths.join(folder, name)))
    config = VerifyConfig(f"{s3}/verified/catalog", f"{s3}/verified/predictions")
    assert verify(config).problems == ()
    objects.delete(paths.join(config.predictions, THIRD_UNIT.file_name(MODEL)))
    assert verify(config).problems == (f"{THIRD_UNIT.file_name(MODEL)}: not scored yet",)


def test_the_job_says_in_one_line_that_all_is_right_and_ends_with_3_if_not(
    table: Table, run_job: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    job = ("-X", "importtime", "jobs/verify.py", "--catalog", table.catalog, "--predictions", table.out)
    right = run_job(*job)
    assert right.returncode == 0, right.stderr
    assert right.stdout == (
        "right: 13 rows in 5 files, each image of the catalog has its row; 12 ok, 1 unreadable; model 3ab5\n"
    )
    imported = {line.split("|")[-1].strip() for line in right.stderr.splitlines()}
    assert "agescale.scoring.verification" in imported
    assert "ray" not in imported
    Path(table.file(THIRD_UNIT)).unlink()
    wrong = run_job(*job[2:])
    assert wrong.returncode == 3
    assert wrong.stdout == f"{THIRD_UNIT.file_name(MODEL)}: not scored yet\n"
    assert wrong.stderr.startswith(f"error: exit code 3: {table.out}: not right, 1 problem; ")
    assert len(wrong.stderr.splitlines()) == 1


def test_a_key_in_two_files_is_told_though_each_file_is_right_by_itself(table: Table) -> None:
    again = {"uri": "/photos/03 ü.jpg"}
    part = table.list_again([again, {"uri": "/photos/new.jpg"}], 2)  # as of a job that listed while another one did
    table.score()
    found = table.verify()
    first, second = Unit("part-00001-000000.parquet", 3, 5).file_name(MODEL), Unit(part, 0, 2).file_name(MODEL)
    assert found.problems == (f"{second}: 1 row that {first} has too, such as {again['uri']}",)
    table.change(Unit("part-00001-000000.parquet", 3, 5), lambda rows: rows.pop(0))
    table.write_summary()
    assert table.verify().problems == (), "it is scored where it is current"
