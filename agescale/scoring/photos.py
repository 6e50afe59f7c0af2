"""The ages of some photos, on this machine alone: paths and folders in, rows of predictions out, and their words.

The way to look at single pictures, without a catalog and without Ray; whoever wants the table of a bucket scores a
catalog. Writes nothing but the copies of the photos that are asked for, and prints nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
from agescale.faces.isolation import Decoder, IsolatedImages
from agescale.models.inference import BATCH_SIZE, Source, find_device, list_photos, predict_images
from agescale.models.predictor import Predictor
from agescale.store import objects, paths
from agescale.tables import folders

NOTE = "Each photo is taken as one face: what the model sees is the square in its middle."
PAGE_NAME = "index.html"
"""All copies on one page, beside them."""

DRAWN_SIDE, CAPTION_HEIGHT, FONT_SIZE = 512, 48, 22
"""Pixels of a copy: the longer side of the picture, the bar below it, and the letters on that."""


TOLD = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("age", pa.float64()),  # years, as the next two
        pa.field("age_lower", pa.float64()),  # between these lies the central INTERVAL_SHARE of the distribution
        pa.field("age_upper", pa.float64()),
        pa.field("group", pa.string()),
        pa.field("group_probability", pa.float64()),
        pa.field("gender", pa.string()),
        pa.field("gender_probability", pa.float64()),
    ]
)
"""What is told of a photo, whatever the format."""


@dataclass(frozen=True)
class Words:
    """What is told of a photo, for people; empty where there is nothing to say."""

    age: str  # years, as the next one
    interval: str
    group: str
    group_probability: str
    gender: str
    status: str  # and why, where it is not ok

    def caption(self) -> str:
        """The line below a drawn photo.

        >>> Words("34", "27-41", "25-49", "75 %", "", "ok").caption()
        '34 years (27-41), 25-49'
        """
        interval = f" ({self.interval})" if self.interval else ""
        return ", ".join(part for part in (self.age and f"{self.age} years{interval}", self.group) if part)


@dataclass(frozen=True)
class PhotoResult:
    """A row of schema.PREDICTIONS for each photo, and one of TOLD, and that in words."""

    rows: pa.Table
    told: pa.Table
    words: list[Words]

    def names(self) -> list[str]:
        """What to call each photo: by its file's name where these differ, else by its URI."""
        uris = self.rows["uri"].to_pylist()
        names = [paths.name_of(uri) for uri in uris]
        return names if len(set(names)) == len(uris) else uris


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
    predictor = Predictor(config.checkpoint, find_device(config.device), config.tta)
    with IsolatedImages() as decoder:
        sources = (Source(uri, version) for uri, version in photos.items())
        rows = predict_images(predictor, sources, BATCH_SIZE, decoder)
        told = [_told(row, predictor.task.learns_spread) for row in rows.to_pylist()]
        result = PhotoResult(rows, _as_table(told), [in_words(row) for row in told])
        if draw:
            _draw_photos(draw, result, predictor.spec.center_crop, decoder)
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
    if stranger and not (objects.exists(page) and NOTE.encode() in objects.read_bytes(page)):
        raise ValueError(
            f"--draw {draw}: there are other files already ({stranger}), and drawn copies have a folder of their own; "
            "give another one"
        )


def _check_out(out: str, photos: Iterable[str], checkpoint: str) -> None:
    """Raises ValueError or StoreError where the predictions cannot be written, or would replace what they may not."""
    if out.startswith(f"{checkpoint}/"):
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
    told |= {"age_lower": None, "age_upper": None}
    if has_spread and row["age_cdf"] is not None:
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


def in_words(told: dict[str, Any]) -> Words:
    """The words of a row of TOLD.

    >>> told = dict.fromkeys(TOLD.names) | {"uri": "a.jpg", "status": "ok", "age": 30.2, "group": "25-49"}
    >>> in_words(told | {"age_lower": 20.0, "age_upper": 40.1, "group_probability": 0.75})
    Words(age='30', interval='20-40', group='25-49', group_probability='75 %', gender='', status='ok')
    """
    error = f": {told['error'].removeprefix(told['uri'] + ': ')}" if told["error"] else ""
    return Words(
        age=f"{told['age']:.0f}" if told["age"] is not None else "",
        interval=f"{told['age_lower']:.0f}-{told['age_upper']:.0f}" if told["age_lower"] is not None else "",
        group=told["group"] or "",
        group_probability=f"{100 * told['group_probability']:.0f} %" if told["group_probability"] is not None else "",
        gender=f"{told['gender']} ({100 * told['gender_probability']:.0f} %)" if told["gender"] else "",
        status=told["status"] + error,
    )


def _draw_photos(draw: str, result: PhotoResult, center_crop: float, decoder: Decoder) -> None:
    """Copies named after the photo's place in the table, as photos of many folders may share a name. First comes their
    page, by which the folder is known."""
    from agescale.reports import page as report  # here, since it takes half a second

    uris, copies = result.rows["uri"].to_pylist(), []
    for number, (uri, said) in enumerate(zip(uris, result.words, strict=True), start=1):
        stem = _shortened(PurePosixPath(uri).stem)
        copies.append(f"{number:04d}-{stem}.jpg" if said.status == "ok" else "")
    listed = [
        {"name": name, "drawn": copy, "caption": said.caption(), "status": said.status}
        for name, copy, said in zip(result.names(), copies, result.words, strict=True)
    ]
    page = report.template("photos.html.j2").render(photos=listed, note=NOTE)
    objects.write_bytes(paths.join(draw, PAGE_NAME), page.encode())
    for uri, copy, said in zip(uris, copies, result.words, strict=True):
        if copy:
            drawn = draw_caption(objects.read_bytes(uri), said.caption(), center_crop, decoder)
            objects.write_bytes(paths.join(draw, copy), images.encode_jpeg(np.asarray(drawn)))


MAX_STEM_BYTES = 200
"""Of a file's name, of 255 bytes at most: the rest is for a number, an ending, and a mark while it is written."""


def _shortened(stem: str) -> str:
    """The beginning of a name that would be too long for a copy's.

    >>> _shortened("a" * 300) == "a" * 200, _shortened("é" * 150) == "é" * 100, _shortened("short")
    (True, True, 'short')
    """
    return stem.encode()[:MAX_STEM_BYTES].decode(errors="ignore")


def draw_caption(data: bytes, caption: str, center_crop: float = 1.0, decoder: Decoder = images) -> Image.Image:
    """The whole picture, upright, its longer side DRAWN_SIDE pixels, above a white bar with the caption; beside a
    picture that is narrower than its caption stays white. What the model saw of it, where that is not all, has a frame.
    Raises ImageError."""
    from agescale.reports import figures  # here, since it takes a third of a second

    picture = decoder.upright_thumbnail(data, DRAWN_SIDE)
    _frame_square(picture, center_crop)
    fonts = Path(figures.mpl.get_data_path(), "fonts", "ttf")  # Pillow's own font has English letters only
    font = ImageFont.truetype(fonts / "DejaVuSans.ttf", FONT_SIZE)
    width = max(picture.width, math.ceil(font.getlength(caption)) + FONT_SIZE)
    copy = Image.new("RGB", (width, picture.height + CAPTION_HEIGHT), "white")
    copy.paste(picture, ((width - picture.width) // 2, 0))
    middle = (width / 2, picture.height + CAPTION_HEIGHT / 2)
    ImageDraw.Draw(copy).text(middle, caption, "black", font, anchor="mm")
    return copy


def _frame_square(picture: Image.Image, center_crop: float) -> None:
    """A white line with a black one around it, seen on light and dark."""
    side = max(1, round(min(picture.size) * center_crop))
    if picture.size == (side, side):
        return
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    for inset, colour in enumerate(("black", "white", "white")):
        corners = (left + inset, top + inset, left + side - 1 - inset, top + side - 1 - inset)
        if corners[0] < corners[2]:
            ImageDraw.Draw(picture).rectangle(corners, outline=colour)
