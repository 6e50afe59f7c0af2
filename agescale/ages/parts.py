"""Parts of faces, whose errors are told apart: by a kind (gender), or by several at once (gender and decade of age).

Legend of shapes: N rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

Parts = Mapping[str, tuple[np.ndarray, Sequence[str]]]
"""By kind (gender): the index of each row's part (N,), -1 where unknown, and the names of the parts."""


def decades(age_N: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The part of each row by decade of age (-1 where the age is unknown), and the parts' names.

    >>> subgroup_N, names = decades(np.array([3.0, 39.0, 104.0, np.nan]))
    >>> [names[part] for part in subgroup_N[:3]], int(subgroup_N[3])
    (['0-9', '30-39', '100+'], -1)
    """
    names = [f"{low}-{low + 9}" for low in range(0, 100, 10)] + ["100+"]
    return np.where(np.isnan(age_N), -1, np.nan_to_num(age_N) // 10).clip(max=10).astype(np.int64), names


def crossed(parts: Parts, by: str) -> tuple[np.ndarray, list[str]]:
    """The parts of a kind, or of several that are told with +: those who are of the same part of each.

    >>> gender, decade = (np.array([0, 1, -1]), ["f", "m"]), (np.array([1, 0, 0]), ["0-9", "10-19"])
    >>> code_N, names = crossed({"gender": gender, "decade": decade}, "gender+decade")
    >>> code_N.tolist(), names
    ([1, 2, -1], ['f 0-9', 'f 10-19', 'm 0-9', 'm 10-19'])
    """
    code_N, names = np.zeros(1, np.int64), [""]
    for kind in by.split("+"):
        of_kind_N, of_kind = parts[kind]
        code_N = np.where((code_N < 0) | (of_kind_N < 0), -1, code_N * len(of_kind) + of_kind_N)
        names = [f"{name} {one}".strip() for name in names for one in of_kind]
    return code_N, names


def num_persons(part_N: np.ndarray, person_N: np.ndarray, num_parts: int) -> np.ndarray:
    """How many persons (numbers, 0 and up) each part has; a part of -1 counts for none.

    >>> num_persons(np.array([0, 0, 1, -1, 0]), np.array([7, 7, 7, 8, 9]), 3).tolist()
    [2, 1, 0]
    """
    is_known_N = part_N >= 0
    num = int(person_N.max(initial=0)) + 1
    pairs = np.unique(part_N[is_known_N].astype(np.int64) * num + person_N[is_known_N])
    return np.bincount(pairs // num, minlength=num_parts)
