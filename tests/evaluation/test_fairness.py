"""Gaps between people: what is over a limit, what is kept, and what nobody can tell."""

from __future__ import annotations

import doctest
from dataclasses import replace

import numpy as np
import pytest

from agescale.config import EvaluateConfig
from agescale.evaluation import fairness
from agescale.evaluation.fairness import Limit, Verdict
from agescale.evaluation.metrics import Outcomes


def outcomes_of(error_N: np.ndarray, true_age: float = 30.0, cluster_N: np.ndarray | None = None) -> Outcomes:
    true_N, none_N = np.full(len(error_N), true_age), np.full(len(error_N), -1)
    own_N = np.arange(len(error_N)) if cluster_N is None else cluster_N
    return Outcomes(true_N, true_N + error_N, none_N, none_N, own_N, 0)


def judged(outcomes: Outcomes, part_N: np.ndarray, limit: Limit, names: str = "fmx") -> Verdict:
    return fairness.judged(outcomes, {"gender": (part_N, list(names))}, [limit])[0]


def drawn(rng: np.random.Generator, mae: float, num: int) -> np.ndarray:
    """Errors as those of ages are: many small ones, some large."""
    return rng.gamma(1.5, mae / 1.5, num)


MAE_1 = Limit("mae", 1.0, ("gender",), "--max-gap mae=1.0:gender")


def test_the_worked_examples_hold() -> None:
    found = doctest.testmod(fairness)
    assert (found.failed, found.attempted > 4) == (0, True)


def test_a_gap_is_over_its_limit_kept_or_neither_by_its_interval() -> None:
    rng = np.random.default_rng(0)
    part_N = np.repeat([0, 1], 1000)
    over = judged(outcomes_of(np.concatenate([drawn(rng, 8.5, 1000), drawn(rng, 5.5, 1000)])), part_N, MAE_1)
    assert [gap.is_over for gap in over.gaps] == [True]
    assert (over.gaps[0].name, over.gaps[0].other, over.is_within) == ("f", "m", False)
    assert over.line().startswith("--max-gap mae=1.0:gender: over it is mae 8.")
    assert "years of f (n 1,000) against 5." in over.line()
    kept = judged(outcomes_of(np.concatenate([drawn(rng, 5.0, 1000), drawn(rng, 5.0, 1000)])), part_N, MAE_1)
    assert (kept.over, kept.is_within) == ([], True)
    assert ": kept; the largest gap is mae" in kept.line()
    few = judged(outcomes_of(np.concatenate([drawn(rng, 6.5, 25), drawn(rng, 5.0, 25)])), np.repeat([0, 1], 25), MAE_1)
    assert (few.over, few.is_within) == ([], False)
    assert "not shown to be over, nor to be kept" in few.line()


@pytest.mark.parametrize(("num_parts", "maes"), [(2, (6.0, 5.0)), (2, (5.0, 6.0)), (6, (6.0, 5.0))])
def test_a_gap_that_is_just_as_large_as_may_be_raises_an_alarm_in_one_of_twenty_at_most(
    num_parts: int, maes: tuple[float, float]
) -> None:
    """Of all parts but one there are many faces."""
    rng, many = np.random.default_rng(1), 300 * (num_parts - 1)
    part_N = np.repeat(np.arange(num_parts), [300] * (num_parts - 1) + [20])
    alarms = 0
    for _ in range(400):
        error_N = np.concatenate([drawn(rng, maes[0], many), drawn(rng, maes[1], 20)])
        alarms += bool(judged(outcomes_of(error_N), part_N, MAE_1, "abcdef").over)
    assert alarms <= 33  # 20 are meant, and three standard errors more


def test_of_shares_none_of_twenty_is_not_known_for_sure() -> None:
    """Minors of 15: none of 20 passes, or 4 of 20 do."""
    said_N = np.array([2.0] * 20 + [4.0] * 4 + [0.0] * 16)
    limit = Limit("minors", 0.0, ("gender",), "--max-gate-gap minors=0:gender")
    verdict = judged(outcomes_of(said_N, true_age=15.0), np.repeat([0, 1], 20), limit)
    assert (verdict.gaps[0].name, verdict.gaps[0].value, verdict.gaps[0].other_value) == ("m", 0.2, 0.0)
    assert not verdict.over
    clear = judged(outcomes_of(np.tile(said_N, 5), true_age=15.0), np.tile(np.repeat([0, 1], 20), 5), limit)
    assert clear.over
    assert "minors 20.0% of m (n 100) against 0.0% of f (n 100)" in clear.line()
    assert judged(outcomes_of(said_N), np.repeat([0, 1], 20), limit).gaps == [], "at 30 nobody is a minor"


def test_photos_of_one_person_stand_together() -> None:
    rng = np.random.default_rng(0)
    part_N, person_N = np.repeat([0, 1], 1000), np.arange(2000) // 40
    error_N = np.repeat(np.concatenate([drawn(rng, 6.0, 25), drawn(rng, 4.5, 25)]), 40)
    strangers, persons = (
        judged(outcomes_of(error_N, cluster_N=each_N), part_N, replace(MAE_1, max_gap=0.1))
        for each_N in (np.arange(2000), person_N)
    )
    assert strangers.over
    assert not persons.over
    wide, narrow = (each.gaps[0].gap_high - each.gaps[0].gap_low for each in (persons, strangers))
    assert 6 < wide / narrow < 8, "forty photos of each are hardly more than one"
    nineteen = judged(outcomes_of(error_N, cluster_N=np.arange(2000) % 19), part_N, MAE_1)
    assert nineteen.gaps == [], "too few persons to compare"


def test_the_largest_gaps_come_first_and_all_limits_count_in_the_correction() -> None:
    rng = np.random.default_rng(0)
    error_N, part_N = np.concatenate([drawn(rng, mae, 100) for mae in (5.0, 6.0, 8.0)]), np.repeat([0, 1, 2], 100)
    alone = judged(outcomes_of(error_N), part_N, MAE_1)
    assert [(gap.name, gap.other) for gap in alone.gaps] == [("x", "f"), ("x", "m"), ("m", "f")]
    parts = {"gender": (part_N, list("fmx"))}
    two = fairness.judged(outcomes_of(error_N), parts, [MAE_1, Limit("bias", 1.0, ("gender",))])
    assert [each.num_comparisons for each in two] == [6, 6]
    assert two[0].gaps[0].p_value > alone.gaps[0].p_value
    assert two[0].gaps[0].gap_low < alone.gaps[0].gap_low


def test_limits_are_read_from_the_command_line_and_mistakes_are_one_line() -> None:
    config = EvaluateConfig(
        "c", "p", "o", max_gap=("mae=1.0:gender,gender+decade",), max_gate_gap=("minors=.1:ethnicity",)
    )
    assert config.gap_limits == [
        ("--max-gap mae=1.0:gender,gender+decade", "mae", 1.0, ("gender", "gender+decade")),
        ("--max-gate-gap minors=.1:ethnicity", "minors", 0.1, ("ethnicity",)),
    ]
    for wrong in (
        "mae", "mae=1.0", "mae=1.0:", "mae=x:gender", "mae=1.:gender", "mae=1.0:sex", "minors=0.1:gender",
        "mae=1:gender+gender", "mae=-1:gender", "mae=1:gender,", "mae=1:gender+",
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"^--max-gap .*: METRIC=GAP:PART,.*") as caught:
            EvaluateConfig("c", "p", "o", max_gap=(wrong,))
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"^--max-gate-gap mae=1:gender: .* a metric is minors or adults"):
        EvaluateConfig("c", "p", "o", max_gate_gap=("mae=1:gender",))
