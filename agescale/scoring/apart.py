"""Images loaded by Ray tasks of their own, on any node that has CPUs to spare, for a process that has but a model.

In: rows of a catalog, in the order in which they are asked for again. Out: faces, uint8, through Ray's object store.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import ray

from agescale.faces.finding import Found, finder_of
from agescale.faces.loading import Framing, Spent
from agescale.runtime.work import HOPELESS_DEATHS, decoder
from agescale.store.objects import read_pool
from agescale.tables import packed

SLICE_ROWS = 64
"""Images of one task: a tenth of a second of decoding or two, so that a model that begins has not long to wait."""


@dataclass
class ApartLoader:
    """Loads the images of a ``catalog`` for one process, with up to ``num_tasks`` tasks at work or done ahead of it."""

    catalog: str
    framing: Framing
    use_packed: bool
    num_tasks: int
    _asked: deque[tuple[pa.Table, str]] = field(default_factory=deque)
    _begun: deque[ray.ObjectRef] = field(default_factory=deque)

    def begin(self, rows: pa.Table, name: str) -> None:
        """Asks for the images of ``rows`` (columns as ``packed.load_faces`` has them), which are of the piece of work
        of that name, behind all that was asked for before."""
        for start in range(0, len(rows), SLICE_ROWS):
            self._asked.append((rows.slice(start, SLICE_ROWS).combine_chunks(), f"{name} {start}"))
        self._fill()

    def take(self, rows: pa.Table, spent: Spent) -> Iterator[Found]:
        """What the first ``rows`` that were asked for show, or why nothing, in their order. What the tasks took is
        added to what is ``spent``."""
        for _ in range(0, len(rows), SLICE_ROWS):
            found, *seconds = self._next()
            spent.add(*seconds)
            yield from found

    def forget(self) -> None:
        """Lets go of all that was asked for and not taken."""
        for reference in self._begun:
            ray.cancel(reference)
        self._asked.clear()
        self._begun.clear()

    def _next(self) -> tuple[list[Found], float, float, float]:
        reference = self._begun.popleft()
        self._fill()
        try:
            return ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None

    def _fill(self) -> None:
        while self._asked and len(self._begun) < self.num_tasks:
            rows, name = self._asked.popleft()
            self._begun.append(_load.remote(self.catalog, rows, self.framing, self.use_packed, name))


@ray.remote(num_cpus=1, max_retries=HOPELESS_DEATHS)
def _load(
    catalog: str, rows: pa.Table, framing: Framing, use_packed: bool, name: str
) -> tuple[list[Found], float, float, float]:
    """What each of ``rows`` shows, after faces were found; seconds of reading, decoding, and its of a processor."""
    import torch  # here: as in ScoringActor

    torch.set_num_threads(1)
    spent = Spent()
    with read_pool() as pool, decoder(name) as decode:
        cpu_s = time.thread_time()
        loaded = packed.load_faces(catalog, rows, framing, use_packed, pool, decode, spent)
        found = [each for _, each in finder_of(framing).find(enumerate(loaded))]
        cpu_s = time.thread_time() - cpu_s
    return found, spent.read_s, spent.decode_s + cpu_s, spent.decode_cpu_s + cpu_s
