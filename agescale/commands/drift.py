"""Tell whether predictions are of other photos than those before: by ages, their spread, sizes, statuses and heads.

python jobs/drift.py --predictions ages --against ages-of-last-month --out drift
python jobs/drift.py --predictions ages --against ages --since 2026-11-30 --out drift
python jobs/drift.py --predictions ages --against runs/train/best --out drift     # the sizes of photos alone

Exit code 3 where an aspect has drifted by more than --max-psi; the report is written all the same.
"""

from __future__ import annotations

from agescale.command_line import refuse
from agescale.config import DriftConfig
from agescale.evaluation.drift_driver import find_drift
from agescale.runtime import terminal


def main(config: DriftConfig) -> None:
    found = find_drift(config)
    for note in found.notes:
        print(terminal.printable(note))
    if found.page:
        print(f"drift: {found.page}")
    if found.drifted:
        refuse(found.answer, code=3)
    print(terminal.printable(found.answer))
