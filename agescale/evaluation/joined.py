"""A catalog and its predictions row by row, joined from their ``arrays``: what is true, and what was predicted.

Decides what is compared: in which age groups, in which splits, and which of their rows are judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from agescale.ages.groups import AgeGroups
from agescale.config import EvaluateConfig
from agescale.evaluation import arrays
from agescale.evaluation.arrays import CatalogArrays, PredictionArrays
from agescale.evaluation.metrics import Outcomes
from agescale.evaluation.records import Counts
from agescale.tables import filters, schema
from agescale.tables.predictions import Predictions

NOT_PREDICTED = "no prediction"


@dataclass(frozen=True)
class JoinedRows:
    """All current rows of the catalog with what was predicted of each; arrays (N,), in the order of its parts and of
    the rows in them. What is drawn by chance (samples, persons) depends on it, and is the same every time."""

    listed: CatalogArrays
    outcomes: Outcomes
    predicted: PredictionArrays
    age_std_N: np.ndarray  # and
    probability_N: np.ndarray  # of the predicted group, and
    share_below_N: np.ndarray  # of its distribution below the true age, and
    under_gate_N: np.ndarray  # under the age gate: NaN also where a model does not learn how sure it is
    parts: dict[str, tuple[np.ndarray, list[str]]]  # by gender and ethnicity: index into the names, -1 = unknown
    looks_for_faces: bool  # in the images, before it predicts
    interval_coverage: float | None  # what intervals are to cover; None: the model is not calibrated
    heads: dict[str, tuple[np.ndarray, np.ndarray]]  # labels and what an auxiliary head says, as indices, -1 = nothing

    def is_in(self, split: str | None) -> np.ndarray:
        """Which rows are in a split, or in none."""
        return self.listed.split_N == (-1 if split is None else schema.SPLITS.index(split))

    @property
    def splits(self) -> list[str | None]:
        """The splits that there are, None for rows without one."""
        return [name for name in (*schema.SPLITS, None) if self.is_in(name).any()]


@dataclass(frozen=True)
class OtherModel:
    """What another model says of the same rows; arrays (N,)."""

    is_ok_N: np.ndarray  # of which rows it says anything
    outcomes: Outcomes


def read_rows(
    predictions: Predictions, listed: CatalogArrays, groups: AgeGroups | None, gender_from: str = ""
) -> JoinedRows:
    """``gender_from`` names predictions whose gender stands in where the catalog has none."""
    predicted = _read_predictions(predictions, listed, groups, tells_doubt=predictions.says_ages)
    gender_N = listed.gender_N
    if gender_from:
        other = arrays.read_predictions(Predictions.open(gender_from), listed, [])
        names = np.array([*listed.genders.names, None], dtype=object)  # the index -1 is None
        ours, theirs = (names[code[code >= 0]].tolist() for code in (np.unique(gender_N), other.has_gender))
        filters.check_genders(bool((other.gender_N >= 0).any()), ours, theirs)
        gender_N = np.where(gender_N >= 0, gender_N, other.gender_N)
    return JoinedRows(
        listed=listed,
        outcomes=_outcomes(listed, predicted, groups),
        predicted=predicted,
        age_std_N=predicted.age_std_N,
        probability_N=predicted.probability_N,
        share_below_N=predicted.share_below_N,
        under_gate_N=predicted.under_gate_N,
        parts={
            "gender": listed.genders.sorted(gender_N),
            "ethnicity": listed.ethnicities.sorted(listed.ethnicity_N),
        },
        looks_for_faces=predictions.run.get("faces", "none") != "none",
        interval_coverage=predictions.interval_coverage,
        heads={
            "gender": (listed.gender_N, predicted.gender_N),
            "ethnicity": (listed.ethnicity_N, predicted.ethnicity_N),
        },
    )


def _read_predictions(
    predictions: Predictions, listed: CatalogArrays, groups: AgeGroups | None, tells_doubt: bool = False
) -> PredictionArrays:
    """Their group is one of ``groups`` where these derive from what they say, else one of the model's."""
    has_others = groups is not None and groups != predictions.age_groups and predictions.says_ages
    names = list(groups.names) if groups else []
    regroup = groups if has_others else None
    predicted = arrays.read_predictions(predictions, listed, names, regroup, tells_doubt=tells_doubt)
    if not (predicted.status_N >= 0).any():
        raise ValueError(f"{predictions.uri}: none of these predictions is of an image of {listed.catalog}")
    return predicted


def _outcomes(listed: CatalogArrays, predicted: PredictionArrays, groups: AgeGroups | None) -> Outcomes:
    return Outcomes(
        true_age_N=listed.true_age_N,
        predicted_age_N=np.where(predicted.is_ok_N, predicted.age_N, np.nan).astype(np.float64),
        true_group_N=listed.true_group_N,
        predicted_group_N=np.where(predicted.is_ok_N, predicted.group_N, -1).astype(np.int64),
        cluster_N=listed.cluster_N,
        num_groups=len(groups.names) if groups else 0,
    )


def read_other(config: EvaluateConfig, rows: JoinedRows, groups: AgeGroups | None) -> OtherModel | None:
    """What ``config.against`` says, in the same ``groups`` where it can be told in them; else no groups to compare."""
    if not config.against:
        return None
    against = Predictions.open(config.against)
    own = against.age_groups
    view = groups if own and groups and groups.is_bounded and against.says_ages else own
    predicted = _read_predictions(against, rows.listed, view)
    outcomes = _outcomes(rows.listed, predicted, view)
    if view != groups:
        outcomes = replace(outcomes, true_group_N=np.full(len(rows.listed), -1))
    return OtherModel(predicted.is_ok_N, outcomes)


def splits_of(asked: Sequence[str], rows: JoinedRows) -> list[str | None]:
    """The asked splits that the catalog has, else the only one that there is."""
    there = rows.splits
    found: list[str | None] = [name for name in asked if name in there]
    if not found and len(there) != 1:
        has = ", ".join(name or "rows without a split" for name in there) or "no rows"
        raise ValueError(f"--split {' '.join(asked)}: the catalog has {has}")
    return found or list(there)


def who_is_judged(rows: JoinedRows, in_split_N: np.ndarray) -> tuple[np.ndarray, Counts]:
    """The mask of judged rows, and counts, which add up: catalog = excluded + not scored + without label + judged."""
    can_compare_N = ~np.isnan(rows.outcomes.error_N) | (rows.outcomes.true_group_N >= 0)
    left_N, num_left_out = in_split_N, []
    for keep_N in (~rows.listed.is_excluded_N, rows.predicted.is_ok_N, can_compare_N):
        num_left_out.append(int((left_N & ~keep_N).sum()))
        left_N = left_N & keep_N
    return left_N, Counts(int(in_split_N.sum()), *num_left_out)


def is_wrong(rows: JoinedRows) -> np.ndarray:
    """Where a known group is not the predicted one, (N,)."""
    outcomes = rows.outcomes
    return (outcomes.true_group_N >= 0) & (outcomes.true_group_N != outcomes.predicted_group_N)
