"""Files and objects: URIs in; bytes and listings out; writes that appear whole or not at all.

Every failure is a ``StoreError`` with one line and a status. Knows nothing of images or labels.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import io
import math
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from typing import Any, BinaryIO, TypeVar

import aiohttp
from botocore.parsers import ResponseParserError
from fsspec.asyn import sync

from agescale.store.client import NUM_READ_THREADS, READ_TIMEOUT_S, answer_of, code_of, explained, filesystem, retried
from agescale.store.errors import NoConditions, StoreError, changed, one_line
from agescale.store.paths import absolute, bucket_and_key, is_remote, join, local_path, name_of, table_name

MIN_BYTES_PER_S = 1000
"""Of an object, over each READ_TIMEOUT_S; what comes more slowly would hold a job for hours, and counts as silence."""


def scan_folder(uri: str) -> list[str]:
    """Names of the files and, with a slash behind, of the folders in a local folder, in no order.

    Raises StoreError where it cannot be listed: it is no empty one, and a catalog would take its images for deleted.
    """
    with explained(uri), os.scandir(local_path(uri)) as entries:
        return [table_name(f"{entry.name}/" if _is_folder(entry) else entry.name) for entry in entries]


LEADS_NOWHERE = {errno.ELOOP, errno.EACCES, errno.ENOTDIR, errno.ENAMETOOLONG}
"""What is wrong with a link, and not with the disk."""


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if not entry.is_symlink() or error.errno not in LEADS_NOWHERE:
            raise
        return False


def describe_file(uri: str) -> os.stat_result | None:
    """What a local file is, through links; None where it is gone or its link leads nowhere. Raises StoreError."""
    path = local_path(uri)
    with explained(uri):
        try:
            return os.stat(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            if not os.path.islink(path) or error.errno not in LEADS_NOWHERE:
                raise
            return None


def list_objects(uri: str, **arguments: Any) -> dict[str, Any]:
    """One answer of S3's ListObjectsV2 about the bucket of ``uri``; ``arguments`` are those of the request.

    Raises StoreError for what is no such answer, however often it is asked: a page for a login, say, would otherwise be
    an empty listing, and all that it does not name be taken for deleted.
    """
    bucket, _ = bucket_and_key(uri)

    def ask() -> dict[str, Any]:
        answer = dict(filesystem(uri).call_s3("list_objects_v2", Bucket=bucket, **arguments))
        if reason := _why_no_listing(answer, arguments):
            hint = "; is AWS_ENDPOINT_URL right?" if "AWS_ENDPOINT_URL" in os.environ else ""
            error = StoreError("unreachable", f"{uri}: the answer is not an S3 listing ({reason}){hint}")
            raise error from ResponseParserError(reason)  # which may pass
        return answer

    return retried(uri, ask)


def _why_no_listing(answer: dict[str, Any], arguments: dict[str, Any]) -> str:
    """What shows that this is no answer, or none to this question; empty where nothing does."""
    names = names_in(answer)
    if "IsTruncated" not in answer:
        return "it does not say whether it is all"
    if answer.get("KeyCount", len(names)) != len(names):
        return f"it announces {answer['KeyCount']} names and has {len(names)}"
    if len(names) > arguments.get("MaxKeys", len(names)):
        return f"{len(names)} names, where {arguments['MaxKeys']} were asked for"
    if strangers := [name for name in names if not name.startswith(arguments.get("Prefix", ""))]:
        return f"{strangers[0][:60]!r} is not below what was asked for"
    if len(set(names)) < len(names):
        return "it names something twice"
    return ""


def names_in(answer: dict[str, Any]) -> list[str]:
    """Keys, and prefixes that stand for all keys below them, of an answer of ListObjectsV2."""
    prefixes = [each["Prefix"] for each in answer.get("CommonPrefixes", ())]
    return [*(each["Key"] for each in answer.get("Contents", ())), *prefixes]


def list_pages(uri: str, **arguments: Any) -> Iterator[dict[str, Any]]:
    """All answers to one question, each of which goes on where the one before ended; else raises StoreError. Where a
    store begins a page with the key that ended the last one, as some do, that is told once."""
    before, last_key = set[str](), None
    while True:
        answer = list_objects(uri, **arguments)
        contents = answer.get("Contents", ())
        if contents and contents[0]["Key"] == last_key:
            answer = {**answer, "Contents": contents[1:]}
        last_key = contents[-1]["Key"] if contents else None
        names = names_in(answer)
        if again := before.intersection(names):
            raise StoreError("unreachable", f"{uri}: the store lists {min(again)} on two pages of one listing")
        yield answer
        if not answer["IsTruncated"]:
            return
        before, token = set(names), answer.get("NextContinuationToken")
        if token and token != arguments.get("ContinuationToken"):
            arguments["ContinuationToken"] = token
        elif names and not token:  # some stores give none
            arguments["StartAfter"] = max(f"{name}\U0010ffff" if name.endswith("/") else name for name in names)
        else:
            raise StoreError("unreachable", f"{uri}: the store's listing is truncated and has no continuation token")


def age_s(uri: str) -> float | None:
    """Seconds since a file was written, by the clock of who keeps it; None where there is none."""
    if not is_remote(uri):
        status = describe_file(uri)
        return None if status is None else time.time() - status.st_mtime
    bucket, key = bucket_and_key(uri)
    try:
        answer = retried(uri, lambda: filesystem(uri).call_s3("head_object", Bucket=bucket, Key=key))
    except StoreError as error:
        if error.status != "missing":
            raise
        return None
    now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    return float((now - answer["LastModified"]).total_seconds())


def list_folders(uri: str) -> list[str]:
    """Names of the folders directly below a local folder; nothing on S3, which has no folders."""
    if is_remote(uri):
        return []
    with explained(uri):
        names = [entry.name for entry in os.scandir(uri) if entry.is_dir() and not entry.name.startswith(".")]
    return sorted(map(table_name, names))


def list_names(uri: str, prefix: str = "", suffix: str = "") -> list[str]:
    """Sorted names of the files directly in a folder; none where the folder does not exist."""
    uri = absolute(uri)
    if not is_remote(uri):
        with explained(uri):
            entries = [e.name for e in os.scandir(uri) if e.is_file()] if os.path.isdir(uri) else []
    else:
        try:
            entries = [name_of(key) for key, _ in _objects_in(uri)]
        except StoreError as error:
            if error.status != "missing":
                raise
            entries = []
    return sorted(name for name in entries if name.startswith(prefix) and name.endswith(suffix))


def list_versions(uri: str) -> dict[str, str]:
    """The files directly in a folder, by name, each with what changes when it is written anew: its etag on S3, else its
    size, inode and time of modification. Empty where the folder does not exist."""
    uri = absolute(uri)
    found: dict[str, str] = {}
    if is_remote(uri):
        for key, etag in _objects_in(uri):
            found[name_of(key)] = etag
    elif os.path.isdir(uri):
        with explained(uri):
            for entry in os.scandir(uri):
                with contextlib.suppress(FileNotFoundError):  # gone since
                    if entry.is_file():
                        found[entry.name] = _file_version(entry.stat())
    return dict(sorted(found.items()))


def _objects_in(uri: str) -> Iterator[tuple[str, str]]:
    """Keys of the objects directly below ``uri``, and their etags."""
    for page in list_pages(uri, Prefix=bucket_and_key(f"{uri}/")[1], Delimiter="/"):
        yield from ((info["Key"], info.get("ETag", "")) for info in page.get("Contents", ()) if info["Key"][-1] != "/")


def any_name(uri: str) -> str | None:
    """Name of a file or folder in the folder ``uri``, or None where it is empty or not there; hidden ones are none."""
    uri = absolute(uri)
    if is_remote(uri):
        prefix = bucket_and_key(f"{uri}/")[1]
        keys = [info["Key"] for info in list_objects(uri, Prefix=prefix, MaxKeys=10).get("Contents", ())]
        names = [key.removeprefix(prefix).partition("/")[0] for key in keys]
    else:
        with explained(uri):
            names = sorted(os.listdir(uri)) if os.path.isdir(uri) else []
    return next((name for name in names if name and not name.startswith(".")), None)


def exists(uri: str) -> bool:
    return retried(uri, lambda: bool(filesystem(uri).exists(uri)))


def read_bytes(uri: str, version: str = "", size_bytes: int | None = None) -> bytes:
    """The whole object. Raises StoreError for what does not pass.

    Given the ``version`` and the size that a listing told (``listing.Listed``), it is that object, or the StoreError's
    status is ``changed``; versions of other kinds than ours, such as an inventory's, are not compared. Bytes that are
    not the object's, because there are more or fewer of them, or they tell of an error, are ``unreachable``.
    """
    if not is_remote(uri):
        return _read_file(uri, version, size_bytes)
    etag = version if re.fullmatch(ETAG, version) else ""
    try:
        return _download(uri, etag, size_bytes)
    except StoreError as error:
        if error.status != "changed" or not _is_listed(uri, etag):
            raise
    return _download(uri, "", size_bytes)  # a store whose objects tell other etags than it lists


ETAG = r"[0-9a-f]{32}(-\d+)?"
FILE_VERSION = r"\d+-\d+"


def file_version(status: os.stat_result) -> str:
    """What a listing tells of a local file."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def _read_file(uri: str, version: str, size_bytes: int | None) -> bytes:
    path = local_path(uri)
    with explained(uri):
        if not uri.startswith("/dev/") and not can_be_read(os.stat(path)):  # there shells put what they read
            raise StoreError("missing", f"{uri}: a named pipe, a socket or a device, not a file")
        with open(path, "rb") as file:
            before = file_version(os.fstat(file.fileno()))
            data = file.read()
            after = file_version(os.fstat(file.fileno()))
    is_another = re.fullmatch(FILE_VERSION, version) and not version == before == after
    if is_another or size_bytes not in (None, len(data)):
        raise changed(uri)
    return data


def read_range(uri: str, start: int, stop: int) -> bytes:
    """The bytes from ``start`` to ``stop`` (exclusive); fewer where the object ends before. Raises StoreError."""
    if is_remote(uri):
        return _download(uri, "", None, start, stop)
    with explained(uri), open(local_path(uri), "rb") as file:
        file.seek(start)
        return file.read(stop - start)


@dataclass
class _Download:
    """What has come of an object, or of a range of it, and its etag: an attempt that failed is gone on with where that
    is worthwhile."""

    asked: str  # the etag that it is to have; empty: whatever it has
    start: int = 0
    stop: int | None = None
    size_bytes: int | None = None  # of all that is to come, where that is known
    data: bytearray = field(default_factory=bytearray)
    etag: str = field(init=False)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """From nothing, whatever stands there now."""
        self.data.clear()
        self.etag = self.asked

    def header(self) -> str:
        """The range that is still to come, as HTTP asks for it; empty for the whole of an object."""
        first, last = self.start + len(self.data), "" if self.stop is None else self.stop - 1
        return f"bytes={first}-{last}" if first or self.stop is not None else ""


def _download(uri: str, etag: str, size_bytes: int | None, start: int = 0, stop: int | None = None) -> bytes:
    """An object, of that etag where there is one, or a range of it. As long as pieces of it come, there is no end of
    attempts."""
    download = _Download(etag, start, stop, size_bytes)
    while True:
        num_bytes = len(download.data)
        try:
            return retried(uri, lambda: _read_object(uri, download))
        except StoreError as error:
            if error.status != "unreachable" or len(download.data) < num_bytes + PIECE_BYTES:
                raise


def _read_object(uri: str, download: _Download) -> bytes:
    """Asks S3 once for an object, or for the rest of it."""
    bucket, key = bucket_and_key(uri)
    request = {"Bucket": bucket, "Key": key}
    if len(download.data) < PIECE_BYTES or not download.etag:
        download.begin()
    if download.etag:
        request["IfMatch"] = f'"{download.etag}"'
    if wanted := download.header():
        request["Range"] = wanted
    s3 = filesystem(uri)
    told = sync(s3.loop, _get_object, s3, request, download)
    if download.etag and told not in ("", download.etag):  # of a store that knows no conditions
        raise changed(uri)
    data, reason = bytes(download.data), ""
    if download.size_bytes not in (None, len(data)):
        reason = f"the store delivered {len(data):,} bytes, its listing says {download.size_bytes:,}"
    elif data.startswith(b"<?xml") and b"<Error>" in data[:ERROR_BYTES]:
        reason = f"the store delivered {one_line(data[:ERROR_BYTES].decode(errors='replace'))}"
    if reason:
        download.begin()
        raise StoreError("unreachable", f"{uri}: {reason}") from ResponseParserError(reason)  # which may pass
    return data


ERROR_BYTES = 1000
"""In which S3 says that a document is one of an error."""


async def _get_object(s3: Any, request: dict[str, Any], download: _Download) -> str:
    """The etag of an object, all bytes of which have come then. Raises ClientPayloadError where they do not come at
    MIN_BYTES_PER_S."""
    answer = await s3._call_s3("get_object", **request)
    body, data, etag = answer["Body"], download.data, str(answer.get("ETag", "")).strip('"')
    download.etag = download.etag or etag
    if "Range" in request and "ContentRange" not in answer:  # it sends everything again
        data.clear()
        if download.stop is not None:
            body.close()
            raise aiohttp.ClientPayloadError("the store sent all of an object of which a range was asked for")
    elif download.stop is not None:
        total = answer["ContentRange"].rpartition("/")[2]
        end = min(download.stop, int(total)) if total.isdigit() else download.stop
        download.size_bytes = end - download.start
    try:
        while True:
            wanted = len(data) + READ_TIMEOUT_S * MIN_BYTES_PER_S
            try:
                async with asyncio.timeout(READ_TIMEOUT_S):
                    while len(data) < wanted:
                        some = await body.read(CHUNK_BYTES)
                        if not some:
                            return etag
                        data += some
            except TimeoutError:
                reason = f"{len(data):,} bytes came, and fewer than {MIN_BYTES_PER_S:,} a second"
                raise aiohttp.ClientPayloadError(reason) from None
    finally:
        body.close()


CHUNK_BYTES = 2**20


def _is_listed(uri: str, etag: str) -> bool:
    """Whether the store still lists an object with that etag."""
    _, key = bucket_and_key(uri)
    with contextlib.suppress(StoreError):
        found = list_objects(uri, Prefix=key, MaxKeys=1).get("Contents", ())
        return any(each["Key"] == key and each.get("ETag", "").strip('"') == etag for each in found)
    return False


def can_be_read(status: os.stat_result) -> bool:
    """Whether it is a file; who reads a named pipe may wait for ever. (A folder is refused in other words.)"""
    return stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)


def read_pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(NUM_READ_THREADS, thread_name_prefix="agescale-read")


def write_bytes(uri: str, data: bytes, scratch: str | None = None) -> None:
    """Writes the object whole: by rename on disk, by one upload on S3. Readers see the old one or the new one.

    On disk it lies in the folder ``scratch`` while it is being written, by default under a hidden name beside its own.
    """
    if is_remote(uri):
        _upload(uri, io.BytesIO(data), len(data))
        return
    with explained(uri), _written(uri, data, scratch) as temporary:
        os.replace(temporary, uri)


PIECE_BYTES = 8 * 2**20
"""Of a large object, which are sent and asked for and tried again by themselves: a slow link takes minutes for all."""
MAX_PIECES = 10_000
TOLD_OF_WRITES = {"put_object": "ETag", "upload_part": "ETag", "create_multipart_upload": "UploadId"}
"""What S3 answers to a write. Without it somebody else has answered, with a page for a login, say."""


def _write(uri: str, operation: str, **arguments: Any) -> dict[str, Any]:
    """Asks S3 once for a write. Raises a StoreError that may pass where the answer does not tell that it took place."""
    answer = dict(filesystem(uri).call_s3(operation, **arguments))
    if TOLD_OF_WRITES.get(operation, "ResponseMetadata") not in answer:
        hint = "; is AWS_ENDPOINT_URL right?" if "AWS_ENDPOINT_URL" in os.environ else ""
        reason = f"the answer to a write is not one of S3{hint}"
        raise StoreError("unreachable", f"{uri}: {reason}") from ResponseParserError(reason)
    return answer


def _upload(uri: str, file: Any, size: int) -> None:
    """Writes what is left of an open file, in pieces where it is large; the object appears with the last one."""
    bucket, key = bucket_and_key(uri)

    def ask(operation: str, **arguments: Any) -> dict[str, Any]:
        return retried(uri, partial(_write, uri, operation, Bucket=bucket, Key=key, **arguments))

    if size <= PIECE_BYTES:
        ask("put_object", Body=file.read())
        return
    upload = ask("create_multipart_upload")["UploadId"]
    piece_bytes = max(PIECE_BYTES, math.ceil(size / MAX_PIECES))
    try:
        pieces: list[dict[str, Any]] = []
        while data := file.read(piece_bytes):
            number = len(pieces) + 1
            etag = ask("upload_part", UploadId=upload, PartNumber=number, Body=data)["ETag"]
            pieces.append({"PartNumber": number, "ETag": etag})
        try:
            ask("complete_multipart_upload", UploadId=upload, MultipartUpload={"Parts": pieces})
        except StoreError as error:  # asked again, because the answer was lost
            if error.status != "missing" or (version(uri) or "").strip('"') != _etag_of(pieces):
                raise
    except BaseException:
        with contextlib.suppress(StoreError):
            ask("abort_multipart_upload", UploadId=upload)
        raise


def _etag_of(pieces: Sequence[dict[str, Any]]) -> str:
    """The etag that S3 gives to an object of those pieces; another one where it does not name pieces by their MD5."""
    with contextlib.suppress(ValueError):
        digests = [bytes.fromhex(piece["ETag"].strip('"')) for piece in pieces]
        return f"{hashlib.md5(b''.join(digests)).hexdigest()}-{len(pieces)}"
    return "unknown"


@contextlib.contextmanager
def _written(uri: str, data: bytes, scratch: str | None) -> Iterator[str]:
    """The path of a whole file of ``data``, to be given the name ``uri``; without that it is gone after the block."""
    for folder in {os.path.dirname(uri), scratch or os.path.dirname(uri)}:
        os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=scratch or os.path.dirname(uri), prefix=f".{os.path.basename(uri)}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


PARTIAL = re.compile(r"\..+\.[a-z0-9_]{8}")
"""Name of a file that ``write_bytes`` is writing."""


def remove_partial(folder: str) -> None:
    """Removes what killed writers left unfinished in a folder on disk, in which nobody else may be writing."""
    if not is_remote(folder):
        for name in filter(PARTIAL.fullmatch, list_names(folder, prefix=".")):
            delete(join(folder, name))


def write_new(uri: str, data: bytes, scratch: str | None = None) -> bool:
    """As ``write_bytes``, but False, and nothing is written, where the object stands already, whoever wrote it."""
    if is_remote(uri):
        try:
            return write_if(uri, data, None) is not None
        except NoConditions:  # what is left is the moment between the look and the write
            if exists(uri):
                return False
            write_bytes(uri, data)
            return True
    with explained(uri), _written(uri, data, scratch) as temporary:
        try:
            os.link(temporary, uri)
        except FileExistsError:
            return False
        except OSError:  # a file system without links: what is left is a moment between the look and the rename
            if os.path.exists(uri):
                return False
            os.replace(temporary, uri)
    return True


def version(uri: str) -> str | None:
    """What tells one writing of an object from the next; None where there is none."""
    if is_remote(uri):
        return etag(uri)
    with explained(uri):
        try:
            return _file_version(os.stat(local_path(uri)))
        except FileNotFoundError:
            return None


def _file_version(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_ino}-{status.st_mtime_ns}"


def write_over(uri: str, data: bytes, expected: str, scratch: str | None = None) -> bool:
    """As ``write_bytes``, but False, and nothing is written, where that version does not stand there (any more)."""
    if is_remote(uri):
        try:
            return write_if(uri, data, expected) is not None
        except NoConditions:  # what is left is the moment between the look and the write
            is_there = version(uri) == expected
            if is_there:
                write_bytes(uri, data)
            return is_there
    with explained(uri), _written(uri, data, scratch) as temporary, open(uri, "rb") as standing:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(standing, fcntl.LOCK_EX)  # of two writers the second finds that the name is another file's
        is_there = _file_version(os.fstat(standing.fileno())) == version(uri) == expected
        if is_there:
            os.replace(temporary, uri)
        return is_there


@contextlib.contextmanager
def open_whole(uri: str) -> Iterator[BinaryIO]:
    """A file to be written from its beginning to its end, which takes the place of ``uri`` when the block has ended.

    Until then it lies on disk, hidden beside the other one (or in the temporary folder, for S3), and what a killed job
    left of it is written anew by the next. Raises StoreError, too where another job is writing the same file.
    """
    if is_remote(uri):
        with tempfile.NamedTemporaryFile() as file:
            yield file  # type: ignore[misc]
            file.flush()
            size = file.tell()
            file.seek(0)
            _upload(uri, file, size)
        return
    with explained(uri):
        os.makedirs(os.path.dirname(uri), exist_ok=True)
        partial = join(os.path.dirname(uri), f".{os.path.basename(uri)}.partial")
        with open(partial, "ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreError("forbidden", f"{uri}: another job is writing it") from None
            try:
                file.truncate(0)
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(partial, uri)
            except BaseException:
                os.unlink(partial)
                raise


@lru_cache(maxsize=1)
def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def delete(uri: str) -> None:
    """Removes a file; nothing happens where it is gone already."""

    def remove() -> None:
        with contextlib.suppress(FileNotFoundError):
            filesystem(uri).rm_file(uri)

    retried(uri, remove)


def etag(uri: str) -> str | None:
    """What names the present version of an object on S3; None where there is none."""
    try:
        return str(retried(uri, lambda: filesystem(uri).info(uri))["ETag"])
    except StoreError as error:
        if error.status != "missing":
            raise
        return None


def write_if(uri: str, data: bytes, expected_etag: str | None, num_attempts: int | None = None) -> str | None:
    """Writes an object on S3 if it still has that etag (None: if there is none), and returns its new etag.

    None where it is not so, and nothing was written; unless an answer was lost and the write then tried again, which
    finds what it wrote itself. Raises NoConditions where the store has none.
    """
    condition = {"IfNoneMatch": "*"} if expected_etag is None else {"IfMatch": expected_etag}
    bucket, key = bucket_and_key(uri)

    def put() -> str | None:
        try:
            return str(_write(uri, "put_object", Bucket=bucket, Key=key, Body=data, **condition)["ETag"])
        except StoreError:
            raise
        except OSError as error:
            answer = answer_of(error)
            if answer and code_of(answer) in ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"):
                return None
            if answer and code_of(answer) == "NotImplemented":
                raise NoConditions("unreachable", f"{uri}: the store does not support conditional writes") from error
            raise

    return retried(uri, put, num_attempts)


def check_writable(uri: str) -> None:
    """Raises StoreError, before any work is done, where nothing can be written into the folder ``uri``.

    Nobody who lists the folder meanwhile sees anything: on disk the file has no name, and to S3 goes a write on a
    condition that does not hold.
    """
    if not is_remote(uri):
        with explained(uri):
            os.makedirs(uri, exist_ok=True)
            with tempfile.TemporaryFile(dir=uri) as file:
                file.write(b"x")
        return
    probe = join(uri, ".agescale-write-check")
    try:
        is_written = write_if(probe, b"", expected_etag='"none"') is not None
    except NoConditions:
        write_bytes(probe, b"")
        is_written = True
    if is_written:
        delete(probe)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def check_sha256(uri: str, data: bytes, wanted: str, told: str = "") -> None:
    """Raises ValueError, with what is ``told`` of it, where a file's data have another SHA-256 than ``wanted``, hex in
    capitals or not."""
    if (found := sha256(data)) != wanted.lower():
        raise ValueError(f"{uri}: {told}its SHA-256 is {found}, not {wanted}")


Loaded = TypeVar("Loaded")


def ahead(tasks: Iterable[Future[Loaded]], num_ahead: int) -> Iterator[Loaded]:
    """Results in the order of ``tasks``, of which at most ``num_ahead`` are taken before their results are."""
    waiting: list[Future[Loaded]] = []
    for task in tasks:
        waiting.append(task)
        if len(waiting) >= num_ahead:
            yield waiting.pop(0).result()
    for task in waiting:
        yield task.result()
