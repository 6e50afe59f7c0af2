"""Upright images in; the faces in each of them out, numbered: boxes, landmarks, scores, in pixels of the image.

Images of any sizes are looked at in batches, scaled to the geometry's detection size within a replicated border. Runs
in the process that calls it, on the CPU or a GPU, without Ray; decodes nothing.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Protocol

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torchvision.ops import nms

from agescale.faces import images
from agescale.faces.alignment import apply, crop_matrix, inverse, replicated, warp
from agescale.faces.geometry import NUM_LANDMARKS, WEIGHTS_SHA256, FaceGeometry, FoundFace, numbered
from agescale.faces.images import Pixels
from agescale.faces.retinaface import RetinaFace, anchors, decode
from agescale.store import objects

BATCH_PIXELS = 2**20
"""So many are shown to the network at once: some 28 images at the usual size."""
STEP = 32
"""Pixels; sides of what the network is shown are multiples of it."""
WEIGHTS_NAME = "retinaface.safetensors"
MAX_SHIFT = 0.15
"""By how much a face found again may be off its place, as a share of the crop's side: farther off it is another one."""


class FaceDetector(Protocol):
    def detect(self, images: Sequence[Pixels]) -> list[list[FoundFace]]:
        """For each image, uint8 RGB (H, W, 3) of any size, its faces in the order of their numbers; maybe none."""
        ...


class RetinaFaceDetector:
    """A ``FaceDetector``. ``weights`` is a file or s3:// URI; "" are those that agescale brings.

    Faces are the same, but for rounding, in whatever batches images come. On the CPU the network runs in
    ``num_threads`` threads; the process keeps its own number for everything else. Raises ValueError, in one line, for
    another detector's geometry and for weights that are not the geometry's.
    """

    def __init__(self, geometry: FaceGeometry, weights: str = "", device: str = "cpu", num_threads: int = 1) -> None:
        default = FaceGeometry.detector
        if geometry.detector != default:
            raise ValueError(f"face detector {geometry.detector!r} is not known to this agescale; {default} is")
        self.geometry = geometry
        self.device = torch.device(device)
        self.num_threads = num_threads
        self.network = _load(weights, geometry.weights_sha256).to(self.device)

    def detect(self, images: Sequence[Pixels]) -> list[list[FoundFace]]:
        for image_HWC in images:
            if image_HWC.dtype != np.uint8 or image_HWC.ndim != 3 or image_HWC.shape[2] != 3 or not image_HWC.size:
                given = f"{image_HWC.dtype} of the shape {image_HWC.shape}"
                raise ValueError(f"faces are looked for in uint8 RGB images (H, W, 3), not in {given}")
        geometry = self.geometry
        with _threads(self.num_threads if self.device.type == "cpu" else None), torch.inference_mode():
            found = self._detect(images, [geometry.detection_size] * len(images))
            retried = {
                index: size for index, image_HWC in enumerate(images) if (size := self._retry(image_HWC, found[index]))
            }
            again = self._detect([images[index] for index in retried], [*retried.values()])
            for index, faces in zip(retried, again, strict=True):
                found[index] = faces or found[index]
            if geometry.landmark_size:
                found = self._with_landmarks_again(images, found)
        return [numbered(faces) for faces in found]

    def _retry(self, image_HWC: Pixels, faces: Sequence[FoundFace]) -> int:
        """The size at which an image is looked at again; 0 where its faces are large, or it has no more pixels."""
        longer, geometry = max(image_HWC.shape[:2]), self.geometry
        if max((face.side for face in faces), default=0.0) >= geometry.retry_below * longer > 0:
            return 0
        size = min(geometry.retry_size, round(longer * (1 + 2 * geometry.padding)))
        return size if size > geometry.detection_size else 0

    def _detect(self, images: Sequence[Pixels], sizes: Sequence[int]) -> list[list[FoundFace]]:
        found: list[list[FoundFace]] = [[] for _ in images]
        padding = self.geometry.padding
        frames = [_Frame.of(image_HWC.shape, size, padding) for image_HWC, size in zip(images, sizes, strict=True)]
        for shape in sorted({frame.shape for frame in frames}):
            alike = [index for index, frame in enumerate(frames) if frame.shape == shape]
            step = max(1, BATCH_PIXELS // (shape[0] * shape[1]))
            for start in range(0, len(alike), step):
                batch = alike[start : start + step]
                canvases = np.stack([frames[index].draw(images[index]) for index in batch])
                for index, faces in zip(batch, self._look(canvases), strict=True):
                    found[index] = [frames[index].back(face) for face in faces]
        return found

    def _look(self, canvases_NHWC: Pixels) -> list[list[FoundFace]]:
        """Faces in images of one shape, in pixels of these; the best first."""
        images_NCHW = torch.from_numpy(canvases_NHWC).to(self.device).permute(0, 3, 1, 2)
        values_NAV = self.network(images_NCHW).float().cpu()
        anchors_A3 = anchors(*canvases_NHWC.shape[1:3])
        return [self._select(values_AV, anchors_A3) for values_AV in values_NAV]

    def _select(self, values_AV: Tensor, anchors_A3: Tensor) -> list[FoundFace]:
        scores_A = values_AV[:, 0].sigmoid()
        likely = (scores_A > self.geometry.score_threshold).nonzero()[:, 0]
        boxes_K4, landmarks_K52 = decode(values_AV[likely], anchors_A3[likely])
        is_finite = boxes_K4.isfinite().all(dim=1) & landmarks_K52.isfinite().all(dim=2).all(dim=1)
        boxes_K4, landmarks_K52, scores_K = boxes_K4[is_finite], landmarks_K52[is_finite], scores_A[likely][is_finite]
        kept = nms(boxes_K4, scores_K, self.geometry.nms_threshold)
        columns = zip(boxes_K4[kept].tolist(), landmarks_K52[kept].tolist(), scores_K[kept].tolist(), strict=True)
        return [FoundFace(_four(box), _pairs(points), score) for box, points, score in columns]

    def _with_landmarks_again(
        self, images: Sequence[Pixels], found: Sequence[Sequence[FoundFace]]
    ) -> list[list[FoundFace]]:
        """Landmarks as they are found in the aligned face, which tells them more exactly and the same however the photo
        was framed; as they were where it is not found again."""
        geometry, size = self.geometry, self.geometry.landmark_size
        framed = replace(geometry, margin=geometry.padding)
        places = [(index, number) for index, faces in enumerate(found) for number in range(len(faces))]
        better = [list(faces) for faces in found]
        x1, y1, x2, y2 = framed.framed_box
        centre = (size * (x1 + x2) / 2, size * (y1 + y2) / 2)
        step = max(1, BATCH_PIXELS // size**2)
        for start in range(0, len(places), step):
            batch = places[start : start + step]
            matrices = [crop_matrix(found[index][number], framed, size) for index, number in batch]
            crops = np.stack([warp(images[at[0]], matrix, size) for at, matrix in zip(batch, matrices, strict=True)])
            for (index, number), matrix, faces in zip(batch, matrices, self._look(_whole_steps(crops)), strict=True):
                off = [math.dist(face.centre, centre) / size for face in faces]
                if off and min(off) <= MAX_SHIFT:
                    landmarks = apply(inverse(matrix), np.array(faces[off.index(min(off))].landmarks))
                    better[index][number] = replace(found[index][number], landmarks=_pairs(landmarks.tolist()))
        return better


@dataclass(frozen=True)
class _Frame:
    """Where an image lies in what the network is shown: sides of both in pixels, and its left upper corner."""

    shape: tuple[int, int]
    inner: tuple[int, int]
    corner: tuple[int, int]
    source: tuple[int, int]

    @staticmethod
    def of(shape: tuple[int, ...], size: int, padding: float) -> _Frame:
        longer = max(shape[:2])
        scale = size / (1 + 2 * padding) / longer
        height, width = (max(1, round(scale * side)) for side in shape[:2])
        padded = (round(side + 2 * padding * max(height, width)) for side in (height, width))
        outer_height, outer_width = (STEP * math.ceil(side / STEP) for side in padded)
        corner = ((outer_height - height) // 2, (outer_width - width) // 2)
        return _Frame((outer_height, outer_width), (height, width), corner, (shape[0], shape[1]))

    def draw(self, image_HWC: Pixels) -> Pixels:
        (top, left), (height, width) = self.corner, self.shape
        return replicated(images.resize(image_HWC, *self.inner), -left, -top, width - left, height - top)

    def back(self, face: FoundFace) -> FoundFace:
        down, across = self.source[0] / self.inner[0], self.source[1] / self.inner[1]
        top, left = self.corner
        x1, y1, x2, y2 = face.box
        box = ((x1 - left) * across, (y1 - top) * down, (x2 - left) * across, (y2 - top) * down)
        landmarks = tuple(((x - left) * across, (y - top) * down) for x, y in face.landmarks or ())
        return FoundFace(box, landmarks or None, face.score)


def _whole_steps(crops_NHWC: Pixels) -> Pixels:
    missing = -crops_NHWC.shape[1] % STEP
    return np.pad(crops_NHWC, ((0, 0), (0, missing), (0, missing), (0, 0)), mode="edge") if missing else crops_NHWC


def _four(box: Sequence[float]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box
    return x1, y1, x2, y2


def _pairs(points: npt.ArrayLike) -> tuple[tuple[float, float], ...]:
    pairs = tuple((float(x), float(y)) for x, y in np.asarray(points).tolist())
    assert len(pairs) == NUM_LANDMARKS
    return pairs


@contextlib.contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _load(weights: str, sha256: str) -> RetinaFace:
    if weights:
        data = objects.read_bytes(weights)
    else:
        data = resources.files("agescale.faces").joinpath(WEIGHTS_NAME).read_bytes()
    if objects.sha256(data) != sha256:
        where = weights or f"the weights that this agescale brings ({WEIGHTS_SHA256[:16]}...)"
        raise ValueError(f"{where}: not the face detector's weights whose SHA-256 is {sha256}; give the file of those")
    network = RetinaFace()
    try:
        network.load_state_dict({name: tensor.float() for name, tensor in safetensors.torch.load(data).items()})
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"{weights}: no weights of {FaceGeometry.detector} ({' '.join(str(error).split())[:200]})"
        ) from error
    return network.eval().requires_grad_(False)
