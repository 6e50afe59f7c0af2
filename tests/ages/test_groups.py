"""Age groups as people write them."""

from __future__ import annotations

import math
import random

import pytest

from agescale.ages.groups import PRESETS, AgeGroup, AgeGroups
from agescale.ages.labels import parse_range


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_covers_all_ages_and_survives_being_written(name: str) -> None:
    groups = AgeGroups.parse(name)
    assert [groups.index_of(age) is not None for age in range(121)] == [True] * 121
    assert AgeGroups.parse(groups.format()) == groups


@pytest.mark.parametrize(
    "names",
    [["25-49", "0-24", "75+"], ["100-116", "0-99"], ["60-110", "0-59"], ["YOUNG", "OLD", "60+"], ["senior citizen"]],
)
def test_groups_of_class_names_survive_being_written(names: list[str]) -> None:
    groups = AgeGroups.from_names(names)
    assert set(groups.names) == set(names)
    assert AgeGroups.parse(groups.format()) == groups


def test_a_range_above_the_oldest_year_is_open() -> None:
    assert AgeGroups.from_names(["100-116", "90-99"]).groups == (
        AgeGroup("90-99", 90, 100),
        AgeGroup("100-116", 100, math.inf),
    )


@pytest.mark.parametrize(
    "in_order",
    [
        ["child", "teen", "adult", "senior"],
        ["YOUNG", "MIDDLE", "OLD"],
        ["babies", "kids", "teenagers", "young_adults", "middle-aged", "elderly"],
        ["0-12", "teen", "adult", "60+"],
        ["minor", "adult", "class 7", "xyz"],
        ["b", "d", "f"],
    ],
)
def test_names_stand_in_the_order_of_the_ages_that_they_mean_and_unknown_ones_last(in_order: list[str]) -> None:
    assert AgeGroups.from_names(sorted(in_order)).names == tuple(in_order)


def test_the_order_that_somebody_has_asked_for_stays() -> None:
    assert AgeGroups.parse("senior,adult,child").names == ("senior", "adult", "child")


def test_both_ends_of_a_range_belong_to_it() -> None:
    groups = AgeGroups.parse("child=0-12, teen = 13-19 ,senior=60+")
    assert groups.bounds() == [(0, 13), (13, 20), (60, math.inf)]
    assert [groups.name_of(age) for age in (0, 12.99, 13, 20, 59.9, 60, 110)] == [
        *("child", "child", "teen", None, None, "senior", "senior")
    ]


def test_an_interval_belongs_to_the_one_group_that_holds_it() -> None:
    groups = AgeGroups.parse("child=0-12,teen=13-19,senior=60-")
    intervals = [(0, 13), (13, 15), (12, 14), (60, math.inf), (50, math.inf), (30, 31)]
    assert [groups.index_of_interval(*interval) for interval in intervals] == [0, 1, None, 2, None, None]
    assert groups.index_of_interval(12.6, 13.6) == 0  # somebody of 12
    assert AgeGroups.parse("YOUNG,OLD").index_of_interval(3, 4) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing in ''"),
        ("child=0-12,child=13-", "a name stands twice"),
        ("child=0-12,adult", "either every group has bounds or none"),
        ("child=0-12,adult=10-", "overlap"),
        ("adult=18-,child=0-17", "overlap or are not in ascending order"),
        ("child=young", "is not name=low-high"),
        ("=0-12", "has no name"),
        ("child=12-3", "is not name=low-high"),
        ("old=75-116", "ends above 100; leave the last group open, such as old=75-"),
        ("old=101-", "ends above 100"),
    ],
)
def test_what_is_no_set_of_groups_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        AgeGroups.parse(text)
    assert "\n" not in str(caught.value)


LETTERS = [*"ab9-_'[]()/é ", *',="\t\n', "decades"]


@pytest.mark.parametrize("seed", range(300))
def test_groups_of_any_names_survive_being_written(seed: int) -> None:
    draw = random.Random(seed)
    names = {"".join(draw.choices(LETTERS, k=draw.randrange(6))) for _ in range(draw.randrange(1, 5))}
    unbounded = AgeGroups(tuple(AgeGroup(name) for name in sorted(names)))
    assert AgeGroups.parse(unbounded.format()) == unbounded
    bounded = AgeGroups(tuple(AgeGroup(name, 9 * i, 9.0 * i + 9) for i, name in enumerate(sorted(names))))
    assert AgeGroups.parse(bounded.format()) == bounded


@pytest.mark.parametrize("seed", range(100))
def test_names_that_need_no_quotation_marks_are_written_and_read_as_ever(seed: int) -> None:
    draw = random.Random(seed)
    names = {"x" + "".join(draw.choices("ab9-_'\"[]()/ é", k=5)) + "x" for _ in range(3)}
    assert AgeGroups.parse(" ,".join(names)).names == tuple(names)
    assert AgeGroups.parse(", ".join(names)).format() == ",".join(names)


def test_a_single_class_of_a_preset_s_name_is_that_class() -> None:
    groups = AgeGroups.from_names(["decades"])
    assert AgeGroups.parse(groups.format()).names == ("decades",)
    assert AgeGroups.parse("decades,other").format() == "decades,other"


def test_names_with_a_comma_or_an_equals_sign_stand_in_quotation_marks() -> None:
    groups = AgeGroups.parse('"young, male"=0-29, "a=b" = (30, 59),"60 ""plus"", so"=60 and over,')
    assert groups.names == ("young, male", "a=b", '60 "plus", so')
    assert groups.bounds() == [(0, 30), (30, 60), (60, math.inf)]
    assert AgeGroups.parse('"old",a "b" c').names == ('"old"', 'a "b" c')  # these need none, and keep theirs


def test_class_names_are_told_without_the_blanks_around_them() -> None:
    assert AgeGroups.from_names(["child ", "child", " adult", "Be\u0301be\u0301", "Bébé"]).names == (
        "child",
        "adult",
        "Bébé",
    )


def test_ranges_are_read_as_people_write_them() -> None:
    assert [parse_range(text) for text in ("25-49", "25 – 49", "25_49", "25 to 49")] == [(25, 50)] * 4
    assert [parse_range(text) for text in ("49-25", "young", "-3", "1234", "25+49", "")] == [None] * 6
