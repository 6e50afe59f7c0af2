"""Write the current rows of predictions as a table for other people: CSV, one Parquet file, or a folder of them.

python jobs/table.py --catalog s3://bucket/inbox --predictions s3://bucket/ages --probability-under 18 --out ages.csv
"""

from __future__ import annotations

from agescale.config import TableConfig
from agescale.store import paths
from agescale.tables.exports import export


def main(config: TableConfig) -> None:
    config = paths.with_absolute_uris(config)
    exported = export(config)
    missing = f"; {exported.num_not_scored:,} images are not scored yet" if exported.num_not_scored else ""
    print(f"table: {config.out} ({exported.num_rows:,} rows{missing})")
