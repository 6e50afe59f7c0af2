"""A small convolutional network that weighs its last channels by attention, trained from scratch.

In: normalised float images. Out: the attended feature map, or its average over all places (256 features).
Four blocks of convolution, batch norm, ReLU, max-pooling and spatial dropout, which drops whole channels because the
neighbours in a map say nearly the same; then the channel attention of Woo et al., "CBAM: Convolutional Block Attention
Module" (ECCV 2018). Made for images of 160 px; averaging makes the weights fit every size. No published weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTHS = (32, 64, 128, 256)
REDUCTION = 16


class AttentionCnn(nn.Module):
    """Images (N, 3, S, S) to features (N, widths[-1]); S is at least 2**depth pixels. The attention is a block too.

    >>> AttentionCnn(160).num_features
    256
    >>> len(AttentionCnn(160).blocks())
    5
    """

    def __init__(self, image_size: int, widths: tuple[int, ...] = WIDTHS, spatial_dropout: float = 0.1) -> None:
        super().__init__()
        if image_size < 2 ** len(widths):
            least = 2 ** len(widths)
            raise ValueError(f"attention_cnn cannot take {image_size} px images: it needs at least {least} px")
        self.num_features = widths[-1]
        inputs = (3, *widths[:-1])
        self.convs = nn.Sequential(*(_conv_block(i, o, spatial_dropout) for i, o in zip(inputs, widths, strict=True)))
        self.attention = ChannelAttention(widths[-1])

    def feature_map(self, images_NCHW: Tensor) -> Tensor:
        maps_NCHW: Tensor = self.attention(self.convs(images_NCHW))
        return maps_NCHW

    def forward(self, images_NCHW: Tensor) -> Tensor:
        return self.feature_map(images_NCHW).mean(dim=(2, 3))

    def blocks(self) -> list[nn.Module]:
        """The convolution blocks and the attention."""
        return [*self.convs, self.attention]


class ChannelAttention(nn.Module):
    """Maps (N, C, H, W) to the same maps, each channel times a weight from 0 to 1 that all channels decide together.

    The weights are sigmoid(mlp(average over H, W) + mlp(maximum over H, W)), with one mlp for both.

    >>> attention = ChannelAttention(4)
    >>> for parameter in attention.parameters():
    ...     _ = nn.init.zeros_(parameter)
    >>> attention(torch.full((1, 4, 2, 2), 3.0)).unique().tolist()  # sigmoid(0) of each channel
    [1.5]
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        num_hidden = max(1, num_channels // REDUCTION)
        self.mlp = nn.Sequential(nn.Linear(num_channels, num_hidden), nn.ReLU(), nn.Linear(num_hidden, num_channels))

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        average_NC, maximum_NC = maps_NCHW.mean(dim=(2, 3)), maps_NCHW.amax(dim=(2, 3))
        weight_NC = torch.sigmoid(self.mlp(average_NC) + self.mlp(maximum_NC))
        return maps_NCHW * weight_NC[:, :, None, None]


def _conv_block(num_inputs: int, num_filters: int, spatial_dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(num_inputs, num_filters, 3, padding=1, bias=False),
        nn.BatchNorm2d(num_filters),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout2d(spatial_dropout),
    )
