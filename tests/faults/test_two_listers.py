"""A job that was paused while it listed, beyond its lease, goes on amid or after the one that took its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from agescale.cataloging import changes, driver
from agescale.cataloging.driver import build_catalog
from agescale.config import CatalogConfig
from agescale.store import lease, objects
from agescale.tables import catalogs, folders
from agescale.tables.catalogs import Catalog

NUM_IMAGES, PART_ROWS, NUM_PARTS = 30, 8, 4
Write = Callable[..., bool]


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str, bool]:
    """A source, the place of its catalog, and whether there are leases: a lock on disk is held while its job sleeps."""
    monkeypatch.setattr(catalogs, "LISTED_PART_ROWS", PART_ROWS)
    monkeypatch.setattr(lease, "EXPIRES_S", 1.5)
    monkeypatch.setattr(lease, "POLL_S", 0.05)
    monkeypatch.setattr(lease, "RENEW_S", 600)
    has_lease = request.param == "s3"
    root = f"{request.getfixturevalue('s3')}/{tmp_path.name}" if has_lease else str(tmp_path)
    for index in range(NUM_IMAGES):
        objects.write_bytes(f"{root}/faces/{index:02d}.jpg", b"x")
    return f"{root}/faces", f"{root}/catalog", has_lease


def keys(out: str) -> list[tuple[str, str]]:
    catalog = Catalog.open(out)
    parts = [catalog.read_part(part, ["uri", "version"]) for part in catalog.names]
    rows = pa.concat_tables(parts)
    return sorted(zip(rows["uri"].to_pylist(), rows["version"].to_pylist(), strict=True))


@pytest.mark.parametrize("num_before", [0, 1, NUM_PARTS - 1], ids="paused before part {}".format)
@pytest.mark.parametrize("is_written", [False, True], ids=["at last", "amid the other"])
def test_no_image_is_listed_twice_and_the_late_one_stops(
    place: tuple[str, str, bool], num_before: int, is_written: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first job has proved its lease, and sleeps right before it creates a part. It wakes when the other one has
    ended, or else when the other one is about to write that very part."""
    source, out, has_lease = place
    config = CatalogConfig(source, out, lease=has_lease)
    write, num_calls = folders.write_new_part, 0

    def sleep_before(uri: str, name: str, table: pa.Table, *rest: int) -> bool:
        nonlocal num_calls
        num_calls += 1
        if num_calls != num_before + 1:
            return write(uri, name, table, *rest)

        def wake_first(*others: object) -> bool:
            if others[1] != name:  # a range beside is sealed at the same time
                return write(*others)  # type: ignore[arg-type]
            monkeypatch.setattr(folders, "write_new_part", write)
            late.append(write(uri, name, table, *rest))
            return write(*others)  # type: ignore[arg-type]

        late: list[bool] = []
        monkeypatch.setattr(folders, "write_new_part", wake_first if is_written else write)
        monkeypatch.setattr(lease, "RENEW_S", 0.1)  # of the other one
        build_catalog(config)
        return late[0] if late else write(uri, name, table, *rest)

    monkeypatch.setattr(folders, "write_new_part", sleep_before)
    has_written_all = num_before == NUM_PARTS - 1 and is_written
    if has_written_all and not has_lease:
        build_catalog(config)  # and nobody could tell it
    else:
        with pytest.raises(lease.Held, match=r"another job (has taken over and goes on there|may have taken over)"):
            build_catalog(config)
    found = keys(out)
    assert len({uri for uri, _ in found}) == len(found) == NUM_IMAGES
    catalog = Catalog.open(out)
    catalog.check_complete()
    assert {catalog.only([part]).id for part in catalog.names} == {catalog.id}

    monkeypatch.setattr(folders, "write_new_part", write)
    assert build_catalog(config).num_new == 0
    assert keys(out) == found
    assert [name for name in objects.list_names(folders.beside(out)) if changes.BEGUN.fullmatch(name)] == []


def test_two_that_begin_at_once_without_a_lease_have_different_numbers(place: tuple[str, str, bool]) -> None:
    _, out, _ = place
    assert [changes.begin_listing(out, "1", 1) for _ in range(3)] == [1, 2, 3]
    changes.end_listing(out, 2)
    assert sorted(changes.read_begun(out)) == [1, 3]
    assert changes.begin_listing(out, "1", 1) == 4


def test_a_twin_of_a_task_adds_what_the_other_one_has_not(place: tuple[str, str, bool]) -> None:
    source, out, _ = place
    rows = list(driver._list_small(source, out) or [])
    nobodys = lease.Claim("", "", holder="")
    metadata = {"id": "1", "settings": {}}
    first, second = (
        changes.RangeLister(source, out, metadata, 1, [], PART_ROWS, nobodys).update(rows, 0) for _ in range(2)
    )
    for lister in (first, second, second, first):  # turn by turn, both knowing of no part when they begin
        next(lister, None)
    list(first), list(second)
    assert len(keys(out)) == len(set(keys(out))) == NUM_IMAGES
