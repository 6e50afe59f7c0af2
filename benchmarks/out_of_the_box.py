"""How wrong a model is as it comes, on every labelled catalog that is given: the first table of docs/your-photos.md.

python benchmarks/out_of_the_box.py --out runs/out-of-the-box --catalog runs/utk=test runs/utk=val runs/appa=val
python benchmarks/out_of_the_box.py --out runs/out-of-faceres --catalog runs/utk=test runs/appa=val \
    --checkpoint runs/faceres
python benchmarks/out_of_the_box.py --out runs/at-160 --catalog runs/utk=val runs/appa=val --image-size 160

Errors by decade, gender and ethnicity, and the age gate at 18 by bands, are in the reports, one a row of the table. The
same command goes on where it was stopped; the images a second are then those of what was left.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from agescale.config import EvaluateConfig, ScoreConfig
from agescale.evaluation import arrays
from agescale.evaluation.driver import evaluate
from agescale.evaluation.joined import read_rows
from agescale.models import checkpoints, included
from agescale.scoring.driver import ScoreResult, score
from agescale.store import paths
from agescale.tables.catalogs import Catalog
from agescale.tables.predictions import Predictions

PASSING = 0.16
"""Of the minors, at the lowest threshold in half years that lets no more of them pass than that."""
HEADER = (
    "| | photos | MAE, years (95 % interval) | bias | within 5 years | minors judged 18 or older | adults judged "
    f"younger | for {PASSING:.0%} of the minors: threshold, adults judged younger | images/s |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
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
    image_size: int | None = None
    """Side that the model is shown, pixels: what another one than its own costs, and what it spares."""


def main(config: Config) -> None:
    if config.image_size:
        config = replace(config, checkpoint=at_size(config, config.image_size))
    print("\n".join([HEADER, *(row(config, *each.rpartition("=")[::2]) for each in config.catalog)]))


def at_size(config: Config, image_size: int) -> str:
    """A checkpoint of the same weights that looks at so many pixels; its intervals would not hold."""
    source, uri = included.located(config.checkpoint), f"{paths.absolute(config.out)}/checkpoint"
    known = checkpoints.read(source)
    faces = replace(known.spec.faces, size=image_size) if known.spec.faces else None
    checkpoints.copy_weights(source, known, uri)
    checkpoints.update(uri, spec=replace(known.spec, image_size=image_size, faces=faces, calibration=None))
    return uri


def row(config: Config, catalog: str, split: Any) -> str:
    out = f"{paths.absolute(config.out)}/{paths.name_of(catalog)}-{split}"
    chosen = ScoreConfig(
        catalog=catalog, checkpoint=config.checkpoint, split=(split,), tta=config.tta, out=f"{out}/ages"
    )
    scored, said = judged(chosen, out)
    with Path(out, "report", "age_gate.csv").open() as file:
        minors, adults = list(csv.DictReader(file))[-2:]
    threshold, wrong_adults = moved_threshold(catalog, f"{out}/ages", split)
    return (
        f"| {paths.name_of(catalog)}, {split} | {said['num_with_age']:,} of {scored.num_rows:,} | {mae_of(said)} | "
        f"{said['bias']:+.1f} | {said['cs_at_5']:.1%} | {float(minors['wrong']):.1%} of "
        f"{int(minors['num_rows']):,} | {float(adults['wrong']):.1%} of {int(adults['num_rows']):,} | "
        f"{threshold:g} years, {wrong_adults:.1%} | {scored.images_per_s:.0f} |"
    )


def judged(chosen: ScoreConfig, out: str) -> tuple[ScoreResult, dict[str, Any]]:
    """What was scored, and what the report in ``out`` says of the first of the splits."""
    scored = score(chosen)
    evaluate(EvaluateConfig(chosen.catalog, chosen.out, f"{out}/report", split=chosen.split))
    return scored, json.loads(Path(out, "report", "metrics.json").read_bytes())[chosen.split[0]]


def mae_of(said: dict[str, Any]) -> str:
    low, high = said["intervals"]["mae"]
    return f"{said['mae']:.2f} ({low:.2f} to {high:.2f})"


def moved_threshold(catalog: str, predictions: str, split: str) -> tuple[float, float]:
    """Chosen on the very photos that it is judged on: what a threshold can buy, and no promise (jobs/gate.py)."""
    opened = Catalog.open(catalog)
    rows = read_rows(Predictions.open(predictions), arrays.read_catalog(opened, None, opened.excluded()), None)
    known = rows.outcomes.where(rows.is_in(split) & ~np.isnan(rows.outcomes.error_N))
    age_N, is_minor_N = known.predicted_age_N, known.true_age_N < 18
    thresholds = np.arange(18, 60, 0.5)
    passing = [np.mean(age_N[is_minor_N] >= each) for each in thresholds]
    threshold = next(each for each, share in zip(thresholds, passing, strict=True) if share <= PASSING)
    return float(threshold), float(np.mean(age_N[~is_minor_N] < threshold))


if __name__ == "__main__":
    main(tyro.cli(Config))
