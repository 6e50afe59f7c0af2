"""One job at a time for an output folder: the second says who works there, and stops.

A folder in, a ``Lease`` out, for as long as the job runs. On disk it is a lock of the kernel's on ``.lock``, free again
as soon as its holder is dead. On S3 it is the object ``.lease.json``, which its holder writes anew every few seconds;
one that stands unchanged for ``EXPIRES_S`` belongs to nobody any more. All writes of it are conditional on what the
writer saw last, so that of several jobs one wins, and no two clocks are compared. It guards no single write: outputs
whose names their input decides come to no harm by two jobs, which only do the same work twice.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import math
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from agescale import storage
from agescale.storage import StoreError

LOCK_NAME = ".lock"
LEASE_NAME = ".lease.json"
RENEW_S = 5.0
"""Pause between two renewals of a lease on S3."""
EXPIRES_S = 30.0
"""A lease that was not renewed for so long may be taken over; its holder gives up then, too."""
POLL_S = 1.0
"""Pause of a waiting job between two looks at the lease."""
MAX_LOST_ANSWERS = 5
"""Writes of our own in a row that took place though they seemed refused: the client asks again when no answer comes."""


class Held(ValueError):
    """Another job has the folder."""


@contextlib.contextmanager
def hold(out: str, folder: str = "") -> Iterator[Lease]:
    """Keeps the folder ``out`` for this job, until the block ends. Raises Held where another job works there.

    Lock and lease lie in ``folder``, by default in ``out`` itself. On S3 it may wait ``EXPIRES_S`` for a lease whose
    holder was killed, and says so on stderr.
    """
    lease = Lease(storage.absolute(out), folder)
    with _lease(lease) if storage.is_remote(lease.out) else _lock(lease):
        yield lease


class Lease:
    """What the holder of a folder has in hand: ``check`` says whether it still has it."""

    def __init__(self, out: str, folder: str = "") -> None:
        self.out = out
        self.folder = folder or out
        self.uri = storage.join(self.folder, LEASE_NAME)
        self.holder = {"id": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid(), "since": _now()}
        self.num_renewals = 0
        self.etag: str | None = None
        self.is_lost = False
        self.renewed_at = math.inf  # a lock needs no renewal
        self.ended = threading.Event()

    def check(self) -> None:
        """Raises Held where another job has the folder now, or may have it. Asks nobody, so it costs nothing."""
        if self.is_lost:
            raise Held(f"{self.out}: another job has taken over and goes on there; this one stops")
        if self.silent_s > EXPIRES_S:
            hint = "another job may have taken over; run the same command again to continue"
            raise Held(f"{self.out}: could not be written to for {self.silent_s:.0f} s, so {hint}")

    def prove(self) -> None:
        """Raises Held unless the store says now that the folder is this job's."""
        prove(self.folder, str(self.holder["id"]))

    @property
    def silent_s(self) -> float:
        return time.monotonic() - self.renewed_at

    def write(self, expected_etag: str | None, num_attempts: int | None = None) -> bool:
        """Creates, renews or takes over the lease, if nobody else has written it since."""
        for _ in range(MAX_LOST_ANSWERS):
            asked_at = time.monotonic()
            self.num_renewals += 1
            data = json.dumps({**self.holder, "renewals": self.num_renewals}).encode()
            etag = storage.write_if(self.uri, data, expected_etag, num_attempts)
            if etag is not None:
                self.etag, self.renewed_at = etag, asked_at
                return True
            expected_etag = storage.etag(self.uri)
            if expected_etag is not None and _holder(self.uri).get("id") not in (None, self.holder["id"]):
                return False
        raise StoreError("unreachable", f"{self.uri}: the answers to {MAX_LOST_ANSWERS} writes were lost")

    def renew(self) -> None:
        """Runs beside the job. What the store does not answer now, it is asked again at the next renewal."""
        while not self.ended.wait(RENEW_S) and not self.is_lost:
            with contextlib.suppress(StoreError):
                self.is_lost = not self.write(self.etag, num_attempts=1)


def prove(folder: str, holder_id: str) -> None:
    """Raises Held unless lock or lease in ``folder`` names that holder now. Any process of its job may ask."""
    if storage.is_remote(folder):
        holder = _holder(storage.join(folder, LEASE_NAME))
    else:
        try:
            holder = _parsed(storage.read_bytes(storage.join(folder, LOCK_NAME)))
        except StoreError as error:
            if error.status != "missing":
                raise
            holder = {}
    if holder.get("id") != holder_id:
        raise Held(f"{folder}: {_name(holder)} has taken over and goes on there; this one stops")


@contextlib.contextmanager
def _lease(lease: Lease) -> Iterator[None]:
    _take(lease)
    thread = threading.Thread(target=lease.renew, name="agescale-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        lease.ended.set()
        thread.join()
        if not lease.is_lost and lease.silent_s < EXPIRES_S:
            with contextlib.suppress(StoreError):  # what stays behind expires
                storage.delete(lease.uri)


def _take(lease: Lease) -> None:
    """Creates the lease, or waits until the one that stands there is given back or has expired."""
    seen, seen_at = None, 0.0
    while not lease.write(None):
        etag = storage.etag(lease.uri)
        if etag is None:
            continue  # given back meanwhile
        if seen is None:
            seen, seen_at = etag, time.monotonic()
            name = _name(_holder(lease.uri))
            print(f"{lease.out}: waiting {EXPIRES_S:.0f} s, because {name} may still run", file=sys.stderr, flush=True)
        is_alive = etag != seen
        has_expired = not is_alive and time.monotonic() - seen_at > EXPIRES_S
        if has_expired and lease.write(seen):
            return
        if is_alive or has_expired:
            raise _refusal(lease.out, _holder(lease.uri))
        time.sleep(POLL_S)


@contextlib.contextmanager
def _lock(lease: Lease) -> Iterator[None]:
    path = os.path.join(lease.folder, LOCK_NAME)
    try:
        os.makedirs(lease.folder, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise StoreError("forbidden", f"{path}: {error.strerror}") from error
    with open(handle, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _refusal(lease.out, _parsed(file.read())) from None
        except OSError as error:  # some network file systems have no locks
            print(f"{lease.out}: no lock ({error.strerror}); let no other job write there", file=sys.stderr, flush=True)
        file.truncate()
        json.dump(lease.holder, file)
        file.flush()
        yield


def _refusal(out: str, holder: dict[str, Any]) -> Held:
    return Held(f"{out}: {_name(holder)} writes there; wait for it, or give another --out")


def _name(holder: dict[str, Any]) -> str:
    if not holder:
        return "another job"
    return f"another job (host {holder.get('host')}, pid {holder.get('pid')}, since {holder.get('since')})"


def _holder(uri: str) -> dict[str, Any]:
    """Who wrote the lease; empty where there is none."""
    try:
        return _parsed(storage.read_bytes(uri))
    except StoreError as error:
        if error.status != "missing":
            raise
        return {}


def _parsed(text: str | bytes) -> dict[str, Any]:
    """What a lock or a lease says; its holder may just be writing it."""
    try:
        return dict(json.loads(text))
    except ValueError:
        return {}


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
