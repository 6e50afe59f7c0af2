"""The one door for all that a job prints: nothing on its other side, whatever it is, can end the job.

``guard_streams`` comes first. From then on print(), rich, logging and Ray's threads write as ever: what a terminal
cannot show is shown escaped, and what nobody reads (a reader that has gone, a full disk) is dropped. For collectors of
logs each line becomes one object in JSON here (``JOURNAL``), whoever wrote it. ``print_table`` never cuts a number.
Decides nothing of what is said.
"""

from __future__ import annotations

import codecs
import contextlib
import datetime as dt
import io
import json
import logging
import os
import select
import sys
from collections import Counter, deque
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table

ERRORS = "agescale.runtime.terminal"
"""Names what is done with characters that an encoding lacks: an ellipsis becomes three dots, others their escape."""

MIN_NAME_WIDTH = 16
"""Letters that are left of a name, however narrow the terminal."""

CONTROL_CHARACTERS = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160))}


MAX_LINE = 100_000
"""Letters of a line that has not ended: a bar on a terminal never does."""
_numbers: ContextVar[dict[str, float]] = ContextVar("_numbers", default={})  # noqa: B039  (never changed)


@dataclass
class Journal:
    """What this process has said, and how it is to be said."""

    job: str = ""
    is_json: bool = False
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=20))
    counts: dict[str, float] = field(default_factory=dict)  # of the last line of progress

    def record(self, line: str, level: str) -> bytes:
        """A line as one object in JSON, with the numbers that ``say`` was given."""
        now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
        about = {"time": now, "level": level, "job": self.job, "message": line, **_numbers.get()}
        return json.dumps(about).encode() + b"\n"


JOURNAL = Journal()


def say(line: str, numbers: dict[str, float], file: TextIO | None = None) -> None:
    """Prints a line; ``numbers`` are told beside it, where lines are objects in JSON."""
    token = _numbers.set(numbers)
    try:
        print(line, file=file, flush=True)
    finally:
        _numbers.reset(token)


def guard_streams() -> None:
    """Makes standard output and standard error such that writing to them never fails; a second time it does nothing."""
    if not os.environ.get("COLUMNS", "").strip("0"):
        os.environ.pop("COLUMNS", None)  # no columns at all: rich would print nothing, and not look for the real width
    before = sys.stderr
    sys.stdout, sys.stderr = guarded(sys.stdout), guarded(sys.stderr, level="warning")
    for name in (None, "ray"):  # what was given the stream before, too
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is before:
                handler.setStream(sys.stderr)


def guarded(stream: TextIO | None, level: str = "info") -> TextIO:
    """``stream`` as one that takes everything, line by line; None (closed from the beginning) is one that drops it."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    if stream.errors == ERRORS:
        return stream
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # no stream of the system, hence none that can fail
        return stream
    with contextlib.suppress(OSError):
        stream.flush()
    raw = _Unfailing(descriptor, stream.encoding, level)
    return io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, ERRORS, line_buffering=True)


class _Unfailing(io.FileIO):
    """A file that takes what is written to it, and drops what the system does not take. Its lines go to the journal,
    and come as the journal wants them."""

    def __init__(self, descriptor: int, encoding: str, level: str) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.level = level
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")
        self._begun = ""  # of a line

    def write(self, data: Any) -> int:
        num_written = memoryview(data).nbytes if JOURNAL.is_json else self._send(data)
        *lines, rest = (self._begun + self._decoder.decode(bytes(memoryview(data)[:num_written]))).split("\n")
        self._begun = rest[-MAX_LINE:]
        for line in filter(None, map(str.rstrip, lines)):
            JOURNAL.last_lines.append(line)
            if JOURNAL.is_json:
                record = memoryview(JOURNAL.record(line, "error" if line.startswith("error: ") else self.level))
                while record:
                    record = record[self._send(record) :]
        return num_written

    def _send(self, data: Any) -> int:
        try:
            while (num_written := super().write(data)) is None:  # a pipe that is full and would not block
                select.select((), (self,), ())
        except OSError:
            return memoryview(data).nbytes
        return num_written


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """What stands in the place of characters that cannot be encoded, and where to go on."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end].replace("…", "...")
    return lacking.encode("ascii", "backslashreplace").decode(), error.end


codecs.register_error(ERRORS, _escaped)


def is_terminal() -> bool:
    """Whether people watch, on something that can move its cursor and has a width."""
    return not JOURNAL.is_json and sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def console(file: TextIO | None = None) -> Console:
    """Rich on ``file``, else standard output, for plain text: a photo may well be called [red].jpg or :tada:.jpg."""
    return Console(file=file, markup=False, emoji=False, highlight=False)


def printable(text: str) -> str:
    r"""``text`` in one line that moves no cursor.

    >>> printable("a\nb\x1b[1m")
    'a\\nb\\x1b[1m'
    """
    return text.translate(CONTROL_CHARACTERS)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], file: TextIO | None = None) -> None:
    """Prints a table with a line a row, as wide as it comes, on standard output or ``file``.

    Where a terminal is narrower, names (the first column) lose their middle, down to MIN_NAME_WIDTH, then the last
    column is folded between its words; what is still too wide the terminal breaks. No number is ever cut.
    """
    shown = console(file)
    rows = [[_shown(cell, shown.encoding) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(columns, *rows, strict=True)]
    width = sum(widths) + 3 * len(widths) + 1  # blanks and lines between
    if file is None and is_terminal() and width > shown.width:
        room = max(MIN_NAME_WIDTH, cell_len(columns[0]), widths[0] - (width - shown.width))
        names = shortened([row[0] for row in rows], room)
        rows = [[name, *row[1:]] for name, row in zip(names, rows, strict=True)]
        width -= widths[0] - max(map(cell_len, [columns[0], *names]))
        longest_word = max(cell_len(word) for row in (columns, *rows) for word in ["", *row[-1].split()])
        width = min(width, max(shown.width, width - widths[-1] + longest_word))
    shown.width = width
    table = Table(*(Column(title, no_wrap=title is not columns[-1]) for title in columns))
    for row in rows:
        table.add_row(*row)
    shown.print(table)


def _shown(cell: str, encoding: str) -> str:
    """A cell as it will be seen, so that its width is known."""
    return printable(cell).encode(encoding, ERRORS).decode(encoding)


def shortened(names: Sequence[str], width: int) -> list[str]:
    """Names of at most ``width`` letters, at least 5: without the folders that all are in, then without their middle.
    A name that would be another's too stays whole.

    >>> shortened(["2026-11-25_customer_17.jpg", "2026-11-25_buyer_4.jpg", "x.jpg"], 16)
    ['2026-1..._17.jpg', '2026-1...r_4.jpg', 'x.jpg']
    >>> shortened(["/home/me/photos/party/1.jpg", "/home/me/photos/beach/1.jpg"], 16)
    ['.../party/1.jpg', '.../beach/1.jpg']
    """
    num_common = os.path.commonprefix(names).rfind("/")  # noqa: RUF071  (of letters: s3://bucket is no path)
    if max(map(len, names), default=0) > width and num_common > len("..."):
        names = [f"...{name[num_common:]}" for name in names]
    num_ahead = (width - len("...")) // 2
    num_behind = width - len("...") - num_ahead
    cut = [f"{name[:num_ahead]}...{name[-num_behind:]}" if len(name) > width else name for name in names]
    counts = Counter(cut)
    return [short if counts[short] == 1 else name for short, name in zip(cut, names, strict=True)]
