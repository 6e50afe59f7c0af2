"""One split judged: rows in, every number of its part of the report out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from agescale.ages import baselines
from agescale.ages.baselines import Constant
from agescale.evaluation import age_gate, metrics
from agescale.evaluation.joined import NOT_PREDICTED, JoinedRows, OtherModel, who_is_judged
from agescale.evaluation.metrics import Outcomes


@dataclass(frozen=True)
class SplitResult:
    """Everything that was found out about one split; the rows of tables are those of ``metrics``."""

    name: str
    outcomes: Outcomes
    metrics: dict[str, Any]
    confusion: np.ndarray
    by_group: list[dict[str, Any]]
    breakdowns: dict[str, list[dict[str, Any]]]
    worst: dict[str, dict[str, Any] | None]  # of each breakdown its worst part
    gate: list[dict[str, Any]]
    comparisons: dict[str, list[dict[str, Any]]]  # with another model, over "all" and part by part; {} = not asked for
    not_scored: dict[str, int]
    findings: dict[str, int]


def judge_split(split: str | None, rows: JoinedRows, names: list[str], other: OtherModel | None) -> SplitResult:
    in_split_N = rows.is_in(split)
    judged_N, counts = who_is_judged(rows, in_split_N)
    outcomes = rows.outcomes.where(judged_N)
    constant, sources = _baseline(rows, outcomes)
    summary = metrics.summary(outcomes, constant, names)
    summary["num_subjects"] = _num_shared_units(outcomes)
    summary["auxiliary"] = {
        key: metrics.agreement(label_N[judged_N], predicted_N[judged_N])
        for key, (label_N, predicted_N) in rows.heads.items()
        if (predicted_N[judged_N] >= 0).any()
    }
    comparisons = _compared(rows, other, judged_N) if other else {}
    if comparisons:
        summary["against"] = comparisons["all"][0]
    for name, source in sources.items():
        summary["baselines"][name]["labels_of"] = source
    status_S = rows.predicted.status_N[in_split_N & ~rows.listed.is_excluded_N & ~rows.predicted.is_ok_N]
    counts_S = np.bincount(status_S + 1, minlength=len(rows.predicted.statuses) + 1).tolist()
    statuses = sorted(zip([NOT_PREDICTED, *rows.predicted.statuses], counts_S, strict=True))
    parts = {"decade": metrics.decades(outcomes.true_age_N)}
    parts |= {key: (code_N[judged_N], of) for key, (code_N, of) in rows.parts.items()}
    gate = age_gate.age_gate(outcomes.true_age_N, outcomes.predicted_age_N)
    return SplitResult(
        name=split or "unsplit",
        outcomes=outcomes,
        metrics=counts | summary,
        confusion=metrics.confusion_matrix(outcomes.true_group_N, outcomes.predicted_group_N, len(names)),
        by_group=metrics.by_group(outcomes, names),
        breakdowns={key: metrics.breakdown(outcomes, *part) for key, part in parts.items()},
        worst={key: metrics.worst_part(outcomes, *part) for key, part in parts.items()},
        gate=gate if any(row["num_rows"] for row in gate) else [],
        comparisons=comparisons,
        not_scored={status: count for status, count in statuses if count},
        findings=rows.listed.findings.get(split, {}),
    )


def _compared(rows: JoinedRows, other: OtherModel, judged_N: np.ndarray) -> dict[str, list[dict[str, Any]]]:
    """Both models on those of the judged rows that the other one has scored, too: over all, and part by part."""
    both_N = judged_N & other.is_ok_N
    one, others = rows.outcomes.where(both_N), other.outcomes.where(both_N)
    parts = {"all": (np.zeros(len(one), np.int64), ["all"]), "decade": metrics.decades(one.true_age_N)}
    parts |= {key: (code_N[both_N], of) for key, (code_N, of) in rows.parts.items()}
    found = {key: metrics.compared(one, others, *part) for key, part in parts.items()}
    return {key: compared for key, compared in found.items() if compared}


def _baseline(rows: JoinedRows, judged: Outcomes) -> tuple[Constant, dict[str, str]]:
    """The constant predictor of the train split's labels, where there are any, else of the judged rows themselves."""
    train = rows.outcomes.where(rows.is_in("train") & ~rows.listed.is_excluded_N)
    learnt = baselines.constant_predictor(train.true_age_N, train.true_group_N)
    own = baselines.constant_predictor(judged.true_age_N, judged.true_group_N)
    constant = Constant(
        age=own.age if learnt.age is None else learnt.age,
        group=own.group if learnt.group is None else learnt.group,
    )
    return constant, {
        "median_age": "judged rows" if learnt.age is None else "train",
        "majority_group": "judged rows" if learnt.group is None else "train",
    }


def _num_shared_units(outcomes: Outcomes) -> int | None:
    """Number of persons (units), where any has more than one picture."""
    num_units = len(np.unique(outcomes.unit_N))
    return num_units if num_units < len(outcomes) else None
