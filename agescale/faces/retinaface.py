"""RetinaFace on MobileNet 0.25: RGB pixels in; scores, boxes and five landmarks of faces out.

Deng et al., "RetinaFace: Single-stage dense face localisation in the wild", 2020. The weights beside this file, and
whose they are: retinaface.LICENSE.txt; benchmarks/retinaface_weights.py makes them from the package that has them.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIDES = (8, 16, 32)
ANCHOR_SIDES = ((16, 32), (64, 128), (256, 512))
"""Pixels, at each stride."""
NUM_VALUES = 1 + 4 + 10
"""What is said of an anchor: the logit of a face, its box, its landmarks."""
CENTRE_VARIANCE, SIZE_VARIANCE = 0.1, 0.2
"""The units of offsets and sizes, as the weights were trained."""
MEAN = (123.0, 117.0, 104.0)
CHANNELS = (8, 16, 32, 32, 64, 64, 128, 128, 128, 128, 128, 128, 256, 256)
HALVED = (2, 4, 6, 12)
"""The blocks after the first convolution that halve the resolution."""
TAPPED = (5, 11, 13)
"""The blocks whose outputs go on, one a stride."""
WIDTH = 64


class RetinaFace(nn.Module):
    """``forward`` takes RGB images (N, 3, H, W) in 0..255, H and W multiples of 32, and returns (N, A, NUM_VALUES)."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = [_convolution(3, CHANNELS[0], stride=2)]
        for index, (before, after) in enumerate(pairwise(CHANNELS), 1):
            depthwise = _convolution(before, before, stride=2 if index in HALVED else 1, groups=before)
            blocks.append(nn.Sequential(depthwise, _convolution(before, after, kernel=1)))
        self.blocks = nn.ModuleList(blocks)
        self.laterals = nn.ModuleList(_convolution(CHANNELS[index], WIDTH, kernel=1) for index in TAPPED)
        self.merges = nn.ModuleList(_convolution(WIDTH, WIDTH) for _ in TAPPED[1:])
        self.contexts = nn.ModuleList(_Context() for _ in TAPPED)
        self.heads = nn.ModuleList(nn.Conv2d(WIDTH, len(sides) * NUM_VALUES, 1) for sides in ANCHOR_SIDES)
        self.register_buffer("mean", torch.tensor(MEAN), persistent=False)
        self.to(memory_format=torch.channels_last)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        x_NCHW = self._centred(images_NCHW)
        tapped: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            x_NCHW = block(x_NCHW)
            if index in TAPPED:
                tapped.append(self.laterals[len(tapped)](x_NCHW))
        for index in (1, 0):  # from coarse to fine
            above = F.interpolate(tapped[index + 1], size=tapped[index].shape[2:], mode="nearest")
            tapped[index] = self.merges[index](tapped[index] + above)
        said = []
        for context, head, level_NCHW in zip(self.contexts, self.heads, tapped, strict=True):
            values_NCHW = head(context(level_NCHW))
            said.append(values_NCHW.permute(0, 2, 3, 1).reshape(len(values_NCHW), -1, NUM_VALUES))
        return torch.cat(said, dim=1)

    def _centred(self, images_NCHW: Tensor) -> Tensor:
        """By whole rows of pixels: subtracting three values from three channels, innermost, takes ten times as long."""
        images_NHWC = images_NCHW.permute(0, 2, 3, 1)
        rows = images_NHWC.flatten(0, 1).flatten(1).to(self.mean.dtype) - self.mean.repeat(images_NHWC.shape[2])
        return rows.view(images_NHWC.shape).permute(0, 3, 1, 2)


class _Context(nn.Module):
    """Features that see 3, 5 and 7 pixels around."""

    def __init__(self) -> None:
        super().__init__()
        self.near = nn.Conv2d(WIDTH, WIDTH // 2, 3, padding=1)
        self.shared = _convolution(WIDTH, WIDTH // 4)
        self.middle = nn.Conv2d(WIDTH // 4, WIDTH // 4, 3, padding=1)
        self.far = nn.Sequential(_convolution(WIDTH // 4, WIDTH // 4), nn.Conv2d(WIDTH // 4, WIDTH // 4, 3, padding=1))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        shared_NCHW = self.shared(x_NCHW)
        return torch.cat([self.near(x_NCHW), self.middle(shared_NCHW), self.far(shared_NCHW)], dim=1).relu_()


def _convolution(before: int, after: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Its batch norm is folded into it."""
    convolution = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, groups=groups)
    return nn.Sequential(convolution, nn.LeakyReLU(0.1, inplace=True))


@lru_cache(maxsize=64)
def anchors(height: int, width: int) -> Tensor:
    """Centres and sides (A, 3) in pixels, in the order of the network's values."""
    levels = []
    for stride, sides in zip(STRIDES, ANCHOR_SIDES, strict=True):
        y, x, side = torch.meshgrid(
            (torch.arange(height // stride) + 0.5) * stride,
            (torch.arange(width // stride) + 0.5) * stride,
            torch.tensor(sides, dtype=torch.float32),
            indexing="ij",
        )
        levels.append(torch.stack([x, y, side], dim=-1).reshape(-1, 3))
    return torch.cat(levels)


def decode(values_KV: Tensor, anchors_K3: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (K, 4) and landmarks (K, 5, 2) in pixels, of K anchors' values."""
    centres_K2, sides_K1 = anchors_K3[:, :2], anchors_K3[:, 2:]
    middles_K2 = centres_K2 + CENTRE_VARIANCE * sides_K1 * values_KV[:, 1:3]
    halves_K2 = sides_K1 * (SIZE_VARIANCE * values_KV[:, 3:5]).exp() / 2
    offsets_K52 = values_KV[:, 5:].reshape(-1, 5, 2)
    landmarks_K52 = centres_K2[:, None] + CENTRE_VARIANCE * sides_K1[:, None] * offsets_K52
    return torch.cat([middles_K2 - halves_K2, middles_K2 + halves_K2], dim=1), landmarks_K52
