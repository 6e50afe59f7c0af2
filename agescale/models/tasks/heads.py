"""The layers between an encoder's features and a task's outputs."""

from __future__ import annotations

from typing import Literal, cast

from torch import nn

Reads = Literal["features", "feature_map"]
"""What of the encoder a head is fed: features (N, F), or its last maps (N, C, H, W)."""


def dense_head(
    encoder: nn.Module, head_sizes: tuple[int, ...], dropout: float, num_outputs: int, bias: bool = True
) -> nn.Sequential:
    """Dense ReLU layers of the ``head_sizes`` sizes, dropout after each (or alone), and a linear layer to the outputs.

    ``encoder`` says its ``num_features``; ``bias`` is that of the last layer.

    >>> encoder = nn.Identity()
    >>> encoder.num_features = 512
    >>> [type(layer).__name__ for layer in dense_head(encoder, (), 0.2, 101)]
    ['Dropout', 'Linear']
    >>> [type(layer).__name__ for layer in dense_head(encoder, (128,), 0.2, 101)]
    ['Linear', 'ReLU', 'Dropout', 'Linear']
    """
    num_features = cast(int, encoder.num_features)
    layers: list[nn.Module] = [] if head_sizes else [nn.Dropout(dropout)]
    for size in head_sizes:
        layers += [nn.Linear(num_features, size), nn.ReLU(), nn.Dropout(dropout)]
        num_features = size
    return nn.Sequential(*layers, nn.Linear(num_features, num_outputs, bias=bias))
