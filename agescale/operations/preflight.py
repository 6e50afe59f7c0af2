"""A cluster tried before a long job: what it has, what each node can do, and how fast and dear the job would be.

In: a ``PreflightConfig``. Out: checks, each with what was found, and what to mend where that is wrong. Writes nothing
that stays. Every node is asked itself, because credentials, disks and clocks are each node's own.
"""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass

import ray

from agescale.config import PreflightConfig
from agescale.models import included
from agescale.models.checkpoints import check_files
from agescale.models.predictor import Predictor
from agescale.runtime import nodes
from agescale.runtime.cluster import start_ray
from agescale.runtime.resources import num_gpus, uses_gpu
from agescale.runtime.versions import installed_versions
from agescale.store import objects, paths
from agescale.store.errors import StoreError
from agescale.tables import packed, units
from agescale.tables.catalogs import Catalog

MIN_SHM_BYTES = 200 * 2**20
"""Of /dev/shm: less than Ray's object store wants goes to the disk, and is slow (containers have 64 MB)."""
MIN_FREE_BYTES = 5 * 2**30
"""Of the disk that Ray keeps logs and spilled objects on."""
MAX_SKEW_S = 60.0
"""Of clocks; stores refuse signatures that are minutes off."""


ROOM = ("/dev/shm", "free disk")
"""Checks that may be wrong where images can be tried all the same."""


@dataclass(frozen=True)
class Check:
    """One thing that was tried. ``remedy`` is empty where it is as it should be."""

    name: str
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Node:
    """What a node says of itself."""

    versions: dict[str, str]
    shm_bytes: int
    free_bytes: int
    clock_s: float  # what its clock showed while it was asked
    denied: dict[str, str]  # URIs that it cannot read or write, and why


@dataclass(frozen=True)
class Probe:
    """What one process did with some images of the catalog."""

    num_images: int
    num_ok: int
    seconds: float
    peak_bytes: int
    error: str  # of the first that failed, if any did


def preflight(config: PreflightConfig) -> list[Check]:
    """Tries one thing after the other; images only where all before them is right."""
    config = paths.with_absolute_uris(config)
    start_ray()
    inputs = tuple(uri for uri in (config.catalog, config.checkpoint) if uri)
    outputs = config.out
    began = time.time()
    answers = nodes.ask_all(describe, inputs, outputs)
    checks = [_cluster(config), *_nodes(answers, began, time.time())]
    checks += [_weights(inputs[-1])] if config.checkpoint else []
    if not any(check.remedy for check in checks if check.name == "rights"):
        checks += map(_shared, outputs)
    if config.catalog and config.checkpoint and not any(check.remedy for check in checks if check.name not in ROOM):
        checks += _speed(config, *inputs)
    return checks


def _cluster(config: PreflightConfig) -> Check:
    have = ray.cluster_resources()
    cpus, gpus, memory = have.get("CPU", 0.0), num_gpus(), have.get("memory", 0.0) / 2**30
    found = f"{len(nodes.alive())} nodes, {cpus:g} CPUs, {gpus} GPUs, {memory:.0f} GiB of memory"
    if config.device == "cuda" and not gpus:
        return Check("cluster", found, "no GPU is there: add GPU nodes, or give --device cpu")
    if cpus < (config.num_workers or 1):
        return Check("cluster", found, f"{config.num_workers or 1} workers need as many CPUs: add nodes")
    return Check("cluster", found)


def describe(inputs: tuple[str, ...], outputs: tuple[str, ...]) -> Node:
    """Runs on each node."""
    denied = {}
    for uri, can in [*((uri, _read) for uri in inputs), *((uri, objects.check_writable) for uri in outputs)]:
        try:
            can(uri)
        except (StoreError, ValueError) as error:
            denied[uri] = str(error)
    shm_bytes = shutil.disk_usage("/dev/shm").total if os.path.isdir("/dev/shm") else 0
    free_bytes = shutil.disk_usage(ray.get_runtime_context().get_temp_dir()).free
    return Node(installed_versions(), shm_bytes, free_bytes, time.time(), denied)


def _read(uri: str) -> None:
    if objects.any_name(uri) is None:
        raise ValueError(f"{uri}: nothing is there")


def _nodes(answers: dict[str, Node], began: float, ended: float) -> Iterator[Check]:
    address = nodes.alive()
    silent = [address[node] for node in address if node not in answers]
    yield Check("answers", f"{len(answers)} of {len(address)} nodes", f"no answer from {silent[0]}" if silent else "")
    for name, version in installed_versions().items():  # what one node pickles, another reads
        others = {address.get(node, node): said.versions[name] for node, said in answers.items()}
        wrong = {node: other for node, other in others.items() if other != version}
        remedy = f"{next(iter(wrong))} has {next(iter(wrong.values()))}: use one image everywhere" if wrong else ""
        yield Check(name, version, remedy)
    for name, least, size_of in (("/dev/shm", MIN_SHM_BYTES, lambda node: node.shm_bytes),
                                 ("free disk", MIN_FREE_BYTES, lambda node: node.free_bytes)):  # fmt: skip
        node, size = min(((node, size_of(said)) for node, said in answers.items()), key=lambda item: item[1])
        remedy = f"{address.get(node, node)} needs at least {least / 2**30:.1f} GiB" if size < least else ""
        yield Check(name, f"at least {size / 2**30:.1f} GiB on each node", remedy)
    skews = {node: max(began - said.clock_s, said.clock_s - ended, 0.0) for node, said in answers.items()}
    node = max(skews, key=lambda each: skews[each])
    remedy = f"the clock of {address.get(node, node)} is wrong: set it" if skews[node] > MAX_SKEW_S else ""
    yield Check("clocks", f"at most {skews[node]:.0f} s apart", remedy)
    denied = {(address.get(node, node), why) for node, said in answers.items() for why in said.denied.values()}
    remedy = ": ".join(min(denied)) if denied else ""
    yield Check("rights", f"{len(denied)} refused" if denied else "all read and written", remedy)


def _shared(out: str) -> Check:
    try:
        nodes.check_shared(out)
    except ValueError as error:
        return Check("shared", out, str(error))
    return Check("shared", out)


def _weights(checkpoint: str) -> Check:
    try:
        read = included.read(checkpoint)
        check_files(checkpoint, read)
    except (StoreError, ValueError) as error:
        return Check("weights", checkpoint, str(error))
    return Check("weights", f"{read.spec.encoder}, digest {read.digest}")


def _speed(config: PreflightConfig, catalog: str, checkpoint: str) -> Iterator[Check]:
    use_gpu = uses_gpu(config.device)
    num_workers = config.num_workers or (num_gpus() if use_gpu else int(ray.cluster_resources().get("CPU", 1)))
    placed = ray.remote(num_cpus=1, num_gpus=int(use_gpu), max_retries=0)(try_images)
    probe = ray.get(placed.remote(catalog, checkpoint, "cuda" if use_gpu else "cpu", config))
    remedy = "" if probe.num_ok else f"none of them: {probe.error}"
    yield Check("images", f"{probe.num_ok} of {probe.num_images} could be scored", remedy)
    if not probe.num_images:
        return
    yield Check("memory", f"{probe.peak_bytes / 2**30:.1f} GiB a process at batches of {config.batch_size}")
    num_rows = sum(part.num_rows for part in Catalog.open(catalog).parts if not part.relabels)
    rate = num_workers * probe.num_images / probe.seconds
    hours = num_rows / rate / 3600
    yield Check("time", f"{rate:,.0f} images/s with {num_workers} processes: {hours:,.1f} h for {num_rows:,}")
    if config.price_per_hour is not None:
        yield _cost(hours * config.price_per_hour, config.max_cost)


def _cost(cost: float, most: float | None) -> Check:
    is_over = most is not None and cost > most
    remedy = f"about {cost:,.2f}, over --max-cost {most:,.2f}: fewer images, or cheaper nodes" if is_over else ""
    return Check("cost", f"about {cost:,.2f} in all", remedy)


def try_images(catalog: str, checkpoint: str, device: str, config: PreflightConfig) -> Probe:
    """Runs in one process of the cluster: scores some images of the catalog, as ``jobs/score.py`` would."""
    predictor = Predictor(checkpoint, device, backend="auto")
    framing, opened = predictor.framing, Catalog.open(catalog)
    parts = sorted((part for part in opened.parts if not part.relabels), key=lambda part: -part.num_rows)
    first = (units.Unit(part.name, 0, min(config.num_images, part.num_rows)) for part in parts)
    listed = (units.listed_rows(opened, unit, ()) for unit in first)
    rows = next((rows for rows in listed if len(rows)), None)  # a part may hold nothing but what was deleted
    if rows is None:
        return Probe(0, 0, 0.0, 0, "the catalog lists none")
    use_packed = opened.holds_packed(framing)
    statuses: list[str] = []
    errors: list[str] = []
    with objects.read_pool() as pool:
        for _ in range(2):  # the first warms up
            began = time.monotonic()
            loaded = packed.load_faces(catalog, rows, framing, use_packed, pool)
            predictions = predictor.predict_rows(rows, loaded, config.batch_size)
            statuses = predictions["status"].to_pylist()
            errors = predictions["error"].drop_null().to_pylist()
    peak_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Probe(len(rows), statuses.count("ok"), time.monotonic() - began, peak_bytes, next(iter(errors), ""))
