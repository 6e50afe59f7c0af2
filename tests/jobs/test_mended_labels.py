"""A week's story on the command line: mistakes in labels are found and mended, and nothing is read or scored twice."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path

import pytest
from conftest import RunJob, make_checkpoint

from agescale.config import EvaluateConfig, VerifyConfig
from agescale.evaluation.driver import evaluate
from agescale.faces import images
from agescale.scoring.verification import verify
from agescale.store import objects, paths
from agescale.synthetic import dataset
from agescale.tables import catalogs, folders
from agescale.tables.catalogs import Catalog
from agescale.tables.predictions import Predictions

NUM_FACES = int(os.environ.get("AGESCALE_NUM_FACES", "60"))
MISTAKES = {5: ("age", "27,5"), 11: ("gender", "fmale"), 17: ("age", "130")}
"""Rows of the CSV and what is mistyped in them; a cell, and what stands there."""


def write_csv(file: Path, rows: list[dict[str, str]]) -> None:
    with open(file, "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def spoil_pictures(folder: Path) -> None:
    """Other bytes in every picture, of the same size and time: whoever reads one again gets nothing."""
    for path in filter(images.is_image_name, map(str, folder.rglob("*"))):
        status = os.stat(path)
        Path(path).write_bytes(bytes(status.st_size))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_labels_are_mended_without_reading_or_scoring_anything_again(tmp_path: Path, run_job: RunJob) -> None:
    photos, labels = tmp_path / "photos", tmp_path / "photos" / "labels.csv"
    dataset.write_dataset(photos, "csv", num_faces=NUM_FACES, size=48, num_broken=0)
    with open(labels, encoding="utf-8") as file:
        right = list(csv.DictReader(file))
    wrong = [dict(row) for row in right]
    for number, (column, text) in MISTAKES.items():
        wrong[number][column] = text
    write_csv(labels, wrong)
    catalog, ages = str(tmp_path / "catalog"), str(tmp_path / "ages")

    def run(job: str, *arguments: object) -> str:
        result = run_job(f"jobs/{job}.py", *arguments, timeout_s=600)
        assert result.returncode == 0, result.stdout + result.stderr
        return str(result.stdout)

    command = ("--source", photos, "--layout", "csv", "--csv", labels, "--gender-column", "gender", "--out", catalog)
    command += ("--pack", 48)
    run("catalog", *command)
    found = objects.read_bytes(catalogs.findings_uri(catalog, "csv")).decode("utf-8-sig").splitlines()
    told = {int(row["line"]) - 2: row["detail"] for row in csv.DictReader(found) if row["kind"] in TOLD}
    assert told.keys() == MISTAKES.keys()
    assert all(repr(text) in told[number] for number, (_, text) in MISTAKES.items())

    checkpoint = make_checkpoint(tmp_path / "model")
    run("score", "--catalog", catalog, "--checkpoint", checkpoint, "--out", ages)
    scored = {name: os.stat(paths.join(ages, name)).st_mtime_ns for name in Predictions.find(ages).names}
    parts = folders.list_parts(catalog, "catalog")
    judged = judge(catalog, ages, tmp_path / "before")

    spoil_pictures(photos)
    write_csv(labels, right)
    said = run("catalog", *command)
    assert re.search(r"relabelled\W+3\W", said)
    assert "labels changed (images not read again): 3" in said
    assert f"{photos}/{right[5]['file_name']}: nothing -> {right[5]['age']}" in said
    assert f"{photos}/{right[11]['file_name']}: gender fmale -> {right[11]['gender']}" in said
    assert folders.list_parts(catalog, "catalog")[:-1] == parts
    rows = Catalog.open(catalog).read(["uri", "age_low", "gender", "read_error", "width"]).to_pylist()
    assert all(row["read_error"] is None and row["width"] for row in rows)
    by_name = {row["uri"].removeprefix(f"{photos}/"): row for row in rows}
    assert all(by_name[row["file_name"]]["age_low"] == float(row["age"]) for row in right)
    assert {row["gender"] for row in rows} == {"female", "male"}
    assert not TOLD & set(Catalog.open(catalog).findings["kind"].to_pylist())

    assert "scored 0 images now" in run("score", "--catalog", catalog, "--checkpoint", checkpoint, "--out", ages)
    assert scored == {name: os.stat(paths.join(ages, name)).st_mtime_ns for name in Predictions.find(ages).names}
    assert verify(VerifyConfig(catalog, ages)).problems == ()
    mended = judge(catalog, ages, tmp_path / "after")
    assert mended["num_without_label"] == judged["num_without_label"] - 2 == 0
    assert mended["num_rows"] == judged["num_rows"] + 2

    again = run("catalog", *command)
    assert re.search(r"relabelled\W+0\W", again)
    assert len(folders.list_parts(catalog, "catalog")) == len(parts) + 1


TOLD = {"unlabelled", "unusual", "malformed"}


def judge(catalog: str, ages: str, out: Path) -> dict[str, int]:
    """Sums over all splits of what evaluate counts."""
    evaluate(EvaluateConfig(catalog, ages, str(out), split=("train", "val", "test")))
    metrics = json.loads((out / "metrics.json").read_text())
    counts = [metrics[split] for split in ("train", "val", "test")]
    return {name: sum(each[name] for each in counts) for name in ("num_rows", "num_without_label")}
