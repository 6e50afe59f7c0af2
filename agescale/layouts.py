"""The ways in which people lay out labelled faces: paths in, labels out. Looks at names only, never at pixels.

Each layout is a function ``(relative paths, LabelSource) -> Labels``; ``LAYOUTS`` lists them all.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from agescale.age_groups import AgeGroups, parse_range
from agescale.schema import SPLITS

OLDEST_YEARS = 120


@dataclass(frozen=True)
class Label:
    """What is known of one image. Ages: the interval ``[age_low, age_high)`` in years; None is unknown."""

    age_low: float | None = None
    age_high: float | None = None
    group: str | None = None  # the class name, where that is all the label says
    subject: str | None = None
    gender: str | None = None
    ethnicity: str | None = None
    split: str | None = None
    error: str | None = None  # what could not be read, in words

    @property
    def is_labelled(self) -> bool:
        return self.age_low is not None or self.group is not None


@dataclass(frozen=True)
class LabelSource:
    """What labels are read from besides the paths: the age groups, and for ``csv`` its bytes and column names."""

    age_groups: AgeGroups | None = None
    csv_bytes: bytes | None = None
    image_column: str | None = None
    label_column: str | None = None
    age_column: str | None = None
    split_column: str | None = None
    gender_column: str | None = None
    ethnicity_column: str | None = None
    subject_column: str | None = None


@dataclass(frozen=True)
class Labels:
    """Labels by relative path, the age groups that they are told in, and names in the CSV that no file has."""

    by_path: dict[str, Label]
    age_groups: AgeGroups | None = None
    missing_files: list[str] = field(default_factory=list)


def class_folders(paths: Sequence[str], source: LabelSource) -> Labels:
    """One folder a class, directly below the source: ``child/x.jpg``, ``25-49/y.jpg``, ``34/z.jpg``.

    Without ``--age-groups`` the groups are the folders: with bounds where every name is a range, else names only. One
    folder an age (``007/x.jpg``) makes no groups.
    """
    folders = sorted({PurePosixPath(path).parts[0] for path in paths if len(PurePosixPath(path).parts) > 1})
    groups = source.age_groups
    if groups is None:
        groups = _groups_of(folders)
    by_path = {}
    for path in paths:
        parts = PurePosixPath(path).parts
        by_path[path] = _class_label(parts[0], groups) if len(parts) > 1 else Label(error="in no class folder")
    return Labels(by_path, groups)


def utkface(paths: Sequence[str], source: LabelSource) -> Labels:
    """UTKFace file names: ``[age]_[gender]_[race]_[time].jpg.chip.jpg``; gender 0 male, 1 female (Zhang et al. 2017).

    A name that lacks a field keeps its age, where it starts with one: the others cannot be told apart.
    """
    return Labels({path: _utkface_label(PurePosixPath(path).name) for path in paths}, source.age_groups)


def unlabelled(paths: Sequence[str], source: LabelSource) -> Labels:
    """Images to be scored: no labels."""
    return Labels({path: Label() for path in paths}, source.age_groups)


def csv_file(paths: Sequence[str], source: LabelSource) -> Labels:
    """A CSV with a header; its image column holds paths relative to the source.

    The label column holds ages, ranges ("25-49") or class names; the age column holds ages. Raises ValueError where the
    CSV has no such columns.
    """
    rows, columns = _read_csv(source.csv_bytes or b"")
    image_column = source.image_column or _guess(columns, ("file_name", "filename", "image", "path", "file", "ID"))
    if image_column is None:
        raise ValueError(f"--image-column: name the column of image names, one of {', '.join(columns)}")
    if source.label_column and source.age_column:
        raise ValueError("give --label-column or --age-column, not both")
    if not (source.label_column or source.age_column):
        guessed = _guess(columns, ("age", "real_age", "apparent_age"))
        if guessed is None:
            raise ValueError(f"--label-column or --age-column: name the column of labels, one of {', '.join(columns)}")
        source = LabelSource(**{**source.__dict__, "age_column": guessed})
    for flag, column in _column_flags(source, image_column):
        if column not in columns:
            raise ValueError(f"{flag} {column}: the CSV has no such column, it has {', '.join(columns)}")

    groups = source.age_groups
    if groups is None and source.label_column:
        values = sorted({row[source.label_column].strip() for row in rows} - {""})
        groups = _groups_of(values, ranges_are_groups=False)
    known = set(paths)
    by_path: dict[str, Label] = {}
    missing = []
    for row in rows:
        name = (row[image_column] or "").strip().removeprefix("./")
        if name not in known:
            missing.append(name)
            continue
        label = _csv_label(row, source, groups)
        before = by_path.get(name)
        if before is not None and before != label:
            label = Label(error="the CSV names it twice, with different labels")
        by_path[name] = label
    for path in paths:
        by_path.setdefault(path, Label(error="the CSV has no row for it"))
    return Labels(by_path, groups, missing)


LAYOUTS: dict[str, Callable[[Sequence[str], LabelSource], Labels]] = {
    "class_folders": class_folders,
    "csv": csv_file,
    "utkface": utkface,
    "unlabelled": unlabelled,
}


def _groups_of(values: Sequence[str], ranges_are_groups: bool = True) -> AgeGroups | None:
    """The groups that class names stand for: None for ages, which need none. Where most are ages or ranges, the others
    are mistakes and not classes."""
    readable = [value for value in values if parse_age(value) or parse_range(value)]
    if 2 * len(readable) <= len(values):
        return AgeGroups.from_names(list(values)) if values else None
    if not ranges_are_groups or all(parse_age(value) for value in readable):
        return None
    return AgeGroups.from_names(readable)


def parse_age(text: str) -> tuple[float, float] | None:
    """The interval of an exact age as people write it, or None.

    >>> parse_age("34"), parse_age(" 34.5 "), parse_age("-3"), parse_age("old")
    ((34.0, 35.0), (34.5, 35.5), None, None)
    """
    try:
        age = float(text)
    except ValueError:
        return None
    return (age, age + 1) if math.isfinite(age) and 0 <= age <= OLDEST_YEARS else None


def _class_label(name: str, groups: AgeGroups | None) -> Label:
    """The label that a class name stands for: a group's bounds, a range or age of its own, or the name alone."""
    if groups is not None and name in groups.names:
        group = groups.groups[groups.names.index(name)]
        if group.low is None or group.high is None:
            return Label(group=name)
        return Label(age_low=float(group.low), age_high=group.high)
    interval = parse_age(name) or parse_range(name)
    if interval is not None:
        return Label(age_low=float(interval[0]), age_high=float(interval[1]))
    if groups is not None:
        return Label(error=f"class {name!r} is none of the age groups {', '.join(groups.names)}")
    return Label(error=f"class {name!r} is neither an age nor a range, as most others are")


UTKFACE_GENDERS = {"0": "male", "1": "female"}
UTKFACE_ETHNICITIES = {"0": "White", "1": "Black", "2": "Asian", "3": "Indian", "4": "Others"}


def _utkface_label(name: str) -> Label:
    match = re.fullmatch(r"(\d{1,3})_([01])_([0-4])_\d{10,20}\D.*", name)
    if match:
        age, gender, ethnicity = match.group(1, 2, 3)
        interval = parse_age(age)
        if interval is None:
            return Label(error=f"age {age} is above {OLDEST_YEARS}")
        return Label(*interval, gender=UTKFACE_GENDERS[gender], ethnicity=UTKFACE_ETHNICITIES[ethnicity])
    error = "malformed name: not [age]_[gender]_[race]_[time].jpg"
    start = re.match(r"(\d{1,3})_", name)
    interval = parse_age(start.group(1)) if start else None
    return Label(*interval, error=f"{error}; only its age is used") if interval else Label(error=error)


def _read_csv(data: bytes) -> tuple[list[dict[str, str]], list[str]]:
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), restval="")
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"--csv: not a UTF-8 CSV file ({error})") from error
    if not reader.fieldnames:
        raise ValueError("--csv: the file is empty; its first line must name the columns")
    return rows, list(reader.fieldnames)


def _guess(columns: Sequence[str], candidates: Sequence[str]) -> str | None:
    return next((name for name in candidates if name in columns), None)


def _column_flags(source: LabelSource, image_column: str) -> list[tuple[str, str]]:
    flags = [("--image-column", image_column)]
    for name in ("label", "age", "split", "gender", "ethnicity", "subject"):
        column = getattr(source, f"{name}_column")
        if column:
            flags.append((f"--{name}-column", column))
    return flags


def _csv_label(row: dict[str, str], source: LabelSource, groups: AgeGroups | None) -> Label:
    def value(column: str | None) -> str | None:
        return ((row[column] or "").strip() or None) if column else None

    split = value(source.split_column)
    error = None
    if split is not None:
        known = {"valid": "val", "validation": "val", "training": "train", "testing": "test"}
        split = known.get(split.lower(), split.lower())
        if split not in SPLITS:
            split, error = None, f"split {split!r} is none of {', '.join(SPLITS)}"
    text = value(source.age_column or source.label_column)
    label = Label(error="no label in its row")
    if text is not None and source.age_column:
        interval = parse_age(text)
        label = Label(*interval) if interval else Label(error=f"age {text!r} is no number from 0 to {OLDEST_YEARS}")
    elif text is not None:
        label = _class_label(text, groups)
    return Label(
        age_low=label.age_low,
        age_high=label.age_high,
        group=label.group,
        subject=value(source.subject_column),
        gender=value(source.gender_column),
        ethnicity=value(source.ethnicity_column),
        split=split,
        error=label.error or error,
    )
