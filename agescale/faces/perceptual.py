"""How a picture looks, in 256 bits: pixels in, a hash out that survives what people do to a file.

The picture is seen in grey, squeezed into a square of 64 pixels; of its cosine transform the 256 lowest frequencies but
the mean are kept, and of each of them the sign. So another size, quality, brightness or contrast changes a few bits,
and another picture about half of them (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions",
2010). It knows nothing of mirrored and of cropped pictures. ``distances`` counts the bits that differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

NUM_BITS = 256
SIDE = 64
FLAT = 1.0
"""Grey levels; a picture whose pixels' standard deviation is less looks like any other such one."""

_NUM_FREQUENCIES = 23  # along a side; those of a sum of up to 21, and some of 22, are the lowest 257
_ORDER = np.array(
    sorted((u + v, u, v) for u in range(_NUM_FREQUENCIES) for v in range(_NUM_FREQUENCIES))[1 : NUM_BITS + 1]
)
_BASIS = np.cos(np.pi / SIDE * np.outer(np.arange(_NUM_FREQUENCIES), np.arange(SIDE) + 0.5)).astype(np.float32)


def hash_of(pixels: npt.NDArray[np.uint8]) -> str | None:
    """64 hex digits for RGB pixels (H, W, 3); None where they are flat."""
    image = Image.fromarray(pixels)
    if (step := min(pixels.shape[:2]) // (2 * SIDE)) > 1:
        image = image.reduce(step)
    grey = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS), np.float32)
    if grey.std() < FLAT:
        return None
    spectrum = _BASIS @ (grey - grey.mean()) @ _BASIS.T
    return np.packbits(spectrum[_ORDER[:, 1], _ORDER[:, 2]] > 0).tobytes().hex()


def to_words(hashes: Sequence[str]) -> npt.NDArray[np.uint64]:
    """Hashes (N,) as words (N, 4) of 64 bits."""
    return np.frombuffer(bytes.fromhex("".join(hashes)), np.uint64).reshape(-1, NUM_BITS // 64)


def distances(words_N4: npt.NDArray[np.uint64], others_N4: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Bits (N,) in which pictures differ from others, 0 to 256.

    >>> distances(to_words(["0" * 64]), to_words(["f" + "0" * 62 + "1"]))
    array([5])
    """
    return np.bitwise_count(words_N4 ^ others_N4).sum(axis=1, dtype=np.int64)
