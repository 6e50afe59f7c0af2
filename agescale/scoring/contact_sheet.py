"""Many photos with their answers on one page: what is to be said of each in, HTML that opens anywhere out.

The page needs no other file and no network: pictures are small and stand in it, and the frames around faces are drawn
by the browser, so what is said of them is text. Reads and writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from agescale.faces import images
from agescale.faces.geometry import Box

PAGE_NAME = "index.html"
THUMBNAIL_SIDE = 256
"""Pixels of a picture's longer side: a thousand of them are some 10 MB."""
JPEG_QUALITY = 80
MAX_PICTURES = 2000
"""A browser shows so many; of more photos the others have their words alone."""
ROOM = 0.2
"""A share of a picture's side: where a face leaves less of it, what is said stands on the frame's other side."""


@dataclass(frozen=True)
class SheetFace:
    """A face on the page: ``box`` as shares of the picture's sides, None where it is all of the picture."""

    box: Box | None
    label: str  # in the picture
    caption: str  # below it, and where one points at the face

    def style(self) -> str:
        """Where its frame is, as CSS."""
        x1, y1, x2, y2 = (min(max(0.0, 100 * share), 100.0) for share in self.box or (0, 0, 1, 1))
        return f"left:{x1:.2f}%;top:{y1:.2f}%;width:{x2 - x1:.2f}%;height:{y2 - y1:.2f}%"

    def sides(self) -> str:
        """On which sides of its frame there is room for the label."""
        x1, _, _, y2 = self.box or (0, 0, 1, 1)
        return " ".join([*(["inside"] if y2 > 1 - ROOM else []), *(["right"] if x1 > 1 - 2 * ROOM else [])])


@dataclass(frozen=True)
class SheetPhoto:
    """A photo on the page. ``picture`` is a data URI, or empty where there is none."""

    name: str
    status: str  # why there is no age, or "ok"
    faces: Sequence[SheetFace] = ()
    picture: str = ""


def to_html(photos: Sequence[SheetPhoto], notes: Sequence[str]) -> bytes:
    from agescale.reports import page  # here, since it takes half a second

    num_faces = sum(len(photo.faces) for photo in photos)
    left_out = max(0, len(photos) - MAX_PICTURES)
    told = {"photos": photos, "notes": notes, "num_faces": num_faces, "num_left_out": left_out}
    return page.template("photos.html.j2").render(told).encode()


def thumbnail(picture: Image.Image) -> str:
    """A small copy of a picture, as a data URI."""
    small = picture.convert("RGB")
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return images.to_data_uri(np.asarray(small), JPEG_QUALITY)
