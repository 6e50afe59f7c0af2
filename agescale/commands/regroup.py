"""Tell predictions in other age groups, or behind an age gate: a table of the same ages; nothing is scored again.

python jobs/regroup.py --predictions s3://bucket/ages --age-groups life-stages --out s3://bucket/ages-by-life-stage
python jobs/regroup.py --predictions s3://bucket/ages --gate s3://bucket/gate/gate.json --out s3://bucket/ages-gated
"""

from __future__ import annotations

from agescale.config import RegroupConfig
from agescale.store import paths
from agescale.tables.regrouping import regroup


def main(config: RegroupConfig) -> None:
    config = paths.with_absolute_uris(config)
    done = regroup(config)
    counts = ", ".join(f"{count:,} {status}" for status, count in done.by_status.items())
    print(f"regrouped {done.num_files_now:,} files now; the table has {done.num_files:,}: {counts}")
    if done.papers_where:
        print(f"needs_papers: {done.papers_where}, or no prediction")
    if not done.is_complete:
        print(f"{config.predictions} is not complete; run the same command again when jobs/score.py has ended")
    print(f"predictions: {config.out}")
