"""Augmentation: every image its own draw, the same draws for the same seed, nothing out of range."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from agescale.faces.augment import AUGMENTATIONS, Augmentation, augment


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_images(num_images=8, size=32):
    return torch.randint(0, 256, (num_images, 3, size, size), dtype=torch.uint8, generator=seeded(99))


@pytest.fixture(params=AUGMENTATIONS)
def preset(request):
    return AUGMENTATIONS[request.param]


@pytest.mark.parametrize("as_type", [torch.uint8, torch.float32])
def test_images_stay_float_of_the_same_shape_within_0_to_255(preset, as_type):
    images_NCHW = random_images().to(as_type)
    before = images_NCHW.clone()
    out_NCHW = augment(images_NCHW, preset, seeded())
    assert out_NCHW.shape == images_NCHW.shape
    assert out_NCHW.dtype == torch.float32
    assert out_NCHW.min() >= 0
    assert out_NCHW.max() <= 255
    assert torch.equal(images_NCHW, before)  # the batch that came in is left alone


def test_images_in_another_memory_order_give_the_same(preset):
    images_NCHW = random_images()
    there = augment(images_NCHW, preset, seeded())
    here = augment(images_NCHW.contiguous(memory_format=torch.channels_last), preset, seeded())
    assert torch.equal(there, here)


def test_automatic_low_precision_around_it_changes_nothing(preset):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = augment(random_images(), preset, seeded())
    assert torch.equal(inside, augment(random_images(), preset, seeded()))


def test_everything_but_the_draws_happens_on_the_images_device(preset, monkeypatch):
    """The meta device computes nothing, and refuses tensors that live elsewhere as an accelerator does."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it does not know that device
    out_NCHW = augment(random_images().to("meta"), preset, seeded())
    assert out_NCHW.is_meta
    assert out_NCHW.shape == random_images().shape


def test_none_changes_nothing_and_draws_nothing():
    generator = seeded()
    state = generator.get_state()
    assert torch.equal(augment(random_images(), AUGMENTATIONS["none"], generator), random_images().float())
    assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize("name", ["light", "heavy", "framing"])
def test_the_same_seed_gives_the_same_images_and_another_seed_others(name):
    preset, images_NCHW = AUGMENTATIONS[name], random_images()
    assert torch.equal(augment(images_NCHW, preset, seeded(1)), augment(images_NCHW, preset, seeded(1)))
    assert not torch.equal(augment(images_NCHW, preset, seeded(1)), augment(images_NCHW, preset, seeded(2)))


@pytest.mark.parametrize(
    "augmentation",
    [
        AUGMENTATIONS["light"],
        AUGMENTATIONS["heavy"],
        Augmentation(rotation_degrees=10),
        Augmentation(min_crop_area=0.75),
        Augmentation(max_crop_area=1.5),
        Augmentation(shift=0.05),
        Augmentation(colour=0.3),
    ],
)
def test_every_image_and_every_call_gets_its_own_draw(augmentation):
    images_NCHW = random_images(1).expand(16, -1, -1, -1)
    generator = seeded()
    out = torch.cat([augment(images_NCHW, augmentation, generator) for _ in range(2)])
    distances = torch.cdist(out.flatten(1), out.flatten(1)) + torch.eye(32) * 1e9
    assert distances.min() > 1.0


def test_an_image_is_not_touched_by_its_neighbours():
    images_NCHW = random_images()
    others_NCHW = images_NCHW.clone()
    others_NCHW[1:] = 0
    heavy = AUGMENTATIONS["heavy"]
    torch.testing.assert_close(
        augment(images_NCHW, heavy, seeded())[0], augment(others_NCHW, heavy, seeded())[0], atol=1e-3, rtol=0
    )


def test_half_of_the_images_are_flipped_and_the_others_left_as_they_are():
    image_CHW = random_images(1)[0].float()
    out_NCHW = augment(image_CHW.expand(1000, -1, -1, -1), Augmentation(flip=0.5), seeded())
    is_flipped_N = (out_NCHW - image_CHW.flip(-1)).abs().amax(dim=(1, 2, 3)) < 0.1
    is_same_N = (out_NCHW - image_CHW).abs().amax(dim=(1, 2, 3)) < 0.1
    assert (is_flipped_N ^ is_same_N).all()
    assert is_flipped_N.float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert not is_flipped_N[:10].all()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 96)])
def test_rotation_turns_by_at_most_its_angle_and_keeps_the_shape(height, width):
    images_NCHW = torch.zeros(200, 3, height, width)
    images_NCHW[:, :, height // 2 - 1 : height // 2 + 1, -10:-6] = 255  # a spot to the right of the centre
    out_NCHW = augment(images_NCHW, Augmentation(rotation_degrees=10), seeded())[:, :, :, width // 2 :]
    mass_NHW = out_NCHW.mean(dim=1)
    y_N = (mass_NHW * (torch.arange(height) + 0.5 - height / 2)[:, None]).sum(dim=(1, 2)) / mass_NHW.sum(dim=(1, 2))
    x_N = (mass_NHW * (torch.arange(width // 2) + 0.5)).sum(dim=(1, 2)) / mass_NHW.sum(dim=(1, 2))
    angles_N = torch.atan2(y_N, x_N).rad2deg()
    assert 8 < angles_N.abs().max() < 10.5
    assert angles_N.mean().abs() < 1.5
    torch.testing.assert_close((x_N**2 + y_N**2).sqrt(), torch.full((200,), width / 2 - 8), atol=0.3, rtol=0)


def test_a_crop_keeps_at_least_its_part_of_the_area_and_stays_inside():
    ramp_HW = torch.arange(64.0).expand(64, 64)
    out_NCHW = augment(ramp_HW.expand(500, 3, 64, 64), Augmentation(min_crop_area=0.75), seeded())
    left_N, right_N = out_NCHW[:, 0, 32, 0], out_NCHW[:, 0, 32, -1]
    side_N = (right_N - left_N) / 63
    assert 0.75**0.5 - 0.01 < side_N.min() < 0.88
    assert 0.99 < side_N.max() < 1.01
    assert left_N.min() >= 0
    assert right_N.max() <= 63


def test_framing_shows_faces_smaller_and_larger_about_as_often_and_shifts_what_is_whole_to_the_edge():
    framing = AUGMENTATIONS["framing"]
    ramp_HW = torch.arange(64.0).expand(64, 64)
    images_NCHW = ramp_HW.expand(1000, 3, 64, 64)
    scales_only = Augmentation(min_crop_area=framing.min_crop_area, max_crop_area=framing.max_crop_area)
    row_NW = augment(images_NCHW, scales_only, seeded())[:, 0, 32]
    side_N = (row_NW[:, 36] - row_NW[:, 28]) / 8
    scale_N = 1 / side_N
    assert 0.79 < scale_N.min() < 0.82
    assert 1.22 < scale_N.max() < 1.26
    assert scale_N.log().mean().abs() < 0.06
    assert 0.35 < (scale_N > 1).float().mean() < 0.45
    shift_N = ((row_NW[:, 31] + row_NW[:, 32]) / 2 - 31.5) / 64  # of the middle, as a part of the image's side
    free_N = (1 - side_N).abs() / 2
    assert (shift_N.abs() <= free_N + 0.01).all()
    assert (shift_N.abs() / free_N)[free_N > 0.05].mean().item() == pytest.approx(0.5, abs=0.03)
    further = Augmentation(shift=framing.shift)
    row_NW = augment(images_NCHW, further, seeded())[:, 0, 32]
    assert 0.045 < ((row_NW[:, 31] + row_NW[:, 32]) / 2 - 31.5).abs().max() / 64 < 0.051


def test_brightness_contrast_and_saturation_stay_within_their_bounds():
    flat_NCHW = torch.full((500, 3, 8, 8), 100.0)
    brightness_N = augment(flat_NCHW, Augmentation(colour=0.3), seeded())[:, 0, 0, 0] / 100
    assert 0.69 < brightness_N.min() < 0.72
    assert 1.28 < brightness_N.max() < 1.31
    assert brightness_N.mean().item() == pytest.approx(1, abs=0.03)


def test_a_tenth_of_the_images_becomes_grey():
    out_NCHW = augment(random_images(1).expand(1000, -1, -1, -1), Augmentation(grey=0.1), seeded())
    is_grey_N = (out_NCHW.amax(dim=1) - out_NCHW.amin(dim=1)).amax(dim=(1, 2)) < 0.5
    assert is_grey_N.float().mean().item() == pytest.approx(0.1, abs=0.03)


def test_lower_resolution_smooths_its_share_of_the_images():
    out_NCHW = augment(random_images(1).expand(1000, -1, -1, -1), Augmentation(low_resolution=0.2), seeded())
    contrast_N = out_NCHW.std(dim=(1, 2, 3))
    is_smooth_N = contrast_N < 0.8 * random_images(1).float().std()
    assert is_smooth_N.float().mean().item() == pytest.approx(0.2, abs=0.04)
    assert len({round(c) for c in contrast_N[is_smooth_N].tolist()}) >= 3  # three factors


def test_erasing_paints_one_rectangle_of_its_share_of_the_images():
    images_NCHW = random_images(1, size=64).expand(1000, -1, -1, -1)
    out_NCHW = augment(images_NCHW, Augmentation(erase=0.25), seeded())
    is_changed_NHW = ((out_NCHW - images_NCHW).abs() > 0.1).any(dim=1)
    area_N = is_changed_NHW.float().mean(dim=(1, 2))
    assert (area_N > 0).float().mean().item() == pytest.approx(0.25, abs=0.04)
    assert area_N[area_N > 0].min() > 0.01
    assert area_N.max() < 0.23
    painted = out_NCHW[area_N > 0][0].flatten(1)[:, is_changed_NHW[area_N > 0][0].flatten()]
    assert (painted == painted[:, :1]).all()


def test_mirrored_edges_leave_no_black_corners():
    white_NCHW = torch.full((64, 3, 32, 32), 255.0)
    warped = augment(white_NCHW, Augmentation(flip=0.5, rotation_degrees=10, max_crop_area=1.5, shift=0.1), seeded())
    assert warped.min() > 254.9
