"""The ways in which people lay out labelled faces: paths in, labels out. Looks at names only, never at pixels.

Each layout is a function ``(relative paths, LabelSource) -> Labels``; ``LAYOUTS`` lists them all, and
``check_labelled`` refuses what tells no label at all.
"""

from __future__ import annotations

import csv
import io
import math
import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import PurePosixPath

from agescale.ages.groups import MAX_AGE, AgeGroups
from agescale.ages.labels import OLDEST_YEARS, class_name, is_missing, odd_one, parse_age, parse_interval, parse_range
from agescale.config import BoxFormat
from agescale.tables.schema import SPLITS

SPLIT_NAMES = {**{split: split for split in SPLITS}, "valid": "val", "validation": "val"}
SPLIT_NAMES |= {"training": "train", "testing": "test"}


@dataclass(frozen=True)
class LabelBox:
    """Where the face of a label lies, in pixels of the upright photo."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Label:
    """What is known of one image, or of a face in it. Ages: the interval ``[age_low, age_high)`` in years; None is
    unknown."""

    age_low: float | None = None
    age_high: float | None = None
    group: str | None = None  # the class name, where that is all the label says
    subject: str | None = None
    gender: str | None = None
    ethnicity: str | None = None
    split: str | None = None
    error: str | None = None  # what could not be read, in words
    boxes: tuple[tuple[LabelBox, Label], ...] = ()  # labels of single faces, which tell all but the split
    line: int | None = field(default=None, compare=False)  # of the CSV

    @property
    def is_labelled(self) -> bool:
        return self.age_low is not None or self.group is not None or bool(self.boxes)


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
    box_columns: str | None = None
    box_format: BoxFormat = "xywh"
    root: str = ""  # what the paths are relative to, for names in a CSV that are not
    other_files: frozenset[str] = frozenset()  # what else is there, in a format that is not taken
    records: Mapping[str, dict[str, str]] = field(default_factory=dict)  # what archives tell of their members, by path


@dataclass(frozen=True)
class Labels:
    """Labels by relative path, the age groups that they are told in, and names in the CSV that no file has."""

    by_path: dict[str, Label]
    age_groups: AgeGroups | None = None
    missing_files: list[str] = field(default_factory=list)
    why_missing: dict[str, str] = field(default_factory=dict)  # the same names; a detail each
    missing_lines: dict[str, int] = field(default_factory=dict)  # and where the CSV names them first
    has_splits: bool = False  # folders say which
    unused_columns: tuple[str, ...] = ()  # of the CSV, though their names are known


def check_labelled(layout: str, labels: Labels) -> None:
    """Raises ValueError where the layout tells of labels and no image has one, with what the first says instead."""
    found = labels.by_path
    if layout != "unlabelled" and not any(label.is_labelled for label in found.values()):
        path, label = min(found.items(), key=lambda item: (item[1].line is None, item[1].line or 0, item[0]))
        line = f", line {label.line} of the CSV" if label.line else ""
        raise ValueError(f"--layout {layout}: none of {len(found)} images has a label; {path}{line}: {label.error}")


def class_folders(paths: Sequence[str], source: LabelSource) -> Labels:
    """One folder a class, directly below the source or below ``train``, ``val`` and ``test``: ``25-49/y.jpg``.

    Without ``--age-groups`` the groups are the folders: with bounds where every name is a range, else names only. One
    folder an age (``007/x.jpg``) makes no groups, as ranges that overlap do not. Where there is no ``val``, what is in
    ``train`` is told no split, so that some of it becomes one. Raises ValueError for folders above
    the classes that are no splits.
    """
    parts_of = {path: PurePosixPath(path).parts for path in paths}
    known = {class_name(name) for name in source.age_groups.names} if source.age_groups else set()
    tops = {class_name(parts[0]) for parts in parts_of.values() if len(parts) > 1}
    has_splits = bool(tops) and not tops & known and all(top.lower() in SPLIT_NAMES for top in tops)
    if has_splits:
        parts_of = {path: parts[1:] for path, parts in parts_of.items()}
    _check_levels(parts_of, known, tops, has_splits)
    groups = source.age_groups
    if groups is None:
        groups = _groups_of(Counter(class_name(parts[0]) for parts in parts_of.values() if len(parts) > 1))
    by_path = {}
    told = {SPLIT_NAMES[top.lower()] for top in tops} if has_splits else set()
    for path, parts in parts_of.items():
        label = _class_label(parts[0], groups) if len(parts) > 1 else Label(error="in no class folder")
        split = SPLIT_NAMES[class_name(PurePosixPath(path).parts[0]).lower()] if has_splits and parts else None
        by_path[path] = replace(label, split=split if "val" in told or split == "test" else None)
    return Labels(by_path, groups, has_splits=has_splits)


def _check_levels(parts_of: Mapping[str, tuple[str, ...]], known: set[str], tops: set[str], has_splits: bool) -> None:
    """Raises ValueError where the folders that should be classes seem to stand above them.

    That is where classes stand beside splits, and where names that are no ages have the same folders in them, or the
    only one has folders in it and no image.
    """
    what, where = (
        "--layout class_folders",
        "class folders stand directly below --source, or in train, val and test there",
    )
    splits = sorted(top for top in tops if top.lower() in SPLIT_NAMES and top not in known)
    if splits and not has_splits:
        raise ValueError(f"{what}: {splits[0]}/ stands beside {min(tops - set(splits))}/; {where}")
    inside: dict[str, set[str]] = defaultdict(set)
    for path, parts in parts_of.items():
        if len(parts) == 1 and has_splits:
            raise ValueError(f"{what}: {path} lies in a split and in no class folder; {where}")
        if len(parts) > 1:
            inside[class_name(parts[0])].update(parts[1:2] if len(parts) > 2 else ())
    if all(name in known or parse_interval(name) for name in inside):
        return
    times = Counter(name for names in inside.values() for name in names)
    has_only_folders = len(inside) == 1 and all(len(parts) > 2 for parts in parts_of.values())
    above = sorted(name for name, count in times.items() if count > 1 or has_only_folders)
    if above:
        top = next(top for top, names in inside.items() if above[0] in names)
        seen = f"folders in folders were seen, such as {top}/{above[0]}/"
        raise ValueError(f"{what}: {seen}; {where}; if {top} is a class, name all of them by --age-groups")


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
    if image_column is None and len(columns) == 1 and (other := re.search(r"[;\t|]", columns[0])):
        raise ValueError(f"--csv: commas separate the cells of a CSV; its first line has {other[0]!r}: {columns[0]!r}")
    if image_column is None:
        raise ValueError(f"--image-column: name the column of image names, one of {', '.join(columns)}")
    source = _with_columns(source, columns, [("--image-column", image_column)], "the CSV has")
    groups = _groups_of_rows(rows, source)
    files = _FileNames(paths, source)
    by_path: dict[str, Label] = {}
    missing: list[str] = []
    why_missing: dict[str, str] = {}
    missing_lines: dict[str, int] = {}
    of_faces: dict[str, list[tuple[LabelBox | str, Label]]] = {}
    for row in rows:
        path = files.find(row[image_column])
        if path is None:
            name = row[image_column].strip().removeprefix("./")
            missing.append(name)
            is_header = all(row[column].strip() == column for column in columns)
            why = "which repeats the header" if is_header else files.why_not(name)
            why_missing.setdefault(name, f"line {row.line} of the CSV names it, {why}")
            missing_lines.setdefault(name, row.line)
            continue
        label = _csv_label(row, source, groups)
        if source.box_columns:
            of_faces.setdefault(path, []).append((_csv_box(row, source), label))
            continue
        before = by_path.get(path)
        if before is not None and before != label:
            label = Label(error="the CSV names it twice, with different labels", line=row.line)
        by_path[path] = label
    by_path |= {path: _of_photo(told) for path, told in of_faces.items()}
    if not by_path:
        first = f"{next(iter(why_missing.values()))} ({missing[0]!r})" if missing else "it has no row"
        raise ValueError(
            f"--csv: none of its {len(rows)} rows names an image below --source, where {min(paths)!r} is; {first}"
        )
    for path in paths:
        by_path.setdefault(path, Label(error="the CSV has no row for it"))
    unused = _unused(source, columns, image_column)
    return Labels(by_path, groups, missing, why_missing, missing_lines, unused_columns=unused)


def records(paths: Sequence[str], source: LabelSource) -> Labels:
    """What lies beside each image in its archive: other columns of Parquet; the fields of a ``.json``, and the text of
    a ``.cls`` as the field ``cls``, which is read as a label column where no other one is named.

    Raises ValueError where nothing lies beside any image, or the fields named are in none.
    """
    columns = list(dict.fromkeys(name for record in source.records.values() for name in record))
    if not columns:
        hint = "a .json or .cls in a tar or zip, columns of Parquet"
        raise ValueError(f"--layout records: nothing lies beside any image ({hint}), such as {min(paths)}")
    if not (source.label_column or source.age_column) and "cls" in columns:
        source = replace(source, label_column="cls")
    source = _with_columns(source, columns, [], "the records have")
    rows = {}
    for path, record in source.records.items():
        rows[path] = row = _Row(dict.fromkeys(columns, "") | record)
        row.line = row.num_more = 0
    groups = _groups_of_rows(list(rows.values()), source)
    nothing = Label(error="no record lies beside it")
    by_path = {
        path: replace(_csv_label(rows[path], source, groups), line=None) if path in rows else nothing for path in paths
    }
    return Labels(by_path, groups, unused_columns=_unused(source, columns, ""))


def _with_columns(source: LabelSource, columns: Sequence[str], others: list[tuple[str, str]], of: str) -> LabelSource:
    """``source`` with a column of labels. Raises ValueError where there is none, or one of its columns is not there."""
    if source.label_column and source.age_column:
        raise ValueError("give --label-column or --age-column, not both")
    if not (source.label_column or source.age_column):
        guessed = _guess(columns, ("age", "real_age", "apparent_age"))
        if guessed is None:
            raise ValueError(f"--label-column or --age-column: name the column of labels, one of {', '.join(columns)}")
        source = replace(source, age_column=guessed)
    for flag, column in [*others, *_column_flags(source)]:
        if column not in columns:
            raise ValueError(f"{flag} {column}: {of} no such column, but {', '.join(columns)}")
    return source


def _groups_of_rows(rows: Sequence[Mapping[str, str]], source: LabelSource) -> AgeGroups | None:
    if source.age_groups is None and source.label_column:
        return _groups_of(Counter(class_name(row[source.label_column]) for row in rows), ranges_are_groups=False)
    return source.age_groups


LAYOUTS: dict[str, Callable[[Sequence[str], LabelSource], Labels]] = {
    "class_folders": class_folders,
    "csv": csv_file,
    "utkface": utkface,
    "records": records,
    "unlabelled": unlabelled,
}


def _groups_of(num_images: Mapping[str, int], ranges_are_groups: bool = True) -> AgeGroups | None:
    """The groups that class names, each of so many images, stand for: None for ages, which need none.

    Where most images have ages or ranges, the other names are mistakes and not classes. What says that nothing is
    known, and dates, are neither.
    """
    names = {name: count for name, count in num_images.items() if not odd_one(name)}
    readable = sorted(name for name in names if parse_interval(name))
    if 2 * sum(names[name] for name in readable) <= sum(names.values()):
        return AgeGroups.from_names(sorted(names)) if names else None
    intervals = sorted(filter(None, map(parse_range, readable)))
    overlap = any(before[1] > after[0] for before, after in pairwise(intervals))
    are_ages = all(parse_age(name) for name in readable)
    if not ranges_are_groups or are_ages or overlap or len(intervals) < len(readable) or intervals[-1][0] > MAX_AGE:
        return None
    return AgeGroups.from_names(readable)


@lru_cache(maxsize=1000)
def _class_label(text: str, groups: AgeGroups | None) -> Label:
    """The label that a class name stands for: a group's bounds, a range or age of its own, or the name alone."""
    name = class_name(text)
    for group in groups.groups if groups is not None else ():
        if class_name(group.name) == name:
            if group.low is None or group.high is None:
                return Label(group=group.name)
            return Label(age_low=float(group.low), age_high=group.high)
    interval = parse_interval(name)
    if interval is not None:
        return Label(age_low=float(interval[0]), age_high=float(interval[1]))
    if odd := odd_one(name):
        return Label(error=f"malformed class {name!r}: {odd}")
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


class _Row(dict[str, str]):
    """One row by the names of its columns, all of them, and the line of the CSV that it ends in."""

    __slots__ = ("line", "num_more")
    line: int
    num_more: int  # cells behind the last column that hold something


def _read_csv(data: bytes) -> tuple[list[_Row], list[str]]:
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), skipinitialspace=True)
        columns = [name.strip() for name in next(filter(any, reader), [])]
        rows = []
        for cells in reader:
            if not cells:
                continue
            row = _Row(zip(columns, cells + [""] * len(columns), strict=False))
            row.line, row.num_more = reader.line_num, sum(map(bool, map(str.strip, cells[len(columns) :])))
            rows.append(row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"--csv: not a UTF-8 CSV file ({error})") from error
    if not columns:
        raise ValueError("--csv: the file is empty; its first line must name the columns")
    for name, count in Counter(columns).items():
        if name and count > 1:
            raise ValueError(f"--csv: its header names the column {name} {count} times; which is meant?")
    return rows, columns


class _FileNames:
    """The files that names in a CSV mean: those of exactly that name, or of one that differs in writing alone.

    Slashes may lean backwards, accents may be in two pieces, and the path of the folder may stand before.
    """

    def __init__(self, paths: Iterable[str], source: LabelSource) -> None:
        self.paths, self.root, self.others = set(paths), source.root, source.other_files

    @cached_property
    def by_key(self) -> dict[str, str]:
        return _unambiguous(self.paths, self._key)

    @cached_property
    def other_keys(self) -> set[str]:
        return set(map(self._key, self.others))

    @cached_property
    def near(self) -> dict[str, dict[str, str]]:
        return {words: _unambiguous(self.paths, near, first=True) for words, near in NEAR.items()}

    def find(self, name: str) -> str | None:
        for exact in (name, name.strip().removeprefix("./")):
            if exact in self.paths:
                return exact
        return self.by_key.get(self._key(name))

    def why_not(self, name: str) -> str:
        """Why ``find`` finds nothing, and which file was perhaps meant."""
        if name in self.others or self._key(name) in self.other_keys:
            return "and its format is not taken"
        for words, near in NEAR.items():
            path = self.near[words].get(near(self._key(name)))
            if path is not None:
                return f"and it is not there; {path!r} is, the same but for {words}"
        return "and it is not there"

    def _key(self, name: str) -> str:
        name = unicodedata.normalize("NFC", name.strip().removeprefix("file://").replace("\\", "/"))
        return posixpath.normpath(name.removeprefix(unicodedata.normalize("NFC", f"{self.root}/")))


NEAR: dict[str, Callable[[str], str]] = {
    "upper and lower case": str.casefold,
    "its extension": lambda name: posixpath.splitext(name)[0],
    "the folders before it": posixpath.basename,
    "folders, extension and case": lambda name: posixpath.splitext(posixpath.basename(name))[0].casefold(),
}
"""In what the name of a file may differ from one in a CSV that perhaps means it, the likeliest first."""


def _unambiguous(paths: Iterable[str], key: Callable[[str], str], first: bool = False) -> dict[str, str]:
    """Paths by their keys; those that share one are left out, or the first of them is taken."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(paths):
        found[key(path)].append(path)
    return {name: same[0] for name, same in found.items() if first or len(same) == 1}


def _guess(columns: Sequence[str], candidates: Sequence[str]) -> str | None:
    """The first candidate that is a column, as it is written there."""
    by_name = {column.lower(): column for column in reversed(columns)}
    exact = (name for name in candidates if name in columns)
    return next(exact, None) or next((by_name[name.lower()] for name in candidates if name.lower() in by_name), None)


KNOWN_COLUMNS = {
    "gender": ("gender", "sex"),
    "ethnicity": ("ethnicity", "race"),
    "subject": ("subject", "subject_id", "identity", "person", "person_id"),
    "split": ("split", "subset"),
}


def _unused(source: LabelSource, columns: Sequence[str], image_column: str) -> tuple[str, ...]:
    """Settings that would use columns which seem to tell what no column was named for."""
    used = {image_column, *(column for _, column in _column_flags(source))}
    guesses = {
        name: _guess([column for column in columns if column not in used], KNOWN_COLUMNS[name])
        for name in KNOWN_COLUMNS
    }
    return tuple(
        f"--{name}-column {column}"
        for name, column in guesses.items()
        if column and not getattr(source, f"{name}_column")
    )


def _column_flags(source: LabelSource) -> list[tuple[str, str]]:
    flags = []
    for name in ("label", "age", "split", "gender", "ethnicity", "subject"):
        column = getattr(source, f"{name}_column")
        if column:
            flags.append((f"--{name}-column", column))
    flags += [("--box-columns", column) for column in box_columns_of(source.box_columns)] if source.box_columns else []
    return flags


def box_columns_of(text: str) -> list[str]:
    """The four columns of ``--box-columns``. Raises ValueError where they are not four."""
    columns = [name.strip() for name in text.split(",")]
    if len(columns) != 4 or not all(columns) or len(set(columns)) < 4:
        raise ValueError(f"--box-columns {text}: four columns, separated by commas, such as x,y,width,height")
    return columns


def _csv_box(row: _Row, source: LabelSource) -> LabelBox | str:
    """The box of a row, or why it is none, in words."""
    cells = [row[column].strip() for column in box_columns_of(source.box_columns or "")]
    try:
        x, y, third, fourth = map(float, cells)
    except ValueError:
        return f"box {','.join(cells)!r} is not four numbers"
    width, height = (third, fourth) if source.box_format == "xywh" else (third - x, fourth - y)
    if not all(map(math.isfinite, (x, y, width, height))) or min(width, height) <= 0:
        return f"box {','.join(cells)!r} has no width and height; is it {source.box_format}?"
    return LabelBox(x, y, width, height)


def _of_photo(told: Sequence[tuple[LabelBox | str, Label]]) -> Label:
    """The label of a photo that some rows of a CSV tell of its faces: what can be read, and the first mistake."""
    boxes: dict[LabelBox, Label] = {}
    mistakes: list[tuple[str, int | None]] = []
    splits = {label.split for _, label in told}
    for box, label in told:
        if isinstance(box, str):
            mistakes.append((box, label.line))
        elif label.error:
            mistakes.append((label.error, label.line))
        elif boxes.get(box, of_face := replace(label, split=None)) != of_face:
            mistakes.append(("the CSV names its box twice, with different labels", label.line))
        if isinstance(box, LabelBox) and label.is_labelled:
            boxes.setdefault(box, replace(label, split=None))
    if len(splits) > 1:
        mistakes.append(("the CSV puts its faces into different splits", told[0][1].line))
    error, line = mistakes[0] if mistakes else (None, told[0][1].line)
    split = splits.pop() if len(splits) == 1 else None
    return Label(split=split, error=error, boxes=tuple(boxes.items()), line=line)


def _csv_label(row: _Row, source: LabelSource, groups: AgeGroups | None) -> Label:
    def value(column: str | None) -> str | None:
        return None if column is None or is_missing(row[column]) else row[column].strip()

    if row.num_more:
        return Label(error="its row has more cells than the header has columns", line=row.line)
    split = value(source.split_column)
    error = None
    if split is not None:
        split = SPLIT_NAMES.get(split.lower(), split.lower())
        if split not in SPLITS:
            split, error = None, f"split {split!r} is none of {', '.join(SPLITS)}"
    text = row[source.age_column or source.label_column or ""].strip()
    label = Label(error=f"no label in its row, but {text!r}" if text else "no label in its row")
    if source.age_column and not is_missing(text):
        interval = parse_interval(text)
        odd = f": {odd_one(text)}" if odd_one(text) else ""
        error_of_age = f"age {text!r} is not a number from 0 to {OLDEST_YEARS}{odd}"
        label = Label(float(interval[0]), float(interval[1])) if interval else Label(error=error_of_age)
    elif source.label_column and (not is_missing(text) or (groups is not None and class_name(text) in groups.names)):
        label = _class_label(text, groups)
    return replace(
        label,
        subject=value(source.subject_column),
        gender=value(source.gender_column),
        ethnicity=value(source.ethnicity_column),
        split=split,
        error=label.error or error,
        line=row.line,
    )
