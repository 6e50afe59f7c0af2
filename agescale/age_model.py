"""The whole model: uint8 pixels in, a task's outputs out. ``ModelSpec`` alone rebuilds it; weights come separately."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from agescale.age_cdf import DecodeRule
from agescale.age_groups import AgeGroups
from agescale.models import Encoder, build_encoder
from agescale.tasks import Task, build_task

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ModelSpec:
    """Everything that decides what a model computes, its weights aside. Written into every checkpoint."""

    encoder: str
    task: str
    age_groups: str
    image_size: int  # pixels, square
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    center_crop: float = 1.0  # share of the shorter side that is kept
    resize: str = "bilinear, antialiased, central square"
    color_order: str = "RGB"
    mean: tuple[float, float, float] = IMAGENET_MEAN  # of pixels in 0..1
    std: tuple[float, float, float] = IMAGENET_STD
    decode: DecodeRule = "median"  # the age that is reported of the distribution
    calibration: None = None  # of the age interval; none yet

    @staticmethod
    def from_dict(values: dict[str, Any]) -> ModelSpec:
        known: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return ModelSpec(**known)


class AgeModel(nn.Module):
    """Normalisation, encoder and head. Takes RGB images (N, 3, S, S), uint8 or float in 0..255."""

    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = build_encoder(spec.encoder, spec.image_size)
        num_features = cast(Encoder, self.encoder).num_features
        self.head = build_spec_task(spec).build_head(num_features, spec.hidden, spec.dropout)
        scale = 255 * torch.tensor(spec.std)
        self.register_buffer("pixel_scale", (1 / scale).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_shift", (-255 * torch.tensor(spec.mean) / scale).view(1, 3, 1, 1), persistent=False)
        self.to(memory_format=torch.channels_last)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        images_NCHW = images_NCHW.to(self.pixel_scale.dtype, memory_format=torch.channels_last)
        normalised_NCHW = torch.addcmul(self.pixel_shift, images_NCHW, self.pixel_scale)
        outputs: Tensor = self.head(self.encoder(normalised_NCHW))
        return outputs


def build_spec_task(spec: ModelSpec) -> Task:
    return build_task(spec.task, AgeGroups.parse(spec.age_groups))


def describe_blocks(model: AgeModel) -> list[tuple[str, str, int]]:
    """Name, output shape of one image, and parameters of each block of the encoder, and of the head."""
    blocks = [*cast(Encoder, model.encoder).blocks(), model.head]
    names = {id(module): name for name, module in model.named_modules()}
    shapes: dict[int, str] = {}

    def remember(index: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
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
