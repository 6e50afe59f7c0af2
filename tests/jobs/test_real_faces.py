"""Real faces and ImageNet weights, where AGESCALE_DATA names a folder that has them; skipped elsewhere."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pyarrow.compute as pc
import pytest

from agescale.cataloging.driver import build_catalog
from agescale.config import CatalogConfig, EvaluateConfig, ScoreConfig, TrainConfig
from agescale.evaluation.driver import evaluate
from agescale.scoring.driver import score
from agescale.tables.catalogs import Catalog
from agescale.training.driver import train

DATA = Path(os.environ.get("AGESCALE_DATA", "/nowhere"))
NUM_FACES = 700

pytestmark = [
    pytest.mark.usefixtures("local_ray"),
    pytest.mark.skipif(not (DATA / "utkface.tar").exists(), reason="AGESCALE_DATA names no folder of real faces"),
]


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first faces of UTKFace, and its five malformed names."""
    folder = tmp_path_factory.mktemp("utkface")
    with tarfile.open(DATA / "utkface.tar") as archive:
        members = [member for member in archive if member.isfile()]
        malformed = [m for m in members if Path(m.name).name.count("_") != 3 or not m.name.endswith(".jpg.chip.jpg")]
        archive.extractall(folder, [*members[:NUM_FACES], *malformed], filter="data")
    return folder


@pytest.mark.timeout(600)
def test_imagenet_features_learn_ages_that_beat_the_median(faces: Path, tmp_path: Path) -> None:
    catalog, out = str(tmp_path / "catalog"), str(tmp_path / "run")
    build_catalog(CatalogConfig(source=str(faces), layout="utkface", out=catalog, pack=112, split=(0.7, 0.1, 0.2)))
    findings = Catalog.open(catalog).findings
    assert findings.filter(pc.equal(findings["kind"], "malformed")).num_rows >= 3
    train(
        TrainConfig(
            catalog=(catalog,), out=out, encoder="torchvision/mobilenet_v2", image_size=96, phases="head:4@3e-3",
            ema_decay=0.0,
            weights=str(DATA / "weights" / "mobilenet_v2_imagenet_features.torchvision.pth"),
        )
    )  # fmt: skip
    score(ScoreConfig(catalog=catalog, checkpoint=f"{out}/best", out=str(tmp_path / "ages")))
    evaluate(EvaluateConfig(catalog=catalog, predictions=str(tmp_path / "ages"), out=str(tmp_path / "report")))
    test = json.loads((tmp_path / "report" / "metrics.json").read_text())["test"]
    assert test["mae"] < 0.85 * test["baselines"]["median_age"]["mae"]
