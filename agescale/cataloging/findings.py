"""What is wrong with a catalog's rows: facts in, findings out. Judges; drops nothing, reads no pixels.

Findings are rebuilt from all current rows each time, because a new image can make an old one a duplicate.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from agescale.ages.groups import AgeGroups
from agescale.ages.labels import has_exact_age, is_exact
from agescale.cataloging import lookalikes
from agescale.faces.geometry import matched, scaled_box
from agescale.faces.loading import KnownFaces
from agescale.faces.perceptual import NUM_BITS
from agescale.tables import catalogs, labels, schema
from agescale.tables.schema import FINDINGS

FACTS = [
    "uri",
    "version",
    "content_hash",
    "perceptual_hash",
    "read_error",
    "label_error",
    "age_low",
    "age_high",
    "group",
    "subject",
    "split",
    "boxes",
    "width",
    "height",
]
"""The catalog's columns that findings are made of."""

Row = dict[str, Any]


def find(rows: pa.Table, age_groups: AgeGroups | None, is_labelled_layout: bool) -> pa.Table:
    """Findings (schema.FINDINGS) about the current rows of a catalog, sorted by URI and kind."""
    findings: list[Row] = []
    interesting = rows.filter(_is_suspicious(rows, age_groups, is_labelled_layout)).select(FACTS).to_pylist()
    for row in interesting:
        findings += _about_one(row, age_groups, is_labelled_layout)
    readable = rows.filter(pc.is_null(rows["read_error"]))  # empty files are no copies of one photo
    copies = _about_copies(_sharing(readable, "content_hash"))
    findings += copies
    findings += _about_lookalikes(_one_of_each_picture(readable, copies))
    findings += _about_subjects(_sharing(labels.per_label(rows), "subject"))
    findings.sort(key=lambda finding: (finding["uri"], finding["kind"]))
    return pa.Table.from_pylist(findings, schema=FINDINGS)


def without_face(rows: pa.Table, searched: pa.Table) -> pa.Table:
    """Findings about labelled rows among those ``searched`` (uri, version) in vain: a label speaks of a face."""
    is_faceless = pc.is_in(catalogs.keys_of(rows), value_set=catalogs.keys_of(searched))
    faceless = rows.filter(pc.and_(_is_labelled(rows), is_faceless)).select(["uri", "version"])
    found = [finding(row, "no_face", "no face was found in it") for row in faceless.to_pylist()]
    return pa.Table.from_pylist(found, schema=FINDINGS)


def without_match(rows: pa.Table, found: Iterable[KnownFaces | None]) -> pa.Table:
    """Findings about boxes of ``rows`` that are those of none of the faces ``found`` in each, where there are any."""
    findings: list[Row] = []
    for row, known in zip(rows.to_pylist(), found, strict=True):
        boxes = labels.boxes_of(row)
        if boxes and known and known.faces:
            across, down = row["width"] / known.width, row["height"] / known.height
            places = [scaled_box(face.box, across, down) for face in known.faces]
            for box, match in zip(boxes, matched([*map(labels.corners, boxes)], places), strict=True):
                if match is None:
                    detail = f"labelled {say({**box})}, and no face was found there"
                    where = ", ".join(f"{name} {box[name]:g}" for name in schema.SIDES)
                    findings.append(finding(row, "unmatched_box", f"{where}: {detail}"))
    return pa.Table.from_pylist(findings, schema=FINDINGS)


def finding(row: Row, kind: str, detail: str, related_uri: str | None = None) -> Row:
    return {"uri": row["uri"], "version": row["version"], "kind": kind, "related_uri": related_uri, "detail": detail}


def _is_suspicious(rows: pa.Table, age_groups: AgeGroups | None, is_labelled_layout: bool) -> pa.Array:
    """Rows worth a look one by one; the common case, a sound labelled image, is passed over at Arrow's speed."""
    suspicious = pc.or_(pc.is_valid(rows["read_error"]), pc.is_valid(rows["label_error"]))
    suspicious = pc.or_(suspicious, _has_boxes(rows))
    if is_labelled_layout:
        suspicious = pc.or_(suspicious, pc.invert(_is_labelled(rows)))
    if age_groups is not None and age_groups.is_bounded:
        inside = pa.scalar(False)
        for low, high in age_groups.bounds():
            inside = pc.or_(inside, pc.and_(pc.greater_equal(rows["age_low"], low), pc.less(rows["age_low"], high)))
        suspicious = pc.or_(suspicious, pc.fill_null(pc.invert(pc.and_(inside, has_exact_age(rows))), False))
    return suspicious


def _has_boxes(rows: pa.Table) -> pa.ChunkedArray:
    return pc.fill_null(pc.greater(pc.list_value_length(rows["boxes"]), 0), False)


def _is_labelled(rows: pa.Table) -> pa.ChunkedArray:
    return pc.or_(pc.or_(pc.is_valid(rows["age_low"]), pc.is_valid(rows["group"])), _has_boxes(rows))


def _about_one(row: Row, age_groups: AgeGroups | None, is_labelled_layout: bool) -> list[Row]:
    found = []
    if row["read_error"] is not None:
        status, _, reason = row["read_error"].partition(": ")
        found.append(finding(row, "tiny" if status == "too_small" else "broken", reason or status))
    is_labelled = row["age_low"] is not None or row["group"] is not None or bool(labels.boxes_of(row))
    if is_labelled_layout and not is_labelled:
        found.append(finding(row, "unlabelled", row["label_error"] or "no label"))
    elif row["label_error"] is not None:
        found.append(finding(row, "malformed", row["label_error"]))
    for label in labels.boxes_of(row) or [row]:
        if label["age_low"] is not None and age_groups is not None and age_groups.is_bounded:
            index = age_groups.index_of_label(label["age_low"], label["age_high"], None)
            if index is None:
                found.append(finding(row, "outside_groups", f"{say({**label})} years: in none of the age groups"))
    return found


def _sharing(rows: pa.Table, column: str) -> Iterable[list[Row]]:
    """Groups of two and more rows with the same value in ``column``, each sorted by URI."""
    counts = pc.value_counts(rows[column].combine_chunks())
    shared = counts.field("values").filter(pc.greater(counts.field("counts"), 1)).drop_null()
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows.filter(pc.is_in(rows[column], shared)).to_pylist():
        groups[row[column]].append(row)
    return [sorted(group, key=lambda row: row["uri"]) for group in groups.values()]


def _about_copies(groups: Iterable[list[Row]]) -> list[Row]:
    """Byte-identical images. Where labels agree one copy stays without a finding, in a judged split if there is one."""
    found = []
    for copies in groups:
        told = {_label(row) for row in copies if _label(row) != NO_LABEL}
        if len(told) > 1:
            for row in copies:
                other = next((r for r in copies if _label(r) != _label(row)), copies[0])
                detail = f"same bytes, labelled {say(row)} here and {say(other)} there"
                found.append(finding(row, "conflicting", detail, other["uri"]))
            continue
        kept = min(copies, key=_rank)
        for row in copies:
            if row is kept:
                continue
            found.append(finding(row, "duplicate", "same bytes", kept["uri"]))
            if row["split"] != kept["split"]:
                found.append(finding(row, "leaking", f"same bytes in {row['split']} and {kept['split']}", kept["uri"]))
    return found


def _one_of_each_picture(rows: pa.Table, copies: list[Row]) -> pa.Table:
    """``rows`` with a perceptual hash, one for each picture's bytes, where the findings about ``copies`` are known."""
    left_out = [row["uri"] for row in copies if row["kind"] == "duplicate"]
    rows = rows.filter(
        pc.and_(pc.is_valid(rows["perceptual_hash"]), pc.invert(pc.is_in(rows["uri"], pa.array(left_out, pa.string()))))
    )
    others = [row["uri"] for group in _sharing(rows, "content_hash") for row in sorted(group, key=_rank)[1:]]
    return rows.filter(pc.invert(pc.is_in(rows["uri"], pa.array(others, pa.string()))))


def _rank(row: Row) -> tuple[bool, int, str]:
    """By which one of several images is kept, the least."""
    return _label(row) == NO_LABEL, _judged_first(row["split"]), row["uri"]


def _about_lookalikes(rows: pa.Table) -> list[Row]:
    """Images that look the same, and whose bytes are others: of those of one split that are linked by their looks one
    stays without a finding, of several splits those of the one that judges."""
    hashes = pc.unique(rows["perceptual_hash"])
    pairs = lookalikes.find_pairs(hashes.to_pylist())
    near: dict[str, list[tuple[int, str]]] = defaultdict(list)  # by hash: bits, and the hash that differs in them
    for first, second, distance in zip(*(column.tolist() for column in pairs), strict=True):
        one, two = hashes[first].as_py(), hashes[second].as_py()
        near[one].append((distance, two))
        near[two].append((distance, one))
    counts = pc.value_counts(rows["perceptual_hash"])
    several = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    wanted = pa.array({*near, *several.to_pylist()}, pa.string())
    looking: dict[str, list[Row]] = defaultdict(list)
    for row in rows.filter(pc.is_in(rows["perceptual_hash"], wanted)).to_pylist():
        looking[row["perceptual_hash"]].append(row)
    first_of = {
        look: min(group, key=lambda row: (_judged_first(row["split"]), row["uri"])) for look, group in looking.items()
    }
    return [*_across_splits(looking, near, first_of), *_within_splits(looking, near)]


Near = Mapping[str, Sequence[tuple[int, str]]]


def _across_splits(looking: Mapping[str, list[Row]], near: Near, first_of: Mapping[str, Row]) -> Iterator[Row]:
    for look, group in looking.items():
        choices = [
            (_judged_first(first_of[each]["split"]), bits, each) for bits, each in ((0, look), *near.get(look, ()))
        ]
        place, bits, nearest = min(choices)
        for row in group:
            if row["split"] is not None and place < _judged_first(row["split"]):
                judged = first_of[nearest]
                detail = f"{_alike(row, judged, bits)}; in {row['split']} and {judged['split']}"
                yield finding(row, "near_leaking", detail, judged["uri"])


def _within_splits(looking: Mapping[str, list[Row]], near: Near) -> Iterator[Row]:
    of_split: dict[tuple[str, str | None], list[Row]] = defaultdict(list)
    for look, group in looking.items():
        for row in sorted(group, key=_rank):
            of_split[look, row["split"]].append(row)
    waiting = set(of_split)
    while waiting:
        begun = [waiting.pop()]
        split, members = begun[0][1], []
        while begun:
            key = begun.pop()
            members.append(key)
            linked = {(each, split) for _, each in near.get(key[0], ())} & waiting
            waiting -= linked
            begun += linked
        kept = min((of_split[key][0] for key in members), key=_rank)
        for look, _ in members:
            own = of_split[look, split]
            others = [
                (bits, of_split[each, split][0]) for bits, each in near.get(look, ()) if (each, split) in of_split
            ]
            for row in own:
                if row is not kept:
                    same = [(0, other) for other in own if other is not row][:1]
                    bits, other = min([*same, *others], key=lambda each: (each[0], each[1]["uri"]))
                    yield finding(row, "near_duplicate", _alike(row, other, bits), other["uri"])


def _alike(row: Row, other: Row, distance: int) -> str:
    said = f"looks the same: {distance} of {NUM_BITS} bits differ"
    if _label(row) == _label(other):
        return said
    return f"{said}, labelled {say(row)} here and {say(other)} there"


def _about_subjects(groups: Iterable[list[Row]]) -> list[Row]:
    found = []
    for photos in groups:
        kept = min(photos, key=lambda row: _judged_first(row["split"]))
        for row in photos:
            if row["split"] != kept["split"] and row["split"] is not None:
                detail = f"subject {row['subject']} is in {row['split']} and {kept['split']}"
                found.append(finding(row, "leaking", detail, kept["uri"]))
    return found


GENDERS = frozenset(
    ["female", "woman", "women", "girl", "f", "w", "male", "man", "men", "boy", "m", "0", "1"],
).union(["nonbinary", "non-binary", "diverse", "d", "other"])
"""Words for a gender, in lower case, that are no typing mistakes however few images have them."""
FEW = 0.02
"""A value that a smaller share of the images has may be a typing mistake, where others are much more frequent."""


def unusual_values(rows: pa.Table, column: str) -> list[Row]:
    """Findings about values of a column of free text that are seldom; in the column gender about whatever is no word
    for one, where most are. None where there are many seldom values: these are no mistakes then."""
    counted = pc.value_counts(rows[column].drop_null().combine_chunks()).to_pylist()
    counts = {each["values"]: each["counts"] for each in counted}
    total = sum(counts.values())
    known = {value for value in counts if value.lower() in GENDERS} if column == "gender" else set()
    if 2 * sum(counts[value] for value in known) > total:
        odd = counts.keys() - known
    else:
        odd = {value for value, count in counts.items() if count < FEW * total}
    usual = sorted(counts.keys() - odd, key=lambda value: (-counts[value], value))
    if not odd or sum(counts[value] for value in odd) > 0.1 * total:
        return []
    found = rows.filter(pc.is_in(rows[column], pa.array(sorted(odd)))).select(["uri", "version", column]).to_pylist()
    most = ", ".join(usual[:3])
    return [
        finding(row, "unusual", f"{column} {row[column]!r}: {counts[row[column]]:,} of {total:,} have it, most {most}")
        for row in found
    ]


def _judged_first(split: str | None) -> int:
    """Copies in test stay before those in val, and these before train: a published test set stays whole."""
    order: Sequence[str | None] = ("test", "val", "train", None)
    return order.index(split)


NO_LABEL = ((None, None, None),)


def _label(row: Row) -> tuple[tuple[Any, ...], ...]:
    """All that is told of an image's age, or of the faces in its boxes."""
    boxes = sorted(labels.boxes_of(row), key=labels.corners)
    if not boxes:
        return (_age(row),)
    return tuple((*_age(box), *labels.corners(box)) for box in boxes)


def _age(row: Mapping[str, Any]) -> tuple[float | None, float | None, str | None]:
    return row["age_low"], row["age_high"], row["group"]


def say(row: Row) -> str:
    """The label of a row, or the labels of its boxes, in words."""
    if boxes := labels.boxes_of(row):
        return " and ".join(say({**box}) for box in boxes)
    low, high = row["age_low"], row["age_high"]
    if low is None:
        return row["group"] or "nothing"
    if math.isinf(high):
        return f"{low:g} and more"
    return f"{low:g}" if is_exact(low, high) else f"{low:g}-{high - 1:g}"
