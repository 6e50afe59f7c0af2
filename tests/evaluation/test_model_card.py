"""The card beside a report: what it tells, that it is what was written, and what is found where it is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import test_report
import yaml
from conftest import make_checkpoint

from agescale.evaluation import model_card, report
from agescale.evaluation.records import CoveredPart
from agescale.operations.evidence import verify_checkpoint, verify_report

CARD = test_report.CARD | {
    "initial_weights": {"source": "imagenet.pth", "sha256": "ab12", "license": "BSD-3-Clause"},
    "data_license": "research only", "versions": {"torch": "2.15"}, "num_images": {"train": 900},
    "calibration": {"coverage": 0.9, "num_faces": 400, "split": "val", "bands": [{}], "assumes": "exchangeable photos"},
}  # fmt: skip
COVERED = CoveredPart("all", 300, 273, 0.91, 0.87, 0.94, 21.5)


def written(folder: Path) -> tuple[str, str]:
    """The URI of a report, and the text of its card."""
    central = replace(test_report.result(test_report.made_up()), covered={"all": [COVERED]}, interval_coverage=0.9)
    report.write_report(str(folder), test_report.judgement([central], card=CARD))
    return str(folder), (folder / "model_card.md").read_text()


def test_it_tells_licences_figures_calibration_gate_and_limits(tmp_path: Path) -> None:
    _, card = written(tmp_path)
    _, front, text = card.split("---\n", 2)
    said = yaml.safe_load(front)
    numbers = json.loads((tmp_path / "metrics.json").read_text())
    (result,) = said["model-index"][0]["results"]
    assert result["dataset"]["split"] == "test"
    assert {row["type"]: row["value"] for row in result["metrics"]} == {
        name: numbers["test"][name] for name in model_card.METRICS
    }
    for words in ("| code | Apache-2.0 |", "BSD-3-Clause", "research only", "2.15", "0123abcd", "90 % of faces",
                  "Here 91.0", "## At an age gate of 18", "all under 18", "must not be used", "By gender"):  # fmt: skip
        assert words in text, words
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) > 30
    for first, second in zip(text.splitlines(), text.splitlines()[1:], strict=False):
        if first.startswith("|") and second.startswith("|"):
            assert first.replace("\\|", "").count("|") == second.replace("\\|", "").count("|"), (first, second)


def test_of_names_from_data_nothing_is_marked_up(tmp_path: Path) -> None:
    about = replace(test_report.ABOUT, source="s3://b/![x](http://evil)|<script>\n# heading")
    report.write_report(str(tmp_path), test_report.judgement(about=about))
    text = (tmp_path / "model_card.md").read_text().partition("# Model")[2]
    assert "![x](" not in text
    assert "<script>" not in text
    assert "\n# heading" not in text
    assert verify_report(str(tmp_path)).problems == ()


def test_a_report_as_it_was_written_is_right(tmp_path: Path) -> None:
    uri, _ = written(tmp_path)
    assert verify_report(uri).problems == ()
    assert verify_report(uri, "0123abcd").problems == ()
    assert "of model 0123abcd, not of beef" in verify_report(uri, "beef").problems[0]


def edited(card: str) -> str:
    return card.replace("research only", "CC0")


def with_another_figure(card: str) -> str:
    """Edited, and the digest of its text computed anew."""
    said = json.loads(model_card.LAST_LINE.search(card)[1])  # type: ignore[index]
    text = model_card.LAST_LINE.sub("", card)
    value = json.loads(model_card.INDEX.search(text)[1])[0]["results"][0]["metrics"][0]["value"]  # type: ignore[index]
    text = text.replace(f'"value": {value}', '"value": 0.5', 1)
    said["text"] = model_card.sha256(text.encode())
    return f"{text}<!-- agescale {json.dumps(said)} -->\n"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edited, "edited since it was written"),
        (with_another_figure, "mae of test is 0.5, in metrics.json "),
        (lambda card: card.replace("<!-- agescale", "<!--"), "its last line is not as "),
        (lambda card: card + "more\n", "its last line is not as "),
    ],
)
def test_what_was_changed_by_hand_is_told(change: Callable[[str], str], words: str, tmp_path: Path) -> None:
    uri, card = written(tmp_path)
    (tmp_path / "model_card.md").write_text(change(card))
    problems = verify_report(uri).problems
    assert any(words in problem for problem in problems), problems


def test_files_of_another_report_and_files_that_have_gone_are_told(tmp_path: Path) -> None:
    uri, _ = written(tmp_path / "one")
    report.write_report(str(tmp_path / "two"), test_report.judgement([test_report.result(test_report.made_up(200))]))
    (tmp_path / "one" / "metrics.json").write_bytes((tmp_path / "two" / "metrics.json").read_bytes())
    (tmp_path / "one" / "by_group.csv").unlink()
    problems = verify_report(uri).problems
    assert any("metrics.json: not the file that model_card.md was written with" in problem for problem in problems)
    assert any("by_group.csv: not there" in problem for problem in problems)
    (tmp_path / "two" / "model_card.md").unlink()
    assert "model_card.md: not there" in verify_report(f"{tmp_path}/two").problems[0]
    with pytest.raises(ValueError, match="no report there"):
        verify_report(str(tmp_path))


def test_a_checkpoint_that_was_edited_is_told(tmp_path: Path) -> None:
    uri = make_checkpoint(tmp_path, genders=("female", "male"))
    assert verify_checkpoint(uri).problems == ()
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_bytes()) | {"digest": "0123456789abcdef"}))
    (problem,) = verify_checkpoint(uri).problems
    assert "of model 0123456789abcdef" in problem
