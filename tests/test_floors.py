"""Nothing imports upward, and Ray stays on its own floor: everything below runs under plain pytest in seconds."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FLOORS = (
    {"schema", "labels", "age_groups", "config"},
    {
        "age_cdf",
        "layouts",
        "splits",
        "quality",
        "relabelling",
        "images",
        "isolation",
        "augment",
        "store",
        "tables",
        "footers",
        "catalogs",
        "datasets",
        "changes",
        "keys",
        "units",
        "selection",
        "synthetic",
        "metrics",
        "progress",
        "terminal",
        "formats",
        "weighting",
    },
    {"models", "tasks"},
    {
        "age_model",
        "objective",
        "validation",
        "training_plan",
        "runs",
        "recipes",
        "finetuning",
        "checkpoints",
        "predictor",
        "inference",
        "plots",
        "importance",
        "spaces",
        "trials",
        "report",
        "sweep_report",
        "judged",
        "evaluation",
        "photos",
        "verification",
        "exports",
        "compaction",
        "command_line",
    },
    {"cluster", "cataloging", "data", "training", "sweeping", "scoring"},
)
"""From the bottom up; a room may import its own floor and those below."""

RAY_FLOOR = FLOORS[-1]
FILES = sorted([*(ROOT / "agescale").rglob("*.py"), *(ROOT / "jobs").glob("*.py")])


def room_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return "jobs" if relative.parts[0] == "jobs" else relative.parts[1].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Dotted names of all that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def floor_of(room: str) -> int:
    return next((index for index, floor in enumerate(FLOORS) if room in floor), len(FLOORS))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_imports_upward(path: Path) -> None:
    room = room_of(path)
    for name in imports_of(path):
        package, _, rest = name.partition(".")
        assert package != "jobs", f"{path} imports a job"
        if package == "agescale" and rest:
            imported = rest.split(".")[0]
            assert floor_of(imported) <= floor_of(room), f"{room} imports {imported}, which stands above it"
        if package == "ray":
            assert room in RAY_FLOOR or room == "jobs", f"{room} imports ray below the Ray floor"


def test_every_room_stands_on_one_floor() -> None:
    rooms = {room_of(path) for path in FILES} - {"__init__", "jobs"}
    assert rooms == set().union(*FLOORS)


def test_models_and_tasks_do_not_know_each_other() -> None:
    for path in FILES:
        room = room_of(path)
        if room in ("models", "tasks"):
            other = {"models": "agescale.tasks", "tasks": "agescale.models"}[room]
            assert not any(name.startswith(other) for name in imports_of(path)), path


def test_jobs_fit_on_one_screen() -> None:
    for path in (ROOT / "jobs").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 70, path
