"""Predict the ages of some photos, without a catalog and without Ray: a table, and pictures with the answers below.

python jobs/predict.py photo.jpg s3://bucket/faces --checkpoint s3://bucket/runs/fast/best --draw answers

Exit code 0 where at least one photo has a prediction, else 2.
"""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.table import Table

from agescale import storage
from agescale.command_line import run_job
from agescale.config import PredictConfig
from agescale.photos import INTERVAL_SHARE, PhotoResult, predict

TITLES = {
    "age": "age",
    "interval": f"{100 * INTERVAL_SHARE:.0f} % between",
    "group": "age group",
    "group_probability": "probability",
    "gender": "gender",
    "status": "status",
}


def main(config: PredictConfig) -> None:
    result = predict(config)
    print_table(result)
    statuses = Counter(result.rows["status"].to_pylist())
    if not statuses["ok"]:
        counts = ", ".join(f"{count:,} {status}" for status, count in statuses.items())
        raise ValueError(f"no photo could be predicted ({counts}); the table says why")
    if config.draw:
        print(f"pictures: {storage.absolute(config.draw)}")


def print_table(result: PhotoResult) -> None:
    """Photos by their names where these differ, else by their URIs; only the columns that say something."""
    uris = result.rows["uri"].to_pylist()
    names = [storage.name_of(uri) for uri in uris]
    said = [vars(words) for words in result.words]
    columns = [column for column in TITLES if any(words[column] for words in said)]
    table = Table("photo", *(TITLES[column] for column in columns))
    for name, words in zip(names if len(set(names)) == len(uris) else uris, said, strict=True):
        table.add_row(name, *(words[column] for column in columns))
    Console(markup=False, emoji=False, highlight=False).print(table)  # a file may well be called [red].jpg


if __name__ == "__main__":
    run_job(main, PredictConfig)
