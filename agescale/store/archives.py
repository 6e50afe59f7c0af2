"""Tar, zip and Parquet files: what an archive holds, and where in it; and a member's bytes, out of those of the file.

An archive is read once: a tar from its beginning to its end, some megabytes at a time, Parquet a row group at a time,
of a zip only its directory. What is told of the members is held, and nothing else. A member's version is the CRC-32 and
the size of its bytes, so it stays the same however often the archive around it is written anew. Nothing is unpacked to
a disk.
"""

from __future__ import annotations

import bisect
import contextlib
import io
import json
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from agescale.store import image_tables, objects, parquet, paths
from agescale.store.client import explained
from agescale.store.errors import Damaged, StoreError, one_line

MEMBERS = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),  # its path in the archive
        pa.field("version", pa.string(), nullable=False),  # of its bytes
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),  # where in the archive its bytes lie, ...
        pa.field("stop", pa.int64(), nullable=False),  # ... up to here; of rows the group and the place in it
        pa.field("packing", pa.string(), nullable=False),  # how they lie there: plain, zip, rows of a column
        pa.field("record", pa.string()),  # what lies beside it about it: an object of JSON whose values are text
    ]
)
"""What is told of the members of an archive, sorted by name."""
PLACES = [name for name in MEMBERS.names if name != "record"]
INDEX_ROWS = 10_000
"""Rows of a row group of an index that is kept."""
MAX_MEMBER_BYTES = 2**30
BOMB_BYTES, BOMB_RATIO = 64 * 2**20, 100
"""A member of a zip that large, and so many times as large as it is there, is no photo."""
MAX_HEADER_BYTES = 256 * 2**20
"""That are read at once; a header of a tar, or a directory of a zip, that announces more would fill the memory."""
MAX_RECORD_BYTES = 2**16
RECORDS = (".json", ".cls")
"""Files that tell of the one with the same name up to its first dot, as in WebDataset's shards."""
MAX_PROBLEMS = 1000
"""Told of one archive, one by one."""
LOCAL_HEADER = 30
ZIP_MAGIC = b"PK\x03\x04"
UNREADABLE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, struct.error, EOFError),
    *(NotImplementedError, ValueError, OverflowError),
)
"""What is raised for bytes that are no such archive, or for some that are not there."""


@dataclass(frozen=True)
class Problem:
    """What is wrong with an archive, or with the member of that name."""

    kind: str  # one of schema.FINDING_KINDS
    detail: str
    member: str = ""


@dataclass(frozen=True)
class Index:
    """What an archive holds. ``version`` is that of the archive when it was listed."""

    version: str
    members: pa.Table  # MEMBERS
    problems: tuple[Problem, ...] = ()
    has_records: bool = False  # whether they were looked for


def read_index(uri: str, version: str, with_records: bool = False) -> Index:
    """Reads what the archive at ``uri`` holds; as far as it can be read, where it is damaged. Raises StoreError.

    Records are read from a zip only where they are wanted: those of a tar are read anyway.
    """
    found = _Found(with_records)
    read = READERS[next(ending for ending in READERS if uri.lower().endswith(ending))]
    try:
        read(uri, found)
    except UNREADABLE as error:
        reason = error.reason if isinstance(error, Damaged) else str(error)
        found.problems.append(Problem("broken_archive", one_line(f"cannot be read on: {reason}")))
    return Index(version, found.members(), tuple(found.told()), with_records)


def kept_index(folder: str, uri: str, version: str, with_records: bool = False) -> Index:
    """As ``read_index``, which is kept in ``folder`` and read from there while the archive has that version."""
    if before := _standing(folder, uri, version, with_records):
        return before
    index = read_index(uri, version, with_records)
    said = {"archive": uri, "version": version, "has_records": with_records}
    said |= {"problems": [asdict(each) for each in index.problems]}
    members = index.members.replace_schema_metadata({SAID: json.dumps(said)})
    parquet.write_table(_kept_uri(folder, uri), members, INDEX_ROWS)
    return index


def is_kept(folder: str, uri: str, version: str, with_records: bool = False) -> bool:
    """Whether ``kept_index`` need not read the archive."""
    return _standing(folder, uri, version, with_records) is not None


def _standing(folder: str, uri: str, version: str, with_records: bool) -> Index | None:
    with contextlib.suppress(Damaged):
        before = _kept(_kept_uri(folder, uri))
        if before and before.version == version and before.has_records >= with_records:
            return before
    return None


def kept_members(folder: str, uri: str, names: pa.Array) -> pa.Table | None:
    """What the kept index of an archive tells of the members of those names, and some between them; None where there
    is no index."""
    extent, name = pc.min_max(names).as_py(), pc.field("name")
    wanted = (name >= extent["min"]) & (name <= extent["max"])
    try:
        return parquet.read_table(_kept_uri(folder, uri), PLACES, wanted)
    except Damaged:
        return None
    except StoreError as error:
        if error.status != "missing":
            raise
        return None


SAID = b"agescale.archive"


def _kept_uri(folder: str, uri: str) -> str:
    return paths.join(folder, f"{objects.sha256(uri.encode())[:32]}.parquet")


def _kept(file: str) -> Index | None:
    try:
        table = parquet.read_table(file)
        said = json.loads((table.schema.metadata or {})[SAID])
    except (StoreError, KeyError, ValueError) as error:
        if isinstance(error, StoreError) and error.status != "missing":
            raise
        return None
    problems = tuple(Problem(**each) for each in said["problems"])
    return Index(said["version"], table.replace_schema_metadata(None), problems, said["has_records"])


@contextlib.contextmanager
def _opened(uri: str) -> Iterator[BinaryIO]:
    """An archive to be read, in ranges of some megabytes where it lies on S3."""
    with explained(uri):
        raw = parquet.RemoteFile(uri) if paths.is_remote(uri) else io.FileIO(paths.local_path(uri))
        with _Archive(raw, parquet.BUFFER_BYTES) as file:
            yield file


class _Archive(io.BufferedReader):
    """Never reads more at once than the headers of a tar, or the directory of a zip, may hold."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= MAX_HEADER_BYTES:
            here = self.tell()
            num_left = self.seek(0, io.SEEK_END) - here
            self.seek(here)
            if (num_left if size is None or size < 0 else min(size, num_left)) > MAX_HEADER_BYTES:
                raise ValueError(f"it announces more than {MAX_HEADER_BYTES:,} bytes of headers")
        return super().read(size)


@dataclass
class _Found:
    """What has been read of an archive."""

    with_records: bool = False
    records: dict[str, dict[str, str]] = field(default_factory=dict)  # by the names up to the first dot
    batches: list[pa.RecordBatch] = field(default_factory=list)
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    num_more: int = 0

    def add(
        self, name: str, crc: int, size: int, start: int, stop: int, packing: str, record: str | None = None
    ) -> None:
        self.rows.append((name, member_version(crc, size), size, start, stop, packing, record))
        if len(self.rows) == INDEX_ROWS:
            self._flush()

    def add_record(self, name: str, data: bytes) -> None:
        """Takes what lies beside an image about it. Nested values of JSON are passed over."""
        told = self.records.setdefault(_key(name), {})
        if name.lower().endswith(".cls"):
            told["cls"] = data.decode(errors="replace").strip()
            return
        try:
            fields = json.loads(data)
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict):
            self.refuse(name, "no object of JSON")
            return
        told |= {key: str(value) for key, value in fields.items() if isinstance(value, str | int | float)}

    def refuse(self, name: str, why: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem("unusable_member", why, name))
        else:
            self.num_more += 1

    def told(self) -> list[Problem]:
        more = [Problem("unusable_member", f"and {self.num_more:,} members more")] if self.num_more else []
        return [*self.problems, *more]

    def members(self) -> pa.Table:
        """All of them by name, of those with the same name the last."""
        self._flush()
        table = pa.Table.from_batches(self.batches, MEMBERS)
        numbered = table.append_column("position", pa.array(np.arange(len(table)), pa.int64()))
        last = numbered.group_by("name").aggregate([("position", "max"), ("position", "count")])
        for row in last.filter(pc.field("position_count") > 1).to_pylist():
            self.refuse(row["name"], f"{row['position_count']} members have this name; the last is taken")
        table = table.take(last["position_max"]).sort_by("name").combine_chunks()
        if self.records:
            records = {key: json.dumps(told) for key, told in self.records.items()}
            column = pa.array([records.get(_key(name)) for name in table["name"].to_pylist()], pa.string())
            table = table.set_column(MEMBERS.get_field_index("record"), MEMBERS.field("record"), column)
        return table

    def _flush(self) -> None:
        columns = zip(*self.rows, strict=True) if self.rows else ([] for _ in MEMBERS)
        arrays = [pa.array(list(column), each.type) for column, each in zip(columns, MEMBERS, strict=True)]
        self.batches.append(pa.record_batch(arrays, schema=MEMBERS))
        self.rows = []


def _key(name: str) -> str:
    """What the members of a sample of WebDataset have in common.

    >>> _key("img.d/17.jpg") == _key("img.d/17.cls") == "img.d/17"
    True
    """
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{file.partition('.')[0]}"


def _is_record(name: str, size_bytes: int) -> bool:
    return name.lower().endswith(RECORDS) and size_bytes <= MAX_RECORD_BYTES


def member_version(crc: int, size: int) -> str:
    return f"crc32-{crc:08x}-{size}"


def _name(name: str, found: _Found) -> str | None:
    """The name of a member as tables hold it, or None for one that leads out of the archive."""
    name = paths.table_name(name).removeprefix("./")
    steps = re.split(r"[/\\]", name)
    if name.startswith(("/", "\\")) or ".." in steps or not name:
        found.refuse(name, "its name leads out of the archive")
        return None
    if {"", "."} & set(steps):
        found.refuse(name, "its name has an empty step")
        return None
    return name


def _read_tar(uri: str, found: _Found) -> None:
    with _opened(uri) as file, tarfile.open(fileobj=file, mode="r:") as tar:
        while info := tar.next():
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
            if not info.isfile() or (name := _name(info.name, found)) is None:
                continue
            if info.issparse():
                found.refuse(name, "a file with holes; pack it without --sparse")
            elif info.size > MAX_MEMBER_BYTES:
                found.refuse(name, f"{info.size:,} bytes; at most {MAX_MEMBER_BYTES:,} are taken")
            else:
                crc = _crc(tar, info)
                found.add(name, crc, info.size, info.offset_data, info.offset_data + info.size, "plain")
                if found.with_records and _is_record(name, info.size):
                    file.seek(info.offset_data)
                    found.add_record(name, file.read(info.size))
        file.seek(tar.offset)
        block = file.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0"):
        raise tarfile.ReadError(f"no header at byte {tar.offset:,}")
    if len(block) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it ends without the empty blocks that end a tar; perhaps it was cut short")


def _crc(tar: tarfile.TarFile, info: tarfile.TarInfo) -> int:
    crc, num_left, member = 0, info.size, tar.extractfile(info)
    assert member is not None
    while num_left:
        data = member.read(min(num_left, CHUNK_BYTES))
        if not data:
            raise tarfile.ReadError(f"it ends amid {info.name}")
        crc = zlib.crc32(data, crc)
        num_left -= len(data)
    return crc


CHUNK_BYTES = 2**20


def _read_zip(uri: str, found: _Found) -> None:
    with _opened(uri) as file, zipfile.ZipFile(file) as archive:
        infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
        starts = [info.header_offset for info in infos]
        for info in infos:
            if info.is_dir() or (name := _name(info.filename, found)) is None:
                continue
            if info.flag_bits & 1:
                found.refuse(name, "encrypted")
            elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                how = zipfile.compressor_names.get(info.compress_type, str(info.compress_type))  # type: ignore[attr-defined]
                found.refuse(name, f"packed by {how}; zips are taken that are stored or deflated")
            elif info.file_size > MAX_MEMBER_BYTES:
                found.refuse(name, f"{info.file_size:,} bytes; at most {MAX_MEMBER_BYTES:,} are taken")
            elif info.file_size > max(BOMB_BYTES, BOMB_RATIO * info.compress_size):
                found.refuse(name, f"{info.compress_size:,} bytes that would become {info.file_size:,}")
            else:
                behind = bisect.bisect_right(starts, info.header_offset)
                after = starts[behind] if behind < len(starts) else archive.start_dir
                most = info.header_offset + LOCAL_HEADER + 2 * 2**16 + info.compress_size
                found.add(name, info.CRC, info.file_size, info.header_offset, min(after, most), "zip")
                if found.with_records and _is_record(name, info.file_size):
                    try:
                        found.add_record(name, archive.read(info))
                    except UNREADABLE as error:
                        found.refuse(name, f"cannot be read: {error}")


def _read_parquet(uri: str, found: _Found) -> None:
    column = image_tables.image_column(parquet.read_schema(uri))
    for row in image_tables.read_rows(uri, found.with_records) if column else ():
        if row.problem:
            found.refuse(row.name, row.problem)
        elif name := _name(row.name, found):
            record = json.dumps(row.record) if row.record else None
            found.add(name, row.crc, row.size_bytes, row.group, row.place, f"{ROWS}{column}", record)


ROWS = "rows of "
"""What the packing of a row's image begins with, before the path of its column."""
READERS: dict[str, Callable[[str, _Found], None]] = {".tar": _read_tar, ".zip": _read_zip, ".parquet": _read_parquet}
"""By the end of an archive's name (``paths.ARCHIVES``)."""


def read_member(uri: str, start: int, stop: int, packing: str) -> bytes:
    """The bytes of an archive where a member lies. Raises StoreError."""
    if not packing.startswith(ROWS):
        return objects.read_range(uri, start, stop)
    images = image_tables.read_group(uri, start, packing.removeprefix(ROWS))
    return (images[stop] if stop < len(images) else None) or b""


def unpack(data: bytes, packing: str, size_bytes: int) -> bytes:
    """A member's bytes out of those of the archive where it lies: at most one more than it should have, however many
    it would become. Raises ValueError for what is no such member."""
    if packing != "zip":
        return data
    if data[:4] != ZIP_MAGIC or len(data) < LOCAL_HEADER:
        raise ValueError("there is no header of a zip's member")
    (method,), (name_bytes, extra_bytes) = struct.unpack_from("<H", data, 8), struct.unpack_from("<HH", data, 26)
    packed = memoryview(data)[LOCAL_HEADER + name_bytes + extra_bytes :]
    if method == zipfile.ZIP_STORED:
        return bytes(packed[:size_bytes])
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, size_bytes + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
