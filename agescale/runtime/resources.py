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
    need = _sum(bundles)
    wait_s = wait_for_nodes(bundles)
    if lacking := _lacking(need):
        kind = lacking[0]
        have = ray.cluster_resources().get(kind, 0.0)
        amounts = f"{_number(kind, need[kind])} {_unit(kind)}, the cluster has {_number(kind, have)}"
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


def wait_for_nodes(bundles: list[dict[str, float]]) -> float:
    """Where the environment says so (``WAIT_NAME``), asks the cluster's autoscaler for room for ``bundles`` of
    resources, and waits until it is there. Returns the seconds that it waits at most; 0 where it does not."""
    wait_s, need = _seconds_to_wait(), _sum(bundles)
    began = told = time.monotonic()
    try:
        while (lacking := _lacking(need)) and time.monotonic() - began < wait_s:
            if told == began or time.monotonic() - told > TELL_EVERY_S:
                request_resources(bundles=bundles)
                told = time.monotonic()
                have = ray.cluster_resources()
                words = (
                    f"{_number(kind, need[kind])} {_unit(kind)} needed, {_number(kind, have.get(kind, 0.0))} there"
                    for kind in lacking
                )
                print(f"waiting for nodes: {'; '.join(words)} ({told - began:.0f} of {wait_s:g} s)", flush=True)
            time.sleep(ASK_EVERY_S)
    finally:
        if told != began:
            request_resources(bundles=[])  # else the nodes would stay for good; who works there keeps them
    return wait_s


def _sum(bundles: list[dict[str, float]]) -> dict[str, float]:
    return {kind: sum(bundle.get(kind, 0.0) for bundle in bundles) for kind in ("memory", "CPU", "GPU")}


def _number(kind: str, amount: float) -> str:
    return f"{amount / 2**30:.1f}" if kind == "memory" else f"{amount:g}"


def _unit(kind: str) -> str:
    return "GiB of memory" if kind == "memory" else f"{kind}s"


WORKER_BYTES = 2**30
"""What a process with a model needs besides its weights: torch, Ray, and the images that are decoded ahead."""


def num_gpus() -> int:
    return int(ray.cluster_resources().get("GPU", 0))


def uses_gpu(device: str) -> bool:
    """What a job's --device means on this cluster."""
    return device == "cuda" or (device == "auto" and num_gpus() > 0)
