"""A store that fails now and then, on a real S3 server: what passes is not seen, what does not has the right reason."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from fault_proxy import OPERATIONS, FaultProxy

from agescale.cataloging import worker
from agescale.faces import images
from agescale.store import client, lease, listing, objects, parquet
from agescale.store.errors import StoreError

NUM_OBJECTS = 100
OBJECTS = {f"{number:03d}.jpg": random.Random(number).randbytes(15_000) for number in range(NUM_OBJECTS)}
TABLE = pa.table(
    {"uri": list(OBJECTS), "age": [float(index) for index in range(NUM_OBJECTS)], "image": [*OBJECTS.values()]}
)


@pytest.fixture(scope="module")
def folder(s3: str) -> str:
    """OBJECTS below images/, and TABLE in four row groups."""
    folder = f"{s3}/store-faults"
    with objects.read_pool() as pool:
        list(pool.map(lambda name: objects.write_bytes(f"{folder}/images/{name}", OBJECTS[name]), OBJECTS))
    parquet.write_table(f"{folder}/part.parquet", TABLE, row_group_size=25)
    return folder


Start = Callable[..., FaultProxy]


@pytest.fixture
def start_proxy(folder: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """``start_proxy("reset", fraction=1)``: from now on this test reaches the server through that proxy."""
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 0.002)
    with ExitStack() as stack:

        def start(*kinds: str, **settings: Any) -> FaultProxy:
            proxy = stack.enter_context(FaultProxy(os.environ["AWS_ENDPOINT_URL"], kinds, **settings))
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            client._filesystem.cache_clear()
            return proxy

        yield start
    client._filesystem.cache_clear()


def read_all(folder: str) -> dict[str, bytes]:
    with objects.read_pool() as pool:
        names = objects.list_names(f"{folder}/images")
        return dict(
            zip(names, pool.map(lambda name: objects.read_bytes(f"{folder}/images/{name}"), names), strict=True)
        )


@pytest.mark.parametrize("kind", ["login", "empty"])
def test_a_write_that_somebody_else_has_answered_is_done_again_and_then_told(
    kind: str, folder: str, start_proxy: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = start_proxy(kind, operations=("PUT",), fraction=0.5)
    for number in range(20):
        objects.write_bytes(f"{folder}/{kind}/put/{number}", bytes([number]))
        assert objects.write_new(f"{folder}/{kind}/new/{number}", bytes([number]))
    assert proxy.faults[kind] > 10
    proxy.fraction = 0
    assert [objects.read_bytes(f"{folder}/{kind}/{put}/{n}") for put in ("put", "new") for n in range(20)] == 2 * [
        bytes([n]) for n in range(20)
    ]
    monkeypatch.setattr(client, "NUM_ATTEMPTS", 2)
    proxy.fraction = 1
    for write in (objects.write_bytes, objects.write_new):
        with pytest.raises(StoreError, match=r"the answer to a write is not one of S3; is AWS_ENDPOINT_URL right"):
            write(f"{folder}/never", b"")
    proxy.fraction = 0
    assert not objects.exists(f"{folder}/never")


@pytest.mark.parametrize("kind", ["login", "empty"])
def test_what_is_no_listing_is_asked_again_and_then_told(kind: str, folder: str, start_proxy: Start) -> None:
    proxy = start_proxy(kind, operations=("LIST",), fraction=0.5)
    for _ in range(10):
        assert sorted(item.relative for item in listing.list_files(f"{folder}/images")) == sorted(OBJECTS)
    assert proxy.faults[kind] > 2
    proxy.fraction = 1
    for read in (listing.list_files, objects.list_names):
        with pytest.raises(
            StoreError, match=r"the answer is not an S3 listing \(.*\); is AWS_ENDPOINT_URL right\?"
        ) as told:
            read(f"{folder}/images")
        assert told.value.status == "unreachable"


@pytest.mark.parametrize("kind", ["login", "empty", "error", "short"])
def test_bytes_that_are_not_the_objects_are_the_stores_fault(
    kind: str, folder: str, start_proxy: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = start_proxy(kind, fraction=0.3)
    listed = listing.list_files(f"{folder}/images")
    assert [objects.read_bytes(item.uri, item.version, item.size_bytes) for item in listed] == [*OBJECTS.values()]
    assert proxy.faults[kind] > 10
    monkeypatch.setattr(client, "NUM_ATTEMPTS", 2)
    proxy.fraction = 1
    for version in (listed[0].version, "of an inventory"):  # no etag comes with them
        with pytest.raises(
            StoreError, match=rf"delivered [\d,]+ bytes, its listing says {listed[0].size_bytes:,}$|Expected checksum"
        ) as told:
            objects.read_bytes(listed[0].uri, version, listed[0].size_bytes)
        assert told.value.status == "unreachable"
    if kind == "error":
        with pytest.raises(StoreError, match=r"delivered .*<Code>InternalError</Code>"):
            objects.read_bytes(listed[0].uri)


def test_an_object_that_comes_byte_by_byte_is_given_up(
    folder: str, start_proxy: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "READ_TIMEOUT_S", 0.3)
    monkeypatch.setattr(objects, "READ_TIMEOUT_S", 0.3)
    monkeypatch.setattr(client, "RETRY_S", 0)
    proxy = start_proxy("trickle", fraction=1, seconds=0.02)
    with pytest.raises(StoreError, match=r"000.jpg: \d+ bytes came, and fewer than 1,000 a second$") as told:
        objects.read_bytes(f"{folder}/images/000.jpg")
    assert told.value.status == "unreachable"
    assert proxy.num_requests("GET") == 1


@pytest.mark.parametrize("is_whole", [False, True], ids=["in pieces", "as one"])
def test_a_large_object_passes_in_pieces_where_as_a_whole_it_would_not(
    is_whole: bool, folder: str, start_proxy: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, uri = random.Random(0).randbytes(2_000_000), f"{folder}/large"
    objects.write_bytes(uri, large)
    monkeypatch.setattr(client, "NUM_ATTEMPTS", 2)
    monkeypatch.setattr(objects, "PIECE_BYTES", 10**9 if is_whole else 10_000)
    assert objects.read_bytes(uri) == large
    proxy = start_proxy("cut", fraction=1)
    if is_whole:
        with pytest.raises(StoreError) as told:
            objects.read_bytes(uri)
        assert told.value.status == "unreachable"
        return
    proxy.fraction = 0.9
    assert objects.read_bytes(uri) == large
    assert proxy.faults["cut"] > 1


def test_the_pieces_of_a_large_object_are_sent_again_one_by_one(
    folder: str, start_proxy: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    large, uri = random.Random(1).randbytes(22_000_000), f"{folder}/large-in-pieces"
    monkeypatch.setattr(objects, "PIECE_BYTES", 5 * 2**20)  # S3 takes no smaller ones
    proxy = start_proxy("slow_down", "unanswered", "lost", operations=("PUT", "POST"), fraction=0.5)
    for number in range(2):
        objects.write_bytes(uri, large[number:])
        assert objects.read_bytes(uri) == large[number:]
    with objects.open_whole(uri) as file:
        file.write(large)
    assert objects.read_bytes(uri) == large
    assert len(proxy.faults) == 3
    proxy.fraction = 1
    monkeypatch.setattr(client, "NUM_ATTEMPTS", 2)
    with pytest.raises(StoreError):
        objects.write_bytes(uri, large[1:])
    proxy.fraction = 0
    assert objects.read_bytes(uri) == large


@pytest.mark.parametrize("kind", ["slow_down", "unanswered", "reset", "cut", "stall"])
def test_what_is_read_through_faults_is_what_was_written(
    kind: str, folder: str, start_proxy: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "stall":
        monkeypatch.setattr(client, "READ_TIMEOUT_S", 0.3)
    proxy = start_proxy(kind, operations=("GET", "LIST"))
    assert read_all(folder) == OBJECTS
    part = f"{folder}/part.parquet"
    assert parquet.read_table(part).equals(TABLE)
    assert parquet.read_table(part, ["uri"], pc.field("age") > 97)["uri"].to_pylist() == ["098.jpg", "099.jpg"]
    assert parquet.read_row_groups(part, [1], ["image"])["image"][0].as_py() == OBJECTS["025.jpg"]
    assert parquet.read_schema(part).equals(TABLE.schema)
    assert parquet.num_rows(part) == NUM_OBJECTS
    assert proxy.faults[kind] > 25, "hardly any fault came"


@pytest.mark.parametrize("kind", ["login", "empty", "error", "short"])
def test_a_tables_bytes_that_are_not_the_objects_are_asked_for_again_and_no_damage(
    kind: str, folder: str, start_proxy: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = start_proxy(kind)
    part = f"{folder}/part.parquet"
    for _ in range(10):
        assert parquet.read_table(part).equals(TABLE)
        assert parquet.read_schema(part).equals(TABLE.schema)
    assert proxy.faults[kind] > 3
    monkeypatch.setattr(client, "NUM_ATTEMPTS", 2)
    proxy.fraction = 1
    with pytest.raises(StoreError) as told:
        parquet.read_table(part)
    assert told.value.status == "unreachable"


def test_slow_answers_are_waited_for(folder: str, start_proxy: Start) -> None:
    proxy = start_proxy("latency", seconds=0.1)
    assert read_all(folder) == OBJECTS
    assert proxy.faults["latency"] > 15
    assert proxy.num_requests("GET") == NUM_OBJECTS


def test_writes_and_questions_pass_too(folder: str, start_proxy: Start) -> None:
    proxy = start_proxy("slow_down", "internal", "unanswered", "lost", operations=OPERATIONS)
    for number in range(16):
        uri = f"{folder}/written/{number}"
        objects.write_bytes(uri, OBJECTS["007.jpg"])
        assert objects.exists(uri)
        assert objects.read_bytes(uri) == OBJECTS["007.jpg"]
        objects.delete(uri)
        assert not objects.exists(uri)
    assert min(proxy.faults.values()) > 2
    assert len(proxy.faults) == 4


@pytest.mark.parametrize("kind", ["slow_down", "unanswered"])
def test_a_store_that_is_down_is_unreachable_and_nothing_is_taken_for_missing(
    kind: str, folder: str, start_proxy: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "NUM_ATTEMPTS", 2)
    start_proxy(kind, fraction=1, operations=OPERATIONS)
    for read in (parquet.read_table, parquet.read_schema, parquet.num_rows, objects.exists, objects.read_bytes):
        with pytest.raises(StoreError, match=r"^s3://.*/part\.parquet: .*$") as caught:
            read(f"{folder}/part.parquet")
        assert (caught.value.status, caught.value.stops_the_job) == ("unreachable", False)
    with pytest.raises(StoreError, match=r"^s3://.*/images: .*$"):
        objects.list_names(f"{folder}/images")


def test_a_silent_store_is_not_asked_again_after_the_limit(
    folder: str, start_proxy: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "READ_TIMEOUT_S", 0.3)
    monkeypatch.setattr(client, "RETRY_S", 0)
    proxy = start_proxy("stall", fraction=1)
    with pytest.raises(StoreError, match=r"no answer in time|bytes came, and fewer than"):
        objects.read_bytes(f"{folder}/images/000.jpg")
    assert proxy.num_requests("GET") == 1


def actions(folder: str) -> list[Callable[[], object]]:
    part = f"{folder}/part.parquet"
    readers = (objects.read_bytes, parquet.read_table, parquet.read_schema, parquet.num_rows, objects.exists)
    return [
        *(lambda read=read: read(part) for read in readers),
        lambda: objects.list_names(folder),
        lambda: objects.write_bytes(f"{folder}/new", b"x"),
        lambda: objects.delete(part),
    ]


def test_expired_credentials_stop_the_job_at_once_in_one_line(folder: str, start_proxy: Start) -> None:
    proxy = start_proxy("expired", fraction=1, operations=OPERATIONS)
    for action in actions(folder):
        with pytest.raises(
            StoreError, match=r"^s3://.*ExpiredToken.*renew them.*the same command continues$"
        ) as caught:
            action()
        assert (caught.value.status, caught.value.stops_the_job) == ("forbidden", True)
    assert proxy.num_requests("GET") == 5, "asked again, though it cannot help; or HEAD's refusal was not looked into"


def test_one_object_that_is_closed_to_us_does_not_stop_the_job(folder: str, start_proxy: Start) -> None:
    start_proxy("denied", fraction=1, operations=OPERATIONS)
    for action in actions(folder):
        with pytest.raises(StoreError, match=r"^s3://.*access refused \(AccessDenied: .*bucket's policy$") as caught:
            action()
        assert (caught.value.status, caught.value.stops_the_job) == ("forbidden", False)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("denied", r"access refused \(AccessDenied: "),
        ("archived", r"it is archived; restore it, .* \(InvalidObjectState: "),
        ("encrypted", r"it is encrypted with a key that is not ours \(InvalidRequest: "),
        ("internal", r"InternalError: "),
    ],
)
def test_an_object_that_is_kept_from_us_is_a_row_and_a_store_that_keeps_all_is_none(
    kind: str, says: str, folder: str, start_proxy: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(client, "NUM_ATTEMPTS", 2)
    proxy = start_proxy(kind, fraction=1, only="/007.jpg")
    listed = listing.list_files(f"{folder}/images")
    rows = [{"uri": item.uri, "version": item.version, "size_bytes": item.size_bytes} for item in listed]
    nobodys = lease.Claim("", "", holder="")
    writer = worker.PartWriter(str(tmp_path), {}, 0, None, nobodys, probes=[row["uri"] for row in rows[6:9]])
    for unit in (rows, rows[7:8]):  # among others, and alone
        read = {row["uri"][-7:]: row["read_error"] for row in writer._read(unit, images)}
        status = "unreachable" if kind == "internal" else "forbidden"
        told = read.pop("007.jpg")
        assert re.match(rf"{status}: s3://\S+/007.jpg: {says}", told)
        assert ("check the credentials" in told) == (kind == "denied")
        assert set(read.values()) <= {"unreadable: not an image"}
    proxy.only = ".jpg"
    with pytest.raises(StoreError, match=r"/000\.jpg: .*; none of the images tried could be read"):
        writer._read(rows[:3], images)


def test_the_proxy_runs_as_a_process_too(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(__file__).parents[1] / "fault_proxy.py"
    command = [sys.executable, str(path), "--upstream", os.environ["AWS_ENDPOINT_URL"], "--fraction", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        monkeypatch.setenv("AWS_ENDPOINT_URL", process.stdout.readline().strip())
        client._filesystem.cache_clear()
        assert objects.read_bytes(f"{folder}/images/003.jpg") == OBJECTS["003.jpg"]
        client._filesystem.cache_clear()
        process.send_signal(signal.SIGTERM)
        assert "'GET': 1" in process.stdout.read()
