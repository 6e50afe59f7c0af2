"""The stored age distribution and what is derived from it."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from agescale.ages import cdf
from agescale.ages.groups import AgeGroups


def point_mass(*ages: int) -> np.ndarray:
    probs_NA = np.zeros((len(ages), 101))
    probs_NA[np.arange(len(ages)), ages] = 1
    return probs_NA


def random_distributions(num_rows: int = 500) -> np.ndarray:
    return np.random.default_rng(0).dirichlet(np.full(101, 0.05), num_rows)


def test_the_worked_examples_hold() -> None:
    results = doctest.testmod(cdf)
    assert results.attempted > 10
    assert results.failed == 0


@pytest.mark.parametrize("point_estimate", [cdf.median_age, cdf.mean_age, cdf.mode_age])
def test_all_mass_in_one_bin_is_that_label(point_estimate) -> None:
    np.testing.assert_allclose(point_estimate(cdf.quantize(point_mass(*range(101)))), np.arange(101))


def test_the_stored_form_starts_at_zero_never_falls_and_takes_202_bytes() -> None:
    cdf_NA = cdf.quantize(random_distributions().astype(np.float32))
    assert cdf_NA.dtype == np.dtype("<u2")
    assert cdf_NA.shape == (500, 101)
    assert len(cdf_NA[0].tobytes()) == 202
    assert (cdf_NA[:, 0] == 0).all()
    assert (np.diff(cdf_NA.astype(int), axis=1) >= 0).all()


def test_storing_loses_less_than_a_thousandth() -> None:
    probs_NA = random_distributions()
    stored_NA = cdf.age_probabilities(cdf.quantize(probs_NA))
    assert np.abs(stored_NA - probs_NA).max() < 2 / 65535
    np.testing.assert_allclose(stored_NA.sum(axis=1), 1)
    np.testing.assert_allclose(cdf.mean_age(cdf.quantize(probs_NA)), probs_NA @ np.arange(101), atol=1e-3)


def test_the_median_has_half_of_the_mass_below_it() -> None:
    cdf_NA = cdf.quantize(random_distributions())
    continuous_N = cdf.median_age(cdf_NA) + 0.5
    below_NA = np.append(cdf.dequantize(cdf_NA), np.ones((len(cdf_NA), 1)), axis=1)
    inside = cdf.median_age(cdf_NA) > 0
    for age, below_A in zip(continuous_N[inside], below_NA[inside], strict=True):
        assert np.interp(age, np.arange(102), below_A) == pytest.approx(0.5, abs=1e-9)


def test_the_median_is_never_negative() -> None:
    probs_NA = np.zeros((1, 101))
    probs_NA[0, :2] = 0.9, 0.1
    assert cdf.quantile_age(cdf.quantize(probs_NA), 0.05)[0] == 0.0


def test_quantiles_rise_with_the_share() -> None:
    cdf_NA = cdf.quantize(random_distributions())
    low_N, mid_N, high_N = (cdf.quantile_age(cdf_NA, q) for q in (0.05, 0.5, 0.95))
    assert (low_N <= mid_N).all()
    assert (mid_N <= high_N).all()


def test_group_probabilities_of_a_cover_sum_to_one() -> None:
    probs_NG = cdf.group_probabilities(cdf.quantize(random_distributions()), AgeGroups.parse("25-years"))
    np.testing.assert_allclose(probs_NG.sum(axis=1), 1)
    assert cdf.group_probabilities(cdf.quantize(point_mass(100)), AgeGroups.parse("25-years"))[0, -1] == 1


def test_columns_follow_the_decode_rule() -> None:
    probs_NA = np.zeros((1, 101))
    probs_NA[0, [20, 30, 31]] = 0.4, 0.3, 0.3
    cdf_NA = cdf.quantize(probs_NA)
    ages = {rule: cdf.prediction_columns(cdf_NA, None, rule)["age"][0] for rule in ("median", "mean", "mode")}
    assert ages["mode"] == 20
    assert ages["mean"] == pytest.approx(26.3, abs=1e-3)
    assert ages["median"] == pytest.approx(30 + 1 / 3 - 0.5, abs=1e-3)
    with pytest.raises(ValueError, match="decode rule 'average'"):
        cdf.prediction_columns(cdf_NA, None, "average")  # type: ignore[arg-type]


def test_an_age_outside_all_groups_has_no_group() -> None:
    columns = cdf.prediction_columns(cdf.quantize(point_mass(5, 40)), AgeGroups.parse("child=0-12"))
    assert columns["group"].tolist() == ["child", None]
    assert columns["group_probability"].tolist() == [1, 0]


def test_groups_without_bounds_take_no_probability_from_ages() -> None:
    cdf_NA = cdf.quantize(point_mass(5))
    assert cdf.prediction_columns(cdf_NA, AgeGroups.parse("YOUNG,OLD"))["group"].tolist() == [None]
    with pytest.raises(ValueError, match="names only"):
        cdf.group_probabilities(cdf_NA, AgeGroups.parse("YOUNG,OLD"))


@pytest.mark.parametrize("bad", [np.nan, -0.1])
def test_what_is_no_distribution_is_refused(bad: float) -> None:
    probs_NA = point_mass(5, 6)
    probs_NA[1, 7] = bad
    with pytest.raises(ValueError, match="no distribution"):
        cdf.quantize(probs_NA)


def test_no_faces_give_no_rows() -> None:
    columns = cdf.prediction_columns(cdf.quantize(np.zeros((0, 101))), AgeGroups.parse("decades"))
    assert all(len(column) == 0 for column in columns.values())


@pytest.mark.parametrize("groups", ["life-stages", "teenager=13-19", "decades", "old=100-", "all=0-"])
def test_group_probabilities_are_differences_of_the_whole_stored_form_to_the_last_bit(groups: str) -> None:
    cdf_NA = cdf.quantize(random_distributions())
    below_NA = np.append(cdf.dequantize(cdf_NA), np.ones((len(cdf_NA), 1)), axis=1)
    bounds = [(low, min(high, 101)) for low, high in AgeGroups.parse(groups).bounds()]
    expected_NG = np.stack([below_NA[:, int(high)] - below_NA[:, low] for low, high in bounds], axis=1)
    assert (cdf.group_probabilities(cdf_NA, AgeGroups.parse(groups)) == expected_NG).all()
