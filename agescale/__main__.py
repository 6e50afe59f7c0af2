"""``agescale NAME ...``, which is ``python jobs/NAME.py ...`` wherever the package is installed."""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from pathlib import Path

from agescale.command_line import refuse

COMMANDS = {file.stem: file for file in sorted((Path(__file__).parent / "commands").glob("[!_]*.py"))}


def main() -> None:
    """Runs the command that the first argument names, on the others."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(usage())
    elif name not in COMMANDS:
        refuse(f"agescale has no command {name!r}; there are {', '.join(COMMANDS)}")
    else:
        sys.argv[:2] = [f"agescale {name}"]
        import_module(f"agescale.commands.{name}").run()


def usage() -> str:
    """The commands, each with the first line of its file; none is imported."""
    lines = [f"  {name:<9} {summary(file)}" for name, file in COMMANDS.items()]
    return "\n".join(["usage: agescale COMMAND ... (agescale COMMAND --help explains each)", "", *lines])


def summary(file: Path) -> str:
    """First line of what a file of Python says of itself."""
    return (ast.get_docstring(ast.parse(file.read_text())) or "").partition("\n")[0]


if __name__ == "__main__":
    main()
