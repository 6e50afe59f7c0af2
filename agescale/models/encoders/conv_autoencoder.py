"""The encoder half of a convolutional auto-encoder, which can learn from images without labels.

In: normalised float images of one square size. Out: the code, a small map (64 x 8 x 8 at 128 px), or its flattened
values as features. ``build_decoder`` gives the other half, from codes back to normalised images, which is no part of
the encoder: it is the head of a reconstruction task. After Masci et al., "Stacked Convolutional Auto-Encoders for
Hierarchical Feature Extraction" (ICANN 2011): max-pooling keeps the code from merely copying the image. But trained as
one stack, with ReLU, and with batch norm: without it, half of the code's channels were dead after 50 steps on drawn
faces. Knows no loss.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

WIDTHS = (32, 64, 128, 64)


class ConvAutoencoder(nn.Module):
    """Images (N, 3, S, S) to codes (N, num_features), S = ``image_size`` pixels, a multiple of 2**depth.

    ``widths`` are the filters of the blocks, each of which halves the map; the last is the channels of the code.

    >>> ConvAutoencoder(128).num_features  # 64 channels of 8 x 8
    4096
    """

    def __init__(self, image_size: int, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        factor = 2 ** len(widths)
        if image_size < factor or image_size % factor:
            raise ValueError(f"conv_autoencoder cannot take {image_size} px images: it needs a multiple of {factor} px")
        self.widths = widths
        self.num_features = widths[-1] * (image_size // factor) ** 2
        inputs = (3, *widths[:-1])
        self.convs = nn.Sequential(*(_conv_block(i, o) for i, o in zip(inputs, widths, strict=True)))

    def feature_map(self, images_NCHW: Tensor) -> Tensor:
        """The code as a map (N, widths[-1], S / 2**depth, S / 2**depth)."""
        codes_NCHW: Tensor = self.convs(images_NCHW)
        return codes_NCHW

    def forward(self, images_NCHW: Tensor) -> Tensor:
        return self.feature_map(images_NCHW).flatten(1)

    def blocks(self) -> list[nn.Module]:
        return list(self.convs)

    def build_decoder(self) -> nn.Module:
        """A new mirror network from code maps to normalised images (N, 3, S, S). Its output is not bounded.

        >>> import torch
        >>> encoder = ConvAutoencoder(32, widths=(4, 8))
        >>> codes_NCHW = encoder.feature_map(torch.zeros(1, 3, 32, 32))
        >>> tuple(codes_NCHW.shape), tuple(encoder.build_decoder()(codes_NCHW).shape)
        ((1, 8, 8, 8), (1, 3, 32, 32))
        """
        widths = self.widths[::-1]
        blocks = [_upsampling_block(i, o) for i, o in pairwise(widths)]
        # normalised pixels are of both signs, so neither ReLU nor sigmoid at the end
        return nn.Sequential(*blocks, nn.Upsample(scale_factor=2), nn.Conv2d(widths[-1], 3, 3, padding=1))


def _conv_block(num_inputs: int, num_filters: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(num_inputs, num_filters, 3, padding=1, bias=False),
        nn.BatchNorm2d(num_filters),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )


def _upsampling_block(num_inputs: int, num_filters: int) -> nn.Sequential:
    """Repeats pixels before it convolves, which leaves no chequerboard, as transposed convolutions do."""
    return nn.Sequential(
        nn.Upsample(scale_factor=2),
        nn.Conv2d(num_inputs, num_filters, 3, padding=1, bias=False),
        nn.BatchNorm2d(num_filters),
        nn.ReLU(),
    )
