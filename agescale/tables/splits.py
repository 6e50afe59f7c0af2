"""Which split an image belongs to: a stable hash of its subject or its content, so that neither ever straddles two."""

from __future__ import annotations

import hashlib

from agescale.tables.schema import SPLITS

Fractions = tuple[float, float, float]


def assign(key: str, fractions: Fractions) -> str:
    """The split of ``key``: always the same for the same key and fractions, whatever else is in the catalog.

    >>> assign("anna", (0.8, 0.1, 0.1)), assign("anna", (0.0, 0.0, 1.0))
    ('train', 'test')
    """
    position = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    threshold = 0.0
    for split, share in zip(SPLITS, fractions, strict=True):
        threshold += share
        if position < threshold:
            return split
    return next(split for split, share in zip(reversed(SPLITS), reversed(fractions), strict=True) if share > 0)
