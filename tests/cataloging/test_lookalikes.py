"""Which pictures look the same, whatever was done to their files."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from agescale.cataloging import lookalikes
from agescale.cataloging.lookalikes import MAX_DISTANCE, find_pairs
from agescale.faces import images, perceptual
from agescale.synthetic import portraits


def drawn(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return portraits.draw_face(rng, float(rng.integers(1, 90)), "female", "White", 128)


def encoded(image: Image.Image, quality: int = 95) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def hash_of(data: bytes) -> str:
    found = images.inspect(data).perceptual_hash
    assert found is not None
    return found


CHANGES: dict[str, Callable[[Image.Image], bytes]] = {
    "re-encoded": lambda face: encoded(face, 50),
    "half as large": lambda face: encoded(face.resize((64, 64))),
    "twice as large": lambda face: encoded(face.resize((256, 256))),
    "darker": lambda face: encoded(ImageEnhance.Brightness(face).enhance(0.7)),
    "of less contrast": lambda face: encoded(ImageEnhance.Contrast(face).enhance(0.7)),
    "grey": lambda face: encoded(face.convert("L")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_among_other_faces(change: str) -> None:
    faces = [drawn(seed) for seed in range(12)]
    hashes = [hash_of(encoded(face)) for face in faces] + [hash_of(CHANGES[change](face)) for face in faces]
    pairs = find_pairs(hashes)
    assert list(zip(pairs.first, pairs.second, strict=True)) == [(number, number + 12) for number in range(12)]


def test_a_brightened_copy_is_found_unless_much_of_it_turns_white() -> None:
    faces = [drawn(seed) for seed in range(12)]
    brightened = [ImageEnhance.Brightness(face).enhance(1.2) for face in faces]
    pairs = find_pairs([hash_of(encoded(face)) for face in [*faces, *brightened]])
    assert (pairs.second - pairs.first == 12).all()
    assert len(pairs.first) >= 6


def test_a_picture_that_stands_upright_only_by_its_exif_data_looks_as_it_is_seen() -> None:
    face = drawn(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    face.transpose(Image.Transpose.ROTATE_90).save(buffer, "JPEG", quality=95, exif=exif)
    first, second = perceptual.to_words([hash_of(encoded(face)), hash_of(buffer.getvalue())])
    assert perceptual.distances(first[None], second[None])[0] <= MAX_DISTANCE


def test_flat_pictures_look_like_nothing() -> None:
    assert images.inspect(encoded(Image.new("RGB", (64, 48), (90, 120, 30)))).perceptual_hash is None


def flipped(words_4: np.ndarray, bits: np.ndarray) -> str:
    one_256 = np.unpackbits(words_4.view(np.uint8))
    one_256[bits] ^= 1
    return np.packbits(one_256).tobytes().hex()


def test_all_pairs_are_found_that_differ_in_fifteen_bits_and_nearly_all_that_differ_in_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lookalikes, "MAX_COMPARED", 50)  # more than one chunk
    rng = np.random.default_rng(0)
    words_N4 = rng.integers(0, 2**64, (400, 4), dtype=np.uint64)
    hashes = [each.tobytes().hex() for each in words_N4]
    for num_bits, least in ((1, 400), (15, 400), (MAX_DISTANCE, 380), (MAX_DISTANCE + 1, 0)):
        copies = [flipped(each, rng.choice(256, num_bits, replace=False)) for each in words_N4]
        pairs = find_pairs([*hashes, *copies])
        assert len(pairs.first) >= least
        assert set(pairs.distance.tolist()) == ({num_bits} if least else set())
        assert (pairs.second - pairs.first == 400).all()


def test_of_no_pictures_there_are_no_pairs() -> None:
    assert len(find_pairs([]).first) == 0


def test_many_pictures_of_one_thing_are_linked_without_all_of_their_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookalikes, "MAX_NEIGHBOURS", 5)
    rng = np.random.default_rng(0)
    bits = np.zeros((3000, perceptual.NUM_BITS), np.uint8)
    for row in bits[1:]:
        row[rng.choice(perceptual.NUM_BITS, 4, replace=False)] = 1
    hashes = sorted({np.packbits(row).tobytes().hex() for row in bits})
    pairs = find_pairs(hashes)
    assert len(hashes) > 2900
    assert len(pairs.first) <= len(hashes) * 5 * lookalikes.NUM_BANDS < len(hashes) ** 2 / 10
    assert set(pairs.first) | set(pairs.second) == set(range(len(hashes)))
