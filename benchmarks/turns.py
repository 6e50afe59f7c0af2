"""What benchmarks that compare share: each way in turn with the others, programs that are timed, the machine's state
beside every run, ratios.

``tell`` keeps a ratio for the table that ``all.py`` ends with.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

RATIOS = "AGESCALE_RATIOS"
"""Names the file in the environment that ratios are kept in, one a line."""

ROOT = Path(__file__).parent.parent
ENVIRONMENT = dict(os.environ)
"""As it was before a benchmark started Ray, which leaves there what is true of its own cluster alone."""

Measured = TypeVar("Measured")


def in_turn(ways: Mapping[str, Callable[[], Measured]], repetitions: int) -> dict[str, list[Measured]]:
    """What each way has measured, by its name; says each as it ends, with the load of the machine."""
    runs: dict[str, list[Measured]] = {name: [] for name in ways}
    for _ in range(repetitions):
        for name, measure in ways.items():
            runs[name].append(measure())
            print(f"{name}: {runs[name][-1]}, load average {os.getloadavg()[0]:.1f}", flush=True)
    return runs


def run(*command: object, env: Mapping[str, str] = ENVIRONMENT) -> tuple[float, str]:
    """Runs a program of Python, such as jobs/score.py: seconds, and what it printed."""
    started = time.monotonic()
    program = [sys.executable, *map(str, command)]
    ended = subprocess.run(program, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=env)
    return time.monotonic() - started, ended.stdout


def machine() -> str:
    return f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}"


def tell(what: str, ratio: float, wanted: float | None = None) -> None:
    """Keeps a ratio, and what it is to be at least: how many times better agescale does than something else."""
    if file := os.environ.get(RATIOS):
        with open(file, "a") as kept:
            kept.write(json.dumps({"what": what, "ratio": ratio, "wanted": wanted}) + "\n")
