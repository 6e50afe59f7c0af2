"""Find the threshold of an age gate that minors pass no more often than may be, with a stated confidence.

python jobs/gate.py --catalog catalog --predictions predictions --age 18 --max-false-positive-rate 0.1 --out gate
"""

from __future__ import annotations

from agescale.config import GateConfig
from agescale.evaluation.gate_driver import find_gate
from agescale.runtime import terminal


def main(config: GateConfig) -> None:
    found = find_gate(config)
    for note in found.notes:
        print(terminal.printable(note))
    print(found.answer)
    print(f"gate: {found.page}")
