"""What benchmarks that compare share: each way in turn with the others, the machine's state beside every run, ratios.

``tell`` keeps a ratio for the table that ``all.py`` ends with.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import TypeVar

RATIOS = "AGESCALE_RATIOS"
"""Names the file in the environment that ratios are kept in, one a line."""

Measured = TypeVar("Measured")


def in_turn(ways: Mapping[str, Callable[[], Measured]], repetitions: int) -> dict[str, list[Measured]]:
    """What each way has measured, by its name; says each as it ends, with the load of the machine."""
    runs: dict[str, list[Measured]] = {name: [] for name in ways}
    for _ in range(repetitions):
        for name, measure in ways.items():
            runs[name].append(measure())
            print(f"{name}: {runs[name][-1]}, load average {os.getloadavg()[0]:.1f}", flush=True)
    return runs


def machine() -> str:
    return f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}"


def tell(what: str, ratio: float, wanted: float | None = None) -> None:
    """Keeps a ratio, and what it is to be at least: how many times better agescale does than something else."""
    if file := os.environ.get(RATIOS):
        with open(file, "a") as kept:
            kept.write(json.dumps({"what": what, "ratio": ratio, "wanted": wanted}) + "\n")
