"""What all nodes of a cluster see: a task on each of them, and whether a folder is one and the same everywhere.

Ray runs already. Nodes that die meanwhile, or do not answer, are left out: whoever places work finds out by itself.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from agescale.store import objects, paths

ANSWER_TIMEOUT_S = 60.0
"""A process starts on each node within seconds; a node that needs longer is not waited for."""
Answer = TypeVar("Answer")


def alive() -> dict[str, str]:
    """Addresses of the nodes that live, by their ids."""
    return {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}


def ask_all(ask: Callable[..., Answer], *arguments: Any) -> dict[str, Answer]:
    """What ``ask(*arguments)`` returns on each node, by the node's id. Raises what it raises on any of them."""
    task = ray.remote(num_cpus=0, max_retries=0)(ask)
    asked = {}
    for node in alive():
        placed = task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
        asked[placed.remote(*arguments)] = node
    ended, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_TIMEOUT_S)
    answers = {}
    for reference in ended:
        try:
            answers[asked[reference]] = ray.get(reference)
        except RayError as error:
            if isinstance(getattr(error, "cause", None), Exception):
                raise
    return answers


def check_shared(out: str, *inputs: str) -> None:
    """Raises ValueError where a job with several nodes is to write into a folder, or to read ``inputs``, that are not
    the same on all of them: files would lie scattered over their disks. It is tried with a file, and not guessed."""
    token = paths.join(out, f".seen-from-everywhere-{uuid.uuid4().hex}")
    local = [uri for uri in (token, *inputs) if not paths.is_remote(uri)]
    if not local or len(alive()) < 2:
        return
    if token in local:
        objects.write_bytes(token, b"")
    try:
        unseen = {node: sees.index(False) for node, sees in ask_all(_see, local).items() if False in sees}
    finally:
        if token in local:
            objects.delete(token)
    if unseen:
        node, index = min(unseen.items(), key=lambda item: item[1])
        others = f" and {len(unseen) - 1} more" if len(unseen) > 1 else ""
        uri = out if local[index] == token else local[index]
        raise ValueError(
            f"{uri}: lies on a disk of this machine, and node {alive().get(node, node)}{others} cannot see "
            "it; give a folder on storage that all nodes share, or s3://"
        )


def _see(uris: list[str]) -> list[bool]:
    return [os.path.lexists(uri) for uri in uris]
