"""Published models become checkpoints that compute what was published; their files are needed by some tests only."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import RunJob
from torch import Tensor
from torch.nn import functional as F

from agescale.ages.groups import MAX_AGE
from agescale.faces.geometry import FaceGeometry
from agescale.models import checkpoints, foreign_models, tensorflow_js
from agescale.models.age_model import AgeModel
from agescale.models.foreign import faceres
from agescale.models.foreign_models import fill, import_model
from agescale.models.predictor import Predictor
from agescale.store.errors import StoreError
from agescale.training.finetuning import freeze, set_train_mode

PUBLISHED = Path(os.environ.get("AGESCALE_DATA", "/nowhere")) / "weights" / "faceres_deep"
needs_files = pytest.mark.skipif(not PUBLISHED.exists(), reason="AGESCALE_DATA names no folder with the files")
MEAN = torch.tensor(faceres.MEAN_RGB).view(1, 3, 1, 1) * 255
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
WIDTHS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)


pytestmark = pytest.mark.usefixtures("one_thread")


def say(model: AgeModel, images_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities of ages, and of male."""
    with torch.no_grad():
        outputs = model(images_NCHW)
    return outputs.task.softmax(dim=1), outputs.auxiliary["gender"].softmax(dim=1)[:, 1]


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = str(tmp_path_factory.mktemp("imported") / "faceres")
    import_model("faceres", str(PUBLISHED), out)
    return out


@needs_files
def test_faceres_computes_what_tensorflow_js_computes(imported: str) -> None:
    reference = json.loads((PUBLISHED / "reference.json").read_text())
    k, i, j, c = np.ogrid[:4, :224, :224, :3]
    given_NHWC = 127.5 + 127.5 * np.sin((i * (k + 1) + j * (c + 1) + k * c) / (17 + 5 * k))
    given_NCHW = torch.from_numpy(given_NHWC.astype(np.float32)).permute(0, 3, 1, 2)  # BGR, less the means
    ages_NA, male_N = say(checkpoints.load_model(imported), given_NCHW.flip(1) + MEAN)
    torch.testing.assert_close(ages_NA[:, :MAX_AGE], torch.tensor(reference["age"]), rtol=0, atol=1e-5)
    torch.testing.assert_close(male_N, torch.tensor(reference["gender"]), rtol=0, atol=1e-5)
    assert ages_NA[:, MAX_AGE].max() < 1e-9


@needs_files
def test_an_imported_checkpoint_predicts_says_where_it_is_from_and_can_be_learned_on(imported: str) -> None:
    predictor = Predictor(imported)
    assert predictor.framing.geometry == FaceGeometry(size=224, margin=0.2)
    columns = predictor(np.full((1, 224, 224, 3), 128, np.uint8))
    assert columns["gender"][0] in ("female", "male")
    origin = checkpoints.read(imported).card()["initial_weights"]
    assert origin["source"].startswith("faceres: ")
    assert origin["sha256"] == faceres.MODEL.files["faceres-deep.bin"]
    assert "MIT" in str(origin["license"])
    assert "Vladimir Mandic" in (Path(imported) / "LICENSE.txt").read_text()
    model = AgeModel(replace(faceres.MODEL.spec, genders=()))
    assert (
        checkpoints.load_into(model, imported)
        == "took the encoder and the head of a checkpoint trained on distribution"
    )
    freeze(model, "last1")
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert learning == [f"{layer}.{kind}" for layer in ("encoder.dense.0", "head.1") for kind in ("weight", "bias")]


@needs_files
def test_the_same_import_again_is_the_same_model_and_another_folder_stays(imported: str, tmp_path: Path) -> None:
    again = str(tmp_path / "again")
    shutil.copytree(imported, again)
    digest = checkpoints.read(again).digest
    (Path(again) / "config.json").unlink()  # killed before its last file
    assert import_model("faceres", str(PUBLISHED), again).digest == digest
    assert import_model("faceres", str(PUBLISHED), again).digest == digest
    checkpoints.update(again, provenance={"data": "of a training"})
    with pytest.raises(ValueError, match=r"other files already \(config.json\)"):
        import_model("faceres", str(PUBLISHED), again)
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"other files already \(holiday.jpg\)"):
        import_model("faceres", str(PUBLISHED), str(tmp_path))


def made_up_graph() -> dict[str, Tensor]:
    """Tensors as the published graph names them, drawn."""
    torch.manual_seed(0)

    def vector(size: int, around: float) -> Tensor:
        return around + 0.1 * torch.randn(size)

    graph = {
        "conv1/convolution/merged_input": torch.randn(3, 3, 3, 32) / 27**0.5 / 60,
        "conv1_bn/batchnorm_1/sub": vector(32, 0.5),
        "feats/kernel": torch.randn(1024, 256) / 8,
        "feats/bias": vector(256, 0.1),
        "age_pred/kernel": torch.randn(256, 100) / 8,
        "age_pred/bias": vector(100, 0.0),
        "gender_pred/kernel": torch.randn(256, 1) / 8,
        "gender_pred/bias": vector(1, 0.0),
    }
    for number, (inputs, outputs) in enumerate(pairwise(WIDTHS), 1):
        graph |= {
            f"conv_dw_{number}/depthwise_kernel": torch.randn(3, 3, inputs, 1) / 3,
            f"conv_dw_{number}_bn/batchnorm_1/mul": vector(inputs, 1.5),
            f"conv_dw_{number}_bn/batchnorm_1/sub": vector(inputs, 0.5),
            f"conv_pw_{number}/convolution/merged_input": torch.randn(1, 1, inputs, outputs) / inputs**0.5,
            f"conv_pw_{number}_bn/batchnorm_1/sub": vector(outputs, 0.5),
        }
    return graph


def as_published(graph: dict[str, Tensor]) -> dict[str, bytes]:
    entries = [{"name": name, "shape": list(tensor.shape), "dtype": "float32"} for name, tensor in graph.items()]
    manifest = {"weightsManifest": [{"paths": ["faceres-deep.bin"], "weights": entries}]}
    data = b"".join(tensor.numpy().tobytes() for tensor in graph.values())
    return {"faceres-deep.json": json.dumps(manifest).encode(), "faceres-deep.bin": data}


def run_graph(graph: dict[str, Tensor], maps_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """What the published graph does with BGR images less their means, layer by layer."""

    def convolved(maps_NCHW: Tensor, kernel_HWIO: Tensor, stride: int, groups: int = 1) -> Tensor:
        kernel = kernel_HWIO.permute(2, 3, 0, 1) if groups > 1 else kernel_HWIO.permute(3, 2, 0, 1)
        if (size := kernel.shape[-1]) > 1:  # as TensorFlow pads: the odd row and column at the end
            total = max((-(-maps_NCHW.shape[-1] // stride) - 1) * stride + size - maps_NCHW.shape[-1], 0)
            maps_NCHW = F.pad(maps_NCHW, (total // 2, total - total // 2) * 2)
        return F.conv2d(maps_NCHW, kernel, stride=stride, groups=groups)

    def shifted(maps_NCHW: Tensor, name: str) -> Tensor:
        return (maps_NCHW + graph[f"{name}_bn/batchnorm_1/sub"].view(1, -1, 1, 1)).clamp(0, 6)

    maps_NCHW = shifted(convolved(maps_NCHW, graph["conv1/convolution/merged_input"], 2), "conv1")
    for number, stride in enumerate(STRIDES, 1):
        dw, pw = f"conv_dw_{number}", f"conv_pw_{number}"
        maps_NCHW = convolved(maps_NCHW, graph[f"{dw}/depthwise_kernel"], stride, maps_NCHW.shape[1])
        maps_NCHW = shifted(maps_NCHW * graph[f"{dw}_bn/batchnorm_1/mul"].view(1, -1, 1, 1), dw)
        maps_NCHW = shifted(convolved(maps_NCHW, graph[f"{pw}/convolution/merged_input"], 1), pw)
    features_NF = (maps_NCHW.mean(dim=(2, 3)) @ graph["feats/kernel"] + graph["feats/bias"]).relu()
    ages_NA = (features_NF @ graph["age_pred/kernel"] + graph["age_pred/bias"]).softmax(dim=1)
    male_N = (features_NF @ graph["gender_pred/kernel"] + graph["gender_pred/bias"]).sigmoid()[:, 0]
    return ages_NA, male_N


def test_any_weights_in_faceres_form_compute_what_its_graph_says() -> None:
    graph = made_up_graph()
    model = AgeModel(faceres.MODEL.spec).eval()
    fill(model, faceres.convert(as_published(graph)))
    images_NCHW = torch.randint(0, 256, (3, 3, 96, 96), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    wanted_NA, wanted_N = run_graph(graph, (images_NCHW - MEAN).flip(1))
    ages_NA, male_N = say(model, images_NCHW)
    assert wanted_NA.std(dim=0).max() > 1e-3  # three images, three answers
    torch.testing.assert_close(ages_NA[:, :MAX_AGE], wanted_NA, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(male_N, wanted_N, rtol=1e-3, atol=1e-5)


def test_faceres_learns_on_from_what_it_predicts_only_with_its_folded_norms_frozen() -> None:
    model = AgeModel(faceres.MODEL.spec).eval()
    fill(model, faceres.convert(as_published(made_up_graph())))
    images_NCHW = torch.randint(0, 256, (4, 3, 96, 96), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    predicted_NA, _ = say(model, images_NCHW)
    statistics = {name: tensor.clone() for name, tensor in model.named_buffers() if "running" in name}
    set_train_mode(model, "all", freeze_batch_norm=True)
    assert torch.equal(say(model, images_NCHW)[0], predicted_NA)
    assert all(torch.equal(model.get_buffer(name), tensor) for name, tensor in statistics.items())
    set_train_mode(model, "all")
    assert (say(model, images_NCHW)[0] - predicted_NA).abs().max() > 1e-3
    assert not any(torch.equal(model.get_buffer(name), tensor) for name, tensor in statistics.items())


def test_a_graph_that_lacks_or_adds_a_tensor_is_no_such_model() -> None:
    model, tensors = AgeModel(faceres.MODEL.spec), faceres.convert(as_published(made_up_graph()))
    with pytest.raises(AssertionError, match="extra"):
        fill(model, {**tensors, "extra": torch.zeros(1)})
    del tensors["encoder.dense.0.bias"]
    with pytest.raises(AssertionError, match=r"encoder.dense.0.bias"):
        fill(model, tensors)


def test_files_that_are_not_the_published_ones_are_refused(tmp_path: Path) -> None:
    published, out = tmp_path / "published", tmp_path / "out"
    published.mkdir()
    for name, data in as_published({"feats/bias": torch.zeros(2)}).items():
        (published / name).write_bytes(data)
    with pytest.raises(ValueError, match=r"faceres-deep.json: not the file that was published: its SHA-256 is"):
        import_model("faceres", str(published), str(out))
    with pytest.raises(ValueError, match=r"no foreign model is called 'facenet'; there are faceres"):
        import_model("facenet", str(published), str(out))
    with pytest.raises(ValueError, match=r"is what is imported"):
        import_model("faceres", str(published), str(published))
    assert not out.exists()


@pytest.mark.parametrize(
    ("entry", "size", "words"),
    [
        ({"dtype": "uint8"}, 8, "bias is stored as uint8"),
        ({"dtype": "float32", "quantization": {"dtype": "uint8"}}, 8, "bias is stored as float32, quantised"),
        ({"dtype": "float32"}, 12, "a.bin: 12 bytes, of which the graph names 8"),
    ],
)
def test_tensors_that_are_stored_otherwise_are_told(entry: dict[str, object], size: int, words: str) -> None:
    entry = {"name": "bias", "shape": [2], **entry}
    graph = json.dumps({"weightsManifest": [{"paths": ["a.bin"], "weights": [entry]}]}).encode()
    with pytest.raises(ValueError, match=words):
        tensorflow_js.read_tensors(graph, {"a.bin": bytes(size)})


def test_each_foreign_model_is_told_with_its_licence_and_its_notice(run_job: RunJob) -> None:
    told = run_job("jobs/weights.py")
    assert (told.returncode, told.stderr) == (0, "")
    for name, model in foreign_models.foreign_models().items():
        assert (foreign_models.FOLDER / f"{name}.LICENSE.txt").read_text()
        assert f"{name}: {model.purpose}" in told.stdout
        for known in (model.weights_license, model.training_data, model.source, *model.files.values()):
            assert known in told.stdout


def test_a_name_without_files_is_one_line(run_job: RunJob, tmp_path: Path) -> None:
    told = run_job("jobs/weights.py", "faceres", "--out", "here")
    assert told.returncode == 2
    assert told.stderr == "error: NAME, --source and --out go together\n"
    with pytest.raises(StoreError, match=r"faceres-deep\.json") as caught:
        foreign_models.import_model("faceres", str(tmp_path / "nowhere"), str(tmp_path / "out"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
