"""Which rows of a table a condition of pandas keeps."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def filter_rows(rows: pa.Table, where: str) -> pa.Table:
    """The rows for which a pandas query holds (see ``mask_of``). Raises ValueError where it holds for none."""
    is_kept = mask_of(rows, where)
    if not pc.any(is_kept).as_py():
        raise ValueError(f"--where {where!r} holds for none of the {len(rows):,} images")
    return rows.filter(is_kept)


def mask_of(rows: pa.Table, where: str) -> pa.BooleanArray:
    """For which rows a pandas query holds, such as ``gender == 'male' and age_low >= 18``.

    Raises ValueError, in one line, for what is no such expression.
    """
    names = ", ".join(rows.column_names)
    try:
        is_kept = np.asarray(rows.to_pandas().eval(where, engine="python"))
    except (SyntaxError, NameError, TypeError, ValueError, LookupError, AttributeError, NotImplementedError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"--where {where!r}: {reason}; it may use {names}; missing values: gender.isnull()") from error
    if is_kept.dtype != bool or is_kept.shape != (len(rows),):
        raise ValueError(f"--where {where!r} is not a condition; it may use {names}")
    return pa.array(is_kept)


def check_genders(is_any: bool, ours: Iterable[str], theirs: Iterable[str]) -> None:
    """Raises ValueError where predictions tell the gender of none of the images, or others than the catalog knows."""
    if not is_any:
        raise ValueError("--gender-from: these predictions tell the gender of none of the catalog's images")
    if set(ours) and not set(theirs) <= set(ours):
        raise ValueError(f"--gender-from: the predictions say {sorted(theirs)}, where the catalog says {sorted(ours)}")
