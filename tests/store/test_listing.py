"""Listings of folders, of a store that walks folders (a real one), and of one that sorts keys as S3 does (a small one
of our own): the same files in the same order, in ranges too; and listings made elsewhere."""

from __future__ import annotations

import bisect
import contextlib
import datetime as dt
import gzip
import hashlib
import itertools
import json
import os
import random
import socket
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agescale.store import client, listing, objects, parquet
from agescale.store.errors import StoreError
from agescale.store.listing import Listed

NAMES = [
    *("a b.jpg", "a-b.jpg", "a.jpg", "a/b-c.jpg", "a/b.jpg", "a/b/c.jpg", "a/b/d/e.jpg", "a0.jpg", "ab/x.jpg"),
    *("b+/1.jpg", "b/1.jpg", "b/2.jpg", "c%20.jpg", "c/ x.jpg", "c/&<.jpg", "c/d.jpg", "c/d/e/f.jpg", "Zoe/x.jpg"),
    *("Zoë/x.jpg", "z.jpg", "é.jpg", "日本.jpg", "日本/a.jpg", "～.jpg", "😀.jpg"),
]


class SortedStore:
    """ListObjectsV2 as S3 answers it: keys in the order of their text, jumps to any key."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self.num_requests = 0

    def list_objects(self, uri: str, **request: Any) -> dict[str, Any]:
        self.num_requests += 1
        prefix, delimiter = request["Prefix"], request.get("Delimiter")
        after = request.get("ContinuationToken") or request.get("StartAfter", "")
        names = {}
        for key in sorted(key for key in self.keys if key.startswith(prefix) and key > after):
            head, sign, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            names[prefix + head + sign if sign else key] = key
        told = list(names)[: request["MaxKeys"]]
        return {
            "Contents": [self.describe(name) for name in told if name in self.keys],
            "CommonPrefixes": [{"Prefix": name} for name in told if name not in self.keys],
            "IsTruncated": len(told) < len(names),
            "NextContinuationToken": told[-1] + listing.LAST * told[-1].endswith("/") if told else None,
        }

    def describe(self, key: str) -> dict[str, Any]:
        return {"Key": key, "Size": len(key), "ETag": f'"{hashlib.md5(key.encode()).hexdigest()}"'}


@pytest.fixture
def sorted_store(monkeypatch: pytest.MonkeyPatch) -> SortedStore:
    store = SortedStore()
    monkeypatch.setattr(objects, "list_objects", store.list_objects)
    return store


Put = Callable[..., str]


@pytest.fixture(params=["disk", "s3", "sorted"])
def put(request: pytest.FixtureRequest, tmp_path: Path) -> Put:
    """Puts files with these names into an empty folder of the test's own, and returns its URI."""
    folder = str(tmp_path / "földer #1 100%")
    if request.param != "disk":
        bucket = "s3://bucket" if request.param == "sorted" else request.getfixturevalue("s3")
        folder = f"{bucket}/{tmp_path.name}/földer #1 100%"
    if request.param == "sorted":
        store = request.getfixturevalue("sorted_store")

    def put_all(*names: str) -> str:
        for name in names:
            if request.param == "sorted":
                store.keys.add(f"{folder}/{name}".removeprefix("s3://bucket/"))
            else:
                objects.write_bytes(f"{folder}/{name}", name.encode())
        return folder

    return put_all


def names_of(items: list[Listed]) -> list[str]:
    return [item.relative for item in items]


def test_files_come_in_the_order_of_their_whole_paths_a_page_at_a_time(
    put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PAGE_FILES", 3)
    uri = put(*NAMES)
    pages = list(listing.pages(uri))
    assert {len(page) for page in pages[:-1]} == {3}
    items = list(itertools.chain(*pages))
    assert names_of(items) == sorted(NAMES)
    assert [item.uri for item in items] == [f"{uri}/{name}" for name in sorted(NAMES)]
    assert listing.list_files(uri) == items
    assert len({item.version for item in items}) > 1
    assert {item.size_bytes > 0 for item in items} == {True}


def test_ranges_hold_every_file_once_wherever_they_are_cut(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PAGE_FILES", 5)
    uri = put(*NAMES)
    for cuts in (sorted(NAMES)[::3], ["a/"], ["a.", "a/b", "a/b/", "a/b/d", "a/c"], ["b/1", "c", "c/d/e/f.jpg"], ["~"]):
        for after, until in itertools.pairwise(["", *cuts, None]):
            found = names_of(list(itertools.chain(*listing.pages(uri, after, until))))
            assert found == [name for name in sorted(NAMES) if name > after and (until is None or name <= until)]


@pytest.mark.parametrize("num", [1, 2, 5, 30])
def test_a_source_is_cut_into_about_as_many_ranges_as_are_wanted(put: Put, num: int) -> None:
    uri = put(*NAMES, *(f"many/{index % 20}/{index:03d}.jpg" for index in range(60)))
    ranges = listing.cut(uri, num)
    assert num * 0.5 <= len(ranges) <= num
    assert (ranges[0][0], ranges[-1][1]) == ("", None)
    assert all(until == after for (_, until), (after, _) in itertools.pairwise(ranges))
    found = [name for after, until in ranges for page in listing.pages(uri, after, until) for name in names_of(page)]
    assert found == names_of(listing.list_files(uri))


def test_a_folder_without_folders_is_one_range_where_one_cannot_jump(tmp_path: Path) -> None:
    for index in range(9):
        (tmp_path / f"{index}.jpg").touch()
    assert listing.cut(str(tmp_path), 4) == [("", None)]


def digest(number: int) -> str:
    return hashlib.md5(str(number).encode()).hexdigest()


def days_of_which_one_is_huge(number: int) -> str:
    day = 200 if number % 10 else number // 10 % 365
    return f"2026/{1 + day // 31:02d}/{1 + day % 31:02d}/{digest(number)}.jpg"


def users_of_very_different_size(number: int) -> str:
    user = int(1 / (0.002 + int(digest(number)[:8], 16) / 2**32))
    return f"users/{uuid.uuid5(uuid.NAMESPACE_URL, str(user))}/{uuid.UUID(digest(number))}.jpg"


def cameras(number: int) -> str:
    moment = dt.datetime(2026, 7, 1) + dt.timedelta(seconds=3 * number)
    return f"cam{digest(number % 100)[:4]}/IMG_{moment:%Y%m%d_%H%M%S}.jpg"


NAMINGS: dict[str, Callable[[int], str]] = {
    "hashes": lambda number: f"photos of 2026/batch-01/img_{digest(number)}.jpg",
    "one huge day": days_of_which_one_is_huge,
    "one huge day, without folders": lambda number: days_of_which_one_is_huge(number).replace("/", "-"),
    "numbers": "{:09d}.jpg".format,
    "numbers of any length": "photo {}.jpg".format,
    "users": users_of_very_different_size,
    "cameras": cameras,
    "folders of one file": lambda number: f"{digest(number)}/face.jpg",
    "folders of ten numbers": lambda number: f"people/{number // 10:06d}/{number % 10}.jpg",
    "a folder of hashes among many small ones": lambda number: (
        f"{'b' if number % 2 else f'a/{number % 9999}'}/{digest(number)}.jpg"
    ),
}


class LargeStore(SortedStore):
    """Finds its keys, which stay as they are, in no time."""

    def __init__(self, keys: list[str]) -> None:
        super().__init__()
        self.sorted = sorted(keys)

    def list_objects(self, uri: str, **request: Any) -> dict[str, Any]:
        if "Delimiter" in request:
            return {"Contents": [], "CommonPrefixes": [], "IsTruncated": False}
        self.num_requests += 1
        first = max(
            bisect.bisect_left(self.sorted, request["Prefix"]), bisect.bisect(self.sorted, request["StartAfter"])
        )
        stop = bisect.bisect(self.sorted, request["Prefix"] + listing.LAST)
        told = self.sorted[first : min(stop, first + request["MaxKeys"])]
        return {"Contents": [{"Key": key} for key in told], "IsTruncated": first + len(told) < stop}


@pytest.mark.parametrize("num", [4, 64])
@pytest.mark.parametrize("naming", NAMINGS)
def test_ranges_are_of_like_size_wherever_the_files_are(naming: str, num: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """100,000 files in pages of 20, which is as hard as 5,000,000 in pages of 1000."""
    monkeypatch.setattr(listing, "PAGE_FILES", 20)
    names = sorted(map(NAMINGS[naming], range(100_000)))
    store = LargeStore([f"in/{name}" for name in names])
    monkeypatch.setattr(objects, "list_objects", store.list_objects)
    ranges = listing.cut("s3://bucket/in", num)
    assert store.num_requests < 1.2 * (listing.NUM_PROBES + listing.PROBES_PER_RANGE * num)
    assert num / 2 <= len(ranges) <= num
    assert (ranges[0][0], ranges[-1][1]) == ("", None)
    assert all(until == after for (_, until), (after, _) in itertools.pairwise(ranges))
    ends = [0, *(bisect.bisect(names, after) for after, _ in ranges[1:]), len(names)]
    sizes = [end - start for start, end in itertools.pairwise(ends)]
    assert min(sizes) > 0
    assert max(sizes) < 3 * len(names) / num


def test_a_source_that_is_empty_by_now_is_one_range(sorted_store: SortedStore) -> None:
    assert listing.cut("s3://bucket/in", 64) == [("", None)]


def test_few_files_are_cut_by_what_their_pages_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    names = sorted(map(days_of_which_one_is_huge, range(20_000)))
    store = LargeStore(names)
    monkeypatch.setattr(objects, "list_objects", store.list_objects)
    ranges = listing.cut("s3://bucket", 16)
    ends = [0, *(bisect.bisect(names, after) for after, _ in ranges[1:]), len(names)]
    assert max(end - start for start, end in itertools.pairwise(ends)) < 1.1 * len(names) / 16
    assert store.num_requests < 5 * len(names) / listing.PAGE_FILES


def test_a_store_that_sorts_keys_is_asked_once_for_a_thousand_files_whatever_their_folders(
    sorted_store: SortedStore,
) -> None:
    sorted_store.keys = {f"people/{index:04d}/{photo}.jpg" for index in range(1000) for photo in "abc"}
    assert len(listing.list_files("s3://bucket/people")) == 3000
    assert sorted_store.num_requests == 2 + 3


def test_hidden_files_and_what_stands_beside_the_folder_are_not_listed(put: Put) -> None:
    names = ("a.jpg", ".DS_Store", ".thumbs/b.jpg", "c/.d.jpg", "c/.e/f.jpg")
    uri = put("faces2/g.jpg", *(f"faces/{name}" for name in names))
    assert names_of(listing.list_files(f"{uri}/faces")) == ["a.jpg"]


def test_what_is_not_there_is_missing_in_one_line(put: Put) -> None:
    uri = put("a.jpg", "a.jpg2/b.jpg")
    for name in ("nothing here", "a.jpg"):
        with pytest.raises(StoreError, match=rf"{name}: no such folder") as caught:
            listing.list_files(f"{uri}/{name}")
        assert caught.value.status == "missing"


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "real" / "below").mkdir(parents=True)
    (source / "real" / "a.jpg").touch()
    (source / "real" / "below" / "up").symlink_to(source / "real")
    (source / "real" / "top").symlink_to(source)
    (source / "again").symlink_to(source / "real")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.jpg").touch()
    (source / "linked").symlink_to(tmp_path / "elsewhere")
    (source / "linked.jpg").symlink_to(tmp_path / "elsewhere" / "b.jpg")
    (source / "gone.jpg").symlink_to(tmp_path / "nothing")
    (source / "loop.jpg").symlink_to(source / "pool.jpg")
    (source / "pool.jpg").symlink_to(source / "loop.jpg")
    (source / "device.jpg").symlink_to("/dev/zero")
    os.mkfifo(source / "pipe.jpg")
    listed = listing.list_files(str(source))
    files = [item for item in listed if item.version]
    assert names_of(files) == ["again/a.jpg", "linked.jpg", "linked/b.jpg", "real/a.jpg"]
    others = [item for item in listed if not item.version]
    assert names_of(others) == ["device.jpg", "gone.jpg", "loop.jpg", "pipe.jpg", "pool.jpg"]
    for name in ("device.jpg", "pipe.jpg"):
        with pytest.raises(StoreError, match=r"a named pipe, a socket or a device, not a file$"):
            objects.read_bytes(str(source / name))


def test_a_name_that_is_not_utf8_is_listed_escaped_and_can_be_read(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/fr\xe8re"))
    folder.mkdir()
    (folder / os.fsdecode(b"Zo\xeb.jpg")).write_bytes(b"x")
    (folder / "Zoë.jpg").write_bytes(b"yy")
    (folder / r"back\x41slash.jpg").write_bytes(b"zzz")
    (folder / "up").symlink_to(tmp_path)
    items = listing.list_files(str(tmp_path))
    assert names_of(items) == [rf"fr\xe8re/{name}" for name in (r"Zo\xeb.jpg", "Zoë.jpg", r"back\x41slash.jpg")]
    assert names_of(items) == sorted(names_of(items))
    assert [objects.read_bytes(item.uri) for item in items] == [b"x", b"yy", b"zzz"]
    with pytest.raises(ValueError, match=r"fr\\xe8re'.*not UTF-8"):
        listing.list_files(str(folder))


def test_pipes_sockets_and_devices_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "s.jpg"))
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "linked.jpg").symlink_to("/dev/zero")
    versions = {item.relative: bool(item.version) for item in listing.list_files(str(tmp_path))}
    assert versions == {"a.jpg": True, "linked.jpg": False, "pipe.jpg": False, "s.jpg": False}
    for name in ("pipe.jpg", "linked.jpg", "s.jpg"):
        with pytest.raises(StoreError, match="a named pipe, a socket or a device, not a file") as caught:
            objects.read_bytes(str(tmp_path / name))
        assert caught.value.status == "missing"


# Listings made elsewhere


def read(file: Path, source: str = "s3://bucket/faces") -> list[tuple[Any, ...]]:
    tables = list(listing.read_rows(str(file), source))
    assert {table.schema for table in tables} <= {listing.ROWS}
    return [tuple(row.values()) for table in tables for row in table.to_pylist()]


EXPECTED = [("s3://bucket/faces/b.jpg", "0012", 7), ("s3://bucket/faces/a, b.jpg", "x", 8)]


def test_listings_come_as_parquet_or_csv_with_any_of_the_usual_columns(tmp_path: Path) -> None:
    csv = '{}\n{}/b.jpg,"""0012""",7,x\n"{}/a, b.jpg",x,8,y\n'
    (tmp_path / "a.csv").write_text(csv.format("uri,etag,size,more", *["s3://bucket/faces"] * 2))
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(csv.format("Key,ETag,Size,more", ".", ".").encode()))
    columns = {"bucket": ["bucket"] * 2, "key": ["faces/b.jpg", "faces/a, b.jpg"], "size": [7, 8]}
    pq.write_table(pa.table({**columns, "e_tag": ["0012", "x"]}), tmp_path / "c.parquet")
    name = pa.array(["b.jpg", "a, b.jpg"]).dictionary_encode()
    pq.write_table(pa.table({"name": name, "version": ["0012", "x"]}), tmp_path / "d.parquet")
    assert read(tmp_path / "a.csv") == EXPECTED
    assert read(tmp_path / "b.csv.gz", "s3://bucket/faces") == [
        (uri.replace("faces/", "faces/./"), version, size) for uri, version, size in EXPECTED
    ]
    assert read(tmp_path / "c.parquet") == EXPECTED
    assert read(tmp_path / "d.parquet") == [(uri, version, None) for uri, version, _ in EXPECTED]
    (tmp_path / "notes.txt").touch()
    names = ["a.csv", "b.csv.gz", "c.parquet", "d.parquet"]
    assert listing.files_of(f"file://{tmp_path}") == [str(tmp_path / name) for name in names]
    assert listing.files_of(str(tmp_path / "a.csv")) == [str(tmp_path / "a.csv")]


def test_a_packed_listing_that_was_cut_is_one_line(tmp_path: Path) -> None:
    names = "".join(f"faces/{number}.jpg,{number * 7919}\n" for number in range(5000))
    whole = gzip.compress(f"name,size\n{names}".encode())
    for tenths in range(1, 10):
        (tmp_path / "x.csv.gz").write_bytes(whole[: len(whole) * tenths // 10])
        with pytest.raises(ValueError, match=r"^[^\n]*x\.csv\.gz: [^\n]*$"):
            list(parquet.iter_batches(str(tmp_path / "x.csv.gz")))


def test_the_manifest_of_an_inventory_names_its_files(tmp_path: Path) -> None:
    manifest = {"destinationBucket": "arn:aws:s3:::lists", "fileFormat": "Parquet"}
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "files": [{"key": "x/1.parquet", "size": 3}]}))
    assert listing.files_of(str(tmp_path / "manifest.json")) == ["s3://lists/x/1.parquet"]
    for content in ("{", "[]", json.dumps(manifest), json.dumps({**manifest, "fileFormat": "ORC", "files": []})):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(ValueError, match=r"manifest\.json: no manifest of an S3 inventory in the format Parquet"):
            listing.files_of(str(tmp_path / "manifest.json"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        ("uri,size\na.jpg,3\n", "has the columns uri, or bucket and key, .* this one has uri, size"),
        ("path,etag\na.jpg,3\n", "this one has path, etag"),
        ("uri,etag\na.jpg,1\n,2\n", "row 2 has no URI"),
        ("name,etag\na.jpg,1\n,2\n", "row 2 has no URI"),
        ('uri,etag\na.jpg,""\n', "row 1 has no version"),
        ("uri,etag,size\na.jpg,1,big\n", "a size that is not a number"),
        ("uri,etag\na.jpg,1,2,3\n", "Expected 2 columns, got 4"),
    ],
)
def test_a_listing_that_lacks_something_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"^{tmp_path}/list\.csv: .*{message}") as caught:
        read(tmp_path / "list.csv")
    assert "\n" not in str(caught.value)


def test_no_listing_at_all_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no listing there; it is a file, or a folder of files, \.parquet \.csv"):
        listing.files_of(str(tmp_path))
    (tmp_path / "list.parquet").write_text("no parquet")
    with pytest.raises(ValueError, match=r"list\.parquet: .*[Pp]arquet"):
        read(tmp_path / "list.parquet")
    with pytest.raises(StoreError, match=r"nothing\.csv: not found"):
        read(tmp_path / "nothing.csv")


def damaged(answer: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """An answer that a faulty store or somebody on the way to it has spoilt."""
    names, kind = (
        list(answer["Contents"]),
        draw.choice(["none", "cut", "repeated", "turned", "foreign", "empty", "endless"]),
    )
    if kind == "empty":
        return {}
    if kind == "cut":
        names = names[: draw.randrange(len(names))]
    if kind == "repeated":
        names += names[:1]
    if kind == "turned":
        names = names[::-1]
    if kind == "foreign":
        names = [{**each, "Key": f"other/{each['Key']}"} for each in names]
    answer = {**answer, "Contents": names}
    if kind == "endless":
        answer |= {"IsTruncated": True, "NextContinuationToken": None}
    return answer


@pytest.mark.parametrize("seed", range(40))
def test_a_spoilt_listing_is_the_right_one_or_none(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw, store = random.Random(seed), SortedStore()
    store.keys = {f"in/{number:04d}.jpg" for number in range(40)}

    class FileSystem:
        def call_s3(self, method: str, Bucket: str, **request: Any) -> dict[str, Any]:
            answer = store.list_objects("", **{**request, "MaxKeys": min(7, request.get("MaxKeys", 7))})
            answer |= {"KeyCount": len(answer["Contents"]) + len(answer["CommonPrefixes"])}
            return damaged(answer, draw) if draw.random() < 0.2 else answer

    monkeypatch.setattr(client, "filesystem", lambda uri: FileSystem())
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(client, "NUM_ATTEMPTS", 3)
    with contextlib.suppress(StoreError):
        assert {f"in/{item.relative}" for item in listing.list_files("s3://bucket/in")} == store.keys


def test_a_store_without_tokens_is_listed_by_names(sorted_store: SortedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    sorted_store.keys = {f"in/{number:04d}.jpg" for number in range(2500)}
    answer = sorted_store.list_objects
    monkeypatch.setattr(objects, "list_objects", lambda *a, **k: {**answer(*a, **k), "NextContinuationToken": None})
    assert len(listing.list_files("s3://bucket/in")) == 2500


def test_a_key_that_ends_a_page_and_begins_the_next_is_listed_once(
    sorted_store: SortedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sorted_store.keys = {f"in/{number:04d}.jpg" for number in range(2500)}
    answer = sorted_store.list_objects

    def again(*arguments: Any, **request: Any) -> dict[str, Any]:
        said = answer(*arguments, **request)
        if token := request.get("ContinuationToken"):
            said["Contents"] = [sorted_store.describe(token), *said["Contents"]]
        return said

    monkeypatch.setattr(objects, "list_objects", again)
    assert [item.relative for item in listing.list_files("s3://bucket/in")] == [f"{n:04d}.jpg" for n in range(2500)]
