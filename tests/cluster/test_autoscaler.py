"""Ray's own autoscaler, with a provider that starts its nodes on this machine: a job asks for more than there is.

All of it runs in a process namespace of its own, made as root: nodes that are started by nodes end with it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import free_ports, make_checkpoint

from agescale.synthetic.dataset import write_dataset

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


class GrowingCluster:
    """A head without CPUs, and at most three nodes of one CPU each, which go when they are idle for 12 s."""

    def __init__(self, folder: Path) -> None:
        port, agent_port = free_ports(2)
        node_types = {
            "head": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "cpu": {
                "resources": {"CPU": 1, "object_store_memory": 100_000_000},
                "node_config": {},
                "min_workers": 0,
                "max_workers": 3,
            },
        }
        provider = {"type": "fake_multinode", "head_node_id": f"{'f' * 51}00000", "gcs_address": f"127.0.0.1:{port}"}
        provider |= {"launch_multiple": True, "use_node_id_as_ip": True, "disable_node_updaters": True}
        lists = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
        config = {
            "cluster_name": "growing",
            "max_workers": 3,
            "upscaling_speed": 1.0,
            "idle_timeout_minutes": 0.2,
            "provider": {**provider, "disable_launch_config_check": True},
            "auth": {},
            "docker": {},
            "file_mounts": {},
            "cluster_synced_files": [],
            "file_mounts_sync_continuously": False,
            "rsync_exclude": [],
            "rsync_filter": [],
            "head_node_type": "head",
            "available_node_types": node_types,
            **{f"{name}_commands": [] for name in lists},
        }
        (folder / "cluster.yaml").write_text(json.dumps(config))  # which is YAML
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment = kept | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
        self.environment |= {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        self.temporary = Path(f"/tmp/r{port}")
        start = [BIN / "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}"]
        start += [f"--dashboard-agent-listen-port={agent_port}", "--include-dashboard=false", "--num-cpus=0"]
        start += [f"--temp-dir={self.temporary}", "--object-store-memory=100000000"]
        start += [f"--autoscaling-config={folder / 'cluster.yaml'}"]
        grows = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_worker_niceness": "0"}
        isolate = ["unshare", "--pid", "--fork", "--mount", "--mount-proc", "--kill-child"]
        self.log = folder / "head.log"
        with self.log.open("wb") as log:
            self.head = subprocess.Popen(
                [*isolate, *map(str, start)], env=self.environment | grows, stdout=log, stderr=log
            )
        self.environment |= {"RAY_ADDRESS": f"127.0.0.1:{port}", "AGESCALE_NODES_WAIT_S": "240"}

    def run(self, *command: object) -> subprocess.CompletedProcess[str]:
        init = psutil.Process(self.head.pid).children()[0].pid
        enter = ["nsenter", f"--target={init}", "--mount", "--pid", "env", f"--chdir={ROOT}"]
        return subprocess.run(
            [*enter, sys.executable, *map(str, command)], env=self.environment, cwd=ROOT,
            capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip

    def num_nodes(self) -> int:
        """Nodes that live, the head among them; 0 where nobody answers."""
        code = "import ray; ray.init(); print(sum(node['Alive'] for node in ray.nodes()))"
        said = self.run("-c", code).stdout
        return int(said) if said else 0

    def wait_for(self, num_nodes: int, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while (found := self.num_nodes()) != num_nodes:
            assert time.monotonic() < deadline, f"{found} nodes, not {num_nodes}\n{self.log.read_text()[-3000:]}"

    def end(self) -> None:
        self.head.kill()
        self.head.wait()
        shutil.rmtree(self.temporary, ignore_errors=True)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[GrowingCluster]:
    can = subprocess.run(["unshare", "--pid", "--fork", "--mount", "true"], capture_output=True, check=False)
    if can.returncode:
        pytest.skip("this user may make no process namespace")
    made = GrowingCluster(tmp_path)
    try:
        made.wait_for(1, timeout_s=120)
        yield made
    finally:
        made.end()


def test_jobs_that_need_more_than_there_is_start_nodes_which_go_again(cluster: GrowingCluster, tmp_path: Path) -> None:
    write_dataset(tmp_path / "faces", "utkface", num_faces=60, size=48, num_broken=0)
    catalog = tmp_path / "catalog"
    listed = cluster.run("jobs/catalog.py", "--source", tmp_path / "faces", "--layout", "utkface", "--out", catalog)
    assert listed.returncode == 0, listed.stdout + listed.stderr
    assert "waiting for nodes: 1 CPUs needed, 0 there (0 of 240 s)" in listed.stdout

    paths = ("--catalog", catalog, "--checkpoint", make_checkpoint(tmp_path / "model"), "--out", tmp_path / "ages")
    scored = cluster.run("jobs/score.py", *paths, "--num-workers", "3", "--unit-rows", "5")
    assert scored.returncode == 0, scored.stdout + scored.stderr
    assert re.search(r"waiting for nodes: 3 CPUs needed, [012] there", scored.stdout)
    cluster.wait_for(1, timeout_s=120)  # the head alone: all others have gone

    settings = ("--num-workers", "2", "--image-size", "32", "--phases", "all:1@1e-3")
    trained = cluster.run("jobs/train.py", "--catalog", catalog, "--out", tmp_path / "run", *settings)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "waiting for nodes: 3 CPUs needed, 0 there" in trained.stdout
    assert f"checkpoint: {tmp_path / 'run'}/best" in trained.stdout
    cluster.wait_for(1, timeout_s=120)
