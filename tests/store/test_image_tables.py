"""Parquet files with images in their rows: Hugging Face's, plain ones, and those that are no such files."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from factories import write_rows

from agescale.store import archives, image_tables, members, objects, paths
from agescale.store.archives import Problem, read_index
from agescale.store.errors import StoreError

PICTURES = {f"f/{number}.jpg": random.Random(number).randbytes(50 * number) for number in range(1, 36)}


def test_rows_are_members_by_their_numbers_and_the_names_of_their_files(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "x.parquet", PICTURES)
    index = read_index(str(path), "1")
    names = [f"{number:07d}/{number + 1}.jpg" for number in range(35)]
    assert index.members["name"].to_pylist() == names
    assert index.members["start"].to_pylist() == [number // 10 for number in range(35)]
    uris = [paths.join(paths.members_of(str(path)), name) for name in names]
    assert [members.read_bytes(uri) for uri in uris] == list(PICTURES.values())
    assert index.problems == ()


def test_each_row_group_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_rows(tmp_path / "x.parquet", PICTURES)
    kept = str(tmp_path / "kept")
    names = archives.kept_index(kept, str(path), "1").members["name"].to_pylist()
    read: list[int] = []
    real = image_tables.read_group

    def read_group(uri: str, group: int, column: str) -> list[bytes | None]:
        read.append(group)
        return real(uri, group, column)

    monkeypatch.setattr(image_tables, "read_group", read_group)
    monkeypatch.setattr(members, "WINDOW_BYTES", 100)
    uris = [paths.join(paths.members_of(str(path)), name) for name in names]
    with objects.read_pool() as pool:
        assert [read(uri, "", None) for uri, read in zip(uris, members.reads(uris, kept, pool), strict=True)] == list(
            PICTURES.values()
        )
    assert sorted(read) == [0, 1, 2, 3]


def test_of_a_file_that_was_written_anew_nothing_is_taken_for_what_it_was(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "x.parquet", PICTURES)
    kept = str(tmp_path / "kept")
    index = archives.kept_index(kept, str(path), "1")
    after = dict(list(PICTURES.items())[:20])
    after["f/3.jpg"] = b"other"
    write_rows(path, after, group_rows=7)
    found: list[bytes | str] = []
    rows = index.members.to_pylist()
    uris = [paths.join(paths.members_of(str(path)), row["name"]) for row in rows]
    with objects.read_pool() as pool:
        for row, uri, read in zip(rows, uris, members.reads(uris, kept, pool), strict=True):
            try:
                found.append(read(uri, row["version"], None))
            except StoreError as error:
                found.append(error.status)
    wanted: list[bytes | str] = list(PICTURES.values())
    assert found == [*wanted[:2], "changed", *wanted[3:20], *["missing"] * 15]


def test_other_columns_are_records_and_classes_have_their_names(tmp_path: Path) -> None:
    label = {"_type": "ClassLabel", "names": ["young", "old"]}
    said = {"huggingface": json.dumps({"info": {"features": {"label": label, "image": {"_type": "Image"}}}})}
    columns: dict[str, Any] = {"age": [34, None], "label": [1, 0], "who": ["x", "y"], "box": [[1], [2]]}
    table = pa.table({"image": [{"bytes": b"\x89PNG", "path": None}, {"bytes": b"GIF8", "path": None}], **columns})
    pq.write_table(table.replace_schema_metadata(said), tmp_path / "x.parquet")
    index = read_index(str(tmp_path / "x.parquet"), "1", with_records=True)
    assert index.members["name"].to_pylist() == ["0000000.png", "0000001.gif"]
    told = [json.loads(record) for record in index.members["record"].to_pylist()]
    assert told == [{"age": "34", "label": "old", "who": "x"}, {"label": "young", "who": "y"}]


@pytest.mark.parametrize(
    ("columns", "path"),
    [
        ({"image": [{"bytes": b"1", "path": ""}], "mask": [b"2"]}, "image.bytes"),
        ({"content": [b"1"], "age": [3]}, "content"),
        ({"a": [b"1"], "b": [b"2"]}, ""),
        ({"age": [3], "uri": ["s3://x"]}, ""),
        ({"photo": [b"1"], "b": [b"2"]}, "photo"),
    ],
)
def test_the_column_of_images_is_known_by_its_name_or_its_type(columns: dict[str, Any], path: str) -> None:
    schema = pa.table(columns).schema
    assert image_tables.image_column(schema) == path
    assert image_tables.image_column(schema.with_metadata({"agescale.schema_version": "3"})) == ""


def test_a_dot_may_be_part_of_the_name_of_the_column_and_any_bytes_of_that_of_the_file(tmp_path: Path) -> None:
    made, odd = tmp_path / "x.parquet", tmp_path / os.fsdecode(b"Mu\xf1oz.parquet")
    pq.write_table(pa.table({"image.bytes": [b"\xff\xd81"], "age": [3]}), made)
    made.rename(odd)
    uri = f"{tmp_path}/{paths.table_name(odd.name)}"
    assert read_index(uri, "1").members["name"].to_pylist() == ["0000000.jpg"]
    assert objects.version(uri)


def test_rows_without_an_image_and_large_row_groups_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pa.table({"image": [{"bytes": b"1", "path": "a.jpg"}, None, {"bytes": None, "path": "b.jpg"}]})
    pq.write_table(table, tmp_path / "x.parquet")
    index = read_index(str(tmp_path / "x.parquet"), "1")
    assert index.members["name"].to_pylist() == ["0000000/a.jpg"]
    why = "a row without the bytes of an image"
    assert index.problems == (Problem("unusable_member", why, "0000001"), Problem("unusable_member", why, "0000002"))
    monkeypatch.setattr(image_tables, "MAX_GROUP_BYTES", 10)
    (problem,) = read_index(str(write_rows(tmp_path / "y.parquet", PICTURES, 50)), "1").problems
    assert "more than 10 bytes" in problem.detail


def test_a_file_that_is_cut_or_garbled_is_told_and_no_error(tmp_path: Path) -> None:
    whole = write_rows(tmp_path / "x.parquet", PICTURES).read_bytes()
    chance = random.Random(0)
    for size in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.parquet").write_bytes(whole[:size])
        index = read_index(str(tmp_path / "cut.parquet"), "1")
        assert [problem.kind for problem in index.problems] == ["broken_archive"]
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(10):
            data[chance.randrange(len(data))] = chance.randrange(256)
        (tmp_path / "odd.parquet").write_bytes(data)
        read_index(str(tmp_path / "odd.parquet"), "1")
