"""Makes the checkpoint that comes with agescale, and its card, of a run and of reports on what it predicts.

python benchmarks/included_model.py RUN/best "UTKFace, test=REPORT:test" "APPA-REAL, validation=REPORT:val"

Its weights in half precision, without what only continuing needs, and without the places of the data on the machine
that trained it. docs/your-photos.md says by which commands run and reports came about.
"""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from agescale.models import checkpoints, included
from agescale.models.checkpoints import Provenance

PLACES = ("catalog", "out", "weights", "gender_from")
TEXT = Path(__file__).with_suffix(".md")
PARTS = {"decade": "age", "gender": "gender", "ethnicity": "ethnicity"}


def main() -> None:
    source, *reports = sys.argv[1:]
    best = checkpoints.read(source)
    tensors = checkpoints.load_tensors(source, best.weights_file, best.weights_sha256)
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    settings = {name: bare(value) if name in PLACES else value for name, value in best.provenance["settings"].items()}
    told = best.provenance["initial_weights"]
    provenance: Provenance = {
        **best.provenance,
        "settings": settings,
        "initial_weights": {**told, "source": bare(told["source"])},
    }
    progress = replace(best.progress, epochs_done=best.epoch, history=best.progress.history[: best.epoch])
    made = checkpoints.save(str(included.FOLDER), best.spec, halves, progress, provenance)
    size = (included.FOLDER / made.weights_file).stat().st_size
    tables = "\n\n".join(tables_of(*report.split("=")) for report in reports)
    calibrated = best.spec.calibration
    assert calibrated is not None, f"{source}: its intervals are not calibrated"
    text = TEXT.read_text().format(
        digest=made.digest,
        size=f"{size:,}",
        tables=tables,
        epochs=best.epoch,
        coverage=calibrated.coverage,
        num_faces=calibrated.num_faces,
    )
    (included.FOLDER / included.CARD_NAME).write_text(text)
    print(f"{included.FOLDER}: model {made.digest}, {size:,} bytes of weights")


def bare(value: Any) -> Any:
    """Names of files and folders, without where they lie."""
    return PurePosixPath(value).name if isinstance(value, str) else [bare(each) for each in value]


def tables_of(name: str, report: str) -> str:
    """What a report found, and for whom."""
    folder, _, split = report.rpartition(":")
    numbers = json.loads(Path(folder, "metrics.json").read_text())[split]
    low, high = numbers["intervals"]["mae"]
    head = (
        f"### {name}\n\n{numbers['num_with_age']:,} photos: MAE {numbers['mae']:.2f} years (95 % interval {low:.2f} to "
        f"{high:.2f}), bias {numbers['bias']:+.1f}, within 5 years {numbers['cs_at_5']:.1%}; the median age said of "
        f"everybody: MAE {numbers['baselines']['median_age']['mae']:.2f}."
    )
    rows = ["| who | photos | MAE (95 % interval) | bias |\n| --- | --- | --- | --- |"]
    for part, title in PARTS.items():
        rows += [
            f"| {title} {row['name']} | {int(row['num_with_age']):,} | {float(row['mae']):.1f} "
            f"({float(row['mae_low']):.1f} to {float(row['mae_high']):.1f}) | {float(row['bias']):+.1f} |"
            for row in rows_of(folder, f"by_{part}")
            if row["split"] == split and row["mae_low"]
        ]
    gate = ["| true age | photos | judged on the wrong side of 18 (95 % interval) |\n| --- | --- | --- |"]
    gate += [
        f"| {row['name']} | {int(row['num_rows']):,} | {float(row['wrong']):.1%} "
        f"({float(row['wrong_low']):.1%} to {float(row['wrong_high']):.1%}) |"
        for row in rows_of(folder, "age_gate")
        if row["split"] == split and row["wrong"]
    ]
    return "\n\n".join([head, "\n".join(rows), "\n".join(gate)])


def rows_of(folder: str, table: str) -> list[dict[str, str]]:
    file = Path(folder, f"{table}.csv")
    return list(csv.DictReader(file.open())) if file.exists() else []


if __name__ == "__main__":
    main()
