"""A night on which a job is paused beyond its lease, images are replaced while they are scored, and the source is away
once: each job either does its work or ends with its line, and the next night's table is that of a good one.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
import torch
from running_job import ROOT, RunningJob

from agescale.models import checkpoints
from agescale.models.age_model import AgeModel
from agescale.models.spec import ModelSpec
from agescale.store import lease, objects
from agescale.synthetic import dataset
from agescale.tables import datasets
from agescale.tables.predictions import Predictions

NUM_IMAGES, UNIT_ROWS = 96, 4
NUM_REPLACED = 8


class Night:
    """A source of images, the catalog and the table of one folder, and the model."""

    def __init__(self, folder: str, faces: Path, scratch: Path) -> None:
        self.folder, self.faces, self.scratch = folder, faces, scratch
        self.source = f"{folder}/inbox"
        for number, path in enumerate(sorted(faces.iterdir())):
            objects.write_bytes(f"{self.source}/{number:04d}.jpg", path.read_bytes())
        torch.manual_seed(0)
        model = AgeModel(ModelSpec(encoder="cnn", task="distribution", age_groups="25-years", image_size=64))
        checkpoints.save(f"{folder}/model", model.spec, model.state_dict(), checkpoints.RunProgress(), {"data": "none"})

    def listing(self, name: str = "") -> list[str]:
        return ["jobs/catalog.py", "--source", self.source, "--out", f"{self.folder}/catalog{name}"]

    def scoring(self, name: str = "", *more: str) -> list[str]:
        tables = ["--catalog", f"{self.folder}/catalog{name}", "--out", f"{self.folder}/ages{name}"]
        pace = ["--unit-rows", str(UNIT_ROWS), "--batch-size", "1", "--num-workers", "1"]
        return ["jobs/score.py", *tables, "--checkpoint", f"{self.folder}/model", *pace, *more]

    def start(self, *command: str) -> RunningJob:
        return RunningJob(self.scratch, *command)

    def num_files(self) -> int:
        return len(Predictions.find(f"{self.folder}/ages").names)

    def replace_images(self, first: int) -> None:
        """Other faces, of other sizes, in the places of some that may be under way."""
        others = sorted(self.faces.iterdir(), reverse=True)
        for number in range(first, first + NUM_REPLACED):
            data = others[number].read_bytes() + b" " * number  # too few to count as damage
            objects.write_bytes(f"{self.source}/{number:04d}.jpg", data)

    def current(self, name: str = "") -> pa.Table:
        rows = datasets.read_predictions(f"{self.folder}/ages{name}").to_table(columns=["uri", "status", "age"])
        return rows.sort_by("uri")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad-nights") / "faces"
    dataset.write_dataset(folder, "unlabelled", num_faces=NUM_IMAGES, size=64, num_broken=0)
    flat = folder.parent / "flat"
    flat.mkdir()
    for path in folder.rglob("*.jpg"):
        shutil.copy(path, flat / f"{len(list(flat.iterdir())):04d}.jpg")
    return flat


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("place", ["disk", "s3"])
def test_after_a_bad_night_the_table_is_that_of_a_good_one(
    place: str, faces: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = str(tmp_path / "night") if place == "disk" else f"{request.getfixturevalue('s3')}/bad-night"
    night = Night(folder, faces, tmp_path)
    run(*night.listing())
    paused = night.start(*night.scoring())
    try:
        paused.wait_for(lambda: night.num_files() >= 2)
        processes = [psutil.Process(paused.process.pid), *(process for process, _ in paused.children())]
        for process in processes:
            process.suspend()
        night.replace_images(first=NUM_IMAGES // 2)
        goes_on = take_over(night) if place == "s3" else paused
        if place == "disk":
            refused = run(*night.scoring(), code=2)
            assert "writes there; wait for it" in refused, refused
        for process in processes:
            process.resume()
        if goes_on is not paused:
            assert paused.end(timeout_s=180) == 2, paused.said()
            assert "another job has taken over" in paused.said()
        assert goes_on.end(timeout_s=600) == 0, goes_on.said()
        if goes_on is not paused:
            goes_on.close()
    finally:
        paused.close()
    if place == "disk":
        be_away(night, tmp_path)
    run(*night.listing())
    run(*night.scoring("", "--retry", "changed", "missing", "unreachable"))
    said = run("jobs/verify.py", "--catalog", f"{folder}/catalog", "--predictions", f"{folder}/ages")
    assert said.startswith("right"), said

    run(*night.listing("-good"))
    run(*night.scoring("-good"))
    found, good = night.current(), night.current("-good")
    assert found.select(["uri", "status"]).equals(good.select(["uri", "status"]))
    assert set(found["status"].to_pylist()) == {"ok"}
    assert max(abs(a - b) for a, b in zip(found["age"].to_pylist(), good["age"].to_pylist(), strict=True)) < 1e-3


def take_over(night: Night) -> RunningJob:
    """Starts the same command, which waits until the paused job's lease has expired, and sees it write."""
    before = night.num_files()
    other = night.start(*night.scoring())
    other.wait_for(lambda: night.num_files() > before, timeout_s=150 + lease.EXPIRES_S)
    return other


def be_away(night: Night, tmp_path: Path) -> None:
    """The source is unmounted while new images of it wait to be scored: nothing is written, nothing is deleted."""
    objects.write_bytes(f"{night.source}/late.jpg", next(night.faces.iterdir()).read_bytes())
    run(*night.listing())
    before = night.num_files()
    Path(night.source).rename(tmp_path / "away")
    assert "is the source available" in run(*night.scoring(), code=2)
    assert "no such folder" in run(*night.listing(), code=2)
    Path(night.source).mkdir()  # as an empty mount point
    assert "no images there" in run(*night.listing(), code=2)
    assert night.num_files() == before
    Path(night.source).rmdir()
    (tmp_path / "away").rename(night.source)


def run(*command: str, code: int = 0) -> str:
    """What a job prints that ends with that code."""
    ended = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr
