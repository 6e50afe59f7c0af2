"""Every named run can be built as it stands, and says where it comes from."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from agescale.command_line import take_recipe
from agescale.config import TrainConfig
from agescale.faces.augment import AUGMENTATIONS
from agescale.models.age_model import AgeModel, ModelSpec
from agescale.training import finetuning, recipes


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_its_model_is_built_and_each_of_its_phases_has_something_to_train(name: str) -> None:
    config = recipes.RECIPES[name]
    shared = set(ModelSpec.__dataclass_fields__) & set(TrainConfig.__dataclass_fields__) - {"age_groups"}
    model = AgeModel(
        ModelSpec(age_groups=config.age_groups or "25-years", **{key: getattr(config, key) for key in shared})
    )
    for phase in finetuning.parse_phases(config.phases):
        finetuning.freeze(model, phase.scope)
        assert any(parameter.requires_grad for parameter in model.parameters())
    assert config.augmentation in AUGMENTATIONS
    assert not config.catalog, "a recipe belongs to no site"


def test_each_is_followed_by_what_it_is() -> None:
    tree = ast.parse(Path(recipes.__file__).read_text())
    documented = {
        statement.targets[0].id
        for statement, text in zip(tree.body, tree.body[1:], strict=False)
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
        and isinstance(text, ast.Expr)
    }  # fmt: skip
    values = {id(value): name for name, value in vars(recipes).items() if isinstance(value, TrainConfig)}
    assert {values[id(recipe)] for recipe in recipes.RECIPES.values()} <= documented


def test_help_lists_them_with_what_each_changes() -> None:
    text = recipes.describe()
    assert all(f"{name}: " in text for name in recipes.RECIPES)
    assert "image_size 112" in text


def test_an_unknown_name_is_refused_with_those_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        take_recipe(["train.py", "quick"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: no recipe is called 'quick'; there are drawn, fast")
    assert take_recipe(["train.py", "fast"]) is recipes.RECIPES["fast"]
    assert take_recipe(["train.py", "--out", "x"]) is None
