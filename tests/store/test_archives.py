"""Tar and zip files made in memory: what is told of them, whole, cut short, garbled and hostile."""

from __future__ import annotations

import io
import json
import random
import struct
import tarfile
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from factories import write_tar, write_zip

from agescale.store import archives, objects
from agescale.store.archives import Index, Problem, kept_index, read_index
from agescale.store.errors import StoreError

MEMBERS = {"b/2.jpg": b"two" * 400, "a/1.jpg": b"one", "é x.jpg": b"", "b/notes.txt": b"no picture"}
Write = Callable[[Path, Mapping[str, bytes]], Path]


@pytest.fixture(params=["tar", "zip", "stored.zip"])
def write(request: pytest.FixtureRequest) -> Write:
    if request.param == "tar":
        return write_tar
    method = zipfile.ZIP_STORED if request.param == "stored.zip" else zipfile.ZIP_DEFLATED
    return lambda path, members: write_zip(path, members, method)


@pytest.fixture
def archive(write: Write, tmp_path: Path) -> Path:
    return write(tmp_path / ("faces.tar" if write is write_tar else "faces.zip"), MEMBERS)


def data_of(path: Path, index: Index) -> dict[str, bytes]:
    return {
        row["name"]: archives.unpack(
            objects.read_range(str(path), row["start"], row["stop"]), row["packing"], row["size_bytes"]
        )
        for row in index.members.to_pylist()
    }


def test_an_archive_tells_its_members_by_name_and_where_their_bytes_are(archive: Path) -> None:
    index = read_index(str(archive), "1")
    assert index.members.schema == archives.MEMBERS
    assert index.members["name"].to_pylist() == sorted(MEMBERS)
    assert data_of(archive, index) == MEMBERS
    assert index.problems == ()


def test_a_members_version_is_that_of_its_bytes_whatever_the_archive(tmp_path: Path) -> None:
    tar = read_index(str(write_tar(tmp_path / "a.tar", MEMBERS)), "1")
    again = read_index(str(write_tar(tmp_path / "b.tar", dict(reversed(MEMBERS.items())))), "2")
    packed = read_index(str(write_zip(tmp_path / "a.zip", MEMBERS)), "3")
    versions = tar.members["version"].to_pylist()
    assert versions == again.members["version"].to_pylist() == packed.members["version"].to_pylist()
    assert len(set(versions)) == len(MEMBERS)
    assert tar.members["start"].to_pylist() != again.members["start"].to_pylist()
    other = read_index(str(write_tar(tmp_path / "c.tar", {**MEMBERS, "a/1.jpg": b"eno"})), "1")
    changed = [old != new for old, new in zip(versions, other.members["version"].to_pylist(), strict=True)]
    assert changed == [name == "a/1.jpg" for name in sorted(MEMBERS)]


def test_a_tar_that_is_cut_short_has_the_members_before_the_cut(tmp_path: Path) -> None:
    members = {f"{number}.jpg": random.Random(number).randbytes(700) for number in range(8)}
    whole = write_tar(tmp_path / "whole.tar", members).read_bytes()
    for size in (1, 600, 512 + 300, 5 * 1536 + 512, 5 * 1536 + 900, 8 * 1536, 8 * 1536 + 100):
        (tmp_path / "cut.tar").write_bytes(whole[:size])
        index = read_index(str(tmp_path / "cut.tar"), "1")
        assert [problem.kind for problem in index.problems] == ["broken_archive"], size
        num_whole = sum(number * 1536 + 1212 <= size for number in range(8))
        assert index.members["name"].to_pylist() == sorted(members)[:num_whole]
        assert data_of(tmp_path / "cut.tar", index) == dict(list(members.items())[:num_whole])


def test_a_tar_that_is_garbled_in_the_middle_says_where(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "faces.tar", {f"{number}.jpg": b"x" * 100 for number in range(4)})
    data = bytearray(path.read_bytes())
    data[2048:2560] = random.Random(0).randbytes(512)
    path.write_bytes(data)
    index = read_index(str(path), "1")
    assert index.members["name"].to_pylist() == ["0.jpg", "1.jpg"]
    assert "byte 2,048" in index.problems[0].detail


@pytest.mark.parametrize("size", [0, 1, 10, 60, 150, -30, -22, -5, -1])
def test_a_zip_that_is_cut_short_is_told_and_no_error(tmp_path: Path, size: int) -> None:
    path = write_zip(tmp_path / "faces.zip", MEMBERS)
    path.write_bytes(path.read_bytes()[:size])
    index = read_index(str(path), "1")
    assert [problem.kind for problem in index.problems] == ["broken_archive"]
    assert len(index.members) == 0


@pytest.mark.parametrize("ending", ["tar", "zip"])
def test_whatever_the_bytes_are_an_archive_is_read_without_an_error(tmp_path: Path, ending: str) -> None:
    chance = random.Random(0)
    whole = (write_tar if ending == "tar" else write_zip)(tmp_path / f"whole.{ending}", MEMBERS).read_bytes()
    path = tmp_path / f"odd.{ending}"
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.choice([1, 3, 30])):
            data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            index = read_index(str(path), "1")
        for row in index.members.to_pylist():
            assert row["size_bytes"] <= archives.MAX_MEMBER_BYTES
            assert ".." not in row["name"].split("/")


def test_names_that_lead_out_of_an_archive_are_not_taken(write: Write, tmp_path: Path) -> None:
    bad = ["../up.jpg", "/abs.jpg", "a/../../up.jpg", "..\\up.jpg", "a//b.jpg", "a/./b.jpg"]
    path = write(tmp_path / ("x.tar" if write is write_tar else "x.zip"), dict.fromkeys([*bad, "./good.jpg"], b"1"))
    index = read_index(str(path), "1")
    assert index.members["name"].to_pylist() == ["good.jpg"]
    assert sorted(problem.member for problem in index.problems) == sorted(bad)
    assert {problem.kind for problem in index.problems} == {"unusable_member"}


def test_of_members_with_one_name_the_last_is_taken_and_that_is_told(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for data in (b"first", b"second"):
            info = tarfile.TarInfo("a.jpg")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        packed.writestr("a.jpg", b"first")
        packed.writestr("a.jpg", b"second")
    for name in ("x.tar", "x.zip"):
        index = read_index(str(tmp_path / name), "1")
        assert data_of(tmp_path / name, index) == {"a.jpg": b"second"}
        why = "2 members have this name; the last is taken"
        assert index.problems == (Problem("unusable_member", why, "a.jpg"),)


def test_links_folders_and_devices_in_a_tar_are_no_members(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, kind in (("d", tarfile.DIRTYPE), ("l.jpg", tarfile.SYMTYPE), ("h.jpg", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    assert len(read_index(str(tmp_path / "x.tar"), "1").members) == 0


def test_a_member_that_would_fill_the_memory_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "BOMB_BYTES", 100_000)
    path = write_zip(tmp_path / "x.zip", {"bomb.bmp": bytes(200_000), "flat.bmp": bytes(90_000)})
    index = read_index(str(path), "1")
    assert index.members["name"].to_pylist() == ["flat.bmp"]
    assert "that would become 200,000" in index.problems[0].detail


def test_a_member_that_becomes_more_than_it_says_is_cut_off(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"a.bmp": bytes(50 * 2**20)})
    (row,) = read_index(str(path), "1").members.to_pylist()
    raw = path.read_bytes()[row["start"] : row["stop"]]
    tracemalloc.start()
    data = archives.unpack(raw, "zip", 1000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(data) == 1001
    assert peak < 2**20


def test_a_header_that_announces_gigabytes_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_HEADER_BYTES", 2**20)
    info = tarfile.TarInfo("long name")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**33
    with open(tmp_path / "x.tar", "wb") as file:
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(2**33)  # a file with a hole
    (problem,) = read_index(str(tmp_path / "x.tar"), "1").problems
    assert "bytes of headers" in problem.detail


def test_encrypted_members_and_other_packings_are_told(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "x.zip", {"a.jpg": b"1", "b.jpg": b"2"}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\x01\x02")
    struct.pack_into("<H", data, directory + 8, 1)
    path.write_bytes(data)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_LZMA) as archive:
        archive.writestr("c.jpg", b"3")
    index = read_index(str(path), "1")
    assert index.members["name"].to_pylist() == ["b.jpg"]
    why = {"a.jpg": "encrypted", "c.jpg": "packed by lzma; zips are taken that are stored or deflated"}
    assert {problem.member: problem.detail for problem in index.problems} == why


def test_an_index_is_kept_until_the_archive_is_another(archive: Path, tmp_path: Path) -> None:
    kept = str(tmp_path / "kept")
    index = kept_index(kept, str(archive), "1")
    archive.unlink()
    assert kept_index(kept, str(archive), "1") == index
    with pytest.raises(StoreError) as caught:
        kept_index(kept, str(archive), "2")
    assert caught.value.status == "missing"
    for file in Path(kept).iterdir():
        file.write_bytes(file.read_bytes()[:50])  # damaged: it is made anew
    assert not archives.is_kept(kept, str(archive), "1")


def test_problems_are_kept_with_the_index(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"../a.jpg": b"1"})
    kept = str(tmp_path / "kept")
    problems = kept_index(kept, str(path), "1").problems
    assert problems == kept_index(kept, str(path), "1").problems != ()


def test_a_tar_on_s3_is_read_in_large_pieces(s3: str, tmp_path: Path, counter: object) -> None:
    path = write_tar(tmp_path / "x.tar", {f"{number}.jpg": bytes(9000) for number in range(1200)})
    objects.write_bytes(f"{s3}/{tmp_path.name}.tar", path.read_bytes())
    index = read_index(f"{s3}/{tmp_path.name}.tar", "1")
    assert len(index.members) == 1200
    assert index.problems == ()


def test_what_lies_beside_an_image_is_its_record(write: Write, tmp_path: Path) -> None:
    members = {
        "s/1.json": b'{"age": 34, "who": "x", "score": 0.5, "box": [1, 2], "none": null}',
        "s/1.jpg": b"1",
        "s/1.cls": b" OLD\n",
        "s/2.seg.png": b"2",
        "s/2.cls": b"YOUNG",
        "s/3.jpg": b"3",
        "4.jpg": b"4",
        "4.json": b"[1]",
        "5.json": b"[" * 60_000,
        "t/1.jpg": b"5",
    }
    path = write(tmp_path / ("x.tar" if write is write_tar else "x.zip"), members)
    index = read_index(str(path), "1", with_records=True)
    told = dict(zip(index.members["name"].to_pylist(), index.members["record"].to_pylist(), strict=True))
    assert json.loads(told["s/1.jpg"]) == {"age": "34", "who": "x", "score": "0.5", "cls": "OLD"}
    assert json.loads(told["s/2.seg.png"]) == {"cls": "YOUNG"}
    assert told["s/3.jpg"] is told["t/1.jpg"] is None
    assert index.problems == tuple(
        Problem("unusable_member", "no object of JSON", each) for each in ("4.json", "5.json")
    )
    assert read_index(str(path), "1").members["record"].null_count == len(members)
    kept = str(tmp_path / "kept")
    kept_index(kept, str(path), "1")
    assert not archives.is_kept(kept, str(path), "1", with_records=True)
    assert kept_index(kept, str(path), "1", with_records=True).members.equals(index.members)
    assert archives.is_kept(kept, str(path), "1")


def test_a_record_that_cannot_be_read_is_told_and_the_others_are_taken(tmp_path: Path) -> None:
    path = write_zip(
        tmp_path / "x.zip", {"1.json": b'{"age": 1}' * 9, "2.json": b'{"age": 2}', "1.jpg": b"", "2.jpg": b""}
    )
    data = bytearray(path.read_bytes())
    data[40:44] = b"oops"
    path.write_bytes(data)
    index = read_index(str(path), "1", with_records=True)
    assert index.members["record"].to_pylist() == [None, None, '{"age": "2"}', '{"age": "2"}']
    assert [problem.member for problem in index.problems] == ["1.json"]
