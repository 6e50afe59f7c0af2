"""Faces that a catalog has found once: who uses them sees what he would have found himself, and runs no detector."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import make_checkpoint
from dying_writes import dies_at_write
from PIL import Image

from agescale.cataloging import driver, parts, settings, suspects, worker
from agescale.cataloging.driver import build_catalog
from agescale.config import CatalogConfig, CompactConfig, ScoreConfig
from agescale.faces import images
from agescale.faces.detection import RetinaFaceDetector
from agescale.faces.finding import FaceFinder
from agescale.faces.geometry import FaceGeometry
from agescale.faces.images import Face, Photo
from agescale.faces.loading import Framing
from agescale.models.features import FeatureSource
from agescale.scoring.driver import score
from agescale.store import lease, objects, parquet, paths
from agescale.store.errors import Damaged, StoreError
from agescale.store.objects import read_pool
from agescale.synthetic import portraits
from agescale.tables import faces, features, folders, packed
from agescale.tables.catalogs import Catalog
from agescale.tables.compaction import compact
from agescale.tables.predictions import Predictions
from agescale.training import decoding, selection
from agescale.training.decoding import FaceDecoder

pytestmark = pytest.mark.usefixtures("one_thread")

SIDES = {"20_1_0_1": (300, 260), "30_0_1_2": (900,), "40_1_2_3": (120,), "50_0_3_4": (), "60_1_4_5": (64,)}
"""Faces in each photo, by the beginning of its name: side in pixels. The second photo is large enough to be decoded at
a half."""


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    """All work is done in this process."""

    def run_here(units: list[pa.Table], work: Callable[[pa.Table], pa.Table], _: Any) -> Iterator[dict[str, Any]]:
        yield from (row for unit in units for row in work(unit).to_pylist())

    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # more threads of a network round otherwise
    monkeypatch.setattr(driver, "is_cluster_at_hand", lambda: False)
    monkeypatch.setattr(driver, "run_here", run_here)
    for module in (worker, decoding):
        monkeypatch.setattr(module, "decoder", lambda _: nullcontext(images))


@pytest.fixture
def no_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the detector is loaded")

    monkeypatch.setattr(RetinaFaceDetector, "__init__", fail)


def draw_photo(sides: tuple[int, ...], seed: int) -> Image.Image:
    width, height = 60 + sum(side + 60 for side in sides), max(sides, default=100) + 80
    scale = 2 if 900 in sides else 1
    photo = Image.new("RGB", (max(width, scale * 640), max(height, scale * 660)), (150, 150, 150 + seed))
    left = 60
    for side in sides:
        rng = np.random.default_rng(seed)
        photo.paste(portraits.draw_face(rng, 20, "female", "White", side), (left, 40))
        left += side + 60
    return photo


def save(path: Path, sides: tuple[int, ...], seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_photo(sides, seed).save(path, "JPEG")


def photo_name(beginning: str) -> str:
    return f"{beginning}0170117000000000.jpg.chip.jpg"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Only to be read."""
    folder = tmp_path_factory.mktemp("found") / "photos"
    for seed, (beginning, sides) in enumerate(SIDES.items()):
        save(folder / photo_name(beginning), sides, seed)
    (folder / photo_name("70_0_0_6")).write_bytes(b"broken")
    return folder


def config_of(source: Path, out: Path, which: str = "largest", **settings: Any) -> CatalogConfig:
    return CatalogConfig(str(source), str(out), layout="utkface", split=(0, 0, 1), faces=which, **settings)


@pytest.fixture(scope="module")
def found(photos: Path) -> str:
    """A catalog with its faces. Only to be read."""
    out = photos.parent / "catalog"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "is_cluster_at_hand", lambda: False)
        build_catalog(config_of(photos, out))
    return str(out)


def rows_of(catalog: str, geometry: FaceGeometry | None = None) -> list[dict[str, Any]]:
    """Of the faces of its current rows, in the order of their parts."""
    opened = Catalog.open(catalog)
    current = set(
        map(tuple, (each.values() for each in opened.read(["uri", "version"]).select(["uri", "version"]).to_pylist()))
    )
    files = [faces.file_of(catalog, geometry or FaceGeometry(), part) for part in opened.names]
    rows = [row for file in files if objects.exists(file) for row in parquet.read_table(file).to_pylist()]
    return [row for row in rows if (row["uri"], row["version"]) in current]


def numbers(catalog: str) -> dict[str, list[tuple[int, int]]]:
    """Number of the face and of all faces, by the photo's name."""
    found: dict[str, list[tuple[int, int]]] = {}
    for row in rows_of(catalog):
        found.setdefault(paths.name_of(row["uri"])[:8], []).append((row["face"], row["num_faces"]))
    return found


def faceless(catalog: str) -> list[str]:
    """Labelled photos without a face, as the findings name them."""
    found = Catalog.open(catalog).findings.to_pylist()
    return [paths.name_of(each["uri"])[:8] for each in found if each["kind"] == "no_face"]


EXPECTED = {name: [(number, len(sides)) for number in range(len(sides))] or [(0, 0)] for name, sides in SIDES.items()}


def test_each_photo_that_was_searched_has_a_row_and_a_broken_one_has_none(found: str) -> None:
    assert numbers(found) == EXPECTED
    assert faceless(found) == ["50_0_3_4"]
    by_name = {paths.name_of(row["uri"])[:8]: row for row in rows_of(found)}
    wall, large = by_name["50_0_3_4"], by_name["30_0_1_2"]
    assert [wall[name] for name in ("face_box", "face_landmarks", "face_score", "roll")] == [None] * 4
    assert (large["photo_width"], large["photo_height"]) == (640, 660), "decoded at a half"
    assert large["face_pixels"] == pytest.approx(240, rel=0.1)
    assert abs(large["roll"]) < 15
    assert large["sharpness"] > 0


def seen(catalog: str, framing: Framing, knows: bool) -> list[Any]:
    rows = Catalog.open(catalog).read(["uri", "version", "size_bytes"])
    with read_pool() as pool:
        loaded = [*packed.load_faces(catalog, rows, framing, False, pool)]
        if not knows:
            loaded = [replace(each, faces=None) if isinstance(each, Photo) else each for each in loaded]
        return [shown for _, shown in FaceFinder(framing).find(enumerate(loaded))]


@pytest.mark.parametrize("margin", [0.0, 0.2])
def test_the_pixels_are_those_of_faces_found_on_the_fly(
    found: str, margin: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another size and margin too: what is found does not depend on how it is cut out."""
    framing = Framing(80, geometry=FaceGeometry(size=80, margin=margin), only_largest=False)
    on_the_fly = seen(found, framing, knows=False)
    monkeypatch.setattr(RetinaFaceDetector, "__init__", None)
    once = seen(found, framing, knows=True)
    assert len(once) == len(on_the_fly) == len(SIDES) + 1
    num_faces = 0
    for one, other in zip(once, on_the_fly, strict=True):
        if not isinstance(one, list):
            assert (type(one), str(one)) == (type(other), str(other))
            continue
        for face, again in zip(one, other, strict=True):
            assert isinstance(face, Face)
            assert (face.place, face.width, face.height) == (again.place, again.width, again.height)
            np.testing.assert_array_equal(face.pixels, again.pixels)
            num_faces += 1
    assert num_faces == sum(map(len, SIDES.values()))


def ages(catalog: str, checkpoint: str, out: Path, **settings: Any) -> pa.Table:
    config = ScoreConfig(catalog, str(out), checkpoint, num_workers=0, device="cpu", **settings)
    score(config)
    (file,) = Predictions.open(config.out).files
    return parquet.read_table(file).drop_columns(["scored_at"]).replace_schema_metadata(None)


@pytest.fixture(scope="module")
def checkpoint(photos: Path) -> str:
    return make_checkpoint(photos.parent / "checkpoint", faces=FaceGeometry(size=32))


def test_predictions_are_the_same_and_no_detector_is_run(
    found: str, checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    bare = shutil.copytree(found, tmp_path / "bare")
    shutil.copytree(f"{found}.agescale", f"{bare}.agescale", ignore=shutil.ignore_patterns("faces-*"))
    expected = ages(str(bare), checkpoint, tmp_path / "on-the-fly")
    assert "the faces of 1 part of it are found on the fly; the same jobs/catalog.py" in capsys.readouterr().out
    assert expected["status"].to_pylist().count("ok") == 4
    request.getfixturevalue("no_detector")
    assert ages(found, checkpoint, tmp_path / "once").equals(expected)
    assert "on the fly" not in capsys.readouterr().out
    with pytest.raises(AssertionError, match="the detector is loaded"):
        ages(found, checkpoint, tmp_path / "all", faces="all")
    assert "as the catalog's were found with detection_size 192, not 640" in capsys.readouterr().out


def test_all_faces_are_used_where_all_were_looked_for(
    photos: Path, checkpoint: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    out = tmp_path / "catalog"
    build_catalog(config_of(photos, out, "all"))
    request.getfixturevalue("no_detector")
    table = ages(str(out), checkpoint, tmp_path / "all", faces="all")
    assert table["num_faces"].to_pylist().count(2) == 2


def decoded(catalog: str, framing: Framing, use_packed: bool) -> dict[str, np.ndarray]:
    """All of a catalog, as training is fed with it."""
    rows = Catalog.open(catalog).read(["uri"])
    for name, numbers in (("catalog", [0] * len(rows)), ("index", range(len(rows)))):
        rows = rows.append_column(name, pa.array(numbers))
    return FaceDecoder((catalog,), (framing,), (use_packed,))(rows)


def test_training_decodes_what_was_found(found: str, no_detector: None) -> None:
    framing = Framing(40, geometry=FaceGeometry(size=40))
    batch = decoded(found, framing, use_packed=False)
    assert len(batch["image"]) == 4, "but for the wall and the broken one"
    shown = [each[0].pixels for each in seen(found, framing, knows=True) if isinstance(each, list)]
    np.testing.assert_array_equal(batch["image"], np.stack(shown))


def rows_without_versions(catalog: str) -> list[dict[str, Any]]:
    rows = [{**row, "uri": paths.name_of(row["uri"]), "version": ""} for row in rows_of(catalog)]
    return sorted(rows, key=lambda row: (row["uri"], row["face"]))


def few(photos: Path, folder: Path) -> Path:
    """A source of three photos."""
    folder.mkdir(parents=True)
    for beginning in ("20_1_0_1", "40_1_2_3", "50_0_3_4"):
        shutil.copy2(photos / photo_name(beginning), folder)
    return folder


def test_faces_are_found_for_what_is_new_or_has_changed_and_for_nothing_else(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    source, out = few(photos, tmp_path / "photos"), tmp_path / "catalog"
    config = config_of(source, out)
    build_catalog(replace(config, faces="none"))
    assert "finding faces" not in capsys.readouterr().out
    assert rows_of(str(out)) == []
    build_catalog(config)
    assert set(numbers(str(out))) == {"20_1_0_1", "40_1_2_3", "50_0_3_4"}
    assert faceless(str(out)) == ["50_0_3_4"]
    standing = faces.missing_parts(Catalog.open(str(out)), FaceGeometry())
    assert standing == []
    before = {file: file.stat().st_mtime_ns for file in Path(f"{out}.agescale").glob("faces-*/*")}
    save(source / photo_name("50_0_3_4"), (120,), seed=9)
    save(source / photo_name("60_1_4_5"), (100,), seed=8)
    (source / photo_name("40_1_2_3")).unlink()
    build_catalog(config)
    assert numbers(str(out)) == {"20_1_0_1": EXPECTED["20_1_0_1"], "50_0_3_4": [(0, 1)], "60_1_4_5": [(0, 1)]}
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert faceless(str(out)) == []
    request.getfixturevalue("no_detector")
    build_catalog(config)
    with pytest.raises(ValueError, match="faces was 'largest', is None"):
        build_catalog(replace(config, faces="none"))


def test_whatever_write_is_the_last_the_same_command_finds_what_is_missing(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills between any two writes, one after the other."""
    monkeypatch.setattr(parts, "INSPECTED_PART_ROWS", 2)
    look_with_a_small_model(tmp_path, monkeypatch)
    source = few(photos, tmp_path / "photos")
    config = config_of(source, tmp_path / "whole", suspects=True)
    build_catalog(config)
    expected, expected_features = rows_without_versions(config.out), features_of(config.out)
    assert len(expected) == 4
    for number in range(100):
        killed = replace(config, out=str(tmp_path / f"killed-{number}"))
        if not dies_at_write(number, lambda killed=killed: build_catalog(killed)):  # type: ignore[misc]
            break
        build_catalog(killed)
        assert rows_without_versions(killed.out) == expected
        assert faceless(killed.out) == ["50_0_3_4"]
        assert faces.missing_parts(Catalog.open(killed.out), FaceGeometry()) == []
        assert features_of(killed.out) == expected_features
    assert number >= 10, "it was hardly ever killed"


def test_another_photo_of_the_same_name_is_searched_again(photos: Path, tmp_path: Path) -> None:
    """Training takes what lies there, whatever was listed."""
    source, out = few(photos, tmp_path / "photos"), str(tmp_path / "catalog")
    build_catalog(config_of(source, Path(out)))
    framing = Framing(40, geometry=FaceGeometry(size=40))
    rows = Catalog.open(out).read(["uri"])
    name = photo_name("40_1_2_3")
    draw_photo((120,), 2).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(source / name, "JPEG")
    batch = decoded(out, framing, use_packed=False)
    place = [paths.name_of(rows["uri"][index].as_py()) for index in batch["index"]].index(name)
    (only,) = FaceFinder(framing).find([(0, images.load_photo((source / name).read_bytes()))])
    np.testing.assert_allclose(batch["image"][place].astype(int), only[1][0].pixels.astype(int), atol=2)


def test_faces_come_along_when_a_catalog_is_compacted(
    found: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    new = str(tmp_path / "new")
    compact(CompactConfig(found, new))
    assert rows_of(new) == rows_of(found)
    request.getfixturevalue("no_detector")
    assert faces.missing_parts(Catalog.open(new), FaceGeometry()) == []


def test_damaged_faces_are_one_line_and_repaired(photos: Path, tmp_path: Path) -> None:
    config = config_of(few(photos, tmp_path / "photos"), tmp_path / "catalog")
    build_catalog(config)
    expected = rows_of(config.out)
    (file,) = Path(f"{config.out}.agescale").glob("faces-*/*")
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(Damaged, match=r"faces-00001-000000\.parquet: damaged") as failure:
        seen(config.out, Framing(40, geometry=FaceGeometry(size=40)), knows=True)
    assert folders.remedy(failure.value.uri).startswith("delete it, and the same jobs/catalog.py command")
    build_catalog(replace(config, repair=True))
    assert rows_of(config.out) == expected


def test_faces_are_not_found_where_images_are_only_listed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--faces largest reads every image: give --inspect with it, or leave it out"):
        CatalogConfig(str(tmp_path), str(tmp_path / "catalog"), faces="largest")


def test_packed_photos_that_are_large_enough_are_searched_and_cut_out_in_their_place(
    photos: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source, out = few(photos, tmp_path / "photos"), str(tmp_path / "catalog")
    build_catalog(config_of(source, Path(out), pack=images.PHOTO_SIDE))
    shutil.rmtree(source)
    request.getfixturevalue("no_detector")
    assert len(decoded(out, Framing(40, geometry=FaceGeometry(size=40)), use_packed=True)["image"]) == 2


def test_a_source_that_is_away_leaves_no_table_without_faces(photos: Path, tmp_path: Path) -> None:
    source, out = few(photos, tmp_path / "photos"), tmp_path / "catalog"
    config = config_of(source, out)
    build_catalog(replace(config, faces="none"))
    catalog = Catalog.open(str(out))
    shutil.rmtree(source)
    find = worker.FaceWriter(catalog, FaceGeometry(), lease.Claim("", "", holder=""))
    with pytest.raises(StoreError, match="none of the images tried could be read"):
        find(pa.table({"part": catalog.names}))
    assert faces.missing_parts(catalog, FaceGeometry()) == catalog.names


def features_beside(catalog: str) -> dict[Path, int]:
    """Files of features, and when each was written."""
    return {file: file.stat().st_mtime_ns for file in Path(f"{catalog}.agescale").glob("features-*/*")}


def features_of(catalog: str) -> dict[str, Any]:
    """Of the photos that have some, by the beginning of their names."""
    opened = Catalog.open(catalog)
    rows, table = opened.read(["uri", "version"]), features.table_of(opened)
    assert table is not None
    assert table.missing_parts(opened) == []
    places, made = features.read(opened, table, rows)
    names = [paths.name_of(rows["uri"][place].as_py())[:8] for place in places.tolist()]
    return {name: each.tolist() for name, each in zip(names, made, strict=True)}


def look_with_a_small_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the one that comes with agescale."""
    source = FeatureSource("largest", make_checkpoint(folder / "small", faces=FaceGeometry(size=32)))
    for module in (driver, settings):
        monkeypatch.setattr(module, "feature_source", lambda config: source if config.suspects else None)


def test_ray_finds_the_same_faces(
    photos: Path, found: str, tmp_path: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "is_cluster_at_hand", lambda: True)
    monkeypatch.setattr(parts, "MIN_PARTS", 2)
    look_with_a_small_model(tmp_path, monkeypatch)
    out = str(tmp_path / "catalog")
    build_catalog(config_of(photos, Path(out), suspects=True))
    assert set(features_of(out)) == {name for name, sides in SIDES.items() if sides}
    once, again = rows_without_versions(found), rows_without_versions(out)
    assert [(row["uri"], row["face"]) for row in again] == [(row["uri"], row["face"]) for row in once]
    for row, other in zip(once, again, strict=True):
        assert row["face_box"] is None or np.allclose(row["face_box"], other["face_box"], atol=0.01)


def test_features_are_made_once_and_labels_judged_by_them(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a judge suspects the oldest one."""
    look_with_a_small_model(tmp_path, monkeypatch)
    source, out = few(photos, tmp_path / "photos"), str(tmp_path / "catalog")
    config = replace(config_of(source, Path(out), suspects=True), split=(1, 0, 0))
    assert build_catalog(config).judged.startswith("labels not judged, so none is suspect: 2 photos have an age")
    before, first = features_beside(out), features_of(out)
    assert set(first) == {"20_1_0_1", "40_1_2_3"}, "one has no face"
    assert first["20_1_0_1"] != first["40_1_2_3"]
    build_catalog(config)
    assert features_beside(out) == before
    with pytest.raises(ValueError, match=r"suspects was '\w+', is None"):
        build_catalog(replace(config, suspects=False))

    def judge(_: Any, low_N: Any, *__: Any) -> suspects.Judged:
        return suspects.Judged((low_N == low_N.max()) * 1.0, low_N - 20, low_N - 26.4, low_N - 13.6, 0.5)

    monkeypatch.setattr(suspects, "judge", judge)
    save(source / photo_name("63_1_4_5"), (100,), seed=8)
    result = build_catalog(config)
    assert {**before, **features_beside(out)} == features_beside(out)
    assert len(features_beside(out)) == len(before) + 1
    assert features_of(out) == {**first, "63_1_4_5": features_of(out)["63_1_4_5"]}
    (found,) = (each for each in result.findings.to_pylist() if each["kind"] == "suspect")
    assert paths.name_of(found["uri"]).startswith("63_1_4_5")
    assert found["detail"] == "labelled 63; a model that has not seen it expects 43 (37 to 49)"
    assert "3 labels judged" in result.judged
    opened = Catalog.open(out)
    assert opened.excluded(["suspect"])["uri"].to_pylist() == [found["uri"]]
    assert len(selection.usable_rows(opened)) - 1 == len(selection.usable_rows(opened, leave_out=["suspect"]))
    compact(CompactConfig(out, str(tmp_path / "new")))
    assert features_of(str(tmp_path / "new")) == features_of(out)


def test_beside_a_catalog_on_s3_they_stand_too(photos: Path, s3: str, request: pytest.FixtureRequest) -> None:
    for path in few(photos, photos.parent / "few").iterdir():
        objects.write_bytes(f"{s3}/found/{path.name}", path.read_bytes())
    out = f"{s3}/catalogs/found"
    config = CatalogConfig(f"{s3}/found", out, layout="utkface", split=(0, 0, 1))
    build_catalog(config)
    framing = Framing(80, geometry=FaceGeometry(size=80))
    on_the_fly = seen(out, framing, knows=True)
    build_catalog(replace(config, faces="largest"))
    request.getfixturevalue("no_detector")
    once = seen(out, framing, knows=True)
    for one, other in zip(once, on_the_fly, strict=True):
        assert type(one) is type(other)
        if isinstance(one, list):
            np.testing.assert_allclose(one[0].pixels.astype(int), other[0].pixels.astype(int), atol=1)
    assert faces.missing_parts(Catalog.open(out), FaceGeometry()) == []
