"""What all jobs do around their work: parse the settings, run, and say in one line what went wrong.

Exit codes: 0 success, 1 crashed (with a traceback), 2 refused or impossible (one line), 3 done, and not right (one
line: more images failed than may, what was verified is wrong, people or photos differ by more than may be), 130
interrupted by Ctrl+C, 143 by SIGTERM (one line).
The last line says it: ``error: exit code 3: ...``, and for 2 just ``error: ...``.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from traceback import format_tb, print_exception
from types import FrameType
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin

import tyro

from agescale.config import Recorded, TrainConfig, hints_of, option_of, wanted_of
from agescale.runtime import terminal
from agescale.store import paths
from agescale.store.errors import Damaged, StoreError
from agescale.training import recipes

PACKAGE = Path(__file__).parent
OUT_OF_MEMORY = (
    "a process of this job ran out of memory, repeatedly; give it more, or lower --num-workers or "
    "--batch-size; the same command continues"
)

IS_INSTALLED = os.path.basename(sys.argv[0]) == "agescale"
COMMAND = shlex.join(
    ["agescale", *sys.argv[1:]] if IS_INSTALLED else [os.path.basename(sys.orig_argv[0]), *sys.orig_argv[1:]]
)
"""What was typed, or what does the same."""

Config = TypeVar("Config")

_terminated: list[int] = []
_recorders: list[Any] = []
"""Of the job that runs, once its settings are known."""


def run_job(
    job: Callable[[Config], None],
    config_type: type[Config],
    default: Config | None = None,
    more_help: Callable[[], None] | None = None,
) -> None:
    """Parses ``config_type`` from the command line and runs ``job``; a user's mistake becomes one line and code 2.
    ``more_help`` prints what follows the settings in ``--help``."""
    terminal.JOURNAL.job = config_type.__name__.removesuffix("Config").lower()
    terminal.JOURNAL.is_json = "--log-format json" in " ".join(sys.argv).replace("=", " ").replace("_", "-")
    terminal.guard_streams()
    signal.signal(signal.SIGTERM, _interrupt)
    if wrong := misnamed_option(config_type, sys.argv[1:]) or wrong_choice(config_type, sys.argv[1:]):
        refuse(wrong)
    if default is None and (lacking := missing_options(config_type, sys.argv[1:])):
        refuse(lacking)
    try:
        config = parse(config_type, default)
    except SystemExit as ended:
        if not ended.code and more_help:
            more_help()
        raise
    if isinstance(config, Recorded):
        _record(config)
    try:
        job(config)
        _end(0, "")
    except KeyboardInterrupt:
        from agescale.operations.executions import masked

        code = 128 + (signal.SIGTERM if _terminated else signal.SIGINT)
        refuse(f"interrupted; the same command continues: {masked(COMMAND)}", code)
    except Exception as error:  # noqa: BLE001  (told in full)
        mistake = user_mistake(error)
        if mistake is not None:
            refuse(mistake)
        print_exception(error)
        refuse(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", 1)
    except SystemExit as ended:
        _end(ended.code if isinstance(ended.code, int) else 1, "")
        raise


def _record(config: Any) -> None:
    """From now on the execution of a job with these settings leaves its record."""
    from agescale.operations.executions import Recorder  # here and below, not above: --help and mistakes need none
    from agescale.store import outputs

    recorder = Recorder(terminal.JOURNAL.job, COMMAND, paths.absolute(config.out), config.notify_url)
    _recorders.append(recorder)
    outputs.ON_HELD.append(recorder.begin)


def _end(code: int, reason: str) -> None:
    """The job has ended so: tells whom it may concern, once. What comes after ends by itself, within seconds."""
    if _terminated or signal.getsignal(signal.SIGTERM) is _interrupt:  # of run_job
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, signal.SIG_IGN)
    while _recorders:
        _recorders.pop().end(code, reason)
    if terminal.JOURNAL.is_json and not code:
        terminal.say("ended", {"exit_code": 0})


def take_recipe(arguments: list[str]) -> TrainConfig | None:
    """The settings of the recipe that stands first on a command line, from which its name is removed, if one does."""
    try:
        name = recipes.take_name(arguments)
    except ValueError as error:
        refuse(str(error))
    return recipes.RECIPES[name].config if name else None


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Ends a job by SIGTERM as Ctrl+C does, whoever listens to that by now, but for its code."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _terminated.append(signum)
    listener = signal.getsignal(signal.SIGINT)
    if not callable(listener):  # of a job in the background, to which Ctrl+C does not go
        raise KeyboardInterrupt
    listener(signal.SIGINT, frame)


def parse(config_type: type[Config], default: Config | None) -> Config:
    """The settings on the command line. One that cannot be is told in our one line, not in a box of tyro's: tyro makes
    settings that check nothing, and those that check themselves are made of these."""
    unchecked: Any = type(config_type.__name__, (config_type,), {"__post_init__": lambda self: None})
    if default is None:
        parsed = tyro.cli(unchecked, description=config_type.__doc__)
    else:
        parsed = tyro.cli(unchecked, description=config_type.__doc__, default=unchecked(**vars(default)))
    try:
        return config_type(**vars(parsed))
    except ValueError as error:
        refuse(str(error))


def misnamed_option(config_type: type[Any], arguments: Sequence[str]) -> str:
    """The one line for a learning rate as other programs are told it; empty where there is none among the arguments.

    >>> from agescale.config import TrainConfig
    >>> misnamed_option(TrainConfig, ["--out", "runs/1", "--lr=1e-3"])
    '--lr: rates stand in --phases, such as --phases all:20@1e-3 (20 epochs)'
    """
    names = {argument.partition("=")[0].replace("_", "-") for argument in arguments}
    rates = sorted(names & {"--lr", "--learning-rate"})
    if not rates or "phases" not in {field.name for field in dataclasses.fields(config_type)}:
        return ""
    return f"{rates[0]}: rates stand in --phases, such as --phases all:20@1e-3 (20 epochs)"


def wrong_choice(config_type: type[Any], arguments: Sequence[str]) -> str:
    """The one line for a word that is none of its option's; empty where there is none among the arguments.

    >>> from agescale.config import TrainConfig
    >>> wrong_choice(TrainConfig, ["--out", "runs/1", "--device", "tpu"])
    '--device tpu: one of auto, cpu, cuda'
    >>> wrong_choice(TrainConfig, ["--auxiliary", "gender", "age", "--out", "runs/1"])
    '--auxiliary gender age: one of gender, ethnicity'
    """
    given: dict[str, tuple[str, ...]] = {}
    option = ""
    for word in " ".join(arguments).replace("=", " ").split():
        option = word if word.startswith("--") else option
        given[option] = () if word == option else (*given.get(option, ()), word)
    for name, hint in hints_of(config_type).items():
        words = given.get(option_of(name))
        if words and Literal in (get_origin(hint), *map(get_origin, get_args(hint))):
            value = words if get_origin(hint) is tuple else words[0]
            if wanted := wanted_of(hint, value):
                return f"{option_of(name)} {' '.join(words)}: {wanted}"
    return ""


def missing_options(config_type: type[Any], arguments: Sequence[str]) -> str:
    """The one line that names required options which are not among the arguments.

    Empty where none is missing, or where tyro has more to say: help, or options that there are not.
    """
    fields = dataclasses.fields(config_type)
    options = {option_of(field.name): field for field in fields}
    given = {argument.partition("=")[0].replace("_", "-") for argument in arguments if argument.startswith("-")}
    required = [
        option
        for option, field in options.items()
        if field.default is dataclasses.MISSING and "Positional" not in str(field.type)
    ]
    missing = [option for option in required if option not in given]
    if not missing or not {option.replace("--no-", "--") for option in given} <= options.keys():
        return ""
    return f"{', '.join(missing)}: missing (--help explains each setting)"


def user_mistake(error: BaseException | None) -> str | None:
    """The one line inside an error that a user can act on, however deep Ray wrapped it; None for a defect of ours.

    Ours are StoreErrors, and ValueErrors raised in this package; a library's ValueError explains nothing to a user.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        original = getattr(error, "cause", None)  # Ray raises a subclass of the original, which is its `cause`
        for damaged in (original, error):
            if isinstance(damaged, Damaged):
                from agescale.tables import folders

                return f"{damaged.args[0]}; {folders.remedy(damaged.uri)}"
        is_ours = isinstance(original, ValueError) and _raised_here(getattr(error, "traceback_str", str(error)))
        if isinstance(original, StoreError) or is_ours:
            return str(original).partition("\n")[0]  # Ray Data adds lines about its retries
        if original is None and isinstance(error, StoreError):
            return str(error)
        if type(error).__name__ == "OutOfMemoryError" and type(error).__module__.startswith("ray."):
            return OUT_OF_MEMORY
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
    return bool(files) and is_ours(files[-1])


def is_ours(file: str) -> bool:
    """Whether a file of Python is one of this package, which may lie elsewhere on another machine."""
    path = Path(file)
    *above, _ = path.parts
    if PACKAGE.name not in above:
        return False
    start = len(above) - above[::-1].index(PACKAGE.name)
    return PACKAGE.joinpath(*path.parts[start:]).is_file()


def refuse(message: str, code: int = 2) -> NoReturn:
    """Ends the job with one line, the last one, which is never cut."""
    terminal.guard_streams()
    _end(code, message)
    words = message if code == 2 else f"exit code {code}: {message}"
    terminal.say(f"error: {terminal.printable(words)}", {"exit_code": code}, sys.stderr)
    raise SystemExit(code)
