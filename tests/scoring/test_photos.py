"""Some photos in, as many rows out, in words for people; and copies that leave the face as it was."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import make_checkpoint
from html_page import Page
from PIL import Image, ImageChops

from agescale.ages import cdf
from agescale.config import PredictConfig
from agescale.faces import images
from agescale.faces.geometry import FaceGeometry
from agescale.faces.loading import load_one
from agescale.models import checkpoints
from agescale.models.age_model import AgeModel
from agescale.models.predictor import Predictor
from agescale.models.spec import ModelSpec
from agescale.scoring import contact_sheet, photos
from agescale.scoring.photos import PhotoResult, predict
from agescale.store import listing, objects, paths
from agescale.store.errors import StoreError
from agescale.synthetic import portraits
from agescale.tables import schema

SIZE = 64


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_checkpoint(tmp_path_factory.mktemp("photos") / "checkpoint")


def draw_face(path: Path, age: int = 30, size: int = SIZE, **options: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(age, size).save(path, **options)
    return str(path)


def draw(age: int, size: int) -> Image.Image:
    return portraits.draw_face(np.random.default_rng(age), age, "female", "White", size)


def predict_photos(checkpoint: str, *uris: str, **settings: Any) -> PhotoResult:
    return predict(PredictConfig(tuple(uris), checkpoint, device="cpu", **settings))


def test_a_photo_gets_the_row_that_the_predictor_gives_it(tmp_path: Path, checkpoint: str) -> None:
    photo = draw_face(tmp_path / "face.png")
    result = predict_photos(checkpoint, photo, tta=True)
    assert result.rows.schema.equals(schema.PREDICTIONS)
    (row,), (said,) = result.rows.to_pylist(), result.words
    predictor = Predictor(checkpoint, tta=True)
    columns = predictor(images.load_face(Path(photo).read_bytes(), 32).pixels[None])
    assert row["age"] == pytest.approx(columns["age"][0], abs=1e-3)
    assert (row["uri"], row["face"], row["status"], row["model"]) == (photo, 0, "ok", predictor.digest)
    assert (row["width"], row["height"], row["group"]) == (SIZE, SIZE, columns["group"][0])
    low_N, high_N = cdf.central_interval(np.array([row["age_cdf"]]), 0.8)
    assert said.interval == f"{low_N[0]:.0f}-{high_N[0]:.0f}"
    assert (said.age, said.group, said.gender, said.status) == (f"{row['age']:.0f}", row["group"], "", "ok")


def test_a_bad_image_is_a_row_with_its_reason_and_stops_nothing(tmp_path: Path, checkpoint: str) -> None:
    good = [draw_face(tmp_path / f"{name}.jpg", age) for name, age in (("first", 20), ("last", 60))]
    broken, text, none = (tmp_path / name for name in ("broken.jpg", "text.jpg", "none.jpg"))
    broken.write_bytes(Path(good[0]).read_bytes()[:400])
    text.write_text("this is no picture at all")
    result = predict_photos(checkpoint, good[0], str(broken), str(text), str(none), good[1])
    rows = result.rows
    assert rows["uri"].to_pylist() == [good[0], str(broken), str(text), str(none), good[1]]
    assert rows["status"].to_pylist() == ["ok", "unreadable", "unreadable", "missing", "ok"]
    assert [age is None for age in rows["age"].to_pylist()] == [False, True, True, True, False]
    assert [error is None for error in rows["error"].to_pylist()] == [True, False, False, False, True]
    assert [words.status for words in result.words[2:4]] == ["unreadable: not an image", "missing: not found"]
    assert {words.caption() for words in result.words[1:4]} == {""}


def test_more_photos_than_a_batch_keep_their_order(
    tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uris = [draw_face(tmp_path / f"{number}.jpg", age=10 * number) for number in range(7)]
    (tmp_path / "3.jpg").write_bytes(b"")
    whole = predict_photos(checkpoint, *uris).rows
    monkeypatch.setattr(photos, "BATCH_SIZE", 2)
    batched = predict_photos(checkpoint, *uris).rows
    assert batched.select(["uri", "status", "error"]).equals(whole.select(["uri", "status", "error"]))
    ages = [np.array([age or -1 for age in rows["age"].to_pylist()]) for rows in (whole, batched)]
    np.testing.assert_allclose(*ages, atol=1e-3)
    assert len({round(age, 6) for age in ages[0]}) == 7


def test_a_folder_stands_for_the_images_below_it_and_none_is_taken_twice(tmp_path: Path, checkpoint: str) -> None:
    inside = [draw_face(tmp_path / "faces" / name) for name in ("a.jpg", "b/c.PNG", "b/d.jpg")]
    (tmp_path / "faces" / "notes.txt").write_text("no photo")
    (tmp_path / "faces" / ".head_sizes.jpg").write_bytes(b"")
    beside = draw_face(tmp_path / "named without an extension", format="PNG")
    rows = predict_photos(checkpoint, beside, inside[1], str(tmp_path / "faces") + "/").rows
    assert rows["uri"].to_pylist() == [beside, inside[1], inside[0], inside[2]]
    listed = {item.uri: item.version for item in listing.list_files(str(tmp_path / "faces"))}
    assert rows["version"].to_pylist() == ["", *(listed[uri] for uri in (inside[1], inside[0], inside[2]))]
    assert set(rows["status"].to_pylist()) == {"ok"}


def test_a_photo_that_lies_on_its_side_is_predicted_and_drawn_upright(tmp_path: Path, checkpoint: str) -> None:
    upright = portraits.draw_face(np.random.default_rng(0), 40, "male", "Asian", SIZE).crop((0, 0, SIZE, 48))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise by a quarter to see it upright
    upright.save(tmp_path / "upright.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    uris = [str(tmp_path / f"{name}.png") for name in ("upright", "turned")]
    rows = predict_photos(checkpoint, *uris, draw=str(tmp_path / "drawn")).rows
    assert rows["age"][0] == rows["age"][1]
    assert (rows["width"][1].as_py(), rows["height"][1].as_py()) == (SIZE, 48)
    first, second = (tmp_path / "drawn" / name for name in ("0001-upright.jpg", "0002-turned.jpg"))
    assert first.read_bytes() == second.read_bytes()


def read_image(path: Path) -> Image.Image:
    image = Image.open(io.BytesIO(path.read_bytes()))
    image.load()
    return image


def test_copies_hold_the_whole_picture_and_the_answer_below_it(tmp_path: Path, checkpoint: str) -> None:
    photo = draw_face(tmp_path / "faces" / "face.png", size=photos.DRAWN_SIDE)
    (tmp_path / "faces" / "broken.png").write_bytes(b"")
    before = Path(photo).read_bytes()
    predict_photos(checkpoint, photo, str(tmp_path / "faces"), draw=str(tmp_path / "drawn"))
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["0001-face.jpg", "index.html"]
    copy, original = read_image(tmp_path / "drawn" / "0001-face.jpg"), read_image(Path(photo))
    assert copy.size == (original.width, original.height + photos.CAPTION_HEIGHT)
    picture = copy.crop((0, 0, *original.size))
    assert np.abs(np.asarray(ImageChops.difference(picture, original))).mean() < 3  # a JPEG of it
    bar = np.asarray(copy.crop((0, original.height, *copy.size)).convert("L"))
    assert bar.min() < 60 < 250 < bar.max()
    assert bar[[0, -1]].min() > 200, "letters touch the edge of their bar"
    assert bar[:, [0, -1]].min() > 200
    assert Path(photo).read_bytes() == before


@pytest.mark.parametrize(("width", "height"), [(40, 400), (400, 40), (8, 11)])
def test_a_caption_is_never_cut_and_a_picture_never_distorted(width: int, height: int) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, "PNG")
    words = photos.Words("", "34", "27-41", "früher Jugendlicher, молодой", "", "", "ok")
    copy = photos.draw_faces(images.upright_thumbnail(buffer.getvalue(), photos.DRAWN_SIDE), [(photos.WHOLE, words)])
    assert copy.height > photos.CAPTION_HEIGHT
    pixels = np.asarray(copy)
    bar = pixels[-photos.CAPTION_HEIGHT :]
    assert (bar[:, [0, -1]] == 255).all()
    picture = (pixels[: -photos.CAPTION_HEIGHT] == (255, 0, 0)).all(axis=2)
    assert picture.any(axis=0).sum() / picture.any(axis=1).sum() == pytest.approx(width / height, rel=0.02)


def test_photos_of_one_name_get_copies_of_their_own(tmp_path: Path, checkpoint: str) -> None:
    uris = [draw_face(tmp_path / folder / "face.jpg", age) for folder, age in (("a", 5), ("b", 80))]
    predict_photos(checkpoint, *uris, draw=str(tmp_path / "drawn"))
    assert sorted(path.name for path in (tmp_path / "drawn").glob("*.jpg")) == ["0001-face.jpg", "0002-face.jpg"]


def test_copies_frame_what_the_model_sees(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "half", center_crop=0.5)
    Image.new("RGB", (400, 200), "red").save(tmp_path / "wide.png")
    predict_photos(checkpoint, str(tmp_path / "wide.png"), draw=str(tmp_path / "drawn"))
    copy = np.asarray(read_image(tmp_path / "drawn" / "0001-wide.jpg").crop((0, 0, 512, 256))).astype(int)
    is_red = (copy[:, :, 0] > 200) & (copy[:, :, 1] < 80)
    rows, columns = np.nonzero(~is_red)
    assert [rows.min(), rows.max(), columns.min(), columns.max()] == pytest.approx([64, 191, 192, 319], abs=3)
    assert is_red[75:180, 205:305].all(), "within the frame stays what was there"


def test_a_page_shows_all_photos(tmp_path: Path, checkpoint: str) -> None:
    for name in ("a & <b>.jpg", "c#1?.jpg"):
        draw_face(tmp_path / "faces" / name)
    (tmp_path / "faces" / "broken.jpg").write_bytes(b"")
    result = predict_photos(checkpoint, str(tmp_path / "faces"), draw=str(tmp_path / "drawn"))
    page = Page((tmp_path / "drawn" / "index.html").read_text())
    assert len(page.references) == 2
    assert all(reference.startswith("data:image/jpeg;base64,") for reference in page.references), "it opens anywhere"
    for copy in ("0001-a & <b>.jpg", "0003-c#1?.jpg"):
        assert (tmp_path / "drawn" / copy).exists()
    said = "".join(page.texts)
    assert "broken.jpg: unreadable: the file is empty" in said
    assert "a & <b>.jpg" in said
    assert photos.SQUARES in said
    assert "In brackets behind an age: 80 % between." in said
    assert [words.caption() in said for words in result.words] == [True] * 3
    assert [words.status for words in result.words] == ["ok", "unreadable: the file is empty", "ok"]


def test_a_page_of_very_many_photos_has_pictures_of_the_first(
    tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contact_sheet, "MAX_PICTURES", 2)
    uris = [draw_face(tmp_path / f"{number}.jpg") for number in range(3)]
    predict_photos(checkpoint, *uris, draw=str(tmp_path / "drawn"))
    page = Page((tmp_path / "drawn" / "index.html").read_text())
    assert len(page.references) == 2
    assert "Of the last 1 no picture stands here" in page.text
    assert len(list((tmp_path / "drawn").glob("*.jpg"))) == 3


def test_a_killed_drawing_is_gone_on_with_and_a_photo_that_has_gone_since_is_no_crash(
    tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uris, drawn = [draw_face(tmp_path / f"{number}.jpg") for number in range(2)], tmp_path / "drawn"
    thumbnail = contact_sheet.thumbnail

    def killed(picture: Image.Image) -> str:
        if (drawn / "0001-0.jpg").exists():
            raise KeyboardInterrupt
        return thumbnail(picture)

    with monkeypatch.context() as patched:
        patched.setattr(contact_sheet, "thumbnail", killed)
        with pytest.raises(KeyboardInterrupt):
            predict_photos(checkpoint, *uris, draw=str(drawn))
    assert sorted(path.name for path in drawn.iterdir()) == ["0001-0.jpg", "index.html"]
    predict_photos(checkpoint, *uris, draw=str(drawn))
    assert len(Page((drawn / "index.html").read_text()).references) == 2

    def gone(*arguments: Any) -> Any:
        Path(uris[1]).unlink(missing_ok=True)
        return to_html(*arguments)

    to_html = contact_sheet.to_html
    monkeypatch.setattr(contact_sheet, "to_html", gone)
    assert predict_photos(checkpoint, *uris, draw=str(drawn)).rows["status"].to_pylist() == ["ok", "ok"]
    assert len(Page((drawn / "index.html").read_text()).references) == 1


@pytest.mark.parametrize(
    ("box", "sides"),
    [((0.1, 0.1, 0.3, 0.5), ""), ((0.7, 0.1, 0.9, 0.5), "right"), ((0.5, 0.5, 1.1, 0.9), "inside"), (None, "inside")],
)
def test_what_is_said_of_a_face_stays_in_its_picture(box: Any, sides: str) -> None:
    face = contact_sheet.SheetFace(box, "34", "34 years")
    assert face.sides() == sides
    left, top, width, height = (float(part.split(":")[1].removesuffix("%")) for part in face.style().split(";"))
    assert left + width <= 100
    assert top + height <= 100


def test_odd_names_are_rows_and_copies(tmp_path: Path, checkpoint: str) -> None:
    folder = tmp_path / "faces"
    names = ["a" * 251 + ".jpg", "老" * 83 + ".png", os.fsdecode(b"Mu\xf1oz.jpg"), "good.jpg"]
    for name in names:
        draw_face(folder / name)
    os.mkfifo(folder / "pipe.jpg")
    result = predict_photos(checkpoint, str(folder), draw=str(tmp_path / "drawn"))
    assert result.rows["status"].to_pylist() == ["ok"] * 4
    assert {paths.name_of(uri) for uri in result.rows["uri"].to_pylist()} == {
        *names[:2],
        r"Mu\xf1oz.jpg",
        "good.jpg",
    }
    assert len(list((tmp_path / "drawn").glob("*.jpg"))) == 4
    one = predict_photos(checkpoint, str(folder / names[2]), str(folder / "pipe.jpg")).rows
    assert one["status"].to_pylist() == ["ok", "missing"]
    assert "a named pipe" in one["error"][1].as_py()


def test_pictures_of_formats_that_are_not_taken_are_rows(tmp_path: Path, checkpoint: str) -> None:
    draw_face(tmp_path / "a.jpg")
    (tmp_path / "b.jxl").write_bytes(b"\xff\x0a" + bytes(50))
    (tmp_path / "c.jpg").write_bytes(b"\xff\x0a" + bytes(50))
    (tmp_path / "notes.txt").write_text("no photo")
    rows = predict_photos(checkpoint, str(tmp_path)).rows
    assert rows["status"].to_pylist() == ["ok", "unsupported", "unsupported"]
    assert all(error.startswith("JPEG XL images are not taken") for error in rows["error"].to_pylist()[1:])


@pytest.mark.parametrize("draw", ["faces", "faces/drawn", "other"])
def test_copies_are_not_drawn_among_the_photos(tmp_path: Path, checkpoint: str, draw: str) -> None:
    draw_face(tmp_path / "faces" / "face.jpg")
    single = draw_face(tmp_path / "other" / "face.jpg")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="there are the photos themselves"):
        predict_photos(checkpoint, str(tmp_path / "faces"), single, draw=str(tmp_path / draw))
    assert sorted(tmp_path.rglob("*")) == before


def test_groups_of_names_only_have_no_age_to_tell(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "names", task="classification", age_groups="YOUNG,MIDDLE,OLD")
    result = predict_photos(checkpoint, draw_face(tmp_path / "face.jpg"), draw=str(tmp_path / "drawn"))
    (row,), (said,) = result.rows.to_pylist(), result.words
    assert row["age"] is row["age_cdf"] is None
    assert (said.age, said.interval) == ("", "")
    assert said.caption() == said.group == row["group"]
    assert said.group in ("YOUNG", "MIDDLE", "OLD")
    assert read_image(tmp_path / "drawn" / "0001-face.jpg").height == photos.DRAWN_SIDE + photos.CAPTION_HEIGHT


def test_a_regression_claims_no_interval(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "one", task="regression")
    (said,) = predict_photos(checkpoint, draw_face(tmp_path / "face.jpg")).words
    assert said.interval == ""
    assert said.caption() == f"{said.age} years, {said.group}"
    assert said.group
    assert said.group_probability == ""


def test_what_is_told_is_numbers_and_the_same_as_in_words(tmp_path: Path, checkpoint: str) -> None:
    uris = [draw_face(tmp_path / folder / "face.jpg", age) for folder, age in (("a", 5), ("b", 80))]
    result = predict_photos(checkpoint, *uris, str(tmp_path / "none.jpg"))
    assert result.told.schema.equals(photos.TOLD)
    rows, told = result.rows.to_pylist(), result.told.to_pylist()
    for row, said, words in zip(rows[:2], told[:2], result.words[:2], strict=True):
        assert all(said[name] == row[name] for name in ("uri", "status", "error", "group"))
        assert said["age"] == round(row["age"], 3)
        assert f"{said['age_lower']:.0f}-{said['age_upper']:.0f}" == words.interval
        assert 0 < said["group_probability"] == round(row["group_probability"], 3) < 1
    assert told[2] == dict.fromkeys(photos.TOLD.names) | {
        "uri": str(tmp_path / "none.jpg"), "face": 0, "status": "missing", "error": rows[2]["error"],
    }  # fmt: skip
    assert result.names() == [*uris, str(tmp_path / "none.jpg")], "two share a name"
    assert predict_photos(checkpoint, uris[0]).names() == ["face.jpg"]


def test_gender_is_told_where_the_model_has_that_head(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "heads", genders=("female", "male"))
    (said,) = predict_photos(checkpoint, draw_face(tmp_path / "face.jpg")).words
    gender, _, probability = said.gender.partition(" (")
    assert gender in ("female", "male")
    assert probability.endswith(" %)")


def test_a_checkpoint_that_predicts_no_age_is_refused_in_one_line(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AgeModel(ModelSpec("conv_autoencoder", "reconstruction", "25-years", image_size=32))
    checkpoints.save(str(tmp_path / "auto"), model.spec, model.state_dict(), checkpoints.RunProgress(), {})
    with pytest.raises(ValueError, match="its task, reconstruction, predicts no age") as caught:
        predict_photos(str(tmp_path / "auto"), draw_face(tmp_path / "face.jpg"))
    assert "\n" not in str(caught.value)


def test_what_cannot_be_is_told_before_any_work(tmp_path: Path, checkpoint: str) -> None:
    photo = draw_face(tmp_path / "face.jpg")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no photo")
    with pytest.raises(ValueError, match="empty: no image in this folder"):
        predict_photos(checkpoint, photo, str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="no photo is named"):
        predict_photos(checkpoint)
    with pytest.raises(ValueError, match="no checkpoint there"):
        predict_photos(str(tmp_path / "none"), photo)
    with pytest.raises(ValueError, match=r"--out .*: this is one of the photos"):
        predict_photos(checkpoint, photo, out=photo)
    with pytest.raises(ValueError, match=r"--out .*: a folder stands there"):
        predict_photos(checkpoint, photo, out=str(tmp_path / "empty"))
    with pytest.raises(StoreError, match="/proc/nowhere"):
        predict_photos(checkpoint, photo, out="/proc/nowhere/ages.csv")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device cuda: torch finds no GPU"):
            predict(PredictConfig((photo,), checkpoint, device="cuda"))


def test_photos_of_a_bucket_are_predicted_as_those_of_a_folder(tmp_path: Path, checkpoint: str, s3: str) -> None:
    local, bucket = tmp_path / "faces", paths.join(s3, "photos")
    for name in ("a.jpg", "b/c.jpg"):
        objects.write_bytes(paths.join(bucket, name), Path(draw_face(local / name)).read_bytes())
    here = predict_photos(checkpoint, str(local)).rows
    there = predict_photos(
        checkpoint, bucket, f"{bucket}/none.jpg", draw=paths.join(s3, "drawn"), out=f"{s3}/ages.csv"
    ).rows
    assert there["status"].to_pylist() == ["ok", "ok", "missing"]
    assert there["uri"].to_pylist() == [f"{bucket}/{name}" for name in ("a.jpg", "b/c.jpg", "none.jpg")]
    assert pa.concat_arrays(there["age"].chunks)[:2].equals(pa.concat_arrays(here["age"].chunks))
    assert objects.list_names(paths.join(s3, "drawn")) == ["0001-a.jpg", "0002-c.jpg", "index.html"]


def test_each_face_of_a_photo_has_its_row_its_age_and_its_frame(tmp_path: Path, checkpoint: str) -> None:
    party, wall = tmp_path / "party.png", tmp_path / "wall.jpg"
    photo = Image.new("RGB", (900, 500), (150, 150, 150))
    places = [(520, 60, 340), (40, 180, 220), (290, 300, 170)]
    for left, top, side in places:
        photo.paste(draw(20, side), (left, top))
    photo.save(party)
    Image.new("RGB", (300, 200), (150, 150, 150)).save(wall)
    drawn = tmp_path / "drawn"
    result = predict_photos(checkpoint, str(party), str(wall), faces="all", draw=str(drawn))
    rows = result.rows.to_pylist()
    assert [(row["uri"], row["face"], row["status"]) for row in rows] == [
        *((str(party), face, "ok") for face in range(3)), (str(wall), 0, "no_face"),
    ]  # fmt: skip
    assert [row["num_faces"] for row in rows] == [3, 3, 3, 0]
    for row, (left, top, side) in zip(rows, places, strict=False):
        centre = row["face_x"] + row["face_width"] / 2, row["face_y"] + row["face_height"] / 2
        assert centre == pytest.approx((left + side / 2, top + side / 2), abs=0.15 * side)
        assert 0.4 * side < row["face_height"] < 1.2 * side
        assert row["face_score"] > 0.6
        assert row["age"] > 0
    assert [words.face for words in result.words] == ["0", "1", "2", ""]
    assert result.note == photos.ALL
    (copy,) = drawn.glob("*.jpg")
    copy_pixels = np.asarray(read_image(copy).convert("RGB")).astype(int)
    assert copy_pixels.shape[1] == photos.DRAWN_SIDE
    scale = photos.DRAWN_SIDE / 900
    for row in rows[:3]:
        edge = copy_pixels[round((row["face_y"] + row["face_height"] / 2) * scale)]
        left = round(row["face_x"] * scale)
        assert edge[left - 2 : left + 4].min() < 40, "a black line around it"
        assert edge[left - 2 : left + 4].max() > 215, "and a white one"
    text = (drawn / "index.html").read_text()
    page = Page(text)
    assert "wall.jpg: no_face" in "".join(page.texts)
    assert len(page.references) == 2, "the wall is shown, too"
    for face, (row, words) in enumerate(zip(rows[:3], result.words, strict=False)):
        assert f"{face}: {words.caption()}" in page.text
        assert f"{words.age} ({words.interval})" in page.text
        left, top = 100 * row["face_x"] / 900, 100 * row["face_y"] / 500
        assert f"left:{left:.2f}%;top:{top:.2f}%;" in text


def test_a_model_of_faces_sees_the_largest_one_alike_however_wide_the_photo_is(tmp_path: Path, checkpoint: str) -> None:
    uris, seen = [], {}
    for name, room in (("tight", 20), ("wide", 300)):
        photo = Image.new("RGB", (240 + 2 * room, 240 + room), (150, 150, 150))
        photo.paste(draw(60, 240), (room, room // 2))
        photo.save(tmp_path / f"{name}.png")
        uris.append(str(tmp_path / f"{name}.png"))
    assert predict_photos(checkpoint, *uris).note == photos.SQUARES
    found = make_checkpoint(tmp_path / "found", faces=FaceGeometry(size=32))
    result = predict_photos(found, *uris)
    assert result.note == photos.LARGEST
    assert result.rows["num_faces"].to_pylist() == [1, 1]
    for faces in ("none", "auto"):
        predictor = Predictor(found, faces=faces)
        loaded = ((uri, load_one(uri, predictor.framing)) for uri in uris)
        tight, wide = (shown[0].pixels.astype(int) for _, shown in predictor.finder.find(loaded))
        seen[faces] = np.abs(tight - wide).mean()
    assert seen["auto"] < seen["none"] / 3
