"""The tables say what they are, and readers refuse what they cannot read."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agescale import schema


@pytest.mark.parametrize("table_schema", [schema.CATALOG, schema.FINDINGS, schema.PREDICTIONS])
def test_metadata_and_types_survive_the_way_through_a_file(table_schema: pa.Schema, tmp_path: Path) -> None:
    values = {"settings": {"source": "/föö", "pack": 0, "csv": None}, "parts": ["a", "b"]}
    pq.write_table(schema.with_metadata(table_schema, values).empty_table(), tmp_path / "x.parquet")
    read = pq.read_schema(tmp_path / "x.parquet")
    assert read.equals(table_schema)
    assert schema.read_metadata(read) == values


def test_tables_of_a_newer_agescale_and_of_others_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "SCHEMA_VERSION", schema.SCHEMA_VERSION + 1)
    newer = schema.with_metadata(schema.CATALOG, {})
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"written by a newer agescale \(schema version 2, this one reads 1\)"):
        schema.read_metadata(newer)
    with pytest.raises(ValueError, match="not a table written by agescale"):
        schema.read_metadata(schema.CATALOG.with_metadata({"pandas": "{}"}))
    with pytest.raises(ValueError, match="not a table written by agescale"):
        schema.read_metadata(schema.CATALOG)


def test_what_is_excluded_is_a_kind_of_finding() -> None:
    assert set(schema.EXCLUDED_KINDS) < set(schema.FINDING_KINDS)
