"""OpenVINO says what torch says, of each family of encoders; where it does not, torch computes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_checkpoint

from agescale.models import backends, checkpoints, parity
from agescale.models.age_model import AgeModel
from agescale.models.encoders import ENCODERS
from agescale.models.predictor import Predictor
from agescale.models.spec import ModelSpec

pytestmark = pytest.mark.usefixtures("one_thread")
FAMILIES = [
    *ENCODERS, "torchvision/mobilenet_v2", "torchvision/resnet18", "timm/vit_tiny_patch16_224", "timm/convnext_atto",
    "timm/mobilenetv1_100?pad_type=same",
]  # fmt: skip


@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize("task", ["distribution", "regression"])
def test_openvino_computes_what_torch_computes(tmp_path: Path, task: str, tta: bool) -> None:
    uri = make_checkpoint(tmp_path, task, genders=("female", "male"))
    images_NHWC = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    compiled, eager = Predictor(uri, tta=tta, backend="auto"), Predictor(uri, tta=tta)
    assert (compiled.backend, compiled.why_eager, eager.backend) == ("openvino", "", "eager")
    for count in (5, 1):
        said, expected = compiled(images_NHWC[:count]), eager(images_NHWC[:count])
        assert parity.apart(said, expected) <= parity.MAX_APART
        assert said["gender"] == expected["gender"]


@pytest.mark.parametrize("encoder", FAMILIES)
def test_each_family_of_encoders_is_compiled_and_says_the_same(tmp_path: Path, encoder: str) -> None:
    torch.manual_seed(0)
    model = AgeModel(ModelSpec(encoder, "distribution", "25-years", 64))
    checkpoints.save(str(tmp_path), model.spec, model.state_dict(), checkpoints.RunProgress(), {})
    compiled = Predictor(str(tmp_path), backend="openvino")
    images_NHWC = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    assert parity.apart(compiled(images_NHWC), Predictor(str(tmp_path))(images_NHWC)) <= parity.MAX_APART


def test_float32_and_as_many_threads_as_torch_has(tmp_path: Path) -> None:
    model = checkpoints.load_model(make_checkpoint(tmp_path))
    compiled = backends.OpenVino(model).request.get_compiled_model()
    said = {
        name: compiled.get_property(name) for name in ("INFERENCE_NUM_THREADS", "NUM_STREAMS", "ENABLE_CPU_PINNING")
    }
    assert said == {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
    assert "float32" in str(compiled.get_property("INFERENCE_PRECISION_HINT"))


def test_an_openvino_of_another_release_is_not_used_and_one_line_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = make_checkpoint(tmp_path)
    monkeypatch.setitem(sys.modules, "openvino.frontend.pytorch.torchdynamo.export_decompositions", None)
    predictor = Predictor(uri, backend="auto")
    assert predictor.backend == "eager"
    assert predictor.why_eager.startswith("OpenVINO as installed is not usable (")
    with pytest.raises(ValueError, match=r"not usable .*; pip install 'agescale\[cpu\]'"):
        Predictor(uri, backend="openvino")


def test_what_says_otherwise_is_not_used_and_one_line_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = make_checkpoint(tmp_path)
    monkeypatch.setattr(parity, "MAX_APART", -1.0)
    predictor = Predictor(uri, backend="auto")
    assert predictor.backend == "eager"
    assert predictor.why_eager.startswith("OpenVINO says otherwise on this CPU, by ")
    images_NHWC = parity.probes(32)
    np.testing.assert_array_equal(predictor(images_NHWC)["age"], Predictor(uri)(images_NHWC)["age"])
    with pytest.raises(ValueError, match="says otherwise"):
        Predictor(uri, backend="openvino")


def test_without_it_auto_is_torch_and_asking_for_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = make_checkpoint(tmp_path)
    monkeypatch.setattr(backends, "is_installed", lambda: False)
    assert Predictor(uri, backend="auto").backend == "eager"
    with pytest.raises(ValueError, match=r"pip install 'agescale\[cpu\]'"):
        Predictor(uri, backend="openvino")
