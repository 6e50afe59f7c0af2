"""Any torchvision classification network as an encoder: its trunk, without the classification head.

In: normalised float images. Out: pooled features, or the last feature map, always (N, C, H, W).
Almost every torchvision classifier runs its children in order and ends in a pooling and a linear head. So the trunk is
those children up to the head, under their own names, and published weights fit it key by key. Only the vision
transformer, with its class token, needs a class of its own. Knows nothing of tasks.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from itertools import takewhile
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings
from torchvision.transforms.v2 import Normalize

HEAD_NAMES = ("avgpool", "flatten", "dropout", "classifier", "fc", "head", "heads")
"""Children with which torchvision's classifiers end."""

EXPECTING_HALVES = ("googlenet", "inception_v3")
"""Their published weights expect (x - 0.5) / 0.5, while images arrive normalised for the others' weights."""


class TorchvisionBackbone(nn.Module):
    """Images (N, 3, H, W) to the average (N, F) of the trunk's last feature map."""

    def __init__(self, name: str, model: nn.Module) -> None:
        super().__init__()
        self.name = name
        layers = list(takewhile(lambda layer: layer[0] not in HEAD_NAMES, model.named_children()))
        if name.startswith("densenet"):
            layers.append(("relu", nn.ReLU()))  # torchvision applies it outside `features`
        if name in EXPECTING_HALVES:
            layers.insert(0, ("input", _to_halves()))
        self.trunk = nn.Sequential(OrderedDict((key, _as_sequential(layer)) for key, layer in layers))
        self.neck = nn.Sequential(OrderedDict(pool=nn.AdaptiveAvgPool2d(1), **_norm_of_head(model)))
        self.num_features = 0  # the probe in build counts them

    def feature_map(self, images_NCHW: Tensor) -> Tensor:
        maps_NCHW: Tensor = self.trunk(images_NCHW)
        return maps_NCHW

    def forward(self, images_NCHW: Tensor) -> Tensor:
        features_NF: Tensor = self.neck(self.feature_map(images_NCHW)).flatten(1)
        return features_NF

    def blocks(self) -> list[nn.Module]:
        return blocks_of(self)


class VisionTransformerBackbone(nn.Module):
    """Images (N, 3, S, S) to the class token (N, F); the feature map holds the patches' tokens."""

    def __init__(self, name: str, model: VisionTransformer) -> None:
        super().__init__()
        self.name = name
        self.trunk = model
        self.num_features = model.hidden_dim
        model.heads = nn.Sequential()

    def forward(self, images_NCHW: Tensor) -> Tensor:
        features_NF: Tensor = self.trunk(images_NCHW)
        return features_NF

    def feature_map(self, images_NCHW: Tensor) -> Tensor:
        patches_NCHW = self.trunk.conv_proj(images_NCHW)
        tokens_NLC = patches_NCHW.flatten(2).transpose(1, 2)
        tokens_NLC = torch.cat([self.trunk.class_token.expand(len(tokens_NLC), -1, -1), tokens_NLC], dim=1)
        maps_NCHW: Tensor = self.trunk.encoder(tokens_NLC)[:, 1:].transpose(1, 2).reshape(patches_NCHW.shape)
        return maps_NCHW

    def blocks(self) -> list[nn.Module]:
        trunk = self.trunk
        embeddings = nn.ParameterList([trunk.class_token, trunk.encoder.pos_embedding])
        *layers, last = trunk.encoder.layers
        return [nn.ModuleList([embeddings, trunk.conv_proj]), *layers, nn.ModuleList([last, trunk.encoder.ln])]


def names() -> list[str]:
    """Names of torchvision's classification networks."""
    return models.list_models(module=models)


def build(name: str, image_size: int) -> TorchvisionBackbone | VisionTransformerBackbone:
    """The encoder for ``torchvision.models.<name>``, randomly initialised, for square images of ``image_size`` pixels.

    Raises ValueError, in one line, where the network cannot take images of that size.
    """
    settings: dict[str, Any] = {}
    if name in EXPECTING_HALVES:
        settings = {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit_"):
        settings = {"image_size": image_size}
    elif name.startswith("maxvit"):
        settings = {"input_size": (image_size, image_size)}
    try:
        model = models.get_model(name, weights=None, **settings)
        if isinstance(model, VisionTransformer):
            return VisionTransformerBackbone(name, model)
        encoder = TorchvisionBackbone(name, model)
        encoder.eval()
        with torch.no_grad():
            encoder.num_features = encoder(torch.zeros(1, 3, image_size, image_size)).shape[1]
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"torchvision/{name} cannot take images of {image_size} px: {reason}") from None
    encoder.train()
    return encoder


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The building blocks of a network, from input to output, disjoint, together holding every parameter.

    Containers are opened; a convolution with its norm and activation is one block, and so is every residual,
    inverted-residual, fire, inception, dense or transformer block. A norm alone belongs to what stands before it.
    """
    return [group[0] if len(group) == 1 else nn.ModuleList(group) for group in _groups_of(module)]


def published_format(encoder: nn.Module, source: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``source`` with the names that torchvision's networks use today, position embeddings at the encoder's size."""
    # torchvision renames these in code that only its own download path runs
    renamed = {re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key): t for key, t in source.items()}
    positions = renamed.get("encoder.pos_embedding")
    if isinstance(encoder, VisionTransformerBackbone) and positions is not None:
        trunk = encoder.trunk
        if positions.shape[-1] == encoder.num_features:
            state = OrderedDict({"encoder.pos_embedding": positions.float()})
            renamed |= interpolate_embeddings(trunk.image_size, trunk.patch_size, state)
    return renamed


def download(encoder: nn.Module, weights_name: str) -> Mapping[str, Tensor]:
    """The tensors that torchvision publishes under a name. Raises ValueError, in one line, for a name that it does not
    know, and where they cannot be had."""
    name = cast(TorchvisionBackbone, encoder).name
    published = models.get_model_weights(name)
    if weights_name not in published.__members__:
        raise ValueError(
            f"torchvision has no weights {weights_name!r} for {name}; it has {', '.join(published.__members__)}"
        )
    weights = published[weights_name]
    try:
        state: Mapping[str, Tensor] = weights.get_state_dict(check_hash=True)
    except OSError as error:
        raise ValueError(f"cannot download {weights.url} ({error}); fetch it elsewhere and give the file") from None
    return state


def _groups_of(module: nn.Module) -> list[list[nn.Module]]:
    groups: list[list[nn.Module]] = []
    for child in module.children():
        if not any(True for _ in child.parameters()):
            continue
        if _is_container(child):
            inner = _groups_of(child)
            if groups and _is_norm(inner[0][0]):
                groups[-1] += inner.pop(0)
            groups += inner
        elif groups and _is_norm(child):
            groups[-1].append(child)
        else:
            groups.append([child])
    return groups


def _is_container(module: nn.Module) -> bool:
    """A list of blocks, rather than one block (a single convolution with its norm and activation)."""
    if type(module).__name__.endswith("Stage"):  # as timm calls its own
        return not any(True for _ in module.parameters(recurse=False))
    if not isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        return False
    children = list(module.children())
    is_nested = any(True for child in children for _ in child.children())
    return is_nested or sum(isinstance(child, nn.Conv2d) for child in children) != 1


def _is_norm(module: nn.Module) -> bool:
    return all(parameter.ndim <= 1 for parameter in module.parameters())


def _to_halves() -> nn.Module:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return Normalize(((0.5 - mean) / std).tolist(), (0.5 / std).tolist())


def _as_sequential(module: nn.Module) -> nn.Module:
    return nn.Sequential(*module) if isinstance(module, nn.ModuleList) else module


def _norm_of_head(model: nn.Module) -> dict[str, nn.Module]:
    """What ConvNeXt and MaxViT do with the pooled features before their first linear layer."""
    head = getattr(model, "classifier", None)
    if not isinstance(head, nn.Sequential):
        return {}
    layers = list(takewhile(lambda layer: not isinstance(layer, nn.Linear | nn.Conv2d), head))
    return {"classifier": nn.Sequential(*layers)} if any(True for layer in layers for _ in layer.parameters()) else {}
