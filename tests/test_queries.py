"""The queries that README.md shows to people who read the table: they run as they are printed, and agree."""

from __future__ import annotations

import datetime as dt
import re
import textwrap
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from agescale import schema, storage, units

README = Path(__file__).parents[1] / "README.md"
ANSWER = [("minor", 4, 10.5), ("adult", 3, 31.0)]


def code_of(reader: str) -> str:
    """The indented block below the line of README.md that begins with the reader's name."""
    section = README.read_text().partition("## For people who read the table\n")[2].partition("\n## ")[0]
    found = re.search(rf"^{reader}\b.*\n\n((?: {{4}}.*\n|\n)+)", section, re.MULTILINE)
    assert found, f"README.md shows nothing for {reader}"
    return textwrap.dedent(found[1])


@pytest.fixture
def predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder ``predictions`` in the current one: files of several units, with failures, and one without rows."""
    monkeypatch.chdir(tmp_path)
    minors, adults = [3.0, 10.0, 11.0, 17.5], [60.25, 18.0, 31.0]
    scored = [{"status": "ok", "age": age, "group": "minor"} for age in minors]
    scored += [{"status": "ok", "age": age, "group": "adult"} for age in adults]
    failed = {"status": "missing", "error": "not found"}
    for number, rows in enumerate((scored[:5], [*scored[5:], failed], [failed, failed], [])):
        file = str(tmp_path / "predictions" / units.Unit(f"part-00001-{number:06d}.parquet", 0, 5).file_name("3ab5"))
        storage.write_table(file, pa.Table.from_pylist([row(number, **values) for values in rows], columns()))
    for name in (units.RUN_NAME, units.SUMMARY_NAME):
        storage.write_bytes(str(tmp_path / "predictions" / name), b"{}")


def columns() -> pa.Schema:
    return schema.with_metadata(schema.PREDICTIONS, {"model": "3ab5", "age_groups": "minor=0-17,adult=18-"})


def row(number: int, **values: Any) -> dict[str, Any]:
    key = {"uri": f"s3://photos/{number}.jpg", "version": "1", "face": 0, "model": "3ab5"}
    return key | {"age_cdf": bytes(202), "scored_at": dt.datetime.now(dt.UTC)} | values


def run_python(reader: str) -> Any:
    variables: dict[str, Any] = {}
    exec(code_of(reader), variables)
    return variables["ages"]


@pytest.mark.usefixtures("predictions")
def test_the_queries_in_the_readme_give_the_answer_worked_out_by_hand() -> None:
    answers = {
        "DuckDB": duckdb.sql(code_of("DuckDB")).fetchall(),
        "pandas": list(run_python("pandas").itertuples(name=None)),
        "Polars": run_python("Polars").rows(),
    }
    assert answers == dict.fromkeys(answers, ANSWER)


def test_spark_is_asked_the_same_as_duckdb() -> None:
    as_duckdb = code_of("Spark SQL").replace("percentile(age, 0.5)", "median(age)")
    as_duckdb = as_duckdb.replace("parquet.`predictions/part-*.parquet`", "'predictions/part-*.parquet'")
    assert as_duckdb.replace("`", '"') == code_of("DuckDB")
