"""Of keys that come some at a time those that came again are found, in memory and on disk alike."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from agescale.tables import keys

NUM_KEYS = 5000


@pytest.mark.parametrize("held", [10, 700, 10**6], ids="{} held".format)
def test_what_came_again_is_found_and_nothing_else(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "HELD", held)
    hashes = keys.hashes_of(pa.array([f"s3://b/{index}.jpg\n{index % 7}" for index in range(NUM_KEYS)]))
    assert hashes.dtype == np.uint64
    assert len(np.unique(hashes)) == NUM_KEYS
    with keys.HashCount() as count:
        for start in range(0, NUM_KEYS, 90):
            count.add(hashes[start : start + 90])
        assert len(count.twice()) == 0
        count.add(hashes[[3, 4711, 4711]])
        assert count.twice().tolist() == sorted(hashes[[3, 4711]].tolist())
        monkeypatch.setattr(keys, "MAX_TWICE", 1)
        assert len(count.twice()) == 1


def test_hashes_are_those_of_every_process() -> None:
    assert keys.hashes_of(pa.array(["a\n1", "b\n1"])).tolist() == [1023559434131490600, 14684745328002989136]
