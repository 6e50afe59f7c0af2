"""Every comparison with what one would write or do otherwise, one after the other; ends with a table of their ratios.

    python benchmarks/all.py                    # an hour on two cores that nobody else needs
    python benchmarks/all.py --size tiny        # whether all of them run through; its figures say nothing
    python benchmarks/all.py --only startup     # some of them

Each is a benchmark of its own, which prints its own tables; within it, ways take turns and medians count. Exits with 1
where one of them has not ended well. A ratio that is less than what is wanted of it is marked, and is no failure.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import tyro
from turns import RATIOS, machine

FOLDER = Path(__file__).parent
SIZES = {
    "scoring": {
        "usual": "--num-faces 4000 --repetitions 1 --ray --backends {backends}",
        "tiny": "--num-faces 600 --image-size 64 --repetitions 1 --ray --backends {backends}",
    },
    "scoring-resnet50": {
        "usual": "--network resnet50 --num-faces 500 --repetitions 1 --backends {backends}",
        "tiny": "--network resnet50 --num-faces 300 --image-size 64 --repetitions 1",
    },
    "scoring-cnn": {
        "usual": "--network cnn --num-faces 4000 --repetitions 1 --image-size 128",
        "tiny": "--network cnn --num-faces 600 --image-size 64 --repetitions 1",
    },
    "feeding": {
        "usual": "--num-faces 2000 --repetitions 2",
        "tiny": "--num-faces 600 --picture-size 200 --repetitions 1",
    },
    "training": {
        "usual": "--num-faces 2000 --repetitions 2",
        "tiny": "--num-faces 200 --image-size 64 --repetitions 1",
    },
    "training-photos": {
        "usual": "--num-faces 2000 --picture-size 600 --repetitions 1",
        "tiny": "--num-faces 200 --picture-size 300 --image-size 64 --repetitions 1",
    },
    "frozen": {"usual": "--num-faces 500", "tiny": "--num-faces 200 --image-size 32 --epochs 3"},
    "startup": {"usual": "--repetitions 3", "tiny": "--repetitions 1"},
    "growth": {"usual": "--num-faces 1000 4000 16000", "tiny": "--num-faces 200 400 --image-size 64"},
    "regrouping": {"usual": "--num-rows 1000000", "tiny": "--num-rows 20000 --num-turns 2"},
    "shards": {"usual": "--num-faces 2000 --repetitions 2", "tiny": "--num-faces 200 --repetitions 1"},
}
"""Of each benchmark, what it is told; what comes after a dash is a way of the benchmark before it."""
BACKENDS = "eager openvino" if find_spec("openvino") else "eager"


@dataclass(frozen=True)
class Settings:
    size: Literal["usual", "tiny"] = "usual"
    """tiny: whether all of it runs."""
    only: tuple[str, ...] = ()
    """Names of benchmarks, such as scoring; default: all."""


def main(settings: Settings) -> None:
    if unknown := set(settings.only) - SIZES.keys():
        sys.exit(f"error: --only {' '.join(sorted(unknown))}: there are {', '.join(SIZES)}")
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        ratios = Path(folder, "ratios")
        ratios.touch()
        for name in settings.only or SIZES:
            arguments, started = SIZES[name][settings.size].format(backends=BACKENDS).split(), time.monotonic()
            script = FOLDER / f"{name.partition('-')[0]}.py"
            print(f"\n## {' '.join([f'benchmarks/{script.name}', *arguments])}\n\n{machine()}", flush=True)
            command = [sys.executable, str(script), *arguments]
            ended = subprocess.run(command, env=os.environ | {RATIOS: str(ratios)})
            print(f"\n{(time.monotonic() - started) / 60:.1f} minutes, {machine()}", flush=True)
            failed += [name] if ended.returncode else []
        print_table([json.loads(line) for line in ratios.read_text().splitlines()])
    if failed:
        sys.exit(f"error: {', '.join(failed)}: did not end well")


def print_table(told: list[dict[str, str | float | None]]) -> None:
    print("\n## Ratios\n\n| how many times as fast, or as little | ratio | wanted | |\n| --- | --- | --- | --- |")
    for each in told:
        ratio, wanted = each["ratio"], each["wanted"]
        assert isinstance(ratio, float)
        if isinstance(wanted, float):
            print(f"| {each['what']} | {ratio:.2f} | {wanted:g} | {'' if ratio >= wanted else 'less'} |")
        else:
            print(f"| {each['what']} | {ratio:.2f} | | |")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
