"""Images wherever they lie, as files and objects or as members of archives: URIs in, bytes out.

Members that lie beside one another are read by one request; where they lie, the index of their archive tells that was
kept when it was listed. It is believed only as far as the bytes there are those of the member: their CRC-32 and their
number are its version. Where they are not, the archive is another one by now, and it is looked into anew.
"""

from __future__ import annotations

import itertools
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from agescale.store import archives, image_tables, objects, paths
from agescale.store.errors import StoreError, changed

Read = Callable[[str, str, int | None], bytes]
"""Takes a URI, a version and a size, as ``objects.read_bytes`` does."""

WINDOW_BYTES = 32 * 2**20
"""Of members that are read together; twice as many may be under way, and what waits to be decoded is held, too."""
MAX_RANGE_BYTES = 16 * 2**20
"""Of one request; a larger member has one of its own."""
MAX_GAP_BYTES = 256 * 2**10
"""Between two members that are read by one request: as much comes in the time that another one would take."""


def read_bytes(uri: str, version: str = "", size_bytes: int | None = None) -> bytes:
    """The whole of a file, an object or a member, as ``objects.read_bytes``. A member that its archive does not hold is
    missing, and one that is not as it says is unreadable."""
    found = paths.archive_and_member(uri)
    if found is None:
        return objects.read_bytes(uri, version, size_bytes)
    archive, name = found
    now = objects.version(archive)
    if now is None:
        raise StoreError("missing", f"{uri}: there is no {archive}")
    with _LOCK:
        index = _index(archive, now)
    position = pc.index(index.members["name"], name).as_py()
    if position < 0:
        raise StoreError("missing", f"{uri}: not in the archive")
    (place,) = index.members.slice(position, 1).select(archives.PLACES).to_pylist()
    if version and place["version"] != version:
        raise changed(uri)
    data = _unpacked(archives.read_member(archive, place["start"], place["stop"], place["packing"]), place)
    if data is None:
        raise StoreError("unreadable", f"{uri}: its bytes are not those that the archive says it holds")
    return data


_LOCK = threading.Lock()


@lru_cache(maxsize=4)
def _index(archive: str, version: str) -> archives.Index:
    return archives.read_index(archive, version)


def _unpacked(data: bytes, place: Mapping[str, Any]) -> bytes | None:
    """A member out of what lies in its place; None where that is something else."""
    try:
        data = archives.unpack(data, place["packing"], place["size_bytes"])
    except ValueError:
        return None
    return data if archives.member_version(zlib.crc32(data), len(data)) == place["version"] else None


def delivers(uri: str, version: str = "", size_bytes: int | None = None) -> bool:
    """Whether an image can be read now, as ``read_bytes`` reads it. Raises the StoreError that ends a job."""
    try:
        read_bytes(uri, version, size_bytes)
    except StoreError as error:
        if error.stops_the_job:
            raise
        return False
    return True


def reads(uris: Sequence[str], folder: str, pool: Executor) -> Iterator[Read]:
    """What reads each of ``uris``, in their order: of members, ahead in ``pool``, with their neighbours. ``folder`` is
    where the indexes of archives are kept."""
    found = [paths.archive_and_member(uri) for uri in uris]
    if not any(found):
        yield from itertools.repeat(read_bytes, len(uris))
        return
    places = _places(found, folder, pool)
    windows = (_ahead(window, pool) for window in _windows(found, places))
    held = next(windows)
    for window in windows:  # what comes next is asked for before this one is decoded
        yield from held
        held = window
    yield from held


@dataclass(frozen=True)
class _Place:
    """Where a member lies."""

    archive: str
    start: int
    stop: int
    packing: str
    size_bytes: int
    version: str

    @property
    def group(self) -> tuple[str, int] | None:
        """The row group that it is read with, whole; None for what lies in bytes of its own."""
        return (self.archive, self.start) if self.packing.startswith(archives.ROWS) else None


Found = tuple[str, str] | None


def _places(found: Sequence[Found], folder: str, pool: Executor) -> list[_Place | None]:
    """Where each member lies, as far as the kept indexes tell; each of them is read once."""
    rows_of: dict[str, list[int]] = {}
    for row, each in enumerate(found):
        if each:
            rows_of.setdefault(each[0], []).append(row)
    places: list[_Place | None] = [None] * len(found)

    def ask(archive: str) -> None:
        rows = rows_of[archive]
        names = pa.array([each[1] for row in rows if (each := found[row])], pa.string())
        members = archives.kept_members(folder, archive, names)
        if members is not None:
            told = members.take(pc.index_in(names, value_set=members["name"].combine_chunks()))
            for row, place in zip(rows, told.to_pylist(), strict=True):
                if place.pop("name") is not None:
                    places[row] = _Place(archive, **place)

    list(pool.map(ask, rows_of))
    return places


def _windows(found: Sequence[Found], places: Sequence[_Place | None]) -> Iterator[list[_Place | None]]:
    """Rows in a row that are read together. No row group is torn."""
    window: list[_Place | None] = []
    num_bytes, group = 0, None
    for place in places:
        size = 0 if place is None else place.size_bytes if place.group else place.stop - place.start
        is_torn = place is not None and place.group is not None and place.group == group
        group = place.group if place else None
        if window and num_bytes + size > WINDOW_BYTES and not is_torn:
            yield window
            window, num_bytes = [], 0
        window.append(place)
        num_bytes += size
    yield window


def _ahead(window: Sequence[_Place | None], pool: Executor) -> list[Read]:
    """Begins to read a window, and says how its rows are read."""
    asked: dict[int, tuple[int, Future[bytes]]] = {}
    rows = [place for place in window if place and place.group]
    groups = {place.group: place.packing.removeprefix(archives.ROWS) for place in rows if place.group}
    images = {group: pool.submit(image_tables.read_group, *group, column) for group, column in groups.items()}
    order = sorted((each for each in window if each and not each.group), key=lambda each: (each.archive, each.start))
    ranges: list[list[_Place]] = []
    for place in order:
        last = ranges[-1] if ranges else None
        is_near = last and last[0].archive == place.archive and place.start <= last[-1].stop + MAX_GAP_BYTES
        if last and is_near and place.stop - last[0].start <= MAX_RANGE_BYTES:
            last.append(place)
        else:
            ranges.append([place])
    for together in ranges:
        start, stop = together[0].start, max(place.stop for place in together)
        task = pool.submit(objects.read_range, together[0].archive, start, stop)
        asked |= {id(place): (start, task) for place in together}
    return [
        read_bytes
        if place is None
        else _reader(place, partial(_of_group, images[place.group], place))
        if place.group
        else _reader(place, partial(_of_range, *asked[id(place)], place))
        for place in window
    ]


def _of_range(start: int, task: Future[bytes], place: _Place) -> bytes:
    return task.result()[place.start - start : place.stop - start]


def _of_group(task: Future[list[bytes | None]], place: _Place) -> bytes:
    images = task.result()
    return (images[place.stop] if place.stop < len(images) else None) or b""


def _reader(place: _Place, take: Callable[[], bytes]) -> Read:
    """What reads a member: where ``take`` gives other bytes, the archive is looked into anew."""

    def read(uri: str, version: str = "", size_bytes: int | None = None) -> bytes:
        try:
            data = take()
        except StoreError as error:
            if error.status != "changed":
                raise
            data = b""
        member = _unpacked(data, vars(place)) if version in ("", place.version) else None
        return read_bytes(uri, version, size_bytes) if member is None else member

    return read
