"""Tables as other people's programs read them: names whole, numbers as numbers, and nothing that runs."""

from __future__ import annotations

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agescale.reports import formats

FORMULAS = ["=cmd|'/c calc'!A1.jpg", "+1.jpg", "-1.jpg", "@x.jpg", "\tx.jpg", "\rx.jpg"]
NAMES = [*FORMULAS, 'Юрий, 老 "x".jpg', "a=1.jpg", None]
TABLE = pa.table({"uri": NAMES, "age": pa.array([None, -1.5, *range(7)], pa.float64())})


def test_a_csv_begins_with_its_encoding_and_holds_no_formula() -> None:
    data = formats.to_bytes(TABLE, "csv")
    assert data.startswith("\ufeff".encode())
    rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))
    assert [row["uri"] for row in rows[:6]] == [f"'{name}" for name in FORMULAS]
    assert [row["uri"] for row in rows[6:]] == [*NAMES[6:8], ""]
    assert [row["age"] for row in rows] == ["", "-1.5", *map(str, range(7))], "a number is no formula"


def test_the_schema_stays_as_it_is() -> None:
    schema = pa.schema([pa.field("uri", pa.string(), nullable=False), pa.field("group", pa.large_string())])
    table = pa.table({"uri": ["=a", "b"], "group": ["@c", None]}, schema=schema)
    assert formats.harmless(table).schema.equals(schema)
    assert formats.harmless(table).to_pylist() == [{"uri": "'=a", "group": "'@c"}, {"uri": "b", "group": None}]
    assert formats.harmless(table.slice(0, 0)).num_rows == 0


@pytest.mark.parametrize("is_ascii", [False, True])
def test_json_is_an_array_of_objects_with_names_as_they_are(is_ascii: bool) -> None:
    text = formats.to_json(TABLE, is_ascii)
    assert json.loads(text) == TABLE.to_pylist()
    assert text.isascii() == is_ascii
    assert len(text.splitlines()) == len(TABLE) + 2
    assert json.loads(formats.to_json(TABLE.slice(0, 0))) == []


def test_parquet_is_the_table() -> None:
    assert pq.read_table(io.BytesIO(formats.to_bytes(TABLE, "parquet"))).equals(TABLE)


def test_the_ending_of_a_name_says_what_is_written() -> None:
    assert [formats.format_of(f"s3://b/x.y.{end}") for end in ("csv", "JSON", "parquet")] == ["csv", "json", "parquet"]
    with pytest.raises(ValueError, match=r"--out ages.xlsx: its ending tells no format; use .csv, .json, .parquet, or"):
        formats.format_of("ages.xlsx")
