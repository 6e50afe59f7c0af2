"""How fast pictures that look the same are found, how many of them, and how many that do not; the figures of
docs/results.md#what-looks-the-same.

python benchmarks/lookalikes.py
python benchmarks/lookalikes.py --catalog runs/utkface
python benchmarks/lookalikes.py --num-drawn 300

The first finds pairs among random hashes, of which none is near another, beside some that differ from one of them in a
known number of bits. The second compares all pairs of a catalog's hashes, for what the index misses, and changes
some of its images; the third changes drawn faces. Seconds are those
of the process, on one CPU, whatever else the machine does.
"""

from __future__ import annotations

import io
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tyro
from PIL import Image, ImageEnhance, ImageOps

from agescale.cataloging.lookalikes import MAX_DISTANCE, find_pairs
from agescale.faces import images
from agescale.faces.perceptual import NUM_BITS, distances, to_words
from agescale.store import members
from agescale.synthetic import portraits
from agescale.tables.catalogs import Catalog


@dataclass(frozen=True)
class Config:
    """Measure the index of perceptual hashes."""

    catalog: str = ""
    """Catalog whose images are compared, all with all. Default: random hashes."""
    num_faces: int = 300
    """Images of the catalog that are changed, an even choice."""
    num_drawn: int = 0
    """Faces to draw and to change."""
    num_hashes: int = 1_000_000
    """Random hashes."""
    num_copies: int = 1_000
    """Of these so many have a copy, for each number of bits in which it differs."""
    seed: int = 0
    """Seed of the hashes."""


def main(config: Config) -> None:
    if config.catalog:
        compare_all(config.catalog)
        uris = Catalog.open(config.catalog).read(["uri", "perceptual_hash"]).drop_null()["uri"].to_pylist()
        chosen = uris[:: max(1, len(uris) // config.num_faces)][: config.num_faces]
        change([images.upright_thumbnail(members.read_bytes(uri), SHOWN_SIDE) for uri in chosen])
        return
    if config.num_drawn:
        rng = np.random.default_rng(config.seed)
        change(
            [portraits.draw_face(rng, float(rng.integers(1, 90)), "female", "White") for _ in range(config.num_drawn)]
        )
        return
    rng = np.random.default_rng(config.seed)
    bits_NB = rng.integers(0, 2, (config.num_hashes, NUM_BITS), np.uint8)
    numbers, hashes = (8, 15, MAX_DISTANCE), to_hashes(bits_NB)
    for number in numbers:
        copies_CB = bits_NB[: config.num_copies].copy()
        for copy_B in copies_CB:
            copy_B[rng.choice(NUM_BITS, number, replace=False)] ^= 1
        hashes += to_hashes(copies_CB)
    del bits_NB
    before_mb, began = peak_mb(), time.process_time()
    pairs = find_pairs(hashes)
    seconds = time.process_time() - began
    is_random = pairs.second < config.num_hashes
    print(f"{len(hashes):,} hashes: {seconds:.1f} s, peak of {peak_mb():,.0f} MB, before {before_mb:,.0f} MB")
    print(f"pairs of random hashes: {int(is_random.sum())}")
    for place, number in enumerate(numbers):
        expected = pairs.first + config.num_hashes + place * config.num_copies == pairs.second
        print(f"copies found that differ in {number} bits: {int(expected.sum()):,} of {config.num_copies:,}")


def to_hashes(bits_NB: np.ndarray) -> list[str]:
    return [row.tobytes().hex() for row in np.packbits(bits_NB, axis=1)]


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


SHOWN_SIDE = 200
CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "saved at quality 30": lambda face: face,
    "half the size": lambda face: face.resize((face.width // 2, face.height // 2)),
    "1.5 times the size": lambda face: face.resize((face.width * 3 // 2, face.height * 3 // 2)),
    "grey": lambda face: face.convert("L"),
    "0.7 of the brightness": lambda face: ImageEnhance.Brightness(face).enhance(0.7),
    "1.3 times the brightness": lambda face: ImageEnhance.Brightness(face).enhance(1.3),
    "1.3 times the contrast": lambda face: ImageEnhance.Contrast(face).enhance(1.3),
    "2 % less at each side": lambda face: face.crop((w := face.width // 50, w, face.width - w, face.height - w)),
    "mirrored": ImageOps.mirror,
}


def change(faces: list[Image.Image]) -> None:
    """Prints how many of changed copies are found, and the least distance between two of ``faces``."""
    words_N4 = to_words([hash_of(face) for face in faces])
    all_with_all = [distances(words_N4, word_4[None]) for word_4 in words_N4]
    upper = np.stack(all_with_all)[np.triu_indices(len(faces), 1)]
    print(f"{len(faces)} faces: two differ in {upper.min()} bits at least, {np.median(upper):.0f} in the median")
    for name, changed in CHANGES.items():
        quality = 30 if "quality" in name else 90
        copies_N4 = to_words([hash_of(changed(face), quality) for face in faces])
        distance = distances(words_N4, copies_N4)
        share = 100 * (distance <= MAX_DISTANCE).mean()
        print(f"{name}: {share:.1f} % found, {np.median(distance):.0f} bits in the median")


def hash_of(face: Image.Image, quality: int = 95) -> str:
    buffer = io.BytesIO()
    face.save(buffer, "JPEG", quality=quality)
    return images.inspect(buffer.getvalue()).perceptual_hash or "0" * (NUM_BITS // 4)


def compare_all(uri: str) -> None:
    column = Catalog.open(uri).read(["perceptual_hash"])["perceptual_hash"].drop_null()
    hashes = column.unique().to_pylist()
    began = time.process_time()
    num_found = len(find_pairs(hashes).first)
    print(f"{len(column):,} images, {len(hashes):,} hashes: {num_found:,} pairs, {time.process_time() - began:.2f} s")
    signs_NB = np.unpackbits(to_words(hashes).view(np.uint8), axis=1).astype(np.float32) * 2 - 1
    counts = np.zeros(NUM_BITS + 1, np.int64)
    for start in range(0, len(hashes), 1000):
        distance = (NUM_BITS - signs_NB[start : start + 1000] @ signs_NB.T) / 2
        later = np.triu(np.ones(distance.shape, bool), k=start + 1)
        counts += np.bincount(distance[later].astype(np.int64), minlength=NUM_BITS + 1)
    print(f"all pairs that differ in at most {MAX_DISTANCE} bits: {counts[: MAX_DISTANCE + 1].sum():,}")
    for limit in range(8, 65, 8):
        print(f"at most {limit}: {counts[: limit + 1].sum():,}")


if __name__ == "__main__":
    main(tyro.cli(Config))
