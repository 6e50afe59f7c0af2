"""The report's page, numbers and tables, from made-up outcomes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_page import Page, browse, needs_browser, width_in

from agescale.ages.baselines import Constant
from agescale.ages.parts import decades
from agescale.evaluation import age_gate, doubt, metrics, report
from agescale.evaluation.gallery import Gallery, ShownFace
from agescale.evaluation.metrics import Outcomes
from agescale.evaluation.records import Counts
from agescale.evaluation.report import About, Judgement
from agescale.evaluation.split_result import SplitResult

NAMES = ["child", "teenager", "adult", "senior"]
ABOUT = About(
    catalog="/data/catalog", source="s3://bucket/faces", layout="csv", predictions="/data/predictions", against=None,
    checkpoint="runs/train/best", model="0123abcd", age_groups="life-stages", model_age_groups="life-stages",
    gender_from=None, include_findings=False, asked_splits=("test", "val"), report_split="test", judged_on="2026-01-31",
    unscored_splits=[],
)  # fmt: skip
CARD = {
    "architecture": "cnn", "task": "distribution", "num_parameters": 1_234_567, "image_size": 96,
    "blocks": [["conv1", [32, 48, 48], 896]], "licences": {"data": "CC-BY"},
    "history": [{"epoch": 0, "phase": "head", "train_loss": 4.0}, {"epoch": 1, "phase": "all", "train_loss": 3.0}],
}  # fmt: skip


def made_up(num_rows: int = 300, has_ages: bool = True) -> Outcomes:
    rng = np.random.default_rng(0)
    true_N = rng.integers(1, 80, num_rows).astype(float)
    said_N = (true_N + rng.normal(1, 6, num_rows)).clip(0)
    groups_2N = [np.digitize(ages, [13, 20, 60]) for ages in (true_N, said_N)]
    ages_2N = (true_N, said_N) if has_ages else (np.full(num_rows, np.nan),) * 2
    return Outcomes(*ages_2N, *groups_2N, np.arange(num_rows), 4)


def result(outcomes: Outcomes, name: str = "test") -> SplitResult:
    subgroup_N = np.arange(len(outcomes)) % 2
    return SplitResult(
        name=name,
        outcomes=outcomes,
        counts=Counts(len(outcomes), num_excluded=0, num_not_scored=0, num_without_label=0),
        summary=metrics.summary(outcomes, Constant(33.0, 2), NAMES),
        num_subjects=None,
        auxiliary={},
        confusion=metrics.confusion_matrix(outcomes.true_group_N, outcomes.predicted_group_N, 4),
        by_group=metrics.by_group(outcomes, NAMES),
        breakdowns={
            "decade": metrics.breakdown(outcomes, *decades(outcomes.true_age_N)),
            "gender": metrics.breakdown(outcomes, subgroup_N, ["female", "male"]),
            "ethnicity": [],
        },
        worst={
            "decade": metrics.worst_subgroup(outcomes, *decades(outcomes.true_age_N)),
            "gender": metrics.worst_subgroup(outcomes, subgroup_N, ["female", "male"]),
            "ethnicity": None,
        },
        gate=age_gate.age_gate(outcomes.true_age_N, outcomes.predicted_age_N),
        interval_coverage=None,
        covered={},
        reliability={
            "intervals": doubt.of_intervals(np.linspace(0.01, 0.99, len(outcomes))),
            "groups": doubt.of_probabilities(np.linspace(0.3, 1, len(outcomes)), outcomes.error_N < 5),
        },
        handed_over=doubt.handed_over(outcomes, np.abs(outcomes.error_N)),
        leaks=[],
        missed={},
        differences=None,
        limits=[],
        comparisons={},
        not_scored={},
        findings={},
    )


def compared_with(others: Outcomes, outcomes: Outcomes | None = None) -> SplitResult:
    outcomes = outcomes or made_up()
    everybody_N = np.zeros(len(outcomes), int)
    compared = metrics.compared(outcomes, others, everybody_N, ["all"])
    return replace(result(outcomes), comparisons={"all": compared, "gender": compared})


def face(**known: object) -> ShownFace:
    nothing = dict.fromkeys(("picture", "true_age", "age", "age_std", "true_group", "group", "group_probability"))
    return ShownFace(**({"name": "a.jpg"} | nothing | known))


@cache
def usual() -> SplitResult:
    """Only to be read."""
    return result(made_up())


def judgement(results: list[SplitResult] | None = None, **more: Any) -> Judgement:
    facts = {"about": ABOUT, "card": CARD, "group_names": NAMES, "results": results or [usual()]}
    return Judgement(**(facts | more))


def page_of(results: list[SplitResult] | None = None, worst: list[ShownFace] | None = None, **more: Any) -> str:
    return report.render(judgement(results, galleries=[Gallery("worst", "test", worst or [])], **more))


def test_the_page_says_everything_that_was_asked_for() -> None:
    text = Page(page_of()).text
    for part in (
        "Mean absolute error", "CS@5", "Accuracy", "Macro F1", "always 33 years", "always “adult”", "precision",
        "recall", "By gender", "By decade of age", "At an age gate of 18", "runs/train/best", "conv1", "32×48×48",
        "1,234,567", "data: CC-BY", "What was left out", "Limits, and what this must not be used for",
    ):  # fmt: skip
        assert part in text, part
    assert "By ethnicity" not in text


def test_the_page_refers_to_nothing_outside_itself() -> None:
    page = page_of(worst=[face(picture="data:image/jpeg;base64,AAAA", age=3.0)])
    outside = [link for link in Page(page).references if not link.startswith(("#", "data:"))]
    assert outside == []
    assert re.findall(r"https?:|//[a-z]+\.|url\((?!#)|@import", page.replace("s3://bucket/faces", "")) == []
    assert "script" not in Page(page).tags


def test_names_from_the_data_are_escaped_everywhere() -> None:
    evil = '<script>alert("$x$")</script>'
    outcomes = made_up()
    parts = metrics.breakdown(outcomes, np.zeros(len(outcomes), dtype=int), [evil])
    bad = replace(
        result(outcomes), breakdowns={"gender": parts}, by_group=metrics.by_group(outcomes, [evil, *NAMES[1:]])
    )
    page = page_of(
        [bad],
        worst=[face(name=evil, group=evil, true_group=evil)],
        about=replace(ABOUT, source=evil),
        card=CARD | {"architecture": evil},
        group_names=[evil, *NAMES[1:]],
        group_counts={"train": [1, 2, 3, 4]},
    )
    assert "<script" not in page
    assert evil in Page(page).text


def test_ids_of_figures_do_not_clash() -> None:
    ids = Page(page_of()).ids
    assert len(ids) == len(set(ids))
    assert "scatter-figure_1" in ids


def test_figures_take_their_colours_from_the_page() -> None:
    page = page_of()
    figures = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(figures) == 10
    assert all("var(--ink)" in figure or "var(--muted)" in figure for figure in figures)
    assert {colour for figure in figures for colour in re.findall(r": #[0-9a-f]{6}", figure)} == set()


def test_without_ages_the_page_speaks_of_groups() -> None:
    page = page_of([replace(result(made_up(has_ages=False)), gate=[])])
    text = Page(page).text
    assert "there are no exact ages to compare" in text
    assert "How wrong" in text
    assert "predicted minus true age, years" not in text
    assert "nan" not in text.lower().split()


@pytest.mark.parametrize(
    ("has_ages", "absent"), [(True, "no such text"), (False, "MAE, years|Mean absolute error|CS@5|bias")]
)
def test_tiles_columns_and_splits_without_content_are_left_out(has_ages: bool, absent: str) -> None:
    judged, empty = result(made_up(has_ages=has_ages)), result(made_up(0), "val")
    judged = judged if has_ages else replace(judged, gate=[], breakdowns={"gender": judged.breakdowns["gender"]})
    text = Page(page_of([judged, empty], worst=[face()])).text
    assert not re.findall(absent, text.replace("no exact ages", ""))
    splits = text[text.index("The splits side by side") : text.index("For whom")]
    assert "test 300" in splits
    assert "val 0" not in splits
    assert "–" not in splits
    assert ("predicted minus true age, years" in text) == has_ages


def test_without_groups_nothing_is_said_of_them() -> None:
    outcomes = made_up()
    none = np.full(len(outcomes), -1)
    judged = result(replace(outcomes, true_group_N=none, predicted_group_N=none))
    text = Page(page_of([judged])).text
    assert "Mean absolute error" in text
    assert not re.findall("Accuracy|accuracy|Macro F1|macro F1|largest group", text)


def test_groups_by_split_are_shown_and_few_validation_faces_are_a_warning() -> None:
    counts = {"train": [900, 700, 1200, 300], "val": [20, 12, 120, 0], "test": [5, 6, 7, 8]}
    page = Page(page_of(group_counts=counts)).text
    assert "group train val test child 900 20 5 teenager 700 12 6" in page
    assert "Fewer than 20 validation faces: teenager 12, senior 0." in page
    assert "Fewer than 20" not in Page(page_of(group_counts={"train": [90] * 4, "val": [20] * 4})).text
    assert "Fewer than 20" not in Page(page_of(group_counts={"test": [90] * 4})).text


def test_an_empty_card_and_an_unreadable_face_do_not_stop_the_report() -> None:
    text = Page(page_of(card={}, worst=[face(true_age=0.0, group="adult")])).text
    assert "cannot be read any more" in text
    assert "label: 0" in text


def test_verdicts_name_who_fares_worst_and_whether_that_may_be_chance() -> None:
    outcomes = made_up()
    worse_N = np.where(np.arange(len(outcomes)) % 2, outcomes.predicted_age_N + 12, outcomes.predicted_age_N)
    lines = " ".join(report.verdicts(result(replace(outcomes, predicted_age_N=worse_N))))
    said = r"Worst for male \(by gender\): 1\d\.\d years off, 1\d\.\d too old on average; female \d\.\d\."
    assert re.search(said + r" The difference is \d\.\d years \(\d\.\d to \d+\.\d\), hardly chance\.", lines)
    alike = " ".join(report.verdicts(result(outcomes)))
    assert re.search(r"\(by gender\).*The difference is .* \(−\d\.\d to \d\.\d\), which may be chance", alike)


def of_decades(errors: dict[int, tuple[int, float]], spread: float = 3.0) -> Outcomes:
    """So many faces of each decade of age, so many years too old on average: by age, (count, bias)."""
    rng, ages, said = np.random.default_rng(0), [], []
    for age, (count, bias) in errors.items():
        ages += [float(age)] * count
        said += list(age + bias + rng.normal(0, spread, count))
    none = np.full(len(ages), -1)
    return Outcomes(np.array(ages), np.array(said), none, none, np.arange(len(ages)), 4)


def test_the_first_lines_name_the_worst_decade_with_its_count_however_few_its_faces_are() -> None:
    outcomes = of_decades({15: (7, 13.0), 25: (114, 0.0), 65: (11, -16.0), 85: (3, 9.0)})
    first, second, third, *_ = report.verdicts(result(outcomes))
    assert re.match(r"The predicted age is \d\.\d years off on average", first)
    assert second.startswith("Worst for people of 60-69: 17.3 years too young; the others 3.1.")
    assert "These are only 11 faces. The difference is 14.3 years (12.4 to 16.1), hardly chance." in second
    assert second.endswith("Too few faces to say anything: 80-89 (3).")
    assert re.search(
        r"too young on average \(.*\), but by decade of age: 10-19 \+1\d\.\d, 60-69 −1\d\.\d years\.$", third
    )
    assert "No bias" not in " ".join((first, second, third))


def test_a_worst_decade_that_differs_by_chance_is_said_to() -> None:
    lines = " ".join(report.verdicts(result(of_decades(dict.fromkeys((15, 25, 35, 45), (40, 0.0))))))
    assert re.search(r"Worst for people of \d\d-\d\d: .* which may be chance\.", lines)
    assert re.search(r"Overall its ages are .* on average \(−\d\.\d to \+\d\.\d\), which may be chance\.", lines)


def test_a_share_of_near_ages_below_that_of_one_constant_is_remarked() -> None:
    far = of_decades({25: (60, 7.0), 65: (20, 7.0)}, spread=0.1)
    judged = result(far)
    assert judged.summary.cs_at_5 == 0
    constant = replace(judged.summary.baselines.median_age, age=25.0, cs_at_5=0.75)
    baselines = replace(judged.summary.baselines, median_age=constant)
    judged = replace(judged, summary=replace(judged.summary, baselines=baselines))
    assert any(line.startswith("0.0 % of its ages are at most 5") for line in (
        text.replace("\N{NO-BREAK SPACE}", " ") for text in report.verdicts(judged)))  # fmt: skip


def test_a_model_that_beats_nothing_is_told_so() -> None:
    outcomes = made_up()
    shuffled_N = np.random.default_rng(1).permutation(outcomes.predicted_age_N)
    assert "not clearly better" in " ".join(report.verdicts(result(replace(outcomes, predicted_age_N=shuffled_N))))


def test_a_comparison_says_who_is_better_and_how_sure_that_is() -> None:
    one = made_up()
    worse = compared_with(replace(one, predicted_age_N=one.predicted_age_N + 20))
    text = Page(page_of([worse])).text
    assert "Against another model" in text
    assert "by gender" in text
    difference = worse.comparisons["all"][0].mae_difference
    said = f"On the 300 faces that both have scored its ages are {-difference:.2f} years closer to the truth"
    (line,) = (line for line in report.verdicts(worse) if line.startswith(said))
    assert re.search(r"than those of the other model \(difference −\d+\.\d\d to −\d+\.\d\d\)\.$", line)
    noise_N = np.random.default_rng(1).normal(0, 0.5, len(one))
    alike = compared_with(replace(one, predicted_age_N=one.predicted_age_N + noise_N))
    assert any("to +0." in line and "which may be chance" in line for line in report.verdicts(alike))
    same = compared_with(one)
    assert any("0.00 years" in line and "may be chance" in line for line in report.verdicts(same))
    groups = made_up(has_ages=False)
    wrong = compared_with(replace(groups, predicted_group_N=(groups.true_group_N + 1) % 4), groups)
    assert any("more often right than those of the other" in line for line in report.verdicts(wrong))
    assert "Against another model" not in Page(page_of()).text


@pytest.mark.parametrize(("split", "warning"), [("train", "about the train split"), ("val", "may have been chosen")])
def test_a_split_that_flatters_is_warned_about(split: str, warning: str) -> None:
    page = page_of([result(made_up(), split)], about=replace(ABOUT, asked_splits=(split,)), card={})
    assert warning in Page(page).text


def test_whom_the_face_detector_misses_is_told_by_part() -> None:
    is_missed_N, gender_N = np.arange(40) % 10 == 0, np.arange(40) // 20
    missed = {
        "all": metrics.missed(is_missed_N, np.zeros(40, int), ["all"]),
        "gender": metrics.missed(is_missed_N & (gender_N == 0), gender_N, ["female", "male"]),
    }
    page = Page(page_of([replace(result(made_up()), missed=missed)]))
    assert "In 10.0 % (4.0 to 23.1 %) of the 40 photos no face was found to judge." in page.text
    assert "Whom the face detector misses" in page.text
    rows = report._tables([replace(result(made_up()), missed=missed)], NAMES)["missed.csv"].splitlines()
    assert rows[1].startswith("test,all,all,40,4,0.1,")
    assert rows[2].startswith("test,gender,female,20,2,0.1,")
    assert rows[3].startswith("test,gender,male,20,0,0.0,")
    assert "Whom the face detector misses" not in Page(page_of()).text


def test_what_cannot_be_computed_is_null_in_the_numbers(tmp_path: Path) -> None:
    report.write_report(str(tmp_path), judgement([result(made_up(has_ages=False))]))
    numbers = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert numbers["test"]["mae"] is None
    assert numbers["test"]["intervals"]["cs_at_5"] is None
    assert numbers["test"]["accuracy"] > 0.5


def test_all_group_scores_of_the_files_follow_from_the_confusion_matrix(tmp_path: Path) -> None:
    report.write_report(str(tmp_path), judgement())
    lines = [line.split(",") for line in (tmp_path / "confusion.csv").read_text().splitlines()[1:]]
    counts_GH = np.array([[int(cell) for cell in line[2:]] for line in lines])
    test = json.loads((tmp_path / "metrics.json").read_text())["test"]
    recomputed = metrics.group_scores(counts_GH)
    for name in ("accuracy", "balanced_accuracy", "macro_f1"):
        assert test[name] == pytest.approx(float(recomputed[name]), abs=1e-6)


@needs_browser
def test_a_browser_shows_headings_numbers_and_figures(tmp_path: Path) -> None:
    judged = result(made_up())
    page = Path(report.write_report(str(tmp_path), judgement([judged])))
    shown = Page(browse(page))
    for part in ("How wrong are the ages, and for whom?", "For whom", "Groups", f"{judged.summary.mae:.2f}"):
        assert part in shown.text
    assert shown.tags.count("svg") == 10
    assert [link for link in shown.references if not link.startswith(("#", "data:"))] == []


@needs_browser
@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_is_no_wider_than_its_window(tmp_path: Path, width: int) -> None:
    name = "a folder/" * 3 + "0" * 80 + ".jpg"
    shown = face(name=name, age=30.0, age_std=5.0, true_age=50.0, group="teenager", true_group="adult")
    counts = {"train": [900, 10, 1200, 3], "val": [90, 1, 120, 0]}
    judged = judgement(galleries=[Gallery("worst", "train", [shown] * 12)], group_counts=counts)
    page = report.write_report(str(tmp_path), judged)
    assert width_in(width, Path(page)) == width
