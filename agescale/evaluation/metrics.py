"""How wrong are the predictions, and for whom: numbers in, numbers out.

In: what is true and what was predicted, row by row (``Outcomes``). Out: errors of the age, scores of the groups (all of
them from one confusion matrix), bootstrap intervals, baselines and breakdowns, as ``records``. A number that cannot be
computed is NaN in arrays and None in records. Reads no tables and draws nothing.

Legend of shapes: N rows, G groups, U units that are resampled, B bootstrap replicates, K sums of a unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from agescale.ages.baselines import Constant
from agescale.ages.calibration import is_inside
from agescale.ages.parts import num_persons
from agescale.evaluation.intervals import (
    LEAST,
    NUM_REPLICATES,
    interval_of_difference,
    interval_of_mean,
    percentiles,
    ratio,
    resampled_sums,
    wilson_interval,
)
from agescale.evaluation.records import (
    Agreement,
    Baselines,
    Comparison,
    CoveredPart,
    GroupScores,
    MajorityGroup,
    MedianAge,
    MissedPart,
    PartScores,
    Summary,
    WorstPart,
)

CS_YEARS = 5
METRICS = ("mae", "bias", "cs_at_5", "accuracy", "balanced_accuracy", "macro_f1")


@dataclass(frozen=True)
class Outcomes:
    """What is true and what was predicted for N rows. Ages are years, NaN = unknown; groups are indices, -1 = unknown.

    A predicted group of -1 beside a known true group counts as wrong. ``cluster_N`` numbers what is resampled: rows
    with the same number (the pictures of one person) stand or fall together.
    """

    true_age_N: np.ndarray
    predicted_age_N: np.ndarray
    true_group_N: np.ndarray
    predicted_group_N: np.ndarray
    cluster_N: np.ndarray
    num_groups: int

    @property
    def error_N(self) -> np.ndarray:
        return self.predicted_age_N - self.true_age_N

    def __len__(self) -> int:
        return len(self.true_age_N)

    def where(self, mask_N: np.ndarray) -> Outcomes:
        arrays = {f.name: getattr(self, f.name)[mask_N] for f in fields(self) if f.name.endswith("_N")}
        return replace(self, **arrays)


def clusters_of_subjects(subject_N: np.ndarray) -> np.ndarray:
    """Unit of each row: the subject's number where it is known (>= 0), else a number of the row's own.

    >>> clusters_of_subjects(np.array([7, -1, 7, -1])).tolist()
    [7, 9, 7, 11]
    """
    own_N = np.arange(len(subject_N)) + subject_N.max(initial=0) + 1
    return np.where(subject_N < 0, own_N, subject_N)


def age_scores(error_N: np.ndarray) -> dict[str, float]:
    """Mean absolute error, bias (mean signed error) and CS@5 (share of |error| <= 5 years); NaN rows are left out.

    >>> age_scores(np.array([-1.0, 3.0, 10.0, np.nan]))
    {'mae': 4.666666666666667, 'bias': 4.0, 'cs_at_5': 0.6666666666666666}
    """
    error_N = error_N[~np.isnan(error_N)]
    if not len(error_N):
        return dict.fromkeys(METRICS[:3], math.nan)
    size_N = np.abs(error_N)
    return {"mae": float(size_N.mean()), "bias": float(error_N.mean()), "cs_at_5": float((size_N <= CS_YEARS).mean())}


def confusion_matrix(true_N: np.ndarray, predicted_N: np.ndarray, num_groups: int) -> np.ndarray:
    """Counts (G, G + 1) by true group (rows) and predicted group (columns); the last column is "predicted none".

    Rows whose true group is unknown (-1) are left out.

    >>> confusion_matrix(np.array([0, 0, 1, -1]), np.array([0, 1, -1, 1]), 2)
    array([[1, 1, 0],
           [0, 0, 1]])
    """
    known_N = true_N >= 0
    cells_N = cells(true_N[known_N], predicted_N[known_N], num_groups)
    return np.bincount(cells_N, minlength=num_groups * (num_groups + 1)).reshape(num_groups, num_groups + 1)


def group_scores(counts_GH: np.ndarray) -> dict[str, np.ndarray]:
    """All scores of the groups from one confusion matrix of ``confusion_matrix``, shape (..., G, G + 1).

    ``accuracy``, ``balanced_accuracy`` (mean recall of the groups that occur), ``macro_f1`` (mean F1 of the groups that
    occur or are predicted), each (...,); ``precision``, ``recall``, ``f1``, ``support``, each (..., G). 0/0 is NaN.

    Three of four are right; the first group has precision 2/2 and recall 2/3, so F1 0.8, the second 1/2, 1/1, 2/3:

    >>> scores = group_scores(np.array([[2, 1, 0], [0, 1, 0]]))
    >>> float(scores["accuracy"]), scores["f1"].round(3).tolist(), float(scores["macro_f1"].round(3))
    (0.75, [0.8, 0.667], 0.733)
    """
    counts_GH = np.asarray(counts_GH, dtype=np.float64)
    right_G = np.diagonal(counts_GH, axis1=-2, axis2=-1)
    support_G, predicted_G = counts_GH.sum(axis=-1), counts_GH[..., :-1].sum(axis=-2)
    recall_G, f1_G = ratio(right_G, support_G), ratio(2 * right_G, support_G + predicted_G)
    return {
        "accuracy": ratio(right_G.sum(axis=-1), support_G.sum(axis=-1)),
        "balanced_accuracy": mean_of_known(recall_G),
        "macro_f1": mean_of_known(f1_G),
        "precision": ratio(right_G, predicted_G),
        "recall": recall_G,
        "f1": f1_G,
        "support": support_G,
    }


def scores(outcomes: Outcomes) -> dict[str, float]:
    """The value of each of ``METRICS``, NaN where there is nothing to compute it from."""
    of_groups = group_scores(confusion_matrix(outcomes.true_group_N, outcomes.predicted_group_N, outcomes.num_groups))
    return age_scores(outcomes.error_N) | {name: float(of_groups[name]) for name in METRICS[3:]}


def intervals(outcomes: Outcomes, num_replicates: int = NUM_REPLICATES, seed: int = 0) -> dict[str, list[float] | None]:
    """95 % bootstrap percentile interval of each of ``METRICS`` (Efron and Tibshirani 1993, chapter 13).

    Units, not rows, are drawn with replacement. None where fewer than two units have what the metric needs, and where
    all replicates agree (all of 20 are right): the bootstrap then knows nothing, and "100 to 100 %" would be a lie.
    """
    found: dict[str, list[float] | None] = {}
    has_age_N = ~np.isnan(outcomes.error_N)
    for names, has_N in ((METRICS[:3], has_age_N), (METRICS[3:], outcomes.true_group_N >= 0)):
        part = outcomes.where(has_N)
        if len(np.unique(part.cluster_N)) < 2:
            found |= dict.fromkeys(names)
            continue
        values = replicates(part, names, num_replicates, np.random.default_rng(seed))
        found |= {name: percentiles(values_B) for name, values_B in values.items()}
    return found


def replicates(
    outcomes: Outcomes, names: tuple[str, ...], num_replicates: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Metrics (B,) of resampled rows: each metric is a function of sums over rows, so only sums are resampled."""
    if names == METRICS[:3]:
        error_N, size_N = outcomes.error_N, np.abs(outcomes.error_N)
        columns = (np.ones(len(outcomes)), size_N, error_N, size_N <= CS_YEARS)
        sums_BK = resampled_sums(columns, np.rint(error_N * 100), outcomes.cluster_N, num_replicates, rng)
        num_B, size_B, error_B, near_B = sums_BK.T
        return {"mae": size_B / num_B, "bias": error_B / num_B, "cs_at_5": near_B / num_B}
    cell_N = cells(outcomes.true_group_N, outcomes.predicted_group_N, outcomes.num_groups)
    num_cells = outcomes.num_groups * (outcomes.num_groups + 1)
    sums_BK = resampled_sums(
        (cell_N == cell for cell in range(num_cells)), cell_N, outcomes.cluster_N, num_replicates, rng
    )
    of_groups = group_scores(sums_BK.reshape(-1, outcomes.num_groups, outcomes.num_groups + 1))
    return {name: of_groups[name] for name in names}


def constant_scores(outcomes: Outcomes, constant: Constant) -> dict[str, float]:
    """``scores`` of ``constant`` on the rows on which the model was scored.

    >>> ages, groups = np.array([20.0, 40.0]), np.array([0, 1])
    >>> result = constant_scores(Outcomes(ages, ages, groups, groups, np.arange(2), 2), Constant(age=30.0, group=1))
    >>> result["mae"], result["accuracy"]
    (10.0, 0.5)
    """
    has_age_N = ~np.isnan(outcomes.error_N)
    age = math.nan if constant.age is None else constant.age
    group = -1 if constant.group is None else constant.group
    return scores(
        replace(
            outcomes,
            predicted_age_N=np.where(has_age_N, age, np.nan),
            predicted_group_N=np.full(len(outcomes), group),
        )
    )


def summary(
    outcomes: Outcomes,
    constant: Constant,
    group_names: Sequence[str],
    age_labels_of: str = "train",
    group_labels_of: str = "train",
) -> Summary:
    """``METRICS``, their ``intervals``, and the scores of ``constant``, which is that of the labels of some rows."""
    baseline = plain(constant_scores(outcomes, constant))
    if constant.group is None:
        baseline |= dict.fromkeys(METRICS[3:])
    group = None if constant.group is None else group_names[constant.group]
    return Summary(
        num_rows=len(outcomes),
        num_with_age=int((~np.isnan(outcomes.error_N)).sum()),
        num_with_group=int((outcomes.true_group_N >= 0).sum()),
        **plain(scores(outcomes)),
        intervals=intervals(outcomes),
        baselines=Baselines(
            MedianAge(age=constant.age, **{key: baseline[key] for key in METRICS[:3]}, labels_of=age_labels_of),
            MajorityGroup(group=group, **{key: baseline[key] for key in METRICS[3:]}, labels_of=group_labels_of),
        ),
    )


def by_group(outcomes: Outcomes, group_names: Sequence[str]) -> list[GroupScores]:
    """A row a group."""
    counts_GH = confusion_matrix(outcomes.true_group_N, outcomes.predicted_group_N, outcomes.num_groups)
    of_groups = group_scores(counts_GH)
    rows = []
    for index, name in enumerate(group_names):
        prf = plain({key: float(of_groups[key][index]) for key in ("precision", "recall", "f1")})
        errors = plain(age_scores(outcomes.error_N[outcomes.true_group_N == index]))
        support, num_predicted = int(of_groups["support"][index]), int(counts_GH[:, index].sum())
        low, high = wilson_interval(int(counts_GH[index, index]), support)
        rows.append(GroupScores(name, support, num_predicted, **prf, recall_low=low, recall_high=high, **errors))
    return rows


def breakdown(outcomes: Outcomes, subgroup_N: np.ndarray, names: Sequence[str]) -> list[PartScores]:
    """A row for each part that occurs; those of fewer than ``LEAST`` units have no intervals.

    ``subgroup_N`` holds the index into ``names`` of each row's part, -1 where it has none.
    """
    rows = []
    for index, name in enumerate(names):
        part = outcomes.where(subgroup_N == index)
        if not len(part):
            continue
        values = plain(scores(part))
        bounds = intervals(part) if len(np.unique(part.cluster_N)) >= LEAST else dict.fromkeys(METRICS)
        known: dict[str, float | None] = {}
        for key in ("mae", "bias", "cs_at_5", "accuracy"):
            low, high = bounds[key] or (None, None)
            known |= {key: values[key], f"{key}_low": low, f"{key}_high": high}
        num_with_age, num_with_group = int((~np.isnan(part.error_N)).sum()), int((part.true_group_N >= 0).sum())
        rows.append(PartScores(name, len(part), num_with_age, num_with_group, **known))
    return rows


def worst_subgroup(outcomes: Outcomes, subgroup_N: np.ndarray, names: Sequence[str]) -> WorstPart | None:
    """The part with the largest MAE, of those with ages of at least ``LEAST`` people, against the others of these.

    ``difference`` is its MAE minus ``mae_others``, with the interval of a bootstrap of that difference, in which units
    are drawn as in ``intervals``. The worst is looked for among several, so the interval is wider than one of 95 %
    (Bonferroni): where none differs, it holds zero in 95 of 100 cases. ``too_few`` counts the ages of the parts of
    which nothing is said. None where there are no two parts to tell apart. ``subgroup_N`` as in ``breakdown``.

    >>> ages = np.repeat([5.0, 25.0, 85.0], (8, 8, 2)); parts = np.repeat([0, 1, 2], (8, 8, 2))
    >>> off = np.tile([1.0, -2.0], 9) * np.where(parts == 0, 5, 1)
    >>> none = np.full(18, -1)
    >>> outcomes = Outcomes(ages, ages + off, none, none, np.arange(18), 0)
    >>> worst = worst_subgroup(outcomes, parts, ["young", "grown", "old"])
    >>> worst.name, worst.mae, worst.bias, worst.mae_others, worst.too_few
    ('young', 7.5, -2.5, 1.5, {'old': 2})
    >>> 2 < worst.difference_low < worst.difference == 6 < worst.difference_high < 10
    True
    """
    has_age_N = ~np.isnan(outcomes.error_N) & (subgroup_N >= 0)
    sizes = np.bincount(subgroup_N[has_age_N], minlength=len(names))
    people = num_persons(subgroup_N[has_age_N], outcomes.cluster_N[has_age_N], len(names))
    enough, few = np.flatnonzero(people >= LEAST), np.flatnonzero((sizes > 0) & (people < LEAST))
    if len(enough) < 2:
        return None
    size_N = np.abs(outcomes.error_N)
    worst = max(enough.tolist(), key=lambda part: size_N[has_age_N & (subgroup_N == part)].mean())
    others = enough[enough != worst]
    is_worst_N, is_other_N = has_age_N & (subgroup_N == worst), has_age_N & np.isin(subgroup_N, others)
    num_told = 1 if len(enough) == 2 else len(enough)
    interval = interval_of_difference(size_N, is_worst_N, is_other_N, outcomes.cluster_N, level=1 - 0.05 / num_told)
    low, high = interval or (None, None)
    return WorstPart(
        name=names[worst],
        others=names[others[0]] if len(others) == 1 else None,
        num_with_age=int(sizes[worst]),
        mae=float(size_N[is_worst_N].mean()),
        bias=float(outcomes.error_N[is_worst_N].mean()),
        mae_others=float(size_N[is_other_N].mean()),
        difference=float(size_N[is_worst_N].mean() - size_N[is_other_N].mean()),
        difference_low=low,
        difference_high=high,
        too_few={names[part]: int(sizes[part]) for part in few.tolist()},
    )


def compared(outcomes: Outcomes, others: Outcomes, subgroup_N: np.ndarray, names: Sequence[str]) -> list[Comparison]:
    """A row for each part that occurs: MAE and accuracy of two models on the same N rows, and their difference.

    ``mae`` and ``accuracy`` are those of ``outcomes``, ``.._against`` those of ``others``, ``.._difference`` is the
    first minus the second, with the 95 % interval of a bootstrap as in ``intervals``, but of the paired differences:
    a face that is hard for both models widens it by nothing. The MAE is over rows of which both say an age, the
    accuracy over those whose group both know. ``subgroup_N`` as in ``breakdown``.

    >>> true_N, group_N, own = np.array([20.0, 40.0]), np.array([-1, -1]), np.arange(2)
    >>> one = Outcomes(true_N, np.array([21.0, 43.0]), group_N, group_N, own, 0)
    >>> row = compared(one, replace(one, predicted_age_N=np.array([25.0, 43.0])), np.zeros(2, int), ["all"])[0]
    >>> row.mae, row.mae_against, row.mae_difference
    (2.0, 4.0, -2.0)
    """
    size_N, other_size_N = np.abs(outcomes.error_N), np.abs(others.error_N)
    right_N, other_right_N = (
        np.where(each.true_group_N >= 0, each.true_group_N == each.predicted_group_N, np.nan)
        for each in (outcomes, others)
    )
    rows = []
    for index, name in enumerate(names):
        if not (subgroup_N == index).any():
            continue
        known: dict[str, float | None] = {}
        counts = []
        for key, one_N, other_N in (("mae", size_N, other_size_N), ("accuracy", right_N, other_right_N)):
            known_N = (subgroup_N == index) & ~np.isnan(one_N) & ~np.isnan(other_N)
            means = [
                float(value_N[known_N].mean()) if known_N.any() else None
                for value_N in (one_N, other_N, one_N - other_N)
            ]
            counts.append(int(known_N.sum()))
            known |= dict(zip((key, f"{key}_against", f"{key}_difference"), means, strict=True))
            low, high = interval_of_mean((one_N - other_N)[known_N], outcomes.cluster_N[known_N]) or (None, None)
            known |= {f"{key}_difference_low": low, f"{key}_difference_high": high}
        num_with_age, num_with_group = counts
        num_rows = int((subgroup_N == index).sum())
        rows.append(Comparison(name, num_rows, num_with_age, num_with_group=num_with_group, **known))
    return rows


def missed(is_missed_N: np.ndarray, subgroup_N: np.ndarray, names: Sequence[str]) -> list[MissedPart]:
    """In how many photos of each subgroup (index, -1 where unknown) no face was found; of those that have any.

    >>> missed(np.array([True, False, True]), np.array([0, 0, -1]), ["female"])[0].missed
    0.5
    """
    parts = []
    for index, name in enumerate(names):
        of_part_N = is_missed_N[subgroup_N == index]
        if len(of_part_N):
            num_missed = int(of_part_N.sum())
            ends = wilson_interval(num_missed, len(of_part_N))
            parts.append(MissedPart(name, len(of_part_N), num_missed, num_missed / len(of_part_N), *ends))
    return parts


def covered(
    lower_N: np.ndarray, upper_N: np.ndarray, true_age_N: np.ndarray, subgroup_N: np.ndarray, names: Sequence[str]
) -> list[CoveredPart]:
    """How many intervals of each subgroup (index, -1 where unknown) hold the age, of those that have any with both.

    >>> ends = np.array([20.0, 30.0, np.nan]), np.array([25.0, 39.0, np.nan])
    >>> found = covered(*ends, np.array([25.0, 40.0, 1.0]), np.zeros(3, int), ["all"])[0]
    >>> found.coverage, found.mean_width
    (0.5, 7.0)
    """
    parts = []
    known_N = ~np.isnan(lower_N) & ~np.isnan(true_age_N)
    inside_N = is_inside(lower_N, upper_N, true_age_N)
    for index, name in enumerate(names):
        of_part_N = known_N & (subgroup_N == index)
        if num_rows := int(of_part_N.sum()):
            num_inside, width = int(inside_N[of_part_N].sum()), float((upper_N - lower_N)[of_part_N].mean())
            ends = wilson_interval(num_inside, num_rows)
            parts.append(CoveredPart(name, num_rows, num_inside, num_inside / num_rows, *ends, width))
    return parts


def agreement(true_N: np.ndarray, predicted_N: np.ndarray) -> Agreement:
    """How often an auxiliary head says the label, of the rows where both are known (>= 0).

    >>> agreement(np.array([0, 1, 1, -1]), np.array([0, 1, 0, 1])).accuracy
    0.6666666666666666
    """
    known_N = (true_N >= 0) & (predicted_N >= 0)
    num_rows, num_right = int(known_N.sum()), int((true_N == predicted_N)[known_N].sum())
    accuracy = num_right / num_rows if num_rows else None
    return Agreement(num_rows, accuracy, wilson_interval(num_right, num_rows))


def cells(true_N: np.ndarray, predicted_N: np.ndarray, num_groups: int) -> np.ndarray:
    """Index of each row's cell in the flattened confusion matrix; a predicted -1 is the last column."""
    return true_N * (num_groups + 1) + np.where(predicted_N < 0, num_groups, predicted_N)


def mean_of_known(values: np.ndarray) -> np.ndarray:
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0).sum(axis=-1), known.sum(axis=-1).astype(np.float64))


def plain(values: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else float(value) for name, value in values.items()}
