"""What stands in a folder, told from what jobs leave there; whole jobs are in tests/jobs/test_pipeline.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import make_checkpoint

from agescale.commands import status as command
from agescale.config import StatusConfig
from agescale.operations.status import look
from agescale.store import lease, objects
from agescale.sweeping import trials
from agescale.sweeping.trials import Trial


def test_an_empty_folder_and_a_foreign_one_are_nothing(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"")
    for folder in (tmp_path, tmp_path / "none"):
        assert (look(str(folder)).kind, look(str(folder)).state) == ("nothing", "")


def test_a_run_that_has_just_begun_is_working_and_stopped_when_its_job_is_gone(tmp_path: Path) -> None:
    out = str(tmp_path)
    objects.write_bytes(f"{out}/run.json", json.dumps({"settings": {"phases": "head:1@1e-3,all:19@1e-4"}}).encode())
    with lease.hold(out):
        seen = look(out)
        assert (seen.kind, seen.state, seen.done, seen.total) == ("run", "working", 0, 20)
    settings = {"phases": "head:1@1e-3,all:19@1e-4", "epochs": 2}
    objects.write_bytes(f"{out}/run.json", json.dumps({"settings": settings}).encode())
    assert look(out).total == 2
    assert look(out).state == "stopped"


def test_a_sweep_counts_its_trials_by_status(tmp_path: Path) -> None:
    out = str(tmp_path)
    objects.write_bytes(f"{out}/sweep.json", b"{}")
    for number, status in enumerate(("finished", "stopped", "stopped", "running")):
        trials.write_trial(out, Trial(number, {}, {}, status))  # type: ignore[arg-type]
    seen = look(out)
    assert (seen.state, seen.done, seen.total) == ("stopped", 3, 4)
    assert seen.counts == {"finished": 1, "stopped": 2, "running": 1}


def test_a_damaged_file_is_one_clear_line(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    (tmp_path / "config.json").write_bytes(b"{")
    with pytest.raises(ValueError, match=r"config\.json: damaged"):
        look(str(tmp_path))


def test_people_read_a_table_and_programs_an_array(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_checkpoint(tmp_path)
    command.main(StatusConfig((str(tmp_path), str(tmp_path / "none")), "json"))
    told = json.loads(capsys.readouterr().out)
    assert [each["kind"] for each in told] == ["checkpoint", "nothing"]
    command.main(StatusConfig((str(tmp_path),)))
    assert "checkpoint" in capsys.readouterr().out
