"""Which rows a run learns from: filters, limits and held-back labels are stable and touch nothing else."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from agescale.ages.groups import AgeGroups
from agescale.tables import filters
from agescale.training import selection

GROUPS = AgeGroups.parse("25-years")


def rows_of(num_rows: int = 1000) -> pa.Table:
    ages = [float(index % 90) for index in range(num_rows)]
    return pa.table(
        {
            "uri": [f"/faces/{index}.jpg" for index in range(num_rows)],
            "version": ["1"] * num_rows,
            "content_hash": [f"{index:064x}" for index in range(num_rows)],
            "age_low": pa.array(ages, pa.float32()),
            "age_high": pa.array([age + 1 for age in ages], pa.float32()),
            "gender": pa.array([("male", "female", None)[index % 3] for index in range(num_rows)]),
        }
    )


def test_a_filter_keeps_the_rows_for_which_it_holds_in_their_order() -> None:
    rows = filters.filter_rows(rows_of(), "gender == 'male' and age_low >= 18")
    assert set(rows["gender"].to_pylist()) == {"male"}
    assert min(rows["age_low"].to_pylist()) == 18
    assert rows["uri"].to_pylist() == sorted(rows["uri"].to_pylist(), key=lambda uri: int(uri[7:-4]))


@pytest.mark.parametrize(
    "where", ["gendre == 'male'", "gender ==", "age_low + 1", "gender > 3", "age_low > 200", "1", "gender is None"]
)
def test_a_filter_that_is_none_or_holds_for_nothing_is_one_line(where: str) -> None:
    with pytest.raises(ValueError, match="--where") as caught:
        filters.filter_rows(rows_of(), where)
    assert "\n" not in str(caught.value)


def test_a_smaller_choice_is_part_of_a_larger_one_whatever_the_order() -> None:
    rows = rows_of()
    few, many = (set(selection.limit_rows(rows, number)["uri"].to_pylist()) for number in (100, 300))
    assert len(few) == 100
    assert few < many
    assert set(selection.limit_rows(rows.take(np.arange(999, -1, -1)), 100)["uri"].to_pylist()) == few
    assert selection.limit_rows(rows, 5000) is rows


def test_coarse_labels_are_the_bounds_of_the_age_group_for_the_share_asked_for() -> None:
    rows = rows_of()
    coarse = selection.coarsen_labels(rows, 0.8, GROUPS)
    is_coarse = np.array(coarse["age_high"]) - np.array(coarse["age_low"]) > 1.5
    assert 0.75 < is_coarse.mean() < 0.85
    for age, low, high in zip(*(t[n].to_pylist() for t, n in [(rows, "age_low"), (coarse, "age_low"),
                                                             (coarse, "age_high")]), strict=True):  # fmt: skip
        assert (low, high) in ((age, age + 1), (age // 25 * 25, age // 25 * 25 + 25))
    assert selection.coarsen_labels(rows, 0.8, GROUPS).equals(coarse)
    assert selection.coarsen_labels(rows, 0.0, GROUPS).equals(rows)


def test_coarse_labels_leave_what_has_no_exact_age_as_it_is() -> None:
    rows = rows_of(3).set_column(3, "age_low", pa.array([None, 20, 30], pa.float32()))
    rows = rows.set_column(4, "age_high", pa.array([None, 30, 31], pa.float32()))
    coarse = selection.coarsen_labels(rows, 1.0, GROUPS)
    assert coarse["age_low"].to_pylist() == [None, 20, 25]
    assert coarse["age_high"].to_pylist() == [None, 30, 50]
    with pytest.raises(ValueError, match="names only"):
        selection.coarsen_labels(rows, 1.0, AgeGroups.parse("YOUNG,OLD"))


def test_a_predicted_gender_stands_in_only_where_none_is_known() -> None:
    rows = rows_of(6)
    predictions = pa.table(
        {"uri": rows["uri"], "version": ["1"] * 5 + ["other"], "gender": pa.array(["female"] * 6, pa.string())}
    )
    twice = pa.concat_tables([predictions, predictions])  # a file that changed and changed back
    filled = selection.fill_gender(rows, twice).sort_by("uri")
    assert filled["gender"].to_pylist() == ["male", "female", "female", "male", "female", None]


def test_predictions_of_nobody_or_in_other_words_are_refused() -> None:
    rows = rows_of(6)
    said = pa.table({"uri": rows["uri"], "version": ["1"] * 6, "gender": pa.array([None] * 6, pa.string())})
    with pytest.raises(ValueError, match="tell the gender of none"):
        selection.fill_gender(rows, said)
    with pytest.raises(ValueError, match=r"say \['F', 'M'\], where the catalog says \['female', 'male'\]"):
        selection.fill_gender(rows, said.set_column(2, "gender", pa.array(["F", "M"] * 3)))


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="--max-images 0: at least 1"):
        selection.limit_rows(rows_of(3), 0)
