"""Predict the age of every image of a catalog, as Parquet; the same command again scores only what is missing.

python jobs/score.py --catalog s3://bucket/catalog --checkpoint s3://bucket/runs/fast/best --out s3://bucket/ages
"""

from __future__ import annotations

from agescale import storage
from agescale.command_line import run_job
from agescale.config import ScoreConfig
from agescale.scoring import score


def main(config: ScoreConfig) -> None:
    result = score(config)
    counts = ", ".join(f"{count:,} {status}" for status, count in result.by_status.items())
    print(f"scored {result.num_scored_now:,} images now, {result.images_per_s:g} images/s; the table has {counts}")
    print(f"predictions: {storage.absolute(config.out)}")


if __name__ == "__main__":
    run_job(main, ScoreConfig)
