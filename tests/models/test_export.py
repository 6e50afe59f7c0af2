"""An exported file is the checkpoint: the same distributions, ages and intervals, in a process that has neither
agescale nor torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPO, make_checkpoint

from agescale.ages import cdf
from agescale.ages.calibration import Band, Calibration
from agescale.ages.groups import AgeGroups
from agescale.config import ExportConfig
from agescale.models import checkpoints, export, graph, parity
from agescale.models.age_model import AgeModel
from agescale.models.predictor import Predictor
from agescale.models.spec import ModelSpec

pytestmark = pytest.mark.usefixtures("one_thread")
KNOWN = Calibration(0.9, (Band(0, 40, 1.5, 200), Band(40, None, -2.0, 200)), 400, "1", "val", "none", False)

RUNTIME_ALONE = """
import json, sys
for name in ("torch", "agescale"):
    sys.modules[name] = None  # whoever imports it fails
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
images = np.load(sys.argv[2])
said = {}
for count in (1, 2, len(images)):
    said = dict(zip([each.name for each in session.get_outputs()], session.run(None, {"images": images[:count]})))
    assert all(len(values) == count for values in said.values())
np.savez(sys.argv[3], **said)
print(json.dumps(session.get_modelmeta().custom_metadata_map))
"""


@pytest.fixture
def images_NHWC() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)


def run_alone(file: Path, images_NHWC: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """What ONNX Runtime makes of images, in a process of its own, and what the file says of itself."""
    np.save(file.with_suffix(".npy"), images_NHWC)
    said = file.with_suffix(".npz")
    command = [sys.executable, "-c", RUNTIME_ALONE, str(file), str(file.with_suffix(".npy")), str(said)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(np.load(said)), json.loads(done.stdout)


def run_torch(file: Path, images_NHWC: np.ndarray) -> tuple[torch.Tensor, ...]:
    with torch.inference_mode():
        said: tuple[torch.Tensor, ...] = torch.export.load(file).module()(torch.from_numpy(images_NHWC))
    return said


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("distribution", {"genders": ("female", "male"), "calibration": KNOWN}),
        ("classification", {"age_groups": "life-stages", "decode": "mean"}),
        ("classification", {"age_groups": "YOUNG,OLD"}),
        ("ordinal", {"loss": "coral", "decode": "mode"}),
        ("ordinal", {"loss": "corn", "calibration": KNOWN}),
        ("regression", {}),
    ],
)
def test_an_onnx_file_says_what_the_checkpoint_says(
    tmp_path: Path, task: str, settings: dict[str, Any], images_NHWC: np.ndarray
) -> None:
    uri, file = make_checkpoint(tmp_path / "checkpoint", task, **settings), tmp_path / "model.onnx"
    done = export.export(ExportConfig(checkpoint=uri, out=str(file)))
    said, told = run_alone(file, images_NHWC)
    predictor = Predictor(uri)
    columns = predictor(images_NHWC)
    assert done.size_bytes == file.stat().st_size
    assert tuple(said) == done.outputs
    assert told["agescale.model"] == predictor.digest
    assert told["agescale.input"].startswith("images: uint8 (N, 32, 32, 3), RGB")
    assert json.loads(told["agescale.outputs"]).keys() == said.keys()
    if settings.get("age_groups") == "YOUNG,OLD":
        np.testing.assert_allclose(said["group_probabilities"], columns["group_probabilities"], atol=1e-5)
        assert "age" not in said
        return
    assert parity.years_apart(said["age_cdf"], np.stack(columns["age_cdf"])) <= 0.001
    assert said["age_cdf"].dtype == np.int32
    expected = cdf.prediction_columns(said["age_cdf"], predictor.age_groups, predictor.spec.decode, KNOWN)
    np.testing.assert_allclose(said["age"], expected["age"], atol=1e-4)
    if "calibration" in settings:
        ends = np.stack([expected["age_lower"], expected["age_upper"]], axis=1)
        np.testing.assert_allclose(said["age_interval"], ends, atol=1e-4)
    elif task == "regression":
        assert "age_interval" not in said, "its spread says nothing"
    else:
        ends = np.stack(cdf.central_interval(said["age_cdf"], 0.8), axis=1)
        np.testing.assert_allclose(said["age_interval"], ends, atol=1e-4)
    probs_NG = cdf.group_probabilities(said["age_cdf"], predictor.age_groups)
    np.testing.assert_allclose(said["group_probabilities"], probs_NG, atol=1e-6)
    if "genders" in settings:
        best_N = said["gender_probabilities"].argmax(axis=1)
        assert [("female", "male")[best] for best in best_N] == list(columns["gender"])
        highest_N = said["gender_probabilities"].max(axis=1)
        np.testing.assert_allclose(highest_N, columns["gender_probability"], atol=1e-5)


@pytest.mark.parametrize("encoder", ["torchvision/mobilenet_v2", "timm/vit_tiny_patch16_224"])
def test_encoders_of_each_family_become_onnx_files(tmp_path: Path, encoder: str) -> None:
    torch.manual_seed(0)
    model = AgeModel(ModelSpec(encoder, "distribution", "25-years", 64))
    uri, file = str(tmp_path / "checkpoint"), tmp_path / "model.onnx"
    checkpoints.save(uri, model.spec, model.state_dict(), checkpoints.RunProgress(), {})
    export.export(ExportConfig(checkpoint=uri, out=str(file)))
    images_NHWC = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    said, _ = run_alone(file, images_NHWC)
    assert parity.years_apart(said["age_cdf"], np.stack(Predictor(uri)(images_NHWC)["age_cdf"])) <= 0.001


def test_a_torch_file_says_what_the_checkpoint_says(tmp_path: Path, images_NHWC: np.ndarray) -> None:
    uri, file = make_checkpoint(tmp_path / "checkpoint"), tmp_path / "model.pt2"
    export.export(ExportConfig(checkpoint=uri, out=str(file)))
    columns = Predictor(uri)(images_NHWC)
    for count in (1, 7):
        age_cdf, age, *_ = run_torch(file, images_NHWC[:count])
        assert parity.years_apart(age_cdf.numpy(), np.stack(columns["age_cdf"])[:count]) <= 0.001
        np.testing.assert_allclose(age, columns["age"][:count], atol=1e-3)
    said = {export.METADATA_NAME: ""}
    torch.export.load(file, extra_files=said)
    assert json.loads(said[export.METADATA_NAME])["model"] == Predictor(uri).digest


@pytest.mark.parametrize("rule", ["median", "mean", "mode"])
def test_the_graph_derives_ages_as_tables_do(rule: Any) -> None:
    probs_NA = torch.softmax(3 * torch.randn(200, 101, generator=torch.Generator().manual_seed(0)), dim=1)
    probs_NA[:3] = 0
    probs_NA[0, 0] = probs_NA[1, 100] = probs_NA[2, 34] = 1
    cdf_NA = graph.stored(probs_NA)
    assert np.abs(cdf_NA.numpy() - cdf.quantize(probs_NA.numpy())).max() <= 1
    stored_NA = cdf_NA.numpy().astype(np.uint16)
    age_N = graph.point_estimate(cdf_NA, rule)
    np.testing.assert_allclose(age_N, cdf.point_estimate(stored_NA, rule), atol=1e-4)
    ends = graph.quantile_age(cdf_NA, 0.05), graph.quantile_age(cdf_NA, 0.95)
    expected = KNOWN.intervals(age_N.numpy(), *cdf.central_interval(stored_NA, 0.9))
    for ours, theirs in zip(graph.calibrated(KNOWN, age_N, *ends), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    groups = AgeGroups.parse("child=0-12,adult=18-59,senior=60-")
    probs_NG = cdf.group_probabilities(stored_NA, groups)
    np.testing.assert_allclose(graph.group_probabilities(cdf_NA, groups), probs_NG, atol=1e-6)


def test_a_file_that_says_otherwise_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, file = make_checkpoint(tmp_path / "checkpoint"), tmp_path / "model.pt2"
    file.write_bytes(b"as it was")
    monkeypatch.setattr(graph, "SCALE", 65000)
    with pytest.raises(ValueError, match=r"another one: a distribution lies .* years off; nothing written"):
        export.export(ExportConfig(checkpoint=uri, out=str(file)))
    assert file.read_bytes() == b"as it was"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "model.pt2"]


def test_impossible_exports_are_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = make_checkpoint(tmp_path / "checkpoint")
    for out, said in [
        (f"{tmp_path}/model.bin", r"ends in \.onnx or \.pt2"),
        (f"{uri}/model.pt2", "there is the checkpoint"),
        (str(tmp_path), "ends in"),
    ]:
        with pytest.raises(ValueError, match=said):
            export.export(ExportConfig(checkpoint=uri, out=out))
    with pytest.raises(ValueError, match="a folder stands there"):
        export.export(ExportConfig(checkpoint=uri, out=str(tmp_path), format="torch"))

    def without_this_torch(*_: Any, **__: Any) -> None:
        raise ModuleNotFoundError("No module named 'onnxscript._framework_apis.torch_2_11'")

    monkeypatch.setattr(torch.onnx, "export", without_this_torch)
    with pytest.raises(ValueError, match=r"does not know torch .*torch_2_11.*; pip install 'agescale\[onnx\]'"):
        export.export(ExportConfig(checkpoint=uri, out=f"{tmp_path}/model.onnx"))
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r"pip install 'agescale\[onnx\]'"):
        export.export(ExportConfig(checkpoint=uri, out=f"{tmp_path}/model.onnx"))
    assert not (tmp_path / "model.onnx").exists()


def test_the_example_of_the_docs_runs_with_the_runtime_alone(tmp_path: Path, drawn_faces: Path) -> None:
    """docs/export.md shows a program: it is run as it stands, on drawn faces."""
    page = (REPO / "docs" / "export.md").read_text()
    program = page.split("```python\n")[1].split("```")[0]
    assert len(program.splitlines()) <= 20
    uri = make_checkpoint(tmp_path / "checkpoint")
    export.export(ExportConfig(checkpoint=uri, out=str(tmp_path / "age.onnx")))
    photos = sorted((drawn_faces / "unlabelled").rglob("*.jpg"))[:3]
    alone = f"import sys\nsys.modules['torch'] = sys.modules['agescale'] = None\n{program}"
    done = subprocess.run(
        [sys.executable, "-c", alone, *map(str, photos)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all(str(photo) in line for photo, line in zip(photos, lines, strict=True))
