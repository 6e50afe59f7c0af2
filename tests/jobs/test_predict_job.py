"""The job for single photos as its users run it: a table, an exit code, and no Ray."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPO

from agescale.models import checkpoints
from agescale.models.age_model import AgeModel
from agescale.models.spec import ModelSpec
from agescale.synthetic import dataset


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("predict") / "checkpoint")
    torch.manual_seed(0)
    model = AgeModel(ModelSpec(encoder="cnn", task="distribution", age_groups="25-years", image_size=32))
    checkpoints.save(folder, model.spec, model.state_dict(), checkpoints.RunProgress(), {})
    return folder


def test_one_photo_and_a_folder_are_predicted_without_ray(tmp_path: Path, checkpoint: str, run_job: Any) -> None:
    dataset.write_dataset(tmp_path / "faces", "unlabelled", num_faces=4, size=48, num_broken=1)
    photo = next(path for path in (tmp_path / "faces").rglob("*.jpg") if path.stat().st_size > 1000)
    odd = tmp_path / "[red]:tada:.jpg"
    odd.write_bytes(photo.read_bytes())
    arguments = (odd, tmp_path / "faces", "--checkpoint", checkpoint, "--draw", tmp_path / "drawn")
    done = run_job("-X", "importtime", "jobs/predict.py", *arguments)
    assert done.returncode == 0, done.stderr[-4000:]
    assert all(word in done.stdout for word in ("[red]:tada:.jpg", "80 % between", "age group", "ok", "unreadable: "))
    assert "gender" not in done.stdout
    assert f"pictures: {tmp_path / 'drawn'}" in done.stdout
    assert (tmp_path / "drawn" / "0001-[red]:tada:.jpg").exists()
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert {"torch", "agescale"} <= imported
    assert "ray" not in imported


@pytest.mark.parametrize("what", ["no such photo", "no such checkpoint"])
def test_where_nothing_is_predicted_one_line_says_so(what: str, tmp_path: Path, checkpoint: str, run_job: Any) -> None:
    used = tmp_path / "none" if what == "no such checkpoint" else checkpoint
    done = run_job("jobs/predict.py", tmp_path / "photo.jpg", "--checkpoint", used, "--device", "cpu")
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    if what == "no such photo":
        assert lines[0] == "error: no photo could be predicted (1 missing); the table says why"
        assert "missing: not found" in done.stdout
    else:
        assert lines[0].startswith(f"error: {used}: no checkpoint there")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos of one name, and one that a spreadsheet would take for a formula, in folders with long names."""
    folder = tmp_path_factory.mktemp("photos")
    dataset.write_dataset(folder / "drawn", "unlabelled", num_faces=3, size=48, num_broken=0)
    drawn = [path.read_bytes() for path in sorted((folder / "drawn").rglob("*.*"))]
    names = (f"{'a long name ' * 9}1/IMG_0001.jpg", f"{'a long name ' * 9}2/IMG_0001.jpg", "Юрий/=1+1.jpg")
    for name, data in zip(names, drawn, strict=False):
        (folder / "faces" / name).parent.mkdir(parents=True)
        (folder / "faces" / name).write_bytes(data)
    return folder / "faces"


def test_data_on_standard_output_are_nothing_but_that(
    faces: Path, checkpoint: str, tmp_path: Path, run_job: Any
) -> None:
    arguments = (faces, "--checkpoint", checkpoint, "--draw", tmp_path / "drawn")
    done = run_job("jobs/predict.py", *arguments, "--format", "json", env={"PYTHONIOENCODING": "ascii"})
    rows = json.loads(done.stdout)
    assert [row["uri"] for row in rows] == sorted(str(path) for path in faces.rglob("*.jpg"))
    assert all(row["age_lower"] < row["age"] < row["age_upper"] and row["status"] == "ok" for row in rows)
    assert done.stderr == f"pictures: {tmp_path / 'drawn'}\n"
    done = run_job("jobs/predict.py", *arguments[:3], "--format", "csv", env={"PYTHONIOENCODING": "utf-8"})
    told = list(csv.DictReader(done.stdout.splitlines()))
    assert [row["uri"] for row in told] == [row["uri"] for row in rows]
    assert [float(row["age"]) for row in told] == [row["age"] for row in rows]
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("ending", ["csv", "txt"])
def test_a_file_is_what_its_ending_says(
    ending: str, faces: Path, checkpoint: str, tmp_path: Path, run_job: Any
) -> None:
    out = tmp_path / "new" / f"ages.{ending}"
    arguments = (faces, "--checkpoint", checkpoint, "--out", out, *(["--format", "table"] * (ending == "txt")))
    done = run_job("jobs/predict.py", *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"predictions: {out}\n", "")
    uris = sorted(str(path) for path in faces.rglob("*.jpg"))
    if ending == "csv":
        assert [row["uri"] for row in csv.DictReader(out.read_text("utf-8-sig").splitlines())] == uris
    else:
        assert all(out.read_text().count(uri) == 1 for uri in uris)
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_with_its_reader_gone_and_no_letters_it_ends_well_and_writes_its_files(
    faces: Path, checkpoint: str, tmp_path: Path
) -> None:
    command = [sys.executable, "jobs/predict.py", str(faces), "--checkpoint", checkpoint, "--draw", str(tmp_path / "d")]
    for reader, num_lines in (("true", 0), ("cat", 9)):
        script = f'set -o pipefail; "$@" | {reader}'
        environment = os.environ | {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "COLUMNS": "0"}
        ran = ["bash", "-c", script, "bash", *command]
        done = subprocess.run(ran, cwd=REPO, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert len(done.stdout.splitlines()) == num_lines
    table = [line for line in done.stdout.splitlines() if ".jpg" in line]
    assert [line.split("|")[1].strip() for line in table] == [
        str(path).encode("ascii", "backslashreplace").decode() for path in sorted(faces.rglob("*.jpg"))
    ]
    assert len(list((tmp_path / "d").iterdir())) == 4  # and their page
