"""The checkpoint that comes with agescale: whole, small, told by its card; and it predicts where no other is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import RunJob
from PIL import Image

import agescale
from agescale.cataloging.driver import build_catalog
from agescale.config import CatalogConfig, ScoreConfig
from agescale.models import checkpoints, included
from agescale.models.age_model import AgeModel
from agescale.scoring.driver import score
from agescale.store import parquet
from agescale.synthetic import portraits
from agescale.tables.predictions import Predictions

MAX_BYTES = 7_100_000


def draw_photo(path: Path, num_people: int) -> None:
    """People side by side in front of a wall."""
    wall = Image.new("RGB", (60 + 260 * max(1, num_people), 360), (150, 160, 150))
    for number in range(num_people):
        rng = np.random.default_rng(number)
        wall.paste(portraits.draw_face(rng, 20 + 20 * number, "female", "White", 240), (40 + 260 * number, 60))
    wall.save(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for num_people in (0, 1, 3):
        draw_photo(folder / f"{num_people}.jpg", num_people)
    return folder


def test_it_is_whole_and_small_and_its_card_is_about_it() -> None:
    known = checkpoints.read(str(included.FOLDER))
    checkpoints.check_files(str(included.FOLDER), known)
    assert known.digest in included.card()
    assert known.digest in included.summary()
    names = {file.name for file in included.FOLDER.iterdir()}
    assert names == {checkpoints.CONFIG_NAME, known.weights_file, included.CARD_NAME, included.NOTICE_NAME}
    assert (included.FOLDER / known.weights_file).stat().st_size < MAX_BYTES
    assert "/" not in str(known.provenance["settings"].get("catalog")), "places on the machine that trained it"
    assert known.provenance["data_license"]


def test_it_predicts_where_no_checkpoint_is_named(photos: Path, tmp_path: Path) -> None:
    """Photos of nobody, of one person, of three: each face its age, the same by load and by a catalog's scores."""
    named, unnamed = agescale.load(included.FOLDER, faces="all"), agescale.load(faces="all")
    assert named.digest == unnamed.digest
    results = unnamed.predict(photos)
    assert [(Path(str(each.uri)).name, each.status) for each in results] == [
        ("0.jpg", "no_face"), ("1.jpg", "ok"), ("3.jpg", "ok"), ("3.jpg", "ok"), ("3.jpg", "ok"),
    ]  # fmt: skip
    catalog, out = str(tmp_path / "catalog"), str(tmp_path / "ages")
    build_catalog(CatalogConfig(source=str(photos), out=catalog))
    score(ScoreConfig(catalog=catalog, out=out, faces="all", num_workers=0))
    table = Predictions.open(out)
    assert table.metadata["checkpoint"] == included.NAME
    rows = parquet.read_tables(table.files, ["uri", "face", "age"]).sort_by(
        [("uri", "ascending"), ("face", "ascending")]
    )
    ages = [age for age in rows["age"].to_pylist() if age is not None]
    assert ages == pytest.approx([each.age for each in results if each.age is not None], abs=1e-3)


def test_a_copy_of_it_is_a_checkpoint_to_train_on_from(tmp_path: Path) -> None:
    out = tmp_path / "copy"
    out.mkdir()
    (out / included.NOTICE_NAME).write_text("cut")
    (out / ".of-a-killed-process").write_text("")
    known = included.copy(str(out))
    (out / ".of-a-killed-process").unlink()
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    assert included.copy(str(out)) == known
    assert before == {file.name: file.read_bytes() for file in out.iterdir()}
    assert known.digest in (out / included.CARD_NAME).read_text()
    model = AgeModel(known.spec)
    assert checkpoints.load_into(model, str(out)).startswith("took the encoder and the head and the gender head")
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32, torch.int64}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"there are other files already \(notes.txt\)"):
        included.copy(str(tmp_path / "other"))


def test_the_jobs_say_that_they_use_it_and_what_it_is(photos: Path, tmp_path: Path, run_job: RunJob) -> None:
    done = run_job("jobs/predict.py", photos / "1.jpg", "--format", "json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"{included.NOTE}\n"
    assert json.loads(done.stdout)[0]["status"] == "ok"
    done = run_job("jobs/weights.py", "included")
    assert done.stdout == included.card()
    done = run_job("jobs/weights.py", "included", "--source", "x", "--out", tmp_path / "copy")
    assert done.stderr == "error: --source x: included comes with agescale; leave it out\n"
