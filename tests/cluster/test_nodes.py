"""Clusters of several raylets: one of them has a disk of its own, or comes late. Slow; run by ``make test-cluster``."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import RunJob, free_ports

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]
RAY = str(Path(sys.executable).with_name("ray"))
Start = Callable[..., None]


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Start, dict[str, str]]]:
    """``start("--num-cpus", "1", hidden=FOLDER)`` starts a raylet that sees an empty disk in the place of a folder;
    the first one is the head. The environment of jobs comes with it."""
    port, *_ = free_ports(1)
    folder = tmp_path_factory.mktemp("ray")
    running: list[subprocess.Popen[bytes]] = []

    def start_node(*arguments: str, hidden: Path | None = None) -> None:
        where = [f"--address=127.0.0.1:{port}"]
        if not running:
            where = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir=/tmp/r{port}"]
        command = [RAY, "start", "--block", "--disable-usage-stats", *where, *arguments]
        if hidden:
            script = 'mount -t tmpfs none "$0" && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", script, str(hidden), *command]
        with open(folder / f"{len(running)}.log", "wb") as log:
            node = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, env={**os.environ, **TOKENLESS}
            )
        running.append(node)

    yield start_node, {"RAY_ADDRESS": f"127.0.0.1:{port}", **TOKENLESS}
    for node in reversed(running):
        os.killpg(node.pid, signal.SIGKILL)  # its other processes end with it
        node.wait()
    shutil.rmtree(f"/tmp/r{port}", ignore_errors=True)


TOKENLESS = {"RAY_AUTH_MODE": "disabled"}


def wait_for(num_nodes: int, environment: dict[str, str]) -> None:
    code = f"import ray; ray.init(); assert sum(node['Alive'] for node in ray.nodes()) >= {num_nodes}"
    command, deadline = [sys.executable, "-c", code], time.monotonic() + 90
    while subprocess.run(command, env={**os.environ, **environment}, capture_output=True, timeout=90).returncode:
        assert time.monotonic() < deadline, "the nodes did not come"
        time.sleep(1)


@pytest.mark.skipif(
    subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0,
    reason="this user may make no mount namespace",
)
def test_a_folder_that_one_node_cannot_see_is_refused_before_any_work(
    start: tuple[Start, dict[str, str]], tmp_path: Path, drawn_faces: Path, run_job: RunJob
) -> None:
    start_node, environment = start
    (tmp_path / "own").mkdir()
    start_node("--num-cpus=1")
    wait_for(1, environment)
    start_node("--num-cpus=1", hidden=tmp_path / "own")
    wait_for(2, environment)
    source = ("jobs/catalog.py", "--source", str(drawn_faces / "utkface"), "--layout", "utkface", "--out")
    refused = run_job(*source, str(tmp_path / "own" / "catalog"), env=environment)
    assert refused.returncode == 2, refused.stdout + refused.stderr
    (line,) = refused.stderr.strip().splitlines()
    assert "cannot see it; give a folder on storage that all nodes share, or s3://" in line
    assert not list((tmp_path / "own" / "catalog").glob("*.parquet"))
    made = run_job(*source, str(tmp_path / "catalog"), env=environment)
    assert made.returncode == 0, made.stdout + made.stderr


def test_a_job_waits_for_the_nodes_that_it_asks_for(
    start: tuple[Start, dict[str, str]], tmp_path: Path, drawn_faces: Path, run_job: RunJob
) -> None:
    start_node, environment = start
    start_node("--num-cpus=0")
    wait_for(1, environment)
    catalog = ("jobs/catalog.py", "--source", str(drawn_faces / "utkface"), "--layout", "utkface", "--pack", "48")
    command = (*catalog, "--out", str(tmp_path / "catalog"))
    refused = run_job(*command, env=environment)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: 1 workers need 1 CPUs, the cluster has 0")
    late = threading.Timer(15, start_node, ["--num-cpus=1"])
    late.start()
    done = run_job(*command, env={**environment, "AGESCALE_NODES_WAIT_S": "120"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "waiting for nodes: 1 CPUs needed, 0 there (0 of 120 s)" in done.stdout
    late.join()
