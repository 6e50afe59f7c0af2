"""kill -9 at random moments, aimed in turn at driver, actor, worker and raylet: the table is as if nothing happened.

The images come from a real S3 server through a proxy that spoils 30 % of all GETs. `make test` deals a few blows to
a table on local disk, `make chaos` 28 (AGESCALE_NUM_KILLS) to that, and as many to one on S3.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from factories import copy_folder
from fault_proxy import FaultProxy
from running_job import ROOT, RunningJob

from agescale.config import PredictConfig
from agescale.models import checkpoints
from agescale.models.age_model import AgeModel
from agescale.models.spec import ModelSpec
from agescale.scoring import photos
from agescale.store import objects, parquet
from agescale.synthetic import dataset
from agescale.tables import schema
from agescale.tables.predictions import Predictions, summary_uri

NUM_KILLS = int(os.environ.get("AGESCALE_NUM_KILLS", "2"))
UNIT_ROWS = 8
NUM_IMAGES = UNIT_ROWS * (NUM_KILLS * 2 + 12)
COLUMNS = ["uri", "version", "face", "status", "age"]
TARGETS = ("driver", "actor", "worker", "raylet")
TITLES = {
    "actor": "ray::MapWorker(MapBatches(ScoringActor))",
    "decoder": "ray::_load",
    "worker": "ray::",
    "raylet": "/raylet/raylet",
}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory, s3: str) -> str:
    """Drawn faces in a bucket, and their catalog beside them."""
    folder = tmp_path_factory.mktemp("scoring-kills")
    dataset.write_dataset(folder / "faces", "unlabelled", num_faces=NUM_IMAGES, size=64)
    copy_folder(str(folder / "faces"), f"{s3}/chaos/faces")
    run("jobs/catalog.py", "--source", f"{s3}/chaos/faces", "--out", f"{s3}/chaos/catalog")
    torch.manual_seed(0)
    model = AgeModel(ModelSpec(encoder="cnn", task="distribution", age_groups="25-years", image_size=64))
    checkpoints.save(f"{s3}/chaos/model", model.spec, model.state_dict(), checkpoints.RunProgress(), {"data": "none"})
    return f"{s3}/chaos/catalog"


@pytest.fixture(scope="module")
def undisturbed(catalog: str, s3: str) -> pa.Table:
    """By the way that needs no Ray."""
    rows = photos.predict(PredictConfig((f"{s3}/chaos/faces",), f"{s3}/chaos/model")).rows
    return rows.select(COLUMNS).sort_by("uri")


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


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_kills_change_nothing_where_images_are_loaded_apart(
    catalog: str, undisturbed: pa.Table, proxy: FaultProxy, tmp_path: Path
) -> None:
    targets = ("decoder", "actor", "decoder", "driver")
    check_kills_change_nothing(catalog, str(tmp_path / "ages"), undisturbed, proxy, tmp_path, targets, "apart")


def check_kills_change_nothing(
    catalog: str,
    out: str,
    undisturbed: pa.Table,
    proxy: FaultProxy,
    folder: Path,
    among: tuple[str, ...] = TARGETS,
    decode: str = "inside",
) -> None:
    moments = random.Random(NUM_KILLS)
    targets = list(islice(cycle(among), NUM_KILLS))

    def start() -> RunningJob:
        command = [*scoring(catalog, out), "--decode", decode]
        return RunningJob(folder, *command, env={"AWS_ENDPOINT_URL": proxy.url})

    job = start()
    try:
        for number, target in enumerate(targets, start=1):
            num_files = len(Predictions.find(out).names)
            job.wait_for(
                lambda before=num_files: len(Predictions.find(out).names) > before
            )  # something is under way now
            time.sleep(moments.uniform(0, 0.5))
            job.kill(None if target == "driver" else find(job, target))
            print(f"kill {number}: {target}, {len(Predictions.find(out).names)} files stand", flush=True)
            assert not objects.exists(summary_uri(out)), "the run was over before the last kill"
            if target in ("driver", "raylet"):
                assert job.end(timeout_s=90) != 0, "a job that lost so much cannot have succeeded"
                job = start()
        assert job.end(timeout_s=600) == 0, job.said()
    finally:
        job.close()
    assert proxy.faults.total() > NUM_IMAGES / 10, "the store was hardly ever faulty"
    check_equal(predictions(out), undisturbed)
    verified = run("jobs/verify.py", "--catalog", catalog, "--predictions", out)
    assert verified.startswith("right"), verified


def find(job: RunningJob, target: str) -> psutil.Process:
    """A process of the job that is seen to live. A node dies with its agents, so these are no workers."""

    def found() -> psutil.Process | None:
        for process, title in job.children():
            is_other = title.startswith(TITLES["actor"]) != (target == "actor") or "Agent" in title
            if TITLES[target] in title and not is_other:
                return process
        return None

    job.wait_for(found)
    victim = found()
    assert victim is not None, f"no {target} is running"
    return victim


def scoring(catalog: str, out: str) -> list[str]:
    checkpoint = catalog.removesuffix("catalog") + "model"
    settings = ["--unit-rows", str(UNIT_ROWS), "--batch-size", "4", "--num-workers", "1"]
    return ["jobs/score.py", "--catalog", catalog, "--checkpoint", checkpoint, "--out", out, *settings]


def run(*command: str) -> str:
    """What an undisturbed job prints."""
    ended = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def predictions(out: str) -> pa.Table:
    return parquet.read_tables([f"{out}/{name}" for name in Predictions.find(out).names], COLUMNS).sort_by("uri")


def check_equal(found: pa.Table, expected: pa.Table) -> None:
    """DESIGN's equality: the same keys and statuses, ages within 0.001 years."""
    keys = ["uri", "version", "face", "status"]
    assert found.select(keys).equals(expected.select(keys))
    assert set(found["status"].to_pylist()) <= set(schema.STATUSES)
    differences = pc.abs(pc.subtract(found["age"], expected["age"]))
    assert pc.max(differences).as_py() < 1e-3
    assert found["age"].null_count == expected["age"].null_count
