"""The threshold of an age gate with a guarantee: faces in, the cheapest threshold out that is certified, and its cost.

The policy is that of the challenge ages in NIST's FATE AEV (IR 8525), and nothing else is taken from there: whoever is
predicted under T must show papers, everybody else passes. A minor of the band who passes is a false positive.

The candidates are a fixed grid. Whether the true rate of false positives is above the target is tested by the exact
binomial test from the strictest one downwards, each at the full level, and no further than the first that fails:
fixed-sequence testing (Bauer 1991), one of the ways of Learn then Test (Angelopoulos et al. 2021). To certify a wrong
threshold, the first wrong one of the sequence must pass its test, so that happens with a probability of 1 - confidence
at most, however many are tested. The bound beside each is Clopper's and Pearson's (1934): it is at or under the target
where the test is passed.

It holds where the minors here and those at the gate are exchangeable: drawn alike, one photo a person, of the same mix
of ages. Of several photos of a person one counts. It holds for the band as a whole, and for no part of it by itself.

Legend of shapes: N faces, P those of persons who each have one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import count, takewhile

import numpy as np
from scipy.special import bdtr, betaincinv

from agescale.ages.few import ENOUGH_FACES
from agescale.ages.papers import By, PapersRule
from agescale.evaluation.intervals import wilson_interval

STRICTEST_AGE, AGE_STEP = 60, 0.5
PROBABILITIES = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, *(percent / 100 for percent in range(1, 51)))
"""Candidates for the probability of being under age, the strictest one first."""
OLDEST_BAND = 60
"""Adults of these years and more are told of together."""


@dataclass(frozen=True)
class Policy:
    """What is asked of a gate."""

    by: By
    gate_age: int
    band: tuple[int, int]  # first and last year
    max_false_positive_rate: float
    confidence: float

    @property
    def band_name(self) -> str:
        low, high = self.band
        return str(low) if low == high else f"{low} to {high}"

    @property
    def candidates(self) -> Sequence[float]:
        """The strictest one first."""
        if self.by == "probability":
            return PROBABILITIES
        return np.arange(STRICTEST_AGE, self.gate_age - AGE_STEP / 2, -AGE_STEP).tolist()

    def passes(self, score_N: np.ndarray, threshold: float) -> np.ndarray:
        """Who passes without papers, (N,)."""
        return self.rule(threshold).passes(score_N)

    def challenged_where(self, threshold: float) -> str:
        return self.rule(threshold).where

    def rule(self, threshold: float) -> PapersRule:
        return PapersRule(self.by, self.gate_age, threshold)


@dataclass(frozen=True)
class Faces:
    """N faces of a known age with a prediction, in an order that has nothing to do with either."""

    true_age_N: np.ndarray  # years
    score_N: np.ndarray  # predicted age, or probability of being under age
    cluster_N: np.ndarray  # number of the person
    gender_N: np.ndarray  # index into the names of parts, -1 = unknown
    ethnicity_N: np.ndarray

    def __len__(self) -> int:
        return len(self.true_age_N)

    def where(self, chosen_N: np.ndarray) -> Faces:
        """Those of a mask or of indices."""
        return replace(self, **{field.name: getattr(self, field.name)[chosen_N] for field in fields(self)})

    def one_a_person(self) -> Faces:
        return self.where(np.unique(self.cluster_N, return_index=True)[1])

    def aged(self, low: float, high: float) -> Faces:
        """Those of ages in [low, high)."""
        return self.where((self.true_age_N >= low) & (self.true_age_N < high))


@dataclass(frozen=True)
class Candidate:
    """A threshold, and what of the minors would pass there."""

    threshold: float
    num_false_positives: int
    false_positive_rate: float
    upper_bound: float
    p_value: float
    is_certified: bool


@dataclass(frozen=True)
class Rate:
    """How many of some people the gate misjudges: minors who pass, or adults who must show papers."""

    name: str
    num_people: int
    num_wrong: int
    wrong: float | None
    wrong_low: float | None  # Wilson's interval, 95 %
    wrong_high: float | None
    is_few: bool


@dataclass(frozen=True)
class Part:
    """People of one gender or ethnicity."""

    name: str
    minors: Rate
    adults: Rate


@dataclass(frozen=True)
class Gate:
    """The certified threshold, how it was found, and what it costs."""

    chosen: Candidate
    num_minors: int  # persons
    num_photos: int  # of them
    candidates: list[Candidate]  # all, the strictest one first
    minors_by_age: list[Rate]
    adults: Rate
    adults_by_age: list[Rate]
    parts: dict[str, list[Part]]  # by gender and ethnicity

    @property
    def sequence(self) -> list[Candidate]:
        """The candidates that were tested: those certified, and the first that failed."""
        num_certified = sum(each.is_certified for each in self.candidates)
        return self.candidates[: num_certified + 1]

    def above(self, rate: float) -> list[Rate]:
        """Kinds of minors of whom clearly more than that pass: their whole interval lies above it."""
        by_age = [replace(kind, name=f"{kind.name} years") for kind in self.minors_by_age]
        kinds = [*by_age, *(part.minors for parts in self.parts.values() for part in parts)]
        return [kind for kind in kinds if kind.wrong_low is not None and kind.wrong_low > rate]


def percent(share: float) -> str:
    """A share to three digits, however small it is.

    >>> percent(0.0533333), percent(0.000123), percent(0.1)
    ('5.33%', '0.0123%', '10%')
    """
    return f"{100 * share:.3g}%"


def upper_bound(num_hits: int, num_rows: int, confidence: float) -> float:
    """Clopper's and Pearson's one-sided upper bound of a share.

    >>> round(upper_bound(0, 29, 0.95), 4)
    0.0981
    """
    return 1.0 if num_hits >= num_rows else float(betaincinv(num_hits + 1, num_rows - num_hits, confidence))


def p_value(num_hits: int, num_rows: int, share: float) -> float:
    """Exact binomial test of "the true share is above ``share``": the probability of so few hits or fewer at it."""
    return float(bdtr(num_hits, num_rows, share))


def num_needed(max_rate: float, confidence: float) -> int:
    """The fewest people that certify anything, where none of them passes: (1 - max_rate) ** n <= 1 - confidence.

    >>> num_needed(0.1, 0.95), num_needed(0.01, 0.95)
    (29, 299)
    """
    about = math.ceil(math.log1p(-confidence) / math.log1p(-max_rate))
    return next(number for number in count(max(about - 1, 1)) if p_value(0, number, max_rate) <= 1 - confidence)


def run_sequence(minors: Faces, policy: Policy) -> list[Candidate]:
    """All candidates by the ``minors`` (P of them); those up to the first that fails its test are certified."""
    counts = [int(policy.passes(minors.score_N, threshold).sum()) for threshold in policy.candidates]
    p_values = [p_value(hits, len(minors), policy.max_false_positive_rate) for hits in counts]
    num_certified = len(list(takewhile(lambda p: p <= 1 - policy.confidence, p_values)))
    return [
        Candidate(
            threshold=threshold,
            num_false_positives=hits,
            false_positive_rate=hits / len(minors),
            upper_bound=upper_bound(hits, len(minors), policy.confidence),
            p_value=p,
            is_certified=index < num_certified,
        )
        for index, (threshold, hits, p) in enumerate(zip(policy.candidates, counts, p_values, strict=True))
    ]


def gate_of(faces: Faces, policy: Policy, parts: dict[str, list[str]], where: str) -> Gate:
    """The gate by ``faces`` of any age; ``parts`` are the names of genders and ethnicities. Raises ValueError, which
    says ``where`` the faces are of, for too few minors, and where no candidate is certified."""
    low, high = policy.band
    photos = faces.aged(low, high + 1)
    minors = photos.one_a_person()
    asked = f"--max-false-positive-rate {policy.max_false_positive_rate:g} with --confidence {policy.confidence:g}"
    needed = num_needed(policy.max_false_positive_rate, policy.confidence)
    if len(minors) < needed:
        raise ValueError(
            f"{asked} takes {needed:,} persons of {policy.band_name} years, even if none of them passes; {where} has "
            f"{len(minors):,} with an exact age and a prediction"
        )
    candidates = run_sequence(minors, policy)
    certified = [each for each in candidates if each.is_certified]
    if not certified:
        first = candidates[0]
        raise ValueError(
            f"no threshold keeps {asked}: where all of {policy.challenged_where(first.threshold)} must show papers, "
            f"the strictest, {first.num_false_positives:,} of {len(minors):,} minors in {where} still pass "
            f"({percent(first.false_positive_rate)}, at most {percent(first.upper_bound)})"
        )
    chosen = certified[-1]
    adults = faces.aged(policy.gate_age, math.inf)
    return Gate(
        chosen=chosen,
        num_minors=len(minors),
        num_photos=len(photos),
        candidates=candidates,
        minors_by_age=[
            rate(str(year), minors.aged(year, year + 1), policy, chosen.threshold) for year in range(low, high + 1)
        ],
        adults=rate("all", adults, policy, chosen.threshold),
        adults_by_age=_by_age(adults, policy, chosen.threshold),
        parts={
            "gender": _parts(parts["gender"], minors, adults, "gender_N", policy, chosen.threshold),
            "ethnicity": _parts(parts["ethnicity"], minors, adults, "ethnicity_N", policy, chosen.threshold),
        },
    )


def rate(name: str, faces: Faces, policy: Policy, threshold: float) -> Rate:
    """How many of these are misjudged, one photo a person; all are minors, or all adults."""
    persons = faces.one_a_person()
    num_people = len(persons)
    is_wrong_P = policy.passes(persons.score_N, threshold) != (persons.true_age_N >= policy.gate_age)
    num_wrong = int(is_wrong_P.sum())
    share = num_wrong / num_people if num_people else None
    return Rate(name, num_people, num_wrong, share, *wilson_interval(num_wrong, num_people), num_people < ENOUGH_FACES)


def _parts(
    names: Sequence[str], minors: Faces, adults: Faces, field: str, policy: Policy, threshold: float
) -> list[Part]:
    """Both rates of those of each name, which is an index in that ``field`` of the faces; without names of nobody."""
    found = []
    for code, name in enumerate(names):
        of_minors, of_adults = (
            rate(name, some.where(getattr(some, field) == code), policy, threshold) for some in (minors, adults)
        )
        found.append(Part(name, of_minors, of_adults))
    return [part for part in found if part.minors.num_people or part.adults.num_people]


def _by_age(adults: Faces, policy: Policy, threshold: float) -> list[Rate]:
    """By single year of age, or by as many years as have enough people; the last band is open."""
    found, low = [], policy.gate_age
    for high in range(policy.gate_age + 1, OLDEST_BAND + 1):
        name = str(low) if high == low + 1 else f"{low}-{high - 1}"
        band = rate(name, adults.aged(low, high), policy, threshold)
        if not band.is_few or high == OLDEST_BAND:
            found.append(band)
            low = high
    found.append(rate(f"{OLDEST_BAND}+", adults.aged(OLDEST_BAND, math.inf), policy, threshold))
    return [band for band in found if band.num_people]
