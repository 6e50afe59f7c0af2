"""What ``--weights`` names: a file, a folder, or somebody's published weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from agescale.training import initial_weights


@pytest.mark.parametrize(
    ("weights", "is_stored", "is_checkpoint"),
    [
        ("", False, False),
        ("IMAGENET1K_V2", False, False),
        ("faceres", True, True),
        ("./faceres", True, True),
        ("runs/elsewhere", True, True),
        ("s3://work/runs/faceres", True, True),
        ("vgg16.pth", True, False),
        ("runs/VGG16.PTH", True, False),
        ("included", True, True),
    ],
)
def test_a_name_is_of_published_weights_unless_it_is_that_of_a_folder_which_is_there(
    weights: str, is_stored: bool, is_checkpoint: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "faceres").mkdir()
    monkeypatch.chdir(tmp_path)
    assert initial_weights.is_stored(weights) is is_stored
    assert initial_weights.is_checkpoint(weights) is is_checkpoint
    if weights == "faceres":
        assert initial_weights.absolute_weights(weights) == str(tmp_path / "faceres")
