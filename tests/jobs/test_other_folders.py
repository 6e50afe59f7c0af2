"""An --out that is somebody else's folder is refused in one line, by every job, before anything is written."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from conftest import make_checkpoint

from agescale.cataloging.driver import build_catalog
from agescale.commands import draw
from agescale.config import (
    CatalogConfig,
    CompactConfig,
    EvaluateConfig,
    PredictConfig,
    ScoreConfig,
    SweepConfig,
    TableConfig,
    TrainConfig,
    VerifyConfig,
)
from agescale.evaluation.driver import evaluate
from agescale.scoring import photos
from agescale.scoring.driver import score
from agescale.scoring.photos import predict
from agescale.scoring.verification import verify
from agescale.store import objects, parquet
from agescale.sweeping.driver import sweep
from agescale.synthetic import dataset
from agescale.tables import folders, schema, units
from agescale.tables.catalogs import Catalog
from agescale.tables.compaction import compact
from agescale.tables.exports import export
from agescale.training import plan
from agescale.training.driver import train

SPACE = 'SPACE = [{"encoder": ["cnn"], "widths": [(4, 8)], "phases": ["all:{epochs}@{lr}"], "lr": [1e-3]}]'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photos and their catalog, predictions of it, a checkpoint, the first file of a run and of a sweep, a report."""
    dataset.write_dataset(tmp_path / "faces", "unlabelled", num_faces=3, size=32, num_broken=0)
    catalog = str(tmp_path / "catalog")
    build_catalog(CatalogConfig(str(tmp_path / "faces"), catalog))
    (part,) = Catalog.open(catalog).parts
    run = {"catalog": catalog, "catalog_id": Catalog.open(catalog).metadata["id"], "unit_rows": None, "split": ""}
    run |= {"model": "beef", "age_groups": "25-years", "tta": False}
    said = schema.with_metadata("predictions", {"run": run, "statuses": {}, "gone": {}, "model_card": {}})
    unit = units.Unit(part.name, 0, part.num_rows)
    parquet.write_table(
        str(tmp_path / "predictions" / unit.file_name("beef")), schema.PREDICTIONS.empty_table().cast(said)
    )
    make_checkpoint(tmp_path / "checkpoint")
    for name in ("run/run.json", "sweep/sweep.json", "report/report.html", "csv/images.parquet"):
        objects.write_bytes(str(tmp_path / name), b"{}")
    (tmp_path / "space.py").write_text(SPACE)
    return tmp_path


def start(job: str, folder: Path | str, out: str) -> None:
    """Runs the job ``job`` on the folder's tables, with ``out`` in it."""
    catalog, predictions, checkpoint = (f"{folder}/{name}" for name in ("catalog", "predictions", "checkpoint"))
    to, space = f"{folder}/{out}", f"{folder}/space.py".removeprefix("file://")
    if job == "catalog":
        build_catalog(CatalogConfig(f"{folder}/faces", to))
    elif job == "train":
        train(TrainConfig((catalog,), out=to, task="reconstruction", image_size=32))
    elif job == "sweep":
        sweep(SweepConfig(catalog, to, space), TrainConfig())
    elif job == "score":
        score(ScoreConfig(catalog, to, checkpoint))
    elif job == "draw":
        draw.main(synthetic_config(to))
    elif job == "predict":
        predict(PredictConfig((f"{folder}/faces",), checkpoint, draw=to))
    elif job == "predict to a file":
        predict(PredictConfig((f"{folder}/faces",), checkpoint, out=f"{to}/ages.csv"))
    elif job == "table":
        export(TableConfig(catalog, predictions, to))
    elif job == "table to a file":
        export(TableConfig(catalog, predictions, f"{to}/ages.csv"))
    elif job == "compact":
        compact(CompactConfig(catalog, to))
    else:
        compact(CompactConfig(catalog, f"{folder}/new", predictions, to))


def synthetic_config(out: str) -> draw.DrawConfig:
    return draw.DrawConfig(out, num_faces=2)


EVERYBODYS = ("catalog", "catalog.agescale", "predictions", "faces", "checkpoint", "run", "sweep", "report", ".")
OUTS = {
    "catalog": EVERYBODYS[1:],
    "train": (*EVERYBODYS[:5], "sweep", "report", ".", "csv", "catalog/run", "faces/run"),
    "sweep": (*EVERYBODYS[:6], "report", ".", "csv", "catalog/sweep", "faces/sweep"),
    "score": ("catalog", *EVERYBODYS[3:], "catalog.agescale", "catalog/ages", "faces/ages", "checkpoint/ages"),
    "draw": (*EVERYBODYS[:3], *EVERYBODYS[4:]),
    "predict": EVERYBODYS,
    "predict to a file": ("catalog", "catalog.agescale", "predictions", "checkpoint"),
    "table": (*EVERYBODYS, "catalog/table", "predictions/table", "faces/table"),
    "table to a file": ("catalog", "catalog.agescale", "predictions"),
    "compact": (*EVERYBODYS, "catalog/new", "predictions", "faces/new"),
    "compact predictions": (*EVERYBODYS, "new", "new/ages", "catalog/ages", "predictions/ages"),
}


@pytest.mark.parametrize(("job", "out"), [(job, out) for job, outs in OUTS.items() for out in outs])
def test_a_folder_that_is_something_elses_is_refused_before_anything_is_written(
    job: str, out: str, folder: Path
) -> None:
    before = files_below(folder)
    with pytest.raises(ValueError, match=r"give (another|a folder of)") as refusal:
        start(job, folder, out)
    assert "\n" not in str(refusal.value)
    assert files_below(folder) == before


@pytest.mark.parametrize("job", OUTS)
def test_each_job_takes_uris_of_files(job: str, folder: Path) -> None:
    """They are the same folders by other names: each is refused its own input, which it has to find for that."""
    with pytest.raises(ValueError, match=rf"{folder}/.*give (another|a folder of)"):
        start(job, f"file://{folder}", "faces" if job in ("catalog", "predict") else "catalog")


def test_jobs_that_only_read_tables_take_uris_of_files(folder: Path) -> None:
    catalog, predictions = f"file://{folder}/catalog", f"file://{folder}/predictions"
    assert verify(VerifyConfig(catalog, predictions)).num_units == 1
    with pytest.raises(ValueError, match=f"^{folder}/catalog: none of its images has a label to judge by"):
        evaluate(EvaluateConfig(catalog, predictions, f"file://{folder}/judged"))


def files_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_or_a_sweep_that_was_killed_behind_its_first_file_is_known(tmp_path: Path) -> None:
    plan.output(f"{tmp_path}/new/run.json", "a run").check({})
    rows = pa.table({"uri": ["a"]}).replace_schema_metadata({"catalog_ids": "[]"})
    parquet.write_table(str(tmp_path / "run" / plan.IMAGES_NAME), rows)
    plan.output(f"{tmp_path}/run/run.json", "a run").check({})
    objects.write_bytes(str(tmp_path / "run" / "run.json"), b"")
    plan.output(f"{tmp_path}/run/run.json", "a run").check({})
    with pytest.raises(ValueError, match=r"already \(run.json\), and a sweep has a folder of its own"):
        plan.output(f"{tmp_path}/run/sweep.json", "a sweep").check({})


def test_drawn_faces_and_copies_go_where_such_are(folder: Path) -> None:
    draw.main(synthetic_config(str(folder / "drawn")))
    draw.main(synthetic_config(str(folder / "drawn")))
    predict(PredictConfig((f"{folder}/faces",), str(folder / "checkpoint"), draw=str(folder / "copies")))
    (folder / "copies" / "0001-photo-000000.jpg").unlink()
    predict(PredictConfig((f"{folder}/faces",), str(folder / "checkpoint"), draw=str(folder / "copies")))
    assert (folder / "copies" / photos.PAGE_NAME).is_file()
    assert len(list((folder / "copies").glob("*.jpg"))) == 4


def test_a_catalog_and_what_is_made_of_it_may_stand_among_the_photos(folder: Path) -> None:
    out = f"{folder}/faces/catalog"
    build_catalog(CatalogConfig(f"{folder}/faces", out))
    folders.output(f"{folder}/faces/ages", "predictions").check(Catalog.open(out).places)
