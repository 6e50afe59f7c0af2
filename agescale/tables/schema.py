"""The tables that all jobs share: column names, Arrow types, closed vocabularies. Null means missing.

Every file of either table is written with the explicit schema, and its metadata name ``agescale.schema_version`` and
the kind of the table, so that any part tells what it belongs to. No type has a fixed size: such lists cannot be read
with nulls in them before pyarrow 26, and such bytes not by every engine. Does no I/O.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_args

import pyarrow as pa

from agescale.config import FailedStatus, Split

SCHEMA_VERSION = 5
OLDEST_VERSION = 3
"""Read as well: its catalogs have no ``boxes``, and those of version 4 no ``perceptual_hash``."""

BOX_LABEL = ("age_low", "age_high", "group", "subject", "gender", "ethnicity")
"""What a label by box tells of a face, as the columns of the same name tell it of a photo."""
SIDES = ("x", "y", "width", "height")
"""Of a box, in pixels of the upright photo."""
BOXES = pa.list_(
    pa.struct(
        [
            *(pa.field(name, pa.float64()) for name in SIDES),
            *(pa.field(name, pa.float32() if name.startswith("age_") else pa.string()) for name in BOX_LABEL),
        ]
    )
)

CATALOG = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),  # etag, or size and modification time
        pa.field("size_bytes", pa.int64()),
        pa.field("listed_at", pa.timestamp("us", tz="UTC")),
        pa.field("deleted", pa.bool_(), nullable=False),
        pa.field("width", pa.int32()),  # pixels, after EXIF orientation; null where only listed or unreadable
        pa.field("height", pa.int32()),
        pa.field("content_hash", pa.string()),  # SHA-256 of the bytes, hex; null where only listed
        pa.field("perceptual_hash", pa.string()),  # how it looks, 256 bits, hex; null where flat, or only listed
        pa.field("read_error", pa.string()),  # why the image could not be decoded: "<status>: <text>"
        pa.field("age_low", pa.float32()),  # years; the label is the interval [age_low, age_high)
        pa.field("age_high", pa.float32()),
        pa.field("group", pa.string()),  # the class name, where that is all the label says
        pa.field("subject", pa.string()),
        pa.field("gender", pa.string()),
        pa.field("ethnicity", pa.string()),
        pa.field("split", pa.string()),
        pa.field("label_error", pa.string()),  # why a label could not be read
        pa.field("boxes", BOXES),  # labels of single faces in the photo; then those above are null
        pa.field("image", pa.binary()),  # packed JPEG, or null
    ]
)

FINDINGS = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("related_uri", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("line", pa.int32()),  # of the CSV that labels come from, as it was when they were last read
    ]
)

FACES = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("face", pa.int32(), nullable=False),  # from 0 on, by size, then by place; 0 where none was found
        pa.field("num_faces", pa.int32(), nullable=False),  # found in the photo; of 0 there is one row
        pa.field("face_box", pa.list_(pa.float64())),  # x1, y1, x2, y2, pixels of the photo as it was decoded
        pa.field("face_landmarks", pa.list_(pa.list_(pa.float64()))),  # x, y of eyes, nose, corners of the mouth
        pa.field("face_score", pa.float64()),  # how sure the detector is that this is one, 0..1
        pa.field("face_pixels", pa.float32()),  # side of a square as large as the box
        pa.field("roll", pa.float32()),  # degrees, clockwise; null, as the next one, where it is too small
        pa.field("sharpness", pa.float32()),  # variance of the Laplacian of the face cut out at 112 pixels
        pa.field("photo_width", pa.int32(), nullable=False),  # pixels of the photo as it was decoded
        pa.field("photo_height", pa.int32(), nullable=False),
        pa.field("content_hash", pa.string(), nullable=False),  # the catalog's: of the file that was searched
    ]
)

FEATURES = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("features", pa.list_(pa.float16()), nullable=False),  # what a network's last layer but one says
    ]
)

PREDICTIONS = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("face", pa.int32(), nullable=False),  # from 0 on, by size, then by place; 0 where none was looked for
        pa.field("num_faces", pa.int32()),  # found in the image; null, as the next five, where none were looked for
        pa.field("face_x", pa.float32()),  # left edge of the face, pixels of the upright image
        pa.field("face_y", pa.float32()),
        pa.field("face_width", pa.float32()),
        pa.field("face_height", pa.float32()),
        pa.field("face_score", pa.float32()),  # how sure the detector is that this is one, 0..1
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("age_cdf", pa.list_(pa.int32())),  # 101 values: 65535 * P(age < k years), k = 0..100
        pa.field("age", pa.float32()),  # years, on the labels' scale: a label 34 is 34.0
        pa.field("age_lower", pa.float32()),
        pa.field("age_upper", pa.float32()),
        pa.field("age_std", pa.float32()),
        pa.field("group", pa.string()),
        pa.field("group_probability", pa.float32()),
        pa.field("group_probabilities", pa.list_(pa.float32())),  # only where the groups have no bounds
        pa.field("gender", pa.string()),
        pa.field("gender_probability", pa.float32()),
        pa.field("ethnicity", pa.string()),
        pa.field("ethnicity_probability", pa.float32()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("model", pa.string(), nullable=False),  # digest of the checkpoint
        pa.field("scored_at", pa.timestamp("us", tz="UTC")),
    ]
)

NEEDS_PAPERS = pa.field("needs_papers", pa.bool_(), nullable=False)
"""Of predictions that an age gate was applied to, behind the others: who does not pass without papers. Nobody passes of
whom there is no prediction."""

TABLES = {
    "catalog": CATALOG,
    "findings": FINDINGS,
    "faces": FACES,
    "features": FEATURES,
    "predictions": PREDICTIONS,
}
"""Kinds of tables."""

SPLITS = get_args(Split)

STATUSES = ("ok", *get_args(FailedStatus))

FINDING_KINDS = (
    "broken",  # does not decode
    "tiny",  # a side under MIN_SIDE pixels
    "duplicate",  # byte-identical to another image with an agreeing label; one copy is kept without a finding
    "conflicting",  # byte-identical to another image with another label
    "leaking",  # byte-identical to, or the same subject as, an image of another split
    "near_duplicate",  # looks the same as another image of its split, whose bytes are others
    "near_leaking",  # looks the same as an image of another split
    "suspect",  # a model that has not seen the image expects an age far from its label
    "unlabelled",  # a labelled layout, and yet no label that could be read
    "malformed",  # a part of the label could not be read; the rest is used
    "unusual",  # a gender or ethnicity in a CSV that nearly no other image has, perhaps mistyped
    "empty_class",  # a class folder without an image
    "no_face",  # labelled, and faces were looked for in vain
    "unmatched_box",  # a label's box is that of none of the faces that were found
    "outside_groups",  # the label falls into none of the age groups
    "missing_file",  # the CSV names an image that is not there
    "broken_archive",  # an archive that cannot be read, or not to its end; what stands before the damage is taken
    "unusable_member",  # a member of an archive that is not taken: its name, its packing, or there are two
)

EXCLUDED_KINDS = ("broken", "tiny", "duplicate", "conflicting", "missing_file")
"""Rows with these findings are left out of training and, unless asked for, out of metrics."""
LEAKING_KINDS = ("leaking", "near_leaking")
"""Rows with these findings stand in one split, and the ``related_uri`` of each in a stricter one, which judges it."""
REPEATED_KINDS = ("duplicate", "conflicting", "near_duplicate", *LEAKING_KINDS)
"""Findings about pictures, or persons, that the catalog has more than once."""


class OtherVersion(ValueError):
    """A table from another version of agescale, which has nothing wrong with it."""


def predictions_of(run: Mapping[str, Any]) -> pa.Schema:
    """The columns of the predictions of a ``run``: those of an age gate where one was applied."""
    return PREDICTIONS.append(NEEDS_PAPERS) if run.get("papers_where") else PREDICTIONS


def with_metadata(kind: str, metadata: Mapping[str, Any]) -> pa.Schema:
    """The schema of that kind of table with ``agescale.*`` metadata: version, kind, each of ``metadata`` as JSON."""
    values = {"schema_version": SCHEMA_VERSION, "table": kind, **metadata}
    columns = predictions_of(metadata.get("run", {})) if kind == "predictions" else TABLES[kind]
    return columns.with_metadata({f"agescale.{key}": json.dumps(value) for key, value in values.items()})


def read_metadata(schema: pa.Schema, kind: str) -> dict[str, Any]:
    """What ``with_metadata`` wrote. Raises ValueError where a file is not ours, is of another kind of table, or comes
    from another version of the tables."""
    raw = {key.decode(): value for key, value in (schema.metadata or {}).items()}
    found = {key.removeprefix("agescale."): json.loads(v) for key, v in raw.items() if key.startswith("agescale.")}
    version = found.pop("schema_version", None)
    if version is None:
        raise ValueError("not a table written by agescale (its metadata has no schema version)")
    if version > SCHEMA_VERSION:
        raise OtherVersion(f"written by a newer agescale (schema version {version}, this one reads {SCHEMA_VERSION})")
    if version < OLDEST_VERSION:
        hint = "make the table again, in another folder"
        raise OtherVersion(
            f"written by an older agescale (schema version {version}, this one {SCHEMA_VERSION}); {hint}"
        )
    if (found_kind := found.pop("table", None)) != kind:
        raise ValueError(f"part of a table of {NOUNS.get(found_kind, 'another kind')}, not of {NOUNS[kind]}")
    run = found.get("run", {})
    if "mirror" in run:  # what older tables call test-time augmentation
        run["tta"] = run.pop("mirror")
    return found


NOUNS = {
    "catalog": "a catalog",
    "findings": "findings",
    "faces": "faces",
    "features": "features of faces",
    "predictions": "predictions",
}
