"""The parts of the validation faces by which the worst MAE of an epoch is told: rows in, the cells that they fall into.

A face is of one part of each kind that is asked for (women; those of 20 to 29). Faces that are of the same parts of
all kinds make up a cell, so that sums by cell tell the mean of every part. What a part is, and that it takes enough
persons, is the same as where gaps between parts are judged.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from agescale.ages import few
from agescale.ages.groups import AgeGroups
from agescale.ages.labels import is_exact
from agescale.ages.parts import Parts, crossed, decades, num_persons
from agescale.tables import catalogs


@dataclass(frozen=True)
class Cells:
    """How many there are and, of each part with enough persons, the cells that it is made up of."""

    num: int
    parts: tuple[tuple[int, ...], ...]


def exact_ages(rows: pa.Table) -> np.ndarray:
    """Years, NaN for what is no exact age."""
    low_N, high_N = (rows[name].to_numpy().astype(np.float64) for name in ("age_low", "age_high"))
    return np.where(is_exact(low_N, high_N), low_N, np.nan)


def cells_of(rows: pa.Table, age_groups: AgeGroups, worst_of: str) -> tuple[np.ndarray, Cells]:
    """The cell of each row (N,), and what there is of them: by the kinds in ``worst_of``, such as gender+decade,
    ethnicity, else by age group. Raises ValueError where of an asked kind no part has enough persons."""
    age_N, person_N, known = exact_ages(rows), _persons(rows), kinds_of(rows, age_groups)
    kinds = worst_of.split(",") if worst_of else ["group"]
    code_NK = np.full((len(rows), len(kinds)), -1)
    enough = []
    for index, kind in enumerate(kinds):
        code_N, names = crossed(known, kind)
        code_NK[:, index] = np.where(np.isnan(age_N), -1, code_N)
        num_P = num_persons(code_NK[:, index], person_N, len(names))
        enough.append(np.flatnonzero(num_P >= few.ENOUGH_FACES).tolist())
        if worst_of and not enough[-1]:
            most = f"{names[num_P.argmax()]} has most, {num_P.max()}" if num_P.any() else "no label tells any"
            raise ValueError(
                f"--worst-of {worst_of}: no part by {kind} has {few.ENOUGH_FACES} persons with an exact age among the "
                f"validation faces ({most}); leave {kind} out"
            )
    cells_CK, cell_N = np.unique(code_NK, axis=0, return_inverse=True)
    parts = [
        tuple(np.flatnonzero(cells_CK[:, index] == part).tolist()) for index, of in enumerate(enough) for part in of
    ]
    return cell_N.reshape(-1), Cells(len(cells_CK), tuple(parts))


def kinds_of(rows: pa.Table, age_groups: AgeGroups) -> Parts:
    """What the labels of rows tell parts by."""
    return {
        "group": (catalogs.group_indices(rows, age_groups), age_groups.names),
        "decade": decades(exact_ages(rows)),
        "gender": _named(rows["gender"]),
        "ethnicity": _named(rows["ethnicity"]),
    }


def _named(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    names = pc.unique(column).drop_null().sort()
    return pc.fill_null(pc.index_in(column, names), -1).to_numpy(), names.to_pylist()


def _persons(rows: pa.Table) -> np.ndarray:
    """A number (N,) for each, the same for all rows of a ``subject`` of a ``catalog``; nobody known shares one."""
    names = pc.binary_join_element_wise(rows["catalog"].cast(pa.string()), rows["subject"], "/")
    code_N = pc.fill_null(pc.index_in(names, pc.unique(names).drop_null()), -1).to_numpy()
    return np.where(code_N < 0, len(rows) + np.arange(len(rows)), code_N)
