"""Reading a catalog that grew: what is current, what is complete, and the pictures in it."""

from __future__ import annotations

import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from agescale.faces import loading
from agescale.faces.images import Face, ImageError
from agescale.faces.loading import Framing
from agescale.store import objects, parquet, paths
from agescale.store.errors import StoreError
from agescale.tables import catalogs, folders, footers, packed, schema
from agescale.tables.catalogs import Catalog

SETTINGS = {"source": "/faces", "age_groups": "child=0-12,adult=13-", "pack": 0}
Rows = list[dict[str, Any]]


def write_part(folder: Path, listing: int, rows: Rows, number: int = 0) -> str:
    name = f"part-{listing:05d}-{number:06d}.parquet"
    table_schema = schema.with_metadata("catalog", {"id": "1", "settings": SETTINGS})
    table = pa.Table.from_pylist([{"version": "1", "deleted": False, **row} for row in rows], table_schema)
    parquet.write_table(str(folder / name), table, catalogs.ROW_GROUP_ROWS)
    return name


def write_findings(folder: Path, rows: Rows, parts: list[str], catalog_id: str = "1") -> None:
    table = pa.Table.from_pylist(rows, schema.with_metadata("findings", {"id": catalog_id, "parts": parts}))
    parquet.write_table(catalogs.findings_uri(str(folder)), table)


@pytest.fixture
def grown(tmp_path: Path) -> str:
    """Listed three times: b was changed, then deleted and came back; c was deleted; d is new, a as it was."""
    write_part(tmp_path, 1, [{"uri": "/a"}, {"uri": "/b"}])
    write_part(tmp_path, 1, [{"uri": "/c"}], number=1)
    write_part(tmp_path, 2, [{"uri": "/d"}, {"uri": "/b", "version": "2"}])
    write_part(tmp_path, 2, [{"uri": "/c", "deleted": True}], number=1)
    write_part(tmp_path, 3, [{"uri": "/b", "version": "2", "deleted": True}])
    write_part(tmp_path, 4, [{"uri": "/b", "version": "3"}])
    return str(tmp_path)


def test_current_are_the_newest_rows_that_are_not_deleted(grown: str) -> None:
    rows = Catalog.open(grown).read(["uri", "version"])
    assert rows.to_pylist() == [
        {"uri": "/a", "version": "1", "part": "part-00001-000000.parquet", "row": 0},
        {"uri": "/d", "version": "1", "part": "part-00002-000000.parquet", "row": 0},
        {"uri": "/b", "version": "3", "part": "part-00004-000000.parquet", "row": 0},
    ]
    assert Catalog.open(grown).read(["version"]).column_names == ["version", "part", "row"]


@pytest.mark.parametrize("max_held_rows", [0, 5])
def test_rows_that_later_listings_name_are_superseded(
    grown: str, max_held_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogs.Superseded, "MAX_HELD_ROWS", max_held_rows)
    monkeypatch.setattr(catalogs.Superseded, "PROBED_ROWS", 2)
    superseded = catalogs.Superseded(grown, Catalog.open(grown).parts)
    rows = pa.table({"uri": ["/a", "/b", "/c", "/d", "/e"]})
    assert superseded.among(rows, 1).to_pylist() == [False, True, True, True, False]
    assert superseded.among(rows, 2).to_pylist() == [False, True, False, False, False]
    assert superseded.among(rows, 4).to_pylist() == [False] * 5
    assert superseded.among(rows.slice(0, 0), 1).to_pylist() == []


def test_later_listings_that_replace_nothing_are_not_read(grown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [replace(part, replaces=part.name.startswith("part-00003")) for part in Catalog.open(grown).parts]
    read: list[str] = []
    monkeypatch.setattr(catalogs, "_read_uris", lambda file, *_: read.append(file) or pa.array(["/b"]))
    superseded = catalogs.Superseded(grown, parts)
    assert superseded.among(pa.table({"uri": ["/a", "/b"]}), 1).to_pylist() == [False, True]
    assert [paths.name_of(file) for file in read] == ["part-00003-000000.parquet"]


def test_what_the_parts_say_is_read_from_one_file_as_long_as_they_stand_as_they_were(
    grown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    ask = catalogs.ask_part
    monkeypatch.setattr(catalogs, "ask_part", lambda file: asked.append(paths.name_of(file)) or ask(file))
    parts = Catalog.open(grown).parts
    assert [(part.num_rows, part.first, part.last) for part in parts[:3]] == [
        (2, "/a", "/b"),
        (1, "/c", "/c"),
        (2, "/b", "/d"),
    ]
    Catalog.open(grown).keep_footers()
    asked.clear()
    assert Catalog.open(grown).parts == parts
    assert asked == []
    changed = write_part(Path(grown), 4, [{"uri": "/x"}, {"uri": "/y"}])
    added = write_part(Path(grown), 5, [{"uri": "/z"}])
    assert [part.last for part in Catalog.open(grown).parts][-2:] == ["/y", "/z"]
    assert sorted(asked) == [changed, added]
    objects.write_bytes(paths.join(folders.beside(grown), footers.NAME), b"damaged")
    asked.clear()
    assert len(Catalog.open(grown).parts) == len(asked) == 7


def test_a_catalog_is_complete_when_its_findings_cover_its_parts(grown: str) -> None:
    names = Catalog.open(grown).names
    write_findings(Path(grown), [], names)
    Catalog.open(grown).check_complete()
    write_findings(Path(grown), [], names[:-1])
    with pytest.raises(ValueError, match=r"not complete; run the same jobs/catalog\.py command again"):
        Catalog.open(grown).check_complete()
    write_findings(Path(grown), [], names, catalog_id="2")  # of one that stood here before
    with pytest.raises(ValueError, match="not complete"):
        Catalog.open(grown).check_complete()
    objects.delete(catalogs.findings_uri(grown))
    with pytest.raises(ValueError, match="not complete"):
        Catalog.open(grown).check_complete()


def test_where_there_is_no_catalog_one_line_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere: no catalog there; make one with jobs/catalog\.py"):
        Catalog.open(str(tmp_path / "nowhere")).read(["uri"])
    (tmp_path / "part-00001-000000.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(ValueError, match=r"part-00001-000000\.parquet: ") as caught:
        assert Catalog.open(str(tmp_path)).settings
    assert "\n" not in str(caught.value)


def test_settings_and_age_groups_come_from_the_parts(grown: str) -> None:
    assert Catalog.open(grown).settings == SETTINGS
    groups = Catalog.open(grown).age_groups
    assert groups is not None
    assert groups.names == ("child", "adult")


def test_excluded_are_the_findings_that_spoil_a_row(tmp_path: Path) -> None:
    kinds = ["broken", "duplicate", "leaking", "malformed", "conflicting", "outside_groups", "tiny"]
    write_findings(tmp_path, [{"uri": f"/{kind}", "version": "1", "kind": kind} for kind in kinds], [])
    found = Catalog(str(tmp_path), {}).excluded()
    assert found["kind"].to_pylist() == ["broken", "duplicate", "conflicting", "tiny"]
    assert Catalog(str(tmp_path / "nothing"), {}).excluded().num_rows == 0


def jpeg(colour: int, side: int = 32) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (colour, colour, colour)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_faces_come_packed_or_from_their_files_in_the_order_of_the_rows(tmp_path: Path) -> None:
    (tmp_path / "loose.jpg").write_bytes(jpeg(250))
    (tmp_path / "broken.jpg").write_bytes(b"text")
    rows: Rows = [{"uri": f"/packed-{index}", "image": jpeg(index % 200)} for index in range(300)]
    rows += [{"uri": str(tmp_path / name)} for name in ("loose.jpg", "broken.jpg", "gone.jpg")]
    write_part(tmp_path, 1, rows)
    wanted = Catalog.open(str(tmp_path)).read(["uri"]).take([299, 0, 300, 301, 302, 7])
    with ThreadPoolExecutor(2) as pool:
        faces = list(packed.load_faces(str(tmp_path), wanted, Framing(16), True, pool))
    shades = [round(float(face.pixels.mean())) if isinstance(face, Face) else None for face in faces]
    assert shades == [99, 0, 250, None, None, 7]
    assert isinstance(faces[3], ImageError)
    assert isinstance(faces[4], StoreError)
    assert faces[4].status == "missing"
    with ThreadPoolExecutor(2) as pool:
        (face,) = packed.load_faces(str(tmp_path), wanted.slice(0, 1), Framing(16), False, pool)
    assert isinstance(face, StoreError)  # not packed: its own URI is asked


def test_more_faces_than_are_decoded_ahead_all_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "LOOK_AHEAD", 4)
    write_part(tmp_path, 1, [{"uri": f"/{index}", "image": jpeg(index)} for index in range(20)])
    rows = Catalog.open(str(tmp_path)).read(["uri"])
    with ThreadPoolExecutor(3) as pool:
        faces = list(packed.load_faces(str(tmp_path), rows, Framing(16), True, pool))
    assert [np.round(face.pixels.mean()) for face in faces if isinstance(face, Face)] == list(range(20))


@pytest.mark.parametrize(
    ("pack", "image_size", "center_crop", "is_enough"),
    [(200, 200, 1.0, True), (200, 140, 0.7, True), (200, 141, 0.7, False), (0, 96, 1.0, False)],
)
def test_packed_images_serve_where_they_hold_all_that_a_model_sees(
    pack: int, image_size: int, center_crop: float, is_enough: bool, tmp_path: Path
) -> None:
    folders.write_new_part(
        str(tmp_path),
        "part-00001-000000.parquet",
        schema.with_metadata("catalog", {"settings": {"pack": pack}}).empty_table(),
    )
    assert Catalog.open(str(tmp_path)).holds_packed(Framing(image_size, center_crop)) == is_enough


def test_a_catalog_is_listed_and_asked_once_and_travels_with_what_it_was_told(
    grown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = Catalog.open(grown)
    told = catalog.parts, catalog.settings, catalog.findings
    for path in Path(grown).glob("*.parquet"):
        path.unlink()
    assert (catalog.parts, catalog.settings, catalog.findings) == told
    there = pickle.loads(pickle.dumps(catalog))
    assert (there, there.parts, there.settings) == (catalog, *told[:2])
    assert "findings" not in vars(there)  # which may be many, and nobody elsewhere asks for


def test_whoever_may_write_into_a_table_may_write_beside_it(tmp_path: Path) -> None:
    for name, mode in (("shared", 0o775), ("own", 0o755)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
        with folders.output(str(tmp_path / name), "catalog").held():
            beside = Path(folders.beside(str(tmp_path / name))).stat().st_mode
        assert bool(beside & 0o020) == (name == "shared")
