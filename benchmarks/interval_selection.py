"""How much less intervals hold that were calibrated on the very faces by which the epoch was chosen: the table of
docs/results.md#calibrated-and-chosen.

Trains a small model, keeps every epoch, and looks at the validation and the test split with each of them; none was
trained on any of these faces. Again and again some of them are drawn as the validation faces. By these an epoch, and
how an age is told, are chosen, and the intervals are calibrated on the same ones, on as many others, or, the choice
being made with one half, on the other half; the faces that are left tell how often they hold.

    python benchmarks/interval_selection.py --catalog runs/utk --out runs/selection
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import tyro

from agescale.ages import cdf
from agescale.ages.calibration import Calibration, bands_of, is_inside
from agescale.config import TrainConfig
from agescale.evaluation.interval_calibration import labelled_faces
from agescale.faces.images import Face
from agescale.models import checkpoints
from agescale.models.framing import framing_of
from agescale.models.predictor import Predictor
from agescale.store import objects, paths
from agescale.tables import packed
from agescale.tables.catalogs import Catalog
from agescale.training import runs, validation
from agescale.training.driver import train


@dataclass(frozen=True)
class Config:
    """Train once, choose and calibrate many times."""

    catalog: str
    out: str
    epochs: int = 16
    image_size: int = 48
    num_faces: tuple[int, ...] = (200, 500, 1000, 2000)
    """Validation faces that are drawn."""
    redraws: int = 300
    coverage: float = 0.9


@dataclass(frozen=True)
class Said:
    """What the model of one epoch, told by one rule, says of N faces."""

    age_N: np.ndarray
    low_N: np.ndarray
    high_N: np.ndarray


def train_epochs(config: Config) -> list[str]:
    """Trains, and returns the checkpoint of each epoch."""
    kept = [paths.join(config.out, f"epoch-{number:02d}") for number in range(1, config.epochs + 1)]
    save = runs.save

    def save_and_keep(*arguments: Any) -> Any:
        progress = save(*arguments)
        last = paths.join(config.out, "run/last")
        checkpoints.copy_weights(last, checkpoints.read(last), kept[progress.epochs_done - 1])
        return progress

    with patch.object(runs, "save", save_and_keep):
        train(
            TrainConfig(
                catalog=(config.catalog,),
                out=paths.join(config.out, "run"),
                phases=f"all:{config.epochs}@1e-3",
                patience=config.epochs,
                widths=(16, 32, 64),
                num_features=128,
                image_size=config.image_size,
                num_workers=0,
            )
        )
    return kept


def read(config: Config, kept: Sequence[str]) -> tuple[np.ndarray, list[Said]]:
    """Labels of the faces (N,), and what each epoch says of them by each rule."""
    faces = labelled_faces(Catalog.open(config.catalog), ["val", "test"], config.coverage)
    index = faces.persons(faces.is_labelled_N)
    framing = framing_of(checkpoints.read(kept[0]).spec)
    with objects.read_pool() as pool:
        loaded = packed.load_faces(config.catalog, faces.listed.places(index), framing, use_packed=True, pool=pool)
        found = [each.pixels if isinstance(each, Face) else None for each in loaded]
    index = index[[each is not None for each in found]]
    images_NHWC, said = np.stack([each for each in found if each is not None]), []
    for checkpoint in kept:
        predictor = Predictor(checkpoint)
        batches = np.array_split(images_NHWC, len(index) // 256 + 1)
        cdf_NA = np.concatenate([predictor(batch)["age_cdf"] for batch in batches])
        ends = cdf.central_interval(cdf_NA, config.coverage)
        said += [Said(cdf.point_estimate(cdf_NA, rule), *ends) for rule in validation.RULES]
    return faces.listed.true_age_N[index], said


def main(config: Config) -> None:
    config = replace(config, catalog=paths.absolute(config.catalog), out=paths.absolute(config.out))
    true_N, said = read(config, train_epochs(config))
    error_KN = np.stack([np.abs(each.age_N - true_N) for each in said])
    print(f"{len(true_N):,} faces, {len(said)} models; MAE of each {error_KN.mean(axis=1).round(2).tolist()}")
    rng = np.random.default_rng(0)
    print("| validation faces | the same faces | others | half and half | the last minus the others: MAE |")
    print("| --- | --- | --- | --- | --- |")
    for num_faces in config.num_faces:
        shares, maes = [], []
        for _ in range(config.redraws):
            order = rng.permutation(len(true_N))
            drawn, others, left = order[:num_faces], order[num_faces : 2 * num_faces], order[2 * num_faces :]
            first, second = drawn[: num_faces // 2], drawn[num_faces // 2 :]
            best, of_half = (int(error_KN[:, which].mean(axis=1).argmin()) for which in (drawn, first))
            held = partial(share_held, true_N=true_N, left=left, coverage=config.coverage)
            shares.append([held(said[best], drawn), held(said[best], others), held(said[of_half], second)])
            maes.append(error_KN[of_half][left].mean() - error_KN[best][left].mean())
        cells = [
            f"{np.mean(each):.2%} ± {np.std(each) / np.sqrt(len(each)):.2%} (9 in 10: {low:.1%} to {high:.1%})"
            for each in np.array(shares).T
            for low, high in [np.percentile(each, (5, 95))]
        ]
        print(f"| {num_faces:,} | {' | '.join(cells)} | {np.mean(maes):+.3f} |")


def share_held(said: Said, index: np.ndarray, true_N: np.ndarray, left: np.ndarray, coverage: float) -> float:
    """Of the faces that are left, whose age lies in their interval, calibrated on those of the index."""
    bands = bands_of(said.age_N[index], said.low_N[index], said.high_N[index], true_N[index], coverage)
    known = Calibration(coverage, bands, len(index), "", "", "", tta=False)
    ends = known.intervals(said.age_N[left], said.low_N[left], said.high_N[left])
    return float(is_inside(*ends, true_N[left]).mean())


if __name__ == "__main__":
    main(tyro.cli(Config))
