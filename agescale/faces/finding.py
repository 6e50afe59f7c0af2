"""Upright images in; every face in them out: what a table says of it, and the pixels that a model is shown.

The one way from photos to faces, for a catalog and on the fly alike: ``FaceFinder`` takes what was loaded, in any
order of squares, photos and failures. Where a photo comes with the faces that were found in it before, the same pixels
are made of them without a detector.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from agescale.faces.alignment import crop_matrix, roll_of, warp
from agescale.faces.geometry import FaceGeometry, FoundFace
from agescale.faces.images import Face, ImageError, Photo, Pixels, Place, TinyFace
from agescale.faces.loading import Framing, Loaded
from agescale.store.errors import StoreError

if TYPE_CHECKING:
    from agescale.faces.detection import FaceDetector

BATCH_PHOTOS = 16
"""Photos in which faces are looked for at once."""

Found = list[Face | TinyFace] | ImageError | StoreError
"""At least one face of an image, or why there is none."""
Key = TypeVar("Key")


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


class FaceFinder:
    """What is shown to a model of pictures as they were loaded for a ``framing``. ``detector``: the one that agescale
    brings, where faces are to be found and none is given; it is loaded for the first photo whose faces nobody knows."""

    def __init__(
        self, framing: Framing, device: str = "cpu", num_threads: int = 1, detector: FaceDetector | None = None
    ) -> None:
        self.framing = framing
        self.device = device
        self.num_threads = num_threads
        self.detector = detector

    def find(self, loaded: Iterable[tuple[Key, Loaded]]) -> Iterator[tuple[Key, Found]]:
        """For each picture, with its key and in their order, the faces to be shown; drawn from as they are needed."""
        for key, each in self.search(loaded):
            if isinstance(each, Photo):
                yield key, self._shown(each)
            else:
                yield key, [each] if isinstance(each, Face) else each

    def search(self, loaded: Iterable[tuple[Key, Loaded]]) -> Iterator[tuple[Key, Loaded]]:
        """The same pictures, photos with all of their faces."""
        waiting: list[tuple[Key, Loaded]] = []
        for key, each in loaded:
            waiting.append((key, each))
            if self.framing.geometry is None or len(waiting) == BATCH_PHOTOS:
                yield from self._search(waiting)
                waiting = []
        yield from self._search(waiting)

    def _search(self, loaded: Sequence[tuple[Key, Loaded]]) -> Iterator[tuple[Key, Loaded]]:
        photos = [each.pixels for _, each in loaded if isinstance(each, Photo) and each.faces is None]
        found = iter(self._loaded_detector().detect(photos) if photos else ())
        for key, each in loaded:
            if isinstance(each, Photo) and each.faces is None:
                each = replace(each, faces=tuple(next(found)))
            yield key, each

    def _loaded_detector(self) -> FaceDetector:
        if self.detector is None:
            from agescale.faces.detection import RetinaFaceDetector  # here, since torchvision takes a second

            assert self.framing.geometry is not None, "photos are loaded only where faces are to be found"
            self.detector = RetinaFaceDetector(self.framing.geometry, device=self.device, num_threads=self.num_threads)
        return self.detector

    def _shown(self, photo: Photo) -> Found:
        assert self.framing.geometry is not None
        assert photo.faces is not None
        kept = photo.faces[:1] if self.framing.only_largest else photo.faces
        shown = [_shown(face, photo) for face in aligned(photo.pixels, kept, self.framing.geometry)]
        return shown or ImageError("no_face", "no face was found in it")


@lru_cache(maxsize=2)
def finder_of(framing: Framing) -> FaceFinder:
    """One a process, as it may load a network."""
    return FaceFinder(framing)


def _shown(face: AlignedFace, photo: Photo) -> Face | TinyFace:
    across, down = photo.width / photo.pixels.shape[1], photo.height / photo.pixels.shape[0]
    x1, y1, x2, y2 = face.found.box
    size = ((x2 - x1) * across, (y2 - y1) * down)
    place = Place(face.number, len(photo.faces or ()), x1 * across, y1 * down, *size, face.found.score)
    if face.pixels is None:
        return TinyFace(photo.width, photo.height, place)
    return Face(face.pixels, photo.width, photo.height, place)
