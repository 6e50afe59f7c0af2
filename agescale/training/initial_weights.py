"""Where a model's weights come from before it is trained: names of published ones, files of tensors, checkpoints."""

from __future__ import annotations

import os

import torch

from agescale.config import TrainConfig
from agescale.models import checkpoints, included, state_dicts
from agescale.models.age_model import AgeModel
from agescale.models.encoders import load_backbone_weights
from agescale.models.spec import ModelSpec
from agescale.store import paths
from agescale.training import finetuning

TENSOR_FILES = (".pt", ".pth", ".bin", ".ckpt", ".tar", ".safetensors")
"""Initial weights that end so, in capitals or not, are a file of tensors; other paths are a checkpoint's folder."""


def initial_model(
    config: TrainConfig, spec: ModelSpec, phases: tuple[finetuning.Phase, ...], loads_weights: bool
) -> tuple[AgeModel, str]:
    """The model that training starts from, and what of its weights was taken, in words."""
    torch.manual_seed(config.seed)
    model = AgeModel(spec)
    for phase in phases:
        finetuning.freeze(model, phase.scope)  # raises where a phase names more blocks than there are
    is_ours = is_stored(config.weights)
    if config.weights_sha256 and not is_ours:
        raise ValueError(
            "--weights-sha256 is for a file or a checkpoint; who publishes weights by name checks them itself"
        )
    if not config.weights or not loads_weights:
        return model, ""
    uri = stored_at(config.weights)
    if is_checkpoint(config.weights):
        return model, checkpoints.load_into(model, uri, config.weights_sha256)
    source = state_dicts.read_state_dict(uri, config.weights_sha256) if is_ours else config.weights
    missing, unexpected = load_backbone_weights(model.encoder, source)
    taken = f"missing keys, left random: {_name_some(missing)}" if missing else "missing keys: none"
    return model, f"{taken}; unexpected keys, not used: {_name_some(unexpected)}" if unexpected else taken


def is_stored(weights: str) -> bool:
    """Whether initial weights are a file, or a checkpoint's folder, rather than a name of torchvision's or timm's: that
    of a folder which is there needs no slash."""
    return _is_file(weights) or "/" in weights or weights == included.NAME or os.path.isdir(weights)


def stored_at(weights: str) -> str:
    """Where these lie."""
    return included.located("") if weights == included.NAME else paths.absolute(weights)


def is_checkpoint(weights: str) -> bool:
    return is_stored(weights) and not _is_file(weights)


def _is_file(weights: str) -> bool:
    return weights.lower().endswith(TENSOR_FILES)


def absolute_weights(weights: str) -> str:
    """Initial weights as another process finds them, which may have another working directory."""
    return paths.absolute(weights) if is_stored(weights) and weights != included.NAME else weights


def _name_some(tensors: list[str]) -> str:
    return f"{len(tensors)} ({', '.join(tensors[:3])}{', ...' if len(tensors) > 3 else ''})"
