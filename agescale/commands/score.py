"""Predict the age of every image of a catalog, as Parquet; the same command again scores only what is missing.

python jobs/score.py --catalog s3://bucket/catalog --checkpoint s3://bucket/runs/fast/best --out s3://bucket/ages
"""

from __future__ import annotations

from agescale.command_line import refuse
from agescale.config import ScoreConfig
from agescale.models import included
from agescale.scoring.driver import score
from agescale.scoring.result import REMEDIES
from agescale.store import paths


def main(config: ScoreConfig) -> None:
    config = paths.with_absolute_uris(config)
    if not config.checkpoint:
        print(included.NOTE, flush=True)
    result = score(config)
    counts = ", ".join(f"{count:,} {status}" for status, count in result.by_status.items())
    print(f"scored {result.num_scored_now:,} images now, {result.images_per_s:g} images/s; the table has {counts}")
    if limited := result.bottleneck.line(REMEDIES):
        print(limited)
    if unreachable := result.by_status.get("unreachable"):
        print(f"{unreachable:,} images were unreachable; the same command with --retry unreachable tries them again")
    print(f"predictions: {config.out}")
    if result.failed_fraction > config.max_failed_fraction:
        refuse(
            f"{result.failed_fraction:.1%} of the images scored now have failed, over --max-failed-fraction "
            f"{config.max_failed_fraction:g}; the table is complete, its column error says why",
            code=3,
        )
