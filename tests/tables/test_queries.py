"""The queries that docs/tables.md shows to people who read the table: they run as they are printed, and agree."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from agescale.ages import cdf as age_cdf
from agescale.store import objects
from agescale.tables import folders, schema, units
from agescale.tables.predictions import summary_uri

PAGE = Path(__file__).parents[2] / "docs" / "tables.md"
ANSWER = [("minor", 4, 10.5), ("adult", 3, 31.0)]


def code_of(reader: str) -> str:
    """The indented block below the line of docs/tables.md that begins with the reader's name."""
    section = PAGE.read_text().partition("## For people who read the table\n")[2].partition("\n## ")[0]
    found = re.search(rf"^{reader}\b.*\n\n((?: {{4}}.*\n|\n)+)", section, re.MULTILINE)
    assert found, f"docs/tables.md shows nothing for {reader}"
    return textwrap.dedent(found[1])


@pytest.fixture
def predictions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder ``predictions`` in the current one: files of several units, with failures, and one without rows."""
    monkeypatch.chdir(tmp_path)
    minors, adults = [3.0, 10.0, 11.0, 17.5], [60.25, 18.0, 31.0]
    scored = [{"status": "ok", "age": age, "group": "minor", "age_cdf": cdf(age)} for age in minors]
    scored += [{"status": "ok", "age": age, "group": "adult", "age_cdf": cdf(age)} for age in adults]
    failed = {"status": "missing", "error": "not found"}
    for number, rows in enumerate((scored[:5], [*scored[5:], failed], [failed, failed], [])):
        name = units.Unit(f"part-00001-{number:06d}.parquet", 0, 5).file_name("3ab5")
        table = pa.Table.from_pylist(
            [row(number, **values) for values in rows], schema.with_metadata("predictions", {})
        )
        folders.write_new_part("predictions", name, table)
    objects.write_bytes(summary_uri("predictions"), b"{}")


def cdf(age: float) -> np.ndarray:
    return age_cdf.quantize(np.eye(101)[[int(age)]])[0].astype(np.int32)


def row(number: int, **values: Any) -> dict[str, Any]:
    return {"uri": f"s3://photos/{number}.jpg", "version": "1", "face": 0, "model": "3ab5"} | values


def run_python(reader: str, name: str) -> Any:
    variables: dict[str, Any] = {}
    exec(code_of(reader), variables)
    return variables[name]


@pytest.mark.usefixtures("predictions")
def test_the_queries_in_the_docs_give_the_answer_worked_out_by_hand() -> None:
    answers = {
        "DuckDB": duckdb.sql(code_of("DuckDB")).fetchall(),
        "pandas": list(run_python("pandas", "ages").itertuples(name=None)),
        "Polars": run_python("Polars", "ages").rows(),
    }
    assert answers == dict.fromkeys(answers, ANSWER)


def test_spark_is_asked_the_same_as_duckdb() -> None:
    as_duckdb = code_of("Spark SQL").replace("percentile(age, 0.5)", "median(age)")
    as_duckdb = as_duckdb.replace("parquet.`predictions`", "'predictions/*.parquet'")
    assert as_duckdb.replace("`", '"') == code_of("DuckDB")


@pytest.mark.usefixtures("predictions")
def test_each_line_on_the_probability_under_18_means_the_same() -> None:
    """The table of docs/tables.md: the element that holds P(age < 18), in the indices of each engine."""
    lines = dict(re.findall(r"^\| ([^|]+) \| `([^`]*age_cdf[^`]*)` \|$", PAGE.read_text(), re.MULTILINE))
    rows = duckdb.sql("SELECT * FROM 'predictions/*.parquet' WHERE status = 'ok'")
    num_minors = rows.filter(f"{lines['DuckDB, DataFusion, ClickHouse, Trino, Athena']} >= 0.5").aggregate("count(*)")
    assert num_minors.fetchall() == [(4,)]
    table = pd.read_parquet("predictions")
    assert (eval(lines["pandas"], {"table": table}) >= 0.5).sum() == 4
    frame = pl.read_parquet("predictions")
    assert frame.select(eval(lines["Polars"], {"pl": pl}) >= 0.5).sum().item() == 4
    assert "age_cdf[18] / 65535" in lines["Spark"]  # tests/readers.py asks Spark
