"""Decodes pictures in processes of their own, where one that crashes its decoder costs a row, and not the job.

Bytes go in, and what ``images`` makes of them comes out, or its ImageError; a crash is one too. The processes are this
module, run with a pipe to the one that asks; they end with it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar

from PIL import Image

from agescale.faces import images
from agescale.faces.images import Face, ImageError, Inspected, Photo, Picture

NUM_PROCESSES = 2
TIMEOUT_S = 300.0
"""For one picture; the largest that is taken needs some seconds."""
START_TIMEOUT_S = 120.0

Result = TypeVar("Result")


class Decoder(Protocol):
    """What decodes: ``images``, or ``IsolatedImages``."""

    def load_face(self, picture: Picture, size: int, center_crop: float = 1.0) -> Face: ...

    def load_photo(self, picture: Picture) -> Photo: ...

    def inspect(self, data: bytes) -> Inspected: ...

    def pack(self, data: bytes, short_side: int) -> bytes: ...

    def upright_thumbnail(self, data: bytes, size: int) -> Image.Image: ...


class IsolatedImages:
    """Functions of ``images`` for several threads, done in at most NUM_PROCESSES child processes.

    Raises ImageError also for a picture that ends its process twice, the second time as the first that it decodes, or
    that takes longer than TIMEOUT_S. To be used in a ``with`` block.
    """

    def __init__(self) -> None:
        self._room = threading.BoundedSemaphore(NUM_PROCESSES)
        self._idle: list[_Process] = []
        self._is_over = False

    def __enter__(self) -> IsolatedImages:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._is_over = True
        self._end()

    def _end(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def load_face(self, picture: Picture, size: int, center_crop: float = 1.0) -> Face:
        if not isinstance(picture, bytes):
            return images.load_face(picture, size, center_crop)
        return images.scaled(self._call(images.load_square, picture, size, center_crop), size)

    def load_photo(self, picture: Picture) -> Photo:
        if not isinstance(picture, bytes):
            return images.load_photo(picture)
        return self._call(images.load_photo, picture)

    def inspect(self, data: bytes) -> Inspected:
        return self._call(images.inspect, data)

    def pack(self, data: bytes, short_side: int) -> bytes:
        return self._call(images.pack, data, short_side)

    def upright_thumbnail(self, data: bytes, size: int) -> Image.Image:
        return self._call(images.upright_thumbnail, data, size)

    def _call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        with self._room:
            try:
                return self._call_in(self._idle.pop() if self._idle else _Process(), function, *arguments)
            except _Ended:  # maybe of what another picture has done to it
                pass
            try:
                return self._call_in(_Process(), function, *arguments)
            except _Ended as end:
                raise ImageError("unreadable", f"its decoder crashed ({end})") from None

    def _call_in(self, process: _Process, function: Callable[..., Result], *arguments: Any) -> Result:
        try:
            is_result, value = process.call(function.__name__, arguments)
        except BaseException:
            process.close()
            raise
        self._idle.append(process)
        if self._is_over:  # a thread that was still at work when the others were given up
            self._end()
        if is_result:
            return value
        raise value


class _Ended(Exception):
    """A process has ended before it answered; its text says how."""


class _Process:
    def __init__(self) -> None:
        self._pipe, theirs = Pipe()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed with the process
        command = [sys.executable, "-P", "-m", "agescale.faces.isolation", str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a Ctrl-C is for the one that asks
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        try:
            self._receive(START_TIMEOUT_S)
        except (_Ended, ImageError) as error:
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip().splitlines()
            self.close()
            raise RuntimeError(
                f"the process that decodes pictures did not start: {said[-1] if said else error}"
            ) from None

    def call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """(True, what the function returns) or (False, what it raises). Raises _Ended; ImageError after TIMEOUT_S."""
        with contextlib.suppress(OSError):  # it shows below that the process has ended
            self._pipe.send((name, arguments))
        return self._receive(TIMEOUT_S)

    def _receive(self, timeout_s: float) -> Any:
        try:
            if not self._pipe.poll(timeout_s):
                raise ImageError("unreadable", f"not decoded within {timeout_s:g} s")
            return self._pipe.recv()
        except (EOFError, ConnectionError):
            code = self._process.wait()
            raise _Ended(signal.Signals(-code).name if code < 0 else f"exit code {code}") from None

    def close(self) -> None:
        self._pipe.close()
        self._process.kill()
        self._process.wait()
        self._errors.close()


def serve(pipe: Connection) -> None:
    """Calls the functions of ``images`` that are asked for, until nobody is left to ask."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # of all processes this one is to go where memory is short
    pipe.send("ready")
    while True:
        try:
            name, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = True, getattr(images, name)(*arguments)
        except Exception as error:  # noqa: BLE001 - the border: it is raised where it was asked for
            answer = False, error
        try:
            pipe.send(answer)
        except ConnectionError:
            return


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
