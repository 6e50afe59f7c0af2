"""Which split an image belongs to: a stable hash of its subject or its content, so that neither ever straddles two."""

from __future__ import annotations

import hashlib

from agescale.tables.schema import SPLITS

Fractions = tuple[float, float, float]


def parse_fractions(text: str) -> Fractions:
    """Shares of train, val and test from ``"0.8,0.1,0.1"``. Raises ValueError unless they are three and sum to 1."""
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    if len(shares) != len(SPLITS) or any(not 0 <= share <= 1 for share in shares) or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"--split {text}: three shares that sum to 1 are needed, such as 0.8,0.1,0.1")
    return shares[0], shares[1], shares[2]


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
