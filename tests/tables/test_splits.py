"""Splits that depend on nothing but the key."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from agescale.config import CatalogConfig
from agescale.tables.splits import assign

KEYS = [f"subject-{index}" for index in range(4000)]


def test_shares_come_out_as_asked() -> None:
    counts = Counter(assign(key, (0.7, 0.1, 0.2)) for key in KEYS)
    assert counts["train"] == pytest.approx(2800, abs=120)
    assert counts["val"] == pytest.approx(400, abs=80)
    assert counts["test"] == pytest.approx(800, abs=100)


def test_a_key_has_one_split_for_ever() -> None:
    assert [assign(key, (0.8, 0.1, 0.1)) for key in ("anna", "bert", "f" * 64)] == ["train", "train", "val"]


def test_a_larger_share_of_training_takes_from_the_others_only() -> None:
    for key in KEYS:
        if assign(key, (0.5, 0.25, 0.25)) == "train":
            assert assign(key, (0.8, 0.1, 0.1)) == "train"


def test_a_share_of_nothing_gets_nothing() -> None:
    assert {assign(key, (0.0, 0.0, 1.0)) for key in KEYS} == {"test"}
    assert {assign(key, (0.5, 0.5, 0.0)) for key in KEYS} == {"train", "val"}


def test_shares_are_three_numbers_that_sum_to_one() -> None:
    CatalogConfig("x", "y", split=(0.333333, 0.333333, 0.333334))
    for shares in ((0.8, 0.2), (0.8, 0.1, 0.2), ()):
        with pytest.raises(ValueError, match=r"^--split .*: three shares that sum to 1 are needed, such as 0\.8 0\.1"):
            CatalogConfig("x", "y", split=shares)
    for shares in ((1.5, -0.5, 0), (math.nan, 0.5, 0.5)):
        with pytest.raises(ValueError, match=r"^--split .*: (a share from 0 to 1|a finite number)"):
            CatalogConfig("x", "y", split=shares)
