"""Each file that jobs write, cut at every tenth of its length: one line with the file and what to do, before Ray
starts, or the same result as with the whole one; never a traceback, and nothing is silently accepted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_checkpoint

from agescale.cataloging import changes
from agescale.cataloging import driver as cataloging
from agescale.cataloging.driver import build_catalog
from agescale.command_line import user_mistake
from agescale.commands import verify as verify_job
from agescale.config import (
    CatalogConfig,
    EvaluateConfig,
    ScoreConfig,
    SweepConfig,
    TableConfig,
    TrainConfig,
    VerifyConfig,
)
from agescale.evaluation.driver import evaluate
from agescale.scoring import execution as scoring
from agescale.scoring.driver import score
from agescale.scoring.verification import verify
from agescale.store import objects, parquet
from agescale.store.errors import Damaged, StoreError
from agescale.sweeping import driver as sweeping
from agescale.sweeping import plan as sweep_plan
from agescale.sweeping import search, spaces, trials
from agescale.sweeping.driver import sweep
from agescale.sweeping.trials import Trial
from agescale.synthetic import dataset
from agescale.tables import folders
from agescale.tables.exports import export
from agescale.tables.predictions import Predictions
from agescale.training import plan as training_plan
from agescale.training import runs

NUM_FACES = 20
SPACE = 'SPACE = [{"encoder": ["cnn"], "widths": [(4, 8)], "phases": ["all:{epochs}@{lr}"], "lr": [1e-3]}]'
BASE = TrainConfig(image_size=32, batch_size=64)
Paths = dict[str, str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> Path:
    """A labelled catalog, predictions, and a sweep that has finished its only trial."""
    folder = tmp_path_factory.mktemp("cut-files")
    dataset.write_dataset(folder / "faces", "utkface", num_faces=NUM_FACES, size=48, num_broken=0)
    where = paths(folder)
    build_catalog(catalog_config(where))
    score(score_config(where, num_workers=0))
    (folder / "space.py").write_text(SPACE)
    make_sweep(where)
    for job in JOBS.values():
        job(where)
    return folder


def make_sweep(where: Paths) -> None:
    config, base = sweep_plan.with_absolute_paths(sweep_config(where), BASE)
    space = spaces.load(config.space)
    selected = sweep_plan.check(config, base, space)
    training_plan.pin_images(config.out, selected)
    trials.begin(config.out, sweep_plan.identity_of(config, base, space, selected.run["data"]))
    (point,) = json.loads(json.dumps(spaces.grid(space, 0)))
    trials.write_trial(config.out, Trial(0, point, {}, status="finished", num_parameters=1))
    epoch = dict.fromkeys(runs.HISTORY_SCHEMA.names, 1.0) | {
        "phase": "all",
        "decode": "mean",
        "is_best": True,
        "mae_by_catalog": [1.0],
    }
    rows = pa.Table.from_pylist([epoch | {"epoch": 1, "phase_index": 0}], schema=runs.HISTORY_SCHEMA)
    run = Path(trials.run_of(config.out, 0))
    parquet.write_table(str(run / runs.HISTORY_NAME), rows)
    make_checkpoint(run / "best")


@pytest.fixture
def folder(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """As ``made``, and put back afterwards; Ray may not be started."""
    copy = made.with_name("copy")
    shutil.copytree(made, copy)

    def refuse(**options: Any) -> None:
        pytest.fail("Ray was started")

    for module in (cataloging, scoring, sweeping):
        monkeypatch.setattr(module, "start_ray", refuse)
    yield made
    restore(made, copy)
    shutil.rmtree(copy)


def restore(folder: Path, copy: Path) -> None:
    for path in [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]:
        whole = copy / path.relative_to(folder)
        if not whole.exists():
            path.unlink()
        elif path.read_bytes() != whole.read_bytes():
            shutil.copy2(whole, path)
    for path in [path for path in copy.rglob("*") if path.is_file()]:
        if not (folder / path.relative_to(copy)).exists():
            shutil.copy2(path, folder / path.relative_to(copy))


class NotRight(Exception):
    """What jobs/verify.py says."""


def paths(folder: Path) -> Paths:
    return {
        name: str(folder / name) for name in ("faces", "catalog", "ages", "sweep", "report", "space.py", "ages.csv")
    }


def catalog_config(where: Paths, **settings: Any) -> CatalogConfig:
    return CatalogConfig(where["faces"], where["catalog"], layout="utkface", split=(0.6, 0.2, 0.2), **settings)


def score_config(where: Paths, **settings: Any) -> ScoreConfig:
    checkpoint = Path(where["ages"]).with_name("checkpoint")
    if not checkpoint.exists():
        make_checkpoint(checkpoint)
    return ScoreConfig(where["catalog"], where["ages"], str(checkpoint), **settings)


def sweep_config(where: Paths) -> SweepConfig:
    return SweepConfig(where["catalog"], where["sweep"], where["space.py"], epochs=1, searcher="grid")


def run_catalog(where: Paths) -> Any:
    result = build_catalog(catalog_config(where))
    return result.num_new, result.num_current, result.findings.to_pylist()


def run_score(where: Paths) -> Any:
    return score(score_config(where)).by_status


def run_verify(where: Paths) -> Any:
    found = verify(VerifyConfig(where["catalog"], where["ages"]))
    if found.num_problems:
        raise NotRight(f"{found.problems[0]}; {verify_job.remedies(found)[0]}")
    return found.by_status


def run_evaluate(where: Paths) -> Any:
    out = Path(where["report"])
    evaluate(EvaluateConfig(where["catalog"], where["ages"], str(out), split=("train", "val")))
    return (out / "metrics.json").read_bytes()


def run_table(where: Paths) -> Any:
    export(TableConfig(where["catalog"], where["ages"], where["ages.csv"]))
    return Path(where["ages.csv"]).read_bytes()


def run_sweep(where: Paths) -> Any:
    return sweep(sweep_config(where), BASE).leaderboard


def run_train(where: Paths) -> Any:
    """Up to what is before Ray."""
    return training_plan.select(TrainConfig((where["catalog"],), image_size=32)).run["data"]


JOBS: dict[str, Callable[[Paths], Any]] = {
    "catalog": run_catalog, "score": run_score, "verify": run_verify, "evaluate": run_evaluate,
    "table": run_table, "sweep": run_sweep, "train": run_train,
}  # fmt: skip
FILES = {
    "catalog/part-*": ("catalog", "score", "verify", "evaluate", "table", "train"),
    "catalog.agescale/findings.parquet": ("catalog", "score", "verify", "evaluate", "table", "train"),
    "catalog.agescale/footers.parquet": ("catalog", "score", "verify", "table", "train"),
    "ages/part-*": ("score", "verify", "evaluate", "table"),
    "ages.agescale/footers.parquet": ("score", "verify", "table"),
    "ages.agescale/summary.json": ("score", "verify"),
    "sweep/sweep.json": ("sweep",),
    "sweep/images.parquet": ("sweep",),
    "sweep/trials/0000.json": ("sweep",),
    "sweep/runs/0000/history.parquet": ("sweep",),
    "sweep/leaderboard.parquet": ("sweep",),
    "sweep/best/config.json": ("sweep",),
}
MENDED = {"catalog.agescale/footers.parquet", "ages.agescale/footers.parquet", "sweep/leaderboard.parquet"}
"""Copies of what stands elsewhere."""


@pytest.mark.parametrize("pattern", FILES)
def test_a_file_that_was_cut_is_one_line_or_changes_nothing(pattern: str, folder: Path, made: Path) -> None:
    where, copy = paths(folder), folder.with_name("copy")
    good = {name: JOBS[name](where) for name in FILES[pattern]}
    file = sorted(folder.glob(pattern))[0]
    whole = file.read_bytes()
    for tenths in range(10):
        for name in FILES[pattern]:
            file.write_bytes(whole[: len(whole) * tenths // 10])
            line, result = outcome(JOBS[name], where)
            assert result == good[name] if line is None else is_good(line, file), (name, tenths, line)
            assert line is None or pattern not in MENDED
            restore(folder, copy)


@pytest.mark.parametrize("pattern", [pattern for pattern in FILES if pattern not in MENDED])
def test_somebody_elses_file_in_the_place_of_ours_is_one_line_or_changes_nothing(pattern: str, folder: Path) -> None:
    where, copy = paths(folder), folder.with_name("copy")
    good = {name: JOBS[name](where) for name in FILES[pattern]}
    file = sorted(folder.glob(pattern))[0]
    for name in FILES[pattern]:
        if file.suffix == ".json":
            file.write_text('["theirs"]')
        else:
            pq.write_table(pa.table({"theirs": [1]}), file)
        line, result = outcome(JOBS[name], where)
        assert result == good[name] if line is None else is_good(line, file), (name, line)
        restore(folder, copy)


def outcome(job: Callable[[Paths], Any], where: Paths) -> tuple[str | None, Any]:
    """The one line of a job that refuses, or what it brought."""
    try:
        return None, job(where)
    except NotRight as told:
        return str(told), None
    except Exception as error:
        line = user_mistake(error)
        if line is None:
            raise
        return line, None


def is_good(line: str, file: Path) -> bool:
    """Whether a line names the file, and says what to do."""
    says_what = any(word in line for word in ("--repair", "delete", "same jobs/", "give", "run the same"))
    return "\n" not in line and file.name in line and says_what


def test_a_damaged_file_of_predictions_is_scored_again_on_request(made: Path) -> None:
    where = paths(made)
    table, before = Path(where["ages"]), run_verify(where)
    files = sorted(table.iterdir())
    whole = [file.read_bytes() for file in files]
    files[0].write_bytes(whole[0][:500])
    garbled = bytearray(whole[1])
    garbled[4:400] = bytes(396)
    files[1].write_bytes(garbled)
    (table / "notes.parquet").write_bytes(b"a stranger's")
    with pytest.raises(Damaged, match=files[0].name):
        run_score(where)
    result = score(score_config(where, repair=True))
    assert result.num_scored_now == sum(len(pq.read_table(file)) for file in files[:2])
    (table / "notes.parquet").unlink()
    assert run_verify(where) == before
    assert score(score_config(where, repair=True)).num_scored_now == 0


def test_a_damaged_part_of_a_catalog_is_listed_anew_on_request_and_its_predictions_are_made_again(made: Path) -> None:
    where = paths(made)
    before = run_verify(where)
    part = sorted(Path(where["catalog"]).iterdir())[0]
    lost = len(pq.read_table(part))
    part.write_bytes(part.read_bytes()[:700])
    result = build_catalog(catalog_config(where, repair=True))
    assert (result.num_new, result.num_deleted, result.num_current) == (lost, 0, NUM_FACES + 2)
    assert len(pq.read_table(part)) == 0, "its name stays taken"
    with pytest.raises(NotRight, match=rf"^{part.stem}-rows-.*: of no unit of this catalog|not scored yet"):
        run_verify(where)
    assert score(score_config(where, repair=True)).num_scored_now == lost
    assert run_verify(where) == before


def test_a_damaged_listing_finds_its_images_again_too(tmp_path: Path) -> None:
    dataset.write_dataset(tmp_path / "faces", "unlabelled", num_faces=6, size=32, num_broken=0)
    config = CatalogConfig(str(tmp_path / "faces"), str(tmp_path / "catalog"))
    build_catalog(config)
    (tmp_path / "faces" / "late.jpg").write_bytes(b"late")
    build_catalog(config)
    _, second = (tmp_path / "catalog" / name for name in folders.list_parts(config.out, "catalog"))
    second.write_bytes(b"")
    with pytest.raises(Damaged, match=second.name):
        build_catalog(config)
    repaired = CatalogConfig(config.source, config.out, repair=True)
    assert build_catalog(repaired).num_new == 1
    assert build_catalog(repaired).num_new == 0
    assert [name[:10] for name in folders.list_parts(config.out, "catalog")] == [
        "part-00001",
        "part-00002",
        "part-00003",
    ]
    for part in Path(config.out).iterdir():
        part.write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of its 3 parts can be read; delete it and .*agescale, make it anew"):
        build_catalog(repaired)


def test_a_listing_whose_beginning_is_damaged_is_told(tmp_path: Path) -> None:
    out = str(tmp_path / "catalog")
    changes.begin_listing(out, "beef", num_ranges=2)
    (file,) = Path(folders.beside(out)).glob("listing-*.json")
    whole = file.read_bytes()
    for tenths in range(10):
        file.write_bytes(whole[: len(whole) * tenths // 10])
        with pytest.raises(ValueError, match=r"listing-00001.json: damaged, .*; where no other job lists .* delete it"):
            changes.read_begun(out)


def test_verify_never_advises_to_delete_what_is_only_closed_to_this_user(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = paths(made)
    closed = Predictions.find(where["ages"]).names[0]
    read = objects.read_bytes

    def refuse_one(uri: str, *more: Any) -> bytes:
        if uri.endswith(closed):
            raise StoreError("forbidden", f"{uri}: Permission denied")
        return read(uri, *more)

    monkeypatch.setattr(objects, "read_bytes", refuse_one)
    found = verify(VerifyConfig(where["catalog"], where["ages"]))
    assert (found.num_problems, found.num_kept, found.wrong_files) == (1, 1, ())
    assert verify_job.remedies(found) == ["let this user, or a newer agescale, read the files that cannot be read"]


def test_a_trial_whose_file_is_gone_leaves_no_number_to_be_given_twice(made: Path, tmp_path: Path) -> None:
    where = paths(made)
    known = [Trial(number, {"lr": number}, {}, status="finished") for number in (0, 2)]
    config = sweep_config(where)
    space = spaces.load(where["space.py"])
    curves: dict[int, list[dict[str, Any]]] = {0: [], 2: []}
    proposals = search.Proposals(config, space, known, curves, search.build_scheduler(config))
    proposals.out = str(tmp_path)
    assert proposals.suggest("next")["number"] == 3
