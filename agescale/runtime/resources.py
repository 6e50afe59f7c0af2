"""What a cluster has, and whether a job fits into it. Ray runs already."""

from __future__ import annotations

import ray
import ray.data


def check_resources(
    num_workers: int, cpus_per_worker: float, gpus_per_worker: float, extra_cpus: float = 0, bytes_per_worker: float = 0
) -> None:
    """Raises ValueError where the cluster cannot hold the workers and what feeds them: Ray would wait in silence."""
    have = ray.cluster_resources()
    need = {"CPU": num_workers * cpus_per_worker + extra_cpus, "GPU": num_workers * gpus_per_worker}
    if num_workers * bytes_per_worker > have.get("memory", 0):
        raise ValueError(
            f"{num_workers} workers need {num_workers * bytes_per_worker / 2**30:.1f} GiB of memory, the cluster has "
            f"{have.get('memory', 0) / 2**30:.1f}; lower --num-workers, or add nodes"
        )
    for kind, amount in need.items():
        if amount > have.get(kind, 0.0) + 1e-9:
            way_out = "lower --num-workers" if have.get(kind) else "--device cpu"
            if kind == "CPU" and extra_cpus:  # of a training
                way_out += " or --cpus-per-worker (0.5, say)"
            raise ValueError(
                f"{num_workers} workers need {amount:g} {kind}s, the cluster has {have.get(kind, 0.0):g}; "
                f"{way_out}, or add nodes"
            )


WORKER_BYTES = 2**30
"""What a process with a model needs besides its weights: torch, Ray, and the images that are decoded ahead."""


def num_gpus() -> int:
    return int(ray.cluster_resources().get("GPU", 0))


def uses_gpu(device: str) -> bool:
    """What a job's --device means on this cluster."""
    return device == "cuda" or (device == "auto" and num_gpus() > 0)
