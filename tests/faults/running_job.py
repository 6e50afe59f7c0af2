"""A job in a process group of its own, which tests watch and kill."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil

from agescale.synthetic import dataset

ROOT = Path(__file__).parents[2]


class RunningJob:
    """``RunningJob(folder, "jobs/score.py", "--catalog", ...)``; what it says goes to a file in ``folder``."""

    def __init__(self, folder: Path, *command: object, env: Mapping[str, str] | None = None) -> None:
        self.log = folder / f"job-{time.monotonic_ns()}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *map(str, command)], cwd=ROOT, env=os.environ | dict(env or {}),
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def said(self) -> str:
        return self.log.read_text()[-3000:]

    def wait_for(self, happened: Callable[[], object], timeout_s: float = 150) -> None:
        deadline = time.monotonic() + timeout_s
        while not happened():
            assert self.process.poll() is None, f"it ended too early:\n{self.said()}"
            assert time.monotonic() < deadline, f"nothing seen in {timeout_s} s:\n{self.said()}"
            time.sleep(0.05)

    def children(self) -> Iterator[tuple[psutil.Process, str]]:
        """The processes that it started, however far down, with their titles."""
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                yield process, (process.cmdline() or [""])[0]

    def kill(self, victim: psutil.Process | None = None) -> None:
        """``kill -9`` of one of its processes, itself if none is named, and sees it dead."""
        victim = victim or psutil.Process(self.process.pid)
        victim.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 20
        with contextlib.suppress(psutil.NoSuchProcess):  # between the two questions
            while victim.is_running() and victim.status() != psutil.STATUS_ZOMBIE:
                assert time.monotonic() < deadline, f"{victim} outlives kill -9"
                time.sleep(0.01)

    def end(self, timeout_s: float) -> int:
        """Waits for its exit code."""
        return self.process.wait(timeout=timeout_s)

    def close(self) -> None:
        """Kills what is left of it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=20)


def make_catalog(folder: Path, num_faces: int) -> Path:
    """A packed catalog of so many drawn faces, made by a job that has ended with its Ray."""
    dataset.write_dataset(folder / "faces", "utkface", num_faces=num_faces, size=64)
    arguments = ["--source", folder / "faces", "--layout", "utkface", "--pack", "64", "--out", folder / "catalog"]
    subprocess.run([sys.executable, ROOT / "jobs/catalog.py", *map(str, arguments)], check=True, timeout=120)
    return folder / "catalog"
