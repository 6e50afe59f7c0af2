"""Files of tensors, ours and other people's; never objects of Python in them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from agescale.store import objects

CONTAINERS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params")
"""Names under which people keep a state dict beside an optimizer and an epoch."""
WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")
"""What DataParallel, torch.compile, Lightning and people put before all names of a state dict."""


def tensors_in(uri: str, data: bytes) -> dict[str, Any]:
    """What torch.save wrote, read with ``weights_only``. Raises ValueError, in one line, for anything else."""
    try:
        values: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises half a dozen types for files that are no state dicts
        hint = (
            "objects of Python in it are never loaded; save the state dict alone: torch.save(model.state_dict(), FILE)"
        )
        reason = f"damaged, or more than tensors ({type(error).__name__}); {hint}"
        raise ValueError(f"{uri}: not a file of tensors that torch.save wrote: {reason}") from error
    return values


def read_state_dict(uri: str, sha256: str = "") -> dict[str, Tensor]:
    """Tensors by name of somebody's file: of torch.save (never code: ``weights_only``) or safetensors, in whatever they
    are wrapped as long as that is plain.

    Raises ValueError, in one line, for a wrong checksum and for what holds no state dict.
    """
    data = objects.read_bytes(uri)
    if sha256:
        objects.check_sha256(uri, data, sha256)
    if uri.lower().endswith(".safetensors"):
        try:
            tensors = safetensors.torch.load(data)
        except (SafetensorError, ValueError) as error:
            raise ValueError(f"{uri}: damaged, or not a safetensors file ({' '.join(str(error).split())})") from error
        if not tensors:
            raise ValueError(f"{uri}: contains no tensors")
        return _unwrapped(tensors)
    values: Any = tensors_in(uri, data)
    while isinstance(values, Mapping) and not any(isinstance(value, Tensor) for value in values.values()):
        inner = next((values[name] for name in CONTAINERS if isinstance(values.get(name), Mapping)), None)
        if inner is None:
            break
        values = inner
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        what = "a tensor" if isinstance(values, Tensor) else f"a {type(values).__name__}"
        what = "numbers as names" if isinstance(values, Mapping) else what
        raise ValueError(f"{uri}: {what}, no state dict; save one: torch.save(model.state_dict(), FILE)")
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    if not tensors:
        known = ", ".join(list(values)[:3]) or "nothing"
        raise ValueError(f"{uri}: no state dict (it has {known}); save one: torch.save(model.state_dict(), FILE)")
    return _unwrapped(tensors)


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without what stands before all of its names."""
    while wrapper := next((each for each in WRAPPERS if all(name.startswith(each) for name in tensors)), None):
        tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return tensors
