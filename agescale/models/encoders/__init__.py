"""Encoders: images in, features out. ``ENCODERS`` is the list; ``torchvision/<name>``, ``timm/<name>`` need no entry.

Images arrive as normalised float. An encoder knows nothing of ages, labels or training.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from inspect import signature
from types import ModuleType
from typing import Any, Protocol

from torch import Tensor, nn

from agescale.models.encoders.attention_cnn import AttentionCnn
from agescale.models.encoders.cnn import Cnn
from agescale.models.encoders.conv_autoencoder import ConvAutoencoder
from agescale.models.encoders.skip_cnn import SkipCnn

LIBRARIES = ("torchvision", "timm")
"""Of which each network is an encoder, called LIBRARY/NAME."""


class Encoder(Protocol):
    """What every encoder, an ``nn.Module``, can do."""

    num_features: int

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Features (N, num_features)."""

    def feature_map(self, images_NCHW: Tensor) -> Tensor:
        """The last maps (N, C, H, W) before pooling or flattening."""

    def blocks(self) -> list[nn.Module]:
        """The building blocks from input to output: disjoint, and together all of the parameters."""

    # Where an encoder ends in a block of dense layers, ``dense``, it has ``before_dense`` besides: images to what that
    # block takes.


ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "cnn": Cnn,
    "skip_cnn": SkipCnn,
    "attention_cnn": AttentionCnn,
    "conv_autoencoder": ConvAutoencoder,
}
"""Name to a function of the image size (pixels, square) and of the settings that its signature names."""


def encoder_names() -> list[str]:
    """Every name that ``build_encoder`` takes here."""
    return [*ENCODERS, *(f"{library}/{name}" for library in LIBRARIES for name in _backbones_of(library).names())]


def _backbones_of(library: str) -> ModuleType:
    """Imported where it is needed: it takes seconds, which processes that build no such network need not wait."""
    return import_module(f"agescale.models.encoders.{library}_backbone")


def build_encoder(
    name: str,
    image_size: int,
    widths: tuple[int, ...] = (),
    num_features: int | None = None,
    spatial_dropout: float | None = None,
) -> nn.Module:
    """The encoder ``name`` (an ``Encoder``), randomly initialised, for square images of ``image_size`` pixels.

    Filters of each block, size of the dense layer, share of channels dropped: what is not given is the encoder's own.
    Raises ValueError, in one line, for an unknown name, for a setting that the encoder does not have or cannot be, and
    for an image size that the network cannot take.
    """
    given = {"widths": widths or None, "num_features": num_features, "spatial_dropout": spatial_dropout}
    settings = {key: value for key, value in given.items() if value is not None}
    if name in ENCODERS:
        _check_settings(name, settings)
        return ENCODERS[name](image_size, **settings)
    library, _, inner = name.partition("/")
    if library in LIBRARIES:
        backbones = _backbones_of(library)
        if inner.partition("?")[0] in backbones.names():
            taken = signature(backbones.build).parameters
            _check_settings(name, {key: value for key, value in settings.items() if key not in taken})
            encoder: nn.Module = backbones.build(inner, image_size, **settings)
            return encoder
        network, _, tag = inner.partition(".")
        if tag and network in backbones.names():
            raise ValueError(
                f"{name}: the encoder is {library}/{network}, and {tag} its initial weights (--weights {tag})"
            )
    names = encoder_names()
    near = [each for each in names if each.endswith(f"/{name}")]
    near = near or difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    near = near or difflib.get_close_matches(f"torchvision/{name}", names, n=3)
    hint = f"; near it: {', '.join(near)}" if near else ""
    raise ValueError(
        f"no encoder is called {name!r}{hint} (agescale.models.encoders.encoder_names() lists all {len(names)})"
    )


def load_backbone_weights(encoder: nn.Module, source: Mapping[str, Tensor] | str) -> tuple[list[str], list[str]]:
    """Fill ``encoder`` from a state dict of its library, or from the name of published weights such as IMAGENET1K_V2 of
    torchvision's or a1_in1k of timm's.

    Returns the names of the encoder's tensors that the source lacks, and of the source's tensors that the encoder does
    not have (the dropped head, as a rule). Half precision becomes the encoder's precision. Raises ValueError, in one
    line, for an unknown weights name, for tensors of another shape, and where under half of the encoder's tensors are
    in the source: weights of another architecture.
    """
    backbones = sys.modules[type(encoder).__module__] if hasattr(encoder, "name") else None
    if isinstance(source, Mapping):
        tensors = source
    elif backbones is None:
        own_name = next((own for own, build in ENCODERS.items() if type(encoder) is build), type(encoder).__name__)
        raise ValueError(
            f"no weights {source!r} for {own_name}: they are published for torchvision/NAME and timm/NAME only"
        )
    else:
        tensors = backbones.download(encoder, source)
    if backbones is not None:
        tensors = backbones.published_format(encoder, tensors)
    own = {_published_name(key): key for key in encoder.state_dict()}
    renamed = {own.get(key, f"trunk.{key}"): tensor for key, tensor in tensors.items()}

    shapes = {key: tuple(tensor.shape) for key, tensor in encoder.state_dict().items()}
    other = [key for key, tensor in renamed.items() if key in shapes and tuple(tensor.shape) != shapes[key]]
    if other:
        first = ", ".join(
            f"{_published_name(key)} is {_format_shape(renamed[key].shape)} instead of {_format_shape(shapes[key])}"
            for key in other[:3]
        )
        raise ValueError(f"these weights are of another architecture: {first} ({len(other)} tensors differ)")

    result = encoder.load_state_dict(renamed, strict=False)
    missing = [_published_name(key) for key in result.missing_keys]
    unexpected = [_published_name(key) for key in result.unexpected_keys]
    if 2 * len(missing) > len(shapes):
        raise ValueError(
            f"these weights are of another architecture: {len(missing)} of {len(shapes)} tensors are missing, first "
            f"{', '.join(missing[:3])}; the file has {', '.join(list(tensors)[:3]) or 'none'}"
        )
    return missing, unexpected


def _check_settings(name: str, settings: Mapping[str, Any]) -> None:
    for key in settings:
        takers = [taker for taker, build in ENCODERS.items() if key in signature(build).parameters]
        takers += ["timm/NAME"] if key == "num_features" else []
        if name not in takers:
            raise ValueError(f"--{key.replace('_', '-')} is a setting of {', '.join(takers)}, but not of {name}")


def _published_name(key: str) -> str:
    return key.removeprefix("trunk.").removeprefix("neck.")


def _format_shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"
