"""What README.md, docs/python.md and the notebook show runs as it is printed, and says what the jobs say."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

import agescale
from agescale.cataloging.driver import build_catalog
from agescale.config import CatalogConfig, ScoreConfig
from agescale.models import checkpoints
from agescale.models.age_model import AgeModel
from agescale.models.spec import ModelSpec
from agescale.scoring.driver import score
from agescale.synthetic import dataset
from agescale.tables import schema

pytestmark = pytest.mark.usefixtures("local_ray")

REPO = Path(__file__).parents[2]
NUM_FACES = 24


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which ``runs/demo`` is what `make demo` leaves, made by a model that has learned nothing."""
    folder = tmp_path_factory.mktemp("python")
    demo = folder / "runs" / "demo"
    dataset.write_dataset(demo / "faces", "utkface", num_faces=NUM_FACES, size=48)
    torch.manual_seed(0)
    model = AgeModel(ModelSpec(encoder="cnn", task="distribution", age_groups="25-years", image_size=32))
    checkpoints.save(str(demo / "run" / "best"), model.spec, model.state_dict(), checkpoints.RunProgress(), {})
    build_catalog(CatalogConfig(source=str(demo / "faces"), layout="utkface", out=str(demo / "catalog")))
    where = {"catalog": str(demo / "catalog"), "checkpoint": str(demo / "run" / "best")}
    score(ScoreConfig(**where, out=str(demo / "predictions"), num_workers=0))
    return folder


def code_blocks(text: str) -> list[str]:
    """The indented blocks of a page."""
    return [textwrap.dedent(block) for block in re.findall(r"^\n((?: {4}.*\n|\n)+)", text, re.MULTILINE)]


def test_a_model_in_ones_own_program_says_what_scoring_says(demo: Path) -> None:
    table = agescale.read_predictions(demo / "runs/demo/predictions").to_table().sort_by("uri")
    results = agescale.load(demo / "runs/demo/run/best", "cpu").predict(table["uri"].to_pylist())
    assert [result.status for result in results] == table["status"].to_pylist()
    assert len({result.status for result in results}) > 1
    for column, tolerance in (("age", 1e-3), ("age_std", 1e-3), ("group_probability", 1e-4)):
        theirs, ours = table[column].to_numpy(), results.to_arrow()[column].to_numpy()
        np.testing.assert_allclose(ours, theirs, atol=tolerance)
    assert [result.group for result in results] == table["group"].to_pylist()


def test_the_lines_in_the_readme_run_as_they_are_printed(
    demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(demo)
    section = (REPO / "README.md").read_text().partition("\n## From Python\n")[2].partition("\n## ")[0]
    (code,) = code_blocks(section)
    names: dict[str, Any] = {}
    exec(code, names)
    assert len(names["current"]) == len(names["table"]) == len(capsys.readouterr().out.splitlines())
    theirs, ours = (np.sort(frame["age"].dropna()) for frame in (names["current"], names["table"]))
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_the_examples_of_the_page_run_one_after_the_other(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo)
    names: dict[str, Any] = {}
    for code in code_blocks((REPO / "docs" / "python.md").read_text()):
        # what Ray runs elsewhere has the folder in which this test's Ray was started
        exec(code.replace('"runs/demo', f'"{demo}/runs/demo').replace('"my-ages"', f'"{demo}/my-ages"'), names)
    assert names["images"].count_rows() == names["ages"].count_rows() == NUM_FACES + 6
    assert names["adults"]["age"].min() >= 18
    parts = sorted((demo / "my-ages").glob("*.parquet"))
    expected = ["path", *names["results"].to_arrow().column_names[1:]]
    for part in parts:  # some of which hold none but broken images
        written = pq.read_schema(part)
        assert written.names == expected
        assert all(written.field(name).type == schema.PREDICTIONS.field(name).type for name in expected[1:])
    scored = pd.concat(pd.read_parquet(part) for part in parts).set_index("path")["age"]
    known = names["ages"].to_table(columns=["uri", "age"]).to_pandas().set_index("uri")["age"]
    pd.testing.assert_series_equal(scored.sort_index(), known.sort_index(), check_names=False, atol=1e-3)


def test_the_notebook_runs_from_top_to_bottom(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    notebook = json.loads((REPO / "docs" / "notebook.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    (demo / "docs").mkdir()
    monkeypatch.chdir(demo / "docs")
    names: dict[str, Any] = {}
    for cell in cells:
        exec("".join(cell["source"]), names)
    names["plt"].close("all")
    assert [result.status for result in names["results"]][-1] == "missing"
    assert len(names["scored"]) == NUM_FACES + 6


def test_what_has_changed_or_gone_since_is_not_read(demo: Path) -> None:
    demo = demo / "runs" / "demo"
    ages = agescale.read_predictions(demo / "predictions")
    num_rows = ages.count_rows()
    gone, changed, *_ = sorted((demo / "faces").glob("*.jpg"))
    gone.unlink()
    changed.write_bytes(changed.read_bytes() + b"more")
    build_catalog(CatalogConfig(source=str(demo / "faces"), layout="utkface", out=str(demo / "catalog")))
    assert agescale.read_catalog(demo / "catalog").count_rows() == num_rows - 1
    current = agescale.read_predictions(demo / "predictions")
    assert current.count_rows() == num_rows - 2
    assert not {str(gone), str(changed)} & set(current.to_table(columns=["uri"])["uri"].to_pylist())
