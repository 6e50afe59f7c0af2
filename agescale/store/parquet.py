"""Tables as Parquet files: URIs in, Arrow tables out, and the other way. A file that is damaged is ``Damaged``."""

from __future__ import annotations

import atexit
import contextlib
import csv
import functools
import io
import os
import sys
import threading
import time
import weakref
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from botocore.parsers import ResponseParserError
from fsspec.compression import compr
from fsspec.utils import infer_compression

from agescale.store.client import explained, filesystem, retried
from agescale.store.errors import Damaged, StoreError, one_line
from agescale.store.objects import write_bytes
from agescale.store.paths import is_remote, local_path


def read_table(
    uri: str,
    columns: list[str] | None = None,
    filters: pc.Expression | None = None,
    schema: pa.Schema | None = None,
) -> pa.Table:
    """A Parquet file as a table, only ``columns`` of it and only the rows of ``filters``. Columns of a ``schema`` that
    the file lacks are null."""
    with opened(uri) as file:
        return pads.ParquetFileFormat().make_fragment(file).to_table(schema, columns=columns, filter=filters)


def read_tables(uris: Sequence[str], columns: Sequence[str], schema: pa.Schema | None = None) -> pa.Table:
    """Parquet files of one schema, one after the other."""
    return pa.concat_tables([read_table(uri, list(columns), schema=schema) for uri in uris])


def open_dataset(uris: Sequence[str], schema: pa.Schema) -> pads.Dataset:
    """Parquet files of one schema, all on disk or all in one store, as a lazy dataset; nothing is read yet."""
    if not is_remote(uris[0]):
        return pads.dataset(list(uris), schema, "parquet", pafs.LocalFileSystem())
    keys = [uri.removeprefix("s3://") for uri in uris]
    return pads.dataset(keys, schema, "parquet", _remote_files(os.getpid()))


def read_schema(uri: str) -> pa.Schema:
    """Columns and metadata of a Parquet file; reads its footer only."""
    with opened(uri) as file:
        return pq.read_schema(file)


def read_row_groups(uri: str, row_groups: list[int], columns: list[str]) -> pa.Table:
    with opened(uri) as file:
        return pq.ParquetFile(file).read_row_groups(row_groups, columns=columns)


def check_table(uri: str) -> None:
    """Reads all of a Parquet file, some rows at a time. Raises Damaged where that fails."""
    with opened(uri) as file:
        for _ in pq.ParquetFile(file).iter_batches():
            pass


def num_rows(uri: str) -> int:
    """Rows of a Parquet file, from its footer."""
    with opened(uri) as file:
        return int(pq.read_metadata(file).num_rows)


def read_footer(uri: str) -> pq.FileMetaData:
    """What the footer of a Parquet file says."""
    with opened(uri) as file:
        return pq.read_metadata(file)


def column_range(footer: pq.FileMetaData, column: str) -> tuple[Any, Any]:
    """The least and the greatest value of ``column``; None where the footer does not tell."""
    index = footer.schema.to_arrow_schema().get_field_index(column)
    found = [footer.row_group(group).column(index).statistics for group in range(footer.num_row_groups)]
    if not found or not all(statistics and statistics.has_min_max for statistics in found):
        return None, None
    return min(each.min for each in found), max(each.max for each in found)


def iter_batches(uri: str) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file, or of a CSV file with a header, some at a time. All values of a CSV are text.

    Raises ValueError where the file is neither.
    """
    try:
        if uri.endswith(".parquet"):
            with opened(uri) as file:
                yield from pq.ParquetFile(file).iter_batches()
            return
        with _text_file(uri) as file:
            names = next(csv.reader([file.readline().decode("utf-8-sig")]), [])
            if not names:
                raise ValueError(f"{uri}: the file is empty; its first line must name the columns")
            as_text = pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
            yield from pacsv.open_csv(file, pacsv.ReadOptions(column_names=names), convert_options=as_text)
    except Damaged as error:
        raise ValueError(f"{uri}: {one_line(error.reason)}") from error
    except (pa.ArrowInvalid, UnicodeDecodeError, EOFError, zlib.error, csv.Error) as error:
        raise ValueError(f"{uri}: {one_line(str(error))}") from error


def write_table(uri: str, table: pa.Table, row_group_size: int | None = None, scratch: str | None = None) -> None:
    """A table as one Parquet file that appears whole or not at all; ``scratch`` as in ``write_bytes``."""
    write_bytes(uri, as_parquet(table, row_group_size), scratch)


def as_parquet(table: pa.Table, row_group_size: int | None = None) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=row_group_size)
    return buffer.getvalue()


UNREADABLE = (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowKeyError, pa.ArrowTypeError)
"""What pyarrow raises for bytes that are no Parquet file, or none with the columns that were asked for."""


def _is_of_arrow(error: OSError) -> bool:
    """Whether pyarrow itself raised an error without a number: for bytes that it cannot unpack."""
    return type(error) is OSError and error.__cause__ is None and error.__context__ is None


def _file(uri: str) -> pa.NativeFile:
    return pa.PythonFile(_HeldFile(uri), "r") if is_remote(uri) else pa.OSFile(os.fsencode(local_path(uri)))


@contextlib.contextmanager
def opened(uri: str) -> Iterator[pa.NativeFile]:
    """A file for pyarrow to read in ranges. (Given a filesystem, it takes every fault of S3 for a missing file.)"""
    with explained(uri), _file(uri) as file:
        try:
            yield file
        except UNREADABLE as error:
            raise Damaged(uri, str(error)) from error
        except OSError as error:
            if isinstance(error, StoreError) or error.errno is not None or not _is_of_arrow(error):
                raise
            raise Damaged(uri, str(error)) from error


@contextlib.contextmanager
def _text_file(uri: str) -> Iterator[BinaryIO]:
    """A file to be read from its beginning to its end, unpacked where its name says that it is packed."""
    with (
        explained(uri),
        io.BufferedReader(RemoteFile(uri), BUFFER_BYTES) if is_remote(uri) else open(uri, "rb") as file,
    ):
        packing = infer_compression(uri)
        yield compr[packing](file, mode="rb") if packing else file


BUFFER_BYTES = 8 * 2**20


class RemoteFile(io.RawIOBase):
    """An object on S3, each range of which is tried again by itself; it may not be replaced meanwhile."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._file: BinaryIO = retried(uri, lambda: filesystem(uri).open(uri, "rb", cache_type="none"))

    def close(self) -> None:
        if not self.closed:
            self._file.close()
            super().close()

    def readinto(self, buffer: Any) -> int:
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _read(self, size: int) -> bytes:
        start = self.tell()

        def read() -> bytes:
            self._file.seek(start)
            data = self._file.read(size)
            wanted = min(size, max(0, self._file.size - start))  # type: ignore[attr-defined]
            if len(data) != wanted:  # pyarrow would take it for a damaged file
                reason = f"the store delivered {len(data):,} bytes, where {wanted:,} were asked for"
                raise StoreError("unreachable", f"{self._uri}: {reason}") from ResponseParserError(reason)
            return data

        return retried(self._uri, read)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


class _HeldFile(RemoteFile):
    """One that threads of pyarrow's read; it is there until they have let go of it and of all that they read of it."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        _held_files.add(self)

    def read(self, size: int = -1) -> _HeldBytes:  # bytes cannot tell that they are held
        data = _HeldBytes(self.readall() if size < 0 else self._read(size))
        data.file = self
        return data


class _HeldBytes(bytearray):
    file: _HeldFile


_held_files: weakref.WeakSet[_HeldFile] = weakref.WeakSet()
END_SECONDS = 5
"""How long the end of a program waits for pyarrow to let go of its files; longer only where one is never read on."""


@atexit.register
def _end_reading() -> None:
    """Lets pyarrow's threads let go of what they have read. One that is in Python, or still has to go there, while this
    process's Python ends would abort it, with exit code 134 after all of its work is done."""
    deadline = time.monotonic() + END_SECONDS
    while (_held_files or _threads_of_others()) and time.monotonic() < deadline:
        time.sleep(0.01)


def _threads_of_others() -> bool:
    """Whether threads that Python has not made run Python now: they may have just let go of a file."""
    made = {thread.ident for thread in threading.enumerate() if not isinstance(thread, threading._DummyThread)}
    return not made.issuperset(sys._current_frames())


class _RemoteFiles(pafs.FSSpecHandler):
    """Lets pyarrow's datasets read objects on S3 as we do: what may pass is tried again."""

    def open_input_file(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(_HeldFile(f"s3://{path}"), "r")


@functools.cache  # kept: the last thread of pyarrow's to use it could otherwise be the one to delete it
def _remote_files(pid: int) -> pafs.FileSystem:
    return pafs.PyFileSystem(_RemoteFiles(filesystem("s3://")))
