"""The tables say what they are, and readers refuse what they cannot read."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agescale.tables import schema


@pytest.mark.parametrize("kind", schema.TABLES)
def test_metadata_and_types_survive_the_way_through_a_file(kind: str, tmp_path: Path) -> None:
    values = {"settings": {"source": "/föö", "pack": 0, "csv": None}, "parts": ["a", "b"]}
    pq.write_table(schema.with_metadata(kind, values).empty_table(), tmp_path / "x.parquet")
    read = pq.read_schema(tmp_path / "x.parquet")
    assert read.equals(schema.TABLES[kind])
    assert schema.read_metadata(read, kind) == values


def test_an_older_table_says_mirror_of_what_is_tta() -> None:
    old = schema.with_metadata("predictions", {"run": {"model": "beef", "mirror": True}})
    assert schema.read_metadata(old, "predictions") == {"run": {"model": "beef", "tta": True}}


@pytest.mark.parametrize(
    ("version", "message"),
    [(schema.SCHEMA_VERSION + 1, r"newer agescale \(schema version 6,"), (schema.OLDEST_VERSION - 1, "older agescale")],
)
def test_tables_of_another_version_are_refused(version: int, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "SCHEMA_VERSION", version)
    other = schema.with_metadata("catalog", {})
    monkeypatch.undo()
    with pytest.raises(ValueError, match=message):
        schema.read_metadata(other, "catalog")


def test_tables_of_another_kind_and_those_of_others_are_refused() -> None:
    with pytest.raises(ValueError, match="part of a table of predictions, not of a catalog"):
        schema.read_metadata(schema.with_metadata("predictions", {}), "catalog")
    for metadata in ({"pandas": "{}"}, None):
        with pytest.raises(ValueError, match="not a table written by agescale"):
            schema.read_metadata(schema.CATALOG.with_metadata(metadata), "catalog")


@pytest.mark.parametrize("kind", schema.TABLES)
def test_no_type_has_a_fixed_size(kind: str) -> None:
    for field in schema.TABLES[kind]:
        assert not pa.types.is_fixed_size_list(field.type), field
        assert not pa.types.is_fixed_size_binary(field.type), field


def test_what_is_excluded_is_a_kind_of_finding() -> None:
    assert set(schema.EXCLUDED_KINDS) < set(schema.FINDING_KINDS)
