"""The whole model: uint8 pixels in, a task's outputs out. ``ModelSpec`` alone rebuilds it; weights come separately."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from agescale.ages.groups import AgeGroups
from agescale.models.encoders import Encoder, build_encoder
from agescale.models.spec import ModelSpec, auxiliary_classes
from agescale.models.tasks import Task, build_task


class Outputs(NamedTuple):
    """What a model says of N images: its task's outputs, and logits (N, K) of each auxiliary head, by its column."""

    task: Tensor
    auxiliary: dict[str, Tensor]


class AgeModel(nn.Module):
    """Normalisation, encoder and heads. Takes RGB images (N, 3, S, S), uint8 or float in 0..255."""

    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = build_encoder(
            spec.encoder,
            spec.image_size,
            widths=spec.widths,
            num_features=spec.num_features,
            spatial_dropout=spec.spatial_dropout,
        )
        task = build_spec_task(spec)
        self.reads = task.reads
        self.head = task.build_head(self.encoder, spec.head_sizes, spec.dropout)
        num_features = cast(Encoder, self.encoder).num_features
        self.auxiliary = nn.ModuleDict(
            {column: nn.Linear(num_features, len(names)) for column, names in auxiliary_classes(spec).items()}
        )
        scale = 255 * torch.tensor(spec.std)
        self.register_buffer("pixel_scale", (1 / scale).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_shift", (-255 * torch.tensor(spec.mean) / scale).view(1, 3, 1, 1), persistent=False)
        self.to(memory_format=torch.channels_last)

    def normalise(self, images_NCHW: Tensor) -> Tensor:
        images_NCHW = images_NCHW.to(self.pixel_scale.dtype, memory_format=torch.channels_last)
        return torch.addcmul(self.pixel_shift, images_NCHW, self.pixel_scale)

    def forward(self, images_NCHW: Tensor) -> Outputs:
        normalised_NCHW = self.normalise(images_NCHW)
        if self.reads == "feature_map":
            return Outputs(self.head(cast(Encoder, self.encoder).feature_map(normalised_NCHW)), {})
        return _outputs(self.encoder(normalised_NCHW), self.head, self.auxiliary)


class Top(nn.Module):
    """The dense layers of a model: those that its encoder ends in, if any, and the heads.

    ``below`` makes what it takes; the same for each image as long as nothing below learns.
    """

    def __init__(self, model: AgeModel) -> None:
        super().__init__()
        self.dense = dense_of(model)
        self.head, self.auxiliary = model.head, model.auxiliary

    def forward(self, features: Tensor) -> Outputs:
        return _outputs(self.dense(features), self.head, self.auxiliary)


def below(model: AgeModel, images_NCHW: Tensor) -> Tensor:
    """What the ``Top`` of a model takes (N, ...)."""
    encode = cast(Any, model.encoder).before_dense if len(dense_of(model)) else model.encoder
    features: Tensor = encode(model.normalise(images_NCHW))
    return features


def autocast(device: torch.device, precision: str = "auto") -> torch.autocast:
    """bfloat16, which all but the heads bears: on a GPU, unless told otherwise (``TrainConfig.precision``)."""
    is_half = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=is_half)


def dense_of(model: AgeModel) -> nn.Sequential:
    """The block of dense layers that the encoder ends in; empty where it ends otherwise."""
    return cast(nn.Sequential, getattr(model.encoder, "dense", nn.Sequential()))


def _outputs(features_NF: Tensor, head: nn.Module, auxiliary: nn.ModuleDict) -> Outputs:
    with torch.autocast(features_NF.device.type, enabled=False):  # an age in bfloat16 would be rounded to 0.3 years
        features_NF = features_NF.float()
        said = {column: each(features_NF) for column, each in auxiliary.items()}
        return Outputs(head(features_NF), said)


def build_spec_task(spec: ModelSpec, **settings: Any) -> Task:
    """The task of a model; ``settings`` (label_smoothing, rank_weights) matter for training alone."""
    return build_task(spec.task, AgeGroups.parse(spec.age_groups), spec.loss, **settings)


def describe_blocks(model: AgeModel) -> list[tuple[str, str, int]]:
    """Name, output shape of one image, and parameters of each block of the encoder, and of the head."""
    blocks = [*cast(Encoder, model.encoder).blocks(), model.head]
    names = {id(module): name for name, module in model.named_modules()}
    shapes: dict[int, str] = {}

    def remember(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            while isinstance(output, tuple | list):  # as of some transformers: the tokens first, then their grid
                output = output[0]
            shapes[index] = "x".join(str(side) for side in output.shape[1:])

        return hook

    # a block may be a mere grouping of layers that the forward pass calls one by one: watch its last layer then
    watched = [block if id(block) in names else list(block.children())[-1] for block in blocks]
    handles = [module.register_forward_hook(remember(index)) for index, module in enumerate(watched)]
    was_training = model.training
    with torch.no_grad():
        device = next(model.parameters()).device
        model.eval()(torch.zeros(1, 3, model.spec.image_size, model.spec.image_size, dtype=torch.uint8, device=device))
    model.train(was_training)
    for handle in handles:
        handle.remove()
    return [
        (names[id(module)], shapes.get(index, "?"), sum(p.numel() for p in block.parameters()))
        for index, (block, module) in enumerate(zip(blocks, watched, strict=True))
    ]
