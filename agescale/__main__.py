"""``agescale NAME ...``, which is ``python jobs/NAME.py ...`` wherever the package is installed.

What a command does is imported once its settings are known: help, and the line for a mistake, take a second.
"""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from agescale import config
from agescale.command_line import refuse, run_job, take_recipe
from agescale.training import recipes

FOLDER = Path(__file__).parent / "commands"
COMMANDS: dict[str, type[Any]] = {
    file.stem: getattr(config, f"{file.stem.capitalize()}Config") for file in sorted(FOLDER.glob("[!_]*.py"))
}
"""What each file in ``commands`` is told, by its name."""


def main() -> None:
    """Runs the command that the first argument names, on the others."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(usage())
    elif name not in COMMANDS:
        refuse(f"agescale has no command {name!r}; there are {', '.join(COMMANDS)}")
    else:
        sys.argv[:2] = [f"agescale {name}"]
        run(name)


def run(name: str) -> None:
    """Runs a command on the arguments of this process."""
    default, told, more_help = None, [], None
    if name == "train":
        default, more_help = take_recipe(sys.argv), recipes.print_recipes
    elif name == "sweep":
        told, more_help = [take_recipe(sys.argv) or config.TrainConfig()], _print_spaces

    def job(settings: Any) -> None:
        import_module(f"agescale.commands.{name}").main(settings, *told)

    run_job(job, COMMANDS[name], default, more_help)


def _print_spaces() -> None:
    from agescale.sweeping import spaces

    spaces.print_spaces()


def usage() -> str:
    """The commands, each with the first line of its file; none is imported."""
    lines = [f"  {name:<9} {summary(FOLDER / f'{name}.py')}" for name in COMMANDS]
    return "\n".join(["usage: agescale COMMAND ... (agescale COMMAND --help explains each)", "", *lines])


def summary(file: Path) -> str:
    """First line of what a file of Python says of itself."""
    return (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[0]


if __name__ == "__main__":
    main()
