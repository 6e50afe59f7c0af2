"""A job that is killed at a write: it ends there as if by kill -9, and nothing of that write stands."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from agescale.store import objects, parquet


def dies_at_write(number: int, job: Callable[[], object]) -> bool:
    """Runs ``job``, whose write of that number, from 0 on, is not made. False where it came to its end without it."""
    left = number

    def write(*arguments: Any, write: Any, **options: Any) -> Any:
        nonlocal left
        if not left:
            raise KeyboardInterrupt
        left -= 1
        return write(*arguments, **options)

    with pytest.MonkeyPatch.context() as patched:
        for module, name in ((objects, "write_bytes"), (objects, "write_new"), (parquet, "write_bytes")):
            patched.setattr(module, name, partial(write, write=getattr(module, name)))
        try:
            job()
        except KeyboardInterrupt:
            return True
        return False
