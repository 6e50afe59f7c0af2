"""The whole pipeline as its users run it, job by job, from a folder and from a real S3 server, with one outcome."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from agescale import catalogs, listing, storage, synthetic

TRAIN = ("--image-size", "32", "--phases", "all:2@1e-3", "--batch-size", "32")


def upload(folder: Path, uri: str) -> None:
    for item in listing.list_files(str(folder)):
        storage.write_bytes(storage.join(uri, item.relative), Path(item.uri).read_bytes())


def catalog_rows(uri: str, source: str) -> list[dict[str, Any]]:
    """A catalog without what differs between stores: URIs as paths below the source, no versions and times."""
    columns = ["uri", "size_bytes", "width", "height", "content_hash", "read_error", "age_low", "age_high", "gender",
               "ethnicity", "split", "label_error"]  # fmt: skip
    rows = catalogs.read_catalog(uri, columns).drop_columns(["part", "row"]).to_pylist()
    return sorted(({**row, "uri": row["uri"].removeprefix(source)} for row in rows), key=lambda row: row["uri"])


def findings(uri: str, source: str) -> set[tuple[str, str]]:
    return {(row["uri"].removeprefix(source), row["kind"]) for row in catalogs.read_findings(uri).to_pylist()}


def predictions(uri: str) -> pa.Table:
    names = storage.list_names(uri, prefix="part-", suffix=".parquet")
    columns = ["uri", "status", "age", "group"]
    return pa.concat_tables([storage.read_table(storage.join(uri, name), columns) for name in names]).sort_by("uri")


@pytest.mark.timeout(600)
def test_from_a_bucket_as_from_a_folder(tmp_path: Path, s3: str, run_job: Any) -> None:
    local, bucket = str(tmp_path), storage.join(s3, "pipeline")
    synthetic.write_dataset(tmp_path / "faces", "utkface", num_faces=80, size=48)
    upload(tmp_path / "faces", storage.join(bucket, "faces"))

    def run(job: str, *arguments: str) -> str:
        result = run_job(f"jobs/{job}.py", *arguments)
        assert result.returncode == 0, result.stdout + result.stderr
        return str(result.stdout)

    for base in (local, bucket):
        run("catalog", "--source", f"{base}/faces", "--layout", "utkface", "--pack", "48", "--out", f"{base}/catalog")
    sources = {base: storage.join(base, "faces") for base in (local, bucket)}
    assert catalog_rows(f"{local}/catalog", sources[local]) == catalog_rows(f"{bucket}/catalog", sources[bucket])
    assert findings(f"{local}/catalog", sources[local]) == findings(f"{bucket}/catalog", sources[bucket])

    said = run("train", "--catalog", f"{bucket}/catalog", "--out", f"{bucket}/run", *TRAIN)
    assert f"checkpoint: {bucket}/run/best" in said
    assert "nothing to do" in run("train", "--catalog", f"{bucket}/catalog", "--out", f"{bucket}/run", *TRAIN)
    for base in (local, bucket):
        run("score", "--catalog", f"{base}/catalog", "--checkpoint", f"{bucket}/run/best", "--out", f"{base}/ages")
    ours, theirs = predictions(f"{local}/ages"), predictions(f"{bucket}/ages")
    names = [[uri.removeprefix(sources[base]) for uri in table["uri"].to_pylist()]
             for base, table in ((local, ours), (bucket, theirs))]  # fmt: skip
    assert names[0] == names[1]
    assert ours["status"].equals(theirs["status"])
    ages = [pc.fill_null(table["age"], -1).to_numpy() for table in (ours, theirs)]
    np.testing.assert_allclose(ages[0], ages[1], atol=1e-3)

    for base in (local, bucket):
        arguments = ("--catalog", f"{base}/catalog", "--predictions", f"{base}/ages", "--out", f"{base}/report")
        assert "report.html" in run("evaluate", *arguments)
    metrics = [json.loads(storage.read_bytes(f"{base}/report/metrics.json")) for base in (local, bucket)]
    assert metrics[0]["test"]["mae"] == pytest.approx(metrics[1]["test"]["mae"], abs=1e-3)
    assert metrics[0]["test"]["num_rows"] == metrics[1]["test"]["num_rows"] > 0


@pytest.mark.parametrize(
    ("job", "arguments"),
    [
        ("train", ("--catalog", "{s3}/catalog", "--out", "{tmp}/run")),
        ("score", ("--catalog", "{s3}/catalog", "--checkpoint", "{tmp}/best", "--out", "{tmp}/ages")),
        ("evaluate", ("--catalog", "{s3}/catalog", "--predictions", "{tmp}/ages", "--out", "{tmp}/report")),
    ],
)
def test_a_wrong_secret_is_one_clear_line(
    job: str, arguments: tuple[str, ...], tmp_path: Path, s3: str, run_job: Any
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
