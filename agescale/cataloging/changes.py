"""What changed since a catalog was last listed: a listing in the order of URIs in, new parts of the catalog out.

For images that are only listed. Listing and catalog are compared a window at a time, and parts are written as they
come, so memory is flat however large both are. Reads no image, and knows nothing of labels.

A listing is begun by a file of its number beside the catalog, which only one job can create, and its parts are written
one by one in each range of names, each of which only one process can create, too. So of a job that was thought dead and
the one that took its place no two can add the same row: the other one seals what was begun, by an empty part behind the
last of each range, which is where the first one's next part would stand, however late it is written.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from agescale.cataloging import expansion
from agescale.cataloging.comparison import CHANGES, compare, told_apart
from agescale.faces import images
from agescale.store import lease, listing, objects, parquet, paths
from agescale.tables import catalogs, folders, schema
from agescale.tables.catalogs import LISTED_GROUP_ROWS, Part

KNOWN_ROWS = 300_000
"""Rows of the catalog that are compared at once, where that many were deleted in a row: some 200 MB."""
COUNTS = ("num_rows", "num_new", "num_changed", "num_deleted", "num_ignored")
"""What is told of each window of a listing: its images, rows of the catalog that they added, and other files."""
RANGE = pa.schema([("number", pa.int64()), ("after", pa.string()), ("until", pa.string())])
"""A unit of listing: the relative paths of ``listing.pages``, and the number that the names of its parts begin with."""
KNOWN = pa.schema([schema.CATALOG.field(name) for name in ("uri", "version", "deleted")])


BEGUN = re.compile(r"listing-(\d{5,})\.json")
"""Beside a catalog: a listing that has begun and not ended, the catalog's id, and how many ranges of names it has."""


def begin_listing(out: str, catalog_id: str, num_ranges: int) -> int:
    """The number of a new listing, which no other has or will have, whoever else begins one meanwhile.

    ``num_ranges``: of names, whose parts are to be sealed by whoever takes over (``seal_begun``); 0 where a catalog is
    read only when it is complete, so that a late part is noticed, and removed by the next job.
    """
    numbers = [*map(catalogs.listing_of, folders.list_parts(out, "catalog")), *read_begun(out)]
    number = 1 + max(numbers, default=0)
    said = json.dumps({"id": catalog_id, "num_ranges": num_ranges}).encode()
    while not objects.write_new(_begun_uri(out, number), said, scratch=folders.beside(out)):
        number += 1
    return number


def read_begun(out: str) -> dict[int, dict[str, Any]]:
    """What the listings that have begun and not ended say, by their numbers. Raises ValueError for a damaged file."""
    names = objects.list_names(folders.beside(out))
    begun = {int(found[1]): paths.join(folders.beside(out), name) for name in names if (found := BEGUN.fullmatch(name))}
    return {number: _read_begun(uri) for number, uri in begun.items()}


def _read_begun(uri: str) -> dict[str, Any]:
    try:
        said = json.loads(objects.read_bytes(uri))
        return {"id": str(said["id"]), "num_ranges": int(said["num_ranges"])}
    except (ValueError, KeyError, TypeError) as error:
        hint = "where no other job lists into this catalog, delete it, and run the same command again"
        raise ValueError(f"{uri}: damaged, not a valid record of a listing; {hint}") from error


def _begun_uri(out: str, number: int) -> str:
    return paths.join(folders.beside(out), f"listing-{number:05d}.json")


def seal_begun(out: str, metadata: Mapping[str, Any]) -> None:
    """Ends the listings that other jobs have begun: none of their processes can add a part behind this."""
    ranges = [(number, each) for number, said in read_begun(out).items() for each in range(said["num_ranges"])]
    if ranges:
        with objects.read_pool() as pool:
            list(pool.map(lambda each: _seal(out, metadata, *each), ranges))


def _seal(out: str, metadata: Mapping[str, Any], number: int, range_number: int) -> None:
    """Puts an empty part behind the others of a range, unless one stands there."""
    prefix = catalogs.part_prefix(number, range_number)
    empty = schema.CATALOG.empty_table().cast(schema.with_metadata("catalog", {**metadata, "replaces": False}))
    while True:
        names = [name for name in folders.list_parts(out, "catalog") if name.startswith(prefix)]
        if names and parquet.num_rows(paths.join(out, names[-1])) == 0:
            return
        folders.write_new_part(out, catalogs.part_name(number, len(names), range_number), empty)


def end_listing(out: str, number: int) -> None:
    """Says that the listing of that number has ended; and those before it, where no later one can get their numbers."""
    beside = folders.beside(out)
    for name in [*objects.list_names(beside, prefix="deleted-"), *objects.list_names(beside, prefix="problems-")]:
        if catalogs.listing_of(name) <= number:
            objects.delete(paths.join(beside, name))
    newest = max(map(catalogs.listing_of, folders.list_parts(out, "catalog")), default=0)
    for begun in read_begun(out):
        if begun in (number, *range(newest + 1)):
            objects.delete(_begun_uri(out, begun))


MIN_DELETED = 20
"""So few images may go whatever their share, as somebody tidied up; unless their folder is there, and empty."""


def check_deleted(source: str, out: str, gone: Iterable[str], num_gone: int, num_known: int, most: float) -> None:
    """Raises ValueError where more than a share ``most`` of the images of a catalog are not there any more; ``gone``
    are their URIs."""
    if num_gone <= most * num_known:
        return
    example, emptied = "", ""
    for uri in gone:
        example = example or uri
        emptied = emptied or _emptied_folder(source, uri)
        if emptied or num_gone > MIN_DELETED:
            break
    if emptied or num_gone > MIN_DELETED:
        seen = f"{emptied} is empty; is it mounted?" if emptied else f"such as {example}; is all of {source} there?"
        raise ValueError(
            f"{out}: {num_gone:,} of its {num_known:,} images would be deleted, {seen} If they have gone for good: "
            f"--max-deleted-fraction {math.ceil(1000 * num_gone / num_known) / 1000:g} (it is {most:g})"
        )


def _emptied_folder(source: str, uri: str) -> str:
    """The folder of a local file that is gone where it, or the nearest above it that is left, holds nothing at all."""
    folder = os.path.dirname(uri)
    while not paths.is_remote(uri) and folder.startswith(f"{source}/"):
        if os.path.isdir(folder):
            return "" if os.listdir(folder) else folder
        folder = os.path.dirname(folder)
    return ""


def no_images(source: str, num_others: int) -> ValueError:
    extensions = " ".join(images.EXTENSIONS)
    return ValueError(f"{source}: no images there ({num_others} other files); images end in {extensions}")


def select_images(listed: pa.Table, source: str, out: str) -> tuple[pa.Table, int]:
    """The images of a listing, and how many other files it names; what stands in the catalog is neither."""
    for ours in (out, folders.beside(out)):
        listed = listed.filter(pc.invert(pc.starts_with(listed["uri"], f"{ours}/")))
    root = paths.join(source, "")
    is_picture = [
        bool(version)
        and uri.startswith(root)
        and "/." not in uri[len(root) - 1 :]
        and images.is_image_name(uri)
        and not listing.is_in_system_folder(uri[len(root) :])
        for uri, version in zip(listed["uri"].to_pylist(), listed["version"].to_pylist(), strict=True)
    ]
    pictures = listed.filter(pa.array(is_picture, pa.bool_()))
    return pictures, len(listed) - len(pictures)


@dataclass(frozen=True, eq=False)
class RangeLister:
    """Lists a range of names and writes what differs from the catalog, a part after the other. Runs in a Ray task.

    A task that runs again, because its node was lost, goes on behind the parts that it wrote the first time. Raises
    Held where another job has taken over.

    What is gone waits beside the catalog until all ranges are listed and somebody has looked how much it is
    (``delete``): then it becomes parts of the range behind the last.
    """

    source: str
    out: str
    metadata: dict[str, Any]  # of every part of the catalog
    listing_number: int
    known: Sequence[Part]  # of the listings before, oldest first
    part_rows: int
    claim: lease.Claim

    def __call__(self, unit: pa.Table) -> Iterator[pa.Table]:
        (a_range,) = unit.to_pylist()
        number, after, until = (a_range[name] for name in RANGE.names)
        listed = map(listing.to_table, listing.pages(self.source, after, until))
        yield from self.update(listed, number, after, until)

    def update(
        self, listed: Iterable[pa.Table], number: int, after: str = "", until: str | None = None
    ) -> Iterator[pa.Table]:
        """Takes the listing of a range, in the order of URIs, and yields how many rows of each window are what."""
        prefix = catalogs.part_prefix(self.listing_number, number)
        names = [name for name in folders.list_parts(self.out, "catalog") if name.startswith(prefix)]
        written = [catalogs.ask_part(paths.join(self.out, name)) for name in names]
        if any(not part.num_rows for part in written):
            raise lease.taken_over(self.out)
        new_names = (catalogs.part_name(self.listing_number, each, number) for each in itertools.count(len(written)))
        waiting = {False: CHANGES.empty_table(), True: CHANGES.empty_table()}  # by whether they replace known rows
        gone_names = (f"deleted-{prefix.removeprefix('part-')}{index:06d}.parquet" for index in itertools.count())
        all_gone = CHANGES.empty_table()
        with objects.read_pool() as pool:
            tell = partial(expansion.put_aside, self.out, self.listing_number)
            listed = expansion.expanded(listed, self.source, self.out, tell)
            for pictures, num_ignored, low, high in self._windows(listed, after, until):
                counts = Counter(num_rows=len(pictures), num_ignored=num_ignored)
                for start, end in _split(self.known, low, high):
                    here = pictures.filter((pc.field("uri") > start) & (pc.field("uri") <= end))
                    known = self._read(self.known, start, end, pool)
                    new, changed, gone = compare(here, catalogs.current(known))
                    new, changed = (told_apart(rows, known, self.listing_number) for rows in (new, changed))
                    counts.update(num_new=len(new), num_changed=len(changed), num_deleted=len(gone))
                    before = self._read(written, start, end, pool)["uri"].combine_chunks()
                    new, changed, gone = (
                        rows.filter(pc.invert(pc.is_in(rows["uri"], before))) for rows in (new, changed, gone)
                    )
                    all_gone = pa.concat_tables([all_gone, gone.sort_by("uri")])
                    if len(all_gone) >= self.part_rows:
                        self._put_aside(next(gone_names), all_gone)
                        all_gone = all_gone.slice(0, 0)
                    for replaces, rows in ((False, new), (True, changed)):
                        waiting[replaces] = pa.concat_tables([waiting[replaces], rows])
                        while len(waiting[replaces]) >= self.part_rows:
                            self._add_part(next(new_names), waiting, replaces)
                yield pa.Table.from_pylist([{name: counts[name] for name in COUNTS}])
        if len(all_gone):
            self._put_aside(next(gone_names), all_gone)
        for replaces in waiting:
            while len(waiting[replaces]):
                self._add_part(next(new_names), waiting, replaces)

    def _put_aside(self, name: str, gone: pa.Table) -> None:
        parquet.write_table(paths.join(folders.beside(self.out), name), gone)

    def gone(self) -> Iterator[pa.Table]:
        """What is not there any more, as far as the ranges have been listed."""
        beside = folders.beside(self.out)
        for name in objects.list_names(beside, prefix=f"deleted-{self.listing_number:05d}-"):
            yield parquet.read_table(paths.join(beside, name))

    def delete(self, number: int) -> None:
        """Writes what is gone, as parts of the range of that number."""
        waiting, names = {True: CHANGES.empty_table()}, list[str]()

        def add() -> None:
            names.append(catalogs.part_name(self.listing_number, len(names), number))
            self._add_part(names[-1], waiting, replaces=True)

        with objects.read_pool() as pool:
            for rows in self.gone():  # perhaps of two executions of a task
                parts = [catalogs.ask_part(paths.join(self.out, name)) for name in names]
                extent = pc.min_max(rows["uri"]).as_py()
                near = [part for part in parts if part.last >= extent["min"] and part.first <= extent["max"]]
                known = self._read(near, "", catalogs.LAST, pool)["uri"], waiting[True]["uri"]
                for uris in known:
                    rows = rows.filter(pc.invert(pc.is_in(rows["uri"], uris.combine_chunks())))
                waiting[True] = pa.concat_tables([waiting[True], rows])
                while len(waiting[True]) >= self.part_rows:
                    add()
        while len(waiting[True]):
            add()

    def _windows(
        self, listed: Iterable[pa.Table], after: str, until: str | None
    ) -> Iterator[tuple[pa.Table, int, str, str]]:
        """Images of some pages, files that are none, and the URIs behind the first up to the last that they cover."""
        low = paths.join(self.source, after)
        held, num_ignored, has_images = [listing.ROWS.empty_table()], 0, False
        for table in listed:
            pictures, num_ignored_here = select_images(table, self.source, self.out)
            held.append(pictures)
            num_ignored += num_ignored_here
            has_images = has_images or len(pictures) > 0
            if sum(map(len, held)) >= self.part_rows:
                window = pa.concat_tables(held)
                _check_order(window["uri"], low)
                high = window["uri"][-1].as_py()
                yield window, num_ignored, low, high
                low, held, num_ignored = high, [listing.ROWS.empty_table()], 0
        if not has_images and (after, until) == ("", None):  # a disk that is not mounted deletes nothing
            raise no_images(self.source, num_ignored)
        window = pa.concat_tables(held)
        _check_order(window["uri"], low)
        yield window, num_ignored, low, catalogs.LAST if until is None else paths.join(self.source, until)

    def _read(self, parts: Sequence[Part], start: str, end: str, pool: Executor) -> pa.Table:
        """Rows of ``parts`` with ``start`` < URI <= ``end``, in the order of the parts."""
        wanted = (pc.field("uri") > start) & (pc.field("uri") <= end)
        files = [paths.join(self.out, part.name) for part in parts if part.last > start and part.first <= end]
        known = pool.map(lambda file: parquet.read_table(file, KNOWN.names, wanted), files)
        return pa.concat_tables([KNOWN.empty_table(), *(table.cast(KNOWN) for table in known)])

    def _add_part(self, name: str, waiting: dict[bool, pa.Table], replaces: bool) -> None:
        """Writes the first of the rows that are ``waiting``, of those that replace known ones or of the others, as the
        next part, and takes them out of ``waiting``.

        Where that part stands already, another execution of this task wrote it, or this one and the answer was lost:
        then what is in it is taken out.
        """
        self.claim.prove()
        rows = waiting[replaces].slice(0, self.part_rows)
        if folders.write_new_part(self.out, name, self._as_part(rows, replaces), LISTED_GROUP_ROWS):
            waiting[replaces] = waiting[replaces].slice(len(rows))
            return
        there = parquet.read_table(paths.join(self.out, name), ["uri"])["uri"].combine_chunks()
        if not len(there):
            raise lease.taken_over(self.out)
        for key, table in waiting.items():
            waiting[key] = table.filter(pc.invert(pc.is_in(table["uri"], there)))

    def _as_part(self, rows: pa.Table, replaces: bool) -> pa.Table:
        table_schema = schema.with_metadata("catalog", {**self.metadata, "replaces": replaces})
        now = pa.scalar(dt.datetime.now(dt.UTC), schema.CATALOG.field("listed_at").type)
        columns = {field.name: pa.nulls(len(rows), field.type) for field in table_schema}
        columns |= {"listed_at": pa.repeat(now, len(rows)), **{name: rows[name] for name in rows.column_names}}
        return pa.table(list(columns.values()), schema=table_schema)


def _split(known: Sequence[Part], low: str, high: str) -> Iterator[tuple[str, str]]:
    """Cuts a range of URIs at the ends of parts, where the catalog has more than KNOWN_ROWS in it."""
    parts = [part for part in known if part.last > low and part.first <= high]
    ends = [*sorted({part.last for part in parts if part.last < high}), high]
    for end, end_after in itertools.pairwise(ends):
        if sum(part.num_rows for part in parts if part.last > low and part.first <= end_after) > KNOWN_ROWS:
            yield low, end
            low = end
    yield low, high


def _check_order(uris: pa.ChunkedArray, before: str) -> None:
    """Raises ValueError where a listing is not in the order of URIs: what comes late would seem to be deleted."""
    if not len(uris):
        return
    previous = pa.concat_arrays([pa.array([before]), uris.combine_chunks()])[:-1]
    index = pc.index(pc.less_equal(uris, previous), True).as_py()
    if index >= 0:
        uri, last = uris[index].as_py(), previous[index].as_py()
        if uri == last:
            raise ValueError(f"{uri}: listed twice; a listing names each image once")
        raise ValueError(f"{uri}: listed behind {last}, which is not the order of names; give a listing by --listing")
