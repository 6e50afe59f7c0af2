"""Clusters of several raylets: one of them has a disk of its own, or comes late, or is started and ended by Ray's
autoscaler. Slow; run by ``make test-cluster``."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import RunJob, free_ports, make_checkpoint
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

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
        started_by_autoscaler = psutil.Process(node.pid).children(recursive=True)
        os.killpg(node.pid, signal.SIGKILL)  # its other processes end with it
        node.wait()
        for process in started_by_autoscaler:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
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


CPU_NODE = {"resources": {"CPU": 1, "memory": 4 * 2**30}, "node_config": {}, "min_workers": 0, "max_workers": 3}
AUTOSCALING: dict[str, Any] = {
    "cluster_name": "fake", "max_workers": 3, "idle_timeout_minutes": 0.1, "upscaling_speed": 1.0,
    "provider": {
        "type": "external", "module": "fake_provider.Provider", "head_node_id": FAKE_HEAD_NODE_ID,
        "use_node_id_as_ip": True, "disable_node_updaters": True, "disable_launch_config_check": True,
    },
    "head_node_type": "ray.head.default",
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}, "cpu": CPU_NODE,
    },
    "auth": {}, "docker": {}, "file_mounts": {}, "cluster_synced_files": [], "file_mounts_sync_continuously": False,
    "rsync_exclude": [], "rsync_filter": [], "initialization_commands": [], "setup_commands": [],
    "head_setup_commands": [], "worker_setup_commands": [], "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
}  # fmt: skip
"""Ray asks for all of it, and of most uses nothing here."""


def test_the_autoscaler_starts_the_nodes_that_a_job_asks_for_and_they_go_again(
    start: tuple[Start, dict[str, str]], tmp_path: Path, drawn_faces: Path, run_job: RunJob,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    start_node, environment = start
    config = {**AUTOSCALING, "provider": {**AUTOSCALING["provider"], "gcs_address": environment["RAY_ADDRESS"]}}
    (tmp_path / "autoscaling.yaml").write_text(json.dumps(config))  # YAML too
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    monkeypatch.setenv("RAY_FAKE_CLUSTER", "1")
    monkeypatch.setenv("AUTOSCALER_UPDATE_INTERVAL_S", "1")
    start_node("--num-cpus=0", f"--autoscaling-config={tmp_path / 'autoscaling.yaml'}")
    wait_for(1, environment)
    monkeypatch.delenv("RAY_FAKE_CLUSTER")  # of the head alone
    environment = {**environment, "AGESCALE_NODES_WAIT_S": "180"}
    catalog, ages = str(tmp_path / "catalog"), str(tmp_path / "ages")
    source = ("--source", str(drawn_faces / "utkface"), "--layout", "utkface")
    made = run_job("jobs/catalog.py", *source, "--out", catalog, "--pack", "48", env=environment)
    assert made.returncode == 0, made.stdout + made.stderr
    assert "waiting for nodes: 1 CPUs needed, 0 there" in made.stdout

    model = make_checkpoint(tmp_path / "model")
    score = ("jobs/score.py", "--catalog", catalog, "--checkpoint", model, "--out", ages, "--unit-rows", "8")
    scored = run_job(*score, "--num-workers", "2", "--max-failed-fraction", "1", env=environment)
    assert scored.returncode == 0, scored.stdout + scored.stderr
    assert "waiting for nodes: " in scored.stdout
    seen = nodes_once_alone(environment)
    assert seen.count("ALIVE") == 1, "the head alone is left"
    assert len(seen) >= 3, "one node a worker"


def nodes_once_alone(environment: dict[str, str]) -> list[str]:
    """States of all nodes that there were, once the head is alone again, or in two minutes."""
    program = """
import time, ray
ray.init(log_to_driver=False)
deadline = time.monotonic() + 120
while sum(node["Alive"] for node in ray.nodes()) > 1 and time.monotonic() < deadline:
    time.sleep(1)
print(*("ALIVE" if node["Alive"] else "DEAD" for node in ray.nodes()))
"""
    command = [sys.executable, "-c", program]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=True, timeout=200
    ).stdout.split()
