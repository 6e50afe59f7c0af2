"""A small convolutional network with skip connections, trained from scratch.

In: normalised float images. Out: the last feature map, or its average over all places (256 features).
Four residual blocks, as in He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016): two convolutions with
batch norm learn what to add to a shortcut around them, so that gradients reach the first block undiminished. Pooling
between blocks stands for ResNet's strides; averaging makes the weights fit every image size. No published weights.
"""

from __future__ import annotations

from torch import Tensor, nn

WIDTHS = (32, 64, 128, 256)


class SkipCnn(nn.Module):
    """Images (N, 3, S, S) to features (N, widths[-1]); S is at least 2**depth pixels.

    >>> SkipCnn(64).num_features
    256
    >>> len(SkipCnn(64, widths=(8, 16)).blocks())
    2
    """

    def __init__(self, image_size: int, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        if image_size < 2 ** len(widths):
            raise ValueError(f"skip_cnn cannot take {image_size} px images: it needs at least {2 ** len(widths)} px")
        self.num_features = widths[-1]
        self.layers = nn.Sequential(*(SkipBlock(i, o) for i, o in zip((3, *widths[:-1]), widths, strict=True)))

    def feature_map(self, images_NCHW: Tensor) -> Tensor:
        maps_NCHW: Tensor = self.layers(images_NCHW)
        return maps_NCHW

    def forward(self, images_NCHW: Tensor) -> Tensor:
        return self.feature_map(images_NCHW).mean(dim=(2, 3))

    def blocks(self) -> list[nn.Module]:
        return list(self.layers)


class SkipBlock(nn.Module):
    """Maps (N, num_inputs, H, W) to (N, num_filters, H // 2, W // 2)."""

    def __init__(self, num_inputs: int, num_filters: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(num_inputs, num_filters, 3, padding=1, bias=False),
            nn.BatchNorm2d(num_filters),
            nn.ReLU(),
            nn.Conv2d(num_filters, num_filters, 3, padding=1, bias=False),
            nn.BatchNorm2d(num_filters),
        )
        self.shortcut: nn.Module = nn.Identity()
        if num_inputs != num_filters:
            self.shortcut = nn.Sequential(
                nn.Conv2d(num_inputs, num_filters, 1, bias=False), nn.BatchNorm2d(num_filters)
            )
        self.out = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        halved_NCHW: Tensor = self.out(self.residual(maps_NCHW) + self.shortcut(maps_NCHW))
        return halved_NCHW
