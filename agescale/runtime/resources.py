"""What a cluster has, and whether a job fits into it. Ray runs already."""

from __future__ import annotations

import os
import time

import ray
import ray.data
from ray.autoscaler.sdk import request_resources

WAIT_NAME = "AGESCALE_NODES_WAIT_S"
"""Where a cluster grows on demand, the environment names the seconds that a job waits for the nodes it asks for."""
ASK_EVERY_S, TELL_EVERY_S = 1.0, 10.0


def check_resources(
    num_workers: int, cpus_per_worker: float, gpus_per_worker: float, extra_cpus: float = 0, bytes_per_worker: float = 0
) -> None:
    """Raises ValueError where the cluster cannot hold the workers and what feeds them: Ray would wait in silence.

    A cluster that may grow is asked for nodes first, and waited for (``WAIT_NAME``).
    """
    each = {"CPU": cpus_per_worker, "GPU": gpus_per_worker, "memory": bytes_per_worker}
    bundles = [{kind: amount for kind, amount in each.items() if amount}] * num_workers
    bundles += [{"CPU": extra_cpus}] if extra_cpus else []
    need = {kind: sum(bundle.get(kind, 0.0) for bundle in bundles) for kind in each}
    if wait_s := _seconds_to_wait():
        _wait_for(need, bundles, wait_s)
    if lacking := _lacking(need):
        kind = lacking[0]
        have = ray.cluster_resources().get(kind, 0.0)
        if kind == "memory":
            amounts = f"{need[kind] / 2**30:.1f} GiB of memory, the cluster has {have / 2**30:.1f}"
        else:
            amounts = f"{need[kind]:g} {kind}s, the cluster has {have:g}"
        way_out = "lower --num-workers" if have else "--device cpu"
        if kind == "CPU" and extra_cpus:  # of a training
            way_out += " or --cpus-per-worker (0.5, say)"
        waited = f" after {wait_s:g} s" if wait_s else ""
        raise ValueError(f"{num_workers} workers need {amounts}{waited}; {way_out}, or add nodes")


def _lacking(need: dict[str, float]) -> list[str]:
    """Kinds of which the cluster has too little, memory first."""
    have = ray.cluster_resources()
    return [kind for kind in ("memory", "CPU", "GPU") if need[kind] > have.get(kind, 0.0) + 1e-9]


def _seconds_to_wait() -> float:
    said = os.environ.get(WAIT_NAME, "")
    try:
        return max(float(said or 0), 0.0)
    except ValueError:
        raise ValueError(f"{WAIT_NAME}={said!r}: not a number of seconds") from None


def _wait_for(need: dict[str, float], bundles: list[dict[str, float]], wait_s: float) -> None:
    """Asks the cluster's autoscaler for what is needed, and waits until it is there, or for ``wait_s``."""
    began = told = time.monotonic()
    try:
        while (lacking := _lacking(need)) and time.monotonic() - began < wait_s:
            if told == began or time.monotonic() - told > TELL_EVERY_S:
                request_resources(bundles=bundles)
                told = time.monotonic()
                print(f"waiting for nodes: {_amounts(need, lacking)} ({told - began:.0f} of {wait_s:g} s)", flush=True)
            time.sleep(ASK_EVERY_S)
    finally:
        if told != began:
            request_resources(bundles=[])  # else the nodes would stay for good; who works there keeps them


def _amounts(need: dict[str, float], kinds: list[str]) -> str:
    have = ray.cluster_resources()
    scale = {"memory": (2**30, " GiB of memory")}
    words = []
    for kind in kinds:
        size, unit = scale.get(kind, (1, f" {kind}s"))
        words.append(f"{need[kind] / size:g}{unit} needed, {have.get(kind, 0.0) / size:g} there")
    return "; ".join(words)


WORKER_BYTES = 2**30
"""What a process with a model needs besides its weights: torch, Ray, and the images that are decoded ahead."""


def num_gpus() -> int:
    return int(ray.cluster_resources().get("GPU", 0))


def uses_gpu(device: str) -> bool:
    """What a job's --device means on this cluster."""
    return device == "cuda" or (device == "auto" and num_gpus() > 0)
