"""Predict the ages of some photos, without a catalog and without Ray: a table, and pictures with the answers below.

python jobs/predict.py photo.jpg s3://bucket/faces --checkpoint s3://bucket/runs/fast/best --out ages.csv --draw answers

Exit code 0 where at least one photo has a prediction, else 2.
"""

from __future__ import annotations

import io
import sys
from collections import Counter
from typing import Literal, TextIO

from agescale.config import PredictConfig
from agescale.models import included
from agescale.reports import formats
from agescale.runtime import terminal
from agescale.scoring.photos import PhotoResult, predict
from agescale.store import objects, paths

Form = formats.Format | Literal["table"]

TITLES = {
    "face": "face",
    "age": "age",
    "interval": "{:g} % between",
    "group": "age group",
    "group_probability": "probability",
    "gender": "gender",
    "status": "status",
}


def main(config: PredictConfig) -> None:
    config = paths.with_absolute_uris(config)
    form: Form = config.format or (formats.format_of(config.out) if config.out else "table")
    if not config.checkpoint:
        print(included.NOTE, file=sys.stderr)  # standard output is for data
    result = predict(config)
    if result.used_otherwise:
        print(result.used_otherwise, file=sys.stderr)
    if config.out:
        objects.write_bytes(config.out, to_bytes(result, form))
        print(f"predictions: {config.out}")
    elif form == "table":
        print_table(result)
    else:
        is_ascii = not sys.stdout.encoding.lower().startswith("utf")
        print(formats.to_csv(result.told) if form == "csv" else formats.to_json(result.told, is_ascii), end="")
    if config.draw:  # beside data, of which standard output is to hold nothing else
        is_data = form != "table" and not config.out
        print(f"pictures: {config.draw}", file=sys.stderr if is_data else sys.stdout)
    statuses = Counter(result.rows["status"].to_pylist())
    if not statuses["ok"]:
        counts = ", ".join(f"{count:,} {status}" for status, count in statuses.items())
        raise ValueError(f"no photo could be predicted ({counts}); the table says why")


def to_bytes(result: PhotoResult, form: Form) -> bytes:
    if form != "table":
        return formats.to_bytes(result.told, form)
    text = io.StringIO()
    print_table(result, text)
    return text.getvalue().encode()


def print_table(result: PhotoResult, file: TextIO | None = None) -> None:
    """Only the columns that say something."""
    said = [vars(words) for words in result.words]
    columns = [column for column in TITLES if any(words[column] for words in said)]
    rows = [[name, *(words[column] for column in columns)] for name, words in zip(result.names(), said, strict=True)]
    share = round(100 * result.interval_share, 3)
    terminal.print_table(["photo", *(TITLES[column].format(share) for column in columns)], rows, file)
    print(result.note, file=file)
