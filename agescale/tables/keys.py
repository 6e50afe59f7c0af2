"""Whether a key stands twice in a table of any size: keys in, some at a time, and out those that came again.

Keys are held as hashes of 8 bytes, beyond HELD of them on disk, so memory does not grow with the table. Two keys of the
same hash are taken for one: whoever asks looks at the keys themselves. Knows no tables.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
import pandas as pd
import pyarrow as pa

HELD = 4_000_000
"""Hashes held in memory: 32 MB."""
NUM_BUCKETS = 256
"""Files of those that are not; each is looked through by itself."""
MAX_TWICE = 10_000
"""Hashes that came again that are told."""


def hashes_of(keys: pa.Array) -> np.ndarray:
    """A hash (N,), uint64, of each of N texts; the same in every process."""
    return np.asarray(pd.util.hash_array(keys.to_numpy(zero_copy_only=False), categorize=False))


class HashCount:
    """Use as a context: ``add`` what comes, and ask which came ``twice``."""

    def __init__(self) -> None:
        self._held: list[np.ndarray] = []
        self._num_held = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> HashCount:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder:
            self._folder.cleanup()

    def add(self, hashes: np.ndarray) -> None:
        self._held.append(hashes)
        self._num_held += len(hashes)
        if self._num_held >= HELD:
            self._store()

    def twice(self) -> np.ndarray:
        """The hashes that came more than once, sorted, at most MAX_TWICE of them."""
        found: list[np.ndarray] = [np.zeros(0, np.uint64)]
        for bucket in self._buckets():
            values, counts = np.unique(bucket, return_counts=True)
            found.append(values[counts > 1])
            if sum(map(len, found)) >= MAX_TWICE:
                break
        return np.concatenate(found)[:MAX_TWICE]

    def _store(self) -> None:
        """Appends what is held to the files, by the first bits of the hashes."""
        self._folder = self._folder or tempfile.TemporaryDirectory(prefix="agescale-")
        hashes = np.sort(np.concatenate(self._held))
        ends = np.searchsorted(hashes, np.arange(1, NUM_BUCKETS, dtype=np.uint64) << np.uint64(56))
        for number, bucket in enumerate(np.split(hashes, ends)):
            with open(Path(self._folder.name, f"{number:03d}"), "ab") as file:
                file.write(bucket.tobytes())
        self._held, self._num_held = [], 0

    def _buckets(self) -> Iterator[np.ndarray]:
        if self._folder is None:
            yield np.concatenate([np.zeros(0, np.uint64), *self._held])
            return
        if self._held:
            self._store()
        for file in sorted(Path(self._folder.name).iterdir()):
            yield np.fromfile(file, np.uint64)
