"""URIs in; bytes, listings and tables out; writes that appear whole or not at all.

A URI is a path, ``file://...`` or ``s3://bucket/key``. Credentials and endpoints of S3 come from the environment or the
instance's role (``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_ENDPOINT_URL``, ...), never from arguments.
Every failure is a ``StoreError`` with one line and a status. Knows nothing of images or labels.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

NUM_ATTEMPTS = 4
"""Tries of one read; between them the pause doubles from FIRST_PAUSE_S."""
FIRST_PAUSE_S = 0.5


class StoreError(OSError):
    """What a store answered instead of the data. ``status`` is one of missing, forbidden, unreachable."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status

    @property
    def is_about_one_file(self) -> bool:
        """Whether it tells of this object alone: it is gone, or a local file is closed to us. What else a store answers
        (refused credentials, silence) will be the same for the next object, so a job had better stop."""
        return self.status == "missing" or (self.status == "forbidden" and "://" not in str(self))

    def __reduce__(self) -> tuple[Any, ...]:
        # OSError pickles its own arguments only, and Ray sends errors between processes
        return StoreError, (self.status, str(self))


@dataclass(frozen=True)
class Listed:
    """One listed object: its URI, its path below the listed folder, its version and its size in bytes."""

    uri: str
    relative: str
    version: str
    size_bytes: int


def absolute(uri: str) -> str:
    """``uri`` without ``file://``, user directory or relative parts, so that it means the same in every process."""
    if uri.startswith("file://"):
        uri = uri.removeprefix("file://")
    scheme, sign, rest = uri.partition("://")
    if not sign:
        return os.path.abspath(os.path.expanduser(uri))
    if scheme != "s3":
        raise ValueError(f"{uri}: a URI is a path, file:// or s3://, not {scheme}://")
    if not rest.strip("/"):
        raise ValueError(f"{uri}: the bucket's name is missing")
    return uri.rstrip("/")


def join(uri: str, *names: str) -> str:
    return "/".join([uri.rstrip("/"), *names])


def name_of(uri: str) -> str:
    return PurePosixPath(uri).name


def is_remote(uri: str) -> bool:
    return uri.startswith("s3://")


@lru_cache(maxsize=2)
def _filesystem(scheme: str, pid: int) -> fsspec.AbstractFileSystem:
    """The filesystem of a scheme. ``pid`` keeps a forked process from using its parent's connections."""
    if scheme == "s3":
        config = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 2, "mode": "standard"}}
        return fsspec.filesystem("s3", use_listings_cache=False, config_kwargs=config, skip_instance_cache=True)
    return fsspec.filesystem("file", auto_mkdir=True)


def filesystem(uri: str) -> fsspec.AbstractFileSystem:
    return _filesystem("s3" if is_remote(uri) else "file", os.getpid())


@contextlib.contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turns what filesystems raise into one ``StoreError`` a user can act on."""
    try:
        yield
    except StoreError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreError("missing", f"{uri}: not found") from error
    except NoCredentialsError as error:
        hint = "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or use an instance role"
        raise StoreError("forbidden", f"{uri}: {hint}") from error
    except PermissionError as error:
        hint = "; check the credentials in the environment and the bucket's policy" if is_remote(uri) else ""
        raise StoreError("forbidden", f"{uri}: access refused ({_one_line(error)}){hint}") from error
    except (OSError, ClientError, BotoCoreError) as error:
        raise StoreError("unreachable", f"{uri}: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def list_files(uri: str) -> list[Listed]:
    """Every file below ``uri``, sorted by its relative path. Hidden files (a name that starts with a dot) are left out.

    Versions: the etag on S3, size and modification time on disk. Raises StoreError where ``uri`` is missing, ValueError
    for a name that is not UTF-8, which no table could hold.
    """
    uri = absolute(uri)
    found: list[Listed] = []
    if not is_remote(uri):
        if not os.path.isdir(uri):
            raise StoreError("missing", f"{uri}: no such folder")
        seen = {os.path.realpath(uri)}  # links are followed, and a link to a parent folder only once
        for folder, folders, names in os.walk(uri, followlinks=True, onerror=_refuse_folder):
            real = {name: os.path.realpath(os.path.join(folder, name)) for name in folders if not name.startswith(".")}
            folders[:] = [name for name, path in real.items() if path not in seen]
            seen.update(real.values())
            for name in names:
                path = os.path.join(folder, name)
                _check_utf8(path)
                with contextlib.suppress(FileNotFoundError):  # gone, or a dangling link
                    info = os.stat(path)
                    version = f"{info.st_size}-{info.st_mtime_ns}"
                    found.append(Listed(path, os.path.relpath(path, uri), version, info.st_size))
    else:
        with _explained(uri):
            objects = filesystem(uri).find(uri, detail=True)
        prefix = uri.removeprefix("s3://") + "/"
        for key, info in objects.items():
            if key.startswith(prefix) and not key.endswith("/"):
                version = str(info.get("ETag", "")).strip('"') or f"{info['size']}-{info.get('LastModified')}"
                found.append(Listed(f"s3://{key}", key.removeprefix(prefix), version, int(info["size"])))
        if not found:
            raise StoreError("missing", f"{uri}: no such folder, or nothing in it")
    visible = [item for item in found if not any(part.startswith(".") for part in item.relative.split("/"))]
    return sorted(visible, key=lambda item: item.relative)


def _check_utf8(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{os.fsencode(path)!r}: a file name that is not UTF-8; rename the file") from None


def _refuse_folder(error: OSError) -> None:
    """A folder that cannot be listed is no empty one: a catalog would take its images for deleted."""
    with _explained(str(error.filename)):
        raise error


def list_folders(uri: str) -> list[str]:
    """Names of the folders directly below a local folder; nothing on S3, which has no folders."""
    if is_remote(uri):
        return []
    return sorted(entry.name for entry in os.scandir(uri) if entry.is_dir() and not entry.name.startswith("."))


def list_names(uri: str, prefix: str = "", suffix: str = "") -> list[str]:
    """Sorted names of the files directly in a folder; none where the folder does not exist."""
    uri = absolute(uri)
    if not is_remote(uri):
        entries = [e.name for e in os.scandir(uri) if e.is_file()] if os.path.isdir(uri) else []
    else:
        try:
            with _explained(uri):
                files = [e["name"] for e in filesystem(uri).ls(uri, detail=True) if e["type"] == "file"]
            folder = uri.removeprefix("s3://") + "/"
            entries = [name.removeprefix(folder) for name in files if name.startswith(folder) and name != folder]
        except StoreError as error:
            if error.status != "missing":
                raise
            entries = []
    return sorted(name for name in entries if name.startswith(prefix) and name.endswith(suffix))


def exists(uri: str) -> bool:
    with _explained(uri):
        return bool(filesystem(uri).exists(uri))


def read_bytes(uri: str) -> bytes:
    """The whole object. Retries what may pass; raises StoreError for what does not."""
    for attempt in range(NUM_ATTEMPTS):
        try:
            with _explained(uri):
                if not is_remote(uri):
                    return Path(uri).read_bytes()
                return bytes(filesystem(uri).cat_file(uri))
        except StoreError as error:
            if error.status != "unreachable" or not is_remote(uri) or attempt == NUM_ATTEMPTS - 1:
                raise
            time.sleep(FIRST_PAUSE_S * 2**attempt)
    raise AssertionError("unreachable")


def write_bytes(uri: str, data: bytes) -> None:
    """Writes the object whole: by rename on disk, by one upload on S3. Readers see the old one or the new one."""
    with _explained(uri):
        if is_remote(uri):
            filesystem(uri).pipe_file(uri, data)
            return
        folder = os.path.dirname(uri)
        os.makedirs(folder, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{os.path.basename(uri)}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, uri)
        except BaseException:
            os.unlink(temporary)
            raise


@lru_cache(maxsize=1)
def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def delete(uri: str) -> None:
    """Removes a file; nothing happens where it is gone already."""
    with _explained(uri), contextlib.suppress(FileNotFoundError):
        filesystem(uri).rm_file(uri)


def check_writable(uri: str) -> None:
    """Raises StoreError, before any work is done, where nothing can be written into the folder ``uri``."""
    probe = join(uri, ".agescale-write-check")
    write_bytes(probe, b"")
    delete(probe)


def read_table(uri: str, columns: list[str] | None = None, filters: pc.Expression | None = None) -> pa.Table:
    """A Parquet file as a table, only ``columns`` of it and only the rows of ``filters``."""
    with _explained(uri):
        source = pads.dataset(_parquet_source(uri), format="parquet", filesystem=_parquet_filesystem(uri))
        return source.to_table(columns=columns, filter=filters)


def read_tables(uris: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """Parquet files of one schema, one after the other."""
    return pa.concat_tables([read_table(uri, list(columns)) for uri in uris])


def read_schema(uri: str) -> pa.Schema:
    """Columns and metadata of a Parquet file; reads its footer only."""
    with _explained(uri):
        return pq.read_schema(_parquet_source(uri), filesystem=_parquet_filesystem(uri))


def read_row_groups(uri: str, row_groups: list[int], columns: list[str]) -> pa.Table:
    with _explained(uri), filesystem(uri).open(uri, "rb") as file:
        return pq.ParquetFile(file).read_row_groups(row_groups, columns=columns)


def num_rows(uri: str) -> int:
    """Rows of a Parquet file, from its footer."""
    with _explained(uri):
        return int(pq.read_metadata(_parquet_source(uri), filesystem=_parquet_filesystem(uri)).num_rows)


def write_table(uri: str, table: pa.Table, row_group_size: int | None = None) -> None:
    """A table as one Parquet file that appears whole or not at all."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=row_group_size)
    write_bytes(uri, buffer.getvalue())


def _parquet_source(uri: str) -> str:
    return uri.removeprefix("s3://")


def _parquet_filesystem(uri: str) -> fsspec.AbstractFileSystem | None:
    return filesystem(uri) if is_remote(uri) else None


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
