"""One split judged: rows in, every number of its part of the report out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from agescale.ages.baselines import Constant, constant_predictor
from agescale.ages.parts import Parts, crossed, decades
from agescale.evaluation import doubt, fairness, metrics
from agescale.evaluation.age_gate import GATE_AGE, age_gate
from agescale.evaluation.fairness import Limit, Verdict
from agescale.evaluation.joined import NOT_PREDICTED, JoinedRows, OtherModel, who_is_judged
from agescale.evaluation.metrics import Outcomes
from agescale.evaluation.records import (
    Agreement,
    Comparison,
    Counts,
    CoveredPart,
    GateBand,
    GroupScores,
    HandedOver,
    MissedPart,
    PartScores,
    Reliability,
    Summary,
    WorstPart,
)

CROSSED = "gender+ethnicity"
"""Parts that the report tells of beside the single ones."""
AS_GIVEN, AS_JUDGED, LEAK_FREE = "as given", "as judged on this page", "leak-free"
"""All rows that can be judged; those that are; and of these the ones of whom the catalog has nothing again."""


@dataclass(frozen=True)
class SplitResult:
    """Everything that was found out about one split."""

    name: str
    outcomes: Outcomes
    counts: Counts
    summary: Summary
    num_subjects: int | None  # None where each has one picture
    auxiliary: dict[str, Agreement]
    confusion: np.ndarray
    by_group: list[GroupScores]
    breakdowns: dict[str, list[PartScores]]
    worst: dict[str, WorstPart | None]  # of each breakdown its worst part
    gate: list[GateBand]
    interval_coverage: float | None  # what the model's intervals are to cover; None = it has none
    covered: dict[str, list[CoveredPart]]  # over "all" and part by part, where it has
    reliability: dict[str, list[Reliability]]  # by what it says how sure it is of (``doubt``), where it does
    handed_over: list[HandedOver]  # [] = it does not say of whom it is least certain
    leaks: list[PartScores]  # AS_GIVEN, AS_JUDGED, LEAK_FREE; [] = these are the same rows
    missed: dict[str, list[MissedPart]]  # by the face detector, over "all" and part by part; {} = none was asked
    differences: Verdict | None  # between parts, whatever may be; None = there are no two to compare
    limits: list[Verdict]  # of the gaps that there may be, those asked for
    comparisons: dict[str, list[Comparison]]  # with another model, over "all" and part by part; {} = not asked for
    not_scored: dict[str, int]
    findings: dict[str, int]
    is_calibrated_on: bool = False  # whether the model's intervals were made with these very faces

    def numbers(self) -> dict[str, object]:
        """What ``metrics.json`` says of the split."""
        numbers = asdict(self.counts) | asdict(self.summary) | {"num_subjects": self.num_subjects}
        numbers["auxiliary"] = {key: asdict(head) for key, head in self.auxiliary.items()}
        if self.covered:
            numbers["age_intervals"] = {
                "wanted": self.interval_coverage,
                "is_calibrated_on": self.is_calibrated_on,
                **asdict(self.covered["all"][0]),
            }
        if self.reliability:
            numbers["reliability_gaps"] = {what: doubt.mean_gap(rows) for what, rows in self.reliability.items()}
        if self.handed_over:
            numbers["handed_over"] = [asdict(row) for row in self.handed_over]
        if self.leaks:
            numbers["leaks"] = [asdict(row) for row in self.leaks]
        if self.differences:
            numbers["largest_gap"] = asdict(self.differences.gaps[0])
        if self.limits:
            numbers["max_gaps"] = [_as_numbers(verdict) for verdict in self.limits]
        return numbers | ({"against": asdict(self.comparisons["all"][0])} if self.comparisons else {})


def _as_numbers(verdict: Verdict) -> dict[str, object]:
    return {
        "limit": verdict.limit.option,
        "is_over": bool(verdict.over),
        "is_within": verdict.is_within,
        "num_comparisons": verdict.num_comparisons,
        "over": [asdict(gap) for gap in verdict.over],
        "largest": asdict(verdict.gaps[0]) if verdict.gaps else None,
    }


def judge_split(
    split: str | None, rows: JoinedRows, names: list[str], other: OtherModel | None, limits: Sequence[Limit] = ()
) -> SplitResult:
    in_split_N = rows.is_in(split)
    judged_N, counts = who_is_judged(rows, in_split_N)
    outcomes = rows.outcomes.where(judged_N)
    parts = _parts(rows, outcomes, judged_N)
    shown = parts | _crossed(parts)
    gate = age_gate(outcomes.true_age_N, outcomes.predicted_age_N)
    return SplitResult(
        name=split or "unsplit",
        outcomes=outcomes,
        counts=counts,
        summary=_summary(rows, outcomes, names),
        num_subjects=_num_subjects(outcomes),
        auxiliary={
            key: metrics.agreement(label_N[judged_N], predicted_N[judged_N])
            for key, (label_N, predicted_N) in rows.heads.items()
            if (predicted_N[judged_N] >= 0).any()
        },
        confusion=metrics.confusion_matrix(outcomes.true_group_N, outcomes.predicted_group_N, len(names)),
        by_group=metrics.by_group(outcomes, names),
        breakdowns={key: metrics.breakdown(outcomes, *part) for key, part in shown.items()},
        worst={key: metrics.worst_subgroup(outcomes, *part) for key, part in parts.items()},
        gate=gate if any(band.num_rows for band in gate) else [],
        interval_coverage=rows.interval_coverage,
        covered=_covered(rows, judged_N) if rows.interval_coverage else {},
        reliability=_reliability(rows, judged_N),
        handed_over=doubt.handed_over(outcomes, _doubt(rows, judged_N)),
        leaks=_leaks(rows, in_split_N, judged_N),
        missed=_missed(rows, in_split_N) if rows.looks_for_faces else {},
        differences=_differences(outcomes, parts),
        limits=fairness.judged(outcomes, parts, limits),
        comparisons=_compared(rows, other, judged_N) if other else {},
        not_scored=_not_scored(rows, in_split_N),
        findings=rows.listed.findings.get(split, {}),
    )


def _parts(rows: JoinedRows, outcomes: Outcomes, mask_N: np.ndarray) -> dict[str, tuple[np.ndarray, list[str]]]:
    """What the rows of the mask, whose ``outcomes`` these are, are broken down by: indices and names of the parts."""
    parts = {"decade": decades(outcomes.true_age_N)}
    return parts | {key: (code_N[mask_N], names) for key, (code_N, names) in rows.parts.items()}


def _crossed(parts: Parts) -> dict[str, tuple[np.ndarray, list[str]]]:
    """Women of each ethnicity, and men of each, where both are known."""
    code_N, names = crossed(parts, CROSSED)
    return {CROSSED: (code_N, names)} if (code_N >= 0).any() else {}


def _differences(outcomes: Outcomes, parts: Parts) -> Verdict | None:
    """How the parts differ in the errors of their ages or, where there are none, of their groups."""
    metric = "accuracy" if np.isnan(outcomes.error_N).all() else "mae"
    limit = Limit(metric, 0.0, ("gender", "ethnicity", CROSSED))
    verdict = fairness.judged(outcomes, parts, [limit])[0]
    return verdict if verdict.gaps else None


def _compared(rows: JoinedRows, other: OtherModel, judged_N: np.ndarray) -> dict[str, list[Comparison]]:
    """Both models on those of the judged rows that the other one has scored, too: over all, and part by part."""
    both_N = judged_N & other.is_ok_N
    one, others = rows.outcomes.where(both_N), other.outcomes.where(both_N)
    parts = {"all": (np.zeros(len(one), np.int64), ["all"])} | _parts(rows, one, both_N)
    found = {key: metrics.compared(one, others, *part) for key, part in parts.items()}
    return {key: compared for key, compared in found.items() if compared}


def _covered(rows: JoinedRows, judged_N: np.ndarray) -> dict[str, list[CoveredPart]]:
    """How many of the judged rows' intervals hold the age: over all, and part by part. Decades are those of predicted
    age, in which they were calibrated."""
    lower_N, upper_N = rows.predicted.age_lower_N[judged_N], rows.predicted.age_upper_N[judged_N]
    true_N = rows.outcomes.true_age_N[judged_N]
    parts = {"all": (np.zeros(int(judged_N.sum()), np.int64), ["all"])}
    parts["predicted decade"] = decades(rows.outcomes.predicted_age_N[judged_N])
    parts |= {key: (code_N[judged_N], names) for key, (code_N, names) in rows.parts.items()}
    found = {key: metrics.covered(lower_N, upper_N, true_N, *part) for key, part in parts.items()}
    return {key: covered for key, covered in found.items() if covered}


def _reliability(rows: JoinedRows, judged_N: np.ndarray) -> dict[str, list[Reliability]]:
    outcomes = rows.outcomes.where(judged_N)
    has_group_N = (outcomes.true_group_N >= 0) & (outcomes.predicted_group_N >= 0)
    is_right_N = outcomes.true_group_N == outcomes.predicted_group_N
    under_N = np.where(np.isnan(outcomes.true_age_N), np.nan, rows.under_gate_N[judged_N])
    found = {
        doubt.INTERVALS: doubt.of_intervals(rows.share_below_N[judged_N]),
        doubt.GROUPS: doubt.of_probabilities(np.where(has_group_N, rows.probability_N[judged_N], np.nan), is_right_N),
        doubt.UNDER_GATE: doubt.of_probabilities(under_N, outcomes.true_age_N < GATE_AGE),
    }
    return {what: reliability for what, reliability in found.items() if reliability}


def _doubt(rows: JoinedRows, judged_N: np.ndarray) -> np.ndarray:
    """How uncertain the model is of each judged face: the spread of its age or, where there is none, of its group."""
    spread_N = rows.age_std_N[judged_N]
    return 1 - rows.probability_N[judged_N] if np.isnan(spread_N).all() else spread_N


def _leaks(rows: JoinedRows, in_split_N: np.ndarray, judged_N: np.ndarray) -> list[PartScores]:
    """The scores of all rows that can be judged, whatever the findings, and of those of whom nothing is there again,
    beside those of the judged ones; [] where all are the same."""
    nobody_N = np.zeros(len(rows.listed), bool)
    given_N, _ = who_is_judged(replace(rows, listed=replace(rows.listed, is_excluded_N=nobody_N)), in_split_N)
    masks = {AS_GIVEN: given_N, AS_JUDGED: judged_N, LEAK_FREE: judged_N & ~rows.listed.is_repeated_N}
    if len({int(mask_N.sum()) for mask_N in masks.values()}) == 1:
        return []
    everybody = {name: np.zeros(int(mask_N.sum()), np.int64) for name, mask_N in masks.items()}
    return [
        row
        for name, mask_N in masks.items()
        for row in metrics.breakdown(rows.outcomes.where(mask_N), everybody[name], [name])
    ]


def _missed(rows: JoinedRows, in_split_N: np.ndarray) -> dict[str, list[MissedPart]]:
    """Of the photos that could be read, those whose face the detector did not find, or found too small."""
    statuses = np.array([*rows.predicted.statuses, ""])[rows.predicted.status_N]
    is_missed_N = np.isin(statuses, ["no_face", "too_small"])
    looked_N = in_split_N & ~rows.listed.is_excluded_N & (rows.predicted.is_ok_N | is_missed_N)
    parts = {"all": (np.zeros(int(looked_N.sum()), np.int64), ["all"])}
    parts["decade"] = decades(rows.listed.true_age_N[looked_N])
    parts |= {key: (code_N[looked_N], names) for key, (code_N, names) in rows.parts.items()}
    return {key: found for key, part in parts.items() if (found := metrics.missed(is_missed_N[looked_N], *part))}


def _not_scored(rows: JoinedRows, in_split_N: np.ndarray) -> dict[str, int]:
    """Rows that might be judged, had they been scored, by status."""
    statuses = rows.predicted.statuses
    status_S = rows.predicted.status_N[in_split_N & ~rows.listed.is_excluded_N & ~rows.predicted.is_ok_N]
    counts_S = np.bincount(status_S + 1, minlength=len(statuses) + 1).tolist()
    return {status: count for status, count in sorted(zip([NOT_PREDICTED, *statuses], counts_S, strict=True)) if count}


def _summary(rows: JoinedRows, judged: Outcomes, names: list[str]) -> Summary:
    """The scores beside those of the constant predictor of the train split's labels, where there are any, else of that
    of the judged rows themselves."""
    train = rows.outcomes.where(rows.is_in("train") & ~rows.listed.is_excluded_N)
    learnt = constant_predictor(train.true_age_N, train.true_group_N)
    own = constant_predictor(judged.true_age_N, judged.true_group_N)
    constant = Constant(
        age=own.age if learnt.age is None else learnt.age,
        group=own.group if learnt.group is None else learnt.group,
    )
    age_labels_of, group_labels_of = (
        "judged rows" if known is None else "train" for known in (learnt.age, learnt.group)
    )
    return metrics.summary(judged, constant, names, age_labels_of, group_labels_of)


def _num_subjects(outcomes: Outcomes) -> int | None:
    """Number of persons, where any has more than one picture."""
    num_subjects = len(np.unique(outcomes.cluster_N))
    return num_subjects if num_subjects < len(outcomes) else None
