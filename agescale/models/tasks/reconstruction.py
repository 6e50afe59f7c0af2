"""The image itself: pre-training of an encoder that has a decoder. Needs no label, and predicts no age."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from agescale.ages.groups import AgeGroups
from agescale.models.tasks.heads import Reads
from agescale.models.tasks.prediction import Prediction


@dataclass(frozen=True)
class Reconstruction:
    """Mean squared error between the decoder's pixels and the batch's ``target`` (N,3,S,S), both normalised.

    All pixels 0.5 too high cost 0.25:

    >>> loss_N, weight_N = Reconstruction().loss(torch.full((1, 3, 8, 8), 0.5), {"target": torch.zeros(1, 3, 8, 8)})
    >>> loss_N.tolist(), weight_N.tolist()
    ([0.25], [1.0])
    """

    age_groups: AgeGroups | None = None
    loss_name: str = "mse"
    losses: ClassVar[tuple[str, ...]] = ("mse",)
    reads: ClassVar[Reads] = "feature_map"
    predicts_age: ClassVar[bool] = False
    metric: ClassVar[str] = "loss"

    def build_head(self, encoder: nn.Module, head_sizes: tuple[int, ...], dropout: float) -> nn.Module:
        """The encoder's own decoder; ``head_sizes`` and ``dropout`` do not apply. ValueError where it has none."""
        if not hasattr(encoder, "build_decoder"):
            raise ValueError("reconstruction needs an encoder with a decoder: conv_autoencoder")
        return cast(nn.Module, cast(Any, encoder).build_decoder())

    def loss(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Mean squared error per image (N,), and the weight 1 for every image."""
        target = batch["target"]
        assert outputs.shape == target.shape, f"decoded {tuple(outputs.shape)}, target {tuple(target.shape)}"
        loss_N = (outputs.float() - target.float()).square().flatten(1).mean(dim=1)
        return loss_N, torch.ones_like(loss_N)

    def predict(self, outputs: Tensor) -> Prediction:
        raise AssertionError("reconstruction predicts no age; ask predicts_age first")

    def check_labels(self, num_exact: int, num_range: int, num_group: int, num_unlabelled: int) -> None:
        """Every image will do."""
