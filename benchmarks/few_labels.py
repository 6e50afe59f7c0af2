"""What labelled photos are worth: a recipe trained on a few of a catalog's, and on more; the tables and the picture of
docs/your-photos.md.

python benchmarks/few_labels.py --catalog runs/appa --split val --out runs/few/appa --weights runs/faceres
python benchmarks/few_labels.py --catalog runs/appa --split val --out runs/few/appa-imagenet \
    --recipe fast --weights mobilenet_v2.pth --faces largest
python benchmarks/few_labels_picture.py --out docs/learning-curve.png \
    --curves APPA-REAL=runs/few/appa "APPA-REAL, from ImageNet=runs/few/appa-imagenet"

Photos are added to those of the row before, so each row is one draw. The epoch is chosen on as many validation photos,
at most, as are learned from. The same command goes on where it was stopped. Beside the runs lies ``curve.json``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import tyro
from out_of_the_box import judged, mae_of

from agescale.config import ScoreConfig
from agescale.runtime.cluster import start_ray
from agescale.store import paths
from agescale.training import initial_weights
from agescale.training.driver import train
from agescale.training.recipes import RECIPES


@dataclass(frozen=True)
class Config:
    """Train on N labelled photos, for several N, and judge each on the same ones."""

    catalog: str
    """Catalog with labelled photos in train, val and the split that is judged on."""
    out: str
    """Folder of all runs."""
    weights: str = "included"
    """Initial weights; a checkpoint is judged as it comes, too."""
    recipe: str = "face"
    """How to train."""
    faces: Literal["none", "largest"] | None = None
    """What of a photo is shown. Default: the recipe's."""
    num_labels: tuple[int, ...] = (100, 300, 1000, 4000)
    """Photos to learn from."""
    split: Literal["val", "test"] = "test"
    """Where to judge."""


def main(config: Config) -> None:
    catalog, out = paths.absolute(config.catalog), paths.absolute(config.out)
    base = replace(RECIPES[config.recipe].config, catalog=(catalog,), weights=config.weights)
    if config.faces:
        base = replace(base, faces=config.faces)
    start_ray(has_dashboard=True)  # scoring would start one without, whom Ray Train asks in vain each second
    curve = []
    if initial_weights.is_checkpoint(config.weights):
        checkpoint = initial_weights.stored_at(config.weights)
        curve.append(judge(catalog, checkpoint, f"{out}/0", config.split) | {"labels": 0, "minutes": 0.0})
    for number in config.num_labels:
        progress = train(replace(base, max_images=number, out=f"{out}/{number}/run"))
        said = judge(catalog, f"{out}/{number}/run/best", f"{out}/{number}", config.split)
        minutes = sum(epoch["seconds"] for epoch in progress.history) / 60
        curve.append(said | {"labels": number, "minutes": minutes})
    Path(out, "curve.json").write_text(json.dumps(curve, indent=1))
    print("| labelled photos | MAE, years (95 % interval) | bias | minutes of epochs |\n| --- | --- | --- | --- |")
    for at in curve:
        print(f"| {at['labels']:,} | {mae_of(at)} | {at['bias']:+.1f} | {at['minutes']:.1f} |")


def judge(catalog: str, checkpoint: str, out: str, split: Literal["val", "test"]) -> dict[str, Any]:
    _, said = judged(ScoreConfig(catalog=catalog, checkpoint=checkpoint, out=f"{out}/ages", split=(split,)), out)
    return {"mae": said["mae"], "bias": said["bias"], "intervals": {"mae": said["intervals"]["mae"]}}


if __name__ == "__main__":
    main(tyro.cli(Config))
