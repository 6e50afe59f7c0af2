"""Any timm network as an encoder: its trunk, without the classification head.

In: normalised float images. Out: the features that timm's head reads, or of a dense ReLU layer on them; or the last
feature map, always (N, C, H, W). Tensors keep timm's names, so that published weights fit key by key. A name may end
in arguments of ``timm.create_model``: ``mobilenetv1_100?pad_type=same``, several of them with ``&`` between. Knows
nothing of tasks.
"""

from __future__ import annotations

import ast
import contextlib
import math
import sys
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import parse_qsl

import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn

from agescale.models.encoders.torchvision_backbone import blocks_of

GIVEN = ("num_classes", "img_size", "in_chans", "features_only", "pretrained", "checkpoint_path", "cache_dir")
"""Arguments of ``timm.create_model`` that are the encoder's to give, or that read weights: none for a name to tell."""


class TimmBackbone(nn.Module):
    """Images (N, 3, S, S) to features (N, F): those of the network, or of a dense ReLU layer of ``num_features``."""

    def __init__(self, name: str, model: nn.Module, image_size: int) -> None:
        super().__init__()
        self.name = name
        self.image_size = image_size
        self.input = Renormalised()
        self.trunk = model
        self.dense = nn.Sequential()
        self.num_features = 0  # build counts them

    def before_dense(self, images_NCHW: Tensor) -> Tensor:
        pooled_NF: Tensor = self.trunk(self.input(images_NCHW))
        return pooled_NF

    def forward(self, images_NCHW: Tensor) -> Tensor:
        features_NF: Tensor = self.dense(self.before_dense(images_NCHW))
        return features_NF

    def feature_map(self, images_NCHW: Tensor) -> Tensor:
        maps: Tensor = cast(Any, self.trunk).forward_features(self.input(images_NCHW))
        if maps.ndim == 3:  # tokens, of which the first may stand for the whole image
            maps = maps[:, getattr(self.trunk, "num_prefix_tokens", 0) :]
            side = math.isqrt(maps.shape[1])
            return maps[:, -side * side :].transpose(1, 2).unflatten(2, (side, side))
        return maps.permute(0, 3, 1, 2) if getattr(self.trunk, "output_fmt", "NCHW") == "NHWC" else maps

    def blocks(self) -> list[nn.Module]:
        blocks = blocks_of(self.trunk)
        if own := list(self.trunk.parameters(recurse=False)):  # a class token, positions
            first = blocks[0] if isinstance(blocks[0], nn.ModuleList) else [blocks[0]]
            blocks[0] = nn.ModuleList([nn.ParameterList(own), *first])
        return [*blocks, *([self.dense] if len(self.dense) else [])]


class Renormalised(nn.Module):
    """Images as agescale normalises them, for ImageNet's weights of torchvision, to what these weights were trained on:
    many of timm's on others. Weights alone know it, so it goes with them, as a state; at first nothing changes."""

    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(3, 1, 1))
        self.register_buffer("shift", torch.zeros(3, 1, 1))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        return images_NCHW * self.scale + self.shift


def normalisation(mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None) -> dict[str, Tensor]:
    """A backbone's tensors for weights that expect images of this mean and standard deviation, of pixels in 0..1."""
    ours = torch.tensor([IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD], dtype=torch.float64)
    theirs = ours if mean is None or std is None else torch.tensor([mean, std], dtype=torch.float64)
    scale, shift = ours[1] / theirs[1], (ours[0] - theirs[0]) / theirs[1]
    return {"input.scale": scale.float().view(3, 1, 1), "input.shift": shift.float().view(3, 1, 1)}


def names() -> list[str]:
    """Names of timm's networks."""
    found: list[str] = timm.list_models()
    return found


def build(name: str, image_size: int, num_features: int | None = None) -> TimmBackbone:
    """The encoder for ``timm.create_model(name)``, randomly initialised, for square images of ``image_size`` pixels.

    With ``num_features`` a dense ReLU layer of that size stands behind it. Raises ValueError, in one line, where the
    network cannot take images of that size, or an argument that its name ends in.
    """
    done = "be built for"
    try:
        encoder = TimmBackbone(name, _create(name, image_size), image_size)
        done = "take"
        encoder.eval()
        with torch.no_grad():
            encoder.num_features = encoder(torch.zeros(1, 3, image_size, image_size)).shape[1]
    except (RuntimeError, AssertionError, ValueError, TypeError, LookupError, ArithmeticError) as error:
        reason = " ".join(f"no {error}".split() if isinstance(error, KeyError) else str(error).split())
        raise ValueError(f"timm/{name} cannot {done} images of {image_size} px: {reason}") from None
    if num_features is not None:
        encoder.dense.extend([nn.Linear(encoder.num_features, num_features), nn.ReLU()])
        encoder.num_features = num_features
    return encoder.train()


def published_format(encoder: nn.Module, source: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``source`` with the names that timm's networks use today, position embeddings at the encoder's size."""
    trunk = cast(TimmBackbone, encoder).trunk
    convert = getattr(sys.modules[type(trunk).__module__], "checkpoint_filter_fn", None)
    tensors = dict(source)
    if convert is not None:
        # it fails on those of another architecture, which is told where they are loaded
        with contextlib.suppress(TypeError, LookupError, ValueError, RuntimeError, AttributeError):
            tensors = dict(convert(tensors, trunk))
    expected = normalisation() if tensors else {}
    return tensors | {key: tensor for key, tensor in expected.items() if key not in tensors}


def download(encoder: nn.Module, weights_name: str) -> Mapping[str, Tensor]:
    """The tensors that timm publishes under a tag, and what images they expect. Raises ValueError, in one line, for a
    tag that it does not know, and where they cannot be had."""
    backbone = cast(TimmBackbone, encoder)
    architecture, _, arguments = backbone.name.partition("?")
    tags = [tagged.partition(".")[2] for tagged in timm.list_pretrained(f"{architecture}.*")]
    if weights_name not in tags:
        has = f"it has {', '.join(tags)}" if tags else "it has none"
        raise ValueError(f"timm has no weights {weights_name!r} for {architecture}; {has}")
    tagged = f"{architecture}.{weights_name}"
    config: Any = timm.get_pretrained_cfg(tagged)
    try:
        model = _create(f"{tagged}?{arguments}", backbone.image_size, pretrained=True)
    except Exception as error:  # noqa: BLE001  (each client of a hub raises its own)
        where = config.hf_hub_id or config.url
        reason = " ".join(str(error).split())
        raise ValueError(f"cannot download {where} ({reason}); fetch it elsewhere and give the file") from None
    return model.state_dict() | normalisation(config.mean, config.std)


def _create(name: str, image_size: int, pretrained: bool = False) -> nn.Module:
    """The network that a name tells, without its last layer."""
    architecture, _, query = name.partition("?")
    arguments: dict[str, Any] = {key: _value(text) for key, text in parse_qsl(query, keep_blank_values=True)}
    if wrong := next((key for key in arguments if key in GIVEN), ""):
        raise ValueError(f"{wrong} is not for a name to tell")
    published: Any = timm.get_pretrained_cfg(architecture)
    if published.fixed_input_size:
        arguments["img_size"] = image_size
    model: nn.Module = timm.create_model(architecture, pretrained=pretrained, num_classes=0, **arguments)
    return model


def _value(text: str) -> Any:
    """A number, a truth, a tuple or a word, as Python would read it."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
