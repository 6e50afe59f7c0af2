"""A checkpoint is whole or absent, rebuilds its model from config.json alone, and runs no code when loaded."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from agescale.ages.calibration import Band, Calibration
from agescale.models import checkpoints, state_dicts
from agescale.models.age_model import AgeModel, describe_blocks
from agescale.models.checkpoints import RunProgress
from agescale.models.spec import ModelSpec
from agescale.store import objects

SPEC = ModelSpec(encoder="cnn", task="distribution", age_groups="life-stages", image_size=32, head_sizes=(16,))


@pytest.fixture(scope="module")
def model() -> AgeModel:
    torch.manual_seed(0)
    return AgeModel(SPEC).eval()


def save(folder: Path, model: AgeModel, **changes: object) -> checkpoints.Checkpoint:
    values = {"progress": RunProgress(epochs_done=1, history=({"epoch": 1},)), "provenance": {"data": "d"}, **changes}
    return checkpoints.save(str(folder), model.spec, model.state_dict(), **values)  # type: ignore[arg-type]


def test_a_model_comes_back_with_its_outputs(tmp_path: Path, model: AgeModel) -> None:
    saved = save(tmp_path, model)
    read = checkpoints.read(str(tmp_path))
    assert read == saved
    images_NCHW = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(checkpoints.load_model(str(tmp_path))(images_NCHW), model(images_NCHW))


def test_normalisation_is_part_of_the_model_and_takes_uint8(model: AgeModel) -> None:
    images_NCHW = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (SPEC.mean, SPEC.std))
    with torch.no_grad():
        expected = model.head(model.encoder((images_NCHW / 255 - mean) / std))
        torch.testing.assert_close(model(images_NCHW).task, expected, rtol=1e-4, atol=1e-4)


def test_without_config_json_there_is_no_checkpoint(tmp_path: Path, model: AgeModel) -> None:
    save(tmp_path / "best", model)
    (tmp_path / "best" / "config.json").rename(tmp_path / "gone")
    assert not checkpoints.exists(str(tmp_path / "best"))
    with pytest.raises(ValueError, match="no checkpoint there") as caught:
        checkpoints.read(str(tmp_path / "best"))
    assert "\n" not in str(caught.value)


def test_a_run_given_for_a_checkpoint_is_pointed_to_its_best(tmp_path: Path, model: AgeModel) -> None:
    save(tmp_path / "best", model)
    with pytest.raises(ValueError, match="keeps its best one in best/"):
        checkpoints.read(str(tmp_path))


def test_a_new_version_replaces_the_old_one_and_leaves_no_files_behind(tmp_path: Path, model: AgeModel) -> None:
    save(tmp_path, model, training={"optimizer": {"step": torch.tensor(1.0)}})
    other = AgeModel(SPEC)
    second = save(tmp_path, other, training={"optimizer": {"step": torch.tensor(2.0)}})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["config.json", second.weights_file, str(second.training_file)]
    )
    assert float(checkpoints.load_training(str(tmp_path), second)["optimizer"]["step"]) == 2.0


def test_dying_between_the_files_leaves_the_old_checkpoint(
    tmp_path: Path, model: AgeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = save(tmp_path, model)
    write = objects.write_bytes

    def die_before_config(uri: str, data: bytes) -> None:
        if uri.endswith("config.json"):
            raise KeyboardInterrupt
        write(uri, data)

    monkeypatch.setattr(objects, "write_bytes", die_before_config)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, AgeModel(SPEC))
    assert checkpoints.read(str(tmp_path)) == first
    checkpoints.load_model(str(tmp_path))


def test_the_digest_names_what_is_computed_and_not_how_training_went(tmp_path: Path, model: AgeModel) -> None:
    first = save(tmp_path, model)
    checkpoints.update(str(tmp_path), progress=RunProgress(epochs_done=9, is_finished=True))
    again = checkpoints.read(str(tmp_path))
    assert again.progress.is_finished
    assert again.digest == first.digest
    assert replace(first, spec=replace(SPEC, center_crop=0.5)).digest != first.digest
    assert replace(first, weights_sha256="0" * 64).digest != first.digest


def test_a_calibration_comes_back_and_names_another_model(tmp_path: Path, model: AgeModel) -> None:
    plain = save(tmp_path / "plain", model)
    known = Calibration(0.9, (Band(0, 30, -1.5, 120), Band(30, None, 2.25, 100)), 220, "1", "val", "largest", True)
    made = replace(plain, spec=replace(SPEC, calibration=known))
    checkpoints.copy_weights(str(tmp_path / "plain"), made, str(tmp_path / "made"))
    read = checkpoints.read(str(tmp_path / "made"))
    assert (read, read.spec.calibration) == (made, known)
    assert read.digest == made.digest != plain.digest
    assert checkpoints.load_model(str(tmp_path / "made")).spec == made.spec
    config = tmp_path / "made" / "config.json"
    config.write_text(config.read_text().replace('"assumes"', '"assumed"'))
    with pytest.raises(ValueError, match=r"of a newer agescale \(calibration: assumed is not known to this agescale\)"):
        checkpoints.read(str(tmp_path / "made"))


def test_a_checkpoint_of_before_calibrations_is_read(tmp_path: Path, model: AgeModel) -> None:
    saved = save(tmp_path, model)
    said = json.loads((tmp_path / "config.json").read_text())
    del said["model"]["calibration"]
    (tmp_path / "config.json").write_text(json.dumps(said))
    assert checkpoints.read(str(tmp_path)).digest == saved.digest


def test_changed_weights_are_refused(tmp_path: Path, model: AgeModel) -> None:
    saved = save(tmp_path, model)
    weights = tmp_path / saved.weights_file
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="SHA-256"):
        checkpoints.load_model(str(tmp_path))


def test_loading_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="not a file of tensors"):
        state_dicts.read_state_dict(str(tmp_path / "evil.pt"))
    torch.save({"weights": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="not a file of tensors"):
        state_dicts.read_state_dict(str(tmp_path / "evil.pt"))
    assert not (tmp_path / "ran").exists()


STATE = {"conv1.weight": torch.arange(12.0).reshape(3, 4), "fc.bias": torch.ones(3, dtype=torch.float16)}


WRAPPED: dict[str, Any] = {
    "as it is": STATE,
    "DataParallel": {f"module.{name}": tensor for name, tensor in STATE.items()},
    "compiled, then DataParallel": {f"module._orig_mod.{name}": tensor for name, tensor in STATE.items()},
    "beside an optimizer": {"state_dict": STATE, "optimizer": {"lr": 0.1}, "epoch": 7},
    "Lightning": {"epoch": 7, "state_dict": {f"model.{name}": tensor for name, tensor in STATE.items()}},
    "twice": {"model": {"state_dict": STATE}},
    "with a version": {**STATE, "version": 2},
}


@pytest.mark.parametrize("wrapping", WRAPPED)
@pytest.mark.parametrize("ending", ["pth", "PTH", "ckpt", "pth.tar", "safetensors"])
def test_weights_of_others_are_read_whatever_they_are_wrapped_in(wrapping: str, ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"weights.{ending}"
    if ending != "safetensors":
        torch.save(WRAPPED[wrapping], file)
    elif all(isinstance(value, torch.Tensor) for value in WRAPPED[wrapping].values()):
        file.write_bytes(safetensors.torch.save(WRAPPED[wrapping]))
    else:
        return
    torch.testing.assert_close(state_dicts.read_state_dict(str(file)), STATE)
    with pytest.raises(ValueError, match="its SHA-256 is"):
        state_dicts.read_state_dict(str(file), "0" * 64)


NO_STATE_DICTS: dict[str, tuple[Any, str]] = {
    "a list": ([torch.ones(3)], "a list, no state dict"),
    "a tensor": (torch.ones(3), "a tensor, no state dict"),
    "numbers as names": ({0: torch.ones(3)}, "numbers as names, no state dict"),
    "a number": (7, "a int, no state dict"),
    "nothing": ({}, r"it has nothing"),
    "an optimizer": ({"optimizer": {"lr": 0.1}, "epoch": 7}, r"it has optimizer, epoch"),
}


@pytest.mark.parametrize("what", NO_STATE_DICTS)
def test_what_holds_no_state_dict_is_told_in_one_line(what: str, tmp_path: Path) -> None:
    value, words = NO_STATE_DICTS[what]
    torch.save(value, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=words) as caught:
        state_dicts.read_state_dict(str(tmp_path / "w.pth"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_weights_cut_anywhere_are_told_in_one_line(ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"w.{ending}"
    torch.save(STATE, file) if ending == "pth" else file.write_bytes(safetensors.torch.save(STATE))
    data = file.read_bytes()
    for tenth in range(10):
        file.write_bytes(data[: len(data) * tenth // 10])
        with pytest.raises(ValueError, match=r"w\.\w+: .*damaged") as caught:
            state_dicts.read_state_dict(str(file))
        assert "\n" not in str(caught.value)


BROKEN_CONFIGS = {
    "empty": "",
    "cut": '{"format_version": 1, "mod',
    "a list": "[]",
    "another library's": '{"architectures": ["ViT"], "image_size": 224}',
    "without its keys": '{"format_version": 1}',
    "of a newer setting": '{"format_version": 1, "progress": {}, "model": {"new": 1}, "weights_file": "w"}',
    "a text for numbers": '{"format_version": 1, "progress": "done", "model": "cnn"}',
    "no text": "\udcff",
}


@pytest.mark.parametrize("what", BROKEN_CONFIGS)
def test_a_broken_config_is_told_in_one_line(what: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(BROKEN_CONFIGS[what].encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"/config\.json: (damaged|not the config of)") as caught:
        checkpoints.load_model(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_newer_format_is_refused_in_one_line(tmp_path: Path, model: AgeModel) -> None:
    save(tmp_path, model)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "format_version": 99}))
    with pytest.raises(ValueError, match="format 99"):
        checkpoints.read(str(tmp_path))


def test_blocks_are_described_with_shapes_and_all_parameters(model: AgeModel) -> None:
    blocks = describe_blocks(model)
    assert sum(count for _, _, count in blocks) == sum(p.numel() for p in model.parameters())
    assert blocks[-1][0] == "head"
    assert blocks[-1][1] == "101"
    assert all(shape != "?" for _, shape, _ in blocks)


@pytest.mark.parametrize("name", ["xcit_nano_12_p8_224", "vit_tiny_patch16_224", "levit_128s"])
def test_blocks_of_transformers_are_described_too(name: str) -> None:
    model = AgeModel(replace(SPEC, encoder=f"timm/{name}", image_size=64))
    blocks = describe_blocks(model)  # of which some give tuples, and some hold bare parameters
    assert sum(count for _, _, count in blocks) == sum(p.numel() for p in model.parameters())
    assert all("x" in shape for _, shape, _ in blocks[:-1])


def test_a_model_starts_from_a_checkpoint_with_its_head_where_that_is_of_the_same_kind(
    tmp_path: Path, model: AgeModel
) -> None:
    save(tmp_path, model)
    twin = AgeModel(SPEC)
    assert "the encoder and the head" in checkpoints.load_into(twin, str(tmp_path))
    torch.testing.assert_close(twin.state_dict(), model.state_dict())
    other = AgeModel(replace(SPEC, task="ordinal"))
    head = {name: tensor.clone() for name, tensor in other.head.state_dict().items()}
    assert "head" not in checkpoints.load_into(other, str(tmp_path))
    torch.testing.assert_close(other.encoder.state_dict(), model.encoder.state_dict())
    torch.testing.assert_close(dict(other.head.state_dict()), head)


def test_further_heads_are_taken_where_they_tell_the_same_classes_apart(tmp_path: Path) -> None:
    told = AgeModel(replace(SPEC, genders=("female", "male"), ethnicities=("a", "b")))
    checkpoints.save(str(tmp_path), told.spec, told.state_dict(), RunProgress(), {})
    model = AgeModel(replace(SPEC, task="ordinal", genders=("female", "male"), ethnicities=("b", "c")))
    before = {name: tensor.clone() for name, tensor in model.auxiliary.ethnicity.state_dict().items()}
    said = checkpoints.load_into(model, str(tmp_path))
    assert said == "took the encoder and the gender head of a checkpoint trained on distribution"
    torch.testing.assert_close(model.auxiliary.gender.state_dict(), told.auxiliary.gender.state_dict())
    torch.testing.assert_close(dict(model.auxiliary.ethnicity.state_dict()), before)


def test_a_larger_network_of_the_same_family_is_another_architecture(tmp_path: Path) -> None:
    larger = AgeModel(replace(SPEC, encoder="torchvision/resnet34"))
    checkpoints.save(str(tmp_path), larger.spec, larger.state_dict(), RunProgress(), {})
    with pytest.raises(ValueError, match="a checkpoint of torchvision/resnet34"):
        checkpoints.load_into(AgeModel(replace(SPEC, encoder="torchvision/resnet18")), str(tmp_path))


@pytest.mark.parametrize("changes", [{"image_size": 48}, {"encoder": "skip_cnn"}, {"widths": (8, 16, 16, 32)}])
def test_a_checkpoint_of_another_architecture_is_refused_in_one_line(
    tmp_path: Path, model: AgeModel, changes: dict[str, Any]
) -> None:
    save(tmp_path, model)
    with pytest.raises(ValueError, match="whose encoder does not fit") as caught:
        checkpoints.load_into(AgeModel(replace(SPEC, **changes)), str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_checkpoint_with_another_checksum_is_refused(tmp_path: Path, model: AgeModel) -> None:
    saved = save(tmp_path, model)
    checkpoints.load_into(AgeModel(SPEC), str(tmp_path), saved.weights_sha256)
    with pytest.raises(ValueError, match="the SHA-256 of its weights is"):
        checkpoints.load_into(AgeModel(SPEC), str(tmp_path), "0" * 64)
