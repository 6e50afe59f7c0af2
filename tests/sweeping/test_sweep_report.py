"""The page of a sweep, from made-up trials."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_page import Page, browse, needs_browser, width_in

from agescale.sweeping import report

ABOUT = {
    "space": "architectures", "searcher": "random", "scheduler": "asha", "num_trials": 30, "epochs": 12,
    "objective": "mae", "catalog": "s3://bucket/catalog", "num_train": 16_595, "num_val": 2_370, "seconds": 12_345.0,
    "disk_bytes": 1_240_000_000, "baseline": {"name": "always the median age", "value": 11.87}, "worst_of": "",
}  # fmt: skip
COMMAND = "python jobs/train.py --catalog s3://bucket/catalog --phases 'head:1@0.001,all:11@0.0004'"
FIGURES = ["best", "curves", "importance", "parallel", "speed", "size"]


def made_up(num_trials: int = 30, **settings: Any) -> tuple[list[dict[str, Any]], dict[int, list[dict[str, Any]]]]:
    """A leaderboard and its curves: some stopped; of four trials or more the second diverged and the third failed."""
    rng = np.random.default_rng(0)
    rows, curves = [], {}
    for number in range(num_trials):
        point = {"encoder": f"torchvision/resnet{rng.choice([18, 50])}", "image_size": 112}
        point |= {"task": str(rng.choice(["distribution", "regression"])), "lr": float(10 ** rng.uniform(-4, -2))}
        if rng.random() < 0.4:
            point |= {"encoder": "cnn", "image_size": 64, "dropout": float(rng.choice([0.0, 0.2, 0.5]))}
        status = "finished" if number % 3 == 0 else "stopped"
        if num_trials > 3 and number in (1, 2):
            status = {1: "diverged", 2: "failed"}[number]
        num_epochs = {"finished": 12, "stopped": 3, "diverged": 2, "failed": 0}[status]
        level = 5 + (point["encoder"] == "cnn") + abs(math.log10(point["lr"]) + 3)
        maes = [level + 4 / epoch + rng.uniform(0, 0.1) for epoch in range(1, num_epochs + 1)]
        if status == "diverged":
            maes[-1] = math.nan
        curves[number] = [
            {"epoch": epoch, "val_mae": mae, "val_worst_group_mae": 1.5 * mae, "val_accuracy": 1 / mae, "seconds": 60.0}
            for epoch, mae in enumerate(maes, start=1)
        ]
        best = int(np.nanargmin(maes)) if maes else None
        mae = None if best is None else maes[best]
        rows.append({
            "number": number, "status": status, "epochs": num_epochs, "seconds": 60.0 * num_epochs, "value": mae,
            "reason": {"diverged": "the loss is not finite", "failed": "its processes died 4 times"}.get(status, ""),
            "best_epoch": None if best is None else best + 1, "mae": mae, "settings": {"mixup": 0.2} | point | settings,
            "worst_group_mae": mae and 1.5 * mae, "accuracy": mae and 1 / mae, "images_per_s": 100.0 + 7 * number,
            "num_parameters": 1_234_567 if point["encoder"] == "cnn" else 11_200_000 + number,
        })  # fmt: skip
    return sorted(rows, key=lambda row: (row["value"] is None, row["value"] or 0.0)), curves


def page_of(num_trials: int = 30, about: dict[str, Any] | None = None, **settings: Any) -> str:
    return report.render(ABOUT | (about or {}), *made_up(num_trials, **settings), COMMAND)


@pytest.fixture(scope="module")
def page() -> str:
    """That of thirty trials."""
    return page_of()


def figures_of(page: str) -> list[str]:
    return [name for name in FIGURES if f'id="{name}-figure_1"' in page]


def test_the_page_says_everything_that_was_asked_for(page: str) -> None:
    text = Page(page).text
    best = made_up()[0][0]
    for part in (
        "Mean absolute error", f"{best['value']:.2f}", "11.87", "always the median age",
        "10 finished, 18 stopped early, 1 diverged, 1 failed",
        "of 360", "3.4 h", "1.2 GB", "The best 10", COMMAND, "What mattered most", "The same in all trials: mixup: 0.2",
        "the loss is not finite", "its processes died 4 times", "Judge it on the test split", "16,595 train",
    ):  # fmt: skip
        assert part in text, part
    assert figures_of(page) == FIGURES
    assert "nan" not in text.lower().split()


def test_the_table_has_ten_trials_and_the_settings_that_vary(page: str) -> None:
    table = re.search(r"<h2>The best 10</h2>.*?</table>", page, flags=re.DOTALL)
    assert table is not None
    assert table[0].count("<tr") == 11
    headings = re.findall(r"<th(?: [^>]*)?>(.*?)</th>", table[0])
    assert headings[:5] == ["trial", "MAE", "worst group", "accuracy", "encoder"]
    assert "mixup" not in headings


def test_the_page_refers_to_nothing_outside_itself(page: str) -> None:
    assert [link for link in Page(page).references if not link.startswith("#")] == []
    assert re.findall(r"https?:|//[a-z]+\.|url\((?!#)|@import", page.replace("s3://bucket", "")) == []
    assert "script" not in Page(page).tags


def test_texts_are_escaped_everywhere() -> None:
    evil = '<script>alert("$x$")</script>'
    rows, curves = made_up()
    for row in rows:
        row |= {"reason": evil, "settings": row["settings"] | {evil: f"{evil}{row['number'] % 2}", "same": evil}}
    about = ABOUT | {"space": evil, "catalog": evil, "searcher": evil, "baseline": {"name": evil, "value": 9.0}}
    page = report.render(about, rows, curves, evil)
    assert "<script" not in page
    assert evil in Page(page).text


def test_ids_of_figures_do_not_clash_and_colours_are_those_of_the_page(page: str) -> None:
    ids = Page(page).ids
    assert len(ids) == len(set(ids))
    figures = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(figures) == len(FIGURES)
    assert {colour for figure in figures for colour in re.findall(r": #[0-9a-f]{6}", figure)} == set()


@pytest.mark.parametrize(("num_trials", "figures"), [(1, FIGURES[:2]), (2, ["best", "curves", "parallel", "speed"])])
def test_few_trials_do_not_break_it(num_trials: int, figures: list[str]) -> None:
    page = page_of(num_trials, {"num_trials": num_trials})
    assert [name for name in figures_of(page) if name != "size"] == figures
    assert "What went wrong" not in page
    assert ("The only one" in page) == (num_trials == 1)


def test_a_sweep_of_which_no_trial_has_a_value_says_so() -> None:
    rows, _ = made_up(3)
    nothing = {"value": None, "best_epoch": None, "epochs": 0, "status": "failed", "reason": "bad luck"}
    failed = [row | nothing for row in rows]
    for leaderboard in (failed, []):
        page = report.render(ABOUT | {"num_trials": len(leaderboard)}, leaderboard, {}, "")
        assert "No trial has a validation metric." in Page(page).text
        assert figures_of(page) == []
        assert "<pre>" not in page
        assert page.count("bad luck") == len(leaderboard)


def test_a_single_setting_that_varies_is_drawn_without_its_importance() -> None:
    rows, curves = made_up()
    for row in rows:
        row["settings"] = {"lr": row["settings"]["lr"]}
    page = report.render(ABOUT, rows, curves, COMMAND)
    assert "importance" not in figures_of(page)
    assert "parallel" in figures_of(page)


def test_two_hundred_trials_are_a_page_of_a_bearable_size() -> None:
    assert len(page_of(200, {"num_trials": 200})) < 2_000_000


def test_what_is_not_known_is_left_out() -> None:
    rows, curves = made_up()
    unknown = dict.fromkeys(("images_per_s", "num_parameters", "worst_group_mae", "accuracy"))
    page = report.render(ABOUT | {"baseline": None}, [row | unknown for row in rows], curves, COMMAND)
    assert figures_of(page) == ["best", "curves", "importance", "parallel"]
    assert "images/s</th>" not in page
    assert "always the median age" not in page


def test_of_which_parts_the_worst_is_meant_is_told() -> None:
    about = {"objective": "worst_group_mae", "worst_of": "gender,ethnicity+decade"}
    words = "mean absolute error of the worst part by gender or by ethnicity+decade"
    assert words in page_of(about=about)
    assert "mean absolute error of the worst group" in page_of(about=about | {"worst_of": ""})


def test_more_accuracy_is_better() -> None:
    rows, curves = made_up()
    rows = [row | {"value": row["accuracy"]} for row in rows]
    baseline = {"name": "always the largest group", "value": 0.9}
    text = Page(report.render(ABOUT | {"objective": "accuracy", "baseline": baseline}, rows, curves, "")).text
    assert f"{100 * rows[0]['value']:.1f} %" in text
    assert "nothing was found that is better" in text


def test_a_baseline_that_no_trial_beats_is_told(page: str) -> None:
    assert "nothing was found" not in page
    assert "nothing was found" in page_of(about={"baseline": {"name": "always the median age", "value": 1.0}})


def test_a_sweep_that_is_not_over_says_so(page: str) -> None:
    rows, curves = made_up()
    rows[3]["status"] = "running"
    assert "The sweep is not over: 29 of 30 trials are." in Page(report.render(ABOUT, rows, curves, "")).text
    assert "not over" not in page


def test_settings_of_every_kind_are_written_as_people_read_them() -> None:
    text = Page(page_of(widths=[32, 64], weights="", num_features=None, is_frozen=True)).text
    assert "widths: 32, 64; weights: default; num_features: default; is_frozen: yes" in text


@needs_browser
def test_a_browser_shows_headings_numbers_and_figures(tmp_path: Path) -> None:
    page = Path(report.write_report(str(tmp_path), ABOUT, *made_up(), COMMAND))
    assert page.name == "sweep_report.html"
    shown = Page(browse(page))
    for part in ("Which settings train the best model?", "How the search went", "Which settings mattered"):
        assert part in shown.text
    assert shown.tags.count("svg") == len(FIGURES)


@needs_browser
@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_is_no_wider_than_its_window(tmp_path: Path, width: int) -> None:
    page = report.write_report(str(tmp_path), ABOUT | {"space": "x" * 200}, *made_up(), COMMAND + "x" * 300)
    assert width_in(width, Path(page)) == width
