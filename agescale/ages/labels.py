"""What people write for an age: one cell, folder name or bound in, years out. The one place that knows an exact age.

Everything is read by pattern and never by ``float()``, which takes ``1_9`` for 19 and ``1e1`` for 10. Ages are whole
years, so ``>60`` begins at 61. docs/catalog.md has a table of what is taken. Guesses nothing: what is none of it is
None, and ``odd_one`` may know what it is instead.
"""

from __future__ import annotations

import math
import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from torch import Tensor

EXACT_YEARS = 1.001
"""A label no wider than this is an exact age; float32 ages such as 12.3 may be a hair wider than a year."""
OLDEST_YEARS = 120
FULL_AGE = 18
"""Minors are younger, years."""

MISSING = frozenset(["", "-", "--", "?", "nan", "na", "n/a", "n.a.", "#n/a", "<na>", "null", "none", "unknown"])
"""What stands where nothing is known, in lower case."""

YEAR = r"0*([0-9]{1,3})(?:\.0*)?"
DASH = r"(?:[-‐‑–—−~_]|to)"
RANGES = {
    YEAR: (0, 1),
    rf"{YEAR} ?{DASH} ?{YEAR}": (0, 1),
    rf"\( ?{YEAR} ?[,;-] ?(?:{YEAR}|inf) ?\)": (0, 1),  # as in Adience: both ends belong to it
    rf"\[ ?{YEAR} ?[,;-] ?(?:{YEAR}|inf) ?\]": (0, 1),
    rf"\[ ?{YEAR} ?[,;-] ?(?:{YEAR}|inf) ?\)": (0, 0),
    rf"\( ?{YEAR} ?[,;-] ?(?:{YEAR}|inf) ?\]": (1, 1),
}
"""Patterns of a range, and what to add to its ends to have ``[low, high)``; without a second end it is one year."""
OPEN_ABOVE = {
    rf"{YEAR} ?(?:\+|{DASH}|plus|(?:and|or|&) ?(?:over|above|older|more|up|upwards))": 0,
    rf"(?:>=|≥|at least|from) ?{YEAR}": 0,
    rf"(?:>|more than|over|above|older than) ?{YEAR}": 1,
}
"""Patterns of a range without an upper end, and what to add to the lower one."""
OPEN_BELOW = {
    rf"(?:<|less than|under|below|younger than) ?{YEAR}": 0,
    rf"(?:<=|≤|at most|up to) ?{YEAR}": 1,
    rf"{YEAR} ?(?:and|or|&) ?(?:under|below|younger|less)": 1,
}
"""Patterns of a range from birth, and what to add to the upper end."""

MONTH = (
    "jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    "|nov(?:ember)?|dec(?:ember)?|mrz|mär|mai|okt|dez"
)
DATE = (
    rf"[0-9]{{1,2}}[-./ ]+(?:{MONTH})\.?(?:[-./ ]+[0-9]{{2,4}})?|(?:{MONTH})\.?[-./ ]+[0-9]{{1,4}}"
    r"|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[ t].*)?|[0-9]{1,2}([./])[0-9]{1,2}\1[0-9]{2,4}"
)


@overload
def is_exact(low: float, high: float) -> bool: ...
@overload
def is_exact(low: np.ndarray, high: np.ndarray) -> np.ndarray: ...
@overload
def is_exact(low: Tensor, high: Tensor) -> Tensor: ...


def is_exact(low: Any, high: Any) -> Any:
    """Whether a label ``[low, high)`` is an exact age; of arrays and tensors one by one, where NaN is none.

    >>> is_exact(34.0, 35.0), is_exact(20.0, 30.0), is_exact(np.array([12.3, np.nan]), np.array([13.3, np.nan]))
    (True, False, array([ True, False]))
    """
    return high - low <= EXACT_YEARS


def has_exact_age(rows: pa.Table) -> pa.ChunkedArray:
    """Whether the label of each row (``age_low``, ``age_high``) is an exact age; null where there is no age.

    >>> has_exact_age(pa.table({"age_low": [34.0, 20.0, None], "age_high": [35.0, 30.0, None]})).to_pylist()
    [True, False, None]
    """
    return pc.less_equal(pc.subtract(rows["age_high"], rows["age_low"]), EXACT_YEARS)


def parse_age(text: str) -> tuple[float, float] | None:
    """The interval of an exact age as people write it, or None.

    >>> parse_age("34"), parse_age(" 34.5 "), parse_age("34 years"), parse_age("-3"), parse_age("1e1")
    ((34.0, 35.0), (34.5, 35.5), (34.0, 35.0), None, None)
    """
    match = re.fullmatch(r"0*([0-9]{1,3}(?:\.[0-9]*)?)", _plain(text))
    if match is None or float(match[1]) > OLDEST_YEARS:
        return None
    return float(match[1]), float(match[1]) + 1


def parse_range(text: str) -> tuple[int, float] | None:
    """The half-open interval of years of a range as people write it, or None where the text is no range.

    >>> parse_range("25-49"), parse_range("60+"), parse_range("under 18"), parse_range("(0, 2)"), parse_range("7")
    ((25, 50.0), (60, inf), (0, 18.0), (0, 3.0), (7, 8.0))
    """
    plain = _plain(text)
    interval = None
    for pattern, (below, above) in RANGES.items():
        if match := re.fullmatch(pattern, plain):
            low, *last = match.groups()
            high = math.inf if last == [None] else float(last[0] if last else low)
            interval = int(low) + below, high + above
    for pattern, more in OPEN_ABOVE.items():
        if match := re.fullmatch(pattern, plain):
            interval = int(match[1]) + more, math.inf
    for pattern, more in OPEN_BELOW.items():
        if match := re.fullmatch(pattern, plain):
            interval = 0, float(int(match[1]) + more)
    if match := re.fullmatch("([0-9]{0,2}0)s", plain):  # 20s
        interval = int(match[1]), float(int(match[1]) + 10)
    if interval is None or interval[0] > OLDEST_YEARS or interval[0] >= interval[1]:
        return None
    return interval


@lru_cache(maxsize=1000)
def parse_interval(text: str) -> tuple[float, float] | None:
    """The interval of an age or a range, or None where the text is neither."""
    return parse_age(text) or parse_range(text)


@lru_cache(maxsize=1000)
def is_missing(text: str) -> bool:
    """Whether a text says that nothing is known.

    >>> [is_missing(text) for text in (" ", "NaN", "unknown", "none of them")]
    [True, True, True, False]
    """
    return text.strip().lower() in MISSING


def odd_one(text: str) -> str | None:
    """What a text holds that is no label and no class name either, in words, or None.

    >>> odd_one("9-Mar"), odd_one("27,5"), odd_one("old")
    ('a date, which spreadsheets make of ranges such as 3-9', 'a decimal comma', None)
    """
    plain = _plain(text)
    if is_missing(text):
        return "it says that nothing is known"
    if re.fullmatch(DATE, plain):
        return "a date, which spreadsheets make of ranges such as 3-9"
    if re.fullmatch("[0-9]+,[0-9]+", plain):
        return "a decimal comma"
    return None


def class_name(text: str) -> str:
    """A class name as it is compared: without blanks around it, its accents in one piece (disks differ in that)."""
    return unicodedata.normalize("NFC", text).strip()


def _plain(text: str) -> str:
    """``text`` in lower case, with single blanks, and without words that say no more than that these are ages."""
    plain = " ".join(text.lower().split())
    plain = re.sub(r"^(?:ages?|aged)[ _:=-]*(?=[^a-z])", "", plain)
    return re.sub(r"(?<=[0-9.+]) ?(?:years?|yrs?)(?: old)?(?= |$)", "", plain)
