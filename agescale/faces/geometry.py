"""How faces are found and cut out of a photo: one frozen value that a checkpoint carries as plain JSON.

Also the words of the face stage: a found face, and the order in which the faces of a photo are numbered. Numbers only:
no pixels and no network here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

Point = tuple[float, float]
"""x to the right, y down."""
Box = tuple[float, float, float, float]
"""x1, y1, x2, y2."""

NUM_LANDMARKS = 5
"""Image-left eye, image-right eye, tip of the nose, image-left and image-right corner of the mouth."""

UTKFACE_TEMPLATE: tuple[Point, ...] = (
    (0.2954, 0.2879),
    (0.7022, 0.2944),
    (0.4945, 0.5362),
    (0.3172, 0.6788),
    (0.6583, 0.6841),
)
UTKFACE_BOX: Box = (0.0745, -0.1551, 0.9096, 0.9606)
"""Where this detector sees landmarks and box in UTKFace's chips, as shares of their side (medians of 1,964 chips:
benchmarks/face_template.py). Not made symmetric: where the detector leans to one side, it does so in every photo, and
the template takes that back."""

WEIGHTS_SHA256 = "0222356adb93fb35fb3160f797573b0cb2eab9369fff5fe78a107c99ba3ed391"
"""Of the weights of the detector that agescale brings."""

ALL_FACES_SIZE = 640
"""Pixels of a photo's longer side at which all of its faces are looked for: small ones beside a large one, too."""
CUT_FIELDS = ("margin", "size", "min_face_size")
"""Of a geometry, those that only say how a face is cut out once it is found."""

SIZE_STEP = 1.5
"""Faces whose sides differ by less are as large as each other where faces are numbered."""


@dataclass(frozen=True)
class FoundFace:
    """A face in an image of which pixel (0, 0) spans from 0 to 1: so a box may be as wide as the image.

    The box may reach beyond the image. ``landmarks`` is None where the detector gives none; ``score`` is in 0..1.
    """

    box: Box
    landmarks: tuple[Point, ...] | None
    score: float

    @property
    def side(self) -> float:
        """Pixels: that of a square as large as the box."""
        return math.sqrt(max(0.0, self.box[2] - self.box[0]) * max(0.0, self.box[3] - self.box[1]))

    @property
    def centre(self) -> Point:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True)
class FaceGeometry:
    """Everything that decides which faces are found and which pixels a model is shown of them.

    Raises ValueError, in one line, for values that make no sense.
    """

    detector: str = "retinaface-mobilenet-0.25"
    weights_sha256: str = WEIGHTS_SHA256
    detection_size: int = 192  # pixels of an image's longer side while faces are looked for, border included
    retry_size: int = 640  # the same for images with none or small ones, but not above their own size; 0: once is all
    retry_below: float = 0.2  # an image is looked at again where no face has so large a share of its longer side
    padding: float = 0.25  # replicated border on each side, a share of the longer side: tight chips need it
    score_threshold: float = 0.6
    nms_threshold: float = 0.4  # of two boxes that overlap by more (intersection over union) the better one stays
    landmark_size: int = 128  # landmarks are found again in the aligned face at so many pixels; 0: they are not
    template: tuple[Point, ...] = UTKFACE_TEMPLATE  # where landmarks come to lie, as shares of the crop's side
    box: Box = UTKFACE_BOX  # the same of the box, where a face has no landmarks to go by
    margin: float = 0.0  # more of the photo on each side, a share of the crop's side
    size: int = 112  # pixels of a crop's side
    min_face_size: int = 16  # pixels of a face's side in the photo: a smaller one is too small to be judged

    def __post_init__(self) -> None:
        for name in ("detection_size", "size"):
            self._check(name, getattr(self, name) >= 32, "at least 32 pixels")
        for name in ("retry_size", "landmark_size"):
            self._check(name, getattr(self, name) == 0 or getattr(self, name) >= 32, "0 or at least 32 pixels")
        self._check("min_face_size", self.min_face_size >= 1, "at least 1 pixel")
        for name in ("padding", "margin"):
            self._check(name, 0 <= getattr(self, name) <= 2, "in 0..2")
        self._check("retry_below", 0 <= self.retry_below <= 1, "in 0..1")
        for name in ("score_threshold", "nms_threshold"):
            self._check(name, 0 < getattr(self, name) < 1, "between 0 and 1")
        is_template = len(self.template) == NUM_LANDMARKS and all(len(point) == 2 for point in self.template)
        self._check("template", is_template, f"{NUM_LANDMARKS} pairs of x and y")
        shares = [*self.box, *(share for point in self.template for share in point)]
        self._check("template and box", all(math.isfinite(share) for share in shares), "finite numbers")
        is_box = len(self.box) == 4 and self.box[0] < self.box[2] and self.box[1] < self.box[3]
        self._check("box", is_box, "x1 < x2 and y1 < y2")

    def _check(self, name: str, is_right: bool, wanted: str) -> None:
        if not is_right:
            raise ValueError(f"face geometry: {name} is {getattr(self, name, '?')!r}, and must be {wanted}")

    @property
    def framed_template(self) -> tuple[Point, ...]:
        """``template`` as shares of the side of a crop that has the margin."""
        return tuple((self._framed(x), self._framed(y)) for x, y in self.template)

    @property
    def framed_box(self) -> Box:
        x1, y1, x2, y2 = self.box
        return self._framed(x1), self._framed(y1), self._framed(x2), self._framed(y2)

    def _framed(self, share: float) -> float:
        return (share + self.margin) / (1 + 2 * self.margin)

    def for_all_faces(self) -> FaceGeometry:
        """The same for whoever wants all faces of a photo, and not only the largest."""
        return replace(self, detection_size=max(self.detection_size, ALL_FACES_SIZE))

    @property
    def detection(self) -> dict[str, Any]:
        """What decides which faces are found, and where."""
        return {name: value for name, value in self.to_dict().items() if name not in CUT_FIELDS}

    def to_dict(self) -> dict[str, Any]:
        """Of values that JSON has; ``from_dict`` takes them, and what JSON makes of them."""
        return asdict(self)

    @staticmethod
    def from_dict(values: dict[str, Any]) -> FaceGeometry:
        """Raises ValueError, in one line, for a name that is not known: of a newer agescale."""
        unknown = sorted(values.keys() - {one.name for one in fields(FaceGeometry)})
        if unknown:
            raise ValueError(f"face geometry: {', '.join(unknown)} is not known to this agescale")
        template = tuple((float(x), float(y)) for x, y in values.get("template", UTKFACE_TEMPLATE))
        box = tuple(float(share) for share in values.get("box", UTKFACE_BOX))
        return FaceGeometry(**{**values, "template": template, "box": box})


MIN_OVERLAP = 0.2
"""Intersection over union of a labelled box and the face that takes its label: a box with the margin of 40 % on each
side that some data sets have around a face, 0.31 of it, is that face's."""


def overlaps(one_N4: np.ndarray, other_N4: np.ndarray) -> np.ndarray:
    """Intersection over union (N,) of each box with the other one.

    >>> ones, others = np.array([[0, 0, 2, 2], [0, 0, 1, 1]]), np.array([[1, 0, 3, 2], [2, 2, 3, 3]])
    >>> overlaps(ones, others).round(3).tolist()
    [0.333, 0.0]
    """
    low_N2, high_N2 = np.maximum(one_N4[:, :2], other_N4[:, :2]), np.minimum(one_N4[:, 2:], other_N4[:, 2:])
    both_N = (high_N2 - low_N2).clip(min=0).prod(axis=1)
    areas = [(box_N4[:, 2:] - box_N4[:, :2]).prod(axis=1) for box_N4 in (one_N4, other_N4)]
    return np.divide(both_N, areas[0] + areas[1] - both_N, out=np.zeros(len(both_N)), where=both_N > 0)


def matched_rows(box_L4: np.ndarray, start_L: np.ndarray, stop_L: np.ndarray, face_P4: np.ndarray) -> np.ndarray:
    """For each of L labelled boxes which of the faces of its photo, ``start`` to ``stop`` of P, is its face, -1 where
    none is: pairs are made by their overlap, the greatest first, as long as it is at least MIN_OVERLAP, and a face has
    one label. Time goes with the pairs of a label and a face of one photo, not with the photos."""
    num_L = stop_L - start_L
    label_K = np.repeat(np.arange(len(box_L4)), num_L)
    row_K = np.arange(len(label_K)) + np.repeat(start_L - (np.cumsum(num_L) - num_L), num_L)
    value_K = overlaps(box_L4[label_K], face_P4[row_K])
    near = np.flatnonzero(value_K >= MIN_OVERLAP)
    near = near[np.lexsort((row_K[near], label_K[near], -value_K[near]))]
    chosen, taken = [-1] * len(box_L4), set()
    for label, row in zip(label_K[near].tolist(), row_K[near].tolist(), strict=True):
        if chosen[label] < 0 and row not in taken:
            chosen[label] = row
            taken.add(row)
    return np.array(chosen, np.int64)


def matched(labelled: Sequence[Box], found: Sequence[Box]) -> list[int | None]:
    """``matched_rows`` in one photo, None for -1.

    >>> matched([(0, 0, 10, 10), (8, 0, 18, 10), (50, 50, 60, 60)], [(9, 1, 17, 9), (1, 1, 9, 9)])
    [1, 0, None]
    """
    boxes, faces = (np.array(each, np.float64).reshape(-1, 4) for each in (labelled, found))
    none_L = np.zeros(len(boxes), np.int64)
    return [None if row < 0 else row for row in matched_rows(boxes, none_L, none_L + len(faces), faces).tolist()]


def scaled_box(box: Box, across: float, down: float) -> Box:
    """A box in a picture of ``across`` times the width and ``down`` times the height."""
    return box[0] * across, box[1] * down, box[2] * across, box[3] * down


def numbered(faces: Sequence[FoundFace]) -> list[FoundFace]:
    """Faces in the order of their numbers: by size, where those within a step of the largest are alike, and so on;
    alike ones from left to right. Steps are counted from the largest face, so that a photo that is stored again, at
    another size or quality, keeps the order.

    >>> wide = lambda x, side: FoundFace((x, 0, x + side, side), None, 1.0)
    >>> [face.box[0] for face in numbered([wide(500, 30), wide(300, 100), wide(100, 95)])]
    [100, 300, 500]
    """
    largest = max((face.side for face in faces), default=0.0)

    def place(face: FoundFace) -> tuple[int, float, float]:
        steps = round(math.log(largest / face.side, SIZE_STEP)) if face.side > 0 else 1_000_000
        return steps, *face.centre

    return sorted(faces, key=place)
