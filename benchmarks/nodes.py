"""Scoring on 1, 2 and 4 nodes of one logical CPU each, from a store that answers late: images a second against ideal;
and from what was counted there, the arithmetic of 1,000,000,000 images on 100 nodes.

    python benchmarks/nodes.py --num-nodes 1 2 4 --latency-s 1

The nodes are raylets of this machine, so what grows with them is waiting and not computing; a small network, so that
two cores suffice. What cannot be counted here is a setting, with where its value comes from.
"""

from __future__ import annotations

import datetime as dt
import os
import socket
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
import pyarrow as pa
import tyro
from ray.cluster_utils import Cluster

from agescale.models import checkpoints
from agescale.models.age_model import AgeModel
from agescale.models.spec import ModelSpec
from agescale.scoring.plan import MAX_TASK_UNITS
from agescale.store import client, parquet
from agescale.store.listing import PAGE_FILES
from agescale.synthetic import dataset
from agescale.tables.catalogs import LISTED_PART_ROWS, Catalog
from agescale.tables.datasets import read_predictions
from agescale.tables.units import rows_of_units

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from fault_proxy import OPERATIONS, FaultProxy  # noqa: E402
from seaweedfs import SERVICES, server_command  # noqa: E402


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
    large_images: int = 1_000_000_000
    """Images of the arithmetic."""
    large_nodes: int = 100
    """Nodes of the arithmetic."""
    cpus_per_node: int = 2
    """Each of them lists a range of names at a time."""
    images_per_s: float = 81.8
    """What such a node scores: MobileNetV2 at 224 px, as benchmarks/scoring.py measured it on a slow machine."""
    image_bytes: int = 100_000
    """Mean size of an image, an assumption."""
    list_s: float = 0.2
    """What a store takes for a page of a listing, an assumption."""
    rows_per_mb: float = 7_500_000
    """Rows of a catalog that a megabyte of the driver is for, measured by benchmarks/scale.py: 12 MB for 90,000,000."""
    driver_mb: float = 784
    """Memory of the driver at 100,000,000 rows, measured there."""
    price_per_hour: float = 0.10
    """Price of one node, dollars, an assumption."""
    price_per_million_gets: float = 0.4
    """Dollars; the list price of S3 in us-east-1."""
    price_per_million_puts: float = 5.0
    """Dollars; the same, and that of LIST."""


@dataclass(frozen=True)
class Run:
    seconds: float  # of the whole process
    steady: float  # images a second in the middle half of them
    requests: Counter[str]  # by operation


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
        print(f"\n{num_faces} images in {num_units} units, the last of these jobs: {asked}\n")
        print_arithmetic(config, per_unit(run.requests, num_faces, num_units), bytes_of_rows(num_nodes))


@contextmanager
def store(folder: Path) -> Iterator[str]:
    """A SeaweedFS with an empty bucket, whose credentials then stand in the environment. Yields its URL."""
    folder.mkdir()
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2 * len(SERVICES))]
        ports = [each.getsockname()[1] for each in sockets]
    endpoint = f"http://127.0.0.1:{ports[3]}"
    with open(folder / "log.txt", "wb") as log:
        server = subprocess.Popen(server_command(folder, "bench", "secret", ports=ports), stdout=log, stderr=log)
    os.environ |= {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "secret"}
    os.environ |= {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    try:
        for _ in range(60):
            try:
                client.filesystem("s3://bench").mkdir("bench")
                break
            except client.STORE_ERRORS:
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
    run_job("jobs/catalog.py", "--source", "s3://bench/faces", "--out", "s3://bench/catalog", RAY_ADDRESS="local")
    return num_faces


def score(config: NodesConfig, address: str, proxy: FaultProxy, num_nodes: int) -> Run:
    """One process on each node. In steady state are the images between the first and the last quarter."""
    out = f"s3://bench/ages-{num_nodes}"
    paths = ("--catalog", "s3://bench/catalog", "--checkpoint", "s3://bench/model", "--out", out)
    proxy.requests.clear()
    began = time.monotonic()
    options = ("--unit-rows", str(config.unit_rows), "--num-workers", str(num_nodes))
    run_job("jobs/score.py", *paths, *options, RAY_ADDRESS=address)
    seconds, requests = time.monotonic() - began, Counter[str]()
    for (operation, _), count in proxy.requests.items():
        requests[operation] += count
    moments: list[dt.datetime] = read_predictions(out).to_table(columns=["scored_at"])["scored_at"].to_pylist()
    moment_N = np.sort([moment.timestamp() for moment in moments])
    first, last = np.quantile(moment_N, [0.25, 0.75])
    steady = np.count_nonzero((moment_N > first) & (moment_N <= last)) / (last - first)
    return Run(seconds, float(steady), requests)


def run_job(*command: str, **environment: str) -> None:
    subprocess.run(
        [sys.executable, *command], check=True, cwd=ROOT, env=os.environ | environment, stdout=subprocess.DEVNULL
    )


def per_unit(requests: Counter[str], num_images: int, num_units: int) -> tuple[float, float]:
    """GETs (and HEADs, at the same price) beyond one an image, and PUTs (and LISTs), of each unit; those of the whole
    job are among them, so that this is rather too much."""
    gets = requests["GET"] + requests["HEAD"] - num_images
    return gets / num_units, (requests["PUT"] + requests["POST"] + requests["LIST"]) / num_units


def bytes_of_rows(num_nodes: int) -> tuple[float, float]:
    """Bytes of a row of the catalog, and of one of the predictions, in files of many."""
    catalog = Catalog.open("s3://bench/catalog")
    listed = pa.concat_tables([parquet.read_table(catalog.file(name)) for name in catalog.names])
    scored = read_predictions(f"s3://bench/ages-{num_nodes}").to_table()
    return row_bytes(listed), row_bytes(scored)


def row_bytes(table: pa.Table) -> float:
    """Of one more row, without what a file has once."""
    half = len(table) // 2
    whole_bytes, half_bytes = (len(parquet.as_parquet(rows)) for rows in (table, table.slice(0, half)))
    return (whole_bytes - half_bytes) / (len(table) - half)


def print_arithmetic(config: NodesConfig, each_unit: tuple[float, float], each_row: tuple[float, float]) -> None:
    """From the counts above and the constants of the code: what so many images on so many nodes take."""
    num, unit_rows = config.large_images, rows_of_units(LISTED_PART_ROWS)
    num_parts, num_units = -(-num // LISTED_PART_ROWS), -(-num // unit_rows)
    num_pages, num_cpus = -(-num // PAGE_FILES), config.large_nodes * config.cpus_per_node
    gets = num + num_units * each_unit[0]
    puts = num_pages + num_parts + num_units * each_unit[1]
    rate = config.large_nodes * config.images_per_s
    hours = num / rate / 3600
    dollars = hours * config.large_nodes * config.price_per_hour
    dollars_asked = gets / 1e6 * config.price_per_million_gets + puts / 1e6 * config.price_per_million_puts
    megabytes = config.driver_mb + max(num - 1e8, 0) / config.rows_per_mb
    lines = [
        ("pages of the listing", f"{num:,} / {PAGE_FILES:,} names", f"{num_pages:,} LIST"),
        ("listing", f"{num_pages:,} x {config.list_s:g} s / {num_cpus:,} CPUs",
         f"{num_pages * config.list_s / num_cpus / 60:,.0f} min"),
        ("catalog", f"{num:,} / {LISTED_PART_ROWS:,} rows; x {each_row[0]:.0f} bytes",
         f"{num_parts:,} PUT, {num * each_row[0] / 1e9:,.0f} GB"),
        ("units", f"{num:,} / {unit_rows:,} rows", f"{num_units:,} files"),
        ("catalog as units read it", f"{num_units:,} x {LISTED_PART_ROWS:,} rows, the whole part",
         f"{num_units * LISTED_PART_ROWS * each_row[0] / 1e9:,.0f} GB"),
        ("tasks of Ray", f"{num_units:,} / {MAX_TASK_UNITS} units", f"{num_units / MAX_TASK_UNITS:,.0f}"),
        ("GET and HEAD", f"{num:,} + {num_units:,} x {each_unit[0]:.1f}", f"{gets:,.0f}"),
        ("PUT and LIST", f"{num_pages:,} + {num_parts:,} + {num_units:,} x {each_unit[1]:.1f}", f"{puts:,.0f}"),
        ("bytes read", f"{num:,} x {config.image_bytes:,}", f"{num * config.image_bytes / 1e12:,.0f} TB"),
        ("predictions", f"{num:,} x {each_row[1]:.0f} bytes", f"{num * each_row[1] / 1e9:,.0f} GB"),
        ("images a second", f"{config.large_nodes} nodes x {config.images_per_s:g}",
         f"{rate:,.0f}, {rate * config.image_bytes / 1e6:,.0f} MB/s"),
        ("time", f"{num:,} / {rate:,.0f} / 3,600", f"{hours:,.1f} h"),
        ("the driver's memory", f"{config.driver_mb:,.0f} MB + {max(num - 1e8, 0):,.0f} rows / "
         f"{config.rows_per_mb:,.0f}", f"{megabytes:,.0f} MB"),
        ("nodes", f"{hours:,.1f} h x {config.large_nodes} x {config.price_per_hour:.2f} $", f"{dollars:,.0f} $"),
        ("requests", f"{gets / 1e6:,.0f} x {config.price_per_million_gets:g} $ + {puts / 1e6:,.2f} x "
         f"{config.price_per_million_puts:g} $", f"{dollars_asked:,.0f} $"),
    ]  # fmt: skip
    print(f"| {num:,} images on {config.large_nodes} nodes | from | is |\n| --- | --- | --- |")
    for name, derivation, result in lines:
        print(f"| {name} | {derivation} | {result} |")


if __name__ == "__main__":
    main(tyro.cli(NodesConfig))
