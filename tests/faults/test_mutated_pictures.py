"""Thousands of spoiled pictures of all kinds through whole jobs: no crash, no error but ours, as many rows as files."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from conftest import RunJob, make_checkpoint
from mutations import mutated

from agescale.store import parquet
from agescale.tables import schema
from agescale.tables.catalogs import Catalog
from agescale.tables.predictions import Predictions

NUM_FILES = int(os.environ.get("AGESCALE_NUM_MUTATIONS", "4500"))
SEED = int(os.environ.get("AGESCALE_MUTATION_SEED", "0"))

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mutated") / "pictures"
    for number, (ending, data) in enumerate(mutated(NUM_FILES, SEED)):
        path = folder / f"{number % 50:02d}" / f"{number:05d}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def checkpoint(pictures: Path) -> str:
    return make_checkpoint(pictures.parent / "checkpoint")


def ended_well(run_job: RunJob, *arguments: object) -> str:
    """What a job prints that ends with code 0 and has nothing to say of any error."""
    ended = run_job(*arguments, timeout_s=1800)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert "Traceback" not in ended.stdout + ended.stderr
    assert "A worker died" not in ended.stdout + ended.stderr
    return ended.stdout


def test_predict(pictures: Path, checkpoint: str, run_job: RunJob, tmp_path: Path) -> None:
    out = tmp_path / "ages.json"
    ended_well(run_job, "jobs/predict.py", pictures, "--checkpoint", checkpoint, "--out", out)
    rows = json.loads(out.read_text())
    check(pictures, {row["uri"]: row["status"] for row in rows}, "predict")


def test_a_catalog_with_packed_pictures_and_its_scoring(
    pictures: Path, checkpoint: str, run_job: RunJob, tmp_path: Path
) -> None:
    catalog = str(tmp_path / "catalog")
    ended_well(
        run_job, "jobs/catalog.py", "--source", pictures, "--out", catalog, "--inspect", "--pack", "64",
        "--split", "1", "0", "0",
    )  # fmt: skip
    Catalog.open(catalog).check_complete()
    rows = Catalog.open(catalog).read(["uri", "read_error"]).to_pylist()
    statuses = {row["uri"]: (row["read_error"] or "ok").partition(":")[0] for row in rows}
    check(pictures, statuses, "catalog --pack")
    check(pictures, score(run_job, catalog, checkpoint, tmp_path / "ages"), "score of packed")


def test_a_scoring_of_pictures_that_are_only_listed(
    pictures: Path, checkpoint: str, run_job: RunJob, tmp_path: Path
) -> None:
    catalog = str(tmp_path / "catalog")
    ended_well(run_job, "jobs/catalog.py", "--source", pictures, "--out", catalog)
    check(pictures, score(run_job, catalog, checkpoint, tmp_path / "ages"), "score")


def score(run_job: RunJob, catalog: str, checkpoint: str, out: Path) -> dict[str, str]:
    """Statuses by URI."""
    settings = ["--catalog", catalog, "--checkpoint", checkpoint, "--out", out, "--max-failed-fraction", "1"]
    ended_well(run_job, "jobs/score.py", *settings)
    rows = parquet.read_tables(Predictions.open(str(out)).files, ["uri", "status"])
    assert len(rows) == NUM_FILES
    return dict(zip(rows["uri"].to_pylist(), rows["status"].to_pylist(), strict=True))


def check(pictures: Path, statuses: dict[str, str], what: str) -> None:
    """A row a file, of a status that tells of pictures and not of the store."""
    counts = Counter(statuses.values())
    print(f"{what}: {dict(counts)}")
    assert set(statuses) == {str(path) for path in pictures.rglob("*.*")}
    assert set(counts) <= {"ok", "unreadable", "unsupported", "too_small", "too_large"} <= set(schema.STATUSES)
    assert counts["ok"] > NUM_FILES / 10
    assert counts["unreadable"] > NUM_FILES / 10
