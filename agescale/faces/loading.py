"""A picture's URI or bytes in, the face in it out, or why there is none."""

from __future__ import annotations

from agescale.faces import images
from agescale.faces.images import Face, ImageError, Picture
from agescale.faces.isolation import Decoder
from agescale.store import objects
from agescale.store.errors import StoreError

FaceOrError = Face | ImageError | StoreError

LOOK_AHEAD = 256
"""Images decoded or being read before they are asked for; at 224 px they hold 38 MB."""


def load_one(
    uri: str,
    image_size: int,
    center_crop: float,
    picture: Picture | None = None,
    version: str = "",
    size_bytes: int | None = None,
    decoder: Decoder = images,
) -> FaceOrError:
    """The face in the picture at ``uri``, or in ``picture`` where it is at hand, or why there is none."""
    try:
        if picture is None:
            picture = objects.read_bytes(uri, version, size_bytes)
        return decoder.load_face(picture, image_size, center_crop)
    except (ImageError, StoreError) as error:
        return error
