"""Columns of the predictions table derive from what is stored of a prediction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import make_checkpoint

from agescale.ages import cdf
from agescale.ages.calibration import Band, Calibration
from agescale.ages.groups import AgeGroups
from agescale.faces.images import Face, ImageError
from agescale.models.predictor import Predictor, prediction_columns
from agescale.models.tasks import Prediction
from agescale.tables import schema
from agescale.tables.predictions import regrouped


@pytest.fixture
def images_NHWC() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("task", ["distribution", "classification", "regression", "ordinal"])
def test_age_and_group_derive_from_the_stored_distribution(tmp_path: Path, task: str, images_NHWC: np.ndarray) -> None:
    predictor = Predictor(make_checkpoint(tmp_path, task, "life-stages"))
    columns = predictor(images_NHWC)
    cdf_NA = np.stack(columns["age_cdf"])
    expected = cdf.prediction_columns(cdf_NA, AgeGroups.parse("life-stages"))
    for name, values in expected.items():
        assert list(columns[name]) == list(values), name
    assert set(columns) <= set(schema.PREDICTIONS.names)


def test_names_without_bounds_have_probabilities_and_no_ages(tmp_path: Path, images_NHWC: np.ndarray) -> None:
    predictor = Predictor(make_checkpoint(tmp_path, "classification", "YOUNG,MIDDLE,OLD"))
    columns = predictor(images_NHWC)
    assert "age" not in columns
    assert all(group in ("YOUNG", "MIDDLE", "OLD") for group in columns["group"])
    np.testing.assert_allclose(np.sum(columns["group_probabilities"], axis=1), 1, atol=1e-5)


def test_batches_do_not_change_predictions(tmp_path: Path, images_NHWC: np.ndarray) -> None:
    predictor = Predictor(make_checkpoint(tmp_path, "distribution", "life-stages"))
    together, alone = predictor(images_NHWC), [predictor(images_NHWC[i : i + 1]) for i in range(5)]
    np.testing.assert_allclose(together["age"], [columns["age"][0] for columns in alone], atol=1e-3)


def test_with_mirror_an_image_and_its_mirror_image_are_of_one_age(tmp_path: Path, images_NHWC: np.ndarray) -> None:
    checkpoint = make_checkpoint(tmp_path, "distribution", "life-stages")
    flipped_NHWC = np.ascontiguousarray(images_NHWC[:, :, ::-1])
    mirrored, plain = Predictor(checkpoint, tta=True), Predictor(checkpoint)
    np.testing.assert_allclose(mirrored(images_NHWC)["age"], mirrored(flipped_NHWC)["age"], atol=1e-2)
    assert np.abs(plain(images_NHWC)["age"] - plain(flipped_NHWC)["age"]).max() > 1e-2


@pytest.mark.parametrize("tta", [False, True])
def test_auxiliary_heads_name_their_likeliest_class_with_its_probability(
    tmp_path: Path, images_NHWC: np.ndarray, tta: bool
) -> None:
    checkpoint = make_checkpoint(tmp_path, "distribution", "life-stages", genders=("female", "male"))
    columns = Predictor(checkpoint, tta=tta)(images_NHWC)
    assert set(columns["gender"]) <= {"female", "male"}
    assert all(0.5 <= probability <= 1 for probability in columns["gender_probability"])
    assert "ethnicity" not in columns
    assert set(columns) <= set(schema.PREDICTIONS.names)


def test_images_of_another_size_or_kind_are_refused_and_not_misjudged(tmp_path: Path, images_NHWC: np.ndarray) -> None:
    predictor = Predictor(make_checkpoint(tmp_path, "distribution", "life-stages"))
    larger = np.zeros((1, 200, 200, 3), np.uint8)
    for wrong in (larger, larger[0], images_NHWC / 255, images_NHWC.transpose(0, 3, 1, 2), images_NHWC[..., :1]):
        with pytest.raises(ValueError, match=r"takes uint8 images \(N, 32, 32, 3\), not .* of any size"):
            predictor(wrong)


def test_arrays_that_are_read_only_or_turned_are_taken(tmp_path: Path, images_NHWC: np.ndarray) -> None:
    predictor = Predictor(make_checkpoint(tmp_path, "distribution", "life-stages"))
    turned = images_NHWC[:, ::-1]
    expected = predictor(turned.copy())["age"]
    frozen = turned.copy()
    frozen.flags.writeable = False
    for images in (turned, frozen):
        np.testing.assert_array_equal(predictor(images)["age"], expected)


@pytest.mark.parametrize("age_groups", ["life-stages", "YOUNG,OLD"])
@pytest.mark.parametrize("task", ["distribution", "classification", "regression", "ordinal"])
def test_a_predictor_names_the_columns_that_it_fills(
    tmp_path: Path, task: str, age_groups: str, images_NHWC: np.ndarray
) -> None:
    predictor = Predictor(make_checkpoint(tmp_path, task, age_groups, ethnicities=("a", "b")))
    filled = {*predictor(images_NHWC), "status", "error", "width", "height", "model"}
    assert predictor.columns == tuple(name for name in schema.PREDICTIONS.names if name in filled)


@pytest.mark.parametrize("task", ["distribution", "classification", "regression", "ordinal"])
def test_a_calibrated_model_fills_intervals_that_derive_from_what_is_stored(
    tmp_path: Path, task: str, images_NHWC: np.ndarray
) -> None:
    known = Calibration(0.9, (Band(0, None, 1.5, 100),), 100, "1", "val", "none", False)
    predictor = Predictor(make_checkpoint(tmp_path, task, "life-stages", calibration=known))
    columns = predictor(images_NHWC)
    filled = {*columns, "status", "error", "width", "height", "model"}
    assert predictor.columns == tuple(name for name in schema.PREDICTIONS.names if name in filled)
    ends = known.intervals(columns["age"], *cdf.central_interval(np.stack(columns["age_cdf"]), 0.9))
    for name, values in zip(("age_lower", "age_upper"), ends, strict=True):
        np.testing.assert_array_equal(columns[name], values)
    assert (columns["age_lower"] < columns["age_upper"]).all()


def test_columns_fit_the_schema() -> None:
    probs_NA = torch.softmax(torch.randn(3, 101), dim=1)
    columns = prediction_columns(Prediction(age_probs_NA=probs_NA), AgeGroups.parse("25-years"), "median")
    for name, values in columns.items():
        pa.array(list(values), schema.PREDICTIONS.field(name).type)


@pytest.mark.parametrize("task", ["distribution", "regression", "ordinal"])
def test_rows_regrouped_equal_those_of_a_model_of_these_groups(tmp_path: Path, task: str) -> None:
    five = Predictor(make_checkpoint(tmp_path / "five", task, "25-years"))
    four = Predictor(make_checkpoint(tmp_path / "four", task, "life-stages"))
    faces = [Face(pixels, 32, 32) for pixels in np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)]
    rows = [(str(index), "1") for index in range(41)]
    broken = ImageError("unreadable", "no image")

    def table(predictor: Predictor) -> pa.Table:
        said = predictor.predict_loaded(zip(rows, [*faces[:20], broken, *faces[20:]], strict=True), batch_size=16)
        return said.drop_columns(["model", "scored_at"])

    derived = regrouped(table(five), AgeGroups.parse("life-stages"))
    assert derived.equals(table(four))
    assert not derived.equals(table(five))
