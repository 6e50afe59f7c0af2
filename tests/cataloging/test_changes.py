"""Catalogs of images that are only listed, grown window by window: exact, in order, and the same after any kill."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from agescale.cataloging import changes
from agescale.store import lease, listing, parquet
from agescale.store import objects as store_objects
from agescale.tables import catalogs, folders, schema
from agescale.tables.catalogs import Catalog

SETTINGS = {"source": "/faces", "layout": "unlabelled"}
METADATA = {"id": "1", "settings": SETTINGS}
NOBODYS = lease.Claim("", "", holder="")
Objects = dict[str, str]
"""Versions by relative path: what a source holds."""


def table(objects: Objects) -> pa.Table:
    uris = [f"/faces/{name}" for name in sorted(objects)]
    return pa.table([uris, [objects[name] for name in sorted(objects)], [1] * len(uris)], schema=listing.ROWS)


def pages(objects: Objects, after: str, until: str | None, size: int = 2) -> Iterator[pa.Table]:
    rows = table({name: objects[name] for name in objects if name > after and (until is None or name <= until)})
    return (rows.slice(start, size) for start in range(0, len(rows), size))


def part_names(out: Path) -> list[str]:
    return folders.list_parts(str(out), "catalog")


def lister(out: Path, listing_number: int, part_rows: int) -> changes.RangeLister:
    names = [name for name in part_names(out) if catalogs.listing_of(name) < listing_number]
    known = [catalogs.ask_part(str(out / name)) for name in names]
    return changes.RangeLister("/faces", str(out), METADATA, listing_number, known, part_rows, NOBODYS)


def update(
    out: Path, objects: Objects, listing_number: int, cuts: list[str] | None = None, part_rows: int = 3
) -> Counter:
    counts: Counter[str] = Counter()
    grow = lister(out, listing_number, part_rows)
    ranges = zip(["", *(cuts or [])], [*(cuts or []), None], strict=True)
    for number, (after, until) in enumerate(ranges):
        for window in grow.update(pages(objects, after, until), number, after, until):
            counts.update(window.to_pylist()[0])
    grow.delete(number + 1)
    changes.end_listing(str(out), listing_number)
    return counts


def current(out: Path) -> Objects:
    rows = Catalog.open(str(out)).read(["uri", "version"]).to_pylist()
    assert len({row["uri"] for row in rows}) == len(rows)
    return {row["uri"].removeprefix("/faces/"): re.sub(catalogs.LISTING_SUFFIX, "", row["version"]) for row in rows}


def rows_of(out: Path, part: str) -> list[dict[str, Any]]:
    return parquet.read_table(str(out / part)).to_pylist()


def test_growth_is_noted_exactly_and_what_is_unchanged_writes_nothing(tmp_path: Path) -> None:
    objects = {f"{letter}.jpg": "1" for letter in "abcdefgh"} | {"notes.txt": "1"}
    counts = update(tmp_path, objects, 1)
    assert counts == {"num_rows": 8, "num_new": 8, "num_changed": 0, "num_deleted": 0, "num_ignored": 1}
    assert part_names(tmp_path) == [f"part-00001-000000000{index}.parquet" for index in range(3)]
    uris = [row["uri"] for part in part_names(tmp_path) for row in rows_of(tmp_path, part)]
    assert uris == [f"/faces/{letter}.jpg" for letter in "abcdefgh"]
    assert Catalog.open(str(tmp_path)).settings == SETTINGS
    assert parquet.read_schema(str(tmp_path / part_names(tmp_path)[0])).equals(schema.CATALOG)

    assert update(tmp_path, objects, 2) == {**counts, "num_new": 0}
    assert len(part_names(tmp_path)) == 3

    objects |= {"b.jpg": "2", "bb.jpg": "1", "x.jpg": "1"}
    del objects["c.jpg"], objects["h.jpg"]
    assert update(tmp_path, objects, 2, part_rows=100) == {
        "num_rows": 8,
        "num_new": 2,
        "num_changed": 1,
        "num_deleted": 2,
        "num_ignored": 1,
    }
    names = part_names(tmp_path)[-3:]  # new, changed, deleted
    assert [catalogs.ask_part(str(tmp_path / name)).replaces for name in names] == [False, True, True]
    added = sorted((row for name in names for row in rows_of(tmp_path, name)), key=lambda row: row["uri"])
    assert [(row["uri"], row["version"], row["deleted"], row["size_bytes"]) for row in added] == [
        ("/faces/b.jpg", "2", False, 1),
        ("/faces/bb.jpg", "1", False, 1),
        ("/faces/c.jpg", "1", True, None),
        ("/faces/h.jpg", "1", True, None),
        ("/faces/x.jpg", "1", False, 1),
    ]
    del objects["notes.txt"]
    assert current(tmp_path) == objects

    objects["c.jpg"] = "1"  # as it was before it was deleted
    assert update(tmp_path, objects, 3)["num_new"] == 1
    assert current(tmp_path) == objects


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_to_a_source_the_catalog_is_what_it_holds(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(seed)
    monkeypatch.setattr(changes, "KNOWN_ROWS", draw.choice([4, 10, 1000]))
    names = [f"{folder}{number}.jpg" for folder in ("a/", "a-", "b/c/", "é/", "z") for number in range(9)]
    objects: Objects = {}
    for listing_number in range(1, 7):
        cuts = sorted(draw.sample(["a-5", "a/", "b", "b/c/4.jpg", "zz"], draw.randrange(4)))
        before, share = objects, draw.choice([0.1, 0.5, 0.9])
        objects = {name: str(draw.randrange(3)) for name in names if draw.random() < share} or {"a/0.jpg": "0"}
        counts = update(tmp_path, objects, listing_number, cuts, part_rows=draw.choice([1, 3, 7, 100]))
        assert current(tmp_path) == objects
        both = set(before) & set(objects)
        assert counts == {
            "num_rows": len(objects),
            "num_new": len(objects) - len(both),
            "num_changed": sum(before[name] != objects[name] for name in both),
            "num_deleted": len(before) - len(both),
            "num_ignored": 0,
        }
        parts = [part for part in part_names(tmp_path) if catalogs.listing_of(part) == listing_number]
        added = {part: rows_of(tmp_path, part) for part in parts}
        assert sum(map(len, added.values())) == sum(counts[name] for name in ("num_new", "num_changed", "num_deleted"))
        for part, rows in added.items():
            assert [row["uri"] for row in rows] == sorted(row["uri"] for row in rows)
            replaces = catalogs.ask_part(str(tmp_path / part)).replaces
            assert {row["uri"].removeprefix("/faces/") in before for row in rows} == {replaces}
    listed = [row for part in part_names(tmp_path) for row in rows_of(tmp_path, part) if not row["deleted"]]
    assert len({(row["uri"], row["version"]) for row in listed}) == len(listed), "a key stands once"


def test_after_a_kill_only_the_rows_of_lost_parts_come_again(tmp_path: Path) -> None:
    objects = {f"{index:02d}.jpg": "1" for index in range(20)}
    update(tmp_path, objects, 1, cuts=["07.jpg", "13.jpg"])
    before = part_names(tmp_path)
    lost = [before.pop(), before.pop(2)]
    rows = [row for part in sorted(lost) for row in rows_of(tmp_path, part)]
    for part in lost:
        (tmp_path / part).unlink()
    assert update(tmp_path, objects, 2)["num_new"] == len(rows)
    assert current(tmp_path) == objects
    again = [row for part in part_names(tmp_path) if part not in before for row in rows_of(tmp_path, part)]
    assert [row["uri"] for row in again] == [row["uri"] for row in rows]


def test_a_task_that_runs_again_goes_on_behind_what_it_wrote(tmp_path: Path) -> None:
    update(tmp_path, {"0.jpg": "1", "1.jpg": "0", "99.jpg": "1"}, 1)
    objects = {f"{index}.jpg": "1" for index in range(1, 9)}
    grow = lister(tmp_path, 2, part_rows=3)
    killed = grow.update(pages(objects, "", None), 0)
    next(killed), next(killed)
    half = set(part_names(tmp_path))
    del killed
    objects["2.jpg"] = "changed while nobody looked"  # noted the next time: no URI stands twice in one listing
    counts = update(tmp_path, objects, 2)
    assert counts == {"num_rows": 8, "num_new": 7, "num_changed": 1, "num_deleted": 2, "num_ignored": 0}
    assert half < set(part_names(tmp_path))
    assert current(tmp_path) == {**objects, "2.jpg": "1"}
    rows = [row["uri"] for part in part_names(tmp_path) if "-00002-" in part for row in rows_of(tmp_path, part)]
    assert len(rows) == len(set(rows)) == 10
    assert update(tmp_path, objects, 3) == {**counts, "num_new": 0, "num_changed": 1, "num_deleted": 0}


def test_what_is_gone_waits_until_somebody_has_looked_and_stands_once_whoever_listed_it(tmp_path: Path) -> None:
    objects = {f"{index:02d}.jpg": "1" for index in range(20)}
    update(tmp_path, objects, 1)
    kept = {"00.jpg": "1", "07.jpg": "1"}
    grow = lister(tmp_path, 2, part_rows=4)
    for _ in range(2):  # two executions of a task
        list(grow.update(pages(kept, "", None), 0))
    assert current(tmp_path) == objects
    assert sum(map(len, grow.gone())) == 18
    grow.delete(1)
    assert current(tmp_path) == kept
    tombstones = [row["uri"] for part in part_names(tmp_path) for row in rows_of(tmp_path, part) if row["deleted"]]
    assert len(tombstones) == len(set(tombstones)) == 18
    changes.end_listing(str(tmp_path), 2)
    assert store_objects.list_names(folders.beside(str(tmp_path)), prefix="deleted-") == []


@pytest.mark.parametrize(
    ("num_gone", "num_known", "has_emptied", "is_refused"),
    [
        (2, 10, False, False),
        (2, 10, True, True),
        (1, 10, True, False),
        (20, 100, False, False),
        (21, 100, False, True),
        (21, 210, False, False),
        (22, 210, False, True),
        (10, 10, False, False),
    ],
)
def test_more_than_a_share_is_not_deleted_without_a_word(
    num_gone: int, num_known: int, has_emptied: bool, is_refused: bool, tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "other.jpg").touch()
    folder = tmp_path / "disk" / "deep" if has_emptied else tmp_path
    gone = [f"{folder}/{index}.jpg" for index in range(num_gone)]
    if not is_refused:
        changes.check_deleted(str(tmp_path), "out", iter(gone), num_gone, num_known, 0.1)
        return
    with pytest.raises(ValueError, match=rf"^out: {num_gone} of its {num_known} images would be deleted") as told:
        changes.check_deleted(str(tmp_path), "out", iter(gone), num_gone, num_known, 0.1)
    assert ("disk is empty; is it mounted?" in str(told.value)) == has_emptied
    share = float(str(told.value).rpartition("--max-deleted-fraction ")[2].partition(" ")[0])
    changes.check_deleted(str(tmp_path), "out", iter(gone), num_gone, num_known, share)


def test_a_source_without_images_deletes_nothing(tmp_path: Path) -> None:
    update(tmp_path, {"a.jpg": "1"}, 1)
    with pytest.raises(ValueError, match=r"/faces: no images there \(1 other files\)"):
        update(tmp_path, {"notes.txt": "1"}, 2)
    assert current(tmp_path) == {"a.jpg": "1"}


def test_a_listing_in_another_order_and_one_that_repeats_itself_are_refused(tmp_path: Path) -> None:
    for names, message in (
        (["b.jpg", "a.jpg"], "/faces/a.jpg: listed behind /faces/b.jpg, which is not the order of names"),
        (["a.jpg", "b.jpg", "b.jpg"], "/faces/b.jpg: listed twice"),
    ):
        rows = pa.concat_tables([table({name: "1"}) for name in names])
        for part_rows in (1, 2, 100):
            with pytest.raises(ValueError, match=message):
                list(lister(tmp_path / str(part_rows), 1, part_rows).update([rows.slice(0, 1), rows.slice(1)], 0))


def test_only_images_below_the_source_and_outside_the_catalog_count() -> None:
    names = ["/faces/a.JPG", "/faces/b.txt", "/faces/.c/d.jpg", "/faces/.e.jpg", "/faces/out/f.jpg", "/faces2/g.jpg"]
    rows = pa.table([names, ["1"] * 6, [1] * 6], schema=listing.ROWS)
    found, num_ignored = changes.select_images(rows, "/faces", "/faces/out")
    assert found["uri"].to_pylist() == ["/faces/a.JPG"]
    assert num_ignored == 4


def test_a_version_that_comes_back_is_another_row(tmp_path: Path) -> None:
    update(tmp_path, {"a.jpg": "one", "b.jpg": "one"}, 1)
    update(tmp_path, {"b.jpg": "two"}, 2)
    counts = update(tmp_path, {"a.jpg": "one", "b.jpg": "one"}, 3)
    assert (counts["num_new"], counts["num_changed"]) == (1, 1)
    rows = Catalog.open(str(tmp_path)).read(["uri", "version"]).to_pylist()
    assert {(row["uri"], row["version"]) for row in rows} == {("/faces/a.jpg", "one@3"), ("/faces/b.jpg", "one@3")}
    counts = update(tmp_path, {"a.jpg": "one", "b.jpg": "one"}, 4)
    assert not counts["num_new"] + counts["num_changed"] + counts["num_deleted"], "it is known now"
    rows = [row for part in part_names(tmp_path) for row in rows_of(tmp_path, part) if not row["deleted"]]
    keys = [(row["uri"], row["version"]) for row in rows]
    assert len(set(keys)) == len(keys)


def test_thumbnails_that_a_drive_keeps_are_no_images_of_a_listing_made_elsewhere() -> None:
    uris = [
        "s3://b/lost+found/in/a.jpg",
        "s3://b/lost+found/in/@eaDir/a.jpg/THUMB.jpg",
        "s3://b/lost+found/in/.x/b.jpg",
    ]
    listed = pa.table({"uri": uris, "version": ["1"] * 3, "size_bytes": [1] * 3}, schema=listing.ROWS)
    pictures, num_ignored = changes.select_images(listed, "s3://b/lost+found/in", "s3://b/catalog")
    assert (pictures["uri"].to_pylist(), num_ignored) == (uris[:1], 2)
