"""Each execution leaves a record without secrets; nothing that is wrong with that changes how the job ends."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import REPO

from agescale.commands import status
from agescale.operations import executions
from agescale.operations.executions import Recorder, masked
from agescale.operations.status import look

JOB = """
import os, sys, time
from agescale.command_line import refuse, run_job
from agescale.config import EvaluateConfig
from agescale.runtime.progress import ImageProgress
from agescale.store.outputs import Output
def job(config):
    with Output(config.out, "a test", lambda name: None, config.out + ".agescale").held():
        with ImageProgress("testing", 4) as progress:
            progress.add(4)
        if config.against == "killed":
            os.kill(os.getpid(), 9)
        if config.against == "crash":
            raise RuntimeError("a defect of https://me:hunter2@store/x")
        if config.against == "bad":
            refuse("4 of 306 images failed", code=3)
run_job(job, EvaluateConfig)
"""


def run(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", JOB, "--catalog", "c", "--predictions", "p", "--out", str(out), *arguments]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)


@pytest.fixture
def hook() -> Iterator[tuple[str, list[Any]]]:
    """A server that takes what is POSTed to it."""
    told: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *words: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/services/hush", told
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("split", "code", "reason"),
    [
        ("test", 0, ""),
        ("bad", 3, "4 of 306 images failed"),
        ("crash", 1, "RuntimeError: a defect of https://***@store/x"),
    ],
)
def test_how_a_job_ended_is_told_three_times(
    split: str, code: int, reason: str, tmp_path: Path, hook: tuple[str, list[Any]]
) -> None:
    url, told = hook
    done = run(tmp_path / "out", "--against", split, "--notify-url", url, "--log-format", "json")
    assert done.returncode == code, done.stderr
    lines = [json.loads(line) for line in (done.stdout + done.stderr).splitlines()]
    assert all({"time", "level", "job", "message"} <= line.keys() for line in lines)
    assert lines[0]["images_done"] == lines[0]["images_total"] == 4
    assert lines[-1]["exit_code"] == code
    if code:
        assert lines[-1]["message"].startswith(f"error: exit code {code}: ")
    execution = executions.newest(str(tmp_path / "out"))
    assert execution is not None
    assert (execution.job, execution.exit_code, execution.reason) == ("evaluate", code, reason)
    assert execution.counts["images_done"] == 4
    assert execution.ended
    (said,) = told
    assert {**said, "last_lines": tuple(said["last_lines"])} == vars(execution)
    kept = "".join(file.read_text() for file in (tmp_path / "out.agescale" / "executions").iterdir())
    assert "hunter2" not in kept + json.dumps(said)
    assert "hush" not in kept + json.dumps(said)


def test_a_killed_job_has_begun_and_never_ended_and_the_next_one_is_newer(tmp_path: Path) -> None:
    assert run(tmp_path / "out", "--against", "killed").returncode == -9
    killed = executions.newest(str(tmp_path / "out"))
    assert killed is not None
    assert killed.exit_code is None
    assert status.last(look(str(tmp_path / "out"))).endswith(f"began {killed.began}, never ended: killed?")
    time.sleep(1)  # names tell seconds
    assert run(tmp_path / "out").returncode == 0
    after = executions.newest(str(tmp_path / "out"))
    assert after is not None
    assert (after.exit_code, after.began > killed.began) == (0, True)
    assert len(list((tmp_path / "out.agescale" / "executions").iterdir())) == 2


def test_nobody_who_listens_and_no_place_to_write_are_a_line_each(tmp_path: Path) -> None:
    (tmp_path / "out.agescale").mkdir()
    (tmp_path / "out.agescale" / "executions").write_text("a file where the folder should be")
    done = run(tmp_path / "out", "--notify-url", "http://127.0.0.1:9/services/hush")
    assert done.returncode == 0
    first, second, third = done.stderr.splitlines()
    assert "no record of this execution" in first
    assert "no record of this execution" in second
    assert third.startswith("--notify-url http://127.0.0.1:9/***: not told: ")


def test_a_job_that_was_refused_its_folder_writes_nothing(tmp_path: Path) -> None:
    done = run(tmp_path / "out", "--against", "bad", "--notify-url", "ftp://x")
    assert (done.returncode, done.stderr) == (2, "error: --notify-url: begins with http:// or https://\n")
    assert not list(tmp_path.iterdir())


def test_who_does_not_answer_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(executions, "PATIENCE_S", 0.2)
    monkeypatch.setattr(executions.objects, "write_bytes", lambda *arguments: time.sleep(2))
    recorder = Recorder("score", "agescale score", str(tmp_path / "out"), "")
    began = time.monotonic()
    recorder.begin(str(tmp_path / "out"))
    assert time.monotonic() - began < 1.5
    assert "no record of this execution: no answer in 0.2 s" in capsys.readouterr().err


@pytest.mark.parametrize(
    "secret",
    [
        "s3://key:hunter2@bucket/x", "https://s/x?X-Amz-Signature=hunter2&a=1", "AWS_SESSION_TOKEN=hunter2 agescale",
        "https://s/x?a=1&sig=hunter2", "--notify-url=https://hooks/hunter2", "DB_PASSWORD='hunter2'",
        "--mlflow https://me:hunter2@mlflow:5000",
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_masked(secret: str) -> None:
    assert "hunter2" not in masked(f"python jobs/score.py {secret} --out x")
    assert masked(f"python jobs/score.py {secret} --out x").endswith("--out x")
