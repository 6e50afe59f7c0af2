"""Encoders: one contract that all of them keep, and the way published weights get into them."""

from __future__ import annotations

import copy
import os
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models

from agescale.finetuning import freeze, set_train_mode
from agescale.models import ENCODERS, build_encoder, encoder_names, load_backbone_weights

NUM_BLOCKS = {
    "torchvision/resnet18": 9,
    "torchvision/resnet50": 17,
    "torchvision/mobilenet_v2": 19,
    "torchvision/mobilenet_v3_small": 13,
    "torchvision/vgg16": 13,
    "torchvision/efficientnet_b0": 18,
    "torchvision/convnext_tiny": 22,
    "torchvision/squeezenet1_0": 9,
    "torchvision/densenet121": 62,
    "torchvision/vit_b_16": 13,
    "torchvision/swin_t": 16,
    "torchvision/regnet_y_400mf": 17,
    "torchvision/shufflenet_v2_x0_5": 18,
    "torchvision/googlenet": 12,
    "torchvision/mnasnet0_5": 20,
}
"""A convolution or residual block each: resnet50 has a stem and 16 bottlenecks."""

SIZE = 64


@pytest.fixture(scope="module", params=[*ENCODERS, *NUM_BLOCKS])
def encoder(request):
    torch.manual_seed(0)
    return build_encoder(request.param, SIZE)


@pytest.fixture
def images_NCHW():
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def encoder_name(encoder):
    return f"torchvision/{encoder.name}" if hasattr(encoder, "name") else type(encoder).__name__.lower()


def test_features_are_as_many_as_announced(encoder, images_NCHW):
    encoder.eval()
    with torch.no_grad():
        assert encoder(images_NCHW).shape == (2, encoder.num_features)


def test_feature_map_is_four_dimensional_and_one_vector_an_image_stays_apart(encoder, images_NCHW):
    encoder.eval()
    with torch.no_grad():
        maps_NCHW = encoder.feature_map(images_NCHW)
        alone_NCHW = encoder.feature_map(images_NCHW[:1])
    assert maps_NCHW.ndim == 4
    assert maps_NCHW.shape[0] == 2
    assert 1 <= maps_NCHW.shape[2] == maps_NCHW.shape[3] < SIZE
    scale = maps_NCHW.abs().max()
    torch.testing.assert_close(maps_NCHW[:1] / scale, alone_NCHW / scale, atol=1e-4, rtol=1e-3)


def test_every_parameter_gets_a_gradient(encoder, images_NCHW):
    encoder.train().requires_grad_(True).zero_grad()
    encoder(images_NCHW).square().mean().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


def test_blocks_are_disjoint_and_hold_every_parameter(encoder):
    in_blocks = [id(parameter) for block in encoder.blocks() for parameter in block.parameters()]
    assert len(in_blocks) == len(set(in_blocks))
    assert set(in_blocks) == {id(parameter) for parameter in encoder.parameters()}
    assert len(encoder.blocks()) == NUM_BLOCKS.get(encoder_name(encoder), 5)


def test_blocks_run_from_input_to_output(encoder, images_NCHW):
    first_use: dict[int, int] = {}

    def note_use(module, _):
        first_use.setdefault(id(module), len(first_use))

    hooks = [module.register_forward_pre_hook(note_use) for module in encoder.modules()]
    encoder.eval()
    with torch.no_grad():
        encoder(images_NCHW)
    for hook in hooks:
        hook.remove()
    order = [min(first_use[id(m)] for m in block.modules() if id(m) in first_use) for block in encoder.blocks()]
    assert all(before < after for before, after in pairwise(order))


def test_state_dict_round_trip_gives_the_same_features(encoder, images_NCHW):
    other = copy.deepcopy(encoder)
    for parameter in other.parameters():
        nn.init.constant_(parameter, 0.01)
    other.load_state_dict(encoder.state_dict(), strict=True)
    encoder.eval()
    other.eval()
    with torch.no_grad():
        torch.testing.assert_close(encoder(images_NCHW), other(images_NCHW), rtol=0, atol=0)


@pytest.mark.parametrize("scope", ["head", "last1"])
def test_freezing_really_freezes_weights_and_batch_norm_statistics(encoder, images_NCHW, scope):
    model = nn.Module()
    model.encoder, model.head = encoder, nn.Linear(encoder.num_features, 1)
    freeze(model, scope)
    set_train_mode(model, scope)
    before = {key: tensor.clone() for key, tensor in encoder.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.head(encoder(images_NCHW)).square().mean().backward()
    optimizer.step()
    learns = {id(t) for t in encoder.blocks()[-1].state_dict(keep_vars=True).values()} if scope == "last1" else set()
    after = encoder.state_dict(keep_vars=True)
    changed = {key for key in after if not torch.equal(before[key], after[key])}
    assert {key for key in changed if id(after[key]) not in learns} == set()
    assert bool(changed) == (scope == "last1")
    encoder.load_state_dict(before)
    freeze(model, "all")


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "convnext_tiny", "densenet121", "vit_b_16", "swin_t"])
def test_the_trunk_computes_what_torchvision_computes(name, images_NCHW):
    model = models.get_model(name, **({"image_size": SIZE} if name.startswith("vit") else {})).eval()
    encoder = build_encoder(f"torchvision/{name}", SIZE).eval()
    load_backbone_weights(encoder, model.state_dict())
    last_linear = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        torch.testing.assert_close(last_linear(encoder(images_NCHW)), model(images_NCHW), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["torchvision/mobilenet_v2", "torchvision/resnet18", "torchvision/convnext_tiny"])
@pytest.mark.parametrize("size", [63, 97])
def test_families_without_a_fixed_grid_take_odd_sizes(name, size):
    encoder = build_encoder(name, size).eval()
    with torch.no_grad():
        assert encoder(torch.zeros(1, 3, size, size)).shape == (1, encoder.num_features)


def test_cnn_has_no_batch_norm_and_learns_at_once():
    torch.manual_seed(0)
    encoder = build_encoder("cnn", 64)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in encoder.modules())
    images_NCHW = torch.randn(32, 3, 64, 64)
    assert 0.2 < encoder(images_NCHW).std() < 5  # neither vanishing nor exploding
    model = nn.Sequential(encoder, nn.Linear(512, 2))
    label_N = torch.arange(32) % 2
    images_NCHW[label_N == 1, 0] += 0.5
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images_NCHW), label_N)
        loss.backward()
        optimizer.step()
    assert loss < 0.1


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("torchvision/vit_b_16", 100, ["vit_b_16", "100 px", "divisible"]),
        ("torchvision/vgg16", 16, ["vgg16", "16 px"]),
        ("torchvision/maxvit_t", 64, ["maxvit_t", "64 px", "divisible"]),
        ("cnn", 8, ["cnn", "8 px", "16 px"]),
        ("torchvision/resnet51", 64, ["torchvision/resnet51", "near it", "torchvision/resnet50", "encoder_names()"]),
        ("mobilenet_v2", 64, ["near it", "torchvision/mobilenet_v2"]),
        ("zzz", 64, ["zzz", "encoder_names()"]),
    ],
)
def test_an_impossible_encoder_is_one_clear_line(name, size, words):
    with pytest.raises(ValueError, match=name.split("/")[-1]) as caught:
        build_encoder(name, size)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words)


def test_names_list_our_encoders_and_torchvisions_classifiers_only():
    names = encoder_names()
    assert "cnn" in names
    assert "torchvision/resnet50" in names
    assert not any("quantized" in name or "rcnn" in name or "raft" in name for name in names)


def test_loading_reports_the_dropped_head_and_what_is_missing():
    state = models.mobilenet_v2().half().state_dict()
    lacking = state.pop("features.18.1.running_var")
    encoder = build_encoder("torchvision/mobilenet_v2", 32)
    missing, unexpected = load_backbone_weights(encoder, state)
    assert missing == ["features.18.1.running_var"]
    assert unexpected == ["classifier.1.weight", "classifier.1.bias"]
    assert lacking.dtype == torch.float16
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert torch.equal(encoder.trunk.features[0][0].weight, state["features.0.0.weight"].float())


def test_weights_of_another_architecture_are_refused_in_one_line():
    encoder = build_encoder("torchvision/resnet18", 32)
    before = copy.deepcopy(encoder.state_dict())
    for other, words in [
        ("mobilenet_v2", "tensors are missing, first conv1.weight"),
        ("resnet50", "layer1.0.conv1.weight is 64x64x1x1 instead of 64x64x3x3"),
    ]:
        with pytest.raises(ValueError, match="another architecture") as caught:
            load_backbone_weights(encoder, models.get_model(other).state_dict())
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="the file has none"):
        load_backbone_weights(encoder, {})
    assert all(torch.equal(before[key], tensor) for key, tensor in encoder.state_dict().items())


def test_older_names_in_published_files_are_understood():
    vit = {k.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): v for k, v in _vit(224).items()}
    assert "encoder.layers.encoder_layer_0.mlp.linear_1.weight" in vit
    encoder = build_encoder("torchvision/vit_b_16", 64)
    missing, unexpected = load_backbone_weights(encoder, vit)  # and its positions are interpolated from 14x14 to 4x4
    assert (missing, unexpected) == ([], ["heads.head.weight", "heads.head.bias"])

    dense = models.densenet121().state_dict()
    dense = {k.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): v for k, v in dense.items()}
    missing, unexpected = load_backbone_weights(build_encoder("torchvision/densenet121", 32), dense)
    assert (missing, unexpected) == ([], ["classifier.weight", "classifier.bias"])


def _vit(image_size):
    return models.vit_b_16(image_size=image_size).state_dict()


def test_an_unknown_weights_name_lists_the_published_ones():
    encoder = build_encoder("torchvision/mobilenet_v2", 32)
    with pytest.raises(ValueError, match="no weights 'IMAGENET' for mobilenet_v2; it has IMAGENET1K_V1, IMAGENET1K_V2"):
        load_backbone_weights(encoder, "IMAGENET")
    with pytest.raises(ValueError, match="no weights for the encoder 'cnn'"):
        load_backbone_weights(build_encoder("cnn", 32), "DEFAULT")


def test_weights_that_cannot_be_downloaded_are_one_line(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(ValueError, match=r"cannot download https://.*mobilenet_v2.*no route.*give the file"):
        load_backbone_weights(build_encoder("torchvision/mobilenet_v2", 32), "DEFAULT")


@pytest.mark.parametrize(
    ("name", "file_name", "num_unexpected"),
    [
        ("mobilenet_v2", "mobilenet_v2_imagenet_features.torchvision.pth", 0),
        ("squeezenet1_0", "squeezenet1_0_imagenet_deepcompressed.torchvision.pth", 2),
        ("vgg16", "vgg16_imagenet_features.fp16.torchvision.pth", 0),
    ],
)
def test_real_weights_fill_every_tensor(name, file_name, num_unexpected):
    path = Path(os.environ.get("AGESCALE_DATA", "/nowhere")) / "weights" / file_name
    if not path.exists():
        pytest.skip("needs AGESCALE_DATA")
    encoder = build_encoder(f"torchvision/{name}", 64)
    missing, unexpected = load_backbone_weights(encoder, torch.load(path, weights_only=True))
    assert missing == []
    assert len(unexpected) == num_unexpected
    with torch.no_grad():
        assert encoder.eval()(torch.randn(2, 3, 64, 64)).isfinite().all()
