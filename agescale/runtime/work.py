"""What a cluster does: units of work in, their summaries out. Ray runs already, but for ``run_here``."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data

from agescale.faces import images
from agescale.faces.isolation import Decoder, IsolatedImages
from agescale.runtime.progress import ImageProgress


def run_work(
    units: list[pa.Table], work: Callable[..., Any], progress: ImageProgress, **map_options: Any
) -> Iterator[dict[str, Any]]:
    """Runs ``work`` on every unit, one task each, and yields the summary row that each returns, as they end.

    ``work`` takes a unit (a table) and returns a table of one row with at least ``num_rows``; it writes its own output,
    under a name that the unit decides, so a unit that Ray runs again overwrites itself.
    """
    if not units:
        return
    summaries = ray.data.from_arrow(units).map_batches(
        work, batch_size=None, batch_format="pyarrow", zero_copy_batch=True, **map_options
    )
    for batch in summaries.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in batch.to_pylist():
            yield row
            progress.add(row["num_rows"], progress.note)


def run_here(
    units: list[pa.Table], work: Callable[[pa.Table], pa.Table], progress: ImageProgress
) -> Iterator[dict[str, Any]]:
    """``run_work`` in this process, one unit after the other: for so little work that no Ray need be started. It is the
    job itself, which no picture may end: they are decoded in processes apart."""
    with IsolatedImages() as isolated:
        _apart.append(isolated)
        try:
            for unit in units:
                (row,) = work(unit).to_pylist()
                yield row
                progress.add(row["num_rows"], progress.note)
        finally:
            _apart.pop()


FEW_IMAGES = 200
"""So few are read, or scored, without Ray where one would have to be started."""
_apart: list[Decoder] = []
"""What ``run_here`` decodes with, while it works."""
MAX_DEATHS = 2
"""Processes that a piece of work may end before its pictures are decoded elsewhere."""
HOPELESS_DEATHS = 10


@contextlib.contextmanager
def decoder(work: str) -> Iterator[Decoder]:
    """What a Ray process decodes with for the piece of ``work`` of that name. Where that has ended its process twice on
    this node, one of its pictures is suspected: they are decoded in processes of their own, and one crash is one row.

    Raises ValueError where that has not helped either.
    """
    if _apart:
        yield _apart[-1]
        return
    with _noted(work) as num_deaths:
        if num_deaths >= HOPELESS_DEATHS:
            hint = "decoding apart did not help; is there enough memory? The same command continues"
            raise ValueError(f"{work}: the process that makes it has died {num_deaths} times; {hint}")
        if num_deaths < MAX_DEATHS:
            yield images
            return
        with IsolatedImages() as isolated:
            yield isolated


@contextlib.contextmanager
def _noted(work: str) -> Iterator[int]:
    """How many processes have died at it on this node. (Ray knows, but tells no actor how often it has begun a call.)

    The note, a byte for each beginning, lies in the session's folder on the node's disk, and goes with the work's end.
    """
    context = ray.get_runtime_context()
    notes = Path(context.get_temp_dir(), context.get_session_name(), "agescale")
    note, num_deaths = notes / hashlib.sha256(work.encode()).hexdigest(), 0
    with contextlib.suppress(OSError):  # a full disk is no reason not to work
        notes.mkdir(exist_ok=True)
        with open(note, "ab") as file:
            num_deaths = file.tell()
            file.write(b".")
    try:
        yield num_deaths
    finally:
        with contextlib.suppress(OSError):
            note.unlink()
