"""What all jobs do around their work: parse the settings, run, and say in one line what went wrong.

Exit codes: 0 success, 1 crashed (with a traceback), 2 refused or impossible (one line), 3 done, and not right (one
line: more images failed than may, or what was verified is wrong).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from traceback import format_tb
from typing import NoReturn, TypeVar

import tyro

from agescale.storage import StoreError

Config = TypeVar("Config")


def run_job(
    job: Callable[[Config], None], config_type: type[Config], default: Config | None = None, epilog: str = ""
) -> None:
    """Parses ``config_type`` from the command line and runs ``job``; a user's mistake becomes one line and code 2."""
    description = f"{config_type.__doc__}\n\n{epilog}".strip()
    if default is None:
        config = tyro.cli(config_type, description=description)
    else:
        config = tyro.cli(config_type, description=description, default=default)
    try:
        job(config)
    except KeyboardInterrupt:
        refuse("interrupted; the same command continues")
    except Exception as error:
        mistake = user_mistake(error)
        if mistake is None:
            raise
        refuse(mistake)


def user_mistake(error: BaseException | None) -> str | None:
    """The one line inside an error that a user can act on, however deep Ray wrapped it; None for a defect of ours.

    Ours are StoreErrors, and ValueErrors raised in this package; a library's ValueError explains nothing to a user.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        original = getattr(error, "cause", None)  # Ray raises a subclass of the original, which is its `cause`
        is_ours = isinstance(original, ValueError) and _raised_here(getattr(error, "traceback_str", str(error)))
        if isinstance(original, StoreError) or is_ours:
            return str(original).partition("\n")[0]  # Ray Data adds lines about its retries
        if original is None and isinstance(error, StoreError):
            return str(error)
        if original is None and isinstance(error, ValueError) and _raised_here("".join(format_tb(error.__traceback__))):
            return str(error)
        for failure in getattr(error, "worker_failures", {}).values():  # of Ray Train, one a training process
            if isinstance(failure, StoreError):
                return str(failure)
        error = original if isinstance(original, BaseException) else error.__cause__
    return None


def _raised_here(text: str) -> bool:
    """Whether the innermost frame of a formatted traceback is of this package or its jobs."""
    files = re.findall(r'File "([^"]+)", line', text)
    return bool(files) and Path(files[-1]).parent.name in ("agescale", "jobs", "models", "tasks")


def refuse(message: str, code: int = 2) -> NoReturn:
    print(f"error: {message}", file=sys.stderr, flush=True)
    raise SystemExit(code)
