"""Why a training ends: what may pass and what will not, and what is said of it once."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from agescale.store import lease
from agescale.store.errors import StoreError


def lasting_store_error(error: BaseException | None) -> StoreError | lease.Held | None:
    """What a store has answered, and will answer each time: a full disk, or that another job has the run, say, but not
    the silence of a bucket.

    It is ``error`` itself, or has caused it, however deep Ray wrapped it; else None.
    """
    while error is not None:
        original = getattr(error, "cause", None) or error
        if isinstance(original, lease.Held):
            return original
        if isinstance(original, StoreError):
            may_pass = original.status == "unreachable" and "://" in str(original)
            return None if may_pass else original
        error = error.__cause__
    return None


@contextlib.contextmanager
def said_once() -> Iterator[None]:
    """Keeps Ray Train from showing the traceback of a store's answer that ends the job, which says it in one line."""
    try:
        yield
    except (StoreError, lease.Held) as error:
        if lasting_store_error(error):
            logging.getLogger("ray.train").setLevel(logging.CRITICAL + 1)
        raise


class Diverged(ValueError):
    """The loss is NaN or infinite."""


class OutOfMemory(ValueError):
    """A training process had not enough memory, of its GPU or of the machine."""


class InvalidSettings(ValueError):
    """No training can have these settings."""
