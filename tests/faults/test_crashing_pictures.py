"""Pictures at which the decoder ends its process, in whole jobs: each becomes a row, and all others are done."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow.compute as pc
import pytest
from conftest import RunJob, make_checkpoint
from crashing_decoder import install, poisoned

from agescale.store import objects, parquet
from agescale.synthetic import dataset
from agescale.tables.catalogs import Catalog
from agescale.tables.predictions import Predictions, summary_uri

NUM_FACES = 24
POISONS = {"SEGFAULT": "SIGSEGV", "TOO MUCH MEMORY": "SIGKILL"}


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crashes") / "faces"
    dataset.write_dataset(folder, "unlabelled", num_faces=NUM_FACES - 1, size=48, num_broken=0)  # and a copy
    for path, poison in zip(sorted(folder.rglob("*.jpg"))[5::9], POISONS, strict=False):
        path.write_bytes(poisoned(path.read_bytes(), poison))
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = install(tmp_path_factory.mktemp("crashes") / "decoder")
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


@pytest.fixture(scope="module")
def checkpoint(faces: Path) -> str:
    return make_checkpoint(faces.parent / "checkpoint")


CRASHED = sorted(f"its decoder crashed ({signal})" for signal in POISONS.values())


@pytest.mark.chaos
@pytest.mark.parametrize("decode", ["inside", "apart"])
def test_scoring_goes_on_and_says_which_pictures_crash(
    faces: Path, checkpoint: str, environment: dict[str, str], run_job: RunJob, decode: str
) -> None:
    catalog, out = str(faces.parent / "listed"), str(faces.parent / f"ages-{decode}")
    run_job("jobs/catalog.py", "--source", faces, "--out", catalog)
    settings = ["--catalog", catalog, "--checkpoint", checkpoint, "--out", out, "--num-workers", "1"]
    settings += ["--decode", decode]
    ended = run_job("jobs/score.py", *settings, env=environment, timeout_s=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = parquet.read_tables(Predictions.open(out).files, ["uri", "status", "error"])
    bad = rows.filter(pc.not_equal(rows["status"], "ok"))
    assert len(rows) == NUM_FACES
    assert sorted(bad["error"].to_pylist()) == CRASHED
    assert set(bad["status"].to_pylist()) == {"unreadable"}
    assert json.loads(objects.read_bytes(summary_uri(out)))["by_status"] == {
        "ok": NUM_FACES - 2,
        "unreadable": 2,
    }


@pytest.mark.chaos
def test_a_catalog_whose_pictures_are_read_is_completed(
    faces: Path, environment: dict[str, str], run_job: RunJob
) -> None:
    catalog = str(faces.parent / "read")
    ended = run_job(
        "jobs/catalog.py", "--source", faces, "--out", catalog, "--inspect", "--pack", "32",
        env=environment, timeout_s=120,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    Catalog.open(catalog).check_complete()
    rows = Catalog.open(catalog).read(["uri", "read_error"])
    assert len(rows) == NUM_FACES
    assert sorted(filter(None, rows["read_error"].to_pylist())) == [f"unreadable: {words}" for words in CRASHED]


def test_predict_makes_a_row_of_it(
    faces: Path, checkpoint: str, environment: dict[str, str], run_job: RunJob, tmp_path: Path
) -> None:
    settings = ["--checkpoint", checkpoint, "--format", "json", "--draw", tmp_path]
    ended = run_job("jobs/predict.py", faces, *settings, env=environment)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = json.loads(ended.stdout)
    assert sorted(row["error"] for row in rows if row["status"] != "ok") == CRASHED
    assert len(list(tmp_path.glob("*.jpg"))) == len(rows) - 2 == NUM_FACES - 2
