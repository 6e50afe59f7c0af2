"""The table for other people: current rows and nothing else, whole or not at all, harmless in a spreadsheet."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pytest

from agescale.ages import cdf as age_cdf
from agescale.config import TableConfig
from agescale.store import objects, parquet
from agescale.store.errors import StoreError
from agescale.tables import catalogs, exports, folders, schema, units
from agescale.tables.catalogs import Catalog
from agescale.tables.exports import export

UNIT_ROWS = 2
AGES = {"a.jpg": 5, "=b.jpg": 17, "Привет/照片 c.jpg": 30, "d.jpg": 60, "late.jpg": 40}
"""What is said of each photo; e.jpg was never scored."""


def write_part(catalog: str, listing: int, rows: list[dict[str, Any]]) -> None:
    listed = [{"version": "1", "deleted": False, **row, "uri": f"s3://photos/in/{row['uri']}"} for row in rows]
    metadata = {"id": "7", "settings": {"source": "s3://photos/in"}}
    table = pa.Table.from_pylist(listed, schema.with_metadata("catalog", metadata))
    folders.write_new_part(catalog, f"part-{listing:05d}-000000.parquet", table)
    covered = schema.with_metadata("findings", {"id": "7", "parts": Catalog.open(catalog).names})
    parquet.write_table(catalogs.findings_uri(catalog), covered.empty_table())


def score(catalog: str, out: str) -> None:
    """Predicts what each unit lists, as if it had been scored before the listings that came later."""
    run = {"model": "beef", "catalog": catalog, "catalog_id": "7", "split": "", "unit_rows": UNIT_ROWS}
    for unit in units.cut(Catalog.open(catalog).parts, UNIT_ROWS):
        rows = units.listed_rows(Catalog.open(catalog), unit, []).select(["uri", "version"]).to_pylist()
        predicted = [predict(row) for row in rows if not row["uri"].endswith("/e.jpg")]
        table = pa.Table.from_pylist(predicted, schema.with_metadata("predictions", {"run": run, "statuses": {}}))
        folders.write_new_part(out, unit.file_name("beef"), table)


def predict(row: dict[str, Any]) -> dict[str, Any]:
    row = row | {"face": 0, "model": "beef"}
    age = AGES.get(row["uri"].removeprefix("s3://photos/in/"))
    if age is None:
        return row | {"status": "missing", "error": "@not found"}
    cdf = age_cdf.quantize(np.eye(101)[[age]])[0].astype(np.int32)
    age += row["version"] == "0"
    return row | {"status": "ok", "age": float(age), "group": "x", "age_cdf": cdf}


@pytest.fixture
def night(tmp_path: Path) -> tuple[str, str]:
    """Three nights: c.jpg has changed, d.jpg has gone, late.jpg has come, gone.jpg was listed and could not be read."""
    catalog, out = str(tmp_path / "catalog"), str(tmp_path / "ages")
    photos = [{"uri": name} for name in ("a.jpg", "=b.jpg", "d.jpg", "gone.jpg", "e.jpg")]
    changed = {"uri": "Привет/照片 c.jpg"}
    write_part(catalog, 1, [{**changed, "version": "0"}, *photos])
    write_part(catalog, 2, [{**changed, "age_low": 29.0, "group": "adult"}, {"uri": "d.jpg", "deleted": True}])
    write_part(catalog, 3, [{"uri": "late.jpg"}])
    score(catalog, out)
    return catalog, out


CURRENT = {"a.jpg": 5, "=b.jpg": 17, "gone.jpg": None, "Привет/照片 c.jpg": 30, "late.jpg": 40}


def rows_of(file: str) -> list[dict[str, Any]]:
    return pads.dataset(file).to_table().to_pylist()


@pytest.mark.parametrize("name", ["table.parquet", "folder"])
def test_current_rows_are_written_and_nothing_else(name: str, night: tuple[str, str], tmp_path: Path) -> None:
    out = str(tmp_path / name)
    exported = export(TableConfig(*night, out))
    assert (exported.num_rows, exported.num_not_scored) == (5, 1)
    rows = rows_of(out)
    assert list(rows[0]) == list(exports.DEFAULT_COLUMNS)
    assert {row["file"]: row["age"] for row in rows} == CURRENT


def test_a_csv_is_what_a_spreadsheet_can_open(night: tuple[str, str], tmp_path: Path) -> None:
    export(TableConfig(*night, str(tmp_path / "table.csv"), probability_under=(18, 40)))
    data = (tmp_path / "table.csv").read_bytes()
    assert data.startswith(b"\xef\xbb\xbf")
    rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"))))
    assert [row["file"] for row in rows] == ["a.jpg", "'=b.jpg", "gone.jpg", "Привет/照片 c.jpg", "late.jpg"]
    assert [row["probability_under_18"] for row in rows] == ["1", "1", "", "0", "0"]
    assert [row["probability_under_40"] for row in rows] == ["1", "1", "", "1", "0"]
    assert rows[2]["error"] == "'@not found"


def test_any_columns_can_be_asked_for_and_rows_chosen_by_them(night: tuple[str, str], tmp_path: Path) -> None:
    out = str(tmp_path / "table.parquet")
    asked = {"columns": ("uri", "label_group", "age_cdf"), "where": "status == 'ok' and age_low > 20"}
    export(TableConfig(*night, out, **asked))
    (row,) = rows_of(out)
    assert (row["uri"], row["label_group"]) == ("s3://photos/in/Привет/照片 c.jpg", "adult")
    assert row["age_cdf"][30:32] == [0, 65535]
    export(TableConfig(*night, out, where="age > 200"))
    assert rows_of(out) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": ("agee",)}, "--columns agee: there are file, uri, "),
        ({"columns": ("age_cdf",)}, "--columns age_cdf: a list does not fit into a CSV"),
        ({"probability_under": (101,)}, "--probability-under 101: whole years from 1 to 100"),
        ({"where": "agee > 3"}, "--where 'agee > 3': name 'agee' is not defined"),
    ],
)
def test_a_mistake_is_told_and_leaves_what_stood_there(
    settings: dict[str, Any], message: str, night: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "table.csv").write_text("of yesterday")
    with pytest.raises(ValueError, match=message):
        export(TableConfig(*night, str(tmp_path / "table.csv"), **settings))
    assert (tmp_path / "table.csv").read_text() == "of yesterday"
    assert not list(tmp_path.glob(".*"))


def test_predictions_of_another_catalog_are_refused(night: tuple[str, str], tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    table = schema.with_metadata("catalog", {"id": "8", "settings": {}}).empty_table()
    folders.write_new_part(other, "part-00001-000000.parquet", table)
    with pytest.raises(ValueError, match=f"ages: predictions of another catalog than {other}; theirs was "):
        export(TableConfig(other, night[1], str(tmp_path / "table.csv")))


def test_what_a_killed_export_left_is_taken_over_and_what_is_whole_is_not(
    night: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "folder")
    monkeypatch.setattr(exports, "BATCH_ROWS", 1)
    monkeypatch.setattr(exports, "PART_ROWS", 2)
    with monkeypatch.context() as killed:
        killed.setattr(objects, "delete", lambda uri: 1 / 0)  # after the parts, before the summary
        (tmp_path / "folder").mkdir()
        objects.write_bytes(f"{folders.beside(out)}/export.json", b"{}")
        parquet.write_table(f"{out}/part-000009.parquet", pa.table({"old": [1]}))
        with pytest.raises(ZeroDivisionError):
            export(TableConfig(*night, out))
    assert len(objects.list_names(out)) > 2
    assert export(TableConfig(*night, out)).num_rows == len(rows_of(out)) == 5
    with pytest.raises(ValueError, match="folder: there are other files already"):
        export(TableConfig(*night, out))


def test_a_file_appears_whole_and_has_one_writer(tmp_path: Path) -> None:
    out = str(tmp_path / "x.csv")
    (tmp_path / ".x.csv.partial").write_bytes(b"what a kill left, and longer than what comes")
    with objects.open_whole(out) as file:
        file.write(b"new")
        assert not (tmp_path / "x.csv").exists()
        with pytest.raises(StoreError, match=r"x\.csv: another job is writing it"), objects.open_whole(out):
            pass
    assert (tmp_path / "x.csv").read_bytes() == b"new"
    with pytest.raises(ZeroDivisionError):
        write_half(out)
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]


def write_half(uri: str) -> None:
    with objects.open_whole(uri) as file:
        file.write(b"half")
        raise ZeroDivisionError


def test_to_a_bucket_a_file_goes_whole(night: tuple[str, str], s3: str) -> None:
    export(TableConfig(*night, f"{s3}/exported/table.csv"))
    assert objects.read_bytes(f"{s3}/exported/table.csv").count(b"\n") == 6
    with pytest.raises(ZeroDivisionError):
        write_half(f"{s3}/exported/half.csv")
    assert not objects.exists(f"{s3}/exported/half.csv")


def test_age_groups_are_a_view_of_the_table(night: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "table.parquet"
    export(TableConfig(*night, str(out), age_groups="minor=0-17,adult=18-", where="group == 'minor'"))
    rows = rows_of(str(out))
    assert {(row["file"], row["group"], row["group_probability"]) for row in rows} == {
        ("a.jpg", "minor", 1), ("=b.jpg", "minor", 1),
    }  # fmt: skip
    with pytest.raises(ValueError, match="--age-groups old,young: names without bounds"):
        export(TableConfig(*night, str(tmp_path / "none.csv"), age_groups="old,young"))
    assert not (tmp_path / "none.csv").exists()
