from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.random import default_rng
from PIL import Image, ImageFilter

from agescale.faces.alignment import Pixels, align
from agescale.faces.finding import aligned, find_faces, sharpness
from agescale.faces.geometry import FaceGeometry, FoundFace
from agescale.synthetic import portraits

GEOMETRY = FaceGeometry()
LARGE = FoundFace((20.0, 30.0, 90.0, 110.0), None, 0.9)
SMALL = FoundFace((5.0, 5.0, 15.0, 15.0), None, 0.7)


@dataclass(frozen=True)
class Planted:
    """A detector that finds what it was told."""

    faces: dict[int, list[FoundFace]]

    def detect(self, images: Sequence[Pixels]) -> list[list[FoundFace]]:
        return [self.faces.get(index, []) for index in range(len(images))]


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    rng = default_rng(2)
    subject = portraits.draw_subject(rng, portraits.GENDERS[0], portraits.ETHNICITIES[0])
    return np.asarray(portraits.draw_portrait(rng, subject, 30, 128))


def test_every_face_is_numbered_and_cut_out(portrait: np.ndarray) -> None:
    images = [portrait, portrait[:50], portrait]
    first, none, last = find_faces(images, Planted({0: [LARGE, LARGE], 2: [LARGE]}), GEOMETRY)
    assert [face.number for face in first] == [0, 1]
    assert none == []
    for face in [*first, *last]:
        assert face.pixels is not None
        assert (face.pixels == align(portrait, LARGE, GEOMETRY)).all()


def test_a_face_that_is_too_small_keeps_its_row(portrait: np.ndarray) -> None:
    [[large, small]] = find_faces([portrait], Planted({0: [LARGE, SMALL]}), GEOMETRY)
    assert large.pixels is not None
    assert small.pixels is None
    row = small.to_row()
    assert (row["face"], row["face_box"], row["face_pixels"]) == (1, [5, 5, 15, 15], 10)
    assert (row["roll"], row["sharpness"], row["face_landmarks"]) == (None, None, None)


def test_what_was_found_before_gives_the_same_pixels_without_a_detector(portrait: np.ndarray) -> None:
    [on_the_fly] = find_faces([portrait], Planted({0: [LARGE]}), GEOMETRY)
    [again] = aligned(portrait, [LARGE], GEOMETRY)
    assert again.to_row() == on_the_fly[0].to_row()
    assert again.pixels is not None
    assert (again.pixels == on_the_fly[0].pixels).all()


def test_a_turned_face_says_so(portrait: np.ndarray) -> None:
    x, y = np.array(GEOMETRY.template).T * 70 + [[20], [40]]
    turned = FoundFace(LARGE.box, tuple(zip((128 - y).tolist(), x.tolist(), strict=True)), 0.9)
    assert aligned(portrait, [turned], GEOMETRY)[0].roll == pytest.approx(90)


def test_blur_takes_sharpness(portrait: np.ndarray) -> None:
    blurred = [np.asarray(Image.fromarray(portrait).filter(ImageFilter.GaussianBlur(radius))) for radius in (0, 1, 3)]
    values = [sharpness(pixels) for pixels in blurred]
    assert values[0] > 2 * values[1] > 4 * values[2]
    assert sharpness(np.full((112, 112, 3), 9, np.uint8)) == 0
