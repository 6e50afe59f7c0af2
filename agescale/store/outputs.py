"""Folders that jobs write into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def check_unchanged(
    out: str, what: str, before: Mapping[str, Any], now: Mapping[str, Any], way: str = "give another --out"
) -> None:
    """Raises ValueError, naming what differs and the way on, where ``what`` stands in the folder ``out`` is of other
    settings."""
    different = [f"{name} was {before.get(name)!r}, is {now[name]!r}" for name in now if before.get(name) != now[name]]
    if different:
        raise ValueError(f"{out}: {what} stands there ({'; '.join(different)}); {way}")
