"""One job at a time for an output folder: the second says who works there, and stops.

A folder in, a ``Lease`` out, for as long as the job runs. On disk it is a lock of the kernel's on ``.lock``, free again
as soon as its holder is dead. On S3 it is the object ``.lease.json``, which its holder writes anew every few seconds;
one that stands unchanged for ``EXPIRES_S`` belongs to nobody any more. All writes of it are conditional on what the
writer saw last, so that of several jobs one wins, and no two clocks are compared; a store that refuses no write on a
condition that does not hold is found out when a lease is taken.

Who writes what another job would spoil proves the lease right before (``Claim.prove``, in any process). That leaves the
moment between the proof and the write, so files are created conditionally too, where they must not stand twice.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import math
import os
import socket
import stat
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from agescale.store import objects, paths
from agescale.store.errors import NoConditions, StoreError

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


def clock() -> float:
    """Seconds since some moment, counted also while the machine sleeps, where it can tell."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@contextlib.contextmanager
def hold(out: str, folder: str = "", is_wanted: bool = True) -> Iterator[Lease]:
    """Keeps the folder ``out`` for this job, until the block ends. Raises Held where another job works there, and
    ValueError where the store cannot keep it for one job alone.

    Lock and lease lie in ``folder``, by default in ``out`` itself. On S3 it may wait ``EXPIRES_S`` for a lease whose
    holder was killed, and says so on stderr. Without ``is_wanted`` nothing is taken, and all checks and proofs hold.
    """
    lease = Lease(out, folder, is_wanted)
    if is_wanted:
        with _lease(lease) if paths.is_remote(lease.out) else _lock(lease):
            yield lease
    else:
        yield lease


@dataclass(frozen=True)
class Holder:
    """Who has a folder, or had it last, as it said itself; ``is_alive``: it holds the lock, or renews its lease."""

    host: str
    pid: int
    since: str
    is_alive: bool


def look(out: str, folder: str = "") -> Holder | None:
    """Who holds the folder ``out``, without taking anything; None where nobody does and the last one left no name.

    A lease on S3 that was renewed in the last ``EXPIRES_S``, by the store's own clock, is alive.
    """
    lease = Lease(paths.absolute(out), folder)
    said = _holder(lease.uri)
    if not {"host", "pid", "since"} <= said.keys():
        return None
    is_alive = _is_renewed(lease.uri) if paths.is_remote(out) else _is_locked(lease.uri)
    return Holder(str(said["host"]), int(said["pid"]), str(said["since"]), is_alive)


def release(out: str) -> None:
    """Gives a folder back for a holder that was killed by whoever started it, so that nobody waits for its lease to
    expire. One that lives on proves in vain, and stops."""
    if paths.is_remote(out):
        objects.delete(paths.join(out, LEASE_NAME))


def _is_renewed(uri: str) -> bool:
    age_s = objects.age_s(uri)
    return age_s is not None and age_s < EXPIRES_S


def _is_locked(path: str) -> bool:
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@dataclass(frozen=True)
class Claim:
    """By which any process of a job proves that the folder ``out`` is still the job's. Small, because it travels."""

    out: str
    uri: str  # of the lock or the lease
    holder: str  # empty where the job has taken none

    def prove(self) -> None:
        """Asks the store, now. Raises Held where the folder is another job's, or nobody's; StoreError where there is no
        answer. Costs one small read."""
        if self.holder and _holder(self.uri).get("id") != self.holder:
            raise taken_over(self.out)


class Lease:
    """What the holder of a folder has in hand: ``check`` and ``prove`` say whether it still has it."""

    def __init__(self, out: str, folder: str = "", is_wanted: bool = True) -> None:
        self.out = out
        self.folder = folder or out
        self.uri = paths.join(self.folder, LEASE_NAME if paths.is_remote(out) else LOCK_NAME)
        self.is_wanted = is_wanted
        self.holder = {"id": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid(), "since": _now()}
        self.num_renewals = 0
        self.etag: str | None = None
        self.is_lost = False
        self.renewed_at = math.inf  # a lock needs no renewal
        self.ended = threading.Event()

    def check(self) -> None:
        """Raises Held where another job has the folder now, or may have it. Asks nobody, so it costs nothing."""
        if self.is_lost:
            raise taken_over(self.out)
        if self.silent_s > EXPIRES_S:
            hint = "another job may have taken over; run the same command again to continue"
            raise Held(f"{self.out}: could not be written to for {self.silent_s:.0f} s, so {hint}")

    @property
    def claim(self) -> Claim:
        return Claim(self.out, self.uri, str(self.holder["id"]) if self.is_wanted else "")

    def prove(self) -> None:
        """As ``check``, but asks the store (``Claim.prove``): to be called right before a write."""
        self.check()
        self.claim.prove()

    @property
    def silent_s(self) -> float:
        return clock() - self.renewed_at

    def write(self, expected_etag: str | None, num_attempts: int | None = None) -> bool:
        """Creates, renews or takes over the lease, if nobody else has written it since."""
        for _ in range(MAX_LOST_ANSWERS):
            asked_at = clock()
            self.num_renewals += 1
            data = json.dumps({**self.holder, "renewals": self.num_renewals}).encode()
            etag = objects.write_if(self.uri, data, expected_etag, num_attempts)
            if etag is not None:
                self.etag, self.renewed_at = etag, asked_at
                return True
            expected_etag = objects.etag(self.uri)
            if expected_etag is None and self.etag is not None:
                return False  # whoever took over while this one slept is done, and gave it back
            if expected_etag is not None and _holder(self.uri).get("id") not in (None, self.holder["id"]):
                return False
        raise StoreError("unreachable", f"{self.uri}: the answers to {MAX_LOST_ANSWERS} writes were lost")

    def check_store(self) -> None:
        """Raises ValueError where the store lets a second job take what this one has: it knows no conditions."""
        for condition, expected_etag in (("If-None-Match", None), ("If-Match", '"none"')):
            if objects.write_if(self.uri, b"{}", expected_etag) is not None:
                with contextlib.suppress(StoreError):
                    objects.delete(self.uri)
                raise _without_conditions(self.out, f"ignores {condition}")

    def renew(self) -> None:
        """Runs beside the job. What the store does not answer now, it is asked again at the next renewal."""
        while not self.ended.wait(RENEW_S) and not self.is_lost:
            with contextlib.suppress(StoreError):
                self.is_lost = not self.write(self.etag, num_attempts=1)


@contextlib.contextmanager
def _lease(lease: Lease) -> Iterator[None]:
    try:
        _take(lease)
        lease.check_store()
    except NoConditions:
        raise _without_conditions(lease.out, "refuses all conditional writes") from None
    thread = threading.Thread(target=lease.renew, name="agescale-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        lease.ended.set()
        thread.join()
        if not lease.is_lost and lease.silent_s < EXPIRES_S:
            with contextlib.suppress(StoreError):  # what stays behind expires
                objects.delete(lease.uri)


def _take(lease: Lease) -> None:
    """Creates the lease, or waits until the one that stands there is given back or has expired."""
    seen, seen_at = None, 0.0
    while not lease.write(None):
        etag = objects.etag(lease.uri)
        if etag is None:
            continue  # given back meanwhile
        if seen is None:
            seen, seen_at = etag, clock()
            name = _name(_holder(lease.uri))
            print(f"{lease.out}: waiting {EXPIRES_S:.0f} s, because {name} may still run", file=sys.stderr, flush=True)
        is_alive = etag != seen
        has_expired = not is_alive and clock() - seen_at > EXPIRES_S
        if has_expired and lease.write(seen):
            return
        if is_alive or has_expired:
            raise _refusal(lease.out, _holder(lease.uri))
        time.sleep(POLL_S)


@contextlib.contextmanager
def _lock(lease: Lease) -> Iterator[None]:
    with open(_open_lock(lease), "r+") as file:
        file.truncate()
        json.dump(lease.holder, file)
        file.flush()
        yield


def _open_lock(lease: Lease) -> int:
    """A handle of the lock file, which is locked by it and may be written."""
    path = lease.uri
    while True:
        try:
            os.makedirs(lease.folder, exist_ok=True)
            handle, is_ours = _open_by_anybody(path)
        except OSError as error:
            raise closed(path, error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _refusal(lease.out, _parsed(os.pread(handle, 10_000, 0))) from None
        except OSError as error:  # some network file systems have no locks
            print(
                f"{lease.out}: no lock ({error.strerror}); let no other job write there",
                file=sys.stderr,
                flush=True,
            )
        if is_ours and _is_at(path, handle):
            return handle
        if not is_ours and _is_at(path, handle):  # we hold it, so nobody else does
            _remove(path)
        os.close(handle)


def closed(path: str, error: OSError) -> StoreError:
    """What to say of a lock that cannot be opened."""
    hint = "; let this user write it, or give another --out" if isinstance(error, PermissionError) else ""
    return StoreError("forbidden", f"{path}: {error.strerror}{hint}")


def _open_by_anybody(path: str) -> tuple[int, bool]:
    """A handle of the lock file, and whether it may be written; else it is another user's, in a folder of both."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        return os.open(path, os.O_RDONLY), False
    if os.stat(os.path.dirname(path)).st_mode & stat.S_IWGRP and os.fstat(handle).st_uid == os.geteuid():
        os.fchmod(handle, 0o664)
    return handle, True


def _is_at(path: str, handle: int) -> bool:
    """Whether the file still has its name."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError as error:
        raise StoreError("forbidden", f"{path}: another user's, and not to be replaced ({error.strerror})") from error


def taken_over(out: str) -> Held:
    return Held(f"{out}: another job has taken over and goes on there; this one stops")


def _without_conditions(out: str, what: str) -> ValueError:
    reason = f"this store {what}, so it cannot keep two jobs apart"
    return ValueError(f"{out}: {reason}; make sure that no other job writes there, and give --no-lease")


def _refusal(out: str, holder: dict[str, Any]) -> Held:
    return Held(f"{out}: {_name(holder)} writes there; wait for it, or give another --out")


def _name(holder: dict[str, Any]) -> str:
    if not holder:
        return "another job"
    return f"another job (host {holder.get('host')}, pid {holder.get('pid')}, since {holder.get('since')})"


def _holder(uri: str) -> dict[str, Any]:
    """Who wrote the lease; empty where there is none."""
    try:
        return _parsed(objects.read_bytes(uri))
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
