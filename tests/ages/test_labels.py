"""Ages as people write them, held against the table that promises what is taken."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from agescale import config
from agescale.ages.groups import AgeGroups
from agescale.ages.labels import (
    EXACT_YEARS,
    has_exact_age,
    is_exact,
    odd_one,
    parse_age,
    parse_interval,
    parse_range,
)

DOCS = Path(__file__).parents[2] / "docs" / "catalog.md"


def rows_of_the_table() -> list[tuple[str, str]]:
    """(what is written, what is taken) of each example in the documentation's table."""
    table = DOCS.read_text().partition("| Written | Years |\n")[2].partition("\n\n")[0]
    cells = [line.strip("|").split("|") for line in table.splitlines()[1:]]
    return [(text, taken.strip()) for written, taken in cells for text in re.findall("`([^`]*)`", written)]


def test_the_table_is_found() -> None:
    assert len(rows_of_the_table()) > 40


@pytest.mark.parametrize(("text", "taken"), rows_of_the_table())
def test_what_the_table_promises_is_taken(text: str, taken: str) -> None:
    interval, odd = parse_interval(text), odd_one(text)
    if taken == "no label":
        assert (interval, odd) == (None, "it says that nothing is known")
    elif taken.startswith("malformed"):
        assert (interval, f"malformed: {odd}") == (None, taken)
    elif taken.startswith("no age"):
        assert (interval, odd) == (None, None)
    else:
        low, high = taken.strip("[)").split(", ")
        assert interval == (float(low), float(high))
        assert odd is None


@pytest.mark.parametrize(("text", "taken"), [row for row in rows_of_the_table() if row[1].startswith("[")])
def test_what_the_table_promises_bounds_a_group_too(text: str, taken: str) -> None:
    if "." not in text or text == "34.0":
        low, high = taken.strip("[)").split(", ")
        assert AgeGroups.parse(f"these={text}").bounds()[0] == (int(low), float(high))


@pytest.mark.parametrize("text", ["1_9", "0_2", "1e1", "0x10", "inf", "nan", "٣٤", "1_000", "- 5", "+5", "25,32"])
def test_what_python_or_others_take_for_a_number_is_no_exact_age(text: str) -> None:
    assert parse_age(text) is None


@pytest.mark.parametrize(
    "text", ["300", "130-140", "(20, 20]", "(20, 19)", "[20, 20)", "<0", "60+5", "(25, 32", "junior 1", "may"]
)
def test_what_is_no_interval_of_years_is_none(text: str) -> None:
    assert parse_range(text) is None
    assert odd_one(text) is None


@pytest.mark.parametrize(
    "text", ["9-Mar", "09 Mar", "Mar-09", "3-Sept-2024", "2024-03-09 00:00:00", "3/9/2024", "Oct 19"]
)
def test_dates_are_told_as_such(text: str) -> None:
    assert parse_interval(text) is None
    assert (odd_one(text) or "").startswith("a date")


def test_an_exact_age_is_the_same_as_numbers_arrays_tensors_and_columns() -> None:
    low_N = np.array([0.0, 12.3, 34.5, 20.0, 60.0, np.nan], np.float32)
    high_N = np.array([1.0, 13.3, 35.5, 30.0, np.inf, np.nan], np.float32)
    expected = [True, True, True, False, False, False]
    assert is_exact(low_N, high_N).tolist() == expected
    assert is_exact(torch.from_numpy(low_N), torch.from_numpy(high_N)).tolist() == expected
    assert [is_exact(float(low), float(high)) for low, high in zip(low_N, high_N, strict=True)] == expected
    rows = pa.table({"age_low": pa.array(low_N, from_pandas=True), "age_high": pa.array(high_N, from_pandas=True)})
    assert has_exact_age(rows).to_pylist() == [*expected[:-1], None]


def test_the_help_of_train_says_the_same_width() -> None:
    assert f'"age_high - age_low <= {EXACT_YEARS}"' in Path(config.__file__).read_text()
