"""The network interface through which training processes on several hosts find each other.

gloo and NCCL take what a host's name resolves to, or the first interface that they see: on many hosts 127.0.0.1, or
Docker's bridge. Each process here takes the one that has its node's address in the Ray cluster, by which all others
reach it already. What the environment names stays.
"""

from __future__ import annotations

import os
from typing import Any

import ray.train.torch
import ray.util
from ray.train.torch.config import _TorchBackend

GLOO, NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"


class TorchConfig(ray.train.torch.TorchConfig):
    """Ray Train's, whose processes choose their interface before they look for each other."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _Backend


class _Backend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(choose_interface)
        super().on_start(worker_group, backend_config)


def choose_interface() -> None:
    """Names this node's interface to gloo and NCCL, where neither has been told one."""
    name = interface_of(ray.util.get_node_ip_address())
    if name and not {GLOO, NCCL} & os.environ.keys():
        os.environ.update({GLOO: name, NCCL: f"={name}"})  # NCCL would take eth01 for eth0


def interface_of(address: str) -> str | None:
    """The interface of this machine that has an IP address; None where none has, as behind NAT."""
    import psutil  # Ray brings it, and finds it only once it is imported itself

    for name, owned in psutil.net_if_addrs().items():
        if address in [each.address.partition("%")[0] for each in owned]:  # %: the scope of an IPv6 address
            return str(name)
    return None
