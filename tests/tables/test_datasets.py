"""Tables as pyarrow datasets: current rows and nothing else, however they are asked for, on disk and on S3."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from fault_proxy import FaultProxy

import agescale
from agescale.store import client, objects, parquet
from agescale.tables import schema
from agescale.tables.catalogs import Catalog
from agescale.tables.units import Unit

Row = dict[str, Any]
LISTINGS: list[list[Row]] = [
    [{"uri": f"/{name}"} for name in "abcdef"],
    [{"uri": "/g"}, {"uri": "/b", "version": "2"}, {"uri": "/c", "deleted": True}],
    [{"uri": "/b", "version": "2", "deleted": True}, {"uri": "/c", "version": "1@3"}, {"uri": "/d", "version": "9"}],
    [{"uri": "/b", "version": "3"}, {"uri": "/g", "deleted": True}],
]
"""b was changed, deleted, and came back changed; c was deleted and came back as it was; d changed; g came and went."""
CURRENT = [("/a", "1"), ("/b", "3"), ("/c", "1@3"), ("/d", "9"), ("/e", "1"), ("/f", "1")]


def write_tables(folder: str, num_listings: int, num_scored: int, catalog_id: str = "1") -> None:
    """A catalog that was listed so often, two parts a listing, and predictions made after each of ``num_scored``."""
    catalog, out = f"{folder}/catalog", f"{folder}/ages"
    run = {"model": "3ab5", "catalog": catalog, "catalog_id": catalog_id}
    for listing, listed in enumerate(LISTINGS[:num_listings], start=1):
        rows = [{"version": "1", "deleted": False, "image": b"a picture", **row} for row in listed]
        for number, start in enumerate((0, 2)):
            unit = Unit(f"part-{listing:05d}-{number:06d}.parquet", 0, 2)
            here = rows[start : start + 2] if start == 0 else rows[2:]
            metadata = schema.with_metadata("catalog", {"id": catalog_id, "settings": {}})
            parquet.write_table(f"{catalog}/{unit.part}", pa.Table.from_pylist(here, metadata), 1)
            if listing <= num_scored:
                keys = [{"uri": row["uri"], "version": row["version"]} for row in here if not row["deleted"]]
                said = [{**key, "face": 0, "status": "ok", "age": 30.0, "model": "3ab5"} for key in keys]
                of_run = schema.with_metadata("predictions", {"run": run, "statuses": Counter(ok=len(said))})
                parquet.write_table(f"{out}/{unit.file_name('3ab5')}", pa.Table.from_pylist(said, of_run))


def keys(dataset: pads.Dataset) -> list[tuple[str, str]]:
    return sorted((row["uri"], row["version"]) for row in dataset.to_table(columns=["uri", "version"]).to_pylist())


@pytest.fixture(params=["disk", "S3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder with odd letters in its name that does not exist yet."""
    if request.param == "disk":
        return str(tmp_path / "ü %20 #1" / "_x=1")
    return f"{request.getfixturevalue('s3')}/{tmp_path.name}/ü %20 #1/_x=1"


def test_a_catalog_is_read_as_its_current_rows(folder: str) -> None:
    write_tables(folder, num_listings=4, num_scored=0)
    dataset = agescale.read_catalog(f"{folder}/catalog")
    assert isinstance(dataset, pads.Dataset)
    assert dataset.schema.names == schema.CATALOG.names
    assert keys(dataset) == CURRENT
    read = Catalog.open(f"{folder}/catalog").read(["uri", "version"]).to_pylist()
    assert sorted((row["uri"], row["version"]) for row in read) == CURRENT


def test_predictions_are_read_as_those_of_the_current_rows(folder: str) -> None:
    write_tables(folder, num_listings=4, num_scored=4)
    assert keys(agescale.read_predictions(f"{folder}/ages")) == CURRENT
    write_tables(f"{folder}/2", num_listings=4, num_scored=2)  # listed twice since: b, c and d have none
    assert keys(agescale.read_predictions(f"{folder}/2/ages")) == [CURRENT[index] for index in (0, 4, 5)]


def test_whoever_reads_a_dataset_sees_current_rows_only(folder: str) -> None:
    write_tables(folder, num_listings=4, num_scored=4)
    ages = agescale.read_predictions(f"{folder}/ages")
    assert ages.count_rows() == len(CURRENT)
    assert ages.filter(pads.field("uri") > "/d").count_rows() == ages.count_rows(filter=pads.field("uri") > "/d") == 2
    assert ages.to_table(columns=["age"]).column_names == ["age"]
    assert sum(batch.num_rows for batch in ages.to_batches()) == len(ages.head(100)) == len(CURRENT)
    assert duckdb.sql("SELECT count(*), sum(age) FROM ages").fetchall() == [(6, 180.0)]
    assert duckdb.sql("SELECT version FROM ages WHERE uri = '/b'").fetchall() == [("3",)]
    assert pl.scan_pyarrow_dataset(ages).select(pl.len()).collect().item() == 6
    with pytest.raises(ValueError, match="not allowed"):
        list(ages.get_fragments())


def test_a_catalog_listed_once_is_current_as_it_is(folder: str) -> None:
    write_tables(folder, num_listings=1, num_scored=1)
    expected = [(f"/{name}", "1") for name in "abcdef"]
    assert keys(agescale.read_catalog(f"{folder}/catalog")) == expected
    assert keys(agescale.read_predictions(f"{folder}/ages")) == expected


def test_a_catalog_that_has_moved_is_named_and_another_one_refused(tmp_path: Path) -> None:
    write_tables(str(tmp_path), num_listings=4, num_scored=4)
    write_tables(str(tmp_path / "other"), num_listings=4, num_scored=0, catalog_id="2")
    (tmp_path / "catalog").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"is not at .*/catalog; read_predictions\(\.\.\., catalog=\.\.\.\) names it"):
        agescale.read_predictions(tmp_path / "ages")
    assert keys(agescale.read_predictions(tmp_path / "ages", catalog=tmp_path / "moved")) == CURRENT
    with pytest.raises(ValueError, match=r"predictions of is not at .*/other/catalog$"):
        agescale.read_predictions(tmp_path / "ages", catalog=tmp_path / "other" / "catalog")
    with pytest.raises(ValueError, match="no catalog there"):
        agescale.read_catalog(tmp_path / "catalog")
    with pytest.raises(ValueError, match="no predictions there"):
        agescale.read_predictions(tmp_path / "moved")
    with pytest.raises(ValueError, match="no catalog there"):
        agescale.read_catalog(tmp_path / "ages")


@pytest.fixture
def proxy(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Before the S3 server; half of its answers to reads are faults once ``fraction`` is set to a half."""
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 0.002)
    faults = ("slow_down", "reset", "cut")
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"], faults, fraction=0, operations=("GET", "HEAD")) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        client._filesystem.cache_clear()
        yield proxy
    client._filesystem.cache_clear()


def test_a_faulty_store_is_asked_again_and_pictures_are_left_where_they_are(s3: str, proxy: FaultProxy) -> None:
    folder = f"{s3}/datasets-faults"
    write_tables(folder, num_listings=1, num_scored=0)
    part = f"{folder}/catalog/part-00001-000000.parquet"
    rows = parquet.read_table(part)
    pictures = [os.urandom(300_000) for _ in range(len(rows))]
    rows = rows.set_column(rows.column_names.index("image"), "image", pa.array(pictures))
    parquet.write_table(part, rows.cast(parquet.read_schema(part)), 1)
    proxy.fraction, proxy.bytes_sent = 0.5, 0
    dataset = agescale.read_catalog(f"{folder}/catalog")
    assert len(keys(dataset)) == dataset.count_rows() == 6
    assert proxy.faults.total() > 3
    assert proxy.bytes_sent < 300_000
    assert dataset.to_table(columns=["image"])["image"].to_pylist()[:2] == pictures


def test_an_object_that_is_gone_and_refused_credentials_are_told_as_they_are(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = f"{s3}/datasets-gone"
    write_tables(folder, num_listings=1, num_scored=0)
    dataset = agescale.read_catalog(f"{folder}/catalog")
    objects.delete(f"{folder}/catalog/part-00001-000001.parquet")
    with pytest.raises(agescale.StoreError, match=r"part-00001-000001\.parquet: not found"):
        dataset.to_table(columns=["uri"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    client._filesystem.cache_clear()
    with pytest.raises(agescale.StoreError, match="access refused"):
        agescale.read_catalog(f"{folder}/catalog")
    client._filesystem.cache_clear()
