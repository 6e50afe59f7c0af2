"""What limited a job: seconds of its processes by what they did in, shares of them and one line to act on out.

All seconds are on the clock, of the one thread of each process that holds the model, and divided without overlap, so
shares add up to 1. What other threads do beside it (reading, decoding) shows where it has to wait for them, or where
they take the processor that it would compute on (``divided``). Knows nothing of Ray.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

STAGES = {
    "start": "starting",
    "read": "reading",
    "decode": "decoding",
    "images": "reading and decoding",
    "features": "making features",
    "transfer": "transfer to the GPU",
    "model": "model",
    "validation": "validation",
    "write": "writing",
    "waiting": "waiting",
}
"""What a process does, and how that is told: decoding includes finding faces, ``images`` is both where nobody knows
which; features are made once of images; writing includes making the rows; waiting is for other processes and programs.
"""
OF_MODEL = ("model", "validation")
COMPUTING = ("model", "validation", "decode")
"""In which a thread that goes on has a processor."""

Item = TypeVar("Item")


@dataclass
class Took:
    """Seconds on the clock, and those in which the thread had a processor."""

    wall_s: float = 0.0
    cpu_s: float = 0.0


class Meter:
    """What the thread that made it spends its time with. A stage within a stage interrupts that one; what is of no
    other is ``base``. A change costs about a microsecond."""

    def __init__(self, base: str = "write") -> None:
        self.base = base
        self.begin()

    def begin(self) -> None:
        """Forgets all that was."""
        self.took: dict[str, Took] = {}
        self._stage = self.base
        self._wall_s, self._cpu_s = time.perf_counter(), time.thread_time()

    def _enter(self, stage: str) -> str:
        """Returns the stage before."""
        wall_s, cpu_s = time.perf_counter(), time.thread_time()
        took = self.took.setdefault(self._stage, Took())
        took.wall_s += wall_s - self._wall_s
        took.cpu_s += cpu_s - self._cpu_s
        self._wall_s, self._cpu_s = wall_s, cpu_s
        before, self._stage = self._stage, stage
        return before

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        before = self._enter(name)
        try:
            yield
        finally:
            self._enter(before)

    def each(self, name: str, items: Iterable[Item]) -> Iterator[Item]:
        """``items``, whose making is the stage of that name."""
        making = iter(items)
        while True:
            with self.stage(name):
                try:
                    item = next(making)
                except StopIteration:
                    return
            yield item

    def end(self) -> dict[str, Took]:
        """By stage since it has begun."""
        self._enter(self.base)
        return self.took


def divided(
    took: Mapping[str, Took], on_cpu: bool, read_s: float = 0.0, decode_s: float = 0.0, decode_cpu_s: float = 0.0
) -> dict[str, float]:
    """Seconds by stage of a process, its ``images``, for which it waited, divided into read and decode.

    ``read_s``, ``decode_s``: of the threads that load images for it, added up, on the clock; waiting is divided as
    these are. ``decode_cpu_s``: processor's seconds of decoding for each processor that the process computes with.
    ``on_cpu``: the model is computed there; time in which it could have gone on and had no processor is decoding's, as
    far as that took so much, and else ``waiting``: of other programs.

    >>> divided({"model": Took(10, 8), "images": Took(4, 0)}, True, read_s=1, decode_s=3, decode_cpu_s=1.5)
    {'model': 8, 'read': 1.0, 'decode': 4.5, 'waiting': 0.5}
    >>> divided({"model": Took(10, 8), "images": Took(4, 0)}, False)
    {'model': 10, 'images': 4}
    """
    seconds = {stage: each.wall_s for stage, each in took.items()}
    if loading_s := read_s + decode_s:
        waited_s = seconds.pop("images", 0.0)
        seconds["read"] = seconds.get("read", 0.0) + waited_s * read_s / loading_s
        seconds["decode"] = seconds.get("decode", 0.0) + waited_s * decode_s / loading_s
    if on_cpu:
        taken_s = 0.0
        for stage in [each for each in COMPUTING if each in took]:
            lacked_s = max(0.0, took[stage].wall_s - took[stage].cpu_s)
            seconds[stage] -= lacked_s
            taken_s += lacked_s
        to_decoding_s = min(taken_s, decode_cpu_s)
        seconds["decode"] = seconds.get("decode", 0.0) + to_decoding_s
        seconds["waiting"] = seconds.get("waiting", 0.0) + taken_s - to_decoding_s
    return seconds


@dataclass(frozen=True)
class Bottleneck:
    """``seconds`` by stage, of ``num_processes`` together."""

    seconds: Mapping[str, float]
    num_processes: int

    @property
    def shares(self) -> dict[str, float]:
        """In the order of STAGES, without what took no time."""
        total_s = sum(self.seconds.values())
        return {stage: self.seconds[stage] / total_s for stage in STAGES if self.seconds.get(stage, 0.0) > 0}

    @property
    def limit(self) -> str:
        """The stage that took longest."""
        return max(self.shares, key=self.shares.__getitem__)

    @property
    def share_of_ceiling(self) -> float:
        """Of the images a second that the model alone would get through in these processes."""
        return sum(self.shares.get(stage, 0.0) for stage in OF_MODEL)

    def line(self, remedies: Mapping[str, str]) -> str:
        """What limited it, and what to change: of ``remedies`` that of the stage. Empty where nothing took any time."""
        if not self.shares:
            return ""
        told = sorted(self.shares, key=lambda stage: -self.shares[stage])
        shares = ", ".join(f"{STAGES[stage]} {self.shares[stage]:.0%}" for stage in told if self.shares[stage] >= 0.005)
        of_model = f"{self.share_of_ceiling:.0%} of the speed of the model alone"
        return f"limited by {STAGES[self.limit]}: {shares} of the time, {of_model}; {remedies[self.limit]}"

    def to_dict(self) -> dict[str, object]:
        """For JSON, rounded; shares to a tenth of a percent."""
        return {
            "limited_by": self.limit if self.shares else "",
            "share_of_model_ceiling": round(self.share_of_ceiling, 3),
            "shares": {stage: round(share, 3) for stage, share in self.shares.items()},
            "seconds": {stage: round(self.seconds[stage], 2) for stage in self.shares},
            "num_processes": self.num_processes,
        }
