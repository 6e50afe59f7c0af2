"""Archives in a listing: each is read once for what it holds, and its members take its place, as if they were files.

What was read is kept beside the catalog, so an archive that has not changed is not read again. What is wrong with one
becomes findings; an archive that cannot be read to its end has the members before the damage. Reads no image.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from agescale.store import archives, listing, objects, parquet, paths
from agescale.store.archives import Index, Problem
from agescale.store.errors import StoreError
from agescale.store.listing import Listed
from agescale.tables import catalogs, folders, schema

IS_ARCHIVE = rf"(?i)(?:{'|'.join(ending.replace('.', '[.]') for ending in paths.ARCHIVES)})$"
IS_MEMBER = rf"(?i)(?:{'|'.join(ending.replace('.', '[.]') for ending in paths.ARCHIVES)})!/"
RUN_MEMBERS = 128
"""Members beside one another that stay together where rows are shuffled, to be read by one request."""

Tell = Callable[[str, Index], None]
"""Takes an archive's URI, and what it holds."""


def expanded(
    listed: Iterable[pa.Table], source: str, out: str, tell: Tell, with_records: bool = False
) -> Iterator[pa.Table]:
    """A listing (listing.ROWS, in the order of URIs) of ``source`` with the members of archives in their places.

    Tables without an archive pass as they are.
    """
    inside = len(paths.join(source, ""))
    waiting: list[tuple[str, str, str]] = []  # archives whose members come behind what has been listed
    for table in listed:
        uris = table["uri"]
        is_archive = pc.and_(pc.match_substring_regex(uris, IS_ARCHIVE), pc.not_equal(table["version"], ""))
        for ours in (out, folders.beside(out)):  # the catalog may stand in its source
            is_archive = pc.and_(is_archive, pc.invert(pc.starts_with(uris, f"{ours}/")))
        if pc.any(pc.match_substring_regex(pc.utf8_slice_codeunits(uris, inside), IS_MEMBER)).as_py():
            table, is_archive = _without_impostors(table, is_archive, inside, tell)
        if not waiting and not pc.any(is_archive).as_py():
            yield table
            continue
        start = 0
        rows = zip(table["uri"].to_pylist(), table["version"].to_pylist(), is_archive.to_pylist(), strict=True)
        for index, (uri, version, has_name) in enumerate(rows):
            holds_members = has_name and not listing.is_in_system_folder(uri[inside:])
            if holds_members or (waiting and waiting[0][0] < uri):
                yield table.slice(start, index - start)
                start = index + holds_members
            while waiting and waiting[0][0] < uri:
                yield from _members(*heapq.heappop(waiting)[1:], out, tell, with_records)
            if holds_members:
                heapq.heappush(waiting, (paths.join(paths.members_of(uri), ""), uri, version))
        yield table.slice(start)
    while waiting:
        yield from _members(*heapq.heappop(waiting)[1:], out, tell, with_records)


def _without_impostors(
    table: pa.Table, is_archive: pa.ChunkedArray, inside: int, tell: Tell
) -> tuple[pa.Table, pa.ChunkedArray]:
    """Leaves out files in folders that are called as the members of an archive are."""
    uris = table["uri"]
    is_other = pc.invert(pc.match_substring_regex(pc.utf8_slice_codeunits(uris, inside), IS_MEMBER))
    for uri in uris.filter(pc.invert(is_other)).to_pylist()[:1]:
        why = "its folder is called as an archive's members are; rename the folder"
        tell(uri, Index("", archives.MEMBERS.empty_table(), (Problem("unusable_member", why),)))
    return table.filter(is_other), is_archive.filter(is_other)


def _members(uri: str, version: str, out: str, tell: Tell, with_records: bool) -> Iterator[pa.Table]:
    index = read(uri, version, out, with_records)
    tell(uri, index)
    members = _visible(index.members)
    for start in range(0, len(members), catalogs.LISTED_GROUP_ROWS):
        part = members.slice(start, catalogs.LISTED_GROUP_ROWS)
        uris = pc.binary_join_element_wise(paths.members_of(uri), part["name"], "/")
        yield pa.table([uris, part["version"], part["size_bytes"]], schema=listing.ROWS)


def read(uri: str, version: str, out: str, with_records: bool = False) -> Index:
    """What an archive holds, kept beside the catalog ``out``; nothing where it is gone."""
    try:
        return archives.kept_index(folders.archives(out), uri, version, with_records)
    except StoreError as error:
        if error.status != "missing":
            raise
        return Index(version, archives.MEMBERS.empty_table())


def _visible(members: pa.Table) -> pa.Table:
    """Without hidden files, which folders are listed without, too."""
    return members.filter(pc.invert(pc.match_substring_regex(members["name"], r"(?:^|/)[.]")))


def as_files(archive: Listed, index: Index, source: str) -> list[Listed]:
    """The members of an archive in ``source`` as listed files, each with the run that it is read with."""
    members = _visible(index.members)
    start_N = members["start"].to_numpy()
    is_row_N = pc.starts_with(members["packing"], archives.ROWS).to_numpy()
    run_N = np.where(is_row_N, start_N, np.argsort(np.argsort(start_N, kind="stable"), kind="stable") // RUN_MEMBERS)
    root = paths.join(source, "")
    return [
        Listed(uri, uri.removeprefix(root), version, size, f"{archive.uri} {run}", record or "")
        for uri, version, size, run, record in zip(
            (paths.join(paths.members_of(archive.uri), name) for name in members["name"].to_pylist()),
            members["version"].to_pylist(),
            members["size_bytes"].to_pylist(),
            run_N.tolist(),
            members["record"].to_pylist(),
            strict=True,
        )
    ]


def findings_of(uri: str, index: Index) -> list[dict[str, Any]]:
    """Rows of schema.FINDINGS about an archive and its members."""
    return [
        {
            "uri": paths.join(paths.members_of(uri), each.member) if each.member else uri,
            "version": index.version,
            "kind": each.kind,
            "detail": each.detail,
        }
        for each in index.problems
    ]


def put_aside(out: str, listing_number: int, uri: str, index: Index) -> None:
    """Keeps what is wrong with an archive beside the catalog until the listing of that number ends."""
    if index.problems:
        rows = pa.Table.from_pylist(findings_of(uri, index), schema.FINDINGS)
        name = f"problems-{listing_number:05d}-{objects.sha256(uri.encode())[:32]}.parquet"
        parquet.write_table(paths.join(folders.beside(out), name), rows)


def aside(out: str, listing_number: int) -> pa.Table:
    """What ``put_aside`` has kept: findings."""
    beside = folders.beside(out)
    names = objects.list_names(beside, prefix=f"problems-{listing_number:05d}-")
    found = [parquet.read_table(paths.join(beside, name)) for name in names]
    return pa.concat_tables([schema.FINDINGS.empty_table(), *found]).sort_by(
        [("uri", "ascending"), ("kind", "ascending")]
    )
