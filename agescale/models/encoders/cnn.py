"""A small convolutional network, trained from scratch.

In: normalised float images of one square size. Out: 512 features, or the last feature map.
Four blocks (3x3 convolution, ReLU, 2x2 max-pooling) of 32, 64, 128 and 128 filters, flattened into a dense layer of
512, as beginners' age classifiers have it. Flattening is kept instead of global average pooling because aligned faces
carry age at places (eyes, mouth, hairline); its price is that the weights belong to one image size.
Without batch norm, so that a step on two workers is the same step as on one; He initialisation does the rest.
"""

from __future__ import annotations

from torch import Tensor, nn

WIDTHS = (32, 64, 128, 128)
NUM_FEATURES = 512


class Cnn(nn.Module):
    """Images (N, 3, S, S) to features (N, num_features), S = ``image_size`` pixels. No batch norm, no dropout.

    ``widths`` are the filters of the convolution blocks, each of which halves the map, so S is at least 2**depth.

    >>> Cnn(64).num_features
    512
    >>> [sum(p.numel() for p in block.parameters()) for block in Cnn(64, widths=(4, 8), num_features=10).blocks()]
    [112, 296, 20490]
    """

    def __init__(self, image_size: int, widths: tuple[int, ...] = WIDTHS, num_features: int = NUM_FEATURES) -> None:
        super().__init__()
        map_size = image_size // 2 ** len(widths)
        if map_size < 1:
            raise ValueError(f"cnn cannot take {image_size} px images: it needs at least {2 ** len(widths)} px")
        self.num_features = num_features
        inputs = (3, *widths[:-1])
        self.convs = nn.Sequential(*(_conv_block(i, o) for i, o in zip(inputs, widths, strict=True)))
        self.dense = nn.Sequential(nn.Flatten(), nn.Linear(widths[-1] * map_size**2, num_features), nn.ReLU())
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def feature_map(self, images_NCHW: Tensor) -> Tensor:
        maps_NCHW: Tensor = self.convs(images_NCHW)
        return maps_NCHW

    def before_dense(self, images_NCHW: Tensor) -> Tensor:
        return self.feature_map(images_NCHW)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        features_NF: Tensor = self.dense(self.before_dense(images_NCHW))
        return features_NF

    def blocks(self) -> list[nn.Module]:
        """The convolution blocks and the dense layer."""
        return [*self.convs, self.dense]


def _conv_block(num_inputs: int, num_filters: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(num_inputs, num_filters, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
