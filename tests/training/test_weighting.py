"""Weights of images and of thresholds, checked by numbers worked out by hand and by scikit-learn."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_sample_weight

from agescale.training import weighting
from agescale.training.weighting import class_weights, label_density_weights, rank_weights


def exact(*ages: float) -> tuple[np.ndarray, np.ndarray]:
    low_N = np.array(ages, dtype=np.float64)
    return low_N, low_N + 1


def test_the_worked_examples_hold() -> None:
    results = doctest.testmod(weighting)
    assert results.attempted >= 6
    assert results.failed == 0


def test_class_weights_agree_with_scikit_learn() -> None:
    group_N = np.random.default_rng(0).choice([0, 1, 3, 4], 500, p=[0.7, 0.2, 0.09, 0.01])
    weight_N = class_weights(group_N, num_groups=5)
    assert weight_N.dtype == np.float32
    np.testing.assert_allclose(weight_N, compute_sample_weight("balanced", group_N), rtol=1e-6)


def test_every_group_that_occurs_weighs_the_same_together() -> None:
    group_N = np.array([0] * 70 + [1] * 25 + [3] * 5 + [-1] * 20)
    weight_N = class_weights(group_N, num_groups=4)
    assert [float(weight_N[group_N == group].sum()) for group in (0, 1, 3)] == pytest.approx([100 / 3] * 3)
    assert (weight_N[group_N == -1] == 1).all()
    assert weight_N.mean() == pytest.approx(1)


def test_without_groups_all_weigh_the_same() -> None:
    assert class_weights(np.full(3, -1), num_groups=4).tolist() == [1, 1, 1]
    assert class_weights(np.array([], dtype=np.int64), num_groups=4).shape == (0,)


def test_near_ages_count_together() -> None:
    """Three people of 30 and one of 31 are near each other, 70 is alone: with exp(-1/8) = 0.8825 for one year's
    distance the densities are 3.8825, 3.6475 and 1."""
    weight_N = label_density_weights(*exact(30, 30, 30, 31, 70))
    near = math.exp(-1 / 8)
    expected_N = np.array([*[(3 + near) ** -0.5] * 3, (1 + 3 * near) ** -0.5, 1.0])
    assert weight_N.dtype == np.float32
    np.testing.assert_allclose(weight_N, expected_N / expected_N.mean(), rtol=1e-6)


def test_the_ends_of_the_scale_are_no_rarer_than_its_middle() -> None:
    np.testing.assert_allclose(label_density_weights(*exact(*range(101))), np.ones(101), rtol=1e-6)
    assert label_density_weights(*exact(100, 110))[1] == 1  # 110 stands in the last bin


def test_no_image_weighs_more_than_ten_times_the_mean() -> None:
    weight_N = label_density_weights(*exact(*[30] * 100_000, 80, 2))
    assert weight_N.max() == pytest.approx(10, rel=1e-4)
    assert weight_N.mean(dtype=np.float64) == pytest.approx(1)


def test_ranges_and_unlabelled_images_weigh_one_and_do_not_change_the_others() -> None:
    alone_N = label_density_weights(*exact(30, 30, 12.3))
    low_N = np.array([30, 25, 30, np.nan, 12.3, 60], dtype=np.float32)
    high_N = np.array([31, 50, 31, np.nan, 13.3, np.inf], dtype=np.float32)
    weight_N = label_density_weights(low_N, high_N)
    np.testing.assert_allclose(weight_N[[0, 2, 4]], alone_N)
    assert (weight_N[[1, 3, 5]] == 1).all()
    assert label_density_weights(low_N[[1, 3]], high_N[[1, 3]]).tolist() == [1, 1]
    assert label_density_weights(low_N[:0], high_N[:0]).shape == (0,)


def test_the_most_even_question_counts_least() -> None:
    weights = rank_weights(*exact(0, 10, 20, 30))
    assert len(weights) == 100
    assert weights[10 - 1] == pytest.approx(math.sqrt(3 / 4))  # three of four are 10 or more
    assert weights[11 - 1] == weights[20 - 1] == pytest.approx(math.sqrt(2 / 4))
    assert weights[31 - 1] == weights[100 - 1] == 1  # nobody is
    assert all(isinstance(weight, float) for weight in weights)


def test_rank_weights_count_exact_ages_alone() -> None:
    low_N, high_N = np.array([0, 10, 20, 30, 25, np.nan]), np.array([1, 11, 21, 31, 50, np.nan])
    assert rank_weights(low_N, high_N) == rank_weights(*exact(0, 10, 20, 30))
    assert rank_weights(low_N[4:], high_N[4:]) == (1.0,) * 100
    assert rank_weights(*exact(100, 116)) == (1.0,) * 100
