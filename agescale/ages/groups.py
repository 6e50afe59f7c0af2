"""Named, ordered age groups.

In: a text such as ``"child=0-12,teenager=13-19,adult=20-59,senior=60-"``, a preset's name, or bare class names.
Out: ``AgeGroups``, which says the group of an age and the bounds of a group. Knows nothing of images or models.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from agescale.ages.labels import class_name, is_exact, parse_range

MAX_AGE = 100
"""The age distribution has a point for each year 0..MAX_AGE; the last bin, [100, infinity), is open."""


@dataclass(frozen=True)
class AgeGroup:
    """One group: ages in the half-open interval ``[low, high)`` of years; both None where only the name is known."""

    name: str
    low: int | None = None
    high: float | None = None


@dataclass(frozen=True)
class AgeGroups:
    """An ordered set of age groups. Either all have bounds, ascending and without overlap, or none has.

    >>> groups = AgeGroups.parse("child=0-12,adult=13-59,senior=60-")
    >>> groups.names
    ('child', 'adult', 'senior')
    >>> groups.name_of(12), groups.name_of(12.9), groups.name_of(13), groups.name_of(99)
    ('child', 'child', 'adult', 'senior')
    >>> groups.format()
    'child=0-12,adult=13-59,senior=60-'
    >>> AgeGroups.parse("YOUNG,MIDDLE,OLD").is_bounded
    False
    """

    groups: tuple[AgeGroup, ...]

    def __post_init__(self) -> None:
        if not self.groups:
            raise ValueError("age groups: at least one group is needed")
        names = self.names
        if len(set(names)) != len(names):
            raise ValueError(f"age groups: a name stands twice in {', '.join(names)}")
        bounded = [g for g in self.groups if g.low is not None]
        if bounded and len(bounded) != len(self.groups):
            raise ValueError("age groups: either every group has bounds or none has")
        for before, after in pairwise(bounded):
            if before.high is None or after.low is None or before.high > after.low:
                raise ValueError(f"age groups: {before.name} and {after.name} overlap or are not in ascending order")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(g.name for g in self.groups)

    @property
    def is_bounded(self) -> bool:
        return self.groups[0].low is not None

    def __len__(self) -> int:
        return len(self.groups)

    def index_of(self, age: float) -> int | None:
        """Index of the group that holds ``age`` (years), or None where no group does or the groups have no bounds."""
        for index, group in enumerate(self.groups):
            if group.low is not None and group.high is not None and group.low <= age < group.high:
                return index
        return None

    def name_of(self, age: float) -> str | None:
        index = self.index_of(age)
        return None if index is None else self.groups[index].name

    def index_of_interval(self, low: float, high: float) -> int | None:
        """Index of the one group that holds all of ``[low, high)`` years, or None (it straddles two, or is outside).

        An exact age, an interval of one year, belongs where it starts: 24.3 to people aged 24.
        """
        index = self.index_of(low)
        if index is None or is_exact(low, high):
            return index
        group_high = self.groups[index].high
        return index if group_high is not None and high <= group_high else None

    def index_of_label(self, low: float | None, high: float | None, name: str | None) -> int | None:
        """Index of the group of a label: of its interval ``[low, high)`` where it has one, else of its class name."""
        if low is None or high is None:
            return self.names.index(name) if name in self.names else None
        return self.index_of(low) if is_exact(low, high) else self.index_of_interval(low, high)

    def bounds(self) -> list[tuple[int, float]]:
        """``[low, high)`` of every group, years. Raises ValueError where the groups have no bounds."""
        if not self.is_bounded:
            raise ValueError(f"the age groups {', '.join(self.names)} have names only, no bounds")
        return [(g.low, g.high) for g in self.groups if g.low is not None and g.high is not None]

    def format(self) -> str:
        """The text that ``parse`` reads back."""
        text = ",".join(_format_group(group) for group in self.groups)
        return _quoted(text) if text in PRESETS else text  # the one group of a preset's name

    @staticmethod
    def parse(text: str) -> AgeGroups:
        """Groups from a preset's name, ``name=low-high`` items (both ends included, as people say "13-19"), or names.

        Raises ValueError, in one line, for anything else.
        """
        text = PRESETS.get(text, text)
        groups, rest = [], text
        while rest.strip():
            item = QUOTED_ITEM.match(rest)
            if item is None or not (_needs_quotes(name := _unquoted(item)) or name in PRESETS):
                item = ITEM.match(rest)
                assert item is not None, "it ends at a comma, or with the text"
                name = item["name"].strip()
            rest = rest[item.end() :]
            if item[0].strip().strip(","):
                groups.append(_parse_group(item, name))
        if not groups:
            raise ValueError(f"age groups: nothing in {text!r}; write name=low-high,... or one of {', '.join(PRESETS)}")
        return AgeGroups(tuple(groups))

    @staticmethod
    def from_names(names: Iterable[str]) -> AgeGroups:
        """Groups from class names: with bounds where every name is a range such as ``"25-49"`` or ``"75+"``.

        A range that ends above MAX_AGE, such as ``"100-116"``, is open. Names without bounds stand in the order of the
        ages that they mean, as far as that is known.

        >>> AgeGroups.from_names(["adult", "child", "other", "senior", "teenagers", "young adult", "60+"]).names
        ('child', 'teenagers', 'young adult', 'adult', '60+', 'senior', 'other')
        """
        names = list(dict.fromkeys(map(class_name, names)))
        groups = []
        for name in names:
            interval = parse_range(name)
            if interval is None:
                return AgeGroups(tuple(AgeGroup(name) for name in sorted(names, key=_meant_age)))
            low, high = interval
            groups.append(AgeGroup(name, low, high if high <= MAX_AGE else math.inf))
        return AgeGroups(tuple(sorted(groups, key=lambda group: group.low or 0)))


WORDS = {
    "newborn": 0, "infant": 0, "baby": 0, "babies": 0, "bebe": 0, "toddler": 2, "child": 6, "children": 6, "kid": 6,
    "boy": 8, "girl": 8, "preteen": 11, "tween": 11, "minor": 12, "teen": 15, "teenager": 15, "adolescent": 15,
    "juvenile": 15, "youth": 18, "young": 22, "middle": 45, "mature": 50, "senior": 67, "old": 68, "older": 68,
    "elder": 70, "elderly": 70, "aged": 70, "adult": 35, "grown": 35, "man": 35, "woman": 35,
}  # fmt: skip
"""Words of class names, and an age that they mean, years: for the order, not for bounds. Of a name with several the
first in this list counts, so "young adult" is young and "old man" is old."""


def _meant_age(name: str) -> float:
    """For sorting: about the age that a class name means, infinity where nobody knows."""
    interval = parse_range(name)
    if interval is not None:
        return interval[0]
    words = re.split(r"[\W\d_]+", name.casefold())
    return next((age for word, age in WORDS.items() if word in words or f"{word}s" in words), math.inf)


BOUNDS = r"(?:=(?P<bounds>\s*[\[(][^\])=]*[\])]\s*|[^,]*))?(?:,|\Z)"
ITEM = re.compile(rf"(?P<name>[^,=]*){BOUNDS}")
QUOTED_ITEM = re.compile(rf'\s*"(?P<name>(?:[^"]|"")*)"\s*{BOUNDS}')
"""A name in quotation marks, in which two stand for one. Only names that could not be told otherwise have them: the
others keep them as a part of the name."""


def _needs_quotes(name: str) -> bool:
    return name != name.strip() or not name or name.startswith('"') or "," in name or "=" in name


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _unquoted(item: re.Match[str]) -> str:
    return item["name"].replace('""', '"')


def _parse_group(item: re.Match[str], name: str) -> AgeGroup:
    bounds, written = item["bounds"], item[0].removesuffix(",").strip()
    if not item["name"].strip() and not written.startswith('"'):
        raise ValueError(f"age groups: {written!r} has no name; write name=low-high")
    if bounds is None:
        return AgeGroup(name)
    interval = parse_range(bounds)
    if interval is None:
        raise ValueError(f"age groups: {written!r} is not name=low-high, for example teenager=13-19 or senior=60-")
    if interval[0] > MAX_AGE or MAX_AGE < interval[1] < math.inf:
        raise ValueError(f"age groups: {written!r} ends above {MAX_AGE}; leave the last group open, such as {name}=75-")
    return AgeGroup(name, *interval)


def _format_group(group: AgeGroup) -> str:
    name = _quoted(group.name) if _needs_quotes(group.name) else group.name
    if group.low is None or group.high is None:
        return name
    return f"{name}={group.low}-" + ("" if math.isinf(group.high) else f"{int(group.high) - 1}")


PRESETS = {
    "life-stages": "child=0-12,teenager=13-19,adult=20-59,senior=60-",
    "25-years": "0-24=0-24,25-49=25-49,50-74=50-74,75-99=75-99,100+=100-",
    "decades": ",".join(f"{a}-{a + 9}={a}-{a + 9}" for a in range(0, 90, 10)) + ",90+=90-",
    "adulthood": "minor=0-17,adult=18-",
}
"""Names that stand for age groups on every command line. ``25-years`` is the UTKFace scheme of five groups."""
