"""Listings with archives in them: members stand where their names sort, once, whatever the ranges."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from factories import write_tar, write_zip

from agescale.cataloging import expansion, parts
from agescale.cataloging.layouts import Label, Labels
from agescale.store import listing
from agescale.store.archives import Index
from agescale.store.listing import Listed

FILES = ["a.jpg", "a.tar.jpg", "a.tar x.jpg", "b/c.jpg", "b/d.zip.txt", "z.jpg"]
ARCHIVES = {
    "a.tar": ["0.jpg", "z/1.jpg"],
    "b/d.zip": ["~.jpg", "m/.hidden.jpg", "m/2.jpg", ".x/3.jpg"],
    "b/E.TAR": ["4.jpg"],
    "c.zip": ["notes.txt"],
}
MEMBERS = ["a.tar!/0.jpg", "a.tar!/z/1.jpg", "b/d.zip!/m/2.jpg", "b/d.zip!/~.jpg", "b/E.TAR!/4.jpg", "c.zip!/notes.txt"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "b").mkdir(parents=True)
    for name in FILES:
        (folder / name).write_bytes(b"1")
    for name, members in ARCHIVES.items():
        write = write_zip if name.endswith(".zip") else write_tar
        write(folder / name, {member: member.encode() for member in members})
    return folder


def expanded(source: Path, after: str = "", until: str | None = None, told: Counter[str] | None = None) -> list[str]:
    def tell(uri: str, index: Index) -> None:
        if told is not None:
            told[Path(uri).name] += 1

    pages = map(listing.to_table, listing.pages(str(source), after, until))
    tables = expansion.expanded(pages, str(source), str(source.parent / "out"), tell)
    return [uri.removeprefix(f"{source}/") for table in tables for uri in table["uri"].to_pylist()]


def test_members_stand_where_their_names_sort(source: Path) -> None:
    told: Counter[str] = Counter()
    assert expanded(source, told=told) == sorted(FILES + MEMBERS)
    assert told == {"a.tar": 1, "d.zip": 1, "E.TAR": 1, "c.zip": 1}


def test_whatever_the_ranges_every_member_stands_in_one(source: Path) -> None:
    everything = sorted(FILES + MEMBERS)
    for num in (1, 2, 3, 7, 50):
        ranges = listing.cut(str(source), num)
        found = [expanded(source, after, until) for after, until in ranges]
        assert [name for names in found for name in names] == everything
        for (after, until), names in zip(ranges, found, strict=True):
            assert all(after < name and (until is None or name <= until) for name in names)


def test_a_range_may_be_cut_anywhere(source: Path) -> None:
    everything = sorted(FILES + MEMBERS)
    chance = random.Random(0)
    places = [*FILES, *ARCHIVES, *MEMBERS, "a.tar!", "a.tar!/", "a.ta", "b/d.zip\x01", "b/E"]
    for _ in range(30):
        cuts = sorted({listing._behind_archive(place) for place in chance.sample(places, chance.choice([1, 2, 5]))})
        ranges = zip(["", *cuts], [*cuts, None], strict=True)
        assert [name for each in ranges for name in expanded(source, *each)] == everything


def test_an_archive_as_source_is_the_folder_of_its_members(source: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.tar").mkdir()
    assert listing.as_folder(str(tmp_path / "folder.tar")) == str(tmp_path / "folder.tar")
    assert listing.as_folder(str(tmp_path / "none.tar")) == str(tmp_path / "none.tar")
    folder = listing.as_folder(str(source / "a.tar"))
    assert expanded(Path(folder)) == ["0.jpg", "z/1.jpg"]
    assert listing.cut(folder, 10) == [("", None)]


def test_a_folder_that_is_called_as_an_archives_members_are_is_told(source: Path, tmp_path: Path) -> None:
    (source / "a.tar!").mkdir()
    (source / "a.tar!" / "0.jpg").write_bytes(b"another")
    problems: list[str] = []

    def tell(uri: str, index: Index) -> None:
        problems.extend(row["uri"] for row in expansion.findings_of(uri, index))

    tables = expansion.expanded(
        map(listing.to_table, listing.pages(str(source))), str(source), str(tmp_path / "out"), tell
    )
    uris = pa.concat_tables(tables)["uri"].to_pylist()
    assert uris.count(f"{source}/a.tar!/0.jpg") == 1
    assert problems == [f"{source}/a.tar!/0.jpg"]


def test_what_lies_in_folders_of_the_system_is_not_looked_into(source: Path) -> None:
    for folder in ("#recycle", "old.agescale", "b/@eaDir"):
        (source / folder).mkdir(parents=True)
        shutil.copy(source / "a.tar", source / folder / "x.tar")
    told: Counter[str] = Counter()
    names = expanded(source, told=told)
    assert told["x.tar"] == 0
    assert [name for name in names if "x.tar" in name] == ["#recycle/x.tar", "b/@eaDir/x.tar", "old.agescale/x.tar"]


def test_tables_without_an_archive_pass_as_they_are() -> None:
    tables = [pa.table([[f"/f/{n}.jpg"], ["1"], [1]], schema=listing.ROWS) for n in range(3)]
    passed = list(expansion.expanded(tables, "/f", "/out", lambda uri, index: None))
    assert all(before is after for before, after in zip(tables, passed, strict=True))


def test_neighbours_stay_in_one_part_and_a_part_is_a_mixture_of_runs() -> None:
    def listed(number: int) -> Listed:
        return Listed(f"/x.tar!/{number:05d}.jpg", f"{number:05d}.jpg", "1", 1, run=f"/x.tar {number // 128}")

    items = [listed(number) for number in range(4096)]
    planned = parts.planned_parts(items, Labels({item.relative: Label() for item in items}), 1, 0, False, True)
    assert [len(part) for part in planned] == [512] * 8
    for part in planned:
        numbers = [int(uri[8:13]) for uri in part["uri"].to_pylist()]
        assert len({number // 128 for number in numbers}) == 4
        assert numbers != sorted(numbers)
