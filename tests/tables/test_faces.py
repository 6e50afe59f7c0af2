"""What is kept of faces tells the very same of them, and "none" from "nobody has looked"."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from factories import write_catalog

from agescale.faces.geometry import FaceGeometry, FoundFace
from agescale.faces.images import Photo
from agescale.faces.loading import Framing
from agescale.store import objects
from agescale.tables import faces, schema
from agescale.tables.catalogs import Catalog

GEOMETRY = FaceGeometry()
PART = "part-00001-000000.parquet"
LARGE = FoundFace(
    (10.1, 20.2, 100 / 3, 40.7), ((12.3, 1 / 7), (20.0, 25.5), (17.0, 30.1), (13.0, 35.0), (21.0, 36.0)), 0.9
)
SMALL = FoundFace((1.0, 2.0, 5.0, 7.0), None, 2 / 3)


def photo(*found: FoundFace) -> Photo:
    return Photo(np.zeros((48, 64, 3), np.uint8), 128, 96, found)


def rows_of(uri: str, *found: FoundFace) -> list[dict[str, Any]]:
    return faces.rows_of({"uri": uri, "version": "1", "content_hash": "beef"}, photo(*found), GEOMETRY)


@pytest.fixture
def catalog(tmp_path: Path) -> str:
    rows = [{"uri": f"/{name}", "version": "1", "deleted": False} for name in ("two", "none", "unread")]
    parts = {PART: rows, "part-00002-000000.parquet": rows[:1]}
    return write_catalog(str(tmp_path / "catalog"), parts, settings={"faces": "largest"})


def write(catalog: str, part: str, rows: list[dict[str, Any]]) -> None:
    faces.write(catalog, GEOMETRY, part, pa.Table.from_pylist(rows, schema=schema.FACES))


def test_what_is_read_is_what_was_found_to_the_last_bit(catalog: str) -> None:
    write(catalog, PART, [*rows_of("/two", LARGE, SMALL), *rows_of("/none")])
    asked = pa.table(
        {"uri": ["/none", "/unread", "/two", "/two"], "part": [PART, PART, PART, "part-00002-000000.parquet"]}
    )
    none, unread, two, of_another_part = faces.known_faces(catalog, asked, GEOMETRY)
    assert none is not None
    assert none.faces == ()
    assert unread is None
    assert two is not None
    assert two.faces == (LARGE, SMALL)
    assert (two.width, two.height, two.content_hash) == (64, 48, "beef")
    assert of_another_part is None
    assert two.told(replace(photo(), faces=None)).faces == (LARGE, SMALL)
    smaller = replace(photo(), pixels=np.zeros((24, 32, 3), np.uint8), faces=None)
    assert two.told(smaller).faces is None, "it is decoded otherwise now"


def test_what_stands_is_not_written_again(catalog: str) -> None:
    write(catalog, PART, rows_of("/two", LARGE))
    before = objects.read_bytes(faces.file_of(catalog, GEOMETRY, PART))
    write(catalog, PART, rows_of("/none"))
    assert objects.read_bytes(faces.file_of(catalog, GEOMETRY, PART)) == before


def test_only_what_decides_which_faces_are_found_names_the_folder() -> None:
    folder = faces.folder("/catalog", GEOMETRY)
    assert folder.startswith("/catalog.agescale/faces-")
    assert faces.folder("/catalog", replace(GEOMETRY, size=224, margin=0.3, min_face_size=20)) == folder
    assert faces.folder("/catalog", FaceGeometry.from_dict(GEOMETRY.to_dict())) == folder
    others = [GEOMETRY.for_all_faces(), replace(GEOMETRY, score_threshold=0.7), replace(GEOMETRY, landmark_size=0)]
    assert len({folder, *(faces.folder("/catalog", other) for other in others)}) == 4


def test_what_is_found_on_the_fly_is_said_with_the_reason(catalog: str) -> None:
    def said(geometry: FaceGeometry | None) -> str:
        return faces.found_on_the_fly(Catalog.open(catalog), Framing(112, geometry=geometry)).removeprefix(catalog)

    assert said(None) == ""
    assert said(GEOMETRY).startswith(": the faces of 2 parts of it are found on the fly; the same jobs/catalog.py")
    write(catalog, PART, [])
    assert said(GEOMETRY).startswith(": the faces of 1 part of it are")
    write(catalog, "part-00002-000000.parquet", [])
    assert said(GEOMETRY) == ""
    other = replace(GEOMETRY, detection_size=640, box=(0.0, 0.0, 1.0, 1.0))
    assert said(other).endswith("the catalog's were found with detection_size 192, not 640, another box")


def test_a_catalog_without_faces_says_nothing(tmp_path: Path) -> None:
    bare = Catalog.open(
        write_catalog(str(tmp_path / "bare"), {PART: [{"uri": "/a", "version": "1", "deleted": False}]})
    )
    assert faces.found_on_the_fly(bare, Framing(112, geometry=GEOMETRY)) == ""


def test_a_file_is_read_once_until_it_is_another(catalog: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pa.table({"uri": ["/two"], "part": [PART]})

    def num_faces() -> int | None:
        (known,) = faces.known_faces(catalog, asked, GEOMETRY)
        return len(known.faces) if known else None

    assert num_faces() is None
    write(catalog, PART, rows_of("/two", LARGE, SMALL))
    assert num_faces() == 2, "nobody remembers that there were none"
    with monkeypatch.context() as patched:
        patched.setattr(faces.parquet, "read_table", None)
        assert num_faces() == 2
    Path(faces.file_of(catalog, GEOMETRY, PART)).unlink()
    assert num_faces() is None
    write(catalog, PART, rows_of("/two", LARGE))
    assert num_faces() == 1
