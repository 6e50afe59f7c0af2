"""kill -9, aimed at what is seen to run: training goes on, and its history has every epoch once."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from running_job import RunningJob, make_catalog

from agescale.models import checkpoints

NUM_EPOCHS = 4


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_catalog(tmp_path_factory.mktemp("kills"), num_faces=700)


class Training(RunningJob):
    """One ``jobs/train.py``."""

    def __init__(self, catalog: Path, out: Path) -> None:
        self.out = out
        phases = ("--phases", f"all:{NUM_EPOCHS}@1e-3", "--image-size", "64")
        super().__init__(out.parent, "jobs/train.py", "--catalog", catalog, "--out", out, *phases)

    def history(self) -> list[dict[str, object]]:
        path = self.out / "history.parquet"
        return pq.read_table(path).to_pylist() if path.exists() else []

    def wait_for_the_middle_of_an_epoch(self) -> None:
        self.wait_for(self.history)
        time.sleep(float(str(self.history()[-1]["seconds"])) / 2)
        assert len(self.history()) < NUM_EPOCHS, "training was over before the kill; it must take longer"

    def worker(self) -> psutil.Process:
        for process, title in self.children():
            if "RayTrainWorker" in title:
                return process
        raise AssertionError("no training worker is running")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.mark.chaos
def test_a_killed_worker_is_replaced_and_a_killed_driver_continues_with_the_same_command(
    catalog: Path, out: Path
) -> None:
    first = Training(catalog, out)
    try:
        first.wait_for_the_middle_of_an_epoch()
        before_worker = first.history()
        first.kill(first.worker())
        first.wait_for(lambda: len(first.history()) > len(before_worker))  # by itself

        before_driver = first.history()
        assert before_driver[: len(before_worker)] == before_worker
        assert len(before_driver) < NUM_EPOCHS, "training was over before the second kill; it must take longer"
        first.kill()
    finally:
        first.close()

    second = Training(catalog, out)
    try:
        assert second.end(timeout_s=200) == 0, second.said()
    finally:
        second.close()
    history = second.history()
    assert [row["epoch"] for row in history] == list(range(1, NUM_EPOCHS + 1))
    assert history[: len(before_driver)] == before_driver, "epochs that were done are not done again"
    best = checkpoints.read(str(out / "best"))
    assert best.is_best
    assert best.epoch == min(history, key=lambda row: float(str(row["val_mae"])))["epoch"]
    checkpoints.check_files(str(out / "best"), best)
