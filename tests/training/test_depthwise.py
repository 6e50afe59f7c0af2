"""Strided depthwise convolutions: the same numbers, in bfloat16, by way of float32."""

import pytest
import torch
from torch import nn

from agescale.training.depthwise import StridedDepthwise


def dtypes_computed(conv: nn.Conv2d, mode: StridedDepthwise | None = None) -> tuple[torch.Tensor, list[torch.dtype]]:
    """What a convolution makes of the same image under autocast, and the dtypes that convolutions ran in."""
    computed: list[torch.dtype] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if "convolution" in func.name():
                computed.append(args[0].dtype)
            return func(*args, **(kwargs or {}))

    images = torch.randn(2, 8, 9, 9, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16), Watch():
        if mode is None:
            return conv(images), computed
        with mode:
            return conv(images), computed


@pytest.mark.parametrize("settings", [{"stride": 2}, {"stride": (1, 2), "padding": 1}, {"stride": 2, "bias": False}])
def test_strided_depthwise_convolutions_are_computed_in_float32_and_come_out_in_bfloat16(settings):
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 16, 3, groups=8, **settings)

    plain, plain_dtypes = dtypes_computed(conv)
    ours, our_dtypes = dtypes_computed(conv, StridedDepthwise())

    assert (plain_dtypes, our_dtypes) == ([torch.bfloat16], [torch.float32])
    assert ours.dtype == plain.dtype == torch.bfloat16
    torch.testing.assert_close(ours, plain, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    "conv",
    [nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3, stride=2), nn.Conv2d(8, 8, 3, stride=2, groups=4)],
    ids=["not strided", "not depthwise", "groups of two channels"],
)
def test_other_convolutions_are_left_to_autocast(conv):
    assert dtypes_computed(conv, StridedDepthwise())[1] == [torch.bfloat16]


def test_without_autocast_nothing_is_changed():
    conv = nn.Conv2d(8, 8, 3, stride=2, groups=8)
    images = torch.randn(2, 8, 9, 9)
    with StridedDepthwise():
        said = conv(images)
    assert said.dtype == torch.float32
    assert torch.equal(said, conv(images))


def test_gradients_are_those_of_float32():
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 8, 3, stride=2, groups=8)
    images = torch.randn(2, 8, 9, 9)
    conv(images).square().sum().backward()
    expected = conv.weight.grad.clone()
    conv.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16), StridedDepthwise():
        said = conv(images)
    said.float().square().sum().backward()
    torch.testing.assert_close(conv.weight.grad, expected, rtol=0.02, atol=0.5)
