"""Faces as shards (tar, zip) against the same as loose objects, on an S3 server that answers late: requests, images a
second and the same predictions.

    python benchmarks/shards.py --num-faces 4000 --latency-s 0.02 --repetitions 2
    python benchmarks/shards.py --num-shards 1000

In one process, without Ray, by a small network: what is compared is reading. Drawn faces and random weights. The
tars also by scoring_by_webdataset.py. With --num-shards: what one process needs to list so many tars of 1,000 members
on disk.
"""

from __future__ import annotations

import io
import os
import resource
import statistics
import tarfile
import tempfile
import time
import zipfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow.dataset as pads
import torch
import tyro
from networks import network
from nodes import FaultProxy, store
from turns import in_turn, machine, tell
from turns import run as run_program

from agescale.cataloging.changes import RangeLister
from agescale.cataloging.driver import build_catalog
from agescale.config import CatalogConfig, ScoreConfig
from agescale.faces import images
from agescale.models import checkpoints
from agescale.models.age_model import AgeModel
from agescale.models.spec import ModelSpec
from agescale.scoring.driver import score
from agescale.store import client, listing, objects
from agescale.synthetic import dataset
from agescale.tables import catalogs, folders

KINDS = ("loose", "tar", "zip")
BY_WEBDATASET = "tar, by WebDataset"
SIDE = 32
"""What the network looks at, pixels."""


@dataclass(frozen=True)
class ShardsConfig:
    num_faces: int = 4000
    """Drawn faces to score."""
    size: int = 200
    """Their sides, pixels."""
    per_shard: int = 1000
    """Faces of a shard."""
    latency_s: float = 0.02
    """What the store takes for each request beyond its own time, seconds."""
    repetitions: int = 2
    """Runs of each, in turn."""
    num_shards: int = 0
    """So many tars are listed, and nothing is compared."""


@dataclass(frozen=True)
class Run:
    listed_s: float
    scored_s: float
    listing: Counter[str]  # requests for the source, by operation
    scoring: Counter[str]
    ages: dict[str, tuple[str, float | None]]  # by the name of the image

    def __str__(self) -> str:
        return f"listed in {self.listed_s:.1f} s, scored in {self.scored_s:.1f} s"


def main(config: ShardsConfig) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
        if config.num_shards:
            list_shards(folder, config)
            return
        endpoint = stack.enter_context(store(folder / "store"))
        num_faces = prepare(folder, config)
        reads = ("GET", "LIST", "HEAD")
        proxy = FaultProxy(endpoint, ("latency",), fraction=1, operations=reads, seconds=config.latency_s)
        stack.enter_context(proxy)
        os.environ["AWS_ENDPOINT_URL"] = proxy.url
        client._filesystem.cache_clear()
        ways = {kind: partial(run, folder, kind, proxy) for kind in KINDS}
        ways[BY_WEBDATASET] = partial(run_by_webdataset, folder, -(-num_faces // config.per_shard), proxy)
        runs = in_turn(ways, config.repetitions)
    loose = runs["loose"]
    base = statistics.median(num_faces / each.scored_s for each in loose)
    print(f"{num_faces} faces, {config.latency_s * 1000:g} ms a request, {machine()}\n")
    print("| source | listing s | its requests | scoring images/s | ratio | its requests | an image | same ages |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for kind, of_kind in runs.items():
        rate = statistics.median(num_faces / each.scored_s for each in of_kind)
        listed = statistics.median(each.listed_s for each in of_kind)
        last = of_kind[-1]
        asked = [", ".join(f"{count} {name}" for name, count in each.items()) for each in (last.listing, last.scoring)]
        same = "" if kind == BY_WEBDATASET else "yes" if all(each.ages == loose[0].ages for each in of_kind) else "no"
        cells = [f"{listed:.1f}", asked[0], f"{rate:.0f}", f"{rate / base:.2f}", asked[1]]
        print(f"| {kind} | {' | '.join(cells)} | {last.scoring.total() / num_faces:.4f} | {same} |")
        if kind in ("tar", "zip"):
            tell(f"scoring from {kind} in a late store, against loose objects", rate / base)
    by_hand, tars = (statistics.median(each.scored_s for each in runs[name]) for name in (BY_WEBDATASET, "tar"))
    tell("scoring from tar in a late store, against WebDataset", by_hand / tars)


def list_shards(folder: Path, config: ShardsConfig) -> None:
    """Lists tars whose members have 300 random bytes each. They are links to one another, which nobody can tell."""
    source, out = folder / "source", str(folder / "catalog")
    source.mkdir()
    with tarfile.open(source / "000000.tar", "w") as tar:
        for number in range(config.per_shard):
            info = tarfile.TarInfo(f"img/{number:07d}.jpg")
            info.size = 300
            tar.addfile(info, io.BytesIO(os.urandom(info.size)))
    for number in range(1, config.num_shards):
        os.link(source / "000000.tar", source / f"{number:06d}.tar")
    before_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start, start_cpu = time.monotonic(), time.process_time()
    with folders.output(out, "catalog").held() as held:
        metadata = {"id": "0", "settings": {}}
        lister = RangeLister(str(source), out, metadata, 1, (), catalogs.LISTED_PART_ROWS, held.claim)
        windows = lister.update(map(listing.to_table, listing.pages(str(source))), number=0)
        num_rows = sum(window["num_new"][0].as_py() for window in windows)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    num_bytes = sum(path.stat().st_size for path in Path(folders.archives(out)).iterdir())
    seconds = f"{time.monotonic() - start:.0f} s, {time.process_time() - start_cpu:.1f} s of CPU"
    print(
        f"{num_rows:,} members in {config.num_shards:,} tars: {seconds}, peak {peak_mb:.0f} MB ({before_mb:.0f} before)"
    )
    print(f"what is kept of where they lie: {num_bytes / num_rows:.1f} bytes a member")


def prepare(folder: Path, config: ShardsConfig) -> int:
    """Draws the faces, and puts them into the bucket as objects, tars and zips."""
    dataset.write_dataset(folder / "faces", "unlabelled", config.num_faces, size=config.size, num_broken=0)
    files = sorted(path for path in (folder / "faces").rglob("*") if images.is_image_name(path.name))
    for number, start in enumerate(range(0, len(files), config.per_shard)):
        shard = files[start : start + config.per_shard]
        with tarfile.open(folder / "shard.tar", "w") as tar:
            for path in shard:
                tar.add(path, path.name)
        with zipfile.ZipFile(folder / "shard.zip", "w", zipfile.ZIP_DEFLATED) as packed:
            for path in shard:
                packed.write(path, path.name)
        for kind in ("tar", "zip"):
            objects.write_bytes(f"s3://bench/{kind}/{number:04d}.{kind}", (folder / f"shard.{kind}").read_bytes())
    with objects.read_pool() as pool:
        list(pool.map(lambda path: objects.write_bytes(f"s3://bench/loose/{path.name}", path.read_bytes()), files))
    torch.save(network("cnn", SIDE).state_dict(), folder / "weights.pt")
    spec = ModelSpec("cnn", "distribution", "25-years", SIDE)
    checkpoints.save(str(folder / "checkpoint"), spec, AgeModel(spec).state_dict(), checkpoints.RunProgress(), {})
    return len(files)


def run(folder: Path, kind: str, proxy: FaultProxy) -> Run:
    """One listing and one scoring of the same faces, from tables that lie on disk."""
    catalog, out = (str(folder / f"{name}-{kind}-{time.monotonic_ns()}") for name in ("catalog", "ages"))
    proxy.requests.clear()
    start = time.monotonic()
    build_catalog(CatalogConfig(f"s3://bench/{kind}", catalog))
    listed_s, listing = time.monotonic() - start, by_operation(proxy)
    proxy.requests.clear()
    start = time.monotonic()
    score(ScoreConfig(catalog, out, str(folder / "checkpoint"), num_workers=0))
    scored_s, scoring = time.monotonic() - start, by_operation(proxy)
    rows = pads.dataset(out, format="parquet").to_table(columns=["uri", "status", "age"]).to_pylist()
    ages = {row["uri"].rpartition("/")[2]: (row["status"], row["age"]) for row in rows}
    return Run(listed_s, scored_s, listing, scoring, ages)


def run_by_webdataset(folder: Path, num_shards: int, proxy: FaultProxy) -> Run:
    """The tars without a catalog; ages are not compared, as it resizes otherwise and its network has other weights."""
    proxy.requests.clear()
    shards = f"s3://bench/tar/{{0000..{num_shards - 1:04d}}}.tar"
    arguments = (shards, folder / "weights.pt", folder / "ages.parquet", SIDE, "cnn")
    _, said = run_program("benchmarks/scoring_by_webdataset.py", *arguments, env=os.environ)
    return Run(0.0, float(said.split()[-2]), Counter(), by_operation(proxy), {})


def by_operation(proxy: FaultProxy) -> Counter[str]:
    found: Counter[str] = Counter()
    for (operation, _), count in proxy.requests.items():
        found[operation] += count
    return found


if __name__ == "__main__":
    main(tyro.cli(ShardsConfig, description=__doc__))
