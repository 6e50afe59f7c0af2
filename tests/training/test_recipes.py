"""Every named run can be built as it stands, and says where it comes from."""

from __future__ import annotations

import pytest

from agescale.command_line import take_recipe
from agescale.config import TrainConfig
from agescale.faces.augment import AUGMENTATIONS
from agescale.models.age_model import AgeModel
from agescale.models.spec import ModelSpec
from agescale.training import finetuning, recipes


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_its_model_is_built_and_each_of_its_phases_has_something_to_train(name: str) -> None:
    config = recipes.RECIPES[name].config
    shared = set(ModelSpec.__dataclass_fields__) & set(TrainConfig.__dataclass_fields__) - {"age_groups"}
    model = AgeModel(
        ModelSpec(age_groups=config.age_groups or "25-years", **{key: getattr(config, key) for key in shared})
    )
    for phase in finetuning.parse_phases(config.phases):
        finetuning.freeze(model, phase.scope)
        assert any(parameter.requires_grad for parameter in model.parameters())
    assert config.augmentation in AUGMENTATIONS
    assert not config.catalog, "a recipe belongs to no site"


def test_each_says_what_it_is_for_and_where_it_comes_from() -> None:
    for recipe in recipes.RECIPES.values():
        assert recipe.purpose
        assert len(recipe.purpose) < 40, "a cell of the table of --help"
        assert recipe.source.endswith(".")


def test_help_lists_them_in_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    recipes.print_recipes()
    lines = capsys.readouterr().out.splitlines()
    for name, recipe in recipes.RECIPES.items():
        (line,) = [line for line in lines if line[1:].strip().startswith(f"{name} ")]
        assert recipe.purpose in line
        assert f" {recipe.config.image_size} " in line


def test_an_unknown_name_is_refused_with_those_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        take_recipe(["train.py", "quick"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: no recipe is called 'quick'; there are drawn, fast")
    assert take_recipe(["train.py", "fast"]) is recipes.RECIPES["fast"].config
    assert take_recipe(["train.py", "--out", "x"]) is None
