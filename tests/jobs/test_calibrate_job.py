"""The calibration job: a checkpoint of the same weights whose intervals every reader of the model then has."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import RunJob, make_checkpoint

import agescale
from agescale.ages import cdf
from agescale.cataloging.driver import build_catalog
from agescale.config import (
    CalibrateConfig,
    CatalogConfig,
    EvaluateConfig,
    PredictConfig,
    ScoreConfig,
    TableConfig,
    VerifyConfig,
)
from agescale.evaluation.driver import evaluate
from agescale.models import checkpoints, included
from agescale.models.age_model import AgeModel
from agescale.models.spec import ModelSpec
from agescale.operations import calibration
from agescale.operations.calibration import calibrate
from agescale.scoring import photos
from agescale.scoring.driver import score
from agescale.scoring.verification import verify
from agescale.store import parquet
from agescale.synthetic import dataset
from agescale.tables.exports import export
from agescale.tables.predictions import Predictions, stored_cdfs

pytestmark = pytest.mark.usefixtures("one_thread", "no_ray_for_few")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of drawn faces, all in its validation split but for a test split, and a checkpoint."""
    folder = tmp_path_factory.mktemp("calibrate")
    dataset.write_dataset(folder / "faces", "utkface", num_faces=60, size=48, num_broken=1)
    source, catalog = str(folder / "faces"), str(folder / "catalog")
    build_catalog(CatalogConfig(source, catalog, layout="utkface", split=(0.0, 0.6, 0.4), age_groups="25-years"))
    make_checkpoint(folder / "model")
    (folder / "model" / "LICENSE.txt").write_text("a licence")
    return folder


@pytest.fixture(scope="module")
def made(folder: Path) -> Path:
    calibrate(config(folder, "made"))
    return folder / "made"


def config(folder: Path, name: str, **changes: Any) -> CalibrateConfig:
    given = {"catalog": str(folder / "catalog"), "out": str(folder / name), "checkpoint": str(folder / "model")}
    return CalibrateConfig(**{**given, "num_workers": 0, "device": "cpu", **changes})


def scored(folder: Path, out: str, checkpoint: str, **changes: Any) -> str:
    given = {"catalog": str(folder / "catalog"), "checkpoint": str(folder / checkpoint), "out": str(folder / out)}
    score(ScoreConfig(**given, num_workers=0, device="cpu", max_failed_fraction=1.0, **changes))
    return given["out"]


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_makes_a_checkpoint_of_the_same_weights_with_another_digest(folder: Path, made: Path) -> None:
    before, after = checkpoints.read(str(folder / "model")), checkpoints.read(str(made))
    assert {path.name for path in made.iterdir()} == {"config.json", before.weights_file, "LICENSE.txt"}
    assert (made / before.weights_file).read_bytes() == (folder / "model" / before.weights_file).read_bytes()
    known = after.spec.calibration
    assert known is not None
    assert after.digest != before.digest
    assert (known.coverage, known.split, known.faces, known.tta) == (0.9, "val", "none", False)
    assert known.num_faces == sum(band.num_faces for band in known.bands) > 20


def test_score_table_load_and_predict_tell_the_same_intervals(folder: Path, made: Path, tmp_path: Path) -> None:
    table = Predictions.open(scored(folder, "ages", "made"))
    assert table.interval_coverage == 0.9
    rows = parquet.read_table(table.files[0]).to_pandas()
    ok = rows[rows["status"] == "ok"]
    assert rows[rows["status"] != "ok"]["age_lower"].isna().all()
    model = agescale.load(made, device="cpu")
    known = checkpoints.read(str(made)).spec.calibration
    assert known is not None
    cdf_NA = stored_cdfs(parquet.read_table(table.files[0])["age_cdf"])
    derived = cdf.prediction_columns(cdf_NA, None, "median", known)
    for name in ("age", "age_lower", "age_upper"):
        np.testing.assert_array_equal(ok[name], derived[name])
    assert model.interval_coverage == 0.9
    assert agescale.load(folder / "model", device="cpu").interval_coverage is None
    first = ok.iloc[0]
    said = model.predict(first["uri"])
    assert said[0].interval == (said[0].age_lower, said[0].age_upper)
    assert said[0].interval == pytest.approx((first["age_lower"], first["age_upper"]), abs=1e-3)
    assert said.to_arrow()["age_lower"].to_pylist() == [said[0].age_lower]
    told = photos.predict(PredictConfig((first["uri"],), checkpoint=str(made), device="cpu"))
    assert told.interval_share == 0.9
    assert told.told["age_upper"][0].as_py() == pytest.approx(first["age_upper"], abs=1e-3)
    export(TableConfig(str(folder / "catalog"), table.uri, str(tmp_path / "ages.parquet")))
    exported = parquet.read_table(str(tmp_path / "ages.parquet")).to_pandas()
    assert exported["age_lower"].dropna().tolist() == ok["age_lower"].tolist()


def test_the_same_command_changes_nothing_and_another_one_is_refused(folder: Path, made: Path) -> None:
    before = files_below(folder)
    done = calibrate(config(folder, "made"))
    assert done.notes == [f"{made}: stands already; nothing to do"]
    assert files_below(folder) == before
    with pytest.raises(ValueError, match=r"another checkpoint stands there \(coverage was 0.9, is 0.8\)"):
        calibrate(config(folder, "made", interval_coverage=0.8))
    with pytest.raises(ValueError, match=r"--out .*/model: there is the checkpoint"):
        calibrate(config(folder, "model"))
    assert files_below(folder) == before


def test_killed_amid_it_goes_on_without_scoring_again(
    folder: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(calibration.checkpoints, "copy_weights", die)
        with pytest.raises(KeyboardInterrupt):
            calibrate(config(folder, "killed"))
    assert [path.name for path in (folder / "killed").iterdir()] == ["LICENSE.txt"]
    (folder / "killed" / ".weights-of-a-write-that-was-cut-short").write_bytes(b"...")
    monkeypatch.setattr("agescale.scoring.execution.run", die)
    assert calibrate(config(folder, "killed")).checkpoint.digest == checkpoints.read(str(made)).digest
    assert json.loads((folder / "killed" / "config.json").read_text())["digest"]


def test_predictions_of_that_very_model_are_taken_and_others_refused_in_one_line(
    folder: Path, made: Path, tmp_path: Path
) -> None:
    ours, theirs = scored(folder, "ours", "model"), scored(folder, "theirs", "made")
    done = calibrate(config(folder, "taken", predictions=ours))
    assert done.checkpoint.digest == checkpoints.read(str(made)).digest
    assert not (folder / "taken.agescale" / "predictions").exists()
    with pytest.raises(ValueError, match=r"theirs: predictions of model \w{16}, and .*model is \w{16}$"):
        calibrate(config(folder, "refused", predictions=theirs))
    with pytest.raises(ValueError, match=r"--tta: .*/ours were scored without it; score with it, or leave both out"):
        calibrate(config(folder, "refused", predictions=ours, tta=True))
    with pytest.raises(ValueError, match=r"--out .*: there is the table of predictions"):
        calibrate(config(folder, "ours", predictions=ours))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"there are other files already \(letter.txt\)"):
        calibrate(config(tmp_path, "mine", catalog=str(folder / "catalog"), checkpoint=str(folder / "model")))
    assert not (folder / "refused").exists()


def test_a_model_that_is_used_otherwise_than_it_was_calibrated_says_so(
    folder: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "the intervals were found with --faces none, and are used with --faces none --tta: they may hold less often"
    mirrored = scored(folder, "mirrored", "made", tta=True)
    assert line in capsys.readouterr().out
    scored(folder, "mirrored", "made", tta=True)
    assert line not in capsys.readouterr().out, "nothing was left to score"
    photo = str(next((folder / "faces").glob("*.chip.jpg")))
    told = [
        photos.predict(PredictConfig((photo,), checkpoint=str(made), device="cpu", tta=tta)) for tta in (True, False)
    ]
    assert [each.used_otherwise for each in told] == [line, ""]
    assert Predictions.open(mirrored).run["tta"]


def test_a_checkpoint_that_was_calibrated_on_other_faces_than_it_looks_at_says_so(made: Path) -> None:
    checkpoint = checkpoints.read(str(made))
    assert calibration._used_otherwise(checkpoint) == []
    known = replace(checkpoint.spec.calibration, faces="largest", tta=True)  # type: ignore[type-var]
    (line,) = calibration._used_otherwise(replace(checkpoint, spec=replace(checkpoint.spec, calibration=known)))
    assert line.endswith("are used with --faces none: they may hold less often, unless jobs are told --faces largest")


def test_too_few_faces_are_one_line_that_says_how_many_it_takes(folder: Path) -> None:
    line = (
        r"intervals that cover 99% take 99 faces at least, better some hundreds, and .* \(val\) has \d\d with an exact"
    )
    with pytest.raises(ValueError, match=line):
        calibrate(config(folder, "few", interval_coverage=0.99))
    make_checkpoint(folder / "names", "classification", "YOUNG,OLD")
    with pytest.raises(ValueError, match="names: says no ages, its model only chooses among groups by name"):
        calibrate(config(folder, "few", checkpoint=str(folder / "names")))
    assert not (folder / "few").exists()


def test_a_table_without_its_intervals_is_wrong(folder: Path, made: Path) -> None:
    table = Predictions.open(scored(folder, "cut", "made"))
    catalog = str(folder / "catalog")
    assert verify(VerifyConfig(catalog, table.uri)).num_problems == 0
    rows = parquet.read_table(table.files[0])
    none = pa.nulls(len(rows), pa.float32())
    parquet.write_table(table.files[0], rows.set_column(rows.schema.get_field_index("age_upper"), "age_upper", none))
    assert "ok without age_upper" in verify(VerifyConfig(catalog, table.uri)).problems[0]


def test_on_s3_it_makes_the_same_checkpoint(folder: Path, made: Path, s3: str) -> None:
    ours = scored(folder, "ours", "model")
    done = calibrate(config(folder, "made", out=f"{s3}/calibrated", predictions=ours))
    assert checkpoints.read(f"{s3}/calibrated").digest == done.checkpoint.digest == checkpoints.read(str(made)).digest
    checkpoints.check_files(f"{s3}/calibrated", done.checkpoint)
    assert "stands already" in calibrate(config(folder, "made", out=f"{s3}/calibrated", predictions=ours)).notes[0]


def test_a_training_that_begins_from_it_has_no_calibration(made: Path) -> None:
    model = AgeModel(ModelSpec(encoder="cnn", task="distribution", age_groups="25-years", image_size=32))
    checkpoints.load_into(model, str(made))
    assert model.spec.calibration is None


def test_evaluate_tells_whether_they_hold_where_there_are_any(folder: Path, made: Path, tmp_path: Path) -> None:
    catalog = str(folder / "catalog")
    for name in ("made", "model"):
        table = scored(folder, f"{name}-ages", name)
        done = evaluate(EvaluateConfig(catalog, table, str(tmp_path / name), split=("test", "val")))
        numbers = json.loads((tmp_path / name / "metrics.json").read_text())
        page = Path(done.page).read_text()
        has_intervals = name == "made"
        assert ("age_intervals" in numbers["test"]) == has_intervals
        assert ("Whether the intervals hold" in page) == has_intervals
        assert (tmp_path / name / "intervals.csv").exists() == has_intervals
    val = json.loads((tmp_path / "made" / "metrics.json").read_text())["val"]["age_intervals"]
    assert (val["wanted"], val["num_rows"]) == (0.9, checkpoints.read(str(made)).spec.calibration.num_faces)
    assert 0.9 <= val["coverage"] < 1
    test = json.loads((tmp_path / "made" / "metrics.json").read_text())["test"]["age_intervals"]
    assert (val["is_calibrated_on"], test["is_calibrated_on"]) == (True, False)
    done = evaluate(EvaluateConfig(catalog, str(folder / "made-ages"), str(tmp_path / "seen"), split=("val",)))
    assert "were made with these very faces" in Path(done.page).read_text()
    assert "with which they were calibrated" in (tmp_path / "seen" / "model_card.md").read_text()
    parts = {line.split(",")[1] for line in (tmp_path / "made" / "intervals.csv").read_text().splitlines()[1:]}
    assert parts == {"all", "predicted decade", "gender", "ethnicity"}


def test_the_job_tells_the_bands_and_the_new_model(folder: Path, made: Path, run_job: RunJob) -> None:
    given = ("--catalog", folder / "catalog", "--checkpoint", folder / "model", "--out", folder / "by-job")
    done = run_job("jobs/calibrate.py", *given, "--num-workers", 0, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert f"checkpoint: {folder / 'by-job'} (model {checkpoints.read(str(made)).digest})" in done.stdout
    assert "│ 0+ " in done.stdout, "too few faces for several bands"


def test_whatever_goes_with_the_included_weights_goes_with_calibrated_ones() -> None:
    beside = {path.name for path in included.FOLDER.iterdir() if path.suffix not in (".pt", ".json")}
    assert beside <= set(calibration.NOTICES)
