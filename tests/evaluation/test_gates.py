"""The threshold of an age gate keeps what it promises, by simulation and by scipy's own exact tests."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, binomtest, norm

from agescale.evaluation import gates
from agescale.evaluation.gates import Faces, Policy, gate_of, num_needed, run_sequence

POLICY = Policy("age", 18, (14, 17), 0.1, 0.95)
BY_PROBABILITY = Policy("probability", 18, (14, 17), 0.1, 0.95)
PARTS = {"gender": ["female", "male"], "ethnicity": []}


def faces_of(true_N: np.ndarray, score_N: np.ndarray, cluster_N: np.ndarray | None = None) -> Faces:
    unknown_N = np.full(len(true_N), -1)
    return Faces(true_N, score_N, np.arange(len(true_N)) if cluster_N is None else cluster_N, unknown_N, unknown_N)


def minors_of(score_N: np.ndarray) -> Faces:
    return faces_of(np.full(len(score_N), 16.0), np.asarray(score_N, float))


def made_up(num_faces: int = 4000, seed: int = 0) -> Faces:
    rng = np.random.default_rng(seed)
    true_N = rng.integers(10, 80, num_faces).astype(float)
    gender_N = rng.integers(0, 2, num_faces)
    score_N = true_N + rng.normal(0, 4, num_faces) + 2 * gender_N
    return Faces(true_N, score_N, np.arange(num_faces), gender_N, np.full(num_faces, -1))


@pytest.mark.parametrize(("num_minors", "seed"), [(60, 0), (400, 1)])
def test_the_true_rate_exceeds_the_target_no_more_often_than_may_be(num_minors: int, seed: int) -> None:
    rng, num_draws, spread = np.random.default_rng(seed), 800, 5.0
    mean = 25 - spread * norm.isf(0.1001)  # so that 25 is just not good enough, which is the hardest case
    num_wrong = num_naive = 0
    for _ in range(num_draws):
        candidates = run_sequence(minors_of(rng.normal(mean, spread, num_minors)), POLICY)
        chosen = [each.threshold for each in candidates if each.is_certified][-1]
        num_wrong += norm.sf(chosen, mean, spread) > POLICY.max_false_positive_rate
        naive = [each.threshold for each in candidates if each.false_positive_rate <= POLICY.max_false_positive_rate]
        num_naive += norm.sf(naive[-1], mean, spread) > POLICY.max_false_positive_rate
    assert 0 < num_wrong <= binom.ppf(0.999, num_draws, 0.05)
    assert num_naive > 0.3 * num_draws, "the threshold whose own rate is low enough promises nothing"


@pytest.mark.parametrize(("num_hits", "num_rows"), [(0, 29), (3, 60), (12, 590), (7, 7), (590, 10_000)])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_the_exact_test_and_its_bound_are_scipys_own(num_hits: int, num_rows: int, share: float) -> None:
    own = binomtest(num_hits, num_rows, share, alternative="less")
    assert gates.p_value(num_hits, num_rows, share) == pytest.approx(own.pvalue)
    bound = gates.upper_bound(num_hits, num_rows, 0.9)
    assert bound == pytest.approx(own.proportion_ci(0.9, method="exact").high)
    assert (bound <= share) == (gates.p_value(num_hits, num_rows, share) <= 0.1)


@pytest.mark.parametrize(("max_rate", "confidence"), [(0.1, 0.95), (0.05, 0.95), (0.01, 0.99), (0.5, 0.75), (0.9, 0.5)])
def test_as_many_as_are_needed_are_enough_and_one_less_is_not(max_rate: float, confidence: float) -> None:
    needed = num_needed(max_rate, confidence)
    assert (1 - max_rate) ** needed <= 1 - confidence + 1e-12
    assert needed == 1 or (1 - max_rate) ** (needed - 1) > 1 - confidence
    policy = Policy("age", 18, (14, 17), max_rate, confidence)
    assert gate_of(minors_of(np.zeros(needed)), policy, PARTS, "here").chosen.threshold == 18
    if needed > 1:
        with pytest.raises(ValueError, match=rf"takes {needed} persons of 14 to 17 years.* here has {needed - 1} "):
            gate_of(minors_of(np.zeros(needed - 1)), policy, PARTS, "here")


@pytest.mark.parametrize("policy", [POLICY, BY_PROBABILITY])
def test_the_sequence_begins_with_the_strictest_and_ends_with_the_first_that_fails(policy: Policy) -> None:
    rng = np.random.default_rng(3)
    scores_N = rng.normal(18, 5, 200) if policy.by == "age" else rng.uniform(0, 1, 200)
    gate = gate_of(minors_of(scores_N), policy, PARTS, "here")
    counts = [each.num_false_positives for each in gate.candidates]
    assert counts == sorted(counts), "with each step more minors pass"
    assert counts[-1] > counts[0]
    *certified, last = gate.sequence
    assert all(each.is_certified and each.upper_bound <= 0.1 for each in certified)
    assert not last.is_certified
    assert last.upper_bound > 0.1
    assert gate.chosen == certified[-1]
    assert len(gate.sequence) < len(gate.candidates)
    assert gate.candidates[0].threshold == policy.candidates[0] == (60 if policy.by == "age" else 0.0001)


def test_the_threshold_is_the_last_one_before_too_many_pass() -> None:
    gate = gate_of(minors_of(np.repeat([30.0, 0.0], [10, 90])), POLICY, PARTS, "here")
    assert gate.chosen.threshold == 30.5
    assert [each.threshold for each in gate.candidates if each.is_certified] == list(np.arange(60, 30, -0.5))


def test_minors_who_all_look_old_certify_nothing_and_the_line_says_the_rate() -> None:
    with pytest.raises(
        ValueError, match=r"strictest, 40 of 100 minors in here still pass \(40%, at most 48\.\d%\)"
    ) as no:
        gate_of(minors_of(np.repeat([70.0, 15.0], [40, 60])), POLICY, PARTS, "here")
    assert "\n" not in str(no.value)


def test_of_each_person_the_first_photo_counts() -> None:
    cluster_N = np.repeat(np.arange(50), 3)
    score_N = np.tile([15.0, 59.0, 59.0], 50)
    gate = gate_of(faces_of(np.full(150, 15.0), score_N, cluster_N), POLICY, PARTS, "here")
    assert (gate.num_minors, gate.num_photos) == (50, 150)
    assert gate.chosen.threshold == 18
    with pytest.raises(ValueError, match=r"takes 29 persons of 14 to 17 years, .* has 28 with an exact age"):
        gate_of(faces_of(np.full(150, 15.0), score_N, cluster_N % 28), POLICY, PARTS, "here")


def test_only_the_band_counts_and_its_last_year_is_whole() -> None:
    true_N = np.repeat([13.9, 14.0, 17.9, 18.0], 40)
    gate = gate_of(faces_of(true_N, np.repeat([50.0, 10.0, 17.0, 17.0], 40)), POLICY, PARTS, "here")
    assert gate.num_minors == 80
    assert [(each.name, each.num_people) for each in gate.minors_by_age] == [
        ("14", 40),
        ("15", 0),
        ("16", 0),
        ("17", 40),
    ]
    assert (gate.adults.num_people, gate.adults.num_wrong) == (40, 40)


def test_the_cost_is_told_by_age_gender_and_of_few_people_as_such() -> None:
    faces = made_up()
    gate = gate_of(faces, POLICY, PARTS, "here")
    is_adult_N = faces.true_age_N >= 18
    is_challenged_N = is_adult_N & (faces.score_N < gate.chosen.threshold)
    assert (gate.adults.num_people, gate.adults.num_wrong) == (is_adult_N.sum(), is_challenged_N.sum())
    assert sum(band.num_wrong for band in gate.adults_by_age) == is_challenged_N.sum()
    assert [band.name for band in gate.adults_by_age] == [*map(str, range(18, 60)), "60+"]
    female, male = gate.parts["gender"]
    assert male.minors.wrong > female.minors.wrong
    assert male.adults.wrong < female.adults.wrong
    assert sum(part.minors.num_people for part in (female, male)) == gate.num_minors
    assert gate.parts["ethnicity"] == []
    few = gate_of(made_up(900), POLICY, PARTS, "here").adults_by_age
    assert any("-" in band.name for band in few)
    assert all(band.is_few == (band.num_people < 20) for band in few)
    assert not any(band.is_few for band in few[:-2])


def test_who_clearly_passes_too_often_is_named_though_all_together_do_not() -> None:
    true_N = np.repeat([14.0, 17.0], [400, 100])
    score_N = np.concatenate([np.full(400, 12.0), np.repeat([59.0, 12.0], [30, 70])])
    gate = gate_of(faces_of(true_N, score_N), POLICY, PARTS, "here")
    assert [kind.name for kind in gate.above(0.1)] == ["17 years"]
