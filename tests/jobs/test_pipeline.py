"""The whole pipeline as its users run it, job by job, from a folder and from a real S3 server, with one outcome."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from conftest import RunJob
from factories import copy_folder

from agescale.config import PredictConfig
from agescale.scoring import photos
from agescale.store import objects, parquet, paths
from agescale.synthetic import dataset
from agescale.tables.predictions import Predictions

TRAIN = ("--image-size", "32", "--phases", "all:2@1e-3", "--batch-size", "32")


def by_path(predictions: pa.Table, source: str) -> pa.Table:
    """Predictions by the path of their image below the source."""
    rows = predictions.select(["uri", "status", "age", "group"])
    paths = pc.replace_substring(rows["uri"], source, "")
    return rows.set_column(0, "path", paths).sort_by("path")


@pytest.mark.timeout(600)
def test_from_a_bucket_as_from_a_folder(tmp_path: Path, s3: str, run_job: RunJob) -> None:
    local, bucket = str(tmp_path), paths.join(s3, "pipeline")
    num_photos = dataset.write_dataset(tmp_path / "faces", "utkface", num_faces=80, size=48)
    copy_folder(f"{local}/faces", f"{bucket}/faces")

    def run(job: str, *arguments: str) -> str:
        result = run_job(f"jobs/{job}.py", *arguments)
        assert result.returncode == 0, result.stdout + result.stderr
        return str(result.stdout)

    catalog, ages = f"{bucket}/catalog", f"{bucket}/ages"
    run("catalog", "--source", f"{bucket}/faces", "--layout", "utkface", "--out", catalog)
    assert f"checkpoint: {bucket}/run/best" in run("train", "--catalog", catalog, "--out", f"{bucket}/run", *TRAIN)
    run("score", "--catalog", catalog, "--checkpoint", f"{bucket}/run/best", "--out", ages)
    said = run("evaluate", "--catalog", catalog, "--predictions", ages, "--out", f"{bucket}/report")
    assert f"{bucket}/report/report.html" in said
    assert json.loads(objects.read_bytes(f"{bucket}/report/metrics.json"))["test"]["num_rows"] > 0

    kinds = ("catalog", "run", "predictions", "report", "checkpoint", "nothing")
    folders = ("catalog", "run", "ages", "report", "run/best", "faces")
    standing = json.loads(run("status", "--format", "json", "--out", *(f"{bucket}/{name}" for name in folders)))
    assert tuple(each["kind"] for each in standing) == kinds
    assert [each["state"] for each in standing] == ["complete"] * 5 + [""]
    assert standing[1]["done"] == standing[1]["total"] == 2, "epochs"
    assert standing[2]["counts"]["ok"] > 0
    assert all(each["written_s_ago"] < 600 for each in standing[:5])

    copy_folder(f"{bucket}/run/best", f"{local}/best")
    without_ray = photos.predict(PredictConfig((f"{local}/faces",), f"{local}/best")).rows
    with_ray = parquet.read_tables(Predictions.open(ages).files, without_ray.column_names)
    theirs, ours = by_path(with_ray, f"{bucket}/faces"), by_path(without_ray, f"{local}/faces")
    assert len(ours) == num_photos
    assert theirs.drop_columns(["age"]).equals(ours.drop_columns(["age"]))
    both = [pc.fill_null(table["age"], -1).to_numpy() for table in (theirs, ours)]
    np.testing.assert_allclose(*both, atol=1e-3)


@pytest.mark.parametrize(
    ("job", "arguments"),
    [
        ("train", ("--catalog", "{s3}/catalog", "--out", "{tmp}/run")),
        ("score", ("--catalog", "{s3}/catalog", "--checkpoint", "{tmp}/best", "--out", "{tmp}/ages")),
        ("evaluate", ("--catalog", "{s3}/catalog", "--predictions", "{tmp}/ages", "--out", "{tmp}/report")),
    ],
)
def test_a_wrong_secret_is_one_clear_line(
    job: str, arguments: tuple[str, ...], tmp_path: Path, s3: str, run_job: RunJob
) -> None:
    filled = [argument.format(s3=s3, tmp=tmp_path) for argument in arguments]
    if job == "score":
        filled[3] = f"{s3}/run/best"
    result = run_job(f"jobs/{job}.py", *filled, env={"AWS_SECRET_ACCESS_KEY": "wrong"})
    assert result.returncode == 2
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith(f"error: {s3}")
    assert "access refused" in lines[0]
    assert "check the credentials" in lines[0]
