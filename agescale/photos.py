"""The ages of some photos, on this machine alone: paths and folders in, rows of predictions out, and their words.

The way to look at single pictures, without a catalog and without Ray; whoever wants the table of a bucket scores a
catalog. Writes nothing but the copies of the photos that are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image, ImageDraw, ImageFont

from agescale import age_cdf, catalogs, images, listing, storage
from agescale.age_model import ModelSpec
from agescale.catalogs import FaceOrError
from agescale.config import PredictConfig
from agescale.listing import Listed
from agescale.predictor import Predictor
from agescale.storage import StoreError

BATCH_SIZE = 64
"""Photos that are read, decoded and predicted together."""

INTERVAL_SHARE = 0.8
"""Share of the predicted distribution that lies in the interval of ages that is told."""

DRAWN_SIDE, CAPTION_HEIGHT, FONT_SIZE = 512, 48, 22
"""Pixels of a copy: the longer side of the picture, the bar below it, and the letters on that."""


@dataclass(frozen=True)
class Words:
    """What a row of predictions says to people; empty where it says nothing."""

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
    """A row of schema.PREDICTIONS for each photo, and its words."""

    rows: pa.Table
    words: list[Words]


def predict(config: PredictConfig) -> PhotoResult:
    """Predicts each photo, in the order of ``find_photos``, and draws those with a prediction where that is asked for.

    Raises ValueError or StoreError, before any work, where photos, checkpoint or settings are impossible.
    """
    photos = find_photos(config.photos)
    draw = storage.absolute(config.draw) if config.draw else ""
    if draw:
        _check_apart(draw, config.photos, photos)
        storage.check_writable(draw)
    predictor = Predictor(storage.absolute(config.checkpoint), _device(config.device), config.mirror)
    keys = pa.table({"uri": list(photos), "version": list(photos.values())})
    rows = predictor.predict_rows(keys, _load_faces(list(photos), predictor.spec), BATCH_SIZE)
    has_spread = predictor.spec.task != "regression"
    words = [in_words(row, has_spread) for row in rows.to_pylist()]
    if draw:
        _draw_photos(draw, list(photos), words)
    return PhotoResult(rows, words)


def find_photos(uris: Sequence[str]) -> dict[str, str]:
    """URI and version of each photo, once: those named, and all images below the folders named, sorted by path.

    The version is that of the listing, hence "" where a photo was named; whether it is there shows when it is read.
    Raises ValueError where a folder holds no image, StoreError where it cannot be listed.
    """
    if not uris:
        raise ValueError("no photo is named; name photos, or folders of them")
    found: dict[str, str] = {}
    for uri in map(storage.absolute, uris):
        listed = _list_folder(uri)
        if listed is None:
            found.setdefault(uri, "")
            continue
        pictures = {item.uri: item.version for item in listed if images.is_image_name(item.relative)}
        if not pictures:
            raise ValueError(f"{uri}: no image in this folder (a name that ends in {', '.join(images.EXTENSIONS)})")
        found |= pictures
    return found


def _list_folder(uri: str) -> list[Listed] | None:
    """The files below a folder; None where there is no such folder, so that a photo must be meant."""
    if storage.is_remote(uri) and images.is_image_name(uri):
        return None  # who may read it need not be allowed to list the bucket
    try:
        return listing.list_files(uri)
    except StoreError as error:
        if error.status != "missing":
            raise
        return None


def _check_apart(draw: str, given: Sequence[str], photos: Iterable[str]) -> None:
    """Copies beside photos could replace one of them, and would be taken for photos the next time."""
    is_below = any(f"{draw}/".startswith(f"{storage.absolute(uri)}/") for uri in given)
    if is_below or any(storage.join(draw, storage.name_of(uri)) == uri for uri in photos):
        raise ValueError(f"--draw {draw}: there are the photos themselves; give another folder")


def _device(name: str) -> str:
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise ValueError("--device cuda: torch finds no GPU on this machine")
    return "cuda" if has_gpu and name != "cpu" else "cpu"


def _load_faces(uris: Sequence[str], spec: ModelSpec) -> Iterator[FaceOrError]:
    """A face, or why there is none, for each photo, in order; a batch at a time is read and decoded in threads."""
    load = partial(catalogs.load_one, image_size=spec.image_size, center_crop=spec.center_crop)
    with storage.read_pool() as pool:
        for start in range(0, len(uris), BATCH_SIZE):
            yield from pool.map(load, uris[start : start + BATCH_SIZE])


def in_words(row: dict[str, Any], has_spread: bool = True) -> Words:
    """The words of a row of schema.PREDICTIONS; without ``has_spread`` its distribution is no more than its age.

    >>> probs = np.zeros((1, 101)); probs[0, [20, 30, 40]] = 0.25, 0.5, 0.25
    >>> row = dict.fromkeys(("error", "gender", "gender_probability")) | {"uri": "a.jpg", "status": "ok", "age": 30.0}
    >>> row |= {"age_cdf": age_cdf.encode(probs).tobytes(), "group": "25-49", "group_probability": 0.75}
    >>> in_words(row)
    Words(age='30', interval='20-40', group='25-49', group_probability='75 %', gender='', status='ok')
    """
    interval = ""
    if has_spread and row["age_cdf"]:
        low_N, high_N = age_cdf.central_interval(np.frombuffer(row["age_cdf"], "<u2")[None], INTERVAL_SHARE)
        interval = f"{low_N[0]:.0f}-{high_N[0]:.0f}"
    error = f": {row['error'].removeprefix(row['uri'] + ': ')}" if row["error"] else ""
    return Words(
        age=f"{row['age']:.0f}" if row["age"] is not None else "",
        interval=interval,
        group=row["group"] or "",
        group_probability=f"{100 * row['group_probability']:.0f} %" if row["group"] else "",
        gender=f"{row['gender']} ({100 * row['gender_probability']:.0f} %)" if row["gender"] else "",
        status=row["status"] + error,
    )


def _draw_photos(draw: str, uris: Sequence[str], words: Sequence[Words]) -> None:
    """Copies named after the photo's place in the table, as photos of many folders may share a name."""
    for number, (uri, said) in enumerate(zip(uris, words, strict=True), start=1):
        if said.status == "ok":
            copy = draw_caption(storage.read_bytes(uri), said.caption())
            name = f"{number:04d}-{PurePosixPath(uri).stem}.jpg"
            storage.write_bytes(storage.join(draw, name), images.encode_jpeg(np.asarray(copy)))


def draw_caption(data: bytes, caption: str) -> Image.Image:
    """The whole picture, upright, its longer side DRAWN_SIDE pixels, above a white bar with the caption; beside a
    picture that is narrower than its caption stays white. Raises ImageError."""
    from agescale import plots  # here, since it takes a third of a second

    picture = images.upright_thumbnail(data, DRAWN_SIDE)
    fonts = Path(plots.mpl.get_data_path(), "fonts", "ttf")  # Pillow's own font has English letters only
    font = ImageFont.truetype(fonts / "DejaVuSans.ttf", FONT_SIZE)
    width = max(picture.width, math.ceil(font.getlength(caption)) + FONT_SIZE)
    copy = Image.new("RGB", (width, picture.height + CAPTION_HEIGHT), "white")
    copy.paste(picture, ((width - picture.width) // 2, 0))
    middle = (width / 2, picture.height + CAPTION_HEIGHT / 2)
    ImageDraw.Draw(copy).text(middle, caption, "black", font, anchor="mm")
    return copy
