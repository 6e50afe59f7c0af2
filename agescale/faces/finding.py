"""Upright images in; every face in them out: what a table says of it, and the pixels that a model is shown.

The one way from photos to faces, for a catalog and on the fly alike. Where faces were found before, ``aligned`` makes
the same pixels of an image and what is known of them, without a detector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agescale.faces.alignment import crop_matrix, roll_of, warp
from agescale.faces.detection import FaceDetector
from agescale.faces.geometry import FaceGeometry, FoundFace
from agescale.faces.images import Pixels


@dataclass(frozen=True)
class AlignedFace:
    """``pixels`` is uint8 RGB (size, size, 3), or None where the face is smaller than the geometry's least.

    ``roll`` is in degrees, clockwise as one sees it. ``sharpness`` is the variance of the Laplacian of the crop's grey
    values in 0..255: a blurred face has little. Both are None where there are no pixels.
    """

    number: int
    found: FoundFace
    pixels: Pixels | None
    roll: float | None
    sharpness: float | None

    def to_row(self) -> dict[str, Any]:
        """Plain values for a table: all but the pixels."""
        return {
            "face": self.number,
            "face_box": [*self.found.box],
            "face_landmarks": None if self.found.landmarks is None else [*map(list, self.found.landmarks)],
            "face_score": self.found.score,
            "face_pixels": self.found.side,
            "roll": self.roll,
            "sharpness": self.sharpness,
        }


def find_faces(images: Sequence[Pixels], detector: FaceDetector, geometry: FaceGeometry) -> list[list[AlignedFace]]:
    """For each image its faces, numbered from 0; an image without faces has an empty list."""
    found = detector.detect(images)
    return [aligned(image_HWC, faces, geometry) for image_HWC, faces in zip(images, found, strict=True)]


def aligned(image_HWC: Pixels, faces: Sequence[FoundFace], geometry: FaceGeometry) -> list[AlignedFace]:
    """Faces of an image, in the order of their numbers."""
    return [_align(number, image_HWC, face, geometry) for number, face in enumerate(faces)]


def _align(number: int, image_HWC: Pixels, face: FoundFace, geometry: FaceGeometry) -> AlignedFace:
    if face.side < geometry.min_face_size:
        return AlignedFace(number, face, None, None, None)
    matrix = crop_matrix(face, geometry)
    pixels = warp(image_HWC, matrix, geometry.size)
    return AlignedFace(number, face, pixels, roll_of(matrix), sharpness(pixels))


def sharpness(pixels_HWC: Pixels) -> float:
    grey_HW = pixels_HWC.mean(axis=2, dtype=np.float32)
    across, down = np.diff(grey_HW, 2, axis=1)[1:-1], np.diff(grey_HW, 2, axis=0)[:, 1:-1]
    return float((across + down).var())
