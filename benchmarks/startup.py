"""How long jobs take to begin, and where that goes: help of each, a score with nothing to do, the first few ages.

    python benchmarks/startup.py --repetitions 3

Whole processes, medians: seconds on the clock, and of CPU, which a busy machine changes less. Then, of two of these,
the modules whose import costs most, with what they import in turn.
"""

from __future__ import annotations

import re
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

import tyro
from turns import ROOT, in_turn, machine, run, tell

from agescale.models import checkpoints
from agescale.models.age_model import AgeModel
from agescale.models.spec import ModelSpec
from agescale.synthetic import dataset

IMPORT = re.compile(r"import time: +\d+ \| +(\d+) \|( +)(\S+)")
NUM_MODULES = 8
NOTHING, SMALL = "score, nothing to do", "score, a small job"
HELP_S, NOTHING_CPU_S = 1.0, 4.0
"""What these are to take at most."""


@dataclass(frozen=True)
class Settings:
    repetitions: int = 3
    """Runs of each, in turn."""
    num_faces: int = 20
    """Drawn faces of the small job."""


class Took(NamedTuple):
    seconds: float
    cpu_s: float

    def __str__(self) -> str:
        return f"{self.seconds:.2f} s, {self.cpu_s:.2f} s of CPU"


def main(settings: Settings) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset.write_dataset(folder / "faces", "unlabelled", settings.num_faces, size=128, num_broken=0)
        spec = ModelSpec("cnn", "distribution", "25-years", 128)
        checkpoints.save(str(folder / "checkpoint"), spec, AgeModel(spec).state_dict(), checkpoints.RunProgress(), {})
        measure("jobs/catalog.py", "--source", folder / "faces", "--layout", "unlabelled", "--out", folder / "catalog")
        score = ("jobs/score.py", "--catalog", folder / "catalog", "--checkpoint", folder / "checkpoint", "--out")
        commands: dict[str, tuple[object, ...]] = {
            f"{job.stem} --help": (f"jobs/{job.name}", "--help") for job in sorted(ROOT.glob("jobs/*.py"))
        }
        commands[NOTHING] = (*score, folder / "ages")
        measure(*commands[NOTHING])
        ways: dict[str, Callable[[], Took]] = {what: partial(measure, *each) for what, each in commands.items()}
        numbers = count()
        ways[SMALL] = lambda: measure(*score, folder / f"ages-{next(numbers)}")
        runs = in_turn(ways, settings.repetitions)
        print(f"\n{machine()}, medians of {settings.repetitions}\n")
        print("| job | seconds | CPU seconds |\n| --- | --- | --- |")
        medians = {what: Took(*map(statistics.median, zip(*took, strict=True))) for what, took in runs.items()}
        for what, took in medians.items():
            print(f"| {what} | {took.seconds:.2f} | {took.cpu_s:.2f} |", flush=True)
        helps = {what: took.seconds for what, took in medians.items() if what.endswith("--help")}
        slowest = max(helps, key=helps.__getitem__)
        tell(f"{slowest}, against a second", HELP_S / helps[slowest], 1.0)
        tell(f"{NOTHING}, against {NOTHING_CPU_S:g} s of CPU", NOTHING_CPU_S / medians[NOTHING].cpu_s, 1.0)
        for what in ("score --help", NOTHING):
            print(f"\n{what}: {', '.join(dearest_imports(commands[what]))}", flush=True)


def measure(*command: object) -> Took:
    """Seconds, and CPU seconds of the process and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds, _ = run(*command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Took(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def dearest_imports(command: tuple[object, ...]) -> list[str]:
    """Packages of others by the seconds that their import takes, what they import included, the dearest first."""
    whole = [sys.executable, "-X", "importtime", *map(str, command)]
    said = subprocess.run(whole, check=True, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    seconds: dict[str, float] = {}
    for microseconds, _, module in IMPORT.findall(said.stderr):
        if "." not in module and module != "agescale":
            seconds[module] = int(microseconds) / 1e6
    dearest = sorted(seconds, key=lambda module: -seconds[module])[:NUM_MODULES]
    return [f"{module} {seconds[module]:.2f} s" for module in dearest]


if __name__ == "__main__":
    main(tyro.cli(Settings))
