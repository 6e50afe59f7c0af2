from __future__ import annotations

import io
import json
import math
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.random import default_rng
from PIL import Image

from agescale.faces import images
from agescale.faces.alignment import crop_matrix, roll_of, scale_of
from agescale.faces.detection import WEIGHTS_NAME, RetinaFaceDetector
from agescale.faces.geometry import FaceGeometry, FoundFace
from agescale.store import objects
from agescale.synthetic import portraits

DATA = Path(os.environ.get("AGESCALE_DATA", "/nowhere"))
PACKAGED = Path(images.__file__).with_name(WEIGHTS_NAME)


@pytest.fixture(scope="module")
def detector() -> RetinaFaceDetector:
    return RetinaFaceDetector(FaceGeometry())


@pytest.fixture(scope="module")
def drawn() -> list[np.ndarray]:
    """Portraits of several sizes; the detector takes nearly all drawn faces for faces."""
    pictures = []
    for index in range(12):
        rng = default_rng(index)
        gender = portraits.GENDERS[index % 2]
        subject = portraits.draw_subject(rng, gender, portraits.ETHNICITIES[index % len(portraits.ETHNICITIES)])
        pictures.append(np.asarray(portraits.draw_portrait(rng, subject, 20 + 4 * index, (96, 128, 160)[index % 3])))
    return pictures


@pytest.fixture(scope="module")
def group(drawn: list[np.ndarray]) -> np.ndarray:
    """A photo of four on a plain ground, one face and its mirror image: two large ones, and two smaller ones."""
    photo = np.full((420, 640, 3), 150, np.uint8)
    for number, (left, top, side) in enumerate(((30, 40, 200), (330, 30, 210), (240, 280, 130), (490, 280, 125))):
        picture = drawn[2][:, :: 1 if number % 2 else -1]
        photo[top : top + side, left : left + side] = np.asarray(Image.fromarray(picture).resize((side, side)))
    return photo


def assert_alike(faces: list[FoundFace], others: list[FoundFace], pixels: float) -> None:
    assert len(faces) == len(others)
    for face, other in zip(faces, others, strict=True):
        assert face.box == pytest.approx(other.box, abs=pixels)
        assert np.array(face.landmarks) == pytest.approx(np.array(other.landmarks), abs=pixels)


def test_a_face_is_found_where_it_is(detector: RetinaFaceDetector, drawn: list[np.ndarray]) -> None:
    found = detector.detect(drawn)
    assert sum(len(faces) == 1 for faces in found) >= len(drawn) - 1
    for picture, faces in zip(drawn, found, strict=True):
        for face in faces:
            height, width = picture.shape[:2]
            assert 0.3 * width < face.centre[0] < 0.7 * width
            assert 0.35 * height < face.centre[1] < 0.75 * height
            assert 0.3 * width < face.side < 0.8 * width
            assert face.landmarks is not None
            left, right, nose, *mouth = face.landmarks
            assert left[0] < nose[0] < right[0]
            assert max(left[1], right[1]) < nose[1] < min(y for _, y in mouth)
            assert 0.6 < face.score <= 1


def test_a_batch_finds_what_one_by_one_finds(
    detector: RetinaFaceDetector, drawn: list[np.ndarray], group: np.ndarray
) -> None:
    pictures = [*drawn[:5], group, np.full((50, 70, 3), 30, np.uint8), *drawn[5:]]
    for picture, faces in zip(pictures, detector.detect(pictures), strict=True):
        assert_alike(detector.detect([picture])[0], faces, pixels=0.05)


def test_every_face_of_a_group_is_found_once_and_in_order(detector: RetinaFaceDetector, group: np.ndarray) -> None:
    [faces] = detector.detect([group])
    assert [round(face.centre[0] / 10) for face in faces] == pytest.approx([13, 43, 30, 55], abs=3)


def test_the_order_bears_another_encoding(detector: RetinaFaceDetector, group: np.ndarray) -> None:
    [faces] = detector.detect([group])
    for size, quality in ((1.0, 40), (0.8, 90), (1.9, 75)):
        resized = Image.fromarray(group).resize((round(640 * size), round(420 * size)), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        resized.save(file, "JPEG", quality=quality)
        [others] = detector.detect([np.asarray(Image.open(file))])
        seen = [face.centre[0] / size for face in others]
        assert seen == pytest.approx([face.centre[0] for face in faces], abs=15)


def placed(face: FoundFace, degrees: float) -> tuple[float, float]:
    """Degrees between the face and the turn of the photo, and the logarithm of its size, in percent."""
    matrix = crop_matrix(face, FaceGeometry())
    return roll_of(matrix) - degrees, 100 * math.log(scale_of(matrix))


def test_the_same_face_is_cut_out_alike_however_it_is_framed(
    detector: RetinaFaceDetector, drawn: list[np.ndarray]
) -> None:
    spreads = []
    for photo in map(Image.fromarray, drawn[2:]):
        framed = []
        for degrees in (-15, 0, 15):
            for wide in (photo.width, round(1.5 * photo.width)):
                ground = Image.new("RGB", (wide, wide), (120, 120, 120))
                ground.paste(photo, ((wide - photo.width) // 2, (wide - photo.height) // 2))
                turned = ground.rotate(-degrees, Image.Resampling.BICUBIC, fillcolor=(120, 120, 120))
                [faces] = detector.detect([np.asarray(turned)])
                if faces:
                    framed.append(placed(faces[0], degrees))
        spreads += [np.ptp(framed, axis=0)] if len(framed) == 6 else []
    assert len(spreads) >= 7  # a drawn face or two is not understood
    roll_degrees, scale_percent = np.median(spreads, axis=0)
    assert roll_degrees < 10
    assert scale_percent < 20


def test_pictures_without_a_face_have_none(detector: RetinaFaceDetector) -> None:
    rng = default_rng(0)
    noise = rng.integers(0, 256, (120, 160, 3), np.uint8)
    slope = np.repeat(np.linspace(0, 255, 90).astype(np.uint8)[None, :, None], 80, 0).repeat(3, 2)
    checks = (np.indices((200, 200)).sum(0) // 25 % 2 * 255).astype(np.uint8)[:, :, None].repeat(3, 2)
    assert detector.detect([np.zeros((64, 64, 3), np.uint8), noise, slope, checks]) == [[], [], [], []]
    assert detector.detect([]) == []


@pytest.mark.parametrize("shape", [(1, 1, 3), (8, 8, 3), (3, 4000, 3), (3000, 2, 3), (2400, 3200, 3)])
def test_images_of_any_shape_are_taken(detector: RetinaFaceDetector, shape: tuple[int, int, int]) -> None:
    assert detector.detect([np.full(shape, 90, np.uint8)]) == [[]]


def test_grey_pixels_and_views_are_images_too(detector: RetinaFaceDetector, drawn: list[np.ndarray]) -> None:
    grey = drawn[2].mean(axis=2).astype(np.uint8)[:, :, None].repeat(3, 2)
    assert len(detector.detect([grey])[0]) == 1
    mirrored = drawn[2][:, ::-1]
    mirrored.setflags(write=False)
    [face], [other] = detector.detect([drawn[2], mirrored])
    assert face.centre[0] == pytest.approx(drawn[2].shape[1] - other.centre[0], abs=6)


@pytest.mark.parametrize(
    "image", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3)), np.zeros((0, 9, 3), "u1")]
)
def test_what_is_no_rgb_image_is_refused_in_one_line(detector: RetinaFaceDetector, image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"^faces are looked for in uint8 RGB images \(H, W, 3\), not in [^\n]*$"):
        detector.detect([image])


def test_small_faces_are_found_when_an_image_is_looked_at_again(drawn: list[np.ndarray]) -> None:
    photo = np.full((400, 600, 3), 150, np.uint8)
    photo[200:264, 300:364] = np.asarray(Image.fromarray(drawn[2]).resize((64, 64), Image.Resampling.LANCZOS))
    once = RetinaFaceDetector(FaceGeometry(detection_size=96, retry_size=0)).detect([photo])
    twice = RetinaFaceDetector(FaceGeometry(detection_size=96)).detect([photo])
    assert [len(faces) for faces in once + twice] == [0, 1]


def test_the_process_keeps_its_number_of_threads(detector: RetinaFaceDetector, drawn: list[np.ndarray]) -> None:
    seen, before = [], torch.get_num_threads()
    handle = detector.network.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    torch.set_num_threads(2)
    try:
        detector.detect(drawn[:1])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
        handle.remove()
    assert set(seen) == {1}


def test_weights_of_ones_own_need_the_geometrys_checksum(tmp_path: Path, drawn: list[np.ndarray]) -> None:
    copy = tmp_path / "weights.safetensors"
    copy.write_bytes(PACKAGED.read_bytes())
    assert len(RetinaFaceDetector(FaceGeometry(), weights=str(copy)).detect(drawn[2:3])[0]) == 1
    copy.write_bytes(PACKAGED.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"^\S*weights.safetensors: not the face detector's weights whose [^\n]*$"):
        RetinaFaceDetector(FaceGeometry(), weights=str(copy))
    copy.write_bytes(b"no tensors")
    damaged = FaceGeometry(weights_sha256=objects.sha256(b"no tensors"))
    with pytest.raises(ValueError, match=r"^\S*weights.safetensors: no weights of retinaface[^\n]*$"):
        RetinaFaceDetector(damaged, weights=str(copy))
    with pytest.raises(ValueError, match="'haar' is not known to this agescale"):
        RetinaFaceDetector(FaceGeometry(detector="haar"))


def test_the_package_brings_the_weights_with_their_licence() -> None:
    notice = PACKAGED.with_name("retinaface.LICENSE.txt").read_text()
    assert objects.sha256(PACKAGED.read_bytes()) == FaceGeometry().weights_sha256
    assert FaceGeometry().weights_sha256 in notice
    assert "MIT License" in notice


@pytest.mark.skipif(not (DATA / "utkface.tar").exists(), reason="AGESCALE_DATA names no folder of real faces")
def test_real_faces_are_found(detector: RetinaFaceDetector) -> None:
    with tarfile.open(DATA / "utkface.tar") as archive:
        members = [member for _, member in zip(range(200), archive, strict=False) if member.isfile()]
        chips = [images.load_square(archive.extractfile(one).read(), 8).pixels for one in members]  # type: ignore[union-attr]
    assert np.mean([len(faces) > 0 for faces in detector.detect(chips)]) >= 0.99


def test_found_faces_are_plain_numbers(detector: RetinaFaceDetector, drawn: list[np.ndarray]) -> None:
    [face] = detector.detect(drawn[2:3])[0]
    assert json.loads(json.dumps([face.box, face.landmarks, face.score]))[2] == face.score
