"""Calibrated intervals cover what they say, in each band, and derive from what is stored."""

from __future__ import annotations

import doctest
import json
from dataclasses import asdict

import numpy as np
import pytest

from agescale.ages import calibration, cdf
from agescale.ages.calibration import LEAST_BAND_FACES, Calibration, bands_of, faces_needed, is_inside

NUM_PEOPLE = 20_000


@pytest.fixture(scope="module")
def people() -> tuple[np.ndarray, np.ndarray]:
    """Ages, and stored distributions of them: too sure of itself under 30, too unsure from 50 on, and biased."""
    rng = np.random.default_rng(0)
    true_N = rng.integers(0, 80, NUM_PEOPLE).astype(float)
    error_N = rng.normal(2, np.interp(true_N, [0, 80], [2, 9]))
    sigma_N1 = np.where(true_N < 30, 1.5, np.where(true_N < 50, 6.0, 14.0))[:, None]
    offset_NA = np.arange(101) - (true_N + error_N)[:, None]
    return true_N, cdf.quantize(np.exp(-0.5 * (offset_NA / sigma_N1) ** 2) + 1e-9)


def parts_of(cdf_NA: np.ndarray, coverage: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return cdf.median_age(cdf_NA).astype(np.float32), *cdf.central_interval(cdf_NA, coverage)


def calibrated(bands: tuple[calibration.Band, ...], coverage: float) -> Calibration:
    return Calibration(coverage, bands, sum(band.num_faces for band in bands), "1", "val", "none", False)


@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_over_many_redraws_intervals_cover_what_they_say_in_each_band(
    people: tuple[np.ndarray, np.ndarray], coverage: float
) -> None:
    true_N, cdf_NA = people
    age_N, low_N, high_N = parts_of(cdf_NA, coverage)
    rng = np.random.default_rng(1)
    inside: dict[str, list[float]] = {}
    for _ in range(200):
        order = rng.permutation(NUM_PEOPLE)
        known, new = order[:4000], order[4000:8000]
        bands = bands_of(age_N[known], low_N[known], high_N[known], true_N[known], coverage)
        ends = calibrated(bands, coverage).intervals(age_N[new], low_N[new], high_N[new])
        inside_N = is_inside(*ends, true_N[new])
        inside.setdefault("all", []).append(inside_N.mean())
        for band in bands:
            of_band_N = (age_N[new] >= band.low) & (age_N[new] < (band.high or 200))
            inside.setdefault(band.name, []).append(inside_N[of_band_N].mean())
    assert list(inside) == ["all", *(f"{low}-{low + 9}" for low in range(0, 80, 10)), "80+"]
    raw_N = is_inside(low_N, high_N, true_N)
    assert abs(raw_N[age_N < 30].mean() - coverage) > 0.1, "without it they are wrong"
    for name, shares in inside.items():
        slack = 4 * np.std(shares) / np.sqrt(len(shares))
        assert coverage - slack <= np.mean(shares) <= coverage + 0.015 + slack, name


def test_intervals_derive_from_what_is_stored(people: tuple[np.ndarray, np.ndarray]) -> None:
    true_N, cdf_NA = people[0][:1000], people[1][:1000]
    bands = bands_of(*parts_of(cdf_NA, 0.9), true_N, 0.9)
    known = calibrated(bands, 0.9)
    again = Calibration.from_dict(json.loads(json.dumps(asdict(known))))
    assert again == known
    columns = cdf.prediction_columns(cdf_NA, None, "mean", again)
    stored = cdf.prediction_columns(cdf_NA.astype(np.int32), None, "mean", known)
    for name in ("age_lower", "age_upper"):
        assert columns[name].dtype == np.float32
        np.testing.assert_array_equal(columns[name], stored[name])
    assert (columns["age_lower"] <= columns["age"]).all()
    assert (columns["age"] <= columns["age_upper"]).all()
    assert "age_lower" not in cdf.prediction_columns(cdf_NA, None)


def test_bands_join_until_each_has_enough_and_share_out_all_faces() -> None:
    counts = [30, 400, 250, 99, 120, 40, 40, 10, 3, 1]
    age_N = np.repeat(np.arange(5.0, 105, 10), counts)
    bands = bands_of(age_N, age_N, age_N, age_N, 0.9)
    assert [(band.name, band.num_faces) for band in bands] == [("0-19", 430), ("20-29", 250), ("30+", 313)]
    assert all(band.num_faces >= LEAST_BAND_FACES for band in bands)
    assert bands_of(age_N[:12], age_N[:12], age_N[:12], age_N[:12], 0.9)[0].name == "0+", "too few for two"
    assert min(band.num_faces for band in bands_of(age_N, age_N, age_N, age_N, 0.997)) >= faces_needed(0.997) == 333


def test_the_face_that_decides_lies_inside_as_float32_and_the_oldest_are_100() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        low_N = rng.uniform(60, 90, 19)
        true_N = low_N - rng.uniform(0, 5, 19)
        bands = bands_of(low_N, low_N, low_N, true_N, 0.95)
        assert is_inside(*calibrated(bands, 0.95).intervals(low_N, low_N, low_N), true_N).all()
    old_N, said_N = np.full(20, 113.0), np.full(20, 100.2)
    known = calibrated(bands_of(said_N, said_N, said_N, old_N, 0.9), 0.9)
    lower_N, upper_N = known.intervals(said_N, said_N, said_N)
    assert (upper_N == 100).all()
    assert is_inside(lower_N, upper_N, old_N).all()


def test_an_end_at_the_edge_of_the_scale_stays_there() -> None:
    known = calibrated((calibration.Band(0, 50, -1.0, 100), calibration.Band(50, None, -1.0, 100)), 0.9)
    ends = known.intervals(np.array([0.5, 99.0]), np.array([0.0, 90.0]), np.array([4.0, 100.2]))
    assert np.stack(ends, axis=1).tolist() == [[0, 3], [91, 100]]
    infants_N = np.repeat([0.0, 1.0], 50)
    assert calibration.offset_of(np.zeros(100), np.linspace(1.5, 3, 100), infants_N, 0.9) < -0.5


def test_what_is_not_known_is_refused() -> None:
    values = asdict(calibrated((calibration.Band(0, None, 1.0, 9),), 0.9))
    for wrong in (values | {"method": "x"}, values | {"bands": [{**values["bands"][0], "gender": "x"}]}):
        with pytest.raises(ValueError, match=r"calibration: (method|gender) is not known"):
            Calibration.from_dict(wrong)


def test_the_examples_are_right() -> None:
    assert doctest.testmod(calibration).failed == 0
