"""How wrong a model is as it comes, on every labelled catalog that is given: the first table of docs/your-photos.md.

python benchmarks/out_of_the_box.py --out runs/out-of-the-box --catalog runs/utk=test runs/utk=val runs/appa=val
python benchmarks/out_of_the_box.py --out runs/out-of-faceres --catalog runs/utk=test runs/appa=val \
    --checkpoint runs/faceres

Errors by decade, gender and ethnicity, and the age gate at 18 by bands, are in the reports, one a row of the table. The
same command goes on where it was stopped; the images a second are then those of what was left.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from agescale.config import EvaluateConfig, ScoreConfig
from agescale.evaluation.driver import evaluate
from agescale.scoring.driver import score
from agescale.store import paths

HEADER = (
    "| | photos | MAE, years (95 % interval) | bias | within 5 years | minors judged 18 or older | adults judged "
    "younger | images/s |\n| --- | --- | --- | --- | --- | --- | --- | --- |"
)


@dataclass(frozen=True)
class Config:
    """Score and judge labelled catalogs."""

    catalog: tuple[str, ...]
    """CATALOG=SPLIT, such as runs/utk=test."""
    out: str
    """Folder of predictions and reports."""
    checkpoint: str = ""
    """Which model. Default: the one that comes with agescale."""
    tta: bool = False
    """Average over each image and its mirror image."""


def main(config: Config) -> None:
    print("\n".join([HEADER, *(row(config, *each.rpartition("=")[::2]) for each in config.catalog)]))


def row(config: Config, catalog: str, split: Any) -> str:
    out = f"{paths.absolute(config.out)}/{paths.name_of(catalog)}-{split}"
    chosen = ScoreConfig(
        catalog=catalog, checkpoint=config.checkpoint, split=(split,), tta=config.tta, out=f"{out}/ages"
    )
    scored = score(chosen)
    evaluate(EvaluateConfig(catalog=catalog, predictions=f"{out}/ages", split=(split,), out=f"{out}/report"))
    said = json.loads(Path(out, "report", "metrics.json").read_text())[split]
    with Path(out, "report", "age_gate.csv").open() as file:
        minors, adults = list(csv.DictReader(file))[-2:]
    low, high = said["intervals"]["mae"]
    return (
        f"| {paths.name_of(catalog)}, {split} | {said['num_with_age']:,} of {scored.num_rows:,} | {said['mae']:.2f} "
        f"({low:.2f} to {high:.2f}) | {said['bias']:+.1f} | {said['cs_at_5']:.1%} | {float(minors['wrong']):.1%} of "
        f"{int(minors['num_rows']):,} | {float(adults['wrong']):.1%} of {int(adults['num_rows']):,} | "
        f"{scored.images_per_s:.0f} |"
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
