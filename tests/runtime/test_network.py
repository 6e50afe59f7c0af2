"""Training processes talk through the interface that has their node's address."""

from __future__ import annotations

import os
import socket

import psutil
import pytest
import ray.util

from agescale.runtime.network import choose_interface, interface_of


def test_the_interface_is_the_one_that_has_the_address() -> None:
    for name, owned in psutil.net_if_addrs().items():
        for each in owned:
            if each.family == socket.AF_INET:
                assert interface_of(each.address) == name
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.7") is None, "an address of nobody's"


def test_an_ipv6_address_is_found_without_its_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    address = type("Address", (), {"address": "fe80::1%eth7"})
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"lo": [], "eth7": [address]})
    assert interface_of("fe80::1") == "eth7"


@pytest.mark.parametrize(
    ("address", "before", "after"),
    [
        ("127.0.0.1", {}, {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "=lo"}),
        ("127.0.0.1", {"NCCL_SOCKET_IFNAME": "ib0"}, {"NCCL_SOCKET_IFNAME": "ib0"}),
        ("127.0.0.1", {"GLOO_SOCKET_IFNAME": "eth7"}, {"GLOO_SOCKET_IFNAME": "eth7"}),
        ("203.0.113.7", {}, {}),
    ],
)
def test_what_is_named_stays_and_else_both_are_told(
    address: str, before: dict[str, str], after: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: address)
    monkeypatch.setattr(os, "environ", dict(before))
    choose_interface()
    assert os.environ == after
