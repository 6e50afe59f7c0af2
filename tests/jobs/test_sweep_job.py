"""Whole sweeps: a winner, a table and a page; mistakes are told before a trial."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from ray.tune.search import Searcher

from agescale import checkpoints, spaces, storage, synthetic, trials
from agescale.cataloging import build_catalog
from agescale.config import CatalogConfig, SweepConfig, TrainConfig
from agescale.sweeping import Proposals, sweep

SPACE = """
SPACE = [
    {"encoder": ["cnn"], "widths": [(4, 8)], "phases": ["all:{epochs}@{lr}"], "lr": [1e-3]},
    {"encoder": ["skip_cnn"], "widths": [(4, 8)], "phases": ["all:{epochs}@{lr}"], "lr": [1e30]},
]
"""
BASE = TrainConfig(image_size=32, batch_size=64, augmentation="none", clip_norm=0.0, warmup_epochs=0)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory, local_ray: None) -> str:
    folder = tmp_path_factory.mktemp("sweeps")
    synthetic.write_dataset(folder / "faces", "utkface", num_faces=90, size=48)
    build_catalog(CatalogConfig(str(folder / "faces"), str(folder / "catalog"), layout="utkface", pack=32))
    return str(folder / "catalog")


@pytest.fixture
def config(catalog: str, tmp_path: Path) -> SweepConfig:
    (tmp_path / "space.py").write_text(SPACE)
    return SweepConfig(catalog, str(tmp_path / "out"), str(tmp_path / "space.py"), epochs=2, searcher="grid")


@pytest.mark.chaos
def test_a_sweep_ends_with_a_winner_a_table_and_a_page(config: SweepConfig) -> None:
    result = sweep(config, BASE)
    by_number = {row["number"]: row for row in result.leaderboard}
    assert (by_number[0]["status"], by_number[0]["epochs"]) == ("finished", 2)
    assert by_number[1]["status"] == "diverged"
    assert "loss is not finite" in by_number[1]["reason"]
    assert result.leaderboard[0]["number"] == 0
    assert checkpoints.read(f"{config.out}/best").spec.encoder == "cnn"
    assert "--widths 4 8" in result.command
    assert storage.exists(f"{config.out}/leaderboard.parquet")
    assert storage.exists(result.report)
    before = {item.name: item.stat().st_mtime_ns for item in Path(config.out, "trials").iterdir()}
    assert sweep(config, BASE).leaderboard == result.leaderboard, "there is nothing left to do"
    assert before == {item.name: item.stat().st_mtime_ns for item in Path(config.out, "trials").iterdir()}


@pytest.mark.parametrize("searcher", ["optuna", "random"])
def test_after_a_restart_what_was_under_way_comes_first_and_nothing_is_proposed_twice(
    searcher: Literal["optuna", "random"], tmp_path: Path
) -> None:
    config = SweepConfig("catalog", str(tmp_path), num_trials=8, searcher=searcher)
    space = spaces.SPACES["quick"]
    before = Proposals(config, space, [])
    first = [before.suggest(f"before-{number}") for number in range(4)]
    before.on_trial_complete("before-0")
    after = Proposals(config, space, trials.read_trials(str(tmp_path)))
    assert after.num_left == 7
    second = [after.suggest(f"after-{number}") for number in range(7)]
    assert second[:3] == first[1:]
    assert [each and each["number"] for each in second] == [1, 2, 3, 4, 5, 6, 7]
    assert len({repr(each and each["point"]) for each in [*first, *second]}) == 8
    assert after.suggest("one-more") == Searcher.FINISHED
    assert Proposals(replace(config, num_trials=9), space, trials.read_trials(str(tmp_path))).num_left == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "--epochs and --num-trials are at least 1"),
        ({"space": "nothing"}, "--space nothing: none of quick"),
        ({"weights": ("vgg16.pth",)}, "ENCODER=FILE is needed"),
        ({"objective": "mae", "space": "classes.py"}, "tells no ages; give --objective accuracy"),
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
