"""Write a catalog of many nights, and predictions of it, anew as tables of few files; the nights go on with those.

python jobs/compact.py --catalog s3://bucket/inbox --out s3://bucket/inbox-2027 \\
    --predictions s3://bucket/ages --out-predictions s3://bucket/ages-2027
"""

from __future__ import annotations

from agescale.config import CompactConfig
from agescale.store import paths
from agescale.tables.compaction import compact


def main(config: CompactConfig) -> None:
    config = paths.with_absolute_uris(config)
    done = compact(config)
    (parts_before, parts), (rows_before, rows) = done.num_parts, done.num_rows
    words = f"{parts_before:,} parts -> {parts:,}, {rows_before:,} rows -> {rows:,}"
    print(f"catalog: {config.out} ({words})")
    if config.predictions:
        before, after = done.num_files
        words = f"{before:,} files -> {after:,}, {done.num_predicted:,} rows"
        print(f"predictions: {config.out_predictions} ({words})")
