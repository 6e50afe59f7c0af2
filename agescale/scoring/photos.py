"""The ages of some photos, on this machine alone: paths and folders in, rows of predictions out, and their words.

The way to look at single pictures, without a catalog and without Ray; whoever wants the table of a bucket scores a
catalog. Writes nothing but the copies of the photos that are asked for, and prints nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageDraw, ImageFont

from agescale.ages import cdf
from agescale.ages.cdf import INTERVAL_SHARE
from agescale.config import PredictConfig
from agescale.faces import images
from agescale.faces.geometry import Box
from agescale.faces.images import ImageError
from agescale.faces.isolation import Decoder, IsolatedImages
from agescale.faces.loading import Framing
from agescale.models.framing import faces_of
from agescale.models.inference import BATCH_SIZE, Source, find_device, list_photos, predict_images
from agescale.models.predictor import Predictor
from agescale.models.spec import learns_spread
from agescale.scoring import contact_sheet
from agescale.scoring.contact_sheet import PAGE_NAME, SheetFace, SheetPhoto
from agescale.store import members, objects, paths
from agescale.store.errors import StoreError
from agescale.tables import folders

SQUARES = "Each photo is taken as one face: what the model sees is the square in its middle."
LARGEST = "Of each photo the model sees the largest face that was found in it."
ALL = "The model sees each face that was found in a photo, numbered by size."
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
DRAWN_SIDE, CAPTION_HEIGHT, FONT_SIZE = 512, 48, 22
"""Pixels of a copy: the longer side of the picture, the bar below it, and the letters on that."""


TOLD = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("face", pa.int32(), nullable=False),  # in its photo, from 0 on
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("age", pa.float64()),  # years, as the next two
        pa.field("age_lower", pa.float64()),  # the calibrated interval, or the distribution's central INTERVAL_SHARE
        pa.field("age_upper", pa.float64()),
        pa.field("group", pa.string()),
        pa.field("group_probability", pa.float64()),
        pa.field("gender", pa.string()),
        pa.field("gender_probability", pa.float64()),
        pa.field("face_x", pa.float64()),  # left edge of the face, pixels of the upright photo, as the next three
        pa.field("face_y", pa.float64()),
        pa.field("face_width", pa.float64()),
        pa.field("face_height", pa.float64()),
    ]
)
"""What is told of a photo, whatever the format."""


@dataclass(frozen=True)
class Words:
    """What is told of a photo, for people; empty where there is nothing to say."""

    face: str  # its number, where a photo may have several
    age: str  # years, as the next one
    interval: str
    group: str
    group_probability: str
    gender: str
    status: str  # and why, where it is not ok

    def caption(self) -> str:
        """The line below a drawn photo.

        >>> Words("", "34", "27-41", "25-49", "75 %", "", "ok").caption()
        '34 years (27-41), 25-49'
        """
        interval = f" ({self.interval})" if self.interval else ""
        return ", ".join(part for part in (self.age and f"{self.age} years{interval}", self.group) if part)

    def label(self) -> str:
        """The shortest that is worth saying, beside a face in its photo.

        >>> Words("0", "34", "27-41", "25-49", "75 %", "", "ok").label()
        '34 (27-41)'
        """
        return f"{self.age} ({self.interval})" if self.interval else self.age or self.group or "?"


@dataclass(frozen=True)
class PhotoResult:
    """A row of schema.PREDICTIONS for each photo, or face, and one of TOLD, that in words, and what the model saw."""

    rows: pa.Table
    told: pa.Table
    words: list[Words]
    note: str
    interval_share: float  # of people whose age is in their interval; of a model that is not calibrated, of its doubt
    used_otherwise: str = ""  # than the model was calibrated, in a line

    def names(self) -> list[str]:
        """What to call each photo: by its file's name where these differ, else by its URI."""
        uris = self.rows["uri"].to_pylist()
        names = [paths.name_of(uri) for uri in uris]
        return names if len(set(names)) == len(set(uris)) else uris


def predict(config: PredictConfig) -> PhotoResult:
    """Predicts each photo, in the order of ``find_photos``, and draws those with a prediction where that is asked for.

    Photos are decoded in processes of their own, so that one which crashes its decoder is a row like other bad ones.

    Raises ValueError or StoreError, before any work, where photos, checkpoint or settings are impossible.
    """
    config = paths.with_absolute_uris(config)
    photos, draw = find_photos(config.photos), config.draw
    if draw:
        _check_apart(draw, config.photos, photos)
        _check_copies(draw)
        objects.check_writable(draw)
    if config.out:
        _check_out(config.out, photos, config.checkpoint)
    predictor = Predictor(config.checkpoint, find_device(config.device), config.tta, config.faces)
    framing = predictor.framing
    note = SQUARES if framing.geometry is None else LARGEST if framing.only_largest else ALL
    with IsolatedImages() as decoder:
        sources = (Source(uri, version) for uri, version in photos.items())
        rows = predict_images(predictor, sources, BATCH_SIZE, decoder)
        told = [_told(row, learns_spread(predictor.spec.task)) for row in rows.to_pylist()]
        words = [in_words(row, has_several=note is ALL) for row in told]
        calibration = predictor.spec.calibration
        share = calibration.coverage if calibration else INTERVAL_SHARE
        said = calibration.used_otherwise(faces_of(framing), config.tta) if calibration else ""
        result = PhotoResult(rows, _as_table(told), words, note, share, said)
        if draw:
            _draw_photos(draw, result, framing, decoder)
    return result


def find_photos(uris: Sequence[str]) -> dict[str, str]:
    """URI and version of each photo, once: those named, and all images below the folders named, sorted by path.

    Raises ValueError where a folder holds no image, StoreError where it cannot be listed.
    """
    if not uris:
        raise ValueError("no photo is named; name photos, or folders of them")
    found: dict[str, str] = {}
    for uri in uris:
        found |= {photo: version or found.get(photo, "") for photo, version in list_photos(uri).items()}
    return found


def _check_apart(draw: str, given: Sequence[str], photos: Iterable[str]) -> None:
    """Copies beside photos could replace one of them, and would be taken for photos the next time."""
    is_below = any(f"{draw}/".startswith(f"{uri}/") for uri in given)
    if is_below or any(paths.join(draw, paths.name_of(uri)) == uri for uri in photos):
        raise ValueError(f"--draw {draw}: there are the photos themselves; give another folder")


def _check_copies(draw: str) -> None:
    """Raises ValueError where other files than copies stand in a folder: their page is written first."""
    page, stranger = paths.join(draw, PAGE_NAME), objects.any_name(draw)
    ours = [note.encode() for note in (SQUARES, LARGEST, ALL)]
    if stranger and not (objects.exists(page) and any(note in objects.read_bytes(page) for note in ours)):
        raise ValueError(
            f"--draw {draw}: there are other files already ({stranger}), and drawn copies have a folder of their own; "
            "give another one"
        )


def _check_out(out: str, photos: Iterable[str], checkpoint: str) -> None:
    """Raises ValueError or StoreError where the predictions cannot be written, or would replace what they may not."""
    if checkpoint and out.startswith(f"{checkpoint}/"):
        raise ValueError(f"--out {out}: there is the checkpoint; give another folder")
    folders.check_file(out)
    if out in photos:
        raise ValueError(f"--out {out}: this is one of the photos; give another file")
    if not paths.is_remote(out) and Path(out).is_dir():
        raise ValueError(f"--out {out}: a folder stands there; name a file")
    objects.check_writable(out.rpartition("/")[0])


def _told(row: dict[str, Any], has_spread: bool = True) -> dict[str, Any]:
    """The row of TOLD of one of schema.PREDICTIONS; without ``has_spread`` its distribution is no more than an age."""
    told = {name: row[name] for name in TOLD.names}
    if has_spread and row["age_cdf"] is not None and row["age_lower"] is None:
        low_N, high_N = cdf.central_interval(np.array([row["age_cdf"]]), INTERVAL_SHARE)
        told |= {"age_lower": float(low_N[0]), "age_upper": float(high_N[0])}
    if not has_spread and row["age_cdf"] is not None:
        told |= {"age_std": None, "group_probability": None}
    return told


def _as_table(told: Sequence[dict[str, Any]]) -> pa.Table:
    """Rows of TOLD, their numbers to three places: a thousandth of a year is nobody's age."""
    table = pa.Table.from_pylist(list(told), schema=TOLD)
    for index, field in enumerate(TOLD):
        if pa.types.is_floating(field.type):
            table = table.set_column(index, field, pc.round(table.column(index), 3))
    return table


def in_words(told: dict[str, Any], has_several: bool = False) -> Words:
    """The words of a row of TOLD.

    >>> told = dict.fromkeys(TOLD.names) | {"uri": "a.jpg", "status": "ok", "age": 30.2, "group": "25-49"}
    >>> in_words(told | {"age_lower": 20.0, "age_upper": 40.1, "group_probability": 0.75})
    Words(face='', age='30', interval='20-40', group='25-49', group_probability='75 %', gender='', status='ok')
    """
    error = f": {told['error'].removeprefix(told['uri'] + ': ')}" if told["error"] else ""
    return Words(
        face=str(told["face"]) if has_several and told["status"] != "no_face" else "",
        age=f"{told['age']:.0f}" if told["age"] is not None else "",
        interval=f"{told['age_lower']:.0f}-{told['age_upper']:.0f}" if told["age_lower"] is not None else "",
        group=told["group"] or "",
        group_probability=f"{100 * told['group_probability']:.0f} %" if told["group_probability"] is not None else "",
        gender=f"{told['gender']} ({100 * told['gender_probability']:.0f} %)" if told["gender"] else "",
        status=told["status"] + error,
    )


def _draw_photos(draw: str, result: PhotoResult, framing: Framing, decoder: Decoder) -> None:
    """Copies named after the photo's place in the table, as photos of many folders may share a name, and a page of all
    of them. The page comes first, without its pictures, as by it the folder is known."""
    indices_of: dict[str, list[int]] = {}
    for index, uri in enumerate(result.rows["uri"].to_pylist()):
        indices_of.setdefault(uri, []).append(index)
    names, words, boxes = result.names(), result.words, _boxes(result.rows, framing)
    sheet = [
        SheetPhoto(names[indices[0]], words[indices[0]].status, _sheet_faces(indices, words, boxes))
        for indices in indices_of.values()
    ]
    notes = [result.note]
    if any(said.interval for said in words):
        notes.append(f"In brackets behind an age: {round(100 * result.interval_share, 3):g} % between.")
    page = paths.join(draw, PAGE_NAME)
    objects.write_bytes(page, contact_sheet.to_html(sheet, notes))
    for number, (uri, indices) in enumerate(indices_of.items(), start=1):
        try:
            picture = decoder.upright_thumbnail(members.read_bytes(uri), DRAWN_SIDE)
        except (ImageError, StoreError):  # the table says why, or it has gone since
            continue
        if number <= contact_sheet.MAX_PICTURES:
            sheet[number - 1] = replace(sheet[number - 1], picture=contact_sheet.thumbnail(picture))
        if seen := [(boxes[index], words[index]) for index in indices if words[index].status == "ok"]:
            copy = f"{number:04d}-{_shortened(PurePosixPath(uri).stem)}.jpg"
            drawn = draw_faces(picture, seen)
            objects.write_bytes(paths.join(draw, copy), images.encode_jpeg(np.asarray(drawn)))
    objects.write_bytes(page, contact_sheet.to_html(sheet, notes))


def _sheet_faces(indices: Sequence[int], words: Sequence[Words], boxes: Sequence[Box]) -> list[SheetFace]:
    """What the page tells of the faces of one photo; nothing where none was seen."""
    found = []
    for index in indices:
        said, box = words[index], boxes[index]
        if said.status == "ok" or box != WHOLE:
            caption = said.caption() or said.status
            numbered = f"{said.face}: {caption}" if len(indices) > 1 else caption
            found.append(SheetFace(None if box == WHOLE else box, said.label(), numbered))
    return found


def _boxes(rows: pa.Table, framing: Framing) -> list[Box]:
    """x1, y1, x2, y2 of what the model saw of each row's photo, as shares of its width and height."""
    found = []
    for row in rows.select(["width", "height", "face_x", "face_y", "face_width", "face_height"]).to_pylist():
        width, height, x, y, face_width, face_height = row.values()
        if width is None:
            found.append(WHOLE)
            continue
        if x is None:
            face_width = face_height = min(width, height) * framing.center_crop
            x, y = (width - face_width) / 2, (height - face_height) / 2
        found.append((x / width, y / height, (x + face_width) / width, (y + face_height) / height))
    return found


MAX_STEM_BYTES = 200
"""Of a file's name, of 255 bytes at most: the rest is for a number, an ending, and a mark while it is written."""


def _shortened(stem: str) -> str:
    """The beginning of a name that would be too long for a copy's.

    >>> _shortened("a" * 300) == "a" * 200, _shortened("é" * 150) == "é" * 100, _shortened("short")
    (True, True, 'short')
    """
    return stem.encode()[:MAX_STEM_BYTES].decode(errors="ignore")


def draw_faces(picture: Image.Image, seen: Sequence[tuple[Box, Words]]) -> Image.Image:
    """The picture, drawn into, above a white bar with the caption; beside a picture that is narrower than its caption
    stays white. What the model saw of it, where that is not all, has a frame; of several faces each frame has an age,
    and there is no bar."""
    from agescale.reports import figures  # here, since it takes a third of a second

    fonts = Path(figures.mpl.get_data_path(), "fonts", "ttf")  # Pillow's own font has English letters only
    for box, _ in seen:
        _frame(picture, box)
    if len(seen) > 1:
        small = ImageFont.truetype(fonts / "DejaVuSans.ttf", FONT_SIZE * 2 // 3)
        for box, said in seen:
            _write_below(picture, box, said.age or said.group, small)
        return picture
    font = ImageFont.truetype(fonts / "DejaVuSans.ttf", FONT_SIZE)
    caption = seen[0][1].caption()
    width = max(picture.width, math.ceil(font.getlength(caption)) + FONT_SIZE)
    copy = Image.new("RGB", (width, picture.height + CAPTION_HEIGHT), "white")
    copy.paste(picture, ((width - picture.width) // 2, 0))
    middle = (width / 2, picture.height + CAPTION_HEIGHT / 2)
    ImageDraw.Draw(copy).text(middle, caption, "black", font, anchor="mm")
    return copy


def _frame(picture: Image.Image, box: Box) -> None:
    """A white line with a black one around it, seen on light and dark; none around the whole picture."""
    x1, y1, x2, y2 = _in_pixels(picture, box)
    if x1 <= 0 and y1 <= 0 and x2 >= picture.width - 1 and y2 >= picture.height - 1:
        return
    for inset, colour in enumerate(("black", "white", "white")):
        corners = (x1 + inset, y1 + inset, x2 - inset, y2 - inset)
        if corners[0] < corners[2] and corners[1] < corners[3]:
            ImageDraw.Draw(picture).rectangle(corners, outline=colour)


def _write_below(picture: Image.Image, box: Box, words: str, font: ImageFont.FreeTypeFont) -> None:
    """On black, below a frame, or at the picture's edge where there is no room."""
    x1, _, _, y2 = _in_pixels(picture, box)
    left, top, right, bottom = font.getbbox(words)
    width, height = right - left + 6, bottom - top + 6
    x, y = min(max(0, x1), picture.width - width), min(max(0, y2 + 1), picture.height - height)
    ImageDraw.Draw(picture).rectangle((x, y, x + width, y + height), fill="black")
    ImageDraw.Draw(picture).text((x + 3 - left, y + 3 - top), words, "white", font)


def _in_pixels(picture: Image.Image, box: Box) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = box
    width, height = picture.size
    return round(x1 * width), round(y1 * height), round(x2 * width) - 1, round(y2 * height) - 1
