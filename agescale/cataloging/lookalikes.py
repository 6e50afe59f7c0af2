"""Which pictures look the same: perceptual hashes in, pairs out, without a look at all pairs.

The 256 bits of a hash are dealt into 16 bands of 16. Two hashes that differ in at most 15 bits agree in at least one
band, so only pictures that share a band are compared: for random hashes about a pair in 4,000. Of those that differ in
MAX_DISTANCE bits, spread at random, about one in forty shares none, and is missed. Reads no pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from agescale.faces import perceptual

MAX_DISTANCE = 24
"""Bits in which the hashes of two pictures that look the same may differ."""
NUM_BANDS = 16
MAX_NEIGHBOURS = 100
"""With which a hash is compared in a band, at most: hundreds of thousands of pictures of one thing would otherwise take
hours. They are linked all the same, from neighbour to neighbour."""
MAX_COMPARED = 1 << 22
"""Pairs that are compared at once: some 300 MB."""


class Pairs(NamedTuple):
    """Places of hashes that are near each other, ``first`` < ``second``, and the bits in which they differ; (P,)."""

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    distance: npt.NDArray[np.int64]


def find_pairs(hashes: Sequence[str], max_distance: int = MAX_DISTANCE) -> Pairs:
    """All pairs of ``hashes``, none of which stands there twice, that share a band, where they are neighbours, and
    differ in at most ``max_distance`` bits, each once.

    >>> zero = "0" * 64
    >>> find_pairs([zero, "f" * 64, "3" + zero[1:]])
    Pairs(first=array([0]), second=array([2]), distance=array([2]))
    """
    found_3P = np.zeros((3, 0), np.int64)
    words_N4 = perceptual.to_words(hashes)
    bits_NB = np.unpackbits(words_N4.view(np.uint8), axis=1)
    for band in range(NUM_BANDS):
        # neighbouring frequencies tell alike: a band takes its bits from all over the spectrum
        key_N = np.packbits(bits_NB[:, band::NUM_BANDS], axis=1).view(np.uint16)[:, 0]
        of_band = [found_3P]
        for left, right in _candidates(key_N):
            distance = perceptual.distances(words_N4[left], words_N4[right])
            is_near = distance <= max_distance
            ends = np.sort(np.stack([left[is_near], right[is_near]]), axis=0)
            of_band.append(np.concatenate([ends, distance[None, is_near]]))
        found_3P = np.unique(np.concatenate(of_band, axis=1), axis=1)  # a pair may share several bands
    return Pairs(*found_3P)


def _candidates(key_N: npt.NDArray[np.uint16]) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Places of hashes with one key, MAX_COMPARED pairs at a time at most."""
    order_N = np.argsort(key_N, kind="stable")
    key_N = key_N[order_N]
    start, step = np.arange(len(key_N)), 0  # each is compared with the one that lies `step` behind it in its bucket
    while step < MAX_NEIGHBOURS and len(start := start[start + (step := step + 1) < len(key_N)]):
        start = start[key_N[start] == key_N[start + step]]
        for chunk in np.split(start, range(MAX_COMPARED, len(start), MAX_COMPARED)):
            yield order_N[chunk], order_N[chunk + step]
