"""Random changes to training images: a fresh draw for every image, one pass for the whole batch, on its device.

In: a batch of uint8 or float images in 0..255, as a rule somewhat larger than what comes out. Out: float32 images in
0..255, square, of the side that is asked for.
All draws are made on the generator's device (the CPU, as a rule) and are a few numbers an image, so that they are the
same on every device and nothing waits for an accelerator. Normalises nothing: that is part of the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

GREY_WEIGHTS = (0.299, 0.587, 0.114)
LOW_RESOLUTION_FACTORS = (1.5, 2.0, 3.0)


@dataclass(frozen=True)
class Augmentation:
    """How much may change. Probabilities are per image; what is 0 (and a crop area of 1) changes nothing."""

    flip: float = 0.0
    """Probability of a left-right flip."""
    rotation_degrees: float = 0.0
    """Largest rotation to either side."""
    min_crop_area: float = 1.0
    """Smallest part of the image's area that is kept and enlarged; a default of other libraries, 0.08, cuts faces."""
    max_crop_area: float = 1.0
    """Largest area that is shown, as a multiple of the image's: above 1 faces become smaller, too; what comes in is
    mirrored."""
    shift: float = 0.0
    """Largest shift, as a part of the side, beyond what the crop leaves free; what comes in is mirrored."""
    colour: float = 0.0
    """Largest relative change of brightness, contrast and saturation, each."""
    grey: float = 0.0
    """Probability of a grey image."""
    low_resolution: float = 0.0
    """Probability of shrinking and enlarging again, by 1.5, 2 or 3."""
    erase: float = 0.0
    """Probability of painting a rectangle of 2-20 % of the area over with one random colour."""

    @property
    def only_flips(self) -> bool:
        """Whether an image stays as it is, or becomes its mirror image."""
        return replace(self, flip=0.0) == Augmentation()


SOURCE_SCALE = 1.25
"""How much larger images should arrive than they leave: turning and cropping at the final size would blur them, and a
model that learned from blurred faces is judged on sharp ones."""

AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation(),
    "flip": Augmentation(flip=0.5),
    "light": Augmentation(flip=0.5, rotation_degrees=10, min_crop_area=0.85, shift=0.03, colour=0.15),
    "heavy": Augmentation(
        flip=0.5,
        rotation_degrees=10,
        min_crop_area=0.75,
        shift=0.05,
        colour=0.3,
        grey=0.1,
        low_resolution=0.2,
        erase=0.25,
    ),
    # faces at 0.8 to 1.25 of their scale, shifted as far as boxes of faces differ (benchmarks/face_template.py)
    "framing": Augmentation(
        flip=0.5, rotation_degrees=15, min_crop_area=0.64, max_crop_area=1.5625, shift=0.05, colour=0.15
    ),
}


def source_size(image_size: int, augmentation: Augmentation) -> int:
    """The side, pixels, at which images that shall leave ``augment`` with ``image_size`` should arrive.

    >>> source_size(112, AUGMENTATIONS["light"]), source_size(112, AUGMENTATIONS["none"])
    (140, 112)
    """
    return image_size if augmentation.only_flips else math.ceil(image_size * SOURCE_SCALE)


def augment(
    images_NCHW: Tensor, augmentation: Augmentation, generator: torch.Generator, size: int | None = None
) -> Tensor:
    """Images (N, 3, H, W), uint8 or float in 0..255, to float32 in 0..255: changed, each by its own draw, and scaled to
    ``size`` x ``size`` pixels. Without a size they keep theirs."""
    images_NCHW = images_NCHW.to(torch.float32, memory_format=torch.contiguous_format)
    if augmentation.only_flips:
        assert size is None or images_NCHW.shape[2:] == (size, size), "nothing that would scale them"
        return flip(images_NCHW, images_NCHW.flip(3), augmentation, generator)
    with torch.autocast(images_NCHW.device.type, enabled=False):  # pixel coordinates need more than bfloat16
        images_NCHW = _warp(images_NCHW, augmentation, generator, size)
        if augmentation.colour or augmentation.grey:
            images_NCHW = _recolour(images_NCHW, augmentation, generator)
        if augmentation.low_resolution:
            images_NCHW = _lower_resolution(images_NCHW, augmentation, generator)
        if augmentation.erase:
            images_NCHW = _erase(images_NCHW, augmentation, generator)
    return images_NCHW


def flip(inputs: Tensor, mirrored: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Of N images, or of what is known of them (N, ...), each as it is or what is known of its mirror image."""
    if not augmentation.flip:
        return inputs
    is_flipped_N = (_uniform((len(inputs),), generator) < augmentation.flip).to(inputs.device)
    return torch.where(is_flipped_N.view(-1, *[1] * (inputs.ndim - 1)), mirrored, inputs)


def mix(images_NCHW: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Mixup (Zhang et al., ICLR 2018): each image blended with another one of the batch.

    Returns the images, each one's partner (N,), and the share (N,) in 0.5..1 of the image itself, drawn from
    Beta(alpha, alpha): what is learned of it is that share of its own label and the rest of its partner's.
    """
    num_images = len(images_NCHW)
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    share_N = torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, num_images)).float()
    share_N = torch.maximum(share_N, 1 - share_N).to(images_NCHW.device)
    partner_N = torch.randperm(num_images, generator=generator, device=generator.device).to(images_NCHW.device)
    share_N111 = share_N[:, None, None, None]
    return images_NCHW * share_N111 + images_NCHW[partner_N] * (1 - share_N111), partner_N, share_N


def _warp(images_NCHW: Tensor, augmentation: Augmentation, generator: torch.Generator, size: int | None) -> Tensor:
    """Flip, rotation, crop, shift and scaling as one affine map and one bilinear sampling."""
    num_images, _, height, width = images_NCHW.shape
    out_height, out_width = (height, width) if size is None else (size, size)
    flip_N, angle_N, area_N, x_N, y_N = _uniform((5, num_images), generator)
    sign_N = 1 - 2 * (flip_N < augmentation.flip).float()
    angle_N = (2 * angle_N - 1) * math.radians(augmentation.rotation_degrees)
    largest = augmentation.max_crop_area
    side_N = (largest - area_N * (largest - augmentation.min_crop_area)).sqrt()
    reach_N = (1 - side_N).abs() + 2 * augmentation.shift  # in units of half a side, as grids are
    cos_N, sin_N = side_N * angle_N.cos(), side_N * angle_N.sin()
    aspect = height / width
    theta_N23 = torch.stack(
        [
            torch.stack([sign_N * cos_N, -sin_N * aspect, (2 * x_N - 1) * reach_N], dim=1),
            torch.stack([sign_N * sin_N / aspect, cos_N, (2 * y_N - 1) * reach_N], dim=1),
        ],
        dim=1,
    ).to(images_NCHW.device)
    grid_NHW2 = F.affine_grid(theta_N23, [num_images, 3, out_height, out_width], align_corners=False)
    return F.grid_sample(images_NCHW, grid_NHW2, padding_mode="reflection", align_corners=False)


def _recolour(images_NCHW: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Brightness, contrast around the mean grey, and saturation: together one 3x3 matrix and one offset an image."""
    device = images_NCHW.device
    num_images = len(images_NCHW)
    factors_3N = 1 + augmentation.colour * (2 * _uniform((3, num_images), generator) - 1)
    is_grey_N = _uniform((num_images,), generator) < augmentation.grey
    brightness_N, contrast_N, saturation_N = factors_3N.to(device)
    saturation_N = saturation_N.masked_fill(is_grey_N.to(device), 0.0)[:, None, None]

    grey_3 = torch.tensor(GREY_WEIGHTS, device=device)
    saturate_N33 = saturation_N * torch.eye(3, device=device) + (1 - saturation_N) * grey_3.expand(3, 3)
    matrix_N33 = (brightness_N * contrast_N)[:, None, None] * saturate_N33
    mean_grey_N = images_NCHW.mean(dim=(2, 3)) @ grey_3
    offset_N11 = (brightness_N * (1 - contrast_N) * mean_grey_N)[:, None, None]
    pixels_N3P = torch.baddbmm(offset_N11, matrix_N33, images_NCHW.flatten(2))
    return pixels_N3P.view_as(images_NCHW).clamp_(0, 255)


def _lower_resolution(images_NCHW: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Some images shrunk by averaging and enlarged again, as pictures from far away are."""
    size = images_NCHW.shape[2:]
    is_chosen_N, choice_N = _uniform((2, len(images_NCHW)), generator)
    choice_N = (
        (choice_N * len(LOW_RESOLUTION_FACTORS)).long().masked_fill(is_chosen_N >= augmentation.low_resolution, -1)
    )
    for index, factor in enumerate(LOW_RESOLUTION_FACTORS):
        chosen = (choice_N == index).nonzero()[:, 0].to(images_NCHW.device)
        if len(chosen):
            small = F.interpolate(images_NCHW[chosen], [max(1, int(side / factor)) for side in size], mode="area")
            images_NCHW[chosen] = F.interpolate(small, size, mode="bilinear")
    return images_NCHW


def _erase(images_NCHW: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Random erasing (Zhong et al., AAAI 2020) with one random colour."""
    num_images, _, height, width = images_NCHW.shape
    is_chosen_N, area_N, aspect_N, x_N, y_N, *colour_3N = _uniform((8, num_images), generator)
    area_N, aspect_N = 0.02 + 0.18 * area_N, 2 * aspect_N - 1  # log2 of the height over the width
    height_N = (area_N.sqrt() * 2 ** (aspect_N / 2)).where(is_chosen_N < augmentation.erase, 0.0)
    width_N = area_N.sqrt() * 2 ** (-aspect_N / 2)
    top_N, left_N = y_N * (1 - height_N), x_N * (1 - width_N)
    bounds = torch.stack([top_N, top_N + height_N, left_N, left_N + width_N]).to(images_NCHW.device)
    top_N1, bottom_N1, left_N1, right_N1 = bounds[:, :, None]
    y_H = (torch.arange(height, device=images_NCHW.device) + 0.5) / height
    x_W = (torch.arange(width, device=images_NCHW.device) + 0.5) / width
    is_row_NH = (y_H >= top_N1) & (y_H < bottom_N1)
    is_column_NW = (x_W >= left_N1) & (x_W < right_N1)
    is_erased_N1HW = (is_row_NH[:, :, None] & is_column_NW[:, None, :])[:, None]
    colour_N311 = 255 * torch.stack(colour_3N, dim=1)[:, :, None, None].to(images_NCHW.device)
    return torch.where(is_erased_N1HW, colour_N311, images_NCHW)


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draws from [0, 1), on the CPU whatever device the generator is on."""
    return torch.rand(shape, generator=generator, device=generator.device).cpu()
