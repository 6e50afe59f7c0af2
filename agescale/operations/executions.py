"""What is left of each execution of a job when its cluster is gone: a small record beside ``--out``, and a POST.

    <out>.agescale/executions/<began>-<some letters>.json      one a file; written when the job has its folder, and anew
                                                               at its end: one that was killed has begun and not ended

In: the command, and how it ended; out: a record without secrets. Never in the way: what cannot be written or sent
within seconds is one line, and the job ends as it would have.
"""

from __future__ import annotations

import datetime as dt
import getpass
import json
import os
import re
import socket
import sys
import threading
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from agescale.runtime import terminal
from agescale.runtime.versions import installed_versions
from agescale.store import objects, paths
from agescale.store.errors import StoreError
from agescale.tables import folders

FOLDER = "executions"
PATIENCE_S = 10.0
"""For a store or a server that does not answer; a job is not kept from its work, or its end, for longer."""
SECRETS = (
    re.compile(r"(?<=://)()[^\s/@'\"]+(?=@)"),  # user:password of a URI
    re.compile(r"([?&][\w-]*(?:sig|signature|credential|token|key|keyid|secret|password)=)[^\s&'\"]+", re.IGNORECASE),
    re.compile(r"(\b\w*(?:AWS_\w+|SECRET\w*|TOKEN\w*|PASSWORD\w*)=['\"]?)[^\s&'\"]+", re.IGNORECASE),
    re.compile(r"(--notify-url[= ]'?\w+://[^\s/'\"]+/)[^\s'\"]+"),  # the path of such a URL often is one
)
"""What stands for a secret in a command or a line: what the group does not keep."""


@dataclass(frozen=True)
class Execution:
    """One execution of a job. ``exit_code`` and ``ended`` are None until its end; times are UTC, in ISO 8601."""

    job: str
    command: str
    host: str
    pid: int
    user: str
    versions: dict[str, str]
    began: str
    ended: str | None = None
    exit_code: int | None = None
    reason: str = ""
    counts: dict[str, float] = field(default_factory=dict)  # what the last line of progress said
    last_lines: tuple[str, ...] = ()

    def masked(self) -> Execution:
        lines = tuple(map(masked, self.last_lines))
        return replace(self, command=masked(self.command), reason=masked(self.reason), last_lines=lines)


def masked(text: str) -> str:
    """``text`` without what looks like a secret.

    >>> masked("AWS_SECRET_ACCESS_KEY=abc agescale score --catalog https://me:pw@store/x?a=1&X-Amz-Signature=f00")
    'AWS_SECRET_ACCESS_KEY=*** agescale score --catalog https://***@store/x?a=1&X-Amz-Signature=***'
    >>> masked("agescale train --notify-url https://hooks.example/services/T0/B0")
    'agescale train --notify-url https://hooks.example/***'
    """
    for secret in SECRETS:
        text = secret.sub(r"\1***", text)
    return text


class Recorder:
    """Keeps the record of this process's job, and sends it to ``notify_url``, where there is one."""

    def __init__(self, job: str, command: str, out: str, notify_url: str) -> None:
        self.execution = Execution(
            job, command, socket.gethostname(), os.getpid(), _user(), installed_versions(), _now()
        )
        self.out, self.notify_url = out, notify_url
        self.uri = ""

    def begin(self, out: str) -> None:
        """Called when the job has the folder ``out``, one of several perhaps."""
        if out == self.out and not self.uri:
            name = re.sub(r"\W", "", self.execution.began.partition("+")[0])
            self.uri = paths.join(folders.beside(out), FOLDER, f"{name}-{uuid.uuid4().hex[:8]}.json")
            self._write()

    def end(self, code: int, reason: str) -> None:
        counts, lines = dict(terminal.JOURNAL.counts), tuple(terminal.JOURNAL.last_lines)
        self.execution = replace(
            self.execution, ended=_now(), exit_code=code, reason=reason, counts=counts, last_lines=lines
        )
        if self.uri:
            self._write()
        if self.notify_url:
            _try(f"{masked(f'--notify-url {self.notify_url}')}: not told", self._send)

    def _write(self) -> None:
        _try(f"{self.uri}: no record of this execution", lambda: objects.write_bytes(self.uri, self._data()))

    def _send(self) -> None:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.notify_url, self._data(), headers, method="POST")
        urllib.request.urlopen(request, timeout=PATIENCE_S).close()

    def _data(self) -> bytes:
        return json.dumps(asdict(self.execution.masked()), indent=1).encode()


def _try(what: str, write: Callable[[], None]) -> None:
    """Does it, or says in one line why not; gives up after PATIENCE_S."""
    if error := in_time(write, PATIENCE_S):
        print(terminal.printable(f"{what}: {error}"), file=sys.stderr, flush=True)


def in_time(call: Callable[[], object], patience_s: float) -> Exception | None:
    """What ``call`` raises, or a TimeoutError where it has not ended in time: it then goes on, and keeps nobody."""
    raised: list[Exception] = [TimeoutError(f"no answer in {patience_s:g} s")]

    def run() -> None:
        try:
            call()
            raised.clear()
        except Exception as error:  # noqa: BLE001  (the caller's)
            raised[0] = error

    thread = threading.Thread(target=run, name="agescale-in-time", daemon=True)
    thread.start()
    thread.join(patience_s)
    return next(iter(raised), None)


def newest(out: str) -> Execution | None:
    """The execution that began last in the folder ``out``; None where none is known."""
    folder = paths.join(folders.beside(out), FOLDER)
    try:
        names = objects.list_names(folder, suffix=".json")
        return _parsed(json.loads(objects.read_bytes(paths.join(folder, names[-1])))) if names else None
    except (StoreError, ValueError, TypeError):  # lost, or another version's
        return None


def _parsed(said: dict[str, Any]) -> Execution:
    return Execution(**{**said, "last_lines": tuple(said.get("last_lines", ()))})


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a number without a name, as in containers
        return str(os.getuid())


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
