"""Who may write into a run: the job that holds it and the processes that it started, one at a time, and nobody else.

A lease says whose the folder is, but a process that stood still meanwhile (a paused machine, kill -STOP) may not know
yet. So who writes proves it at that moment, and what was proved holds until it is written: on disk a lock of the
kernel's, which goes with its process, keeps the next holder waiting; on S3 a file of names is replaced on the condition
that it is the one that was seen before the proof, and the next holder replaces each of them before anything else.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from agescale.store import lease, objects, paths

SAVING_NAME = ".saving"
WAIT_S = 30.0
"""A process of the job before that still writes, on disk, is waited for so long."""
POLL_S = 0.2


@dataclass(frozen=True)
class Writer:
    """What a process of the job that holds a run needs in order to write there; it may travel to it."""

    claim: lease.Claim

    @property
    def out(self) -> str:
        """The folder of the run."""
        return self.claim.out

    @property
    def holder(self) -> str:
        """The id of the lease's holder; empty where the job has taken no lease."""
        return self.claim.holder

    def prove(self) -> None:
        """Raises Held unless the run is this job's now."""
        self.claim.prove()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """While the block lasts nobody else writes into the run. Raises Held where it is not this job's any more."""
        with contextlib.nullcontext() if paths.is_remote(self.out) else _locked(self.out):
            self.prove()
            yield

    def replace(self, uri: str, data: bytes, seen: str | None) -> None:
        """Writes a file of names in the place of the one whose etag was ``seen`` before the last proof."""
        if not paths.is_remote(uri) or not self.holder:
            objects.write_bytes(uri, data)
        elif objects.write_if(uri, data, seen) is None and objects.read_bytes(uri) != data:  # or an answer was lost
            raise lease.Held(f"{self.out}: another job has written there meanwhile; this one stops")


def seen(uri: str) -> str | None:
    """The etag of a file of names on S3; on disk nobody needs it."""
    return objects.etag(uri) if paths.is_remote(uri) else None


@contextlib.contextmanager
def _locked(out: str) -> Iterator[None]:
    path = paths.join(out, SAVING_NAME)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise lease.closed(path, error) from error
    with open(handle, "r+") as file:
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise lease.Held(f"{out}: a process of the job before still writes there; end it first") from None
                time.sleep(POLL_S)
                continue
            except OSError:
                pass  # a file system without locks: what the lease has said already
            break
        yield
