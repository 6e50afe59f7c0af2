"""Whatever stands on the other side of a stream, the job goes on; however narrow a terminal, all numbers are there."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from typing import TextIO

import pytest

from agescale.runtime import progress, terminal
from agescale.runtime.terminal import guarded, print_table, shortened

COLUMNS = ("photo", "age", "status")
NAMES = tuple(f"/home/me/photos/2026-11-{day}_birthday/IMG_0001.jpg" for day in range(10, 16))
ROWS = [[name, f"{number}7", "unreadable: not an image"] for number, name in enumerate(NAMES)]


def text_stream(descriptor: int, encoding: str = "utf-8") -> TextIO:
    """As Python opens standard output: the descriptor stays open after it."""
    return open(descriptor, "w", encoding=encoding, closefd=False)


def test_what_nobody_reads_is_dropped() -> None:
    reader, writer = os.pipe()
    stream = guarded(text_stream(writer))
    print("first", file=stream)
    assert os.read(reader, 100) == b"first\n"
    os.close(reader)
    print("second" * 100_000, file=stream, flush=True)
    stream.close()
    os.close(writer)


@pytest.mark.parametrize("what", ["a full disk", "a descriptor that was closed", "closed from the beginning"])
def test_what_cannot_be_written_is_dropped(what: str) -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    stream = guarded(None if what == "closed from the beginning" else text_stream(descriptor))
    if what == "a descriptor that was closed":
        os.close(descriptor)
    print("anything", file=stream, flush=True)
    stream.close()
    if what != "a descriptor that was closed":
        os.close(descriptor)


def test_a_slow_reader_of_a_pipe_that_would_not_block_gets_everything() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    read: list[bytes] = []

    def read_all() -> None:
        time.sleep(0.2)
        with open(reader, "rb") as file:
            read.append(file.read())

    thread = threading.Thread(target=read_all)
    thread.start()
    print("x" * 300_000, file=guarded(text_stream(writer)))  # a pipe holds 64 KiB
    os.close(writer)
    thread.join()
    assert read == [b"x" * 300_000 + b"\n"]


@pytest.mark.parametrize(
    ("encoding", "seen"),
    [
        ("ascii", rb"J\xfcrgen... \u8001 \U0001f389 \udcff"),
        ("latin-1", b"J\xfcrgen... \\u8001 \\U0001f389 \\udcff"),
        ("utf-8", "Jürgen… 老 🎉 \\udcff".encode()),
    ],
)
def test_what_an_encoding_lacks_is_shown_escaped(encoding: str, seen: bytes) -> None:
    reader, writer = os.pipe()
    stream = guarded(text_stream(writer, encoding))
    print("Jürgen… 老 🎉 \udcff", end="", file=stream)  # the last one stands for a byte that is no UTF-8
    stream.close()
    assert os.read(reader, 100) == seen
    os.close(reader)
    os.close(writer)


def test_a_guarded_stream_is_guarded_once_and_a_tests_own_never(capsys: pytest.CaptureFixture[str]) -> None:
    with open(os.devnull, "w") as nothing:
        stream = guarded(nothing)
        assert stream is not nothing
        assert guarded(stream) is stream
        stream.close()
    assert guarded(sys.stdout) is sys.stdout


def test_standard_streams_that_are_closed_are_not_taken_by_other_files() -> None:
    code = "import agescale, os; print(os.open(os.devnull, os.O_RDONLY)); os.write(2, b'into nothing')"
    command = f'exec "{sys.executable}" -c "{code}" <&- 2>&-'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3\n", "")


@pytest.mark.parametrize("columns", ["0", "20", "", None])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_off_a_terminal_a_row_is_a_line_with_all_its_words(
    columns: str | None, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    written = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", written)
    print_table(COLUMNS, ROWS)
    written.seek(0)
    lines = written.read().splitlines()
    assert len({len(line) for line in lines}) == 1
    for row in ROWS:
        assert sum(all(cell in line for cell in row) for line in lines) == 1


def test_names_are_no_markup_and_move_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, [["[red]:tada:.jpg", "1", "[/]"], ["a\nb\x1b[2J.jpg", "2", ""]])
    shown = capsys.readouterr().out
    assert all(words in shown for words in ("[red]:tada:.jpg", "[/]", r"a\nb\x1b[2J.jpg"))
    assert len(shown.splitlines()) == 6


def on_a_terminal(code: str, num_columns: int, term: str = "xterm") -> str:
    """What a terminal of that width is sent by a program."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, num_columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"} | {"TERM": term}
    process = subprocess.Popen([sys.executable, "-c", code], stdin=its, stdout=its, stderr=its, env=environment)
    os.close(its)
    sent = b""
    try:
        while part := os.read(ours, 10_000):
            sent += part
    except OSError:  # the program has ended
        pass
    os.close(ours)
    assert process.wait() == 0, sent
    return sent.decode()


SHOW_TABLE = f"from agescale.runtime import terminal; terminal.guard_streams(); terminal.print_table({COLUMNS}, {ROWS})"


def test_on_a_terminal_names_make_room_and_can_be_told_apart() -> None:
    shown = on_a_terminal(SHOW_TABLE, 80)
    rows = [line for line in shown.splitlines() if "not an image" in line]
    assert len(rows) == len(ROWS)
    assert {len(line) for line in rows} <= set(range(70, 81))
    assert len({line.split("│")[1] for line in rows}) == len(ROWS)
    assert all(any(f" {row[1]} " in line for line in rows) for row in ROWS)


@pytest.mark.parametrize("num_columns", [0, 1, 20])
def test_on_the_narrowest_terminal_no_number_is_cut(num_columns: int) -> None:
    shown = on_a_terminal(SHOW_TABLE, num_columns)
    assert all(f" {row[1]} " in shown for row in ROWS)
    assert "unreadable:" in shown


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_progress_is_a_bar_where_a_cursor_can_be_moved_and_lines_elsewhere(term: str) -> None:
    code = (
        "from agescale.runtime import progress; progress.LINE_EVERY_S = 0\n"
        "with progress.ImageProgress('scoring', 10) as shown: shown.add(5)"
    )
    sent = on_a_terminal(code, 80, term)
    assert ("\x1b[" in sent) == (term == "xterm")
    assert ("scoring: 5/10 images" in sent) == (term == "dumb")


def test_the_last_line_of_progress_is_said_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0)
    monkeypatch.setattr(progress.ImageProgress, "_watch", lambda self: None)  # it would say that it waits, all the time
    with progress.ImageProgress("scoring", 10) as shown:
        shown.add(5)
        shown.total = 7  # three of the ten are no longer there
        shown.add(2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" images")[0] for line in lines] == ["scoring: 5/10", "scoring: 7/7"]


def test_names_that_would_be_one_stay_whole() -> None:
    names = ["a" * 20 + middle + "z" * 20 for middle in "xy"]
    assert shortened([*names, "b" * 41], 16) == [*names, "bbbbbb...bbbbbbb"]
    assert shortened([], 16) == []


def test_nothing_else_knows_rich() -> None:
    package = Path(terminal.__file__).parent
    files = [*package.rglob("*.py"), *(package.parent / "jobs").glob("*.py")]
    users = {file.name for file in files if "from rich" in file.read_text() or "import rich" in file.read_text()}
    assert users == {"terminal.py", "progress.py"}
