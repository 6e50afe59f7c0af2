"""Members of archives on disk and on a real S3 server: read with their neighbours, and never another's bytes."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from factories import write_tar, write_zip
from fault_proxy import FaultProxy

from agescale.store import archives, client, members, objects, paths
from agescale.store.errors import StoreError

NAMES = [f"{number:03d}.jpg" for number in range(300)]


@pytest.fixture(params=["tar", "zip"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    write = write_tar if request.param == "tar" else write_zip
    return write(tmp_path / f"faces.{request.param}", pictures())


def pictures(seed: int = 0) -> dict[str, bytes]:
    """In no order of their names, some of them large."""
    chance = random.Random(seed)
    return {name: chance.randbytes(chance.choice([10, 700, 9000])) for name in chance.sample(NAMES, len(NAMES))}


def read_all(uris: list[str], folder: str, versions: dict[str, str] | None = None) -> list[bytes | str]:
    """Bytes of each, or the status of its error."""
    found: list[bytes | str] = []
    with objects.read_pool() as pool:
        for uri, read in zip(uris, members.reads(uris, folder, pool), strict=True):
            try:
                found.append(read(uri, (versions or {}).get(uri, ""), None))
            except StoreError as error:
                found.append(error.status)
    return found


def member(archive: Path | str, name: str) -> str:
    return paths.join(paths.members_of(str(archive)), name)


def test_members_and_files_come_back_in_the_order_in_which_they_are_asked_for(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "file.jpg").write_bytes(b"a file")
    kept = str(tmp_path / "kept")
    archives.kept_index(kept, str(archive), "1")
    uris = [*(member(archive, name) for name in NAMES[::-1]), str(tmp_path / "file.jpg"), member(archive, "none.jpg")]
    wanted = pictures()
    assert read_all(uris, kept) == [*(wanted[name] for name in NAMES[::-1]), b"a file", "missing"]


def test_without_an_index_the_archive_is_looked_into(archive: Path, tmp_path: Path) -> None:
    uris = [member(archive, name) for name in NAMES[:5]]
    assert read_all(uris, str(tmp_path / "nothing")) == [pictures()[name] for name in NAMES[:5]]
    assert [members.read_bytes(uri) for uri in uris] == [pictures()[name] for name in NAMES[:5]]
    assert members.delivers(uris[0])
    assert not members.delivers(member(archive, "none.jpg"))
    assert not members.delivers(member(tmp_path / "none.tar", "a.jpg"))


def test_of_an_archive_that_was_written_anew_nothing_is_taken_for_what_it_was(archive: Path, tmp_path: Path) -> None:
    kept = str(tmp_path / "kept")
    index = archives.kept_index(kept, str(archive), "1")
    versions = {member(archive, row["name"]): row["version"] for row in index.members.to_pylist()}
    before = pictures()
    after = dict(reversed(before.items()))  # all of them in other places
    after["007.jpg"] = bytes(reversed(before["007.jpg"]))
    del after["008.jpg"]
    (write_tar if archive.suffix == ".tar" else write_zip)(archive, after)
    uris = [member(archive, name) for name in NAMES]
    found = dict(zip(NAMES, read_all(uris, kept, versions), strict=True))
    assert found == {**before, "007.jpg": "changed", "008.jpg": "missing"}


def test_a_member_that_is_not_what_its_zip_says_is_unreadable(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "faces.zip", {"a.jpg": b"abc" * 100, "b.jpg": b"good"})
    data = bytearray(path.read_bytes())
    data[40] ^= 255
    path.write_bytes(data)
    kept = str(tmp_path / "kept")
    archives.kept_index(kept, str(path), "1")
    assert read_all([member(path, "a.jpg"), member(path, "b.jpg")], kept) == ["unreadable", b"good"]


def test_an_archive_that_is_gone_is_missing(archive: Path, tmp_path: Path) -> None:
    kept = str(tmp_path / "kept")
    archives.kept_index(kept, str(archive), "1")
    archive.unlink()
    assert read_all([member(archive, "001.jpg")], kept) == ["missing"]


def test_neighbours_are_read_by_one_request(
    archive: Path, s3: str, counter: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{s3}/{tmp_path.name}{archive.suffix}"
    objects.write_bytes(uri, archive.read_bytes())
    kept = str(tmp_path / "kept")
    archives.kept_index(kept, uri, "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", counter.url)
    client._filesystem.cache_clear()
    try:
        assert read_all([member(uri, name) for name in NAMES], kept) == [pictures()[name] for name in NAMES]
        assert counter.num_requests("GET") == 1
        assert counter.num_requests("HEAD") == counter.num_requests("LIST") == 0
        monkeypatch.setattr(members, "MAX_RANGE_BYTES", 200_000)
        read_all([member(uri, name) for name in NAMES], kept)
        num_bytes = archive.stat().st_size
        assert num_bytes / 200_000 < counter.num_requests("GET") - 1 < 2 * num_bytes / 200_000
        few = NAMES[100:103]
        monkeypatch.setattr(members, "MAX_GAP_BYTES", 0)
        before = counter.bytes_sent
        assert read_all([member(uri, name) for name in few], kept) == [pictures()[name] for name in few]
        assert counter.bytes_sent - before < 50_000, "what lies between is not read"
    finally:
        client._filesystem.cache_clear()


def test_little_is_held_however_many_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "faces.tar", {name: bytes(1000) for name in NAMES})
    kept = str(tmp_path / "kept")
    archives.kept_index(kept, str(path), "1")
    monkeypatch.setattr(members, "WINDOW_BYTES", 20_000)
    read: list[int] = []
    real = objects.read_range

    def read_range(uri: str, start: int, stop: int) -> bytes:
        read.append(stop - start)
        return real(uri, start, stop)

    monkeypatch.setattr(objects, "read_range", read_range)
    uris = [member(path, name) for name in NAMES]
    with objects.read_pool() as pool:
        for number, (uri, each) in enumerate(zip(uris, members.reads(uris, kept, pool), strict=True)):
            assert each(uri, "", None) == bytes(1000)
            assert len(read) <= number / 20 + 3, "a window, and the next one"
    assert max(read) < 2 * 20_000


def test_faults_of_the_store_that_pass_change_nothing(
    archive: Path, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{s3}/{tmp_path.name}-faults{archive.suffix}"
    objects.write_bytes(uri, archive.read_bytes())
    monkeypatch.setattr(members, "MAX_RANGE_BYTES", 100_000)
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 0.001)
    kinds = ("slow_down", "reset", "cut", "short", "error", "login")
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"], kinds, fraction=0.4, operations=("GET", "HEAD")) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        client._filesystem.cache_clear()
        try:
            index = archives.kept_index(str(tmp_path / "kept"), uri, "1")
            found = read_all([member(uri, name) for name in NAMES], str(tmp_path / "kept"))
        finally:
            client._filesystem.cache_clear()
    assert index.problems == ()
    assert found == [pictures()[name] for name in NAMES]
    assert proxy.faults.total() > 3
