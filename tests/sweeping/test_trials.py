"""What stands of a sweep's trials: who is best, what may be removed, and which sweep it is."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agescale.store import objects, parquet
from agescale.sweeping import trials
from agescale.sweeping.trials import Trial
from agescale.training import runs


def entry(epoch: int, mae: float | None, is_best: bool = True) -> dict[str, Any]:
    group = mae and 2 * mae
    return {"epoch": epoch, "is_best": is_best, "val_mae": mae, "val_worst_group_mae": group, "val_accuracy": 0.5,
            "images_per_s": 100.0, "seconds": 3.0}  # fmt: skip


def add(out: Path, number: int, maes: list[float | None], status: str = "stopped", size: int = 10) -> None:
    trial = Trial(number, {"lr": number / 100}, {}, status=status, num_parameters=size)  # type: ignore[arg-type]
    trials.write_trial(str(out), trial)
    run = out / "runs" / trial.name
    for folder in ("best", "last"):
        (run / folder).mkdir(parents=True)
        (run / folder / "config.json").write_text("{}")
        (run / folder / "weights.pt").write_bytes(bytes(1000))
    rows = [entry(n + 1, mae, is_best=mae is None or mae == min(maes[: n + 1])) for n, mae in enumerate(maes)]  # type: ignore[type-var]
    pq.write_table(pa.Table.from_pylist(rows, schema=runs.HISTORY_SCHEMA), run / "history.parquet")


def board(out: Path, objective: str = "mae") -> list[dict[str, Any]]:
    done = trials.read_trials(str(out))
    return trials.leaderboard(done, trials.read_curves(str(out), done), objective)


def test_the_worked_example_holds() -> None:
    assert doctest.testmod(trials).failed == 0
    assert doctest.testmod(trials).attempted > 0


def test_the_best_trial_stands_first_at_its_best_epoch_and_those_without_a_value_last(tmp_path: Path) -> None:
    add(tmp_path, 0, [9.0, 8.0, 8.5])
    add(tmp_path, 1, [], status="diverged")
    add(tmp_path, 2, [7.0, 6.0], status="finished")
    rows = board(tmp_path)
    assert [row["number"] for row in rows] == [2, 0, 1]
    assert [row["value"] for row in rows] == [6.0, 8.0, None]
    assert [row["best_epoch"] for row in rows] == [2, 2, None]
    assert [row["epochs"] for row in rows] == [2, 3, 0]
    assert board(tmp_path, "worst_group_mae")[0]["value"] == 12.0
    assert rows[0]["settings"] == {"lr": 0.02}


def test_the_epoch_counts_whose_model_is_kept() -> None:
    curve = [entry(1, 9.0), entry(2, 8.0), entry(3, 7.0, is_best=False)]
    assert trials.best_epoch(curve) == curve[1], "whatever else is smaller: the run watches a metric of its own"
    assert trials.best_epoch([]) is None


def test_while_the_leader_is_not_over_the_best_that_is_keeps_its_checkpoint_too(tmp_path: Path) -> None:
    add(tmp_path, 0, [5.0], status="finished")
    add(tmp_path, 1, [4.0], status="running")
    add(tmp_path, 2, [6.0], status="finished")
    trials.tidy(str(tmp_path), board(tmp_path))
    kept = {path.parent.parent.name for path in tmp_path.rglob("best/weights.pt")}
    assert kept == {"0000", "0001"}


def test_who_loses_in_nothing_is_on_the_front(tmp_path: Path) -> None:
    add(tmp_path, 0, [5.0], size=100)
    add(tmp_path, 1, [6.0], size=10)
    add(tmp_path, 2, [6.0], size=50)
    add(tmp_path, 3, [], status="failed")
    rows = board(tmp_path)
    assert {row["number"] for row in rows if row["is_on_front"]} == {0, 1}


def test_only_the_best_trial_and_those_under_way_keep_a_checkpoint(tmp_path: Path) -> None:
    add(tmp_path, 0, [9.0])
    add(tmp_path, 1, [5.0], status="finished")
    add(tmp_path, 2, [7.0], status="running")
    left = trials.tidy(str(tmp_path), board(tmp_path))
    kept = {str(path.relative_to(tmp_path / "runs")) for path in tmp_path.rglob("weights.pt")}
    assert kept == {"0001/best/weights.pt", "0002/best/weights.pt", "0002/last/weights.pt"}
    assert left == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert trials.read_curve(str(tmp_path), trials.read_trials(str(tmp_path))[0]) != [], "what it did is remembered"


def test_the_winners_checkpoint_replaces_the_one_before(tmp_path: Path) -> None:
    add(tmp_path, 0, [9.0])
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "weights-of-before.pt").touch()
    best = trials.copy_best(str(tmp_path), 0)
    assert objects.list_names(best) == ["config.json", "weights.pt"]


def test_a_leaderboard_is_a_table(tmp_path: Path) -> None:
    add(tmp_path, 0, [9.0])
    add(tmp_path, 1, [])
    uri = trials.write_leaderboard(str(tmp_path), board(tmp_path))
    table = parquet.read_table(uri)
    assert table["number"].to_pylist() == [0, 1]
    assert table["settings"].to_pylist() == ['{"lr": 0.0}', '{"lr": 0.01}']


def test_another_sweep_in_the_same_place_is_refused_by_name(tmp_path: Path) -> None:
    trials.begin(str(tmp_path), {"space": "quick", "epochs": 10})
    trials.begin(str(tmp_path), {"space": "quick", "epochs": 10})
    with pytest.raises(ValueError, match=r"another sweep stands there \(epochs was 10, is 12\); give another --out"):
        trials.begin(str(tmp_path), {"space": "quick", "epochs": 12})
