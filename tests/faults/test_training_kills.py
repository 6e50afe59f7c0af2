"""kill -9, aimed at what is seen to run: training goes on, and its history has every epoch once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from agescale import synthetic

ROOT = Path(__file__).parent.parent.parent
NUM_EPOCHS = 4


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kills")
    synthetic.write_dataset(folder / "faces", "utkface", num_faces=700, size=64)
    arguments = ["--source", folder / "faces", "--layout", "utkface", "--pack", "64", "--out", folder / "catalog"]
    subprocess.run([sys.executable, ROOT / "jobs/catalog.py", *map(str, arguments)], check=True, timeout=120)
    return folder / "catalog"


class Training:
    """One ``jobs/train.py`` in a process group of its own."""

    def __init__(self, catalog: Path, out: Path) -> None:
        self.out = out
        arguments = ["--catalog", catalog, "--out", out, "--phases", f"all:{NUM_EPOCHS}@1e-3", "--image-size", "64"]
        self.log = out.parent / f"train-{time.monotonic_ns()}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, ROOT / "jobs/train.py", *map(str, arguments)],
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def history(self) -> list[dict[str, object]]:
        path = self.out / "history.parquet"
        return pq.read_table(path).to_pylist() if path.exists() else []

    def wait_for(self, what: Callable[[], object], timeout_s: float = 150) -> None:
        deadline = time.monotonic() + timeout_s
        while not what():
            assert self.process.poll() is None, f"it ended too early:\n{self.log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"nothing seen in {timeout_s} s:\n{self.log.read_text()[-3000:]}"
            time.sleep(0.05)

    def wait_for_the_middle_of_an_epoch(self) -> None:
        self.wait_for(self.history)
        time.sleep(float(str(self.history()[-1]["seconds"])) / 2)
        assert len(self.history()) < NUM_EPOCHS, "training was over before the kill; it must take longer"

    def worker(self) -> psutil.Process:
        for process in psutil.Process(self.process.pid).children(recursive=True):
            if any("RayTrainWorker" in part for part in process.cmdline()[:1]):
                return process
        raise AssertionError("no training worker is running")

    def end(self) -> int:
        try:
            return self.process.wait(timeout=200)
        finally:
            self.kill_all()

    def kill_all(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


def test_a_killed_worker_is_replaced_and_a_killed_driver_continues_with_the_same_command(
    catalog: Path, out: Path
) -> None:
    first = Training(catalog, out)
    first.wait_for_the_middle_of_an_epoch()
    before_worker = first.history()
    victim = first.worker()
    victim.kill()
    first.wait_for(lambda: not victim.is_running() or victim.status() == psutil.STATUS_ZOMBIE)
    first.wait_for(lambda: len(first.history()) > len(before_worker))  # by itself

    before_driver = first.history()
    assert before_driver[: len(before_worker)] == before_worker
    assert len(before_driver) < NUM_EPOCHS, "training was over before the second kill; it must take longer"
    os.kill(first.process.pid, signal.SIGKILL)
    assert first.process.wait(timeout=10) == -signal.SIGKILL
    first.kill_all()

    second = Training(catalog, out)
    assert second.end() == 0, second.log.read_text()[-3000:]
    history = second.history()
    assert [row["epoch"] for row in history] == list(range(1, NUM_EPOCHS + 1))
    assert history[: len(before_driver)] == before_driver, "epochs that were done are not done again"
