"""URIs in; bytes, listings and tables out; writes that appear whole or not at all.

A URI is a path, ``file://...`` or ``s3://bucket/key``. Credentials and endpoints of S3 come from the environment or the
instance's role (``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_ENDPOINT_URL``, ...), never from arguments.
Whatever asks S3 is tried again where that may help, here and in no layer below. Every failure is a ``StoreError`` with
one line and a status. Knows nothing of images or labels.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import errno
import fcntl
import hashlib
import io
import math
import os
import random
import re
import ssl
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import PurePosixPath
from typing import Any, BinaryIO, TypeVar

import aiohttp
import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
    SSOError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as NoConnectionError
from botocore.parsers import ResponseParserError
from fsspec.asyn import sync
from fsspec.compression import compr
from fsspec.utils import infer_compression

NUM_ATTEMPTS = 15
"""Tries of one request to S3. The pauses between them double from FIRST_PAUSE_S up to MAX_PAUSES as long, and are cut
by up to a half at random, so that many readers do not come back at once: 20 to 40 s in all."""
FIRST_PAUSE_S = 0.1
MAX_PAUSES = 40
RETRY_S = 60.0
"""No attempt begins later than this after the first, however few there were (a store may be silent at each)."""
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 20.0
"""Without a single byte."""
MIN_BYTES_PER_S = 1000
"""Of an object, over each READ_TIMEOUT_S; what comes more slowly would hold a job for hours, and counts as silence."""
TELL_AFTER_S = 10.0
"""Without an answer from S3; then the job says for whom it waits."""
NUM_READ_THREADS = 16
"""Reads under way at once in one process: object stores answer in tens of milliseconds."""


class StoreError(OSError):
    """What a store answered instead of the data. ``status`` is one of missing, changed, forbidden, unreachable.

    ``stops_the_job``: the credentials have expired or are refused, so that no other object can be read either.
    ``is_of_this``: it is a state of this object, such as being archived.
    """

    def __init__(self, status: str, message: str, stops_the_job: bool = False, is_of_this: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.stops_the_job = stops_the_job
        self.is_of_this = is_of_this

    @property
    def is_about_one_file(self) -> bool:
        """Whether it tells of this object alone: it is gone or another, or a local file is closed to us. What else a
        store answers (refused credentials, silence) will be the same for the next object, so a job had better stop."""
        is_local = "://" not in str(self)
        return self.is_of_this or self.status in ("missing", "changed") or (self.status == "forbidden" and is_local)

    def __reduce__(self) -> tuple[Any, ...]:
        # OSError pickles its own arguments only, and Ray sends errors between processes
        return StoreError, (self.status, str(self), self.stops_the_job, self.is_of_this)


class NoConditions(StoreError):
    """The store refuses writes that are to take place on a condition only; others it may take."""

    def __reduce__(self) -> tuple[Any, ...]:
        return NoConditions, (self.status, str(self), self.stops_the_job)


class Damaged(ValueError):
    """A Parquet file of ours that was cut or garbled, or is somebody else's; what to do depends on what it is of."""

    def __init__(self, uri: str, reason: str) -> None:
        super().__init__(f"{uri}: damaged, not as it was written ({_one_line(reason)})")
        self.uri, self.reason = uri, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return Damaged, (self.uri, self.reason)


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


def table_name(path: str) -> str:
    r"""A path as tables hold it: bytes that are no UTF-8 stand as \xNN, and mean the same file.

    >>> table_name(os.fsdecode(b"/faces/Mu\xf1oz.jpg"))
    '/faces/Mu\\xf1oz.jpg'
    """
    return os.fsencode(path).decode(errors="backslashreplace")


def local_path(uri: str) -> str:
    """The path of a file on disk, which ``table_name`` may have made the URI of."""
    if "\\x" not in uri or os.path.lexists(uri):
        return uri
    octets = re.sub(rb"\\x([89a-f][0-9a-f])", lambda digits: bytes.fromhex(digits[1].decode()), os.fsencode(uri))
    return os.fsdecode(octets)


def is_remote(uri: str) -> bool:
    return uri.startswith("s3://")


@lru_cache(maxsize=2)
def _filesystem(scheme: str, pid: int) -> fsspec.AbstractFileSystem:
    """The filesystem of a scheme. ``pid`` keeps a forked process from using its parent's connections."""
    if scheme == "s3":
        _check_environment()
        config = {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            "retries": {"total_max_attempts": 1},  # _retried does it
            "max_pool_connections": 2 * NUM_READ_THREADS,
        }
        is_unsigned = os.environ.get(UNSIGNED, "").lower() in ("yes", "true", "1")
        options = {
            "anon": is_unsigned,
            "use_listings_cache": False,
            "skip_instance_cache": True,
            "config_kwargs": config,
        }
        s3 = fsspec.filesystem("s3", max_concurrency=1, **options)  # with more, each read asks for the size first
        s3.retries = 1
        return s3
    return fsspec.filesystem("file", auto_mkdir=True)


def filesystem(uri: str) -> fsspec.AbstractFileSystem:
    return _filesystem("s3" if is_remote(uri) else "file", os.getpid())


UNSIGNED = "AWS_NO_SIGN_REQUEST"
"""Set to yes: requests go without credentials, as for public buckets; GDAL and others call it so."""
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
WITHOUT_BLANKS = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN"),
    *("AWS_DEFAULT_REGION", "AWS_REGION"),
)


def _check_environment() -> None:
    """Raises StoreError for settings of S3 with which no request can succeed; what clients say of them is no help."""
    for name in ENDPOINTS:
        value = os.environ.get(name, "")
        if value and not re.fullmatch(r"https?://[^\s/]\S*", value):
            raise StoreError("unreachable", f"{name}={value!r}: not a URL such as http://HOST:PORT", stops_the_job=True)
    for name in WITHOUT_BLANKS:
        if re.search(r"\s", os.environ.get(name, "")):
            hint = "it contains a line end or blanks; set it without (echo -n writes no line end)"
            raise StoreError("forbidden", f"{name}: {hint}", stops_the_job=True)
    bundle = os.environ.get("AWS_CA_BUNDLE", "")
    if bundle:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(bundle)
        except OSError as error:
            reason = f"AWS_CA_BUNDLE={bundle}: no file of certificates ({_one_line(str(error))})"
            raise StoreError("unreachable", reason, stops_the_job=True) from None


def _endpoint() -> str:
    """What S3 is here, as the user set it."""
    return next((f"{name}={os.environ[name]}" for name in ENDPOINTS if os.environ.get(name)), "S3")


CREDENTIAL_ERRORS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    SSOError,
    TokenRetrievalError,
)
CREDENTIAL_CODES = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSecurity",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
"""What S3 calls credentials that nobody accepts, whatever the object; AccessDenied may be about this object alone."""
PASSING_CODES = {"RequestTimeout", "IncompleteBody", "BadDigest", "SlowDown"}
PASSING_ERRORS = (
    ConnectionError,
    FlexibleChecksumError,
    TimeoutError,
    HTTPClientError,
    NoConnectionError,
    aiohttp.ClientError,
    IncompleteReadError,
    ResponseParserError,
)
LASTING_ORIGINS = (ValueError, FileNotFoundError, PermissionError)
"""What is wrong before anything is asked, an untrusted certificate (a ValueError of Python's) among it."""
STORE_ERRORS = (OSError, ClientError, BotoCoreError, aiohttp.ClientError, ResponseParserError)
"""All that s3fs lets through; some of it is no OSError, such as aiohttp's ClientPayloadError for a body cut short."""

Result = TypeVar("Result")


def _retried(uri: str, operation: Callable[[], Result], num_attempts: int | None = None) -> Result:
    """What ``operation`` returns, which asks S3 once; it is done again where the fault may pass."""
    start = time.monotonic()
    num_left = num_attempts or NUM_ATTEMPTS
    pause_s = FIRST_PAUSE_S
    with _patience(uri):
        while True:
            try:
                with _explained(uri):
                    return operation()
            except StoreError as error:
                num_left -= 1
                waited_s = time.monotonic() - start
                if num_left == 0 or waited_s > RETRY_S or not is_remote(uri) or not _may_pass(error.__cause__):
                    raise
            time.sleep(pause_s * random.uniform(0.5, 1))
            pause_s = min(2 * pause_s, MAX_PAUSES * FIRST_PAUSE_S)


@dataclass
class Wait:
    """What a thread asks S3."""

    uri: str
    since: float
    is_told: bool = False


_waits: dict[int, Wait] = {}
"""By thread."""


@contextlib.contextmanager
def _patience(uri: str) -> Iterator[None]:
    """Says for whom it waits where there is no answer for TELL_AFTER_S: a store may be silent for minutes."""
    if not is_remote(uri) or os.path.basename(sys.argv[0]) == "default_worker.py":  # Ray would show a line of each
        yield
        return
    _watch(os.getpid())
    _waits[threading.get_ident()] = Wait(uri, time.monotonic())
    try:
        yield
    finally:
        del _waits[threading.get_ident()]


@lru_cache(maxsize=1)
def _watch(pid: int) -> None:
    """One thread of this process looks at all that wait, and tells of one of them for as long as nobody has answers."""

    def watch() -> None:
        while True:
            time.sleep(0.1)
            now = time.monotonic()
            waits = list(_waits.values())
            late = [wait for wait in waits if now - wait.since > TELL_AFTER_S]
            if late and not any(wait.is_told for wait in waits):
                late[0].is_told = True
                message = f"{late[0].uri}: {_endpoint()} has not answered for {TELL_AFTER_S:g} s; still trying"
                with contextlib.suppress(OSError, ValueError):  # nobody reads it
                    print(message, file=sys.stderr or io.StringIO(), flush=True)

    threading.Thread(target=watch, name="agescale-patience", daemon=True).start()


def _may_pass(error: BaseException | None) -> bool:
    answer = _answer(error)
    if answer is None:
        origin = _origin(error)
        is_lasting = isinstance(origin, LASTING_ORIGINS) or getattr(origin, "reason", "") == "WRONG_VERSION_NUMBER"
        return isinstance(error, PASSING_ERRORS) and not is_lasting  # that reason: https:// of a server without TLS
    http_status = answer.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return http_status == 429 or (http_status >= 500 and http_status != 501) or _code(answer) in PASSING_CODES


@contextlib.contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turns what filesystems raise into one ``StoreError`` a user can act on."""
    try:
        yield
    except StoreError:
        raise
    except IndexError as error:  # s3fs looks for the number of an error that has none: a timeout amid a body
        if not isinstance(error.__context__, TimeoutError):
            raise
        raise _store_error(uri, error.__context__) from error.__context__
    except STORE_ERRORS as error:
        reason = _reason(uri, error)
        raise _store_error(uri, reason) from reason
    except ValueError as error:  # of a configuration file; that of the environment is checked
        if not str(error).startswith("Invalid endpoint"):
            raise
        raise StoreError("unreachable", f"{uri}: {error}; it begins with http:// or https://", True) from None


def _store_error(uri: str, error: BaseException) -> StoreError:
    answer = _answer(error)
    origin = _origin(error)
    said = f"{_code(answer)}: {answer.response['Error'].get('Message')}" if answer else str(origin)
    said = _one_line(said) or ("no answer in time" if isinstance(origin, TimeoutError) else type(origin).__name__)
    if answer and _code(answer) in ("PreconditionFailed", "412"):
        return _changed(uri)
    if answer and _code(answer) == "NoSuchBucket":
        return StoreError("missing", f"{uri}: no bucket {_bucket_and_key(uri)[0]!r}")
    if answer and (state := _state(answer)):
        return StoreError("forbidden", f"{uri}: {state} ({said})", is_of_this=True)
    if isinstance(origin, ssl.SSLCertVerificationError):
        hint = "set AWS_CA_BUNDLE to a file with the certificate of its authority"
        reason = f"its certificate is not trusted ({origin.verify_message}); {hint}"
        return StoreError("unreachable", f"{uri}: {_endpoint()}: {reason}", stops_the_job=True)
    if isinstance(error, (NoConnectionError, ReadTimeoutError)):
        return StoreError("unreachable", f"{uri}: {_endpoint()} does not answer ({said})")
    if "header" in said and isinstance(origin, ValueError):
        hint = "the credentials hold a line end or other characters that no header takes; set them without"
        return StoreError("forbidden", f"{uri}: {hint} ({said})", stops_the_job=True)
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return StoreError("missing", f"{uri}: not found")
    if isinstance(error, NoCredentialsError):
        hint = "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or use an instance role, or set "
        hint += f"{UNSIGNED}=yes for a public bucket"
        return StoreError("forbidden", f"{uri}: {hint}", stops_the_job=True)
    if isinstance(error, CREDENTIAL_ERRORS) or (answer and _code(answer) in CREDENTIAL_CODES):
        hint = "check the credentials in the environment, renew them if they expired; the same command continues"
        return StoreError("forbidden", f"{uri}: access refused ({said}); {hint}", stops_the_job=True)
    if isinstance(error, PermissionError):
        hint = "; check the credentials in the environment and the bucket's policy" if is_remote(uri) else ""
        return StoreError("forbidden", f"{uri}: access refused ({said}){hint}")
    return StoreError("unreachable", f"{uri}: {said}")


def _state(answer: ClientError) -> str:
    """What keeps an object from everybody with these credentials, if that is it."""
    if _code(answer) == "InvalidObjectState":
        return "it is archived; restore it, and the next run takes it with --retry forbidden"
    text = str(answer.response["Error"].get("Message")).lower()
    if _code(answer).startswith("KMS.") or "server side encryption" in text or "kms:decrypt" in text:
        return "it is encrypted with a key that is not ours"
    return ""


def _reason(uri: str, error: BaseException) -> BaseException:
    """The answer to HEAD has no body, which would say why it is refused: expired, or not for us. That to GET has."""
    answer = _answer(error)
    if answer is None or _code(answer) not in ("400", "403"):
        return error
    try:
        filesystem(uri).cat_file(uri, start=0, end=1)
    except STORE_ERRORS as told:
        return told
    return error


def _answer(error: BaseException | None) -> ClientError | None:
    """What S3 itself answered, of which s3fs makes an OSError."""
    while error is not None and not isinstance(error, ClientError):
        error = error.__cause__
    return error


def _origin(error: BaseException | None) -> BaseException | None:
    """The error around which botocore and aiohttp wrapped their own, with long URLs and the reason behind these."""
    while isinstance(error, (NoConnectionError, HTTPClientError, aiohttp.ClientError)):
        inner = getattr(error, "kwargs", {}).get("error") or error.__cause__
        if not isinstance(inner, BaseException):
            break
        error = inner
    return error


def _code(answer: ClientError) -> str:
    return str(answer.response["Error"].get("Code", ""))


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


def scan_folder(uri: str) -> list[str]:
    """Names of the files and, with a slash behind, of the folders in a local folder, in no order.

    Raises StoreError where it cannot be listed: it is no empty one, and a catalog would take its images for deleted.
    """
    with _explained(uri), os.scandir(local_path(uri)) as entries:
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
    with _explained(uri):
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
    bucket, _ = _bucket_and_key(uri)

    def ask() -> dict[str, Any]:
        answer = dict(filesystem(uri).call_s3("list_objects_v2", Bucket=bucket, **arguments))
        if reason := _why_no_listing(answer, arguments):
            hint = "; is AWS_ENDPOINT_URL right?" if "AWS_ENDPOINT_URL" in os.environ else ""
            error = StoreError("unreachable", f"{uri}: the answer is no S3 listing ({reason}){hint}")
            raise error from ResponseParserError(reason)  # which may pass
        return answer

    return _retried(uri, ask)


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
            raise StoreError("unreachable", f"{uri}: the store tells {min(again)} on two pages of one listing")
        yield answer
        if not answer["IsTruncated"]:
            return
        before, token = set(names), answer.get("NextContinuationToken")
        if token and token != arguments.get("ContinuationToken"):
            arguments["ContinuationToken"] = token
        elif names and not token:  # some stores give none
            arguments["StartAfter"] = max(f"{name}\U0010ffff" if name.endswith("/") else name for name in names)
        else:
            raise StoreError("unreachable", f"{uri}: the store says that its listing goes on, and not where")


def _bucket_and_key(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def list_folders(uri: str) -> list[str]:
    """Names of the folders directly below a local folder; nothing on S3, which has no folders."""
    if is_remote(uri):
        return []
    names = (entry.name for entry in os.scandir(uri) if entry.is_dir() and not entry.name.startswith("."))
    return sorted(map(table_name, names))


def list_names(uri: str, prefix: str = "", suffix: str = "") -> list[str]:
    """Sorted names of the files directly in a folder; none where the folder does not exist."""
    uri = absolute(uri)
    if not is_remote(uri):
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
        for entry in os.scandir(uri):
            with contextlib.suppress(FileNotFoundError):  # gone since
                if entry.is_file():
                    found[entry.name] = _file_version(entry.stat())
    return dict(sorted(found.items()))


def _objects_in(uri: str) -> Iterator[tuple[str, str]]:
    """Keys of the objects directly below ``uri``, and their etags."""
    for page in list_pages(uri, Prefix=_bucket_and_key(f"{uri}/")[1], Delimiter="/"):
        yield from ((info["Key"], info.get("ETag", "")) for info in page.get("Contents", ()) if info["Key"][-1] != "/")


def any_name(uri: str) -> str | None:
    """Name of a file or folder in the folder ``uri``, or None where it is empty or not there; hidden ones are none."""
    uri = absolute(uri)
    if is_remote(uri):
        prefix = _bucket_and_key(f"{uri}/")[1]
        keys = [info["Key"] for info in list_objects(uri, Prefix=prefix, MaxKeys=10).get("Contents", ())]
        names = [key.removeprefix(prefix).partition("/")[0] for key in keys]
    else:
        names = sorted(os.listdir(uri)) if os.path.isdir(uri) else []
    return next((name for name in names if name and not name.startswith(".")), None)


def exists(uri: str) -> bool:
    return _retried(uri, lambda: bool(filesystem(uri).exists(uri)))


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
    with _explained(uri):
        if not uri.startswith("/dev/") and not can_be_read(os.stat(path)):  # there shells put what they read
            raise StoreError("missing", f"{uri}: a named pipe, a socket or a device, and no file")
        with open(path, "rb") as file:
            before = file_version(os.fstat(file.fileno()))
            data = file.read()
            after = file_version(os.fstat(file.fileno()))
    is_another = re.fullmatch(FILE_VERSION, version) and not version == before == after
    if is_another or size_bytes not in (None, len(data)):
        raise _changed(uri)
    return data


def _changed(uri: str) -> StoreError:
    return StoreError("changed", f"{uri}: another one than was listed")


@dataclass
class _Download:
    """What has come of an object, and its etag: an attempt that failed is gone on with where that is worthwhile."""

    etag: str
    data: bytearray = field(default_factory=bytearray)


def _download(uri: str, etag: str, size_bytes: int | None) -> bytes:
    """An object, of that etag where there is one. As long as pieces of it come, there is no end of attempts."""
    download = _Download(etag)
    while True:
        num_bytes = len(download.data)
        try:
            return _retried(uri, lambda: _read_object(uri, download, size_bytes))
        except StoreError as error:
            if error.status != "unreachable" or len(download.data) < num_bytes + PIECE_BYTES:
                raise


def _read_object(uri: str, download: _Download, size_bytes: int | None) -> bytes:
    """Asks S3 once for an object, or for the rest of it."""
    bucket, key = _bucket_and_key(uri)
    request = {"Bucket": bucket, "Key": key}
    if download.etag:
        request["IfMatch"] = f'"{download.etag}"'
    if len(download.data) < PIECE_BYTES or not download.etag:
        download.data.clear()
    else:
        request["Range"] = f"bytes={len(download.data)}-"
    s3 = filesystem(uri)
    told = sync(s3.loop, _get_object, s3, request, download)
    if download.etag and told not in ("", download.etag):  # of a store that knows no conditions
        raise _changed(uri)
    data, reason = bytes(download.data), ""
    if size_bytes not in (None, len(data)):
        reason = f"the store delivered {len(data):,} bytes, its listing says {size_bytes:,}"
    elif data.startswith(b"<?xml") and b"<Error>" in data[:ERROR_BYTES]:
        reason = f"the store delivered {_one_line(data[:ERROR_BYTES].decode(errors='replace'))}"
    if reason:
        download.data.clear()
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
    _, key = _bucket_and_key(uri)
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
    with _explained(uri), _written(uri, data, scratch) as temporary:
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
        reason = f"the answer is none of S3 to a write{hint}"
        raise StoreError("unreachable", f"{uri}: {reason}") from ResponseParserError(reason)
    return answer


def _upload(uri: str, file: Any, size: int) -> None:
    """Writes what is left of an open file, in pieces where it is large; the object appears with the last one."""
    bucket, key = _bucket_and_key(uri)

    def ask(operation: str, **arguments: Any) -> dict[str, Any]:
        return _retried(uri, partial(_write, uri, operation, Bucket=bucket, Key=key, **arguments))

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
    with _explained(uri), _written(uri, data, scratch) as temporary:
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
    with _explained(uri):
        try:
            return _file_version(os.stat(uri))
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
    with _explained(uri), _written(uri, data, scratch) as temporary, open(uri, "rb") as standing:
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
    with _explained(uri):
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

    _retried(uri, remove)


def etag(uri: str) -> str | None:
    """What names the present version of an object on S3; None where there is none."""
    try:
        return str(_retried(uri, lambda: filesystem(uri).info(uri))["ETag"])
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
    bucket, key = _bucket_and_key(uri)

    def put() -> str | None:
        try:
            return str(_write(uri, "put_object", Bucket=bucket, Key=key, Body=data, **condition)["ETag"])
        except StoreError:
            raise
        except OSError as error:
            answer = _answer(error)
            if answer and _code(answer) in ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"):
                return None
            if answer and _code(answer) == "NotImplemented":
                raise NoConditions("unreachable", f"{uri}: the store knows no writes on a condition") from error
            raise

    return _retried(uri, put, num_attempts)


def check_writable(uri: str) -> None:
    """Raises StoreError, before any work is done, where nothing can be written into the folder ``uri``.

    Nobody who lists the folder meanwhile sees anything: on disk the file has no name, and to S3 goes a write on a
    condition that does not hold.
    """
    if not is_remote(uri):
        with _explained(uri):
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


def read_table(uri: str, columns: list[str] | None = None, filters: pc.Expression | None = None) -> pa.Table:
    """A Parquet file as a table, only ``columns`` of it and only the rows of ``filters``."""
    with _parquet_file(uri) as file:
        return pads.ParquetFileFormat().make_fragment(file).to_table(columns=columns, filter=filters)


def read_tables(uris: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """Parquet files of one schema, one after the other."""
    return pa.concat_tables([read_table(uri, list(columns)) for uri in uris])


def open_dataset(uris: Sequence[str], schema: pa.Schema) -> pads.Dataset:
    """Parquet files of one schema, all on disk or all in one store, as a lazy dataset; nothing is read yet."""
    if not is_remote(uris[0]):
        return pads.dataset(list(uris), schema, "parquet", pafs.LocalFileSystem())
    keys = [uri.removeprefix("s3://") for uri in uris]
    return pads.dataset(keys, schema, "parquet", pafs.PyFileSystem(_RemoteFiles(filesystem(uris[0]))))


def read_schema(uri: str) -> pa.Schema:
    """Columns and metadata of a Parquet file; reads its footer only."""
    with _parquet_file(uri) as file:
        return pq.read_schema(file)


def read_row_groups(uri: str, row_groups: list[int], columns: list[str]) -> pa.Table:
    with _parquet_file(uri) as file:
        return pq.ParquetFile(file).read_row_groups(row_groups, columns=columns)


def check_table(uri: str) -> None:
    """Reads all of a Parquet file, some rows at a time. Raises Damaged where that fails."""
    with _parquet_file(uri) as file:
        for _ in pq.ParquetFile(file).iter_batches():
            pass


def num_rows(uri: str) -> int:
    """Rows of a Parquet file, from its footer."""
    with _parquet_file(uri) as file:
        return int(pq.read_metadata(file).num_rows)


def read_footer(uri: str) -> pq.FileMetaData:
    """What the footer of a Parquet file says."""
    with _parquet_file(uri) as file:
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
            with _parquet_file(uri) as file:
                yield from pq.ParquetFile(file).iter_batches()
            return
        with _text_file(uri) as file:
            names = next(csv.reader([file.readline().decode("utf-8-sig")]), [])
            if not names:
                raise ValueError(f"{uri}: the file is empty; its first line must name the columns")
            as_text = pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
            yield from pacsv.open_csv(file, pacsv.ReadOptions(column_names=names), convert_options=as_text)
    except Damaged as error:
        raise ValueError(f"{uri}: {_one_line(error.reason)}") from error
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise ValueError(f"{uri}: {_one_line(str(error))}") from error


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


@contextlib.contextmanager
def _parquet_file(uri: str) -> Iterator[pa.NativeFile]:
    """A file for pyarrow to read in ranges. (Given a filesystem, it takes every fault of S3 for a missing file.)"""
    with _explained(uri), pa.PythonFile(_RemoteFile(uri), "r") if is_remote(uri) else pa.OSFile(uri) as file:
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
        _explained(uri),
        io.BufferedReader(_RemoteFile(uri), BUFFER_BYTES) if is_remote(uri) else open(uri, "rb") as file,
    ):
        packing = infer_compression(uri)
        yield compr[packing](file, mode="rb") if packing else file


BUFFER_BYTES = 8 * 2**20


class _RemoteFile(io.RawIOBase):
    """An object on S3, each range of which is tried again by itself; it may not be replaced meanwhile."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._file: BinaryIO = _retried(uri, lambda: filesystem(uri).open(uri, "rb", cache_type="none"))

    def readinto(self, buffer: Any) -> int:
        start = self.tell()

        def read() -> bytes:
            self._file.seek(start)
            data = self._file.read(len(buffer))
            wanted = min(len(buffer), max(0, self._file.size - start))  # type: ignore[attr-defined]
            if len(data) != wanted:  # pyarrow would take it for a damaged file
                reason = f"the store delivered {len(data):,} bytes, where {wanted:,} were asked for"
                raise StoreError("unreachable", f"{self._uri}: {reason}") from ResponseParserError(reason)
            return data

        data = _retried(self._uri, read)
        buffer[: len(data)] = data
        return len(data)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


class _RemoteFiles(pafs.FSSpecHandler):
    """Lets pyarrow's datasets read objects on S3 as we do: what may pass is tried again."""

    def open_input_file(self, path: str) -> pa.NativeFile:
        return pa.PythonFile(_RemoteFile(f"s3://{path}"), "r")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
