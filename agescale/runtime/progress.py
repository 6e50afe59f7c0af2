"""How far a job is: a bar on a terminal, a plain line now and then elsewhere, also while nothing ends. Counts images;
knows nothing of Ray."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from agescale.runtime import terminal

LINE_EVERY_S = 10.0


class ImageProgress:
    """Use as a context: ``with ImageProgress("scoring", total) as progress: progress.add(100)``.

    ``note`` is shown behind the rate: failures so far, the loss, ... ``total`` is None where nobody knows it.
    """

    def __init__(self, verb: str, total: int | None, is_quiet: bool = False) -> None:
        self.verb = verb
        self.total = total
        self.done = 0
        self.note = ""
        self.is_quiet = is_quiet
        self.started = time.monotonic()
        self._last_line = self._last_added = self.started
        self._ended = threading.Event()
        self._said: tuple[int, str] | None = None
        self._bar: Progress | None = None
        if terminal.is_terminal() and not is_quiet:
            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[note]}"), console=terminal.console())
            self._task = self._bar.add_task(verb, total=total, note="")

    def __enter__(self) -> ImageProgress:
        if self._bar:
            self._bar.start()
        threading.Thread(target=self._watch, name="agescale-progress", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._bar:
            self._bar.stop()
        elif kind is None and self._said != (self.done, self.note):
            self._print_line()

    @property
    def images_per_s(self) -> float:
        return self.done / max(time.monotonic() - self.started, 1e-9)

    def add(self, num_images: int, note: str = "") -> None:
        self.done += num_images
        self.note = note
        self._last_added = time.monotonic()
        if self._bar:
            self._bar.update(
                self._task, completed=self.done, total=self.total, note=f"{self.images_per_s:.0f} images/s {note}"
            )
        elif time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._print_line()

    def _watch(self) -> None:
        """Says that images are waited for, where none have ended for LINE_EVERY_S."""
        while not self._ended.wait(LINE_EVERY_S):
            if self._waited_s < LINE_EVERY_S:
                continue
            if self._bar:
                self._bar.update(self._task, note=f"{self.note} {self._waiting}".strip())
            elif time.monotonic() - self._last_line >= LINE_EVERY_S:
                self._print_line()
                self._said = None  # it was not the last word

    @property
    def _waited_s(self) -> float:
        return time.monotonic() - self._last_added

    @property
    def _waiting(self) -> str:
        return f"waiting for images for {self._waited_s:.0f} s" if self._waited_s >= LINE_EVERY_S else ""

    def _print_line(self) -> None:
        if self.is_quiet:
            return
        self._last_line, self._said = time.monotonic(), (self.done, self.note)
        of = left = ""
        if self.total is not None:
            of = f"/{self.total}"
            left_s = (self.total - self.done) / max(self.images_per_s, 1e-9)
            left = f", {left_s:.0f} s left" if 0 < self.done < self.total else ""
        note = "".join(f", {text}" for text in (self.note, "" if self._ended.is_set() else self._waiting) if text)
        numbers: dict[str, float] = {"images_done": self.done, "images_per_s": round(self.images_per_s, 1)}
        numbers |= {} if self.total is None else {"images_total": self.total}
        terminal.JOURNAL.counts = numbers
        terminal.say(f"{self.verb}: {self.done}{of} images, {self.images_per_s:.0f}/s{left}{note}", numbers)
