"""Photos of several labelled faces: every label is that of the face in its box, from the CSV to the report."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import make_checkpoint
from PIL import Image

from agescale.ages.groups import AgeGroups
from agescale.cataloging import driver
from agescale.cataloging.driver import build_catalog
from agescale.config import (
    CatalogConfig,
    CompactConfig,
    EvaluateConfig,
    ScoreConfig,
    TableConfig,
    TrainConfig,
    VerifyConfig,
)
from agescale.evaluation import arrays
from agescale.evaluation.driver import evaluate
from agescale.faces import images
from agescale.faces.detection import RetinaFaceDetector
from agescale.faces.finding import FaceFinder
from agescale.faces.geometry import FaceGeometry
from agescale.faces.loading import Framing
from agescale.scoring.driver import score
from agescale.scoring.verification import verify
from agescale.store import paths
from agescale.synthetic import portraits
from agescale.tables.catalogs import Catalog
from agescale.tables.compaction import compact
from agescale.tables.exports import export
from agescale.tables.predictions import Predictions
from agescale.training import plan, selection
from agescale.training.decoding import FaceDecoder

pytestmark = pytest.mark.usefixtures("one_thread")

FACES = {"party.png": [(520, 60, 340), (40, 180, 220), (290, 300, 170)], "pair.png": [(60, 60, 300), (500, 90, 280)]}
"""Left, top and side of what is drawn into each photo."""
GROUPS = AgeGroups.parse("25-years")
LABELS = [
    ("party.png", 31, "male", (310, 310, 130, 150)),  # the smallest first
    ("party.png", 62, "female", (560, 80, 260, 300)),
    ("party.png", 7, "female", (60, 190, 180, 200)),
    ("pair.png", 45, "male", (520, 100, 240, 250)),
    ("pair.png", 46, "male", (700, 380, 60, 60)),  # where nobody is
    ("wall.png", 50, "male", (10, 10, 90, 90)),
]


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "is_cluster_at_hand", lambda: False)


def write_csv(source: Path, labels: list[tuple[str, int, str, tuple[int, ...]]]) -> None:
    lines = [f"{name},{age},{gender},{','.join(map(str, box))}" for name, age, gender, box in labels]
    (source / "labels.csv").write_text("\n".join(["file_name,age,sex,left,top,w,h", *lines, ""]))


def config_of(source: Path, **settings: Any) -> CatalogConfig:
    columns = {"csv": str(source / "labels.csv"), "gender_column": "sex", "box_columns": "left,top,w,h"}
    told = {"layout": "csv", "split": (1, 0, 0), "faces": "all", **columns, **settings}
    return CatalogConfig(str(source), str(source.parent / "catalog"), **told)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Only to be read, as its catalog."""
    folder = tmp_path_factory.mktemp("boxes") / "photos"
    folder.mkdir()
    for name, places in {**FACES, "wall.png": []}.items():
        photo = Image.new("RGB", (900, 500), (150, 150, 150))
        for number, (left, top, side) in enumerate(places):
            rng = np.random.default_rng(number)
            photo.paste(portraits.draw_face(rng, 20, "female", "White", side), (left, top))
        photo.save(folder / name)
    write_csv(folder, LABELS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "is_cluster_at_hand", lambda: False)
        build_catalog(config_of(folder))
    return folder


@pytest.fixture
def catalog(source: Path) -> Catalog:
    return Catalog.open(str(source.parent / "catalog"))


def labels_of(catalog: Catalog) -> list[tuple[str, float, str]]:
    rows = selection.labelled_rows(catalog, [*selection.LABEL_COLUMNS, "boxes"])
    return [(paths.name_of(row["uri"]), row["age_low"], row["gender"]) for row in rows.to_pylist()]


def test_a_photo_is_a_row_and_each_of_its_faces_a_label(catalog: Catalog) -> None:
    assert catalog.read(["uri"]).num_rows == 3
    assert sorted(labels_of(catalog)) == sorted((name, age, gender) for name, age, gender, _ in LABELS)
    found = [(paths.name_of(row["uri"]), row["kind"], row["detail"]) for row in catalog.findings.to_pylist()]
    assert sorted(found) == [
        ("pair.png", "unmatched_box", "x 700, y 380, width 60, height 60: labelled 46, and no face was found there"),
        ("wall.png", "no_face", "no face was found in it"),
    ]


@pytest.mark.parametrize("pack", [0, 320])
def test_training_is_shown_the_face_of_each_label(
    source: Path, catalog: Catalog, tmp_path: Path, pack: int, monkeypatch: pytest.MonkeyPatch, local_ray: None
) -> None:
    if pack:  # the pictures that are searched are smaller than those that the boxes are of
        monkeypatch.setattr(images, "PHOTO_SIDE", pack)
        monkeypatch.setattr("agescale.tables.catalogs.PHOTO_SIDE", pack)
        out = str(tmp_path / "packed")
        build_catalog(replace(config_of(source, faces="none"), out=out, pack=320))
        catalog = Catalog.open(out)
    framing = Framing(80, geometry=FaceGeometry(size=80).for_all_faces(), only_largest=False)
    settings = TrainConfig(catalog=(catalog.uri,), faces="largest")
    rows = plan.select(settings).rows
    rows = rows.append_column("index", pa.array(range(len(rows))))
    batch = FaceDecoder((catalog.uri,), (framing,), (pack > 0,))(rows)
    labels = [rows.slice(index, 1).to_pylist()[0] for index in batch["index"]]
    assert sorted(row["age_low"] for row in labels) == [7, 31, 45, 62]
    finder = FaceFinder(framing)
    for row, pixels in zip(labels, batch["image"], strict=True):
        (box,) = [box for name, age, _, box in LABELS if age == row["age_low"]]
        photo = images.load_photo(Path(row["uri"]).read_bytes())
        ((_, faces),) = finder.find([(0, photo)])
        places = [abs(face.place.x + face.place.width / 2 - box[0] - box[2] / 2) for face in faces]
        expected = faces[int(np.argmin(places))].pixels.astype(int)
        assert np.abs(pixels - expected).mean() < (12 if pack else 0.5)
        others = [face.pixels.astype(int) for face in faces if face.pixels is not expected]
        assert np.abs(pixels - expected).mean() == min(np.abs(pixels - other).mean() for other in others)


def test_labels_by_box_are_of_no_use_without_faces(catalog: Catalog) -> None:
    with pytest.raises(ValueError, match=r"its labels are of faces, by their boxes .*; give --faces largest"):
        plan.select(TrainConfig(catalog=(catalog.uri,)))


def test_each_label_is_judged_by_the_face_in_its_box(source: Path, catalog: Catalog, tmp_path: Path) -> None:
    checkpoint, out = make_checkpoint(tmp_path / "model", faces=FaceGeometry(size=32)), str(tmp_path / "ages")

    def scored(which: Any) -> str:
        score(ScoreConfig(catalog.uri, f"{out}-{which}", checkpoint, faces=which, num_workers=0, device="cpu"))
        return f"{out}-{which}"

    listed = arrays.read_catalog(catalog, None, catalog.excluded())
    predictions = Predictions.open(scored("all"))
    assert verify(VerifyConfig(catalog.uri, predictions.uri)).problems == ()
    said = arrays.read_predictions(predictions, listed, list(GROUPS.names))
    rows = {(row["uri"], row["face"]): row for row in pa.concat_tables(map(read, predictions.files)).to_pylist()}
    statuses = [said.statuses[code] for code in said.status_N]
    places, ages = listed.places(np.arange(len(listed)))["uri"].to_pylist(), listed.true_age_N.tolist()
    assert {int(age): status for age, status in zip(ages, statuses, strict=True)} == {
        7: "ok", 31: "ok", 62: "ok", 45: "ok", 46: "no_face", 50: "no_face",
    }  # fmt: skip
    assert said.face_N is not None
    assert {said.group_N[index] for index, status in enumerate(statuses) if status != "ok"} == {-1}
    for uri, age, face, status, predicted in zip(places, ages, said.face_N, statuses, said.age_N, strict=True):
        if status == "ok":
            (x, y, width, height) = next(box for _, label, _, box in LABELS if label == age)
            row = rows[uri, face]
            assert row["face_x"] + row["face_width"] / 2 == pytest.approx(x + width / 2, abs=0.3 * width)
            assert row["face_y"] + row["face_height"] / 2 == pytest.approx(y + height / 2, abs=0.3 * height)
            assert predicted == pytest.approx(row["age"])

    largest = arrays.read_predictions(Predictions.open(scored("largest")), listed, [])
    columns = ("file", "age_low", "label_gender")
    for which, labelled in (("all", [7, 31, 45, 62]), ("largest", [62])):
        table = str(tmp_path / f"{which}.parquet")
        export(TableConfig(catalog.uri, f"{out}-{which}", table, columns))
        shown = [tuple(row.values()) for row in read(table).to_pylist() if row["age_low"] is not None]
        assert sorted(shown) == sorted((name, age, gender) for name, age, gender, _ in LABELS if age in labelled)
    told = {int(age): code for age, code in zip(ages, largest.status_N, strict=True) if code >= 0}
    assert {age: largest.statuses[code] for age, code in told.items()} == {62: "ok", 50: "no_face"}
    with pytest.raises(ValueError, match=r"no faces were looked for, and .* has labels by box; score it with"):
        arrays.read_predictions(Predictions.open(scored("none")), listed, [])

    report = tmp_path / "report"
    evaluate(EvaluateConfig(catalog.uri, predictions.uri, str(report), split=("train",)))
    numbers = json.loads((report / "metrics.json").read_text())["train"]
    assert (numbers["num_catalog_rows"], numbers["num_rows"], numbers["num_not_scored"]) == (6, 4, 2)
    errors = list(csv.DictReader(io.StringIO((report / "errors.csv").read_text("utf-8-sig"))))
    assert len({(row["uri"], row["face"]) for row in errors}) == len(errors) == 4
    page = (report / "report.html").read_text()
    assert page.count("data:image/jpeg") >= 4


def read(file: str) -> pa.Table:
    return pa.parquet.read_table(file).replace_schema_metadata(None)


def test_a_mended_label_of_one_face_reads_nothing_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = config_of(folder)
    build_catalog(config)
    before = Catalog.open(config.out)
    monkeypatch.setattr(RetinaFaceDetector, "__init__", None)
    write_csv(folder, [(name, 63 if age == 62 else age, gender, box) for name, age, gender, box in LABELS])
    result = build_catalog(config)
    assert [each.words for each in result.relabelled] == ["31 and 62 and 7 -> 31 and 63 and 7"]
    after = Catalog.open(config.out)
    assert [part.relabels for part in after.parts] == [False, True]
    assert sorted(age for _, age, _ in labels_of(after)) == [7, 31, 45, 46, 50, 63]
    assert build_catalog(config).relabelled == ()

    write_csv(folder, [(name, age, gender, (box[0] + 1, *box[1:])) for name, age, gender, box in LABELS[:3]])
    result = build_catalog(config)
    assert "boxes" not in next(each.words for each in result.relabelled if each.uri.endswith("party.png"))
    assert sorted(age for _, age, _ in labels_of(Catalog.open(config.out))) == [7, 31, 62]
    assert len(before.findings) == 2
    kinds = sorted((paths.name_of(row["uri"]), row["kind"]) for row in Catalog.open(config.out).findings.to_pylist())
    assert kinds == [("pair.png", "unlabelled"), ("wall.png", "unlabelled")]

    new = str(tmp_path / "compacted")
    compact(CompactConfig(config.out, new))
    assert sorted(age for _, age, _ in labels_of(Catalog.open(new))) == [7, 31, 62]
