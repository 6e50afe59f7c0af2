"""SIGTERM, as schedulers send it, and Ctrl+C end a job in one line within seconds: work kept, nothing left running."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from conftest import make_checkpoint
from running_job import RunningJob, make_catalog

from agescale.models import checkpoints
from agescale.store import lease
from agescale.synthetic import dataset
from agescale.tables.predictions import Predictions

MAX_S = 30
"""A Ray of one's own takes some seconds to end, on two busy cores."""


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_catalog(tmp_path_factory.mktemp("interruptions"), num_faces=180)  # few, and so without a Ray


def interrupt(job: RunningJob, happened: Callable[[], object], signum: signal.Signals) -> str:
    """Sends the signal once that has happened, and returns what the job has said."""
    try:
        job.wait_for(happened)
        children = [process for process, _ in job.children()]
        assert children, "it runs alone"
        sent_at = time.monotonic()
        job.process.send_signal(signum)
        code = job.end(timeout_s=120)
        assert code == 128 + signum, job.said()
        assert time.monotonic() - sent_at < MAX_S
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    finally:
        job.close()
    said = job.said()
    (last,) = [line for line in said.splitlines() if line.startswith("error:")]
    assert last.startswith(f"error: exit code {code}: interrupted; the same command continues: python"), said
    assert not any(word in said for word in ("SIGABRT", "SIGTERM", "***")), (
        said
    )  # a thread of Ray's may say that it ends
    return last


@pytest.mark.chaos
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_training_keeps_its_epochs_and_gives_its_folder_back(
    signum: signal.Signals, catalog: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    phases = ("--phases", "all:500@1e-3", "--patience", "500", "--image-size", "32")
    job = RunningJob(tmp_path, "jobs/train.py", "--catalog", catalog, "--out", out, *phases)
    said = interrupt(job, lambda: (out / "history.parquet").exists(), signum)
    assert f"jobs/train.py --catalog {catalog} --out {out} --phases" in said
    checkpoints.check_files(str(out / "last"), checkpoints.read(str(out / "last")))
    with lease.hold(str(out)):
        pass


@pytest.mark.chaos
def test_a_sweep_ends_with_its_trials(catalog: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    job = RunningJob(tmp_path, "jobs/sweep.py", "--catalog", catalog, "--out", out, "--epochs", "200")
    interrupt(job, lambda: (out / "runs" / "0000" / "history.parquet").exists(), signal.SIGTERM)
    with lease.hold(str(out)), lease.hold(str(out / "runs" / "0000")):
        pass


def test_scoring_keeps_its_units(catalog: Path, tmp_path: Path) -> None:
    out = tmp_path / "ages"
    checkpoint = make_checkpoint(tmp_path / "model")
    arguments = ("--catalog", catalog, "--checkpoint", checkpoint, "--out", out, "--unit-rows", "4")
    job = RunningJob(tmp_path, "jobs/score.py", *arguments, "--num-workers", "1")
    interrupt(job, lambda: Predictions.find(str(out)).names, signal.SIGTERM)
    assert Predictions.find(str(out)).names
    with lease.hold(str(out), f"{out}.agescale"):
        pass


@pytest.mark.chaos
@pytest.mark.parametrize("seen", ["gcs_server", "raylet", "ray::RuntimeEnvAgent", "StatsActor"])
def test_cataloging_ends_too_and_while_ray_starts(seen: str, tmp_path: Path) -> None:
    out, faces = tmp_path / "catalog", tmp_path / "faces"
    dataset.write_dataset(faces, "utkface", num_faces=400, size=64)
    job = RunningJob(tmp_path, "jobs/catalog.py", "--source", faces, "--layout", "utkface", "--out", out)
    interrupt(job, lambda: any(seen in title for _, title in job.children()), signal.SIGTERM)
    with lease.hold(str(out), f"{out}.agescale"):
        pass
