"""The few rules that keep the house as ``ls agescale`` shows it; they know names of packages and files alone."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOUNDATIONS = ("config", "ages", "store", "reports", "faces", "runtime", "synthetic", "tables", "models")
"""From the bottom up: a package imports only those before it, and itself."""
STAGES = ("cataloging", "training", "scoring", "evaluation", "sweeping")
"""Each stands on the foundations alone, but for sweeping, which trains."""
ENTRIES = ("command_line", "commands", "operations", "__main__")
"""What a user calls; may import everything, and nothing imports it but the jobs."""
RAY_FILES = {"apart.py", "driver.py", "execution.py", "worker.py", "search.py", "ingest.py", "feeds.py"}
"""Where Ray stands, besides all of ``runtime``: everything else runs under plain pytest in seconds."""
MAX_COMMAND_LINES = 75

FILES = sorted((ROOT / "agescale").rglob("*.py"))


def room_of(path: Path) -> str:
    """The package of agescale that a file lies in; of a file beside the packages its own name."""
    return path.relative_to(ROOT / "agescale").parts[0].removesuffix(".py")


def imports_of(path: Path, only_at_once: bool = False) -> set[str]:
    """Dotted names of all that a file imports, wherever in it, or only of what it needs to be imported itself."""
    names = set()
    tree = ast.parse(path.read_text())
    for node in tree.body if only_at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def may_import(room: str, other: str) -> bool:
    if other == room or room in (*ENTRIES, "__init__"):
        return True
    if other in FOUNDATIONS:
        return room in STAGES or FOUNDATIONS.index(other) < FOUNDATIONS.index(room)
    return (room, other) == ("sweeping", "training")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_what_stands_below_its_package(path: Path) -> None:
    room = room_of(path)
    for name in imports_of(path):
        package, _, rest = name.partition(".")
        assert package not in ("jobs", "tests", "benchmarks"), f"imports {name}"
        if package == "agescale" and rest and not rest.startswith("__"):
            assert may_import(room, rest.split(".")[0]), f"{room} imports {name}"
        if package == "ray":
            assert room in ("runtime", *ENTRIES) or path.name in RAY_FILES, "Ray has files of its own"


def test_no_modules_import_each_other_in_a_circle() -> None:
    name_of = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
    graph = {
        name: {each for each in name_of if each != name and any(f"{got}.".startswith(f"{each}.") for got in imports)}
        for name, path in name_of.items()
        for imports in [imports_of(path)]
    }
    for packages in graph.values():  # what holds others is imported with each of them, and imports nothing
        packages.difference_update([name for name in name_of if name_of[name].name == "__init__.py"])
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_a_night_without_anything_new_imports_no_ray() -> None:
    name_of = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES}
    reached, left = set(), ["agescale.commands.score", "agescale.__main__"]
    while left:
        reached.add(module := left.pop())
        names = imports_of(name_of[module], only_at_once=True)
        assert not any(name.split(".")[0] == "ray" for name in names), f"{module} imports Ray at once"
        left += [
            each for each in name_of if each not in reached and any(f"{got}.".startswith(f"{each}.") for got in names)
        ]
    assert "agescale.scoring.driver" in reached


def test_every_package_has_its_place() -> None:
    assert {room_of(path) for path in FILES} - {"__init__"} <= {*FOUNDATIONS, *STAGES, *ENTRIES}


def test_packages_re_export_nothing() -> None:
    kept = {"agescale/__init__.py", "agescale/models/encoders/__init__.py", "agescale/models/tasks/__init__.py"}
    full = {str(path.relative_to(ROOT)) for path in FILES if path.name == "__init__.py" and path.read_text().strip()}
    assert full <= kept


def test_encoders_and_tasks_do_not_know_each_other() -> None:
    for one, other in (("encoders", "tasks"), ("tasks", "encoders")):
        for path in (ROOT / "agescale" / "models" / one).glob("*.py"):
            assert not any(name.startswith(f"agescale.models.{other}") for name in imports_of(path)), path


def test_every_command_is_a_job_too_and_fits_on_one_screen() -> None:
    commands = {path.stem: path for path in (ROOT / "agescale" / "commands").glob("[!_]*.py")}
    assert commands.keys() == {path.stem for path in (ROOT / "jobs").glob("*.py")}
    for name, path in commands.items():
        assert len(path.read_text().splitlines()) <= MAX_COMMAND_LINES, path
        assert f'    run("{name}")\n' in (ROOT / "jobs" / f"{name}.py").read_text()
        assert not any(each.startswith("agescale.commands") for each in imports_of(path)), path


@pytest.mark.parametrize(
    ("room", "other", "is_right"),
    [
        ("store", "ages", True), ("ages", "store", False), ("tables", "models", False), ("models", "tables", True),
        ("scoring", "models", True), ("scoring", "training", False), ("training", "sweeping", False),
        ("sweeping", "training", True), ("sweeping", "scoring", False), ("evaluation", "command_line", False),
    ],
)  # fmt: skip
def test_the_rules_can_be_broken(room: str, other: str, is_right: bool) -> None:
    assert may_import(room, other) == is_right
