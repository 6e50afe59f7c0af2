"""A table of predictions is the same whatever computed it, and says what did."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_checkpoint

from agescale.cataloging.driver import build_catalog
from agescale.config import CatalogConfig, ScoreConfig
from agescale.models import parity
from agescale.scoring import execution
from agescale.scoring.driver import score
from agescale.tables.datasets import read_predictions
from agescale.tables.predictions import Predictions

pytestmark = pytest.mark.usefixtures("no_ray_for_few")


def test_a_table_says_what_computed_it(
    tmp_path: Path, drawn_faces: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    catalog = str(tmp_path / "catalog")
    build_catalog(CatalogConfig(source=str(drawn_faces / "unlabelled"), layout="unlabelled", out=catalog))
    auto = ScoreConfig(catalog=catalog, checkpoint=make_checkpoint(tmp_path / "checkpoint"), out="")
    ages = {}
    for name, config in {
        "few": auto,
        "eager": replace(auto, backend="eager"),
        "openvino": replace(auto, backend="openvino"),
    }.items():
        out = str(tmp_path / name)
        assert score(replace(config, out=out)).by_status["ok"] > 5
        assert Predictions.find(out).metadata["backend"] == ("openvino" if name == "openvino" else "eager")
        rows = read_predictions(out).to_table(["uri", "age"])
        ages[name] = dict(zip(rows["uri"].to_pylist(), rows["age"].to_pylist(), strict=True))
    assert ages["few"] == ages["eager"]
    assert ages["openvino"].keys() == ages["eager"].keys()
    pairs = [(ages["openvino"][uri], age) for uri, age in ages["eager"].items() if age is not None]
    np.testing.assert_allclose(*zip(*pairs, strict=True), atol=2e-3)  # of flat distributions an age moves more

    monkeypatch.setattr(execution, "MIN_COMPILED_ROWS", 1)
    monkeypatch.setattr(parity, "MAX_APART", -1.0)
    capsys.readouterr()
    score(replace(auto, out=str(tmp_path / "otherwise")))
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("computed by torch: ")]
    assert len(said) == 1
    assert "OpenVINO says otherwise" in said[0]
