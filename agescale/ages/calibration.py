"""Age intervals that hold: by how many years a predicted interval is moved so that it covers the share that it names.

Conformalised quantiles (Romano, Patterson and Candes 2019): of the central ``coverage`` of each stored distribution the
two ends, and how far the label lies outside of them, below zero inside. The k-th smallest of these n scores, with
k = ceil((n + 1) * coverage), is the offset that is added at both ends: a new face, drawn as these were, lies inside
with a probability of at least ``coverage``, and at most 1 / (n + 1) more where no two scores are the same. It is taken
in each band of predicted age by itself (Mondrian: Vovk et al. 2005), as that is known when a face is scored, so it
holds in each. Bands are made of decades, by how many faces each has and not by how wrong they are.

Ages are on the labels' scale: a label 34 is 34.0, and lies inside where lower <= 34.0 <= upper. The last age that a
model tells apart is 100, which stands for 100 and older, as a label and as an upper end. An end that lies at 0 or 100
stays there, as nobody is beyond it: else many infants had one and the same score. Knows no models and no tables.
Legend of shapes: N faces.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from agescale.ages.groups import MAX_AGE

LEAST_BAND_FACES = 100
"""A band has at least so many, where there are as many: of such bands the true share covered spreads about the wanted
one, here 0.9, by 0.03 (one standard deviation; Vovk 2012)."""
DECADES = range(0, 100, 10)
"""First ages of the bands before any are merged; the last one is open."""


@dataclass(frozen=True)
class Band:
    """Faces with a predicted age in ``[low, high)`` years, None = open, and the years that widen (or narrow) their
    intervals at either end."""

    low: int
    high: int | None
    offset: float
    num_faces: int

    @property
    def name(self) -> str:
        return f"{self.low}+" if self.high is None else f"{self.low}-{self.high - 1}"


@dataclass(frozen=True)
class Calibration:
    """What a model knows of its intervals: plain JSON. The share that they cover, and on which faces it was found."""

    coverage: float
    bands: tuple[Band, ...]  # from 0 on, without a gap
    num_faces: int
    catalog_id: str
    split: str  # one or several, with commas
    faces: str  # what of each image was looked at, as predictions say it; and whether its mirror image was, too
    tta: bool
    assumes: str = "exchangeable photos"

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Calibration:
        """Of what JSON makes of it. Raises ValueError, in one line, for a name that is not known."""
        for kind, found in ((Calibration, [values]), (Band, values.get("bands", []))):
            unknown = sorted(set().union(*found) - {one.name for one in fields(kind)})
            if unknown:
                raise ValueError(f"calibration: {', '.join(unknown)} is not known to this agescale")
        return Calibration(**{**values, "bands": tuple(Band(**band) for band in values["bands"])})

    def used_otherwise(self, faces: str, tta: bool) -> str:
        """A line where ages are told in another way than those were by which it was found; else nothing.

        >>> calibration = Calibration(0.9, (), 100, "1", "val", faces="largest", tta=True)
        >>> calibration.used_otherwise("largest", tta=True)
        ''
        >>> calibration.used_otherwise("all", tta=False)
        'the intervals were found with --faces largest --tta, and are used with --faces all: they may hold less often'
        """
        found, now = (
            f"--faces {which}{' --tta' * has_tta}" for which, has_tta in ((self.faces, self.tta), (faces, tta))
        )
        return (
            ""
            if found == now
            else f"the intervals were found with {found}, and are used with {now}: they may hold less often"
        )

    def intervals(self, age_N: np.ndarray, low_N: np.ndarray, high_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both ends (N,) in years, float32, from the predicted ages and the ends of the central ``coverage`` of their
        distributions. An interval holds its age, up to 100.

        >>> bands = Band(0, 30, 1.5, 200), Band(30, None, -4.0, 200)
        >>> known = Calibration(0.9, bands, 400, "1", "val", "none", False)
        >>> low_N, high_N = np.array([0.5, 30.0, 39.0]), np.array([3.0, 52.0, 42.0])
        >>> ends = known.intervals(np.array([1.0, 40.0, 40.0]), low_N, high_N)
        >>> np.stack(ends, axis=1).tolist()
        [[0.0, 4.5], [34.0, 48.0], [40.0, 40.0]]
        """
        ends = [math.inf if band.high is None else band.high for band in self.bands]
        offset_N = np.array([band.offset for band in self.bands])[np.searchsorted(ends, age_N, side="right")]
        low_N, high_N = _without_edges(low_N, high_N)
        lower_N, upper_N = np.minimum(low_N - offset_N, age_N), np.maximum(high_N + offset_N, age_N)
        return lower_N.clip(0, MAX_AGE).astype(np.float32), upper_N.clip(0, MAX_AGE).astype(np.float32)


def faces_needed(coverage: float) -> int:
    """The fewest faces of which an interval can be found.

    >>> faces_needed(0.9), faces_needed(0.95), faces_needed(0.5)
    (9, 19, 1)
    """
    return math.ceil(coverage / (1 - coverage) - 1e-9)


def offset_of(low_N: np.ndarray, high_N: np.ndarray, true_age_N: np.ndarray, coverage: float) -> float:
    """Years that widen intervals so that they cover, rounded up to three places and a hair more, by which the face that
    decides stays inside when its ends become float32.

    Nine of these ten labels lie inside, the last of them by half a year, so all intervals may be narrower by that:

    >>> offset_of(np.full(10, 20.0), np.full(10, 30.0), np.array([25.0] * 8 + [29.5, 40]), 0.8)
    -0.499
    """
    label_N = np.minimum(true_age_N, MAX_AGE)
    low_N, high_N = _without_edges(low_N, high_N)
    score_N = np.sort(np.maximum(low_N - label_N, label_N - high_N))
    rank = math.ceil((len(score_N) + 1) * coverage - 1e-9)
    assert rank <= len(score_N), f"{len(score_N)} faces are too few for {coverage}"
    return math.ceil(1000 * max(float(score_N[rank - 1]), -MAX_AGE) + 0.01) / 1000


def _without_edges(low_N: np.ndarray, high_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends, infinite where they lie at the edge of the scale."""
    return np.where(low_N <= 0, -np.inf, low_N), np.where(high_N >= MAX_AGE, np.inf, high_N)


def bands_of(
    age_N: np.ndarray, low_N: np.ndarray, high_N: np.ndarray, true_age_N: np.ndarray, coverage: float
) -> tuple[Band, ...]:
    """The bands with their offsets: decades of predicted age, of which the one with the fewest faces joins the smaller
    of its neighbours until each has enough. Asks for ``faces_needed`` faces at least."""
    least = max(LEAST_BAND_FACES, faces_needed(coverage))
    decade_N = (np.searchsorted(DECADES, age_N, side="right") - 1).clip(min=0)
    counts = np.bincount(decade_N, minlength=len(DECADES)).tolist()
    lows = list(DECADES)
    while len(counts) > 1 and min(counts) < least:
        fewest = counts.index(min(counts))
        neighbours = [index for index in (fewest - 1, fewest + 1) if 0 <= index < len(counts)]
        first = min(fewest, min(neighbours, key=lambda index: counts[index]))
        counts[first : first + 2] = [counts[first] + counts[first + 1]]
        del lows[first + 1]
    found = []
    for low, high, count in zip(lows, [*lows[1:], None], counts, strict=True):
        inside_N = (age_N >= low) & (age_N < (math.inf if high is None else high))
        offset = offset_of(low_N[inside_N], high_N[inside_N], true_age_N[inside_N], coverage)
        found.append(Band(low, high, offset, count))
    return tuple(found)


def is_inside(lower_N: np.ndarray, upper_N: np.ndarray, true_age_N: np.ndarray) -> np.ndarray:
    """Whether each label lies in its interval, (N,); False where there is none (NaN).

    >>> is_inside(np.array([30, 90.0]), np.array([34.0, 100.0]), np.array([34.0, 116.0]))
    array([ True,  True])
    """
    label_N = np.minimum(true_age_N, MAX_AGE)
    return (lower_N <= label_N) & (label_N <= upper_N)
