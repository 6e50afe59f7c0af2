"""The faces whose age or group is not quite the label's, the worst first, as a table."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from agescale.evaluation.joined import JoinedRows, is_wrong, who_is_judged
from agescale.tables import schema

MAX_ERRORS = 1_000_000
"""JoinedRows of the table of errors: about what a spreadsheet holds."""


def error_table(rows: JoinedRows, names: list[str]) -> tuple[pa.Table, int]:
    """The first MAX_ERRORS of them, and how many there are."""
    index_E = _worst_first(rows)
    return _table(rows, names, index_E[:MAX_ERRORS]), len(index_E)


def _worst_first(rows: JoinedRows) -> np.ndarray:
    """Positions of the faces of any split whose age or group is not quite the label's; the largest errors of the age
    first, then the wrong groups of which the model is surest."""
    compared_N, _ = who_is_judged(rows, np.ones(len(rows.listed), bool))
    error_N = rows.outcomes.error_N
    index_E = np.flatnonzero(compared_N & ((np.abs(error_N) > 0) | is_wrong(rows)))
    return index_E[np.lexsort((-np.nan_to_num(rows.probability_N[index_E]), -np.nan_to_num(np.abs(error_N[index_E]))))]


def _table(rows: JoinedRows, names: list[str], index_E: np.ndarray) -> pa.Table:
    probability_E = rows.probability_N[index_E].astype(np.float64)
    ages, predicted = rows.outcomes.true_age_N[index_E], rows.outcomes.predicted_age_N[index_E]
    named = np.array([*names, None], dtype=object)  # the index -1 is None
    groups, predicted_groups = (
        named[rows.outcomes.true_group_N[index_E]],
        named[rows.outcomes.predicted_group_N[index_E]],
    )
    labels = [group if np.isnan(age) else f"{age:g}" for age, group in zip(ages, groups, strict=True)]
    predictions = [
        group if np.isnan(age) or np.isnan(label) else f"{age:.1f}"
        for label, age, group in zip(ages, predicted, predicted_groups, strict=True)
    ]
    face_N = rows.predicted.face_N
    return pa.table({
        "uri": rows.listed.places(index_E)["uri"],
        **({} if face_N is None else {"face": pa.array(face_N[index_E], pa.int32())}),
        "split": pa.array(np.array([*schema.SPLITS, None], dtype=object)[rows.listed.split_N[index_E]], pa.string()),
        "label": pa.array(labels, pa.string()),
        "prediction": pa.array(predictions, pa.string()),
        "error": pa.array(np.round(rows.outcomes.error_N[index_E], 2), pa.float64(), from_pandas=True),
        "label_group": pa.array(groups, pa.string()),
        "predicted_group": pa.array(predicted_groups, pa.string()),
        "group_probability": pa.array(np.round(probability_E, 3), pa.float64(), from_pandas=True),
    })  # fmt: skip
