from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from agescale.faces.alignment import (
    align,
    apply,
    crop_matrix,
    estimate_similarity,
    inverse,
    replicated,
    roll_of,
    scale_of,
    warp,
)
from agescale.faces.geometry import FaceGeometry, FoundFace

GEOMETRY = FaceGeometry()
TEMPLATE = np.array(GEOMETRY.template)


def similarity(scale: float, degrees: float, shift: tuple[float, float]) -> np.ndarray:
    turn = math.radians(degrees)
    cosine, sine = scale * math.cos(turn), scale * math.sin(turn)
    return np.array([[cosine, -sine, shift[0]], [sine, cosine, shift[1]]])


def planted(matrix: np.ndarray) -> FoundFace:
    """A face whose crop is the unit square, taken to an image by ``matrix``; its box is upright around it."""
    x1, y1, x2, y2 = GEOMETRY.box
    centre, scale = apply(matrix, [((x1 + x2) / 2, (y1 + y2) / 2)])[0], scale_of(matrix)
    half = scale * (x2 - x1) / 2, scale * (y2 - y1) / 2
    box = (centre[0] - half[0], centre[1] - half[1], centre[0] + half[0], centre[1] + half[1])
    return FoundFace(box, tuple((x, y) for x, y in apply(matrix, TEMPLATE).tolist()), 0.9)


@pytest.mark.parametrize("degrees", [0, 15, -40, 90, 180])
@pytest.mark.parametrize("scale", [0.01, 1.0, 250.0])
def test_a_known_shift_rotation_and_scale_is_recovered(scale: float, degrees: float) -> None:
    known = similarity(scale, degrees, (310.5, -20.25))
    assert estimate_similarity(TEMPLATE, apply(known, TEMPLATE)) == pytest.approx(known, abs=1e-6 * max(1, scale))


def test_noise_is_averaged_in_the_least_squares() -> None:
    noisy = np.random.default_rng(0).normal(apply(similarity(40, 10, (5, 5)), TEMPLATE), 0.5)
    best = estimate_similarity(TEMPLATE, noisy)

    def loss(matrix: np.ndarray) -> float:
        return float(((apply(matrix, TEMPLATE) - noisy) ** 2).sum())

    for other in (similarity(1.001, 0, (0, 0)), similarity(1, 0.1, (0, 0)), similarity(1, 0, (0.01, 0))):
        assert loss(best) < loss(np.column_stack([other[:, :2] @ best[:, :2], apply(other, [best[:, 2]])[0]]))


def test_no_transform_can_be_told_from_one_point() -> None:
    with pytest.raises(ValueError, match="all points are one"):
        estimate_similarity([(3, 3)] * 5, TEMPLATE)


def test_a_face_comes_to_the_same_place_however_the_photo_was_framed() -> None:
    for degrees, scale in ((0, 80), (-15, 300), (60, 33)):
        face = planted(similarity(scale, degrees, (50, 70)))
        matrix = crop_matrix(face, GEOMETRY)
        assert apply(matrix, np.array(face.landmarks)) == pytest.approx(TEMPLATE * GEOMETRY.size, abs=1e-6)
        assert roll_of(matrix) == pytest.approx(degrees)
        assert scale_of(matrix) == pytest.approx(GEOMETRY.size / scale)


def test_the_box_alone_brings_an_upright_face_to_the_same_place() -> None:
    face = planted(similarity(120, 0, (30, 40)))
    assert crop_matrix(replace(face, landmarks=None), GEOMETRY) == pytest.approx(crop_matrix(face, GEOMETRY), abs=1e-6)


def test_landmarks_that_cannot_be_right_are_left_aside() -> None:
    face = planted(similarity(100, 0, (50, 50)))
    by_box = crop_matrix(replace(face, landmarks=None), GEOMETRY)
    assert face.landmarks is not None
    far = (*face.landmarks[:4], (500.0, 500.0))
    mirrored = tuple((200 - x, y) for x, y in face.landmarks)
    tiny = tuple((100 + x / 50, 100 + y / 50) for x, y in face.landmarks)
    one = ((100.0, 100.0),) * 5
    for landmarks in (far, mirrored, tiny, one):
        assert (crop_matrix(replace(face, landmarks=landmarks), GEOMETRY) == by_box).all(), landmarks


def test_a_margin_keeps_the_face_in_the_middle() -> None:
    face = planted(similarity(100, 20, (50, 50)))
    wide = crop_matrix(face, replace(GEOMETRY, margin=0.5))
    middle = apply(inverse(crop_matrix(face, GEOMETRY)), [(56, 56)])
    assert scale_of(wide) == pytest.approx(scale_of(crop_matrix(face, GEOMETRY)) / 2)
    assert apply(wide, middle) == pytest.approx(np.array([(56, 56)]))


def test_pixels_come_from_where_the_matrix_says() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 70, 3), np.uint8)
    assert (warp(image, similarity(1, 0, (-10, -5)), 40) == image[5:45, 10:50]).all()
    turned = warp(image[:40, :40], similarity(1, 90, (40, 0)), 40)
    assert np.abs(turned.astype(int) - np.rot90(image[:40, :40], -1)).max() <= 1


@pytest.mark.parametrize("scale", [0.8, 0.51, 0.33, 0.19, 0.04])
def test_what_becomes_smaller_is_averaged(scale: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1200, 3), np.uint8)
    crop = warp(noise, similarity(scale, 0, (0.3, 0.3)), 40).astype(float)
    assert crop.std() < 1.25 * scale * noise.std()  # sampling alone would keep two thirds of it, or all
    assert abs(crop.mean() - noise.mean()) < 4


@pytest.mark.parametrize("scale", [1.7, 0.9, 0.6, 0.3, 0.11])
def test_a_disc_stays_where_it_is_at_every_scale(scale: float) -> None:
    photo = Image.new("RGB", (900, 900))
    ImageDraw.Draw(photo).ellipse((400, 300, 499, 399), fill="white")
    matrix = similarity(scale, 0, (32 - 450 * scale, 32 - 350 * scale))
    light = warp(np.asarray(photo), matrix, 64)[:, :, 0].astype(float)
    y, x = np.mgrid[:64, :64] + 0.5
    assert (light * x).sum() / light.sum() == pytest.approx(32, abs=0.3)
    assert (light * y).sum() / light.sum() == pytest.approx(32, abs=0.3)


def test_beyond_the_image_its_border_is_repeated() -> None:
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    wide = replicated(image, -2, -3, 8, 6)
    assert (wide == np.pad(image, ((3, 2), (2, 3), (0, 0)), mode="edge")).all()
    assert (replicated(image, 20, 30, 22, 33) == image[-1, -1]).all()


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 300, 3), (2000, 9, 3)])
def test_a_crop_of_an_odd_image_is_whole(shape: tuple[int, int, int]) -> None:
    image = np.full(shape, 77, np.uint8)
    crop = align(image, FoundFace((0.0, 0.0, float(shape[1]), float(shape[0])), None, 0.9), GEOMETRY)
    assert crop.shape == (112, 112, 3)
    assert crop.dtype == np.uint8
    assert (crop == 77).all()
