"""An image and a face found in it in; the pixels that a model is shown out: upright, centred, all at one scale.

A matrix (2, 3) maps points of the image to points of the crop, both with pixel (0, 0) from 0 to 1. Works on the CPU,
one face at a time, without torch.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

from agescale.faces.geometry import Box, FaceGeometry, FoundFace
from agescale.faces.images import Pixels

Matrix = npt.NDArray[np.float64]

MAX_DISTANCE = 0.25
"""Of a landmark outside the box, in sides of the box: farther ones are no landmarks of this face."""
MAX_RESIDUAL = 0.2
"""Root mean square distance of landmarks to their places after the best fit, as a share of the crop's side."""
MAX_RATIO = 1.8
"""By how much the crop by landmarks may be larger or smaller than the one by the box."""
SAMPLED_SCALE = 0.75
"""Of a crop: down to it, bilinear samples lie near enough to miss no pixel."""


def estimate_similarity(source_P2: npt.ArrayLike, target_P2: npt.ArrayLike) -> Matrix:
    """The shift, rotation and scale that bring P points nearest to others, in the least squares, never mirrored.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns", 1991; in two dimensions
    it has this closed form. Raises ValueError where all points of the source are one.

    >>> estimate_similarity([(0, 0), (1, 0)], [(5, 5), (5, 7)]).round(6).tolist()
    [[0.0, -2.0, 5.0], [2.0, 0.0, 5.0]]
    """
    source, target = np.asarray(source_P2, np.float64), np.asarray(target_P2, np.float64)
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    x, y = (source - source_mean).T
    u, v = (target - target_mean).T
    spread = (x * x + y * y).sum()
    if not spread > 0:
        raise ValueError("all points are one: no transform can be told from them")
    cosine, sine = (x * u + y * v).sum() / spread, (x * v - y * u).sum() / spread
    turn = np.array([[cosine, -sine], [sine, cosine]])
    return np.column_stack([turn, target_mean - turn @ source_mean])


def crop_matrix(face: FoundFace, geometry: FaceGeometry, size: int | None = None) -> Matrix:
    """Brings a face to its place in a crop of ``size`` pixels (of the geometry's by default): by its landmarks, or by
    its box, unturned, where there are none or they cannot be right."""
    size = size or geometry.size
    by_box = _box_matrix(face.box, geometry.framed_box, size)
    if face.landmarks is None:
        return by_box
    template_P2 = np.array(geometry.framed_template) * size
    landmarks_P2 = np.array(face.landmarks, np.float64)
    if not _are_near(landmarks_P2, face.box):
        return by_box
    by_landmarks = estimate_similarity(landmarks_P2, template_P2)
    residual = apply(by_landmarks, landmarks_P2) - template_P2
    is_fit = np.sqrt((residual**2).sum(axis=1).mean()) <= MAX_RESIDUAL * size / (1 + 2 * geometry.margin)
    is_alike = 1 / MAX_RATIO <= scale_of(by_landmarks) / scale_of(by_box) <= MAX_RATIO
    return by_landmarks if is_fit and is_alike else by_box


def _are_near(landmarks_P2: npt.NDArray[np.float64], box: Box) -> bool:
    x1, y1, x2, y2 = box
    reach = MAX_DISTANCE * max(x2 - x1, y2 - y1)
    low, high = np.array([x1 - reach, y1 - reach]), np.array([x2 + reach, y2 + reach])
    return bool(((landmarks_P2 >= low) & (landmarks_P2 <= high)).all() and np.ptp(landmarks_P2, axis=0).max() > 0)


def _box_matrix(box: Box, target: Box, size: int) -> Matrix:
    """Centre on centre; the scale is the mean of those that width and height ask for."""
    width, height = max(box[2] - box[0], 1e-6), max(box[3] - box[1], 1e-6)
    scale = size * math.sqrt((target[2] - target[0]) * (target[3] - target[1]) / (width * height))
    centre = np.array([box[0] + box[2], box[1] + box[3]]) / 2
    place = size * np.array([target[0] + target[2], target[1] + target[3]]) / 2
    return np.column_stack([np.eye(2) * scale, place - scale * centre])


def scale_of(matrix: Matrix) -> float:
    """Pixels of the crop a pixel of the image."""
    return math.hypot(matrix[0, 0], matrix[1, 0])


def roll_of(matrix: Matrix) -> float:
    """Degrees by which the face was turned in the image, clockwise as one sees it."""
    return -math.degrees(math.atan2(matrix[1, 0], matrix[0, 0]))


def apply(matrix: Matrix, points_P2: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return np.asarray(points_P2, np.float64) @ matrix[:, :2].T + matrix[:, 2]


def inverse(matrix: Matrix) -> Matrix:
    turn = np.linalg.inv(matrix[:, :2])
    return np.column_stack([turn, -turn @ matrix[:, 2]])


def warp(image_HWC: Pixels, matrix: Matrix, size: int) -> Pixels:
    """The crop (size, size, 3), its border replicated where it reaches beyond the image.

    A face that becomes smaller is averaged, not sampled: first over whole pixels of the image, then, where that is not
    enough, over two by two of a crop of twice the size.
    """
    scale = scale_of(matrix)
    reduced = max(1, math.floor(1 / scale))
    finer = 1 if scale * reduced >= SAMPLED_SCALE else 2
    back = inverse(matrix)  # from the crop to the image
    corners = apply(back, [(0, 0), (size, 0), (0, size), (size, size)])
    left, top = np.floor(corners.min(axis=0)).astype(int) - reduced
    right, bottom = np.ceil(corners.max(axis=0)).astype(int) + reduced
    region = Image.fromarray(replicated(image_HWC, int(left), int(top), int(right), int(bottom)))
    if reduced > 1:
        region = region.reduce(reduced)
    turn = back[:, :2] / (finer * reduced)
    shift = (back[:, 2] - (left, top)) / reduced
    coefficients = (turn[0, 0], turn[0, 1], shift[0], turn[1, 0], turn[1, 1], shift[1])
    sides = (finer * size, finer * size)
    crop = region.transform(sides, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
    return np.asarray(crop.reduce(finer) if finer > 1 else crop)


def replicated(image_HWC: Pixels, left: int, top: int, right: int, bottom: int) -> Pixels:
    """The pixels within, which may lie beyond the image: there its outermost ones are repeated."""
    if left >= 0 and top >= 0 and right <= image_HWC.shape[1] and bottom <= image_HWC.shape[0]:
        return np.ascontiguousarray(image_HWC[top:bottom, left:right])
    strip = image_HWC.take(np.arange(left, right), axis=1, mode="clip")
    return strip.take(np.arange(top, bottom), axis=0, mode="clip")


def align(image_HWC: Pixels, face: FoundFace, geometry: FaceGeometry) -> Pixels:
    """What a model is shown of a face: uint8 RGB (size, size, 3)."""
    return warp(image_HWC, crop_matrix(face, geometry), geometry.size)
