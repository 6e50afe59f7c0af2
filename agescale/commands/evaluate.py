"""Judge predictions against a catalog's labels: how wrong is it, and for whom?

python jobs/evaluate.py --catalog catalog --predictions predictions --out report
"""

from __future__ import annotations

from agescale.config import EvaluateConfig
from agescale.evaluation.driver import evaluate


def main(config: EvaluateConfig) -> None:
    done = evaluate(config)
    for note in done.notes:
        print(note)
    print(f"report: {done.page}")
