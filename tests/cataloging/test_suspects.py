"""Planted errors in made features: they are suspected, right labels are not, and no copy helps to judge itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from agescale.cataloging import suspects
from agescale.cataloging.suspects import NUM_FOLDS, THRESHOLD, NotJudged, judge
from agescale.tables import schema

NUM_FACES, NUM_PLANTED, NUM_FEATURES = 1500, 30, 24


def made_features(ages_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a network might say of faces of these ages: not linear in them, and the less sure the older they are."""
    seen_N = ages_N + rng.normal(0, 1 + ages_N / 12)
    at_F = np.linspace(0, 90, NUM_FEATURES)
    features_NF = np.exp(-(((seen_N[:, None] - at_F) / 12) ** 2)) + rng.normal(0, 0.02, (len(ages_N), NUM_FEATURES))
    return features_NF.astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def _a_small_model() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suspects, "NUM_NEAR", 40)
        yield


@pytest.fixture(scope="module")
def planted() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features, labels, folds, and the true ages; the first NUM_PLANTED labels are those of other faces."""
    rng = np.random.default_rng(0)
    ages_N = rng.integers(0, 85, NUM_FACES).astype(np.float64)
    labels_N = ages_N.copy()
    labels_N[:NUM_PLANTED] = (ages_N[:NUM_PLANTED] + rng.choice([-1, 1], NUM_PLANTED) * rng.integers(35, 60)) % 85
    return made_features(ages_N, rng), labels_N, np.arange(NUM_FACES) % NUM_FOLDS, ages_N


def test_planted_errors_are_suspected_and_right_labels_are_not(planted: tuple[np.ndarray, ...]) -> None:
    features_NF, labels_N, fold_N, ages_N = planted
    judged = judge(features_NF, labels_N, labels_N + 1, fold_N)
    is_suspect_N = judged.probability_N > THRESHOLD
    is_wrong_N = labels_N != ages_N
    assert is_suspect_N[is_wrong_N].mean() > 0.8
    assert is_suspect_N[~is_wrong_N].sum() <= 3
    assert judged.share == pytest.approx(NUM_PLANTED / NUM_FACES, abs=0.015)
    is_expected_N = (judged.lower_N <= ages_N) & (ages_N <= judged.upper_N)
    assert is_expected_N[~is_wrong_N].mean() == pytest.approx(suspects.COVERAGE, abs=0.04)
    assert np.abs(judged.expected_N - ages_N)[is_wrong_N].mean() < 8, "it is told what was right"
    young_N = ages_N < 20
    width_N = judged.upper_N - judged.lower_N
    assert width_N[young_N].mean() < 0.7 * width_N[~young_N].mean(), "it is the surer, the better it knows such faces"


def test_a_range_is_judged_by_all_of_its_ages(planted: tuple[np.ndarray, ...]) -> None:
    features_NF, labels_N, fold_N, ages_N = planted
    low_N, high_N = labels_N.copy(), labels_N + 1
    places = np.flatnonzero((ages_N >= 30) & (ages_N < 45) & (labels_N == ages_N))[:40]
    low_N[places], high_N[places] = 25, 50
    low_N[places[:20]], high_N[places[:20]] = 75, np.inf
    probability_N = judge(features_NF, low_N, high_N, fold_N).probability_N
    assert probability_N[places[:20]].min() > THRESHOLD
    assert probability_N[places[20:]].max() < 0.1


def test_too_few_or_too_hard_ones_are_not_judged(planted: tuple[np.ndarray, ...]) -> None:
    features_NF, labels_N, fold_N, _ = planted
    few = slice(0, 250)
    with pytest.raises(NotJudged, match=r"250 photos have an age, .* it takes 300"):
        judge(features_NF[few], labels_N[few], labels_N[few] + 1, fold_N[few])
    with pytest.raises(NotJudged, match="copies, or of one person"):
        judge(features_NF, labels_N, labels_N + 1, np.zeros_like(fold_N))
    noise_NF = np.random.default_rng(1).normal(size=features_NF.shape).astype(np.float32)
    with pytest.raises(NotJudged, match="cannot tell these ages"):
        judge(noise_NF, labels_N, labels_N + 1, fold_N)


def row(name: str, **told: Any) -> dict[str, Any]:
    return {"uri": f"/{name}", "version": "1", "deleted": False, "content_hash": f"{ord(name):08x}", **told}


def test_what_is_linked_is_in_one_fold_and_the_others_stay_where_they_were() -> None:
    looks = {name: hashlib.sha256(name.encode()).hexdigest() for name in "abcdefgh"}
    alone = [row(name, perceptual_hash=look) for name, look in looks.items()]

    def folds(*rows: dict[str, Any]) -> dict[str, int]:
        found = suspects.folds(pa.Table.from_pylist([*rows], schema.CATALOG)).tolist()
        return {each["uri"]: fold for each, fold in zip(rows, found, strict=True)}

    before = folds(*alone)
    assert len(set(before.values())) > 1
    same_bytes = {**row("x"), "content_hash": alone[0]["content_hash"]}
    of_one = [{**alone[1], "subject": "Ada"}, {**row("y", subject="Ada")}]
    near = row("z", perceptual_hash=f"{int(looks['c'], 16) ^ 2**200:064x}")
    after = folds(*alone[2:], alone[0], *of_one, same_bytes, near)
    assert after["/x"] == after["/a"] == before["/a"]
    assert after["/y"] == after["/b"] == before["/b"]
    assert after["/z"] == after["/c"] == before["/c"]
    assert {name: after[name] for name in before} == before


def test_photos_of_several_labelled_faces_are_not_judged() -> None:
    box = {"x": 1.0, "y": 1.0, "width": 9.0, "height": 9.0, "age_low": 3.0, "age_high": 4.0}
    rows = [row("a", age_low=3.0), row("b", boxes=[box]), row("c", group="old"), row("d", age_low=3.0, read_error="x")]
    judged = suspects.can_be_judged(pa.Table.from_pylist(rows, schema.CATALOG))
    assert judged.to_pylist() == [True, False, False, False]
