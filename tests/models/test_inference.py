"""A checkpoint in one's own program: whatever holds an image in, a result for each out, and the numbers of the jobs."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import make_checkpoint
from PIL import Image

import agescale
from agescale.ages import cdf
from agescale.ages.calibration import Band, Calibration
from agescale.config import PredictConfig
from agescale.faces import images
from agescale.models import inference
from agescale.models.predictor import Predictor
from agescale.scoring import photos
from agescale.store import client
from agescale.store import objects as store_objects
from agescale.store.errors import StoreError
from agescale.synthetic import portraits
from agescale.tables import schema

SIZE = 64


def draw_face(age: int = 30, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    portraits.draw_face(np.random.default_rng(age), age, "female", "White", SIZE).save(buffer, format, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_checkpoint(tmp_path_factory.mktemp("inference") / "run" / "best")


@pytest.fixture(scope="module")
def model(checkpoint: str) -> agescale.Model:
    return agescale.load(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three faces, one of them broken, and a text."""
    folder = tmp_path_factory.mktemp("faces")
    (folder / "below").mkdir()
    (folder / "a.png").write_bytes(draw_face(20))
    (folder / "b.jpg").write_bytes(b"this is no picture at all")
    (folder / "below" / "c.jpg").write_bytes(draw_face(60, "JPEG"))
    (folder / "notes.txt").write_text("no photo")
    return folder


def ages(results: agescale.Predictions) -> list[float | None]:
    return [result.age for result in results]


def test_importing_agescale_takes_no_time_and_tables_need_no_torch() -> None:
    program = (
        "import sys, time; began = time.monotonic(); import agescale; took_s = time.monotonic() - began\n"
        "assert took_s < 1, took_s\n"
        "assert not {'torch', 'ray', 'numpy', 'pyarrow'} & sys.modules.keys()\n"
        "assert set(dir(agescale)) == set(agescale.__all__)\n"
        "agescale.read_predictions, agescale.read_catalog, agescale.StoreError\n"
        "assert not {'torch', 'ray'} & sys.modules.keys()\n"
        "from agescale import *\n"
        "assert all(name in globals() for name in agescale.__all__ if name != '__version__')\n"
        "assert 'ray' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_whoever_decodes_for_a_training_is_there_before_any_network_is_loaded() -> None:
    program = "import sys, agescale.training.decoding; assert not {'torch', 'torchvision', 'timm'} & sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("module", "never"),
    [
        ("evaluation.driver", "torch ray"),
        ("evaluation.drift_driver", "torch ray"),
        ("evaluation.gate_driver", "torch ray"),
        ("scoring.driver", "torch ray"),
        ("scoring.execution", "torch"),
    ],
)
def test_what_only_judges_tables_or_hands_work_to_others_loads_no_network(module: str, never: str) -> None:
    program = f"import sys, agescale.{module}; assert not set({never!r}.split()) & sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_unknown_names_are_no_attributes() -> None:
    with pytest.raises(AttributeError, match="module 'agescale' has no attribute 'predict'"):
        agescale.predict  # noqa: B018
    assert all(getattr(agescale, name).__doc__ for name in agescale.__all__)


def test_an_image_is_the_same_in_whatever_form_it_comes(
    tmp_path: Path, model: agescale.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = draw_face()
    path = tmp_path / "fäce 1.png"
    path.write_bytes(data)
    monkeypatch.chdir(tmp_path)
    picture = Image.open(path)
    pixels = np.asarray(picture)  # read-only
    forms = [path, str(path), f"file://{path}", "fäce 1.png", data, bytearray(data), memoryview(data), picture, pixels]
    results = [model.predict(form) for form in forms]
    assert all(isinstance(each, agescale.Predictions) and len(each) == 1 for each in results)
    (first,) = results[0]
    assert (first.status, first.error, first.width, first.height, first.model) == ("ok", None, 64, 64, model.digest)
    assert {each[0].age for each in results} == {first.age}
    assert [each[0].uri for each in results] == [str(path)] * 4 + [None] * 5
    together = model.predict(iter(forms), batch_size=2)
    assert [result.uri for result in together] == [each[0].uri for each in results]
    np.testing.assert_allclose(ages(together), first.age, atol=1e-3)
    picture.close()


def test_a_list_gives_a_result_for_each_item_even_where_one_stands_twice(model: agescale.Model, folder: Path) -> None:
    face = folder / "a.png"
    results = model.predict([face, draw_face(60), face])
    assert [result.uri for result in results] == [str(face), None, str(face)]
    assert results[0].age == pytest.approx(results[2].age, abs=1e-3)
    assert results[0].age != pytest.approx(results[1].age, abs=1e-3)
    assert model.predict([]) == []
    assert len(model.predict([]).to_pandas()) == 0


def test_a_batch_of_arrays_counts_as_so_many_images(model: agescale.Model) -> None:
    faces = [np.asarray(Image.open(io.BytesIO(draw_face(age)))) for age in (20, 60)]
    expected = ages(model.predict(faces))
    np.testing.assert_allclose(ages(model.predict(np.stack(faces))), expected, atol=1e-3)
    mixed = model.predict([faces[0], np.stack(faces)])
    np.testing.assert_allclose(ages(mixed), [expected[0], *expected], atol=1e-3)
    assert model.predict(np.zeros((0, 9, 9, 3), np.uint8)) == []
    grey = faces[0][:, :, 0]
    assert ages(model.predict(grey)) == ages(model.predict(np.repeat(grey[:, :, None], 3, axis=2)))


def test_a_folder_stands_for_the_images_below_it(model: agescale.Model, folder: Path) -> None:
    results = model.predict(folder)
    assert [result.uri for result in results] == [str(folder / name) for name in ("a.png", "b.jpg", "below/c.jpg")]
    assert [result.status for result in results] == ["ok", "unreadable", "ok"]
    assert len(model.predict([folder, folder / "a.png"])) == 4


def test_what_is_broken_or_missing_is_a_result_that_says_so(model: agescale.Model, tmp_path: Path) -> None:
    inputs = [
        tmp_path / "none.jpg",
        b"",
        b"text",
        np.zeros((5, 90, 3), np.uint8),
        Image.new("RGB", (3, 90)),
        draw_face(),
    ]
    results = model.predict(inputs)
    assert [each.status for each in results] == ["missing", "unreadable", "unreadable", "too_small", "too_small", "ok"]
    for result in results[:-1]:
        assert result.error
        assert result.age is result.cdf is result.interval is result.group is result.group_probability is None
    with pytest.raises(ValueError, match=r"no age is predicted: .*none\.jpg: not found"):
        results[0].probability_under(18)


WRONG = {
    "float array": np.zeros((64, 64, 3)),
    "channels first": np.zeros((3, 64, 64), np.uint8),
    "floats of Pillow's": Image.new("F", (64, 64)),
    "a dict": {"image": b""},
    "nothing": None,
    "a number": 7,
    "an empty path": "",
    "a tensor": torch.zeros(3, 64, 64),
    "a list in a list": [[b""]],
    "one of a list": [b"", 7],
    "an open file": io.BytesIO(b"bytes\nin lines"),
    "a table in a list": [pa.table({"image": [b""]}).to_pandas()],
    "a web address": "https://example.org/face.jpg",
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_image_at_all_is_refused_in_one_line(kind: str, model: agescale.Model) -> None:
    with pytest.raises(ValueError, match=r"no image: .*; taken are paths, |a URI is a path") as caught:
        model.predict(WRONG[kind])  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_results_hold_what_the_table_of_predictions_would(model: agescale.Model, checkpoint: str) -> None:
    data = draw_face()
    (result,) = model.predict(data)
    columns = Predictor(checkpoint)(images.load_face(data, 32).pixels[None])
    assert result.age == columns["age"][0]
    assert (result.age_std, result.group) == (columns["age_std"][0], columns["group"][0])
    assert result.group_probability == columns["group_probability"][0]
    stored = np.stack(columns["age_cdf"])
    assert result.cdf is not None
    assert (result.cdf.shape, result.cdf.dtype) == ((101,), np.float64)
    np.testing.assert_array_equal(result.cdf, cdf.dequantize(stored)[0])
    assert all(result.probability_under(age) == result.cdf[age] for age in range(101))
    assert result.interval == tuple(float(age[0]) for age in cdf.central_interval(stored, 0.8))
    with pytest.raises(ValueError, match="from 0 to 100 years, not 101"):
        result.probability_under(101)


def test_with_mirror_results_are_those_of_the_job(checkpoint: str, folder: Path) -> None:
    results = agescale.load(checkpoint, "cpu", tta=True).predict(folder)
    job = photos.predict(PredictConfig((str(folder),), checkpoint, tta=True, device="cpu"))
    names = ["uri", "status", "error", "age", "age_cdf", "group", "group_probability", "width", "height", "model"]
    assert results.to_arrow().select(names).to_pylist() == job.rows.select(names).to_pylist()


def test_tables_of_results_have_the_columns_that_the_model_fills(
    model: agescale.Model, folder: Path, tmp_path: Path
) -> None:
    results = model.predict(folder)
    table = results.to_arrow()
    assert table.column_names == [
        *("uri", "status", "error", "age_cdf", "age", "age_std", "group", "group_probability"),
        *("width", "height", "model"),
    ]
    assert all(table.schema.field(name).type == schema.PREDICTIONS.field(name).type for name in table.column_names)
    assert model.predict(b"broken").to_arrow().schema == table.schema
    assert model.predict([]).to_arrow().schema == table.schema
    frame = results.to_pandas()
    assert frame["age"].isna().tolist() == [False, True, False]
    results.sort(key=lambda result: result.age or 0)
    assert results.to_arrow()["status"].to_pylist() == ["unreadable", "ok", "ok"]
    assert pickle.loads(pickle.dumps(results)).to_arrow().equals(results.to_arrow())
    gendered = agescale.load(make_checkpoint(tmp_path / "heads", genders=("female", "male")), "cpu")
    (result,) = gendered.predict(draw_face())
    assert result.gender in ("female", "male")
    assert gendered.predict(draw_face()).to_pandas()["gender"].tolist() == [result.gender]


def test_groups_of_names_only_have_no_age_and_say_so(tmp_path: Path) -> None:
    names = agescale.load(make_checkpoint(tmp_path, "classification", "YOUNG,MIDDLE,OLD"), "cpu")
    results = names.predict(draw_face())
    (result,) = results
    assert result.age is result.cdf is result.interval is None
    assert result.group in names.groups == ("YOUNG", "MIDDLE", "OLD")
    assert result.group_probabilities is not None
    assert max(result.group_probabilities) == result.group_probability
    assert "age" not in results.to_pandas()
    with pytest.raises(ValueError, match="the model's age groups have names only"):
        result.probability_under(18)


def test_a_regression_claims_no_interval_before_it_is_calibrated(tmp_path: Path) -> None:
    (result,) = agescale.load(make_checkpoint(tmp_path / "raw", "regression"), "cpu").predict(draw_face())
    assert result.age is not None
    assert result.interval is result.age_lower is None
    known = Calibration(0.9, (Band(0, None, 1.5, 100),), 100, "1", "val", "none", False)
    model = agescale.load(make_checkpoint(tmp_path / "calibrated", "regression", calibration=known), "cpu")
    (result,) = model.predict(draw_face())
    assert model.interval_coverage == 0.9
    assert result.interval == (result.age_lower, result.age_upper)
    assert result.age_lower is not None


def test_a_model_is_loaded_by_path_or_uri_and_mistakes_are_one_line(checkpoint: str, tmp_path: Path) -> None:
    assert agescale.load(Path(checkpoint)).digest == agescale.load(f"file://{checkpoint}").digest
    loaded = agescale.load(checkpoint, "cpu")
    assert (loaded.image_size, loaded.groups[0]) == (32, "0-24")
    assert repr(loaded) == f"<agescale.Model {loaded.digest}: cnn, distribution, 32 px, 25-years>"
    with pytest.raises(ValueError, match=r"no checkpoint there .*; a run keeps its best one in best/"):
        agescale.load(Path(checkpoint).parent)
    with pytest.raises(ValueError, match="no checkpoint there"):
        agescale.load(tmp_path)
    with pytest.raises(ValueError, match="device gpu: auto, cpu, cuda or cuda:1"):
        agescale.load(checkpoint, device="gpu")
    with pytest.raises(ValueError, match="device cuda:99: torch finds no such GPU"):
        agescale.load(checkpoint, device="cuda:99")
    with pytest.raises(ValueError, match="batch_size 0: at least 1"):
        loaded.predict(draw_face(), batch_size=0)


def test_images_are_taken_as_the_model_gets_to_them_and_no_sooner(model: agescale.Model) -> None:
    num_taken, num_predicted = 0, 0

    def take() -> Iterator[bytes]:
        nonlocal num_taken
        for _ in range(5 * inference.BATCH_SIZE):
            num_taken += 1
            assert num_taken - num_predicted <= 3 * inference.BATCH_SIZE
            yield draw_face()

    def count(module: Any, inputs: Any, outputs: Any) -> None:
        nonlocal num_predicted
        num_predicted += len(inputs[0])

    hook = model._predictor.model.register_forward_hook(count)
    results = model.predict(take())
    hook.remove()
    assert len(results) == num_predicted == 5 * inference.BATCH_SIZE


def test_a_failure_does_not_wait_for_what_was_to_be_read_next(
    model: agescale.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_over = threading.Event()

    def read(uri: str, *_: object) -> bytes:
        if uri.endswith("/0.jpg"):
            raise StoreError("forbidden", f"{uri}: access refused", stops_the_job=True)
        is_over.wait(20)
        return b""

    monkeypatch.setattr(store_objects, "read_bytes", read)
    began = time.monotonic()
    with pytest.raises(agescale.StoreError, match="access refused"):
        model.predict(tmp_path / f"{number}.jpg" for number in range(60))
    assert time.monotonic() - began < 10
    is_over.set()


def test_photos_and_model_may_stand_in_a_bucket(model: agescale.Model, checkpoint: str, folder: Path, s3: str) -> None:
    bucket = f"{s3}/inference"
    for name in ("a.png", "b.jpg", "below/c.jpg"):
        store_objects.write_bytes(f"{bucket}/faces/{name}", (folder / name).read_bytes())
    for name in store_objects.list_names(checkpoint):
        store_objects.write_bytes(f"{bucket}/best/{name}", store_objects.read_bytes(f"{checkpoint}/{name}"))
    there, here = agescale.load(f"{bucket}/best", "cpu").predict(f"{bucket}/faces"), model.predict(folder)
    assert ages(there) == ages(here)
    assert [result.uri for result in there] == [f"{bucket}/faces/{name}" for name in ("a.png", "b.jpg", "below/c.jpg")]
    assert [each.status for each in model.predict([f"{bucket}/no.jpg", f"{bucket}/faces/a.png"])] == ["missing", "ok"]


@pytest.mark.parametrize("fault", ["secret", "down"])
def test_a_store_that_refuses_or_is_down_is_an_error(
    fault: str, model: agescale.Model, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "NUM_ATTEMPTS", 1)
    name, value = {"secret": ("AWS_SECRET_ACCESS_KEY", "wrong"), "down": ("AWS_ENDPOINT_URL", "http://127.0.0.1:9")}[
        fault
    ]
    monkeypatch.setenv(name, value)
    client._filesystem.cache_clear()
    with pytest.raises(agescale.StoreError, match=rf"{s3}/face\.jpg: ") as caught:
        model.predict([f"{s3}/face.jpg", f"{s3}/other.jpg"])
    assert caught.value.status == ("forbidden" if fault == "secret" else "unreachable")
    assert "\n" not in str(caught.value)
    client._filesystem.cache_clear()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_is_closed_to_us_is_a_result(model: agescale.Model, tmp_path: Path) -> None:
    (tmp_path / "closed.jpg").write_bytes(draw_face())
    (tmp_path / "closed.jpg").chmod(0)
    assert [each.status for each in model.predict(tmp_path / "closed.jpg")] == ["forbidden"]


def test_a_scorer_takes_bytes_and_arrays_and_gives_columns_of_fixed_types(
    checkpoint: str, model: agescale.Model
) -> None:
    good, broken = draw_face(), b"text"
    scorer = agescale.Scorer(checkpoint, column="bytes", device="cpu")
    objects = np.array([good, broken, None], dtype=object)
    rows = scorer({"bytes": objects, "path": np.array(["a", "b", "c"], dtype=object), "label": np.arange(3)})
    assert rows.column_names == ["path", "label", *model.predict([]).to_arrow().column_names[1:]]
    assert rows["status"].to_pylist() == ["ok", "unreadable", "missing"]
    assert rows["age"][0].as_py() == model.predict(good)[0].age
    assert rows["path"].to_pylist() == ["a", "b", "c"]
    for name in model.predict([]).to_arrow().column_names[1:]:
        assert rows.schema.field(name).type == schema.PREDICTIONS.field(name).type
    all_broken = scorer({"bytes": objects[1:], "path": np.array(["b", "c"], dtype=object), "label": np.arange(2)})
    assert all_broken.schema == rows.schema
    table = pa.table({"bytes": pa.array([good, broken, None], pa.binary()), "note": pa.array([None] * 3, pa.string())})
    from_arrow = scorer(table)
    assert from_arrow["status"].to_pylist() == rows["status"].to_pylist()
    assert from_arrow.schema.field("note").type == pa.string()


def test_a_scorer_takes_arrays_of_one_size_or_many(checkpoint: str, model: agescale.Model) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(draw_face())))
    scorer = agescale.Scorer(checkpoint, column="image", device="cpu")
    expected = model.predict(pixels)[0].age
    even = scorer({"image": np.stack([pixels, pixels]), "other": np.stack([pixels, pixels])})
    np.testing.assert_allclose(even["age"], expected, atol=1e-3)
    assert even["other"].combine_chunks().to_numpy_ndarray().shape == (2, 64, 64, 3)
    ragged = np.array([pixels, pixels[:40], np.zeros((9, 9, 5), np.uint8)], dtype=object)
    assert scorer({"image": ragged})["status"].to_pylist() == ["ok", "ok", "unsupported"]


def test_a_scorer_refuses_in_one_line_what_it_cannot_score(checkpoint: str) -> None:
    scorer = agescale.Scorer(checkpoint, device="cpu")
    objects = np.array([b""], dtype=object)
    for batch, words in (
        ({"image": objects}, "no column 'bytes' in image; column= names the one with the images"),
        ({"bytes": objects, "age": np.zeros(1)}, "the input has a column 'age', as the predictions do"),
        ({"bytes": np.array(["a.jpg"], dtype=object)}, "column 'bytes': no image, str; taken are bytes and uint8"),
        ({"bytes": np.zeros((1, 9, 9, 3))}, r"column 'bytes': no image, float64 array of the shape \(9, 9, 3\)"),
        (pa.table({"bytes": [b""]}).to_pandas(), "a dict of numpy arrays or a pyarrow table, not a DataFrame"),
    ):
        with pytest.raises(ValueError, match=words):
            scorer(batch)


def test_the_thumbnails_that_a_drive_keeps_are_no_photos(tmp_path: Path) -> None:
    for name in ("a.jpg", "@eaDir/a.jpg/THUMB.jpg", "b/.thumbnails/c.jpg", "#recycle/d.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list(inference.list_photos(str(tmp_path))) == [str(tmp_path / "a.jpg")]
