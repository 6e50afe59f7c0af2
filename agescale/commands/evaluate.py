"""Judge predictions against a catalog's labels: how wrong is it, and for whom?

python jobs/evaluate.py --catalog catalog --predictions predictions --out report
python jobs/evaluate.py --catalog catalog --predictions predictions --out report --max-gap mae=1.0:gender,ethnicity

Exit code 3 where a gap between parts of the faces is larger than it may be; the report is written all the same.
"""

from __future__ import annotations

from agescale.command_line import refuse
from agescale.config import EvaluateConfig
from agescale.evaluation import report
from agescale.evaluation.driver import evaluate
from agescale.operations import tracking
from agescale.store import paths


def main(config: EvaluateConfig) -> None:
    tracker = tracking.tracker_of(config.mlflow, config.predictions, config.checkpoint) if config.mlflow else None
    done = evaluate(config)
    if tracker:
        tracking.tell_report(tracker, paths.join(paths.absolute(config.out), report.METRICS_NAME), done.page)
    for note in done.notes:
        print(note)
    print(f"report: {done.page}")
    if done.over:
        refuse("; ".join(done.over), code=3)
