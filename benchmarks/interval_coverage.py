"""How often calibrated intervals hold the age, and how wide they are: the tables of docs/results.md#intervals.

Without scoring anything: predictions are recalibrated as they stand. Calibrated on one split and judged on another one,

    python benchmarks/interval_coverage.py --calibrate runs/utk=runs/utk-val=val --judge runs/utk=runs/utk-test=test

or, drawn again and again, on some faces of a split, and judged on the others:

    python benchmarks/interval_coverage.py --calibrate runs/appa=runs/appa-val=val --num-faces 300
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tyro

from agescale.ages.calibration import Calibration, bands_of
from agescale.ages.parts import decades
from agescale.evaluation import arrays, metrics
from agescale.evaluation.interval_calibration import labelled_faces
from agescale.evaluation.records import CoveredPart
from agescale.tables.catalogs import Catalog
from agescale.tables.predictions import Predictions

HEADER = "| | faces | raw: held | mean width | calibrated: held | mean width |\n| --- | --- | --- | --- | --- | --- |"


@dataclass(frozen=True)
class Config:
    """Calibrate on some faces, judge on others."""

    calibrate: str
    """CATALOG=PREDICTIONS=SPLIT."""
    judge: str = ""
    """The same, for the faces that are judged. Default: those that --num-faces leaves."""
    num_faces: int | None = None
    """Calibrate on so many faces, drawn at random. Default: all."""
    redraws: int = 200
    """Draw so often, where any are drawn, and tell the mean."""
    coverage: float = 0.9
    """Share of faces whose age is to lie in their interval."""
    by: tuple[str, ...] = ("predicted age", "gender", "ethnicity")
    """Whom to tell of besides all."""


@dataclass(frozen=True)
class Faces:
    """N faces: predicted ages, the ends of the central share of their distributions, labels, and parts."""

    age_N: np.ndarray
    low_N: np.ndarray
    high_N: np.ndarray
    true_N: np.ndarray
    parts: Mapping[str, tuple[np.ndarray, list[str]]]

    def at(self, index: np.ndarray) -> Faces:
        parts = {key: (code_N[index], names) for key, (code_N, names) in self.parts.items()}
        return Faces(self.age_N[index], self.low_N[index], self.high_N[index], self.true_N[index], parts)

    def calibrated(self, coverage: float) -> Calibration:
        bands = bands_of(self.age_N, self.low_N, self.high_N, self.true_N, coverage)
        return Calibration(coverage, bands, len(self.age_N), "", "", "", False)

    def covered(self, known: Calibration | None) -> dict[tuple[str, str], CoveredPart]:
        """By kind and name of the part."""
        raw = self.low_N, self.high_N
        ends = known.intervals(self.age_N, *raw) if known else raw
        return {
            (key, part.name): part
            for key, codes in self.parts.items()
            for part in metrics.covered(*ends, self.true_N, *codes)
        }


def read(text: str, config: Config) -> Faces:
    catalog, predictions, split = text.split("=")
    faces = labelled_faces(Catalog.open(catalog), [split], config.coverage)
    listed = faces.listed
    said = arrays.read_predictions(Predictions.open(predictions), listed, [], share=config.coverage)
    index = faces.persons(faces.is_labelled_N & said.is_ok_N)
    age_N = said.age_N[index].astype(np.float64)
    gender_N, genders = listed.genders.sorted(listed.gender_N)
    ethnicity_N, ethnicities = listed.ethnicities.sorted(listed.ethnicity_N)
    parts = {
        "all": (np.zeros(len(index), int), ["all"]),
        "predicted age": decades(age_N),
        "true age": decades(listed.true_age_N[index]),
        "gender": (gender_N[index], genders),
        "ethnicity": (ethnicity_N[index], ethnicities),
    }
    shown = {key: part for key, part in parts.items() if key in ("all", *config.by)}
    return Faces(age_N, said.age_lower_N[index], said.age_upper_N[index], listed.true_age_N[index], shown)


def main(config: Config) -> None:
    known = read(config.calibrate, config)
    judged = read(config.judge, config) if config.judge else None
    rng = np.random.default_rng(0)
    found: dict[tuple[str, str], list[tuple[CoveredPart, CoveredPart]]] = {}
    for _ in range(config.redraws if config.num_faces else 1):
        order = rng.permutation(len(known.age_N))
        drawn = known.at(order[: config.num_faces])
        others = judged or known.at(order[config.num_faces :])
        calibration = drawn.calibrated(config.coverage)
        raw = others.covered(None)
        for which, part in others.covered(calibration).items():
            found.setdefault(which, []).append((raw[which], part))
    if not config.num_faces:
        print("; ".join(f"{band.name}: {band.offset:+.1f} ({band.num_faces:,})" for band in calibration.bands) + "\n")
    print(HEADER)
    for (key, name), pairs in found.items():
        print(row(name if key == "all" else f"{key} {name}", pairs))
    shares = [part.coverage for _, part in found["all", "all"]]
    if len(shares) > 1:
        low, high = np.percentile(shares, (5, 95))
        print(f"\nof {len(shares)} draws of {config.num_faces} faces 9 in 10 held {low:.1%} to {high:.1%}")


def row(name: str, pairs: list[tuple[CoveredPart, CoveredPart]]) -> str:
    """Of one draw with Wilson's interval, of several the means."""
    cells = [f"{np.mean([part.num_rows for part, _ in pairs]):,.0f}"]
    for parts in zip(*pairs, strict=True):
        first, mean = parts[0], np.mean([part.coverage for part in parts])
        ends = f" ({first.coverage_low:.1%} to {first.coverage_high:.1%})" if len(parts) == 1 else ""
        cells += [f"{mean:.1%}{ends}", f"{np.mean([part.mean_width for part in parts]):.1f}"]
    return f"| {' | '.join([name, *cells])} |"


if __name__ == "__main__":
    main(tyro.cli(Config))
