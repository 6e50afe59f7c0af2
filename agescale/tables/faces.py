"""The faces in a catalog's photos, found once: a table beside the catalog, with a file for each of its parts.

    <catalog>.agescale/faces-<detection>/faces-<listing>-<number>.parquet

Every photo that was searched has a row for each of its faces, or one whose ``num_faces`` is 0; in one without a row, or
in a part without a file, nobody has looked for faces yet. The folder is named after all that decides which faces are
found, so a catalog may have several, and whoever cuts them out otherwise shares what was found. Finds no faces.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from agescale.faces.finding import aligned
from agescale.faces.geometry import FaceGeometry, FoundFace
from agescale.faces.images import Photo
from agescale.faces.loading import Framing, KnownFaces
from agescale.store import objects, parquet
from agescale.store.errors import StoreError
from agescale.tables import schema
from agescale.tables.catalogs import Catalog
from agescale.tables.companions import DIGEST_CHARACTERS, Companion, listing_parts

HELD_PARTS = 4
"""Files that a process keeps what it has read of, some MB each."""


def table(geometry: FaceGeometry) -> Companion:
    """The faces that were found as ``geometry`` says."""
    digest = objects.sha256(json.dumps(geometry.detection, sort_keys=True).encode())
    return Companion("faces", f"faces-{digest[:DIGEST_CHARACTERS]}")


def folder(catalog: str, geometry: FaceGeometry) -> str:
    """Where the faces of the catalog at that URI are that were found as ``geometry`` says, if any."""
    return table(geometry).folder(catalog)


def file_of(catalog: str, geometry: FaceGeometry, part: str) -> str:
    """URI of the faces of one part of a catalog."""
    return table(geometry).file_of(catalog, part)


def geometry_of(catalog: Catalog) -> FaceGeometry | None:
    """How the faces of a catalog are found once, or None where that has not been asked for."""
    which = catalog.settings.get("faces")
    return default_geometry(which) if which else None


def default_geometry(which: Literal["largest", "all"]) -> FaceGeometry:
    return FaceGeometry() if which == "largest" else FaceGeometry().for_all_faces()


def missing_parts(catalog: Catalog, geometry: FaceGeometry) -> list[str]:
    """Names of the catalog's parts that list images, and whose faces nobody has found yet as ``geometry`` says."""
    return table(geometry).missing_parts(catalog)


def write(catalog: str, geometry: FaceGeometry, part: str, rows: pa.Table) -> None:
    """Writes the rows of one part, unless they stand already."""
    table(geometry).write(catalog, part, rows, {"detection": geometry.detection})


def faceless(catalog: Catalog, geometry: FaceGeometry) -> pa.Table:
    """``uri, version`` of the photos of a catalog that were searched, and in which no face was found; maybe of rows
    that are not current any more."""
    files = [file_of(catalog.uri, geometry, part) for part in listing_parts(catalog)]
    is_none = pc.field("num_faces") == 0
    with objects.read_pool() as pool:
        found = pool.map(lambda file: _read_or_none(file, ["uri", "version"], is_none), files)
        return pa.concat_tables([schema.FACES.empty_table().select(["uri", "version"]), *filter(None, found)])


def _read_or_none(file: str, columns: Sequence[str], filters: pc.Expression | None = None) -> pa.Table | None:
    """None where the faces of that part have not been found, or this user may not read where they are: whoever may read
    a catalog, may do without them."""
    try:
        return parquet.read_table(file, list(columns), filters)
    except StoreError as error:
        if error.status not in ("missing", "forbidden"):
            raise
        return None


def rows_of(listed: Mapping[str, Any], photo: Photo, geometry: FaceGeometry) -> list[dict[str, Any]]:
    """The rows of a photo that has been searched; ``listed`` is its row in the catalog: uri, version, content_hash."""
    assert photo.faces is not None
    height, width = photo.pixels.shape[:2]
    key = {name: listed[name] for name in ("uri", "version", "content_hash")}
    facts = {**key, "num_faces": len(photo.faces), "photo_width": width, "photo_height": height}
    faces = aligned(photo.pixels, photo.faces, geometry)
    return [{**facts, **face.to_row()} for face in faces] or [{**facts, "face": 0}]


def known_faces(catalog: str, rows: pa.Table, geometry: FaceGeometry) -> Iterator[KnownFaces | None]:
    """What was found in each of ``rows`` (columns uri, part), in order; None where nobody has looked for faces."""
    files: dict[str, Mapping[str, KnownFaces]] = {}
    for part, uri in zip(rows["part"].to_pylist(), rows["uri"].to_pylist(), strict=True):
        if part not in files:
            files[part] = _read(file_of(catalog, geometry, part))
        yield files[part].get(uri)


def _read(file: str) -> Mapping[str, KnownFaces]:
    """What is known of one part, by URI; nothing where nobody has looked, or this user may not read it."""
    try:
        version = objects.version(file)
    except StoreError as error:
        if error.status != "forbidden":
            raise
        return {}
    return _read_version(file, version) if version else {}


@lru_cache(maxsize=HELD_PARTS)
def _read_version(file: str, _: str) -> Mapping[str, KnownFaces]:
    """By URI; an image stands once in a part. Kept, as training asks for some rows of a part, and then for others."""
    columns = ["uri", "num_faces", "face_box", "face_landmarks", "face_score", "photo_width", "photo_height"]
    table = _read_or_none(file, [*columns, "content_hash"])
    rows = table.to_pylist() if table else []
    return {uri: _known([*of_photo]) for uri, of_photo in groupby(rows, key=lambda row: row["uri"])}


def _known(rows: list[dict[str, Any]]) -> KnownFaces:
    faces = tuple(_found(row) for row in rows if row["num_faces"])
    return KnownFaces(faces, rows[0]["photo_width"], rows[0]["photo_height"], rows[0]["content_hash"])


def _found(row: Mapping[str, Any]) -> FoundFace:
    x1, y1, x2, y2 = row["face_box"]
    landmarks = None if row["face_landmarks"] is None else tuple((x, y) for x, y in row["face_landmarks"])
    return FoundFace((x1, y1, x2, y2), landmarks, row["face_score"])


def found_on_the_fly(catalog: Catalog, framing: Framing) -> str:
    """A line where a catalog has a table of faces that is of no use to a model, or only for some parts; else ''."""
    geometry, once = framing.geometry, geometry_of(catalog)
    if geometry is None or once is None:
        return ""
    number = len(missing_parts(catalog, geometry))
    if not number:
        return ""
    said = f"{catalog.uri}: the faces of {number:,} part{'' if number == 1 else 's'} of it are found on the fly"
    if geometry.detection == once.detection:
        return f"{said}; the same jobs/catalog.py command finds those"
    return f"{said}, as the catalog's were found with {_differences(once.detection, geometry.detection)}"


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    names = [name for name in now if now[name] != before[name]]
    is_long = {name: isinstance(now[name], list | tuple) for name in names}
    return ", ".join(
        f"another {name}" if is_long[name] else f"{name} {before[name]}, not {now[name]}" for name in names
    )
