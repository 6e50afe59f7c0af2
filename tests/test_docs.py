"""What the documents say of this repository is there: links, commands, options, tests, and the tree of the package."""

from __future__ import annotations

import ast
import itertools
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import tyro

from agescale import config
from agescale.command_line import misnamed_option
from agescale.training import recipes

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
FOLDERS = ("benchmarks/", "docs/", "jobs/", "tests/")
SCRIPTS = ("jobs", "agescale/commands", "benchmarks")
OTHER_PROGRAMS = ("docker ", "helm ", "kind ", "kubectl ", "pip ", "ray ", "soffice ")
TAKE_RECIPES = ("train", "sweep")
"""The jobs whose first argument may be a recipe's name."""
COMMAND = re.compile(r"(?<!\S)python (?:jobs|benchmarks)/\w+\.py.*|(?:^ *|(?<=&& ))(?:make|agescale) .*")
TARGETS = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose_of(page: Path) -> str:
    """A page without its code blocks, which are indented by four blanks or stand between fences."""
    if page == NOTEBOOK:
        cells = json.loads(page.read_text())["cells"]
        return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(?:^|(?<=\n))\n(?: {4}.*\n|\n)+", "\n\n", text)


def anchors_of(page: Path) -> set[str]:
    """The names by which a page's headings can be linked to, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def links() -> Iterator[tuple[Path, str]]:
    for page in (*PAGES, NOTEBOOK):
        for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
            if not re.match(r"[a-z]+:", target):
                yield page, target


def code_lines(page: Path) -> Iterator[tuple[int, str]]:
    """Lines of a page's code blocks, or of what a script says of itself, with their numbers; continued ones joined."""
    is_script, is_fenced = page.suffix == ".py", False
    text = ast.get_docstring(ast.parse(page.read_text()), clean=False) or "" if is_script else page.read_text()
    lines = enumerate(text.splitlines(), 1)
    for number, line in lines:
        if line.startswith("```"):
            is_fenced = not is_fenced
        if is_script or is_fenced or line.startswith("    "):
            while line.endswith("\\"):
                line = line[:-1] + next(lines)[1]
            yield number, line


def commands() -> Iterator[tuple[str, str]]:
    """Each command that a page or a script shows: where it stands, and its words from the program on."""
    scripts = [file for folder in SCRIPTS for file in sorted((ROOT / folder).glob("*.py"))]
    for page in (*PAGES, *scripts):
        for number, line in code_lines(page):
            for command in COMMAND.findall(line):
                if page in PAGES or command.startswith("python"):
                    yield f"{name_of(page)}:{number}", command


def words_of(command: str) -> list[str]:
    """The words of a command up to its end, as a shell reads them."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;>")
    lexer.whitespace_split = True
    return list(itertools.takewhile(lambda word: not word or not set(word) <= set("|&;>"), lexer))


def check_job(job: str, arguments: list[str]) -> None:
    """Parses arguments as the job does, and runs nothing; SystemExit where they are none of its own."""
    config_type = getattr(config, f"{job.title()}Config")
    default, program = None, [f"jobs/{job}.py", *arguments]
    if job in TAKE_RECIPES:
        recipe = recipes.take_name(program)
        if recipe and job == "train":
            default = recipes.RECIPES[recipe]
    assert not misnamed_option(config_type, program[1:])
    if default is None:
        tyro.cli(config_type, args=program[1:])
    else:
        tyro.cli(config_type, args=program[1:], default=default)


def check_benchmark(name: str, arguments: list[str]) -> None:
    """A benchmark has each option, which stands in its source as a field of its settings."""
    options = {argument for argument in arguments if argument.startswith("--")}
    assert options <= options_of(ROOT / "benchmarks" / f"{name}.py"), options


def options_of(file: Path) -> set[str]:
    fields = [node.target for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.AnnAssign)]
    names = {field.id.replace("_", "-") for field in fields if isinstance(field, ast.Name)}
    return {f"--{name}" for name in names} | {f"--no-{name}" for name in names}


def check_command(command: str) -> None:
    program, *arguments = words_of(command)
    if program == "make":
        assert set(arguments) <= set(TARGETS), arguments
    elif program == "agescale":
        check_job(arguments[0], arguments[1:])
    else:
        file = Path(arguments[0])
        check = check_job if file.parent.name == "jobs" else check_benchmark
        check(file.stem, arguments[1:])


def cases(found: Iterator[tuple[str, str]]) -> list[object]:
    return [pytest.param(command, id=where) for where, command in found]


@pytest.mark.parametrize("command", cases(commands()))
def test_each_command_is_one_that_its_job_takes(command: str) -> None:
    check_command(command)


@pytest.mark.parametrize(
    "command",
    [
        "python jobs/score.py --catlog catalog --checkpoint runs/best --out ages",
        "python jobs/score.py --checkpoint runs/best --out ages",
        "python jobs/train.py fats --catalog catalog",
        "python jobs/train.py fast --catalog catalog --task clasification",
        "python benchmarks/scale.py --num-row 1",
        "make dmeo",
        "agescale verify --catalog catalog --prediction ages",
    ],
)
def test_a_command_that_its_job_refuses_is_told(command: str) -> None:
    with pytest.raises((SystemExit, AssertionError, ValueError)):
        check_command(command)


def test_the_commands_are_found() -> None:
    jobs = {job for _, command in commands() for job in re.findall(r"jobs/(\w+)\.py", command)}
    assert jobs >= {path.stem for path in (ROOT / "jobs").glob("*.py")} - {"draw"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_each_option_in_the_text_is_one_of_some_job(page: Path) -> None:
    files = [ROOT / "agescale" / "config.py", *(ROOT / "benchmarks").glob("*.py")]
    options = {"--help"}.union(*map(options_of, files))
    spans = [span for span in re.findall(r"`([^`]+)`", prose_of(page)) if not span.startswith(OTHER_PROGRAMS)]
    told = {option for span in spans for option in re.findall(r"(?:^| )(--[a-z][a-z0-9-]+)", span)}
    assert told - options == set()


@pytest.mark.parametrize(
    ("page", "target"), [pytest.param(*link, id=f"{name_of(link[0])}:{link[1]}") for link in links()]
)
def test_each_link_leads_somewhere(page: Path, target: str) -> None:
    file, _, anchor = target.partition("#")
    there = page.parent / file if file else page
    assert there.exists()
    assert not anchor or anchor in anchors_of(there)


@pytest.mark.parametrize("page", [*PAGES, NOTEBOOK], ids=name_of)
def test_the_files_that_the_text_names_exist(page: Path) -> None:
    named = re.findall(r"`([\w/-]+\.(?:md|ipynb|py))\b(?!::)", prose_of(page))
    ours = [file for file in named if file.endswith((".md", ".ipynb")) or file.startswith(FOLDERS)]
    assert [file for file in ours if not ((page.parent / file).exists() or (ROOT / file).exists())] == []


def test_the_front_door_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_tree_in_the_readme_is_the_package() -> None:
    tree = re.search(r"^    agescale/\n((?:      .*\n)+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert tree
    told = {folder: set(files.split()) for folder, files in re.findall(r"^      (\w+/)? *(.*)$", tree[1], re.MULTILINE)}
    package = ROOT / "agescale"
    listed = {"": {path.name for path in package.glob("*.py")} - {"__init__.py"}}
    for folder in {path.parent for path in package.glob("*/*.py")}:
        files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
        folders = {f"{path.name}/" for path in folder.iterdir() if path.is_dir()} - {"__pycache__/"}
        listed[f"{folder.name}/"] = files | folders
    assert told == listed


def test_every_row_of_the_faults_names_a_test_that_exists() -> None:
    rows = [
        line for line in (ROOT / "docs" / "faults.md").read_text().splitlines() if re.match(r"\| (?!fault|---)", line)
    ]
    assert len(rows) > 40
    for row in rows:
        named = re.findall(r"`(?:([\w/]+\.py)::)?(test_\w+)`", row.rpartition(" | ")[2] or row)
        assert named, row
        file = ""
        for its_file, name in named:
            file = its_file or file
            assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"{file}::{name}"
