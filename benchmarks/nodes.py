"""Scoring on 1, 2 and 4 nodes of one logical CPU each, from a store that answers late: images a second against ideal.

    python benchmarks/nodes.py --num-nodes 1 2 4 --latency-s 1

The nodes are raylets of this machine, so what grows with them is waiting and not computing; a small network, so that
two cores suffice. Also prints what a unit asks of the store, counted there.
"""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro
from ray.cluster_utils import Cluster

from agescale.models import checkpoints
from agescale.models.age_model import AgeModel, ModelSpec
from agescale.store import client
from agescale.synthetic import dataset
from agescale.tables.datasets import read_predictions

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from fault_proxy import OPERATIONS, FaultProxy  # noqa: E402
from seaweedfs import server_command  # noqa: E402


@dataclass(frozen=True)
class NodesConfig:
    num_nodes: tuple[int, ...] = (1, 2, 4)
    """Nodes to score on, ascending."""
    latency_s: float = 1.0
    """What the store takes for each GET beyond its own time, seconds."""
    num_faces: int = 640
    """Drawn faces to score."""
    unit_rows: int = 8
    """Images of a unit."""


@dataclass(frozen=True)
class Run:
    seconds: float  # of the whole process
    steady: float  # images a second in the middle half of them
    requests: Counter[str]  # by operation
    bytes_sent: int


def main(config: NodesConfig) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
        endpoint = stack.enter_context(store(folder / "store"))
        num_faces = prepare(folder, config)
        proxy = FaultProxy(endpoint, kinds=("latency",), fraction=1, seconds=config.latency_s)
        stack.enter_context(proxy)
        os.environ["AWS_ENDPOINT_URL"] = proxy.url  # of all nodes
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        stack.callback(cluster.shutdown)
        print("| nodes | whole job | images/s, start-up aside | ideal | share |\n| --- | --- | --- | --- | --- |")
        one = 0.0
        for number, num_nodes in enumerate(config.num_nodes):
            for _ in range(num_nodes - (config.num_nodes[number - 1] if number else 0)):
                cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
            run = score(config, cluster.address, proxy, num_nodes)
            one = one or run.steady / num_nodes
            ideal = one * num_nodes
            cells = f"{run.seconds:.0f} s | {run.steady:.2f} | {ideal:.2f} | {run.steady / ideal:.0%}"
            print(f"| {num_nodes} | {cells} |", flush=True)
    num_units = -(-num_faces // config.unit_rows)
    asked = ", ".join(f"{run.requests[each]} {each}" for each in OPERATIONS)
    print(f"\n{num_faces} images in {num_units} units: {asked}; {run.bytes_sent:,} bytes sent")


@contextmanager
def store(folder: Path) -> Iterator[str]:
    """A SeaweedFS with an empty bucket, whose credentials then stand in the environment. Yields its URL."""
    folder.mkdir()
    endpoint = "http://127.0.0.1:8333"
    with open(folder / "log.txt", "wb") as log:
        server = subprocess.Popen(server_command(folder, "bench", "bench-secret"), stdout=log, stderr=log)
    os.environ |= {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench-secret"}
    os.environ |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    try:
        for _ in range(60):
            try:
                client.filesystem("s3://bench").mkdir("bench")
                break
            except OSError:
                assert server.poll() is None, (folder / "log.txt").read_text()
                time.sleep(1)
        yield endpoint
    finally:
        server.kill()
        server.wait()


def prepare(folder: Path, config: NodesConfig) -> int:
    """Faces, their catalog and a small model in the bucket. Returns the number of faces."""
    num_faces = dataset.write_dataset(folder / "faces", "unlabelled", config.num_faces, size=64, num_broken=0)
    client.filesystem("s3://bench").put(f"{folder / 'faces'}/", "bench/faces/", recursive=True)
    spec = ModelSpec(encoder="cnn", task="distribution", age_groups="25-years", image_size=32)
    checkpoints.save("s3://bench/model", spec, AgeModel(spec).state_dict(), checkpoints.RunProgress(), {})
    run_job("jobs/catalog.py", "--source", "s3://bench/faces", "--out", "s3://bench/catalog")
    return num_faces


def score(config: NodesConfig, address: str, proxy: FaultProxy, num_nodes: int) -> Run:
    """One process on each node. In steady state are the images between the first and the last quarter."""
    out = f"s3://bench/ages-{num_nodes}"
    paths = ("--catalog", "s3://bench/catalog", "--checkpoint", "s3://bench/model", "--out", out)
    proxy.requests.clear()
    proxy.bytes_sent, began = 0, time.monotonic()
    options = ("--unit-rows", str(config.unit_rows), "--num-workers", str(num_nodes))
    run_job("jobs/score.py", *paths, *options, RAY_ADDRESS=address)
    seconds, bytes_sent, requests = time.monotonic() - began, proxy.bytes_sent, Counter[str]()
    for (operation, _), count in proxy.requests.items():
        requests[operation] += count
    moments: list[dt.datetime] = read_predictions(out).to_table(columns=["scored_at"])["scored_at"].to_pylist()
    moment_N = np.sort([moment.timestamp() for moment in moments])
    first, last = np.quantile(moment_N, [0.25, 0.75])
    steady = np.count_nonzero((moment_N > first) & (moment_N <= last)) / (last - first)
    return Run(seconds, float(steady), requests, bytes_sent)


def run_job(*command: str, **environment: str) -> None:
    subprocess.run(
        [sys.executable, *command], check=True, cwd=ROOT, env=os.environ | environment, stdout=subprocess.DEVNULL
    )


if __name__ == "__main__":
    main(tyro.cli(NodesConfig))
