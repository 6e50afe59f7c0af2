"""The job for single photos as its users run it: a table, an exit code, and no Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from agescale import checkpoints, synthetic
from agescale.age_model import AgeModel, ModelSpec


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("predict") / "checkpoint")
    torch.manual_seed(0)
    model = AgeModel(ModelSpec(encoder="cnn", task="distribution", age_groups="25-years", image_size=32))
    checkpoints.save(folder, model.spec, model.state_dict(), checkpoints.Progress(), {})
    return folder


def test_one_photo_and_a_folder_are_predicted_without_ray(tmp_path: Path, checkpoint: str, run_job: Any) -> None:
    synthetic.write_dataset(tmp_path / "faces", "unlabelled", num_faces=4, size=48, num_broken=1)
    photo = next(path for path in (tmp_path / "faces").rglob("*.jpg") if path.stat().st_size > 1000)
    odd = tmp_path / "[red]:tada:.jpg"
    odd.write_bytes(photo.read_bytes())
    arguments = (odd, tmp_path / "faces", "--checkpoint", checkpoint, "--draw", tmp_path / "drawn")
    done = run_job("-X", "importtime", "jobs/predict.py", *arguments, env={"COLUMNS": "200"})
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
