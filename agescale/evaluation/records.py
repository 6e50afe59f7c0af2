"""What was found out, as values: the numbers of ``metrics.json`` and the rows of the report's tables.

Fields have the names, and the order, of the keys in ``metrics.json`` and of the columns of the CSVs. Shares are 0..1,
ages and errors are years, an error is predicted minus true (positive: predicted too old), and an interval is one of
95 %: its two ends. None is what cannot be computed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Counts:
    """Rows of a split: the first number is the sum of the others and of the judged rows."""

    num_catalog_rows: int
    num_excluded: int  # because of a finding
    num_not_scored: int
    num_without_label: int


@dataclass(frozen=True)
class MedianAge:
    """What a predictor scores that says the same age of everybody."""

    age: float | None
    mae: float | None
    bias: float | None
    cs_at_5: float | None
    labels_of: str  # the rows that the age is the median of


@dataclass(frozen=True)
class MajorityGroup:
    """What a predictor scores that says the same group of everybody."""

    group: str | None
    accuracy: float | None
    balanced_accuracy: float | None
    macro_f1: float | None
    labels_of: str


@dataclass(frozen=True)
class Baselines:
    median_age: MedianAge
    majority_group: MajorityGroup


@dataclass(frozen=True)
class Summary:
    """The scores of one set of rows, with their intervals by ``metrics.METRICS`` and beside the baselines."""

    num_rows: int
    num_with_age: int
    num_with_group: int
    mae: float | None
    bias: float | None
    cs_at_5: float | None
    accuracy: float | None
    balanced_accuracy: float | None
    macro_f1: float | None
    intervals: dict[str, list[float] | None]
    baselines: Baselines


@dataclass(frozen=True)
class GroupScores:
    """One group: how often it is found, and the errors of the age of those in it."""

    name: str
    support: int
    num_predicted: int
    precision: float | None
    recall: float | None
    f1: float | None
    recall_low: float | None  # Wilson's interval
    recall_high: float | None
    mae: float | None
    bias: float | None
    cs_at_5: float | None


@dataclass(frozen=True)
class PartScores:
    """One part of the rows: a decade of age, a gender, an ethnicity."""

    name: str
    num_rows: int
    num_with_age: int
    num_with_group: int
    mae: float | None
    mae_low: float | None
    mae_high: float | None
    bias: float | None
    bias_low: float | None
    bias_high: float | None
    cs_at_5: float | None
    cs_at_5_low: float | None
    cs_at_5_high: float | None
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None


@dataclass(frozen=True)
class WorstPart:
    """The part with the largest MAE against all others, and of which parts nothing is said."""

    name: str
    others: str | None  # the name of the only other one
    num_with_age: int
    mae: float
    bias: float
    mae_others: float
    difference: float
    difference_low: float | None
    difference_high: float | None
    too_few: dict[str, int]  # ages of parts that have too few


@dataclass(frozen=True)
class Comparison:
    """Two models on the same rows of one part; a difference is the first minus the other one."""

    name: str
    num_rows: int
    num_with_age: int
    mae: float | None
    mae_against: float | None
    mae_difference: float | None
    mae_difference_low: float | None
    mae_difference_high: float | None
    num_with_group: int
    accuracy: float | None
    accuracy_against: float | None
    accuracy_difference: float | None
    accuracy_difference_low: float | None
    accuracy_difference_high: float | None


@dataclass(frozen=True)
class GateBand:
    """People of some true ages at an age gate: how many it would misjudge."""

    name: str
    is_minor: bool
    num_rows: int
    num_wrong: int
    wrong: float | None
    wrong_low: float | None  # Wilson's interval
    wrong_high: float | None


@dataclass(frozen=True)
class CoveredPart:
    """Faces of one part of the people: how many intervals hold the age, and how wide they are."""

    name: str
    num_rows: int
    num_covered: int
    coverage: float
    coverage_low: float | None  # Wilson's interval
    coverage_high: float | None
    mean_width: float


@dataclass(frozen=True)
class Reliability:
    """What a model says of some answers, and how often it is so: ``said`` is the share that intervals are to hold, or
    the mean of probabilities that are about as large."""

    said: float
    num_rows: int
    observed: float
    observed_low: float | None  # Wilson's interval
    observed_high: float | None


@dataclass(frozen=True)
class HandedOver:
    """The faces that are left where the share ``handed_over`` that a model is least certain of goes to a person."""

    handed_over: float
    num_rows: int
    mean_age: float | None  # their true age, where it is known exactly
    mae: float | None
    mae_low: float | None
    mae_high: float | None
    cs_at_5: float | None
    accuracy: float | None


@dataclass(frozen=True)
class MissedPart:
    """Photos of one part of the people: in how many the face was not found, or too small to be judged."""

    name: str
    num_rows: int
    num_missed: int
    missed: float | None
    missed_low: float | None  # Wilson's interval
    missed_high: float | None


@dataclass(frozen=True)
class Agreement:
    """How often an auxiliary head says the label."""

    num_rows: int
    accuracy: float | None
    interval: tuple[float | None, float | None]  # Wilson's


@dataclass(frozen=True)
class Gap:
    """The difference of a metric between two parts of a kind: of the one where it is larger, minus the other one."""

    metric: str
    by: str
    name: str
    value: float
    num_rows: int
    other: str
    other_value: float
    num_other_rows: int
    gap: float
    gap_low: float  # this interval and the p-value hold for all comparisons together
    gap_high: float
    p_value: float  # of a true gap of no more than may be; where no limit was asked for, of none
    is_over: bool
