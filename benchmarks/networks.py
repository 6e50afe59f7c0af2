"""The networks of scripts by hand, as one writes them: 101 ages out."""

from __future__ import annotations

from itertools import pairwise

from torch import nn
from torchvision.models import get_model

WIDTHS = (3, 32, 64, 128, 128)
NUM_AGES = 101


def network(name: str, image_size: int) -> nn.Module:
    """``cnn``, of four convolutions and two dense layers, or one of torchvision's."""
    if name == "cnn":
        blocks = [
            nn.Sequential(nn.Conv2d(inputs, filters, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
            for inputs, filters in pairwise(WIDTHS)
        ]
        num_features = WIDTHS[-1] * (image_size // 2 ** len(blocks)) ** 2
        return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(num_features, 512), nn.ReLU(), nn.Linear(512, NUM_AGES))
    return get_model(name, num_classes=NUM_AGES)
