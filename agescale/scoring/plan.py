"""What is left to score: the units of a catalog and what stands in a table of predictions in, tasks out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa

from agescale.tables.predictions import Counts
from agescale.tables.units import Unit

MAX_TASK_UNITS = 16
"""Units of one Ray task, where there are so many units that the tasks themselves would cost time."""


@dataclass(frozen=True)
class Work:
    """A catalog's units by the names of their files, what those count that stand, and what is to do."""

    units: dict[str, Unit]
    standing: Mapping[str, Counts]
    retry: tuple[str, ...]  # statuses of rows to be scored again

    @cached_property
    def todo(self) -> list[str]:
        return [name for name in self.units if name not in self.standing or self._num_retried(name)]

    @property
    def num_rows(self) -> int:
        """Rows of what is to do; of units that stand only those to be scored again."""
        return sum(self._num_retried(name) or len(self.units[name]) for name in self.todo)

    def _num_retried(self, name: str) -> int:
        if not self.retry or name not in self.standing:
            return 0
        statuses, gone = (self.standing[name][key] for key in ("statuses", "gone"))
        return sum(statuses.get(status, 0) - gone.get(status, 0) for status in self.retry)

    def tasks(self, num_workers: int, least_units: int = 1) -> list[pa.Table]:
        """What is to do, a table a Ray task, a row a unit; ``least_units`` where there are so many for each worker."""
        todo = self.todo
        least = min(least_units, len(todo) // num_workers)
        size = max(1, least, min(MAX_TASK_UNITS, len(todo) // (16 * num_workers)))
        rows = [{"output": name, "num_retried": self._num_retried(name), **vars(self.units[name])} for name in todo]
        return [pa.Table.from_pylist(rows[start : start + size]) for start in range(0, len(rows), size)]


def plan_work(counts: Mapping[str, Counts], all_units: Sequence[Unit], model: str, retry: tuple[str, ...]) -> Work:
    """What is to do for the model with that digest, where files stand that count so."""
    by_name = {unit.file_name(model): unit for unit in all_units}
    return Work(by_name, {name: each for name, each in counts.items() if name in by_name}, retry)
