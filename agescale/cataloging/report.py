"""A catalog's findings as a page: of each kind how many, what it means, what to do, and the first ones to look at.

In: a catalog that is complete. Out: one HTML file beside it that opens anywhere, with small pictures in it, two side by
side where a finding is about two images; or without any pixel and name. Judges nothing, and takes any kind of finding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import pyarrow as pa
import pyarrow.compute as pc

from agescale.cataloging.findings import say
from agescale.cataloging.summary import CatalogResult, about_few, count_by_group_and_split
from agescale.config import Judgement
from agescale.faces.loading import Framing
from agescale.reports.page import template
from agescale.store import objects, paths
from agescale.tables import folders, schema, thumbnails
from agescale.tables.catalogs import Catalog

PAGE_NAME = "findings.html"
NUM_SHOWN = 12
"""Findings of each kind that are shown; findings.csv has all."""
PICTURE_PIXELS = 112
MAX_NAME = 80
COLUMNS = ("uri", "split", "age_low", "age_high", "group", "gender", "ethnicity", "boxes")

LOOK = "Where the label is wrong, mend it at its source and run the same command again."
KINDS = {
    "broken": ("Broken pictures", "The file does not decode, or not to its end.", "Copy it again, or delete it."),
    "tiny": ("Tiny pictures", "A side has less than 8 pixels: no face can be seen.", "Delete it, or replace it."),
    "duplicate": (
        "Copies", "The same bytes as another image, with the same label; one of them is kept.",
        "Nothing: copies count once. Delete them to make the folder smaller.",
    ),
    "conflicting": (
        "Copies with different labels", "The same bytes as another image, with another label: one of the two is wrong.",
        "Find out which label is right, and delete the other copy.",
    ),
    "leaking": (
        "In two splits", "The same bytes, or the same person, as in a split that validates or tests.",
        "Nothing: training does without. A --subject-column, or other splits, keep persons together.",
    ),
    "near_duplicate": (
        "Look the same", "Looks the same as another image of its split: saved again, scaled or made grey.",
        "Where they are the same photo, train with --leave-out near_duplicate.",
    ),
    "near_leaking": (
        "Look the same, in two splits", "Looks the same as an image of a split that validates or tests.",
        "Where they are the same photo, train with --leave-out near_leaking, or the figures flatter the model.",
    ),
    "suspect": ("Labels to look at", "The label is unlikely, judged by the other photos.", f"Look at it. {LOOK}"),
    "unlabelled": ("Without a label", "No label could be read.", "Give it one, or leave it: it is not trained on."),
    "malformed": ("Labels partly unreadable", "A part of the label could not be read; the rest is used.", LOOK),
    "unusual": ("Unusual values", "A gender or ethnicity that nearly no other image has.", f"Perhaps mistyped. {LOOK}"),
    "empty_class": ("Empty classes", "A class folder without an image.", "Fill it, or delete it."),
    "no_face": ("No face found", "It has a label, and no face was found in it.", "Look whether there is one."),
    "unmatched_box": ("Boxes without a face", "In the box of a label no face was found.", f"Look at the box. {LOOK}"),
    "outside_groups": ("Outside the age groups", "Its age is in none of the age groups.", "Widen --age-groups."),
    "missing_file": ("Missing files", "The CSV names an image that is not there.", "Bring it back, or drop the line."),
    "broken_archive": (
        "Broken archives", "It cannot be read, or not to its end; what stands before the damage is taken.",
        "Copy the archive again.",
    ),
    "unusable_member": ("Members that are not taken", "A member of an archive that cannot be used.", "Pack it anew."),
}  # fmt: skip
"""Title, meaning, and what to do. A kind that is not among them is shown by its own name."""
LEFT_OUT_OF = {
    **dict.fromkeys(schema.EXCLUDED_KINDS, "training and metrics"),
    "leaking": "training",
    **dict.fromkeys(get_args(Judgement), "training, where --leave-out says so"),
    "no_face": "training on faces",
    "unmatched_box": "training on faces",
}
"""What does without images that have such a finding."""


@dataclass(frozen=True)
class ShownImage:
    """An image of the page. ``picture`` is a data URI, or None where there is none to show."""

    name: str
    picture: str | None
    label: str


@dataclass(frozen=True)
class ShownFinding:
    """A finding, with the image that it is about and, where there is one, that which it names."""

    images: Sequence[ShownImage]
    detail: str


@dataclass(frozen=True)
class ShownKind:
    """A kind of findings. ``left_out_of`` says what does without such images."""

    kind: str
    title: str
    meaning: str
    advice: str
    left_out_of: str
    num_findings: int
    shown: Sequence[ShownFinding]


def write_report(out: str, result: CatalogResult, has_pictures: bool = True) -> str:
    """Writes the page of the catalog ``out`` beside it, and returns its URI. Without pictures neither pixels nor names
    nor details, which may hold names, are in it."""
    catalog = Catalog.open(out)
    page = paths.join(folders.beside(out), PAGE_NAME)
    counted = count_by_group_and_split(result) if result.rows is not None and result.group_names else {}
    groups = {name: of_split for name, of_split in counted.items() if name != "none" or any(of_split.values())}
    text = template("findings.html.j2").render(
        source=catalog.source,
        catalog=catalog.uri,
        num_images=result.num_current,
        kinds=shown_kinds(catalog, has_pictures),
        remarks=[f"{remark[0].upper()}{remark[1:]}." for remark in about_few(result)],
        groups=groups,
        splits=list(next(iter(groups.values()), {})),
        has_pictures=has_pictures,
        num_shown=NUM_SHOWN,
    )
    objects.write_bytes(page, text.encode())
    return page


def shown_kinds(catalog: Catalog, has_pictures: bool = True) -> list[ShownKind]:
    """All kinds of findings that the catalog has, in the order of ``schema.FINDING_KINDS``, those not known last."""
    counts = Counter(catalog.findings["kind"].to_pylist())
    kinds = [kind for kind in schema.FINDING_KINDS if kind in counts]
    kinds += sorted(counts.keys() - set(kinds))
    chosen = {kind: list(_first(catalog.findings.filter(pc.equal(catalog.findings["kind"], kind)))) for kind in kinds}
    wanted = {uri for rows in chosen.values() for row in rows for uri in (row["uri"], row["related_uri"]) if uri}
    images = _images(catalog, sorted(wanted), has_pictures)
    return [_shown(kind, counts[kind], chosen[kind], images, has_pictures) for kind in kinds]


def _first(findings: pa.Table) -> Iterator[Mapping[str, Any]]:
    """The first findings of a kind, of a pair that is named from both sides one."""
    seen: set[frozenset[str]] = set()
    for row in findings.select(["uri", "related_uri", "detail"]).to_pylist():
        pair = frozenset(filter(None, (row["uri"], row["related_uri"])))
        if pair not in seen:
            seen.add(pair)
            yield row
        if len(seen) == NUM_SHOWN:
            return


def _images(catalog: Catalog, uris: Sequence[str], has_pictures: bool) -> dict[str, ShownImage]:
    """What is shown of each image; of what is no row of the catalog (a file that is not there) its name."""
    if not uris:
        return {}
    is_wanted = pa.array(uris, pa.string())
    rows = catalog.read(COLUMNS, lambda part: part.filter(pc.is_in(part["uri"], value_set=is_wanted)))
    pictures: Sequence[str | None] = [None] * len(rows)
    if has_pictures:
        pictures = thumbnails.data_uris(catalog.uri, rows, Framing(PICTURE_PIXELS), use_packed=catalog.pack > 0)
    known = {row["uri"]: (picture, _label(row)) for row, picture in zip(rows.to_pylist(), pictures, strict=True)}
    source = f"{catalog.source}/"
    return {
        uri: ShownImage(
            _shortened(uri.removeprefix(source)) if has_pictures else catalog.hidden_name(uri),
            *known.get(uri, (None, "")),
        )
        for uri in uris
    }


def _label(row: dict[str, Any]) -> str:
    said = [say(row), row["gender"], row["ethnicity"], row["split"]]
    return ", ".join(filter(None, said))


def _shortened(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"…{name[1 - MAX_NAME :]}"


def _shown(
    kind: str,
    num_findings: int,
    rows: Sequence[Mapping[str, Any]],
    images: Mapping[str, ShownImage],
    has_pictures: bool,
) -> ShownKind:
    title, meaning, advice = KINDS.get(kind, (kind.replace("_", " ").capitalize(), "", ""))
    left_out = LEFT_OUT_OF.get(kind, "")
    shown = [
        ShownFinding(
            [images[uri] for uri in (row["uri"], row["related_uri"]) if uri],
            (row["detail"] or "") if has_pictures else "",
        )
        for row in rows
    ]
    return ShownKind(kind, title, meaning, advice, left_out, num_findings, shown)
