"""Asks a store, again where that may help, and says in one line what it answered instead: here and in no layer below.

Credentials and endpoints of S3 come from the environment or the instance's role (``AWS_ACCESS_KEY_ID``,
``AWS_SECRET_ACCESS_KEY``, ``AWS_ENDPOINT_URL``, ...), never from arguments. Every failure is a ``StoreError``.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import re
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import aiohttp
import fsspec
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

from agescale.store.errors import StoreError, changed, one_line
from agescale.store.paths import bucket_and_key, is_remote

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
TELL_AFTER_S = 10.0
"""Without an answer from S3; then the job says for whom it waits."""
NUM_READ_THREADS = 16
"""Reads under way at once in one process: object stores answer in tens of milliseconds."""


@lru_cache(maxsize=2)
def _filesystem(scheme: str, pid: int) -> fsspec.AbstractFileSystem:
    """The filesystem of a scheme. ``pid`` keeps a forked process from using its parent's connections."""
    if scheme == "s3":
        _check_environment()
        config = {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            "retries": {"total_max_attempts": 1},  # retried does it
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
            reason = f"AWS_CA_BUNDLE={bundle}: no file of certificates ({one_line(str(error))})"
            raise StoreError("unreachable", reason, stops_the_job=True) from None


def endpoint() -> str:
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


def retried(uri: str, operation: Callable[[], Result], num_attempts: int | None = None) -> Result:
    """What ``operation`` returns, which asks S3 once; it is done again where the fault may pass."""
    start = time.monotonic()
    num_left = num_attempts or NUM_ATTEMPTS
    pause_s = FIRST_PAUSE_S
    with patience(uri):
        while True:
            try:
                with explained(uri):
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
def patience(uri: str) -> Iterator[None]:
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
                message = f"{late[0].uri}: {endpoint()} has not answered for {TELL_AFTER_S:g} s; still trying"
                with contextlib.suppress(OSError, ValueError):  # nobody reads it
                    print(message, file=sys.stderr or io.StringIO(), flush=True)

    threading.Thread(target=watch, name="agescale-patience", daemon=True).start()


def _may_pass(error: BaseException | None) -> bool:
    answer = answer_of(error)
    if answer is None:
        origin = _origin(error)
        is_lasting = isinstance(origin, LASTING_ORIGINS) or getattr(origin, "reason", "") == "WRONG_VERSION_NUMBER"
        return isinstance(error, PASSING_ERRORS) and not is_lasting  # that reason: https:// of a server without TLS
    http_status = answer.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return http_status == 429 or (http_status >= 500 and http_status != 501) or code_of(answer) in PASSING_CODES


@contextlib.contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turns what filesystems raise into one ``StoreError`` a user can act on."""
    try:
        yield
    except StoreError:
        raise
    except IndexError as error:  # s3fs looks for the number of an error that has none: a timeout amid a body
        if not isinstance(error.__context__, TimeoutError):
            raise
        raise store_error(uri, error.__context__) from error.__context__
    except STORE_ERRORS as error:
        reason = _reason(uri, error)
        raise store_error(uri, reason) from reason
    except ValueError as error:  # of a configuration file; that of the environment is checked
        if not str(error).startswith("Invalid endpoint"):
            raise
        raise StoreError("unreachable", f"{uri}: {error}; it begins with http:// or https://", True) from None


def store_error(uri: str, error: BaseException) -> StoreError:
    answer = answer_of(error)
    origin = _origin(error)
    said = f"{code_of(answer)}: {answer.response['Error'].get('Message')}" if answer else str(origin)
    said = one_line(said) or ("no answer in time" if isinstance(origin, TimeoutError) else type(origin).__name__)
    if answer and code_of(answer) in ("PreconditionFailed", "412", "InvalidRange", "416"):  # or it ends before a range
        return changed(uri)
    if answer and code_of(answer) == "NoSuchBucket":
        return StoreError("missing", f"{uri}: no bucket {bucket_and_key(uri)[0]!r}")
    if answer and (state := _state(answer)):
        return StoreError("forbidden", f"{uri}: {state} ({said})", is_of_this=True)
    if isinstance(origin, ssl.SSLCertVerificationError):
        hint = "set AWS_CA_BUNDLE to a file with the certificate of its authority"
        reason = f"its certificate is not trusted ({origin.verify_message}); {hint}"
        return StoreError("unreachable", f"{uri}: {endpoint()}: {reason}", stops_the_job=True)
    if isinstance(error, (NoConnectionError, ReadTimeoutError)):
        return StoreError("unreachable", f"{uri}: {endpoint()} does not answer ({said})")
    if "header" in said and isinstance(origin, ValueError):
        hint = "the credentials hold a line end or other characters that no header takes; set them without"
        return StoreError("forbidden", f"{uri}: {hint} ({said})", stops_the_job=True)
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return StoreError("missing", f"{uri}: not found")
    if isinstance(error, NoCredentialsError):
        hint = "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or use an instance role, or set "
        hint += f"{UNSIGNED}=yes for a public bucket"
        return StoreError("forbidden", f"{uri}: {hint}", stops_the_job=True)
    if isinstance(error, CREDENTIAL_ERRORS) or (answer and code_of(answer) in CREDENTIAL_CODES):
        hint = "check the credentials in the environment, renew them if they expired; the same command continues"
        return StoreError("forbidden", f"{uri}: access refused ({said}); {hint}", stops_the_job=True)
    if isinstance(error, PermissionError):
        hint = "; check the credentials in the environment and the bucket's policy" if is_remote(uri) else ""
        return StoreError("forbidden", f"{uri}: access refused ({said}){hint}")
    return StoreError("unreachable", f"{uri}: {said}")


def _state(answer: ClientError) -> str:
    """What keeps an object from everybody with these credentials, if that is it."""
    if code_of(answer) == "InvalidObjectState":
        return "it is archived; restore it, and the next run takes it with --retry forbidden"
    text = str(answer.response["Error"].get("Message")).lower()
    if code_of(answer).startswith("KMS.") or "server side encryption" in text or "kms:decrypt" in text:
        return "it is encrypted with a key that is not ours"
    return ""


def _reason(uri: str, error: BaseException) -> BaseException:
    """The answer to HEAD has no body, which would say why it is refused: expired, or not for us. That to GET has."""
    answer = answer_of(error)
    if answer is None or code_of(answer) not in ("400", "403"):
        return error
    try:
        filesystem(uri).cat_file(uri, start=0, end=1)
    except STORE_ERRORS as told:
        return told
    return error


def answer_of(error: BaseException | None) -> ClientError | None:
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


def code_of(answer: ClientError) -> str:
    return str(answer.response["Error"].get("Code", ""))
