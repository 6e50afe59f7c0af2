"""Encoders: one contract that all of them keep, and the way published weights get into them."""

from __future__ import annotations

import copy
import os
import re
from itertools import pairwise
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from agescale.models.encoders import ENCODERS, build_encoder, encoder_names, load_backbone_weights
from agescale.training.finetuning import freeze, set_train_mode

NUM_BLOCKS = {
    "cnn": 5,
    "skip_cnn": 4,
    "attention_cnn": 5,
    "conv_autoencoder": 4,
    "torchvision/resnet18": 9,
    "torchvision/resnet50": 17,
    "torchvision/mobilenet_v2": 19,
    "torchvision/mobilenet_v3_small": 13,
    "torchvision/mobilenet_v3_large": 17,
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
    "timm/mobilenetv1_100?pad_type=same": 14,
    "timm/resnet10t": 7,
    "timm/convnext_atto": 16,
    "timm/vit_tiny_patch16_224": 13,
    "timm/swin_tiny_patch4_window7_224?embed_dim=24&depths=(1,2)&num_heads=(2,4)": 5,
    "timm/tinynet_e": 12,
    "timm/mobilenetv3_small_050": 14,
    "timm/regnetx_002": 14,
    "timm/ghostnet_050": 19,
    "timm/efficientvit_b0": 13,
    "timm/levit_128s": 15,
    "timm/lcnet_050": 15,
    "timm/starnet_s1": 20,
    "timm/mobilenetv4_conv_small": 19,
    "timm/dla46_c": 7,
}
"""A convolution or residual block each: resnet50 has a stem and 16 bottlenecks."""

NAMES = [*ENCODERS, *(name for name in NUM_BLOCKS if name not in ENCODERS)]
SIZE = 64


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=NAMES)
def encoder(request):
    torch.manual_seed(0)
    return build_encoder(request.param, SIZE)


@pytest.fixture
def images_NCHW():
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def encoder_name(encoder):
    if hasattr(encoder, "name"):
        library = type(encoder).__module__.rpartition(".")[2].removesuffix("_backbone")
        return f"{library}/{encoder.name}"
    return next(name for name, build in ENCODERS.items() if type(encoder) is build)


def zeros_like_published(name, **settings):
    with torch.device("meta"):  # nothing is drawn or computed: ready at once, however large
        state = models.get_model(name, **settings).state_dict()
    return {key: torch.zeros(tensor.shape, dtype=tensor.dtype) for key, tensor in state.items()}


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
    name = encoder_name(encoder)
    assert len(encoder.blocks()) == NUM_BLOCKS.get(name, len(encoder.blocks()))


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


@pytest.mark.parametrize("scope", ["head", "last2"])
def test_freezing_really_freezes_weights_and_batch_norm_statistics(encoder, images_NCHW, scope):
    model = nn.Module()
    model.encoder, model.head = encoder, nn.Linear(encoder.num_features, 1)
    freeze(model, scope)
    set_train_mode(model, scope)
    torch.manual_seed(0)  # of dropped paths
    for parameter in encoder.parameters():
        if not parameter.any():  # what stands behind a branch that begins as nothing would get no gradient
            nn.init.normal_(parameter, std=0.1)
    before = copy.deepcopy(model.state_dict())
    # weight decay would move frozen weights as well, if any gradient reached them
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    optimizer.zero_grad()
    model.head(encoder(images_NCHW)).square().mean().backward()
    optimizer.step()
    learning = [model.head, *(encoder.blocks()[-2:] if scope == "last2" else [])]
    learning_ids = {id(tensor) for module in learning for tensor in module.state_dict(keep_vars=True).values()}
    after = model.state_dict(keep_vars=True)
    changed = {key for key in after if not torch.equal(before[key], after[key])}
    constant = {key for key in after if key.endswith("relative_position_index")}
    assert changed == {key for key in after if id(after[key]) in learning_ids} - constant
    model.load_state_dict(before)
    freeze(model, "all")


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "convnext_tiny", "densenet121", "vit_b_16", "swin_t"])
def test_the_trunk_computes_what_torchvision_computes(name, images_NCHW):
    model = models.get_model(name, **({"image_size": SIZE} if name.startswith("vit") else {})).eval()
    encoder = build_encoder(f"torchvision/{name}", SIZE).eval()
    load_backbone_weights(encoder, model.state_dict())
    last_linear = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        torch.testing.assert_close(last_linear(encoder(images_NCHW)), model(images_NCHW), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "vit_tiny_patch16_224", "mobilenetv3_small_050"])
def test_the_trunk_computes_what_timm_computes(name, images_NCHW):
    is_sized = timm.get_pretrained_cfg(name).fixed_input_size
    model = timm.create_model(name, **({"img_size": SIZE} if is_sized else {})).eval()
    encoder = build_encoder(f"timm/{name}", SIZE).eval()
    missing, _ = load_backbone_weights(encoder, model.state_dict())
    assert missing == []
    with torch.no_grad():
        torch.testing.assert_close(
            model.get_classifier()(encoder(images_NCHW)), model(images_NCHW), atol=1e-4, rtol=1e-3
        )


FIXED_GRIDS = {
    "conv_autoencoder": "a multiple of 16 px",
    "torchvision/vit_b_16": "divisible",
    "timm/levit_128s": "must match",
    "timm/dla46_c": "must match",
}
BUILT_FOR_ONE_SIZE = (*ENCODERS, *(name for name in NAMES if re.match("timm/(vit|swin)", name)))
"""Flattened features belong to one size, and so do positions."""


def test_odd_sizes_are_taken_or_refused_in_one_line(encoder):
    name, size = encoder_name(encoder), 97
    if name in FIXED_GRIDS:
        with pytest.raises(ValueError, match=FIXED_GRIDS[name]) as caught:
            build_encoder(name, size)
        assert f"{size} px" in str(caught.value)
        assert "\n" not in str(caught.value)
    else:
        if name in BUILT_FOR_ONE_SIZE:
            encoder = build_encoder(name, size)
        with torch.no_grad():
            features_NF = encoder.eval()(torch.randn(1, 3, size, size))
        assert features_NF.shape == (1, encoder.num_features)
        assert features_NF.isfinite().all()


@pytest.mark.parametrize("name", ENCODERS)
def test_our_own_learn_at_once(name):
    torch.manual_seed(0)
    encoder = build_encoder(name, 16)
    images_NCHW = torch.randn(32, 3, 16, 16)
    assert 0.05 < encoder(images_NCHW).std() < 5  # neither vanishing nor exploding
    model = nn.Sequential(encoder, nn.Linear(encoder.num_features, 2))
    label_N = torch.arange(32) % 2
    images_NCHW[label_N == 1, 0] += 0.5
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images_NCHW), label_N)
        loss.backward()
        optimizer.step()
    assert loss < 0.1


def test_cnn_computes_each_image_alone_even_in_training(images_NCHW):
    encoder = build_encoder("cnn", SIZE).train()  # so a step on two workers is the same step as on one
    torch.testing.assert_close(encoder(images_NCHW)[:1], encoder(images_NCHW[:1]), atol=1e-5, rtol=1e-4)


def test_settings_shape_our_encoders():
    cnn = build_encoder("cnn", 32, widths=(4, 8), num_features=10)
    assert [type(block[0]) for block in cnn.blocks()] == [nn.Conv2d, nn.Conv2d, nn.Flatten]
    assert cnn.num_features == 10
    assert cnn(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert cnn.feature_map(torch.zeros(1, 3, 32, 32)).shape == (1, 8, 8, 8)
    for name in ("skip_cnn", "attention_cnn", "conv_autoencoder"):
        encoder = build_encoder(name, 32, widths=(4, 4, 6))
        assert encoder.feature_map(torch.zeros(1, 3, 32, 32)).shape == (1, 6, 4, 4)
        assert encoder(torch.zeros(1, 3, 32, 32)).shape == (1, encoder.num_features)
    attention_cnn = build_encoder("attention_cnn", 32, spatial_dropout=0.3)
    assert [module.p for module in attention_cnn.modules() if isinstance(module, nn.Dropout2d)] == [0.3] * 4


def test_settings_that_are_not_given_are_the_encoders_own():
    for name in ENCODERS:
        own = {key: tensor.shape for key, tensor in ENCODERS[name](32).state_dict().items()}
        built = build_encoder(name, 32, widths=(), num_features=None, spatial_dropout=None)
        assert {key: tensor.shape for key, tensor in built.state_dict().items()} == own


@pytest.mark.parametrize(
    ("name", "settings", "line"),
    [
        (
            "torchvision/resnet50",
            {"widths": (8, 8)},
            "--widths is a setting of cnn, skip_cnn, attention_cnn, conv_autoencoder, but not of torchvision/resnet50",
        ),
        ("skip_cnn", {"num_features": 64}, "--num-features is a setting of cnn, timm/NAME, but not of skip_cnn"),
        ("cnn", {"spatial_dropout": 0.0}, "--spatial-dropout is a setting of attention_cnn, but not of cnn"),
    ],
)
def test_settings_that_do_not_fit_are_one_clear_line(name, settings, line):
    with pytest.raises(ValueError, match="^" + re.escape(line) + "$"):
        build_encoder(name, 64, **settings)


def test_skip_block_adds_to_its_shortcut():
    block = build_encoder("skip_cnn", 32, widths=(4, 4)).blocks()[1].eval()
    assert isinstance(block.shortcut, nn.Identity)  # as many filters as inputs: nothing to project
    nn.init.zeros_(block.residual[-1].weight)
    maps_NCHW = torch.rand(2, 4, 8, 8)
    torch.testing.assert_close(block(maps_NCHW), nn.functional.max_pool2d(maps_NCHW, 2))


def test_attention_weighs_whole_channels_by_average_and_maximum():
    torch.manual_seed(0)
    attention = build_encoder("attention_cnn", 32).attention
    even_NCHW = torch.ones(1, 256, 2, 2)
    peaked_NCHW = even_NCHW * torch.tensor([[4.0, 0.0], [0.0, 0.0]])  # the same average, another maximum
    even, peaked = attention(even_NCHW), attention(peaked_NCHW)[..., 0, 0] / 4
    assert ((even > 0) & (even < 1)).all()
    torch.testing.assert_close(even, even[:, :, :1, :1].expand_as(even))
    assert not torch.allclose(even[..., 0, 0], peaked, atol=1e-3)


def test_spatial_dropout_drops_whole_channels_while_training_only(images_NCHW):
    block = build_encoder("attention_cnn", SIZE, spatial_dropout=0.5).blocks()[0].train()
    is_dropped_NC = (block(images_NCHW) == 0).all(dim=3).all(dim=2)
    assert 0.2 < is_dropped_NC.float().mean() < 0.8
    assert not (block.eval()(images_NCHW) == 0).all(dim=3).all(dim=2).any()


@pytest.mark.parametrize(("size", "widths"), [(128, ()), (48, ()), (24, (4, 6, 8)), (6, (5,))])
def test_decoder_gives_images_of_the_encoders_size_from_its_codes(size, widths):
    encoder = build_encoder("conv_autoencoder", size, widths=widths)
    decoder = encoder.build_decoder()
    codes_NCHW = encoder.feature_map(torch.randn(2, 3, size, size))
    if size == 128:
        assert codes_NCHW.shape[1:] == (64, 8, 8)
    assert codes_NCHW[0].numel() == encoder.num_features
    images_NCHW = decoder(codes_NCHW)
    assert images_NCHW.shape == (2, 3, size, size)
    assert images_NCHW.min() < 0  # normalised pixels are of both signs
    inside = {id(parameter) for parameter in encoder.parameters()}
    assert not any(id(parameter) in inside for parameter in decoder.parameters())


def test_autoencoder_learns_to_reconstruct():
    torch.manual_seed(0)
    encoder = build_encoder("conv_autoencoder", 32)
    decoder = encoder.build_decoder()
    images_NCHW = nn.functional.interpolate(torch.randn(8, 3, 4, 4), size=32, mode="bilinear")
    optimizer = torch.optim.AdamW([*encoder.parameters(), *decoder.parameters()], lr=2e-3)
    for _ in range(40):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(decoder(encoder.feature_map(images_NCHW)), images_NCHW)
        loss.backward()
        optimizer.step()
    assert loss < 0.1 * images_NCHW.var()


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("torchvision/vit_b_16", 100, ["vit_b_16", "100 px", "divisible"]),
        ("torchvision/vgg16", 16, ["vgg16", "16 px"]),
        ("torchvision/maxvit_t", 64, ["maxvit_t", "64 px", "divisible"]),
        ("cnn", 8, ["cnn", "8 px", "16 px"]),
        ("skip_cnn", 15, ["skip_cnn", "15 px", "16 px"]),
        ("attention_cnn", 0, ["attention_cnn", "0 px", "16 px"]),
        ("conv_autoencoder", 0, ["conv_autoencoder", "0 px", "a multiple of 16 px"]),
        ("torchvision/resnet51", 64, ["torchvision/resnet51", "near it", "torchvision/resnet50", "encoder_names()"]),
        ("mobilenet_v2", 64, ["near it", "torchvision/mobilenet_v2"]),
        ("zzz", 64, ["zzz", "encoder_names()"]),
        ("timm/vit_tiny_patch16_224", 8, ["cannot", "images of 8 px"]),
        ("timm/mobilenetv1_10", 64, ["near it", "timm/mobilenetv1_100"]),
        ("timm/mobilenetv1_100?pad_typ=same", 64, ["pad_typ"]),
        ("timm/mobilenetv1_100?act_layer=zz", 64, ["no 'zz'"]),
        ("timm/mobilenetv1_100?num_classes=3", 64, ["num_classes"]),
        ("timm/resnet10t.c3_in1k", 64, ["the encoder is timm/resnet10t", "--weights c3_in1k"]),
    ],
)
def test_an_impossible_encoder_is_one_clear_line(name, size, words):
    with pytest.raises(ValueError, match=re.escape(name.split("/")[-1])) as caught, torch.device("meta"):
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
            load_backbone_weights(encoder, zeros_like_published(other))
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="the file has none"):
        load_backbone_weights(encoder, {})
    assert all(torch.equal(before[key], tensor) for key, tensor in encoder.state_dict().items())


def test_older_names_in_published_files_are_understood():
    vit = zeros_like_published("vit_b_16", image_size=224)
    vit = {k.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): v for k, v in vit.items()}
    assert "encoder.layers.encoder_layer_0.mlp.linear_1.weight" in vit
    encoder = build_encoder("torchvision/vit_b_16", 64)
    missing, unexpected = load_backbone_weights(encoder, vit)  # and its positions are interpolated from 14x14 to 4x4
    assert (missing, unexpected) == ([], ["heads.head.weight", "heads.head.bias"])

    dense = zeros_like_published("densenet121")
    dense = {k.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): v for k, v in dense.items()}
    missing, unexpected = load_backbone_weights(build_encoder("torchvision/densenet121", 32), dense)
    assert (missing, unexpected) == ([], ["classifier.weight", "classifier.bias"])


def test_an_unknown_weights_name_lists_the_published_ones():
    encoder = build_encoder("torchvision/mobilenet_v2", 32)
    with pytest.raises(ValueError, match="no weights 'IMAGENET' for mobilenet_v2; it has IMAGENET1K_V1, IMAGENET1K_V2"):
        load_backbone_weights(encoder, "IMAGENET")


@pytest.mark.parametrize("name", ENCODERS)
def test_our_own_encoders_refuse_torchvisions_weights_in_one_line(name):
    encoder = build_encoder(name, 32)
    with pytest.raises(ValueError, match=f"^no weights 'IMAGENET1K_V1' for {name}: they are published .* only$"):
        load_backbone_weights(encoder, "IMAGENET1K_V1")
    for other in ("resnet18", "vgg16", "mobilenet_v2"):
        with pytest.raises(ValueError, match=r"^these weights .* another architecture: .* are missing, .* has \w+.*$"):
            load_backbone_weights(encoder, zeros_like_published(other))


def test_arguments_in_a_name_of_timms_are_those_of_create_model(images_NCHW):
    plain, same = (build_encoder(f"timm/mobilenetv1_100{end}", SIZE).eval() for end in ("", "?pad_type=same"))
    load_backbone_weights(same, plain.trunk.state_dict())
    assert not hasattr(plain.trunk.conv_stem, "same_padding")
    with torch.no_grad():
        assert type(same.trunk.conv_stem).__name__ == "Conv2dSame"
        assert not torch.allclose(plain(images_NCHW), same(images_NCHW), atol=1e-3)


def test_a_dense_layer_behind_a_network_of_timms_is_its_last_block(images_NCHW):
    encoder = build_encoder("timm/resnet10t", SIZE, num_features=10)
    assert encoder.num_features == 10
    assert encoder(images_NCHW).shape == (2, 10)
    assert encoder.blocks()[-1] is encoder.dense
    assert len(encoder.blocks()) == NUM_BLOCKS["timm/resnet10t"] + 1
    missing, _ = load_backbone_weights(encoder, timm.create_model("resnet10t").state_dict())
    assert missing == ["dense.0.weight", "dense.0.bias"]


def test_weights_by_timms_tag_bring_the_normalisation_that_they_expect(monkeypatch, images_NCHW):
    published = timm.create_model("mobilenetv1_100").eval()
    create = timm.create_model

    def download(name, pretrained, **arguments):
        assert not pretrained or name == "mobilenetv1_100.ra4_e3600_r224_in1k"
        model = create(name, pretrained=False, **arguments)
        if pretrained:
            model.load_state_dict(published.state_dict(), strict=False)
        return model

    monkeypatch.setattr("timm.create_model", download)
    encoder = build_encoder("timm/mobilenetv1_100", SIZE).eval()
    assert load_backbone_weights(encoder, "ra4_e3600_r224_in1k") == ([], [])
    pixels_NCHW = images_NCHW * torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    pixels_NCHW += torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    with torch.no_grad():
        wanted = published.forward_head(published.forward_features((pixels_NCHW - 0.5) / 0.5), pre_logits=True)
        torch.testing.assert_close(encoder(images_NCHW), wanted, atol=1e-5, rtol=1e-4)
        load_backbone_weights(encoder, published.state_dict())  # a file does not tell: the usual normalisation
        assert torch.equal(encoder(images_NCHW), encoder.trunk(images_NCHW))


def test_positions_of_timms_weights_are_brought_to_the_encoders_size():
    encoder = build_encoder("timm/vit_tiny_patch16_224", SIZE)
    missing, unexpected = load_backbone_weights(encoder, timm.create_model("vit_tiny_patch16_224").state_dict())
    assert (missing, unexpected) == ([], ["head.weight", "head.bias"])


def test_timms_weights_that_cannot_be_had_are_one_line(monkeypatch):
    encoder = build_encoder("timm/mobilenetv1_100", 32)
    with pytest.raises(ValueError, match=r"^timm has no weights .* for mobilenetv1_100; it has ra4_e3600"):
        load_backbone_weights(encoder, "IMAGENET1K_V1")

    def refuse(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setattr("timm.create_model", refuse)
    with pytest.raises(ValueError, match=r"^cannot download timm/mobilenetv1_100.*no route.*give the file$"):
        load_backbone_weights(encoder, "ra4_e3600_r224_in1k")
    with pytest.raises(ValueError, match=r"another architecture.*the file has none"):
        load_backbone_weights(encoder, {})


def test_weights_that_cannot_be_downloaded_are_one_line(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(ValueError, match=r"cannot download https://.*mobilenet_v2.*no route.*give the file"):
        load_backbone_weights(build_encoder("torchvision/mobilenet_v2", 32), "DEFAULT")


@pytest.mark.parametrize(
    ("name", "file_name", "num_unexpected"),
    [
        ("torchvision/mobilenet_v2", "mobilenet_v2_imagenet_features.torchvision.pth", 0),
        ("torchvision/squeezenet1_0", "squeezenet1_0_imagenet_deepcompressed.torchvision.pth", 2),
        ("torchvision/vgg16", "vgg16_imagenet_features.fp16.torchvision.pth", 0),
        ("timm/mobilenetv1_100?pad_type=same", "mobilenetv1_100_faceres_deep.timm.pth", 0),
    ],
)
def test_real_weights_fill_every_tensor(name, file_name, num_unexpected):
    path = Path(os.environ.get("AGESCALE_DATA", "/nowhere")) / "weights" / file_name
    if not path.exists():
        pytest.skip("needs AGESCALE_DATA")
    encoder = build_encoder(name, 64)
    missing, unexpected = load_backbone_weights(encoder, torch.load(path, weights_only=True))
    assert missing == []
    assert len(unexpected) == num_unexpected
    with torch.no_grad():
        assert encoder.eval()(torch.randn(2, 3, 64, 64)).isfinite().all()
