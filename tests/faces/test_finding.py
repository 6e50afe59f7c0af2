from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.random import default_rng
from PIL import Image, ImageFilter

from agescale.faces.alignment import Pixels, align
from agescale.faces.finding import BATCH_PHOTOS, FaceFinder, aligned, sharpness
from agescale.faces.geometry import FaceGeometry, FoundFace
from agescale.faces.images import Face, ImageError, Photo, Place, TinyFace
from agescale.faces.loading import Framing, Loaded
from agescale.synthetic import portraits

GEOMETRY = FaceGeometry()
LARGE = FoundFace((20.0, 30.0, 90.0, 110.0), None, 0.9)
SMALL = FoundFace((5.0, 5.0, 15.0, 15.0), None, 0.7)


@dataclass(frozen=True)
class Planted:
    """A detector that finds these faces in all pictures but black ones."""

    faces: list[FoundFace]

    def detect(self, images: Sequence[Pixels]) -> list[list[FoundFace]]:
        return [self.faces if image.any() else [] for image in images]


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    rng = default_rng(2)
    subject = portraits.draw_subject(rng, portraits.GENDERS[0], portraits.ETHNICITIES[0])
    return np.asarray(portraits.draw_portrait(rng, subject, 30, 128))


def find(faces: list[FoundFace], *loaded: Loaded, only_largest: bool = False) -> list[Any]:
    finder = FaceFinder(Framing(112, geometry=GEOMETRY, only_largest=only_largest), detector=Planted(faces))
    found = list(finder.find(enumerate(loaded)))
    assert [key for key, _ in found] == list(range(len(loaded)))
    return [each for _, each in found]


def test_every_face_of_a_photo_is_cut_out_and_placed_in_the_pixels_that_the_photo_has(portrait: np.ndarray) -> None:
    photo = Photo(portrait, 256, 384)  # decoded at a half, and at a third
    ([first, second],) = find([LARGE, SMALL], photo)
    assert isinstance(first, Face)
    assert (first.pixels == align(portrait, LARGE, GEOMETRY)).all()
    assert (first.width, first.height) == (256, 384)
    assert first.place == Place(0, 2, 40, 90, 140, 240, 0.9)
    assert isinstance(second, TinyFace)
    assert second.place == Place(1, 2, 10, 15, 20, 30, 0.7)
    ([largest],) = find([LARGE, SMALL], photo, only_largest=True)
    assert largest.place == first.place, "it says how many there are"


def test_pictures_keep_their_order_whatever_became_of_them(portrait: np.ndarray) -> None:
    broken, square = ImageError("unreadable", "broken"), Face(portrait[:112, :112], 112, 112)
    photo, wall = Photo(portrait, 128, 128), Photo(np.zeros_like(portrait), 128, 128)
    found = find([LARGE], *[photo, broken, wall, square] * BATCH_PHOTOS)
    for index, each in enumerate(found):
        if index % 4 == 1:
            assert each is broken
        elif index % 4 == 2:
            assert isinstance(each, ImageError)
            assert each.status == "no_face"
        else:
            assert isinstance(each, list)
            assert len(each) == 1
            assert (each[0] is square) == (index % 4 == 3)


def test_faces_that_are_known_are_not_looked_for(portrait: np.ndarray) -> None:
    known, wall = Photo(portrait, 128, 128, (LARGE,)), Photo(portrait, 128, 128, ())
    (one,), none, both = find([LARGE, SMALL], known, wall, Photo(portrait, 128, 128))
    assert one.place.num_faces == 1
    assert isinstance(none, ImageError)
    assert len(both) == 2


def test_what_a_table_says_of_a_face(portrait: np.ndarray) -> None:
    large, small = (face.to_row() for face in aligned(portrait, [LARGE, SMALL], GEOMETRY))
    assert (large["face"], large["face_pixels"]) == (0, pytest.approx(74.8, abs=0.1))
    assert large["sharpness"] > 0
    assert (small["face"], small["face_box"], small["face_pixels"]) == (1, [5, 5, 15, 15], 10)
    assert (small["roll"], small["sharpness"], small["face_landmarks"]) == (None, None, None)


def test_a_turned_face_says_so(portrait: np.ndarray) -> None:
    x, y = np.array(GEOMETRY.template).T * 70 + [[20], [40]]
    turned = FoundFace(LARGE.box, tuple(zip((128 - y).tolist(), x.tolist(), strict=True)), 0.9)
    assert aligned(portrait, [turned], GEOMETRY)[0].roll == pytest.approx(90)


def test_blur_takes_sharpness(portrait: np.ndarray) -> None:
    blurred = [np.asarray(Image.fromarray(portrait).filter(ImageFilter.GaussianBlur(radius))) for radius in (0, 1, 3)]
    values = [sharpness(pixels) for pixels in blurred]
    assert values[0] > 2 * values[1] > 4 * values[2]
    assert sharpness(np.full((112, 112, 3), 9, np.uint8)) == 0
