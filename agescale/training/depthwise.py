"""Strided depthwise convolutions of a CPU in bfloat16: computed in float32, since their gradients are slow otherwise.

oneDNN has no code of its own for these gradients: in bfloat16 they take 5 to 12 times as long as in float32, and more
than half of the whole step of a MobileNet. In: what is called while the mode is entered. Out: the same tensors, in
bfloat16, rounded once instead of at each product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class StridedDepthwise(TorchFunctionMode):
    """While entered, ``conv2d`` with a filter or more for each channel alone and a stride above 1 is computed in
    float32, where autocast would have it in bfloat16 on the CPU. All else is as it was."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.conv2d and torch.is_autocast_enabled("cpu"):
            return _conv2d(*args, **kwargs)
        return func(*args, **kwargs)


def _conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    is_depthwise = 1 < groups == input.shape[-3]
    is_strided = (stride if isinstance(stride, int) else max(stride)) > 1
    if input.device.type != "cpu" or not (is_depthwise and is_strided):
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    with torch.autocast("cpu", enabled=False):
        whole = torch.conv2d(
            input.float(), weight.float(), None if bias is None else bias.float(), stride, padding, dilation, groups
        )
    return whole.to(torch.get_autocast_dtype("cpu"))
