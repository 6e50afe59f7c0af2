"""Mistakes are one line and a code of their own; whoever stops reading, or interrupts, gets no traceback."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import ray.exceptions
import torchvision
import tyro
from conftest import REPO

from agescale import command_line
from agescale.command_line import is_ours, missing_options
from agescale.config import PredictConfig, ScoreConfig

DRAW = (sys.executable, "jobs/draw.py", "--num-faces", "6")


def test_required_options_that_are_missing_are_named_in_one_line() -> None:
    said = missing_options(ScoreConfig, ["--checkpoint=x"])
    assert said == "--catalog, --out: missing (--help explains each setting)"
    assert missing_options(ScoreConfig, ["--checkpoint", "x", "--catalog", "y", "--out=z", "--no-tta"]) == ""


def test_a_job_says_what_is_missing_and_its_help_what_is_meant(capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run([*DRAW], cwd=REPO, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --out: missing (--help explains each setting)\n"
    with pytest.raises(SystemExit):
        tyro.cli(PredictConfig, args=["--help"])
    said = capsys.readouterr().out
    assert "[OPTIONS] PHOTO ...\n" in said
    assert "STR [STR" not in said


def test_what_more_there_is_to_say_is_left_to_the_parser() -> None:
    assert missing_options(ScoreConfig, ["--help"]) == ""
    assert missing_options(ScoreConfig, ["--catalogue", "x"]) == "", "it names the option that there is not"


def test_an_error_is_ours_where_its_innermost_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Path(command_line.__file__).parent
    assert is_ours(str(package / "models" / "encoders" / "cnn.py"))
    assert is_ours("/tmp/ray/session/working_files/_ray_pkg_1/agescale/models/tasks/ordinal.py"), "on another machine"
    assert not is_ours(str(Path(torchvision.__file__).parent / "models" / "resnet.py"))
    assert not is_ours("/home/me/agescale/.venv/lib/python3.11/site-packages/torchvision/models/resnet.py")
    assert not is_ours("/usr/lib/python3.11/json/decoder.py")
    assert not is_ours("/home/me/jobs/predict.py"), "somebody else's jobs"


@pytest.mark.parametrize("what", ["a reader that has gone", "a full disk", "closed"])
def test_a_job_ends_well_whatever_becomes_of_its_output(what: str, tmp_path: Path) -> None:
    command = " ".join((*DRAW, "--out", str(tmp_path / "faces")))
    redirected = {"a reader that has gone": "2>&1 | true", "a full disk": "> /dev/full 2>&1", "closed": ">&- 2>&-"}
    script = f"set -o pipefail; {command} {redirected[what]}"
    done = subprocess.run(["bash", "-c", script], cwd=REPO, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(list((tmp_path / "faces").rglob("*.jpg"))) > 5


@pytest.mark.parametrize("arguments", ["--help", "--nonsense"])
def test_help_and_usage_may_be_cut_off(arguments: str) -> None:
    script = f"set -o pipefail; {sys.executable} jobs/draw.py {arguments} 2>&1 | true"
    done = subprocess.run(["bash", "-c", script], cwd=REPO, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0 if arguments == "--help" else 2, "")


INTERRUPTED = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs tests in the background ignores it
from agescale.command_line import run_job
from agescale.config import DrawConfig
def job(config):
    print("begun")
    time.sleep(60)
run_job(job, DrawConfig)
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_job_says_so_and_ends_as_shells_expect(signum: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, "--out", "x"],
        cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n", "lines come as they are printed"
    process.send_signal(signum)
    said = process.communicate(timeout=30)[1]
    assert re.fullmatch(
        rf"error: exit code {128 + signum}: interrupted; the same command continues: \S*python\S* -c .* --out x\n", said
    )
    assert process.returncode == 128 + signum


def test_want_of_memory_is_one_line_however_deep_it_lies() -> None:
    error = RuntimeError("a task failed")
    error.__cause__ = ray.exceptions.OutOfMemoryError("Task was killed due to the node running low on memory.\n...")
    said = command_line.user_mistake(error)
    assert said is not None
    assert "out of memory" in said
    assert "\n" not in said


def test_a_refusal_is_one_line_whatever_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command_line.refuse("a\nb: not found")
    assert capsys.readouterr().err == "error: a\\nb: not found\n"


@pytest.mark.parametrize(
    ("job", "option", "needed"),
    [
        ("train", "--weight-decay", ()),
        ("catalog", "--max-deleted-fraction", ("--source", "x", "--out", "y")),
        ("score", "--max-failed-fraction", ("--catalog", "x", "--checkpoint", "y", "--out", "z")),
        ("sweep", "--hours", ("--catalog", "x", "--out", "y")),
    ],
)
def test_a_number_that_is_none_is_refused_before_anything(job: str, option: str, needed: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, f"jobs/{job}.py", *needed, option, "inf"], cwd=REPO, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {option} inf: a finite number\n"
