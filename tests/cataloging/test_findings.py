"""What is found wrong with a catalog's rows."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from agescale.ages.groups import AgeGroups
from agescale.cataloging import findings
from agescale.tables import schema

GROUPS = AgeGroups.parse("child=0-12,teenager=13-19,adult=20-59")


def findings_of(
    *rows: dict[str, Any], age_groups: AgeGroups | None = GROUPS, is_labelled_layout: bool = True
) -> list[tuple[str, str, str | None]]:
    """(name, kind, related name) of what is found; rows have a sound label of 30 years unless they say otherwise."""
    sound = {"version": "1", "deleted": False, "age_low": 30.0, "age_high": 31.0, "split": "train"}
    table = pa.Table.from_pylist([{**sound, "content_hash": row["uri"], **row} for row in rows], schema.CATALOG)
    found = findings.find(table, age_groups, is_labelled_layout)
    assert found.schema == schema.FINDINGS
    for each in found.to_pylist():
        assert each["kind"] in schema.FINDING_KINDS
        assert each["version"] == "1"
        assert each["detail"]
    return [(each["uri"], each["kind"], each["related_uri"]) for each in found.to_pylist()]


def years(low: float | None, high: float | None = None) -> dict[str, float | None]:
    return {"age_low": low, "age_high": high if high is not None or low is None else low + 1}


def test_sound_rows_have_no_findings() -> None:
    assert findings_of({"uri": "a"}, {"uri": "b", **years(0)}, {"uri": "c", **years(20, 60)}) == []


def unusual(values: dict[str | None, int], column: str) -> dict[str, str]:
    rows = [{"uri": f"{value}-{number}", "version": "1", "deleted": False, column: value}
            for value, count in values.items() for number in range(count)]  # fmt: skip
    found = findings.unusual_values(pa.Table.from_pylist(rows, schema.CATALOG), column)
    assert all(each["kind"] == "unusual" for each in found)
    return {each["uri"].rpartition("-")[0]: each["detail"] for each in found}


def test_values_that_are_perhaps_mistyped() -> None:
    genders = {"female": 30, "male": 25, "Male": 1, "other": 1, "fmale": 1, "X": 2, None: 9}
    assert unusual(genders, "gender") == {
        "fmale": "gender 'fmale': 1 of 60 have it, most female, male, Male",
        "X": "gender 'X': 2 of 60 have it, most female, male, Male",
    }
    assert unusual({"weiblich": 60, "männlich": 50, "wieblich": 1}, "gender").keys() == {"wieblich"}
    assert unusual({"Asian": 60, "White": 50, "Asain": 1}, "ethnicity").keys() == {"Asain"}
    assert unusual({"Asian": 20, "White": 20, "Inuit": 1}, "ethnicity") == {}, "too few to tell"
    assert unusual({f"from {number}": 1 for number in range(200)}, "ethnicity") == {}
    assert unusual({}, "gender") == unusual({None: 3}, "gender") == {}


def test_images_that_do_not_decode_are_broken_and_small_ones_tiny() -> None:
    rows = [
        {"uri": "a", "read_error": "unreadable: the file is empty"},
        {"uri": "b", "read_error": "too_small: 3x3 pixels, a side under 8"},
        {"uri": "c", "read_error": "missing: c: not found"},
    ]
    assert findings_of(*rows) == [("a", "broken", None), ("b", "tiny", None), ("c", "broken", None)]
    table = pa.Table.from_pylist([{**row, "version": "1", "deleted": False} for row in rows], schema.CATALOG)
    details = findings.find(table, None, False)["detail"].to_pylist()
    assert details == ["the file is empty", "3x3 pixels, a side under 8", "c: not found"]


def test_empty_files_are_broken_and_no_copies_of_one_another() -> None:
    empty = {"read_error": "unreadable: the file is empty", "content_hash": "e3b0"}
    found = findings_of({"uri": "a", **empty}, {"uri": "b", **empty, **years(5)})
    assert found == [("a", "broken", None), ("b", "broken", None)]


def test_one_of_identical_photos_with_one_label_is_kept() -> None:
    rows = [{"uri": name, "content_hash": "x"} for name in "cab"]
    assert findings_of(*rows) == [("b", "duplicate", "a"), ("c", "duplicate", "a")]


@pytest.mark.parametrize(
    ("splits", "kept"),
    [(("train", "val", "test"), "c"), (("train", "val", None), "b"), ((None, "train", "train"), "b")],
)
def test_the_kept_copy_is_the_one_that_judges(splits: tuple[str | None, ...], kept: str) -> None:
    rows = [{"uri": name, "content_hash": "x", "split": split} for name, split in zip("abc", splits, strict=True)]
    found = findings_of(*rows)
    assert [name for name, kind, _ in found if kind == "duplicate"] == sorted({*"abc"} - {kept})
    kept_split = dict(zip("abc", splits, strict=True))[kept]
    leaking = [name for name, split in zip("abc", splits, strict=True) if split != kept_split]
    assert [name for name, kind, _ in found if kind == "leaking"] == leaking
    assert {related for _, _, related in found} == {kept}


def test_a_labelled_copy_is_kept_before_an_unlabelled_one() -> None:
    rows = [{"uri": "a", "content_hash": "x", "split": "test", **years(None)}, {"uri": "b", "content_hash": "x"}]
    assert [it for it in findings_of(*rows) if it[1] == "duplicate"] == [("a", "duplicate", "b")]


def test_all_identical_photos_with_different_labels_are_conflicting() -> None:
    rows = [
        {"uri": "a", "content_hash": "x", **years(30)},
        {"uri": "b", "content_hash": "x", **years(31)},
        {"uri": "c", "content_hash": "x", **years(30), "split": "test"},
    ]
    assert findings_of(*rows) == [("a", "conflicting", "b"), ("b", "conflicting", "a"), ("c", "conflicting", "b")]
    names = [{"uri": name, "content_hash": "x", **years(None), "group": group} for name, group in ("aY", "bO")]
    groups = AgeGroups.parse("Y,O")
    assert [it[1] for it in findings_of(*names, age_groups=groups)] == ["conflicting", "conflicting"]


def test_a_subject_in_two_splits_is_leaking() -> None:
    rows = [
        {"uri": "a", "subject": "anna", "split": "train"},
        {"uri": "b", "subject": "anna", "split": "test"},
        {"uri": "c", "subject": "anna", "split": None},
        {"uri": "d", "subject": "bert", "split": "val"},
        {"uri": "e", "subject": "bert", "split": "val"},
        {"uri": "f", "split": "val"},
        {"uri": "g", "split": "test"},
    ]
    assert findings_of(*rows) == [("a", "leaking", "b")]


def test_labels_that_could_not_be_read_are_unlabelled_or_malformed() -> None:
    rows = [
        {"uri": "a", **years(None), "label_error": "age 'old' is not a number"},
        {"uri": "b", "label_error": "malformed name; only its age is used"},
        {"uri": "c", **years(None)},
        {"uri": "d", **years(None), "group": "YOUNG"},
    ]
    assert findings_of(*rows) == [("a", "unlabelled", None), ("b", "malformed", None), ("c", "unlabelled", None)]


def test_a_label_of_a_photo_without_a_face_is_told() -> None:
    photos = [{"uri": "a", **years(30)}, {"uri": "b", **years(None)}, {"uri": "c", **years(30), "version": "2"}]
    rows = pa.Table.from_pylist([{"version": "1", "deleted": False, **photo} for photo in photos], schema.CATALOG)
    searched = pa.table({"uri": ["a", "b", "c", "d"], "version": ["1"] * 4})
    found = findings.without_face(rows, searched).to_pylist()
    assert [(each["uri"], each["version"], each["kind"]) for each in found] == [("a", "1", "no_face")]


def test_unlabelled_layouts_miss_no_label() -> None:
    rows = [{"uri": "a", **years(None)}, {"uri": "b", **years(None), "content_hash": "a"}]
    assert findings_of(*rows, age_groups=None, is_labelled_layout=False) == [("b", "duplicate", "a")]
    listed = [{"uri": name, **years(None), "content_hash": None, "split": None} for name in "ab"]
    assert findings_of(*listed, age_groups=None, is_labelled_layout=False) == []


@pytest.mark.parametrize(
    ("label", "is_outside"),
    [
        (years(0), False),
        (years(12), False),
        (years(12.6), False),  # somebody of 12
        (years(59.3), False),
        (years(60), True),
        (years(13, 20), False),
        (years(12, 20), True),  # straddles two
        (years(50, float("inf")), True),
    ],
)
def test_labels_in_none_of_the_groups_are_told(label: dict[str, float], is_outside: bool) -> None:
    assert findings_of({"uri": "a", **label}) == ([("a", "outside_groups", None)] if is_outside else [])
    assert findings_of({"uri": "a", **label}, age_groups=AgeGroups.parse("YOUNG,OLD")) == []


def look(*bits: int) -> dict[str, str]:
    """A perceptual hash that differs in these bits from one without any."""
    return {"perceptual_hash": f"{sum(1 << bit for bit in bits):064x}"}


def test_one_of_photos_that_look_the_same_is_kept() -> None:
    rows = [
        {"uri": "a", **look(1)},
        {"uri": "b", **look(1, 2), **years(40)},
        {"uri": "c", **look(), **years(None)},
        {"uri": "d", **look(*range(100))},
        {"uri": "e"},
    ]
    found = [each for each in findings_of(*rows) if each[1] != "unlabelled"]
    assert found == [("b", "near_duplicate", "a"), ("c", "near_duplicate", "a")]


def test_of_photos_that_look_the_same_both_labels_are_told() -> None:
    rows = [{"uri": "a", **look(1), **years(30)}, {"uri": "b", **look(2), **years(40)}]
    named = [{"version": "1", "deleted": False, "content_hash": row["uri"], **row} for row in rows]
    (found,) = findings.find(pa.Table.from_pylist(named, schema.CATALOG), None, True).to_pylist()
    assert found["detail"] == "looks the same: 2 of 256 bits differ, labelled 40 here and 30 there"


def test_the_one_that_trains_is_told_where_one_that_judges_looks_the_same() -> None:
    rows = [
        {"uri": "a", "split": "train", **look(1)},
        {"uri": "b", "split": "train", **look(2)},
        {"uri": "c", "split": "test", **look(3)},
        {"uri": "d", "split": "val", **look(1)},
        {"uri": "e", "split": None, **look(3)},
    ]
    found = findings_of(*rows)
    assert [each for each in found if each[1] == "near_leaking"] == [
        ("a", "near_leaking", "c"),
        ("b", "near_leaking", "c"),
        ("d", "near_leaking", "c"),
    ]
    assert [each for each in found if each[1] == "near_duplicate"] == [("b", "near_duplicate", "a")]


def test_chains_of_photos_that_look_the_same_keep_one() -> None:
    rows = [{"uri": name, **look(*range(10 * place))} for name, place in zip("dbcae", range(5), strict=True)]
    found = findings_of(*rows)
    assert [name for name, kind, _ in found if kind == "near_duplicate"] == ["b", "c", "d", "e"]


def test_copies_of_the_same_bytes_are_no_near_duplicates() -> None:
    same = [{"uri": name, "content_hash": "x", **look(1)} for name in "ab"]
    assert findings_of(*same) == [("b", "duplicate", "a")]
    assert findings_of(*same, {"uri": "c", **look(2)}) == [("b", "duplicate", "a"), ("c", "near_duplicate", "a")]
    conflicting = [{**row, **years(age)} for row, age in zip(same, (30, 31), strict=True)]
    assert [kind for _, kind, _ in findings_of(*conflicting)] == ["conflicting", "conflicting"]
