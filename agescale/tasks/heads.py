"""The layers between an encoder's features and a task's outputs."""

from __future__ import annotations

from torch import nn


def dense_head(num_features: int, hidden: tuple[int, ...], dropout: float, num_outputs: int) -> nn.Sequential:
    """Dense ReLU layers of the ``hidden`` sizes, dropout after each (or alone), and a linear layer to the outputs.

    >>> [type(layer).__name__ for layer in dense_head(512, (), 0.2, 101)]
    ['Dropout', 'Linear']
    >>> [type(layer).__name__ for layer in dense_head(512, (128,), 0.2, 101)]
    ['Linear', 'ReLU', 'Dropout', 'Linear']
    """
    layers: list[nn.Module] = [] if hidden else [nn.Dropout(dropout)]
    for size in hidden:
        layers += [nn.Linear(num_features, size), nn.ReLU(), nn.Dropout(dropout)]
        num_features = size
    return nn.Sequential(*layers, nn.Linear(num_features, num_outputs))
