"""What all parts of a table say, from one file: never anything that a part does not say now, and hardly any request."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from fault_proxy import FaultProxy

from agescale.faces.loading import Framing
from agescale.store import client, objects, parquet, paths
from agescale.tables import catalogs, folders, footers, schema, units
from agescale.tables.catalogs import Catalog
from agescale.tables.predictions import Predictions

NUM_PARTS = 40


def name_of(number: int) -> str:
    return units.Unit(f"part-{number:05d}-000000.parquet", 0, 5).file_name("3ab5")


def write(table: str, number: int, **statuses: int) -> None:
    said = schema.with_metadata("predictions", {"statuses": statuses, "gone": {}})
    parquet.write_table(paths.join(table, name_of(number)), said.empty_table())


@pytest.fixture(params=["disk", "S3"])
def table(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    folder = tmp_path if request.param == "disk" else f"{request.getfixturevalue('s3')}/{tmp_path.name}"
    table = f"{folder}/ages"
    for number in range(3):
        write(table, number, ok=number)
    return table


def read(table: str) -> dict[str, dict[str, int]]:
    return {name: said["statuses"] for name, said in Predictions.find(table).counts.items()}


def test_what_is_kept_counts_only_for_parts_that_stand_as_they_did(table: str) -> None:
    everything = {name_of(0): {"ok": 0}, name_of(1): {"ok": 1}, name_of(2): {"ok": 2}}
    assert read(table) == everything
    wrong = {name: {"statuses": {"ok": 9}, "gone": {}} for name in (name_of(0), name_of(1), "no part")}
    footers.keep(table, "predictions", wrong)
    assert read(table) == {name_of(0): {"ok": 9}, name_of(1): {"ok": 9}, name_of(2): {"ok": 2}}  # it is believed
    write(table, 1, ok=3, missing=4)
    objects.delete(paths.join(table, name_of(2)))
    assert read(table) == {name_of(0): {"ok": 9}, name_of(1): {"ok": 3, "missing": 4}}
    for damaged in (b"", b"nonsense", parquet.as_parquet(pa.table({"name": [name_of(0)]}))):
        objects.write_bytes(paths.join(folders.beside(table), footers.NAME), damaged)
        assert read(table) == {name_of(0): {"ok": 0}, name_of(1): {"ok": 3, "missing": 4}}


def test_a_start_on_a_store_asks_for_no_part_that_is_kept(s3: str, counter: FaultProxy, monkeypatch: Any) -> None:
    table = f"{s3}/footers/ages"
    for number in range(NUM_PARTS):
        write(table, number, ok=number)
    monkeypatch.setenv("AWS_ENDPOINT_URL", counter.url)
    client._filesystem.cache_clear()
    try:
        said = Predictions.find(table).counts
        assert counter.num_requests("GET") >= NUM_PARTS
        footers.keep(table, "predictions", said)
        counter.requests.clear()
        assert Predictions.find(table).counts == said
        asked = {key for operation, key in counter.requests if operation != "LIST"}
        assert asked == {f"/{table.removeprefix('s3://')}.agescale/{footers.NAME}"}
        assert counter.num_requests("LIST") == 1
    finally:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{counter.upstream.netloc}")
        client._filesystem.cache_clear()


def test_a_catalog_on_a_store_is_listed_once_and_each_thing_asked_once(
    s3: str, counter: FaultProxy, monkeypatch: Any
) -> None:
    uri = f"{s3}/footers/catalog"
    said = schema.with_metadata("catalog", {"id": "1", "settings": {"source": f"{s3}/photos", "pack": 64}})
    for number in range(NUM_PARTS):
        folders.write_new_part(uri, catalogs.part_name(1, number), said.empty_table())
    parquet.write_table(catalogs.findings_uri(uri), schema.FINDINGS.empty_table())
    Catalog.open(uri).keep_footers()
    monkeypatch.setenv("AWS_ENDPOINT_URL", counter.url)
    client._filesystem.cache_clear()
    try:
        catalog = Catalog.open(uri)
        for _ in range(2):
            assert (len(catalog.parts), catalog.id, catalog.pack, catalog.age_groups) == (NUM_PARTS, "1", 64, None)
            assert catalog.holds_packed(Framing(64))
            assert len(catalog.places) == 3
            assert catalog.findings.num_rows == 0
        key = f"/{uri.removeprefix('s3://')}"
        read = {key for operation, key in counter.requests if operation == "GET"}
        beside = {f"{key}.agescale/{name}" for name in (footers.NAME, catalogs.FINDINGS_NAME)}
        assert read == {f"{key}/{catalog.names[-1]}", *beside}
        assert counter.num_requests("LIST") == 1
    finally:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{counter.upstream.netloc}")
        client._filesystem.cache_clear()
