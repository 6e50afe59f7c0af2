"""How far a job is, said now and then, also while nothing ends."""

from __future__ import annotations

import threading

import pytest

from agescale.runtime import progress


def test_a_job_in_which_nothing_ends_says_that_it_waits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.02)
    printed = threading.Event()
    print_line = progress.ImageProgress._print_line

    def print_and_tell(self: progress.ImageProgress) -> None:
        print_line(self)
        printed.set()

    monkeypatch.setattr(progress.ImageProgress, "_print_line", print_and_tell)
    with progress.ImageProgress("scoring", 10) as shown:
        shown.add(4, "1 failed")
        printed.clear()
        assert printed.wait(30)
    *lines, last = capsys.readouterr().out.splitlines()
    assert any(line.endswith("1 failed, waiting for images for 0 s") for line in lines)
    assert "waiting" not in last, "it has ended"
