"""What a sweep may try: points of conditional spaces, and the trainings that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from scipy.stats import loguniform, randint, uniform

from agescale.config import TrainConfig
from agescale.sweeping import spaces
from agescale.training.finetuning import parse_phases

CONDITIONAL: spaces.Space = [
    {"encoder": ["cnn"], "widths": [(16, 32), (32, 64)], "lr": [1e-3], "phases": ["all:{epochs}@{lr}"]},
    {"encoder": ["torchvision/vit_b_16"], "phases": ["last2:{epochs}@{lr}"], "lr": loguniform(1e-5, 1e-3)},
]


def asked(space: spaces.Space, num: int) -> list[spaces.Point]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [spaces.suggest(space, study.ask()) for _ in range(num)]


@pytest.mark.parametrize("points", [spaces.sample(CONDITIONAL, 40, seed=0), asked(CONDITIONAL, 40)])
def test_settings_of_one_alternative_do_not_stand_with_those_of_another(points: list[spaces.Point]) -> None:
    by_encoder: dict[str, list[spaces.Point]] = {"cnn": [], "torchvision/vit_b_16": []}
    for point in points:
        by_encoder[point["encoder"]].append(point)
    assert all(len(found) > 5 for found in by_encoder.values())
    assert {point["widths"] for point in by_encoder["cnn"]} == {(16, 32), (32, 64)}
    for point in by_encoder["torchvision/vit_b_16"]:
        assert set(point) == {"encoder", "phases", "lr"}
        assert 1e-5 <= point["lr"] <= 1e-3


def test_the_same_seed_proposes_the_same_points_and_more_of_them_begin_with_these() -> None:
    space = [{"encoder": ["cnn"], "lr": loguniform(1e-4, 1e-2), "dropout": uniform(0, 0.5)}]
    assert spaces.sample(space, 5, seed=3) == spaces.sample(space, 9, seed=3)[:5]
    assert spaces.sample(space, 5, seed=3) != spaces.sample(space, 5, seed=4)


def test_a_grid_has_every_point_once() -> None:
    space = [CONDITIONAL[0], {"encoder": ["skip_cnn"], "dropout": [0.0, 0.1, 0.2]}]
    points = spaces.grid(space, seed=0)
    assert len(points) == 5
    assert len({repr(point) for point in points}) == 5
    assert points == spaces.grid(space, seed=0)
    orders = [spaces.grid(space, seed) for seed in range(5)]
    assert all(sorted(map(repr, order)) == sorted(map(repr, points)) for order in orders)
    assert any(order != points for order in orders), "the seed draws the order"
    assert spaces.sample([CONDITIONAL[0]], 10, seed=0) != []
    assert len(spaces.sample([CONDITIONAL[0]], 10, seed=0)) == 2, "there are no more"


@pytest.mark.parametrize("propose", [lambda space: spaces.sample(space, 40, seed=0), lambda space: asked(space, 40)])
def test_whole_numbers_stay_whole_and_within_their_ends(propose: Callable[[spaces.Space], list[spaces.Point]]) -> None:
    space = [{"batch_size": randint(16, 20)}]
    sizes = [point["batch_size"] for point in propose(space)]
    assert set(sizes) == {16, 17, 18, 19}
    assert {type(size) for size in sizes} == {int}
    assert [point["batch_size"] for point in spaces.examples(space)] == [16, 19]


def test_a_distribution_has_no_grid() -> None:
    with pytest.raises(ValueError, match="--searcher grid: lr has a distribution; give a list of values"):
        spaces.grid(CONDITIONAL, seed=0)


@pytest.mark.parametrize(
    ("phases", "epochs", "planned"),
    [
        ("all:{epochs}@{lr}", 8, "all:8@0.002"),
        ("head:2@1e-3,all:{epochs}@{lr}", 8, "head:2@0.001,all:6@0.002"),
        ("head:{epochs}@1e-3,all:{epochs}@{lr}", 8, "head:4@0.001,all:4@0.002"),
        ("head:2@1e-3,all:30@{lr}", 8, "head:2@0.001,all:6@0.002"),
        ("head:3@1e-3,all:{epochs}@{lr}", 2, "head:2@0.001"),
    ],
)
def test_phases_are_filled_with_the_rate_and_the_epochs_that_are_left(phases: str, epochs: int, planned: str) -> None:
    config = spaces.to_config(TrainConfig(), {"phases": phases, "lr": 0.002, "encoder": "skip_cnn"}, epochs)
    assert (config.phases, config.encoder) == (planned, "skip_cnn")


def test_every_value_of_every_setting_is_an_example() -> None:
    points = list(spaces.examples(CONDITIONAL))
    assert {point.get("widths") for point in points} >= {(16, 32), (32, 64)}
    assert {point["lr"] for point in points} == {1e-3, 1e-5}.union({1e-3})


@pytest.mark.parametrize("name", spaces.SPACES)
def test_our_own_spaces_hold_trainings(name: str) -> None:
    spaces.check(spaces.SPACES[name].space, name)
    for point in spaces.examples(spaces.SPACES[name].space):
        config = spaces.to_config(TrainConfig(), point, epochs=10)
        assert sum(phase.epochs for phase in parse_phases(config.phases)) == 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SPACE = {'lr': [1]}", "SPACE is a list of dicts"),
        ("SPACE = []", "SPACE is a list of dicts"),
        ("space = [{'encoder': ['cnn']}]", "SPACE is a list of dicts"),
        ("SPACE = [{'encodr': ['cnn']}]", "'encodr' is no setting of training"),
        (
            "SPACE = [{'learning_rate': [0.1]}]",
            "no setting of training; rates are 'phases': ",
        ),
        ("SPACE = [{'catalog': ['a', 'b']}]", "'catalog' is the same for all trials"),
        ("SPACE = [{'dropout': 0.3}]", "dropout: 0.3 is neither a list nor a scipy.stats distribution"),
        ("SPACE = [{'dropout': []}]", r"dropout: \[\] is neither a list"),
        ("SPACE = [{'lr': [1e-3]}]", "lr needs phases that contain {lr}"),
        ("SPACE = [{'lr': [1e-3], 'phases': ['all:3@1e-3']}]", "lr needs phases that contain {lr}"),
        ("SPACE = [", "SyntaxError: "),
        ("from scipy.stats import loguniform\nSPACE = [{'lr': loguniform(0, 1)}]", "lr: a distribution with two ends"),
        ("from scipy.stats import norm\nSPACE = [{'dropout': norm()}]", "dropout: norm is none of uniform, "),
    ],
)
def test_a_space_that_is_none_is_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "space.py").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        spaces.load(str(tmp_path / "space.py"))
    assert str(caught.value).startswith(f"--space {tmp_path}/space.py: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "message"), [("quik", "none of quick, "), ("no/file.py", "no such file")])
def test_a_space_that_is_not_there_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spaces.load(name)


def test_the_command_line_of_a_training_says_what_differs_from_the_default() -> None:
    config = TrainConfig(catalog=("a b", "c"), head_sizes=(256, 128), mixup=0.2)
    said: list[Any] = spaces.to_arguments(config)
    assert said == ["--catalog", "a b", "c", "--head-sizes", "256", "128", "--mixup", "0.2"]
