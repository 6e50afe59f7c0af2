"""A run's intervals come from the pass that judges it: whose faces count, and what is found of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from agescale.ages import cdf
from agescale.ages.calibration import is_inside
from agescale.ages.groups import AgeGroups
from agescale.config import TrainConfig
from agescale.models.spec import ModelSpec
from agescale.models.tasks import build_task
from agescale.training import calibration, validation

SPEC = ModelSpec("cnn", "distribution", "25-years", image_size=32)
CONFIG = TrainConfig(catalog=("c",))


def rows_of(*rows: tuple[str, int, str | None, float, float]) -> pa.Table:
    columns = zip(*rows, strict=True)
    names = ("uri", "catalog", "subject", "age_low", "age_high")
    return pa.table({name: pa.array(values) for name, values in zip(names, columns, strict=True)})


def test_an_exact_age_counts_once_a_person_whatever_the_order_of_the_rows() -> None:
    rows = rows_of(
        ("a", 0, "ann", 20, 21), ("b", 0, "ann", 30, 31), ("c", 0, None, 40, 41), ("d", 0, None, 40, 41),
        ("e", 1, "ann", 20, 21), ("f", 0, "bob", 20, 30), ("g", 0, "bob", 25, 26), ("h", 0, None, None, None),
    )  # fmt: skip
    is_counted_N = calibration.counted(rows)
    assert is_counted_N[:2].sum() == 1
    assert is_counted_N[2:].tolist() == [True, True, True, False, True, False], "of another catalog it is another ann"
    turned_N = calibration.counted(rows.take(pa.array(range(7, -1, -1))))
    assert turned_N[::-1].tolist() == is_counted_N.tolist()


def test_what_is_kept_of_a_batch_is_what_scoring_derives_of_it() -> None:
    outputs = torch.randn(5, 101)
    said_NS = calibration.said_of(build_task("distribution", AgeGroups.parse("25-years")), outputs, 0.9).numpy()
    cdf_NA = cdf.quantize(outputs.softmax(1).numpy())
    assert said_NS[:, 0].tolist() == [1] * 5
    np.testing.assert_allclose(said_NS[:, 1:3].T, cdf.central_interval(cdf_NA, 0.9), rtol=1e-6)
    for column, rule in enumerate(validation.RULES, start=3):
        np.testing.assert_allclose(said_NS[:, column], cdf.point_estimate(cdf_NA, rule), rtol=1e-6)
    names_only = build_task("classification", AgeGroups.parse("YOUNG,OLD"))
    assert not calibration.said_of(names_only, torch.randn(5, 2), 0.9).any()


def some_faces(num: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What a model says that is too sure of itself, and the labels."""
    rng = np.random.default_rng(0)
    true_N = rng.integers(1, 90, num).astype(np.float32)
    age_N = (true_N + rng.normal(0, 6, num)).clip(0, 100)
    said_NS = np.stack([np.ones(num), age_N - 2, age_N + 2, *[age_N] * 3], axis=1).astype(np.float32)
    return said_NS, {"age_low": true_N, "is_counted": np.ones(num, bool)}


def test_the_intervals_hold_on_the_faces_that_count_and_tell_how_they_were_found() -> None:
    said_NS, labels = some_faces(1000)
    said_NS[900:, 0] = 0  # they could not be read
    labels["is_counted"][800:900] = False
    made = calibration.calibration_of(said_NS, labels, "median", SPEC, 0.9, ["x", "y"])
    assert made is not None
    assert (made.num_faces, made.catalog_id, made.split, made.faces, made.tta) == (800, "x,y", "val", "none", False)
    assert "chosen on the same" in made.assumes
    assert sum(band.num_faces for band in made.bands) == 800
    _, low_N, high_N, age_N, *_ = said_NS[:800].T
    inside_N = is_inside(*made.intervals(age_N, low_N, high_N), labels["age_low"][:800])
    assert 0.9 <= inside_N.mean() < 0.93
    assert is_inside(low_N, high_N, labels["age_low"][:800]).mean() < 0.4, "or nothing was to be done"


def test_the_bands_are_those_of_the_age_that_will_be_told() -> None:
    said_NS, labels = some_faces(1000)
    said_NS[:, 3 + validation.RULES.index("mode")] = 50
    by_mode = calibration.calibration_of(said_NS, labels, "mode", SPEC, 0.9, ["x"])
    by_median = calibration.calibration_of(said_NS, labels, "median", SPEC, 0.9, ["x"])
    assert by_mode is not None
    assert by_median is not None
    assert len(by_mode.bands) == 1 < len(by_median.bands)


@pytest.mark.parametrize(("num", "has_intervals"), [(8, False), (9, True)])
def test_of_too_few_faces_there_is_no_calibration(num: int, has_intervals: bool) -> None:
    made = calibration.calibration_of(*some_faces(num), "median", SPEC, 0.9, ["x"])
    assert (made is not None) == has_intervals


def test_what_has_become_of_the_intervals_is_one_line_or_none_where_nobody_asked() -> None:
    made = calibration.calibration_of(*some_faces(50), "median", SPEC, 0.9, ["x"])
    line = calibration.told(CONFIG, SPEC, made, 50)
    assert line == "intervals: 90 % of faces such as these 50 of the validation split"
    few = calibration.told(replace(CONFIG, interval_coverage=0.99), SPEC, None, 50)
    assert "takes 99 validation faces with an exact age at least" in few
    assert "there are 50; jobs/calibrate.py" in few
    assert "learned from the validation images, too" in calibration.told(replace(CONFIG, refit=True), SPEC, None, 50)
    assert "could be read" in calibration.told(CONFIG, SPEC, None, 50)
    assert calibration.told(replace(CONFIG, interval_coverage=0), SPEC, None, 50) == ""
    for other in ({"task": "reconstruction"}, {"task": "classification", "age_groups": "YOUNG,OLD"}):
        assert calibration.told(CONFIG, replace(SPEC, **other), None, 0) == ""


def test_a_run_that_learns_from_its_validation_images_wants_none() -> None:
    assert calibration.is_wanted(CONFIG)
    assert not calibration.is_wanted(replace(CONFIG, refit=True))
    assert not calibration.is_wanted(replace(CONFIG, interval_coverage=0))
