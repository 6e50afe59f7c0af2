"""`ray job submit` to a cluster with its dashboard, as users do: exit codes tell failure from success."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "PATH": f"{BIN}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def dashboard(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster of one node, as `ray start --head` makes it."""
    ports = []
    for _ in range(3):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    options = [f"--port={ports[0]}", f"--dashboard-port={ports[1]}", f"--dashboard-agent-listen-port={ports[2]}"]
    options += ["--num-cpus=4", "--block"]
    log = tmp_path_factory.mktemp("cluster") / "head.log"
    with log.open("wb") as file:
        head = subprocess.Popen(
            [BIN / "ray", "start", "--head", "--node-ip-address=127.0.0.1", *options],
            env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    address = f"http://127.0.0.1:{ports[1]}"
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(f"{address}/api/jobs/", timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < deadline, log.read_text()
                assert head.poll() is None, log.read_text()
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(head.pid, signal.SIGKILL)  # its other processes end with it
        head.wait()


def submit(dashboard: str, environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    arguments = [BIN / "ray", "job", "submit", "--address", dashboard, "--working-dir", ".", "--", "python", *command]
    deadline = time.monotonic() + 60
    while True:
        result = subprocess.run(
            [*map(str, arguments)], cwd=REPO, env=environment, capture_output=True, text=True, timeout=400, check=False
        )
        if "No available agent" not in result.stdout + result.stderr or time.monotonic() > deadline:
            return result
        time.sleep(1)  # a young cluster answers before its agent is up


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_train_and_score_are_submitted_and_failure_is_told_by_the_exit_code(
    dashboard: str, environment: dict[str, str], tmp_path: Path
) -> None:
    out = str(tmp_path / "run")
    trained = submit(
        dashboard,
        environment,
        "jobs/train.py",
        "--catalog",
        "drawn",
        "--out",
        out,
        "--epochs",
        "1",
        "--image-size",
        "32",
    )
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert f"checkpoint: {out}/best" in trained.stdout
    packages = re.findall(r"\(([\d.]+)(KiB|MiB|GiB)\)", trained.stdout + trained.stderr)
    for size, unit in packages:
        assert unit == "KiB" or (unit == "MiB" and float(size) < 5), f"the job dragged {size} {unit} along"

    arguments = ["--catalog", f"{out}-catalog", "--checkpoint", f"{out}/best", "--out", str(tmp_path / "ages")]
    scored = submit(dashboard, environment, "jobs/score.py", *arguments)
    assert scored.returncode == 0, scored.stdout + scored.stderr
    assert (tmp_path / "ages.agescale" / "summary.json").exists()

    arguments[3] = f"{out}/nothing"
    failed = submit(dashboard, environment, "jobs/score.py", *arguments)
    assert failed.returncode == 1, "ray job submit exits 1 where the job failed"
    assert f"error: {out}/nothing: no checkpoint there" in failed.stdout
