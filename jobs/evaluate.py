"""Judge predictions against a catalog's labels: how wrong is it, and for whom?

python jobs/evaluate.py --catalog catalog --predictions predictions --out report
"""

from __future__ import annotations

from agescale.command_line import run_job
from agescale.config import EvaluateConfig
from agescale.evaluation import evaluate


def main(config: EvaluateConfig) -> None:
    print(f"report: {evaluate(config)}")


if __name__ == "__main__":
    run_job(main, EvaluateConfig)
