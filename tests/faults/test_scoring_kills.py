"""kill -9 at random moments, aimed in turn at driver, actor, worker and raylet: the table is as if nothing happened.

The images come from a real S3 server through a proxy that spoils 30 % of all GETs. `make test` deals a few blows,
`make chaos` at least 50 on local disk and as many on S3 (AGESCALE_NUM_KILLS).
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from fault_proxy import FaultProxy

from agescale import checkpoints, schema, storage, synthetic
from agescale.age_model import AgeModel, ModelSpec

ROOT = Path(__file__).parents[2]
NUM_KILLS = int(os.environ.get("AGESCALE_NUM_KILLS", "4"))
UNIT_ROWS = 8
NUM_IMAGES = UNIT_ROWS * (NUM_KILLS * 2 + 12)
TARGETS = ("driver", "actor", "worker", "raylet")
TITLES = {"actor": "ray::MapWorker(MapBatches(ScoringActor))", "worker": "ray::", "raylet": "/raylet/raylet"}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory, s3: str) -> str:
    """Drawn faces in a bucket, and their catalog beside them."""
    folder = tmp_path_factory.mktemp("scoring-kills")
    synthetic.write_dataset(folder / "faces", "unlabelled", num_faces=NUM_IMAGES, size=64)
    storage.filesystem(s3).put(f"{folder / 'faces'}/", f"{s3}/chaos/faces/", recursive=True)
    run("jobs/catalog.py", "--source", f"{s3}/chaos/faces", "--out", f"{s3}/chaos/catalog")
    torch.manual_seed(0)
    model = AgeModel(ModelSpec(encoder="cnn", task="distribution", age_groups="25-years", image_size=64))
    checkpoints.save(f"{s3}/chaos/model", model.spec, model.state_dict(), checkpoints.Progress(), {"data": "none"})
    return f"{s3}/chaos/catalog"


@pytest.fixture(scope="module")
def undisturbed(catalog: str, s3: str) -> pa.Table:
    out = f"{s3}/chaos/undisturbed"
    run(*scoring(catalog, out))
    return predictions(out)


@pytest.fixture
def proxy(s3: str) -> Iterator[FaultProxy]:
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"], kinds=("slow_down", "reset", "cut"), fraction=0.3) as proxy:
        yield proxy


@pytest.mark.timeout(3600)
def test_kills_change_nothing_on_disk(catalog: str, undisturbed: pa.Table, proxy: FaultProxy, tmp_path: Path) -> None:
    check_kills_change_nothing(catalog, str(tmp_path / "ages"), undisturbed, proxy, tmp_path)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_kills_change_nothing_on_s3(
    catalog: str, undisturbed: pa.Table, proxy: FaultProxy, s3: str, tmp_path: Path
) -> None:
    check_kills_change_nothing(catalog, f"{s3}/chaos/ages", undisturbed, proxy, tmp_path)


def check_kills_change_nothing(catalog: str, out: str, undisturbed: pa.Table, proxy: FaultProxy, folder: Path) -> None:
    moments = random.Random(NUM_KILLS)
    targets = list(islice(cycle(TARGETS), NUM_KILLS))
    command = scoring(catalog, out)
    job = Job(command, proxy, folder)
    try:
        for number, target in enumerate(targets, start=1):
            job.wait_for_more_files(out)
            time.sleep(moments.uniform(0, 0.5))
            job.kill(target)
            print(f"kill {number}: {target}, {len(files(out))} files stand", flush=True)
            assert not storage.exists(f"{out}/summary.json"), "the run was over before the last kill"
            if target in ("driver", "raylet"):
                assert job.end(timeout_s=90) != 0, "a job that lost so much cannot have succeeded"
                job = Job(command, proxy, folder)
        assert job.end(timeout_s=600) == 0, job.said()
    finally:
        job.close()
    assert proxy.faults.total() > NUM_IMAGES / 10, "the store was hardly ever faulty"
    check_equal(predictions(out), undisturbed)
    verified = run("jobs/verify.py", "--catalog", catalog, "--predictions", out)
    assert verified.startswith("right"), verified


class Job:
    """One ``jobs/score.py`` in a process group of its own, which reads through the proxy."""

    def __init__(self, command: list[str], proxy: FaultProxy, folder: Path) -> None:
        self.log = folder / f"score-{time.monotonic_ns()}.log"
        self.num_files_seen: int | None = None
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command], cwd=ROOT, env=os.environ | {"AWS_ENDPOINT_URL": proxy.url},
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def said(self) -> str:
        return self.log.read_text()[-3000:]

    def wait_for_more_files(self, out: str) -> None:
        """Until a unit is finished that was not when this was called: something is under way now."""
        before = len(files(out))
        self._wait_for(lambda: len(files(out)) > before)

    def _wait_for(self, happened: Callable[[], object], timeout_s: float = 120) -> None:
        deadline = time.monotonic() + timeout_s
        while not happened():
            assert self.process.poll() is None, f"it ended too early:\n{self.said()}"
            assert time.monotonic() < deadline, f"nothing seen in {timeout_s} s:\n{self.said()}"
            time.sleep(0.05)

    def kill(self, target: str) -> None:
        """Kills one process of this job that is seen to live, and sees it dead."""
        victim = psutil.Process(self.process.pid) if target == "driver" else self._find(target)
        victim.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 20
        while victim.is_running() and victim.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, f"{target} outlives kill -9"
            time.sleep(0.01)

    def _find(self, target: str) -> psutil.Process:
        def found() -> psutil.Process | None:
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                    title = (process.cmdline() or [""])[0]
                    is_other = title.startswith(TITLES["actor"]) != (target == "actor") or "Agent" in title
                    if TITLES[target] in title and not is_other:  # a node dies with its agents
                        return process
            return None

        self._wait_for(found)
        victim = found()
        assert victim is not None, f"no {target} is running"
        return victim

    def end(self, timeout_s: float) -> int:
        return self.process.wait(timeout=timeout_s)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=20)


def scoring(catalog: str, out: str) -> list[str]:
    checkpoint = catalog.removesuffix("catalog") + "model"
    settings = ["--unit-rows", str(UNIT_ROWS), "--batch-size", "4", "--num-workers", "1"]
    return ["jobs/score.py", "--catalog", catalog, "--checkpoint", checkpoint, "--out", out, *settings]


def run(*command: str) -> str:
    """What an undisturbed job prints."""
    ended = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def files(out: str) -> list[str]:
    return storage.list_names(out, prefix="part-", suffix=".parquet")


def predictions(out: str) -> pa.Table:
    columns = ["uri", "version", "face", "status", "age"]
    return storage.read_tables([f"{out}/{name}" for name in files(out)], columns).sort_by("uri")


def check_equal(found: pa.Table, expected: pa.Table) -> None:
    """DESIGN's equality: the same keys and statuses, ages within 0.001 years."""
    keys = ["uri", "version", "face", "status"]
    assert found.select(keys).equals(expected.select(keys))
    assert set(found["status"].to_pylist()) <= set(schema.STATUSES)
    differences = pc.abs(pc.subtract(found["age"], expected["age"]))
    assert pc.max(differences).as_py() < 1e-3
    assert found["age"].null_count == expected["age"].null_count
