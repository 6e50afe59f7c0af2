"""Whether two lots of predictions are of the same kind of photos: histograms in, how far they differ and how surely.

What is looked at is what a night without labels has: how many rows fail, the predicted ages, how sure the model is of
them, groups, what its heads for gender and ethnicity say and how surely, and how large photos and faces are. None of
it tells that ages are wrong; it tells that the photos are others than those on which anybody has looked.

The distance is the population stability index (PSI), the sum of (p - q) ln(p / q) over some ten bins that hold about a
tenth of the reference each. Of the same photos drawn twice it is no zero: about (bins - 1) (1/n + 1/m), which is 0.36
for 50 against 50 rows. So beside it stands the p-value of the chi-squared test that both are the same, corrected for
all aspects (Holm 1979), and only where that is small, too, an aspect has drifted.

Legend of shapes: B bins.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from scipy.stats import chi2_contingency

from agescale.evaluation.fairness import holm

LEVEL = 0.01
"""Of a hundred nights in which nothing has changed about one raises an alarm."""
NUM_BINS = 10
LEAST_ROWS = 20
"""Of fewer rows nothing is told."""
LEAST_EXPECTED = 5
"""Bins in which fewer rows are expected stand together in the test, whose p-values are then right."""
PIXELS = 2 ** np.arange(0, 15.001, 0.125)
EDGES: dict[str, np.ndarray] = {
    "age": np.arange(0, 100.6, 0.5),
    "age_std": np.arange(0, 40.1, 0.1),
    "gender_probability": np.arange(0, 1.001, 0.005),
    "ethnicity_probability": np.arange(0, 1.001, 0.005),
    "short_side": PIXELS,
    "face_width": PIXELS,
    "face_score": np.arange(0, 1.001, 0.005),
}
"""Of numbers the fine bins in which they are counted, so that a table of any size costs the same; the last bins hold
all beyond."""
WORDS = ("status", "group", "gender", "ethnicity")
"""What is counted by its value."""
NAMES = {
    "age": "predicted age, years", "age_std": "spread of the predicted distribution, years",
    "gender_probability": "how sure the head for gender is", "ethnicity_probability": "how sure that for ethnicity is",
    "short_side": "shorter side of the photo, pixels", "face_width": "width of the face, pixels",
    "face_score": "how sure the face detector is",
}  # fmt: skip


@dataclass(frozen=True)
class Histograms:
    """What some rows of predictions look like; all in fixed bins."""

    num_rows: int = 0
    numbers: Mapping[str, np.ndarray] = field(default_factory=dict)  # counts by the bins of EDGES
    words: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @staticmethod
    def of(num_rows: int, numbers: Mapping[str, np.ndarray], words: Mapping[str, Mapping[str, int]]) -> Histograms:
        """Of values by name, without those that are not known."""
        counts = {
            name: np.histogram(value_N.clip(EDGES[name][0], EDGES[name][-1]), EDGES[name])[0]
            for name, value_N in numbers.items()
            if len(value_N)
        }
        return Histograms(num_rows, counts, {name: counted for name, counted in words.items() if counted})

    def __add__(self, other: Histograms) -> Histograms:
        numbers = dict(self.numbers)
        for name, counts in other.numbers.items():
            numbers[name] = numbers[name] + counts if name in numbers else counts
        words = {name: Counter(counted) for name, counted in self.words.items()}
        for name, counted in other.words.items():
            words.setdefault(name, Counter()).update(counted)
        return Histograms(self.num_rows + other.num_rows, numbers, words)


@dataclass(frozen=True)
class Drift:
    """One aspect of two lots of predictions."""

    aspect: str
    num_rows: int
    num_against: int
    psi: float
    p_value: float  # corrected for all aspects
    has_drifted: bool
    bins: list[str]
    shares: list[float]  # of the rows in each bin
    shares_against: list[float]


def drifts_of(one: Histograms, other: Histograms, max_psi: float) -> list[Drift]:
    """Each aspect that both know of enough rows, the one that differs most first. ``other`` is the reference, whose
    tenths the bins are."""
    found = []
    for name in (*EDGES, *WORDS):
        kinds = (each.numbers if name in EDGES else each.words for each in (one, other))
        ours, theirs = (known.get(name) for known in kinds)
        if ours is None or theirs is None:
            continue
        bins, counts_2B = _binned(name, ours, theirs)
        if counts_2B.sum(axis=1).min() >= LEAST_ROWS:
            found.append((name, bins, counts_2B))
    p_values = holm([_p_value(counts_2B) for *_, counts_2B in found])
    drifts = []
    for (name, bins, counts_2B), p_value in zip(found, p_values, strict=True):
        num, num_against = counts_2B.sum(axis=1).tolist()
        distance, shares_2B = psi(counts_2B), counts_2B / counts_2B.sum(axis=1, keepdims=True)
        has_drifted = distance > max_psi and p_value <= LEVEL
        drifts.append(Drift(name, num, num_against, distance, p_value, has_drifted, bins, *shares_2B.tolist()))
    return sorted(drifts, key=lambda drift: (not drift.has_drifted, -drift.psi))


def psi(counts_2B: np.ndarray) -> float:
    """The population stability index; half a row more in each bin, as a bin without any would make it infinite.

    >>> round(psi(np.array([[500, 500], [500, 500]])), 3), round(psi(np.array([[700, 300], [500, 500]])), 3)
    (0.0, 0.169)
    """
    smooth_2B = counts_2B + 0.5
    share_B, reference_B = smooth_2B / smooth_2B.sum(axis=1, keepdims=True)
    return float(((share_B - reference_B) * np.log(share_B / reference_B)).sum())


def _p_value(counts_2B: np.ndarray) -> float:
    """That both rows are drawn alike."""
    expected_B = counts_2B.sum(axis=0) * counts_2B.sum(axis=1).min() / counts_2B.sum()
    is_rare_B = expected_B < LEAST_EXPECTED
    pooled_2B = np.column_stack([counts_2B[:, ~is_rare_B], counts_2B[:, is_rare_B].sum(axis=1)])
    pooled_2B = pooled_2B[:, pooled_2B.sum(axis=0) > 0]
    return float(chi2_contingency(pooled_2B, correction=False).pvalue) if pooled_2B.shape[1] > 1 else 1.0


def _binned(
    name: str, ours: np.ndarray | Mapping[str, int], theirs: np.ndarray | Mapping[str, int]
) -> tuple[list[str], np.ndarray]:
    """Names of the bins, and counts (2, B) in them."""
    if isinstance(ours, Mapping) or isinstance(theirs, Mapping):
        assert isinstance(ours, Mapping)
        assert isinstance(theirs, Mapping)
        words = sorted(ours.keys() | theirs.keys())
        return words, np.array([[counted.get(word, 0) for word in words] for counted in (ours, theirs)])
    total = theirs.cumsum()
    wanted = np.arange(1, NUM_BINS) / NUM_BINS * total[-1]
    ends = np.searchsorted(total, wanted) + 1  # fine bins that come before each tenth
    large = np.flatnonzero(theirs >= total[-1] / NUM_BINS)  # as where all photos have one size: a bin of its own
    cuts = np.unique([0, *ends, *large, *(large + 1), len(theirs)])
    return _bin_names(EDGES[name][cuts]), np.stack([np.add.reduceat(counts, cuts[:-1]) for counts in (ours, theirs)])


def _bin_names(ends: np.ndarray) -> list[str]:
    """What people read at bins between these ends; of pixels the first and the last are open.

    >>> _bin_names(PIXELS[[0, 64, 72, 120]]), _bin_names(np.array([0.0, 8.5, 100.5]))
    (['under 256', '256 to 512', '512 and more'], ['0 to 8.5', '8.5 to 100'])
    """
    names = [f"{low:.3g} to {high:.3g}" for low, high in pairwise(ends)]
    if ends[-1] == PIXELS[-1] and len(names) > 1:
        names[0], names[-1] = f"under {ends[1]:.3g}", f"{ends[-2]:.3g} and more"
    return names
