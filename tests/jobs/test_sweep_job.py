"""Whole sweeps: a winner, a table and a page; what trials come to; mistakes are told before a trial."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from conftest import REPO, RunJob
from ray.exceptions import RayTaskError
from ray.tune.search import Searcher

from agescale.ages import few
from agescale.cataloging.driver import build_catalog
from agescale.config import CatalogConfig, SweepConfig, TrainConfig
from agescale.models import checkpoints
from agescale.store import lease, objects, parquet
from agescale.store.errors import StoreError
from agescale.sweeping import plan as sweep_plan
from agescale.sweeping import search, spaces, trials, worker
from agescale.sweeping.driver import sweep
from agescale.sweeping.search import Proposals, TrialPrinter
from agescale.sweeping.trials import Trial
from agescale.sweeping.worker import run_trial
from agescale.synthetic import dataset
from agescale.training import plan as training_plan
from agescale.training import runs
from agescale.training.failures import OutOfMemory

SPACE = """
SPACE = [
    {"encoder": ["cnn"], "widths": [(4, 8)], "phases": ["all:{epochs}@{lr}"], "lr": [1e-3]},
    {"encoder": ["skip_cnn"], "widths": [(4, 8)], "phases": ["all:{epochs}@{lr}"], "lr": [1e30]},
]
"""
RATES = """
from scipy.stats import loguniform
SPACE = [{
    "encoder": ["cnn"], "widths": [(4, 8)], "image_size": [32], "phases": ["all:{epochs}@{lr}"],
    "lr": loguniform(1e-4, 1e-2),
}]
"""
BASE = TrainConfig(image_size=32, batch_size=64, augmentation="none", clip_norm=0.0, warmup_epochs=0)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> str:
    folder = tmp_path_factory.mktemp("sweeps")
    dataset.write_dataset(folder / "faces", "utkface", num_faces=90, size=48)
    build_catalog(CatalogConfig(str(folder / "faces"), str(folder / "catalog"), layout="utkface", pack=32))
    return str(folder / "catalog")


@pytest.fixture
def config(catalog: str, tmp_path: Path) -> SweepConfig:
    (tmp_path / "space.py").write_text(SPACE)
    return SweepConfig(catalog, str(tmp_path / "out"), str(tmp_path / "space.py"), epochs=2, searcher="grid")


@pytest.mark.chaos
def test_a_sweep_ends_with_a_winner_a_table_and_a_page(config: SweepConfig) -> None:
    result = sweep(config, BASE)
    first, last = result.leaderboard
    assert (first["settings"]["lr"], first["status"], first["epochs"]) == (1e-3, "finished", 2)
    assert (last["settings"]["lr"], last["status"]) == (1e30, "diverged")
    assert "loss is NaN or infinite" in last["reason"]
    assert checkpoints.read(f"{config.out}/best").spec.encoder == "cnn"
    assert "--widths 4 8" in result.command
    assert objects.exists(f"{config.out}/leaderboard.parquet")
    assert objects.exists(result.report)
    before = {item.name: item.stat().st_mtime_ns for item in Path(config.out, "trials").iterdir()}
    assert sweep(config, BASE).leaderboard == result.leaderboard, "there is nothing left to do"
    assert before == {item.name: item.stat().st_mtime_ns for item in Path(config.out, "trials").iterdir()}


@pytest.mark.chaos
def test_a_sweep_whose_budget_is_spent_goes_on_with_a_larger_one_and_trains_its_winner_again(
    catalog: str, tmp_path: Path, run_job: RunJob
) -> None:
    """As users run it: Optuna and ASHA, and paths that are relative."""
    (tmp_path / "space.py").write_text(RATES)
    folder = os.path.relpath(tmp_path, REPO)
    out = ("--out", f"{folder}/out", "--space", f"{folder}/space.py", "--epochs", "3")
    command = ("jobs/sweep.py", "--catalog", os.path.relpath(catalog, REPO), *out)
    first = run_job(*command, "--num-trials", "3", "--total-epochs", "2")
    assert first.returncode == 0, first.stdout + first.stderr
    assert [trial.status for trial in trials.read_trials(f"{tmp_path}/out")] == ["finished"]

    second = run_job(*command, "--num-trials", "3", "--refit", timeout_s=400)
    assert second.returncode == 0, second.stdout + second.stderr
    board = parquet.read_table(f"{tmp_path}/out/leaderboard.parquet").to_pylist()
    assert sorted(row["number"] for row in board) == [0, 1, 2]
    assert len({row["settings"] for row in board}) == 3
    assert all(row["status"] in ("finished", "stopped") for row in board)
    refit = checkpoints.read(f"{tmp_path}/out/refit/{board[0]['number']:04d}/best")
    num_train, num_val = refit.provenance["num_images"]["train"], refit.provenance["num_images"]["val"]
    assert num_train - num_val == checkpoints.read(f"{tmp_path}/out/best").provenance["num_images"]["train"]
    assert f"--catalog {catalog}" in second.stdout.splitlines()[-1], "the command of the winner works anywhere"


def proposals_of(config: SweepConfig) -> Proposals:
    """As a sweep makes them when it begins or goes on."""
    known = trials.read_trials(config.out)
    curves = trials.read_curves(config.out, known)
    return Proposals(config, spaces.SPACES["quick"].space, known, curves, search.build_scheduler(config))


@pytest.mark.parametrize("searcher", ["optuna", "random"])
def test_after_a_restart_what_was_under_way_comes_first_and_nothing_is_proposed_twice(
    searcher: Literal["optuna", "random"], tmp_path: Path
) -> None:
    config = SweepConfig("catalog", str(tmp_path), num_trials=8, searcher=searcher)
    before = proposals_of(config)
    first = [before.suggest(f"before-{number}") for number in range(4)]
    before.on_trial_complete("before-0")
    after = proposals_of(config)
    assert after.num_left == 7
    second = [after.suggest(f"after-{number}") for number in range(7)]
    assert second[:3] == first[1:]
    assert [each and each["number"] for each in second] == [1, 2, 3, 4, 5, 6, 7]
    assert len({repr(each and each["point"]) for each in [*first, *second]}) == 8
    assert after.suggest("one-more") == Searcher.FINISHED
    assert proposals_of(replace(config, num_trials=9)).num_left == 8


def test_no_trial_begins_once_the_epochs_are_spent(tmp_path: Path) -> None:
    config = SweepConfig("catalog", str(tmp_path), total_epochs=3, searcher="random")
    proposals = proposals_of(config)
    assert proposals.num_left == 3
    proposals.suggest("first")
    for epoch in (1, 2, 3):
        assert proposals.num_left == 2
        TrialPrinter(config, proposals).on_trial_result(0, [], "trial", {"epoch": epoch})
    assert proposals.num_left == 0
    assert proposals.suggest("second") == Searcher.FINISHED


def test_a_trial_without_enough_memory_begins_anew_with_half_the_batch_or_is_given_up(
    config: SweepConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No machine of the tests has too little memory at one size and enough at the half of it, so this is told."""
    needs = {0: 16, 1: 1}
    tried: list[tuple[int, str]] = []

    def train(planned: TrainConfig, *_: object) -> None:
        tried.append((planned.batch_size, planned.phases))
        if planned.batch_size > needs[int(planned.out[-4:])]:
            raise OutOfMemory(f"out of memory with --batch-size {planned.batch_size}")

    monkeypatch.setattr(worker, "train", train)
    for number in needs:
        trials.write_trial(config.out, Trial(number, {"phases": "all:{epochs}@{lr}", "lr": 8e-3}, {}))
        run_trial(number, config, BASE, (), None)
    assert tried[:3] == [(64, "all:2@0.008"), (32, "all:2@0.004"), (16, "all:2@0.002")]
    first, second = trials.read_trials(config.out)
    assert (first.num_halvings, first.reason) == (2, "out of memory: batches of 16 instead of 64")
    assert (second.status, second.reason) == ("failed", "out of memory with --batch-size 4")
    assert len(tried) == 3 + 5


def test_a_trial_whose_run_another_process_still_holds_is_tried_again_and_not_failed(
    config: SweepConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(planned: TrainConfig, *_: object) -> None:
        with lease.hold(planned.out), lease.hold(planned.out):
            raise AssertionError("two hold it")

    monkeypatch.setattr(worker, "train", train)
    trials.write_trial(config.out, Trial(0, {"phases": "all:{epochs}@{lr}", "lr": 8e-3}, {}))
    with pytest.raises(lease.Held):
        run_trial(0, config, BASE, (), None)
    assert trials.read_trial(config.out, 0).status == "running"


def test_what_trials_brought_before_is_shown_to_the_scheduler_again(tmp_path: Path) -> None:
    """Of three trials at the first level ASHA lets one go on; after a restart it knows the two of before."""
    config = SweepConfig("catalog", str(tmp_path), epochs=9, num_trials=3, searcher="random")
    for number, (value, status) in enumerate([(5.0, "stopped"), (4.0, "running")]):
        trials.write_trial(config.out, Trial(number, {"lr": number}, {}, status=status))  # type: ignore[arg-type]
        entry = {"epoch": 1, "val_mae": value, "is_best": True}
        uri = f"{trials.run_of(config.out, number)}/history.parquet"
        parquet.write_table(uri, pa.Table.from_pylist([entry], schema=runs.HISTORY_SCHEMA))
    proposals = proposals_of(config)
    assert proposals.suggest("second") == {"number": 1, "point": {"lr": 1}}
    worse, better = ({"epoch": 1, "val_mae": value} for value in (4.5, 3.0))
    for result, decision in ((worse, "STOP"), (better, "CONTINUE")):
        trial = SimpleNamespace(trial_id=f"new {decision}")
        proposals.scheduler.on_trial_add(None, trial)
        assert proposals.scheduler.on_trial_result(None, trial, result) == decision


def test_a_store_that_fails_ends_the_sweep_and_not_the_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SweepConfig("catalog", str(tmp_path), num_trials=3, searcher="random")
    proposals = proposals_of(config)
    assert proposals.suggest("first") is not None
    (tmp_path / "trials" / "0000.json").unlink()
    proposals.on_trial_complete("first")
    with lease.hold(config.out) as held:
        assert search.Breaker(proposals, held).stop_all()
    assert "0000.json" in str(proposals.error)


@pytest.mark.parametrize("lasts", [True, False])
def test_a_full_disk_ends_the_sweep_and_the_silence_of_a_bucket_does_not(tmp_path: Path, lasts: bool) -> None:
    uri = "/out" if lasts else "s3://bucket/out"
    config = SweepConfig("catalog", str(tmp_path), num_trials=3, searcher="random")
    proposals = proposals_of(config)
    error = StoreError("unreachable", f"{uri}/last/weights.pt: that did not work")
    trial = SimpleNamespace(get_pickled_error=lambda: RayTaskError("train", "Traceback", error).as_instanceof_cause())
    TrialPrinter(config, proposals).on_trial_recover(0, [], trial)
    assert proposals.error is (error if lasts else None)
    with lease.hold(config.out) as held:
        assert search.Breaker(proposals, held).stop_all() == lasts


@pytest.mark.parametrize("objective", ["mae", "worst_group_mae", "accuracy"])
def test_the_baseline_is_what_the_best_constant_reaches(
    config: SweepConfig, objective: Literal["mae", "worst_group_mae", "accuracy"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(few, "ENOUGH_FACES", 3)
    selected = training_plan.select(replace(BASE, catalog=(config.catalog,)))
    train, val = (selected.rows.filter(pc.equal(selected.rows["split"], split)) for split in ("train", "val"))
    baseline = sweep_plan.baseline(replace(config, objective=objective), selected)
    ages, judged = (rows["age_low"].to_numpy() for rows in (train, val))
    errors = abs(judged - np.median(ages))
    groups = [selected.age_groups.index_of(age) for age in judged]
    known = [selected.age_groups.index_of(age) for age in ages]
    expected = {
        "mae": errors.mean(),
        "worst_group_mae": max(
            errors[[group == each for group in groups]].mean() for each in set(groups) if groups.count(each) >= 3
        ),
        "accuracy": np.mean([group == max(set(known), key=known.count) for group in groups]),
    }
    assert baseline is not None
    assert baseline["value"] == pytest.approx(expected[objective])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "--epochs 0: at least 1"),
        ({"num_trials": 0}, "--num-trials 0: at least 1"),
        ({"reduction_factor": 1.0}, "--reduction-factor 1.0: more than 1"),
        ({"objective": "worst_group_mae"}, "no age group has the 20 validation faces that it needs"),
        ({"objective": "worst_group_mae", "worst_of": "decade,subject"}, "--worst-of decade,subject: PART,"),
        ({"worst_of": "ethnicity+decade"}, "--worst-of ethnicity.decade: no part by ethnicity.decade has 20 persons"),
        ({"space": "beta.py"}, "lr: beta is none of uniform, loguniform"),
        ({"space": "range.py"}, "--dropout 2.0: a share from 0 to 1"),
        ({"space": "nothing"}, "--space nothing: none of quick"),
        ({"weights": ("vgg16.pth",)}, "--weights vgg16.pth: ENCODER=SOURCE"),
        ({"weights": ("mobilenet_v2=x.pth",)}, "--weights mobilenet_v2=.*x.pth: trials have other encoders: "),
        ({"objective": "mae", "space": "classes.py"}, "predicts no ages; use --objective accuracy"),
        ({"space": "encoder.py"}, "no encoder is called|unknown encoder|vgg99"),
        ({"space": "rate.py"}, "learning_rate"),
    ],
)
def test_an_impossible_sweep_is_told_before_the_first_trial(
    config: SweepConfig, change: dict[str, object], message: str, tmp_path: Path
) -> None:
    files = {
        "classes.py": "SPACE = [{'task': ['classification']}]",
        "encoder.py": "SPACE = [{'encoder': ['cnn', 'torchvision/vgg99']}]",
        "beta.py": "import scipy.stats\nSPACE = [{'phases': ['all:1@{lr}'], 'lr': scipy.stats.beta(1, 2)}]",
        "range.py": "SPACE = [{'dropout': [0.1, 2.0]}]",
        "rate.py": "SPACE = [{'phases': ['all:{epochs}@{lr}'], 'lr': [1e-3, 0.0]}]",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    if str(change.get("space")) in files:
        change = {**change, "space": str(tmp_path / str(change["space"]))}
    with pytest.raises(ValueError, match=message) as caught:
        sweep(replace(config, **change), BASE)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert trials.read_trials(config.out) == []


def test_what_all_trials_have_in_common_is_theirs(config: SweepConfig) -> None:
    config = replace(config, leave_out=("near_leaking",), worst_of="gender,ethnicity")
    _, base = sweep_plan.with_absolute_paths(config, BASE)
    assert (base.leave_out, base.worst_of) == (("near_leaking",), "gender,ethnicity")
    settings = sweep_plan.identity_of(config, base, [{"seed": [1]}], "data")["settings"]
    assert [settings[settings.index(name) + 1] for name in ("--leave-out", "--worst-of")] == [
        "near_leaking",
        "gender,ethnicity",
    ]


def test_a_sweep_goes_on_with_the_images_that_it_began_with(config: SweepConfig, tmp_path: Path) -> None:
    base = replace(BASE, catalog=(config.catalog,))
    begun, everything = str(tmp_path / "sweep.json"), training_plan.select(base)
    pinned = replace(everything, rows=everything.rows.slice(0, len(everything.rows) // 2))
    training_plan.pin_images(str(tmp_path), pinned)
    assert training_plan.select(base, begun).rows.num_rows == everything.rows.num_rows, "it has not begun"
    (tmp_path / "sweep.json").write_text("{}")
    assert training_plan.select(base, begun).rows.equals(pinned.rows)


def test_each_trial_tells_its_number_and_settings_as_it_starts(capsys: pytest.CaptureFixture[str]) -> None:
    progress = TrialPrinter(SweepConfig("catalog", "sweep"), SimpleNamespace(budget=SimpleNamespace(num_trials=6)))  # type: ignore[arg-type]
    progress.on_trial_start(0, [], TuneTrial())
    assert capsys.readouterr().out == "trial-0001: 2 of 6, encoder cnn, lr 0.001\n"


class TuneTrial(SimpleNamespace):
    config: ClassVar = {"number": 1, "point": {"encoder": "cnn", "lr": 0.001}}

    def __str__(self) -> str:
        return "trial-0001"
