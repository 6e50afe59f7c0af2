"""Evaluation on made-up tables: who is judged, and what the job leaves behind."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import factories
import numpy as np
import pytest

from agescale.ages import cdf
from agescale.ages.groups import AgeGroups
from agescale.commands.evaluate import main as job
from agescale.config import EvaluateConfig
from agescale.evaluation import error_table
from agescale.evaluation.driver import evaluate
from agescale.faces import images
from agescale.models import checkpoints
from agescale.models.spec import ModelSpec
from agescale.store import objects
from agescale.synthetic import portraits
from agescale.tables.catalogs import Catalog

JOB = Path(__file__).parents[2] / "jobs" / "evaluate.py"
GROUPS = "child=0-12,teenager=13-19,adult=20-59,senior=60-"
CARD = {
    "architecture": "cnn",
    "task": "distribution",
    "image_size": 96,
    "num_parameters": 1_234_567,
    "blocks": [["conv1", [32, 48, 48], 896], ["conv2", [64, 24, 24], 18_496]],
    "history": [{"epoch": e, "phase": "head" if e < 2 else "all", "train_loss": 4 - 0.3 * e, "val_loss": 4 - 0.25 * e,
                 "val_mae": 14 - 1.2 * e} for e in range(7)],
    "weights": "random", "licences": {"data": "drawn, free"}, "seed": 0, "versions": {"torch": "2.15"},
}  # fmt: skip


def image_row(index: int, split: str | None, age: float | None, **facts: Any) -> dict[str, Any]:
    high = None if age is None else age + 1
    return {"uri": f"/pictures/{index:05d}.jpg", "version": "1", "deleted": False, "age_low": age, "age_high": high,
            "split": split} | facts  # fmt: skip


def prediction(row: dict[str, Any], age: float | None, status: str = "ok", **facts: Any) -> dict[str, Any]:
    group = None if age is None else AgeGroups.parse(GROUPS).name_of(age)
    return {"uri": row["uri"], "version": row["version"], "face": 0, "status": status, "age": age, "age_std": 5.0,
            "group": group, "group_probability": 0.8, "model": "beef"} | facts  # fmt: skip


def write_catalog(folder: Path, rows: list[dict], findings: list[tuple[str, str]] = (), **settings: Any) -> str:
    settings = {"source": "/pictures", "layout": "csv", "age_groups": GROUPS, "pack": 64} | settings
    found = [{"uri": uri, "version": "1", "kind": kind} for uri, kind in findings]
    return factories.write_catalog(str(folder), {factories.PART: rows}, found, settings)


def write_predictions(
    folder: Path, rows: list[dict], groups: str | None = GROUPS, number: int = 0, **facts: Any
) -> str:
    return factories.write_predictions(
        str(folder), rows, groups, number, **({"checkpoint": "runs/x/best", "model_card": CARD} | facts)
    )


def judge(
    tmp_path: Path, rows: list[dict], predictions: list[dict], findings=(), groups=GROUPS, card=CARD, **config: Any
) -> dict:
    """The numbers of metrics.json for these tables."""
    evaluate(EvaluateConfig(
        catalog=write_catalog(tmp_path / "catalog", rows, findings),
        predictions=write_predictions(tmp_path / "predictions", predictions, groups, model_card=card),
        out=str(tmp_path / "report"), **config,
    ))  # fmt: skip
    return json.loads((tmp_path / "report" / "metrics.json").read_text(), parse_constant=pytest.fail)


def made_up_tables(num_rows: int = 900, with_faces: bool = False) -> tuple[list[dict], list[dict]]:
    """A catalog of three splits with every label, some broken and missing, and predictions with plausible errors."""
    rng = np.random.default_rng(0)
    rows, predictions = [], []
    for index in range(num_rows):
        age = float(int(min(abs(rng.normal(30, 22)), 95)))
        gender, ethnicity = rng.choice(portraits.GENDERS), rng.choice(portraits.ETHNICITIES)
        row = image_row(index, ("train", "train", "val", "test", "test", "test")[index % 6], age, gender=str(gender),
                        ethnicity=str(ethnicity) if index % 10 else None)  # fmt: skip
        if with_faces:
            picture = portraits.draw_face(rng, age, str(gender), str(ethnicity), 96)
            row["image"] = images.encode_jpeg(np.asarray(picture))
        rows.append(row)
        said = max(0.0, age + rng.normal(0, 3 + 0.07 * age) - 0.12 * (age - 35))
        predictions.append(prediction(row, said, age_std=3 + 0.1 * said, group_probability=rng.uniform(0.4, 1)))
    return rows, predictions


def of(rows: list[dict], age: float | None = 31.0) -> list[dict]:
    return [prediction(row, age) for row in rows]


ROWS = [image_row(i, "test", 30.0) for i in range(3)]
UNLABELLED = [image_row(i, "test", None) for i in range(3)]


def test_the_job_writes_page_numbers_and_tables(tmp_path: Path) -> None:
    rows, predictions = made_up_tables()
    numbers = judge(tmp_path, rows, predictions)
    assert set(numbers) == {"about", "test", "val"}
    test = numbers["test"]
    assert test["num_rows"] == 450
    true, said = (np.array([r[key] for r in table]) for table, key in ((rows, "age_low"), (predictions, "age")))
    is_test = np.array([row["split"] == "test" for row in rows])
    assert test["mae"] == pytest.approx(np.abs(said - true)[is_test].mean(), abs=1e-4)
    assert test["intervals"]["mae"][0] < test["mae"] < test["intervals"]["mae"][1]
    train_ages = true[[row["split"] == "train" for row in rows]]
    assert test["baselines"]["median_age"]["age"] == np.median(train_ages)
    assert test["baselines"]["median_age"]["labels_of"] == "train"
    assert test["baselines"]["median_age"]["mae"] > test["mae"]
    with (tmp_path / "report" / "by_decade.csv").open() as file:
        decades = list(csv.DictReader(file))
    assert sum(int(row["num_rows"]) for row in decades if row["split"] == "test") == 450
    names = {path.name for path in (tmp_path / "report").iterdir()}
    parts = {"by_group", "by_decade", "by_gender", "by_ethnicity", "by_gender_ethnicity", "gaps"}
    tables = parts | {"age_gate", "confusion", "errors", "reliability", "handed_over"}
    assert names == {"report.html", "metrics.json", "model_card.md"} | {f"{table}.csv" for table in tables}


def test_without_pictures_no_pixel_and_no_name_of_a_photo_is_in_any_file(tmp_path: Path) -> None:
    rows, predictions = made_up_tables(60, with_faces=True)
    judge(tmp_path, rows, predictions, pictures=False)
    files = {path.name: path.read_text() for path in (tmp_path / "report").iterdir()}
    assert not any("data:image" in text or ".jpg" in text for text in files.values())
    named = {row["uri"] for row in csv.DictReader(io.StringIO(files["errors.csv"].lstrip("\ufeff")))}
    hidden = {Catalog.open(str(tmp_path / "catalog")).hidden_name(row["uri"]) for row in rows}
    assert named
    assert named <= hidden
    assert next(iter(named)) in files["errors.csv"]
    assert any(name in files["report.html"] for name in named)


def test_tables_and_report_may_be_told_as_file_uris(tmp_path: Path) -> None:
    catalog = write_catalog(tmp_path / "catalog", ROWS)
    predictions = write_predictions(tmp_path / "ages", of(ROWS))
    uris = {"catalog": f"file://{catalog}", "predictions": f"file://{predictions}", "against": f"file://{predictions}"}
    page = evaluate(EvaluateConfig(out=f"file://{tmp_path}/report", **uris)).page
    assert page == str(tmp_path / "report" / "report.html")
    about = json.loads((tmp_path / "report" / "metrics.json").read_text())["about"]
    assert (about["catalog"], about["predictions"], about["against"]) == (catalog, predictions, predictions)


def test_a_predicted_gender_is_judged_by_its_label_where_there_is_one(tmp_path: Path) -> None:
    rows = [image_row(i, "test", 30.0, gender="male" if i < 6 else None) for i in range(8)]
    said = [prediction(row, 31.0, gender="male" if i < 3 else "female") for i, row in enumerate(rows)]
    head = judge(tmp_path, rows, said)["test"]["auxiliary"]["gender"]
    assert (head["num_rows"], head["accuracy"]) == (6, 0.5)
    assert head["interval"][0] < 0.5 < head["interval"][1]
    assert "The predicted gender is the labelled one for 50.0" in (tmp_path / "report" / "report.html").read_text()


def test_without_such_a_head_nothing_is_said_of_it(tmp_path: Path) -> None:
    assert judge(tmp_path, ROWS, of(ROWS))["test"]["auxiliary"] == {}


def test_a_gender_that_only_another_model_tells_gives_a_breakdown(tmp_path: Path) -> None:
    others = write_predictions(
        tmp_path / "others", [prediction(r, None, gender="female" if i else "male") for i, r in enumerate(ROWS)]
    )
    judge(tmp_path, ROWS, of(ROWS), gender_from=others)
    table = list(csv.DictReader((tmp_path / "report" / "by_gender.csv").read_text().splitlines()))
    assert [(row["name"], row["num_rows"]) for row in table] == [("female", "2"), ("male", "1")]


def test_counts_of_rows_add_up_and_every_missing_row_has_a_reason(tmp_path: Path) -> None:
    rows = [image_row(i, "test", 20.0 + i) for i in range(8)] + [
        image_row(8, "test", None),
        image_row(9, "train", 40.0),
    ]
    predictions = [prediction(row, 25.0) for row in rows[:9]]
    predictions[1] = prediction(rows[1], None, status="unreadable")
    predictions[2]["version"] = "an older one"  # so the current picture is not scored
    found = judge(tmp_path, rows, predictions, findings=[(rows[0]["uri"], "duplicate"), (rows[5]["uri"], "leaking")])
    test = found["test"]
    assert (test["num_catalog_rows"], test["num_excluded"], test["num_not_scored"]) == (9, 1, 2)
    assert (test["num_without_label"], test["num_rows"]) == (1, 5)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "not scored: no prediction 1, unreadable 1." in page
    assert "2 of 9 rows have no prediction" in page
    left_out = (tmp_path / "report" / "left_out.csv").read_text()
    assert "finding,leaking,1" in left_out


def test_rows_with_findings_count_when_asked_for(tmp_path: Path) -> None:
    rows = [image_row(i, "test", 30.0) for i in range(4)]
    findings = [(rows[0]["uri"], "conflicting"), (rows[0]["uri"], "duplicate")]
    predictions = [prediction(row, 33.0) for row in rows]
    assert judge(tmp_path / "without", rows, predictions, findings)["test"]["num_rows"] == 3
    assert judge(tmp_path / "with", rows, predictions, findings, include_findings=True)["test"]["num_rows"] == 4


def test_scores_as_given_and_leak_free_stand_side_by_side(tmp_path: Path) -> None:
    splits, errors = ("test",) * 10 + ("train",) * 3, (1, 20, 1, 10, 10, 1, 1, 1, 1, 1, 0, 0, 0)
    rows = [image_row(i, split, 30.0, subject="twice" if i in (4, 11) else None) for i, split in enumerate(splits)]
    rows[3]["subject"] = "twice"  # another photo of a person who is in train, too
    uris = [row["uri"] for row in rows]
    findings = [(uris[1], "conflicting"), (uris[2], "near_duplicate"), (uris[0], "no_face")]
    catalog = write_catalog(tmp_path / "catalog", rows, findings)
    leaks = [("leaking", uris[11], uris[4]), ("near_leaking", uris[12], uris[9])]
    found = Catalog.open(catalog).findings.to_pylist()
    found += [{"uri": one, "version": "1", "kind": kind, "related_uri": other} for kind, one, other in leaks]
    factories.write_catalog(catalog, {factories.PART: rows}, found, Catalog.open(catalog).settings)
    said = [prediction(row, 30.0 + error) for row, error in zip(rows, errors, strict=True)]
    ages = write_predictions(tmp_path / "ages", said)
    evaluate(EvaluateConfig(catalog, ages, out=str(tmp_path / "report")))
    test = json.loads((tmp_path / "report" / "metrics.json").read_text())["test"]
    scores = {row["name"]: (row["num_rows"], row["mae"]) for row in test["leaks"]}
    assert scores == {"as given": (10, 4.7), "as judged on this page": (9, 3.0), "leak-free": (5, 1.0)}
    page = (tmp_path / "report" / "report.html").read_text()
    assert "As given, and leak-free" in page
    assert "Of the 3 training faces with an exact age 0 are of people under 18" in page
    assert "leaks" not in judge(tmp_path / "other", ROWS, of(ROWS))["test"]


def test_distributions_are_held_to_what_they_say(tmp_path: Path) -> None:
    rows = [image_row(i, "test", float(10 + i % 40)) for i in range(200)]
    rng = np.random.default_rng(0)
    said_N = np.array([row["age_low"] for row in rows]) + rng.normal(0, 5, 200)
    probs_NA = np.exp(-0.5 * ((np.arange(101) - said_N[:, None]) / 5) ** 2)
    cdf_NA = cdf.quantize(probs_NA).astype(np.int32)
    columns = cdf.prediction_columns(cdf_NA, AgeGroups.parse(GROUPS))
    said = [
        prediction(row, float(columns["age"][i]), age_cdf=cdf_NA[i], age_std=float(rng.uniform(4, 6)))
        for i, row in enumerate(rows)
    ]
    test = judge(tmp_path, rows, said)["test"]
    assert test["reliability_gaps"].keys() == {"intervals", "groups", "under 18"}
    assert test["reliability_gaps"]["intervals"] < 0.06
    assert test["handed_over"][2]["num_rows"] == 180
    table = list(csv.DictReader((tmp_path / "report" / "reliability.csv").read_text().splitlines()))
    true_N = np.array([row["age_low"] for row in rows])
    for row in (row for row in table if row["of"] == "intervals"):
        low_N, high_N = cdf.central_interval(cdf_NA, float(row["said"]))
        inside = int(((low_N - 1e-6 <= true_N) & (true_N <= high_N + 1e-6)).sum())
        assert round(float(row["observed"]) * 200) == inside
    under = [row for row in table if row["of"] == "under 18"]
    assert sum(int(row["num_rows"]) for row in under) == 200
    assert "How sure it is" in (tmp_path / "report" / "report.html").read_text()
    regression = judge(tmp_path / "r", rows, said, card=CARD | {"task": "regression"})["test"]
    assert not {"reliability_gaps", "handed_over"} & regression.keys()


def test_ranges_count_for_groups_only_and_only_within_one_group(tmp_path: Path) -> None:
    rows = [
        image_row(0, "test", 30.0),
        image_row(1, "test", 20.0, age_high=40.0),  # an adult
        image_row(2, "test", 10.0, age_high=30.0),  # anyone's guess
        image_row(3, "test", 12.5),  # a child of twelve and a half, although the interval ends at 13.5
        image_row(4, "test", 60.0, age_high=math.inf),
    ]
    test = judge(tmp_path, rows, [prediction(row, 31.0) for row in rows])["test"]
    assert (test["num_rows"], test["num_with_age"], test["num_with_group"]) == (4, 2, 4)
    assert test["accuracy"] == 0.5
    assert test["mae"] == pytest.approx((1 + 18.5) / 2)


def test_groups_without_bounds_are_judged_by_class_name(tmp_path: Path) -> None:
    rows = [image_row(i, "test", None, group=name) for i, name in enumerate(["YOUNG", "OLD", "OLD", "MIDDLE"])]
    predictions = [prediction(row, None, group="OLD") for row in rows]
    card = {"task": "classification"}
    test = judge(tmp_path, rows, predictions, groups="YOUNG,MIDDLE,OLD", card=card)["test"]
    assert test["accuracy"] == 0.5
    assert test["mae"] is None
    assert test["intervals"]["mae"] is None
    assert test["baselines"]["median_age"]["mae"] is None
    assert test["baselines"]["majority_group"] == {
        "group": "OLD", "accuracy": 0.5, "balanced_accuracy": pytest.approx(1 / 3, abs=1e-6),
        "macro_f1": pytest.approx(2 / 9, abs=1e-6), "labels_of": "judged rows",
    }  # fmt: skip


def test_predictions_without_groups_are_judged_by_age(tmp_path: Path) -> None:
    rows = [image_row(i, "test", 30.0 + i) for i in range(5)]
    test = judge(tmp_path, rows, [prediction(row, 30.0, group=None) for row in rows], groups=None)["test"]
    assert (test["mae"], test["accuracy"], test["macro_f1"]) == (2.0, None, None)


def test_pictures_of_one_person_are_resampled_together(tmp_path: Path) -> None:
    rows = [image_row(i, "test", 30.0, subject=f"person {i // 20}") for i in range(80)]
    test = judge(tmp_path, rows, [prediction(row, 31.0 + i // 20) for i, row in enumerate(rows)])["test"]
    assert test["num_subjects"] == 4
    assert test["intervals"]["mae"][1] - test["intervals"]["mae"][0] > 1.5
    assert "drawing 4 persons" in (tmp_path / "report" / "report.html").read_text()


def test_the_order_and_number_of_prediction_files_do_not_matter(tmp_path: Path) -> None:
    rows, predictions = made_up_tables(120)
    one = judge(tmp_path / "one", rows, predictions)
    catalog = write_catalog(tmp_path / "two" / "catalog", rows[::-1])
    for number, some in ((1, predictions[50:]), (0, predictions[:50])):
        write_predictions(tmp_path / "two" / "predictions", some, number=number)
    evaluate(EvaluateConfig(catalog, str(tmp_path / "two" / "predictions"), str(tmp_path / "two" / "report")))
    two = json.loads((tmp_path / "two" / "report" / "metrics.json").read_text())
    assert {"test": two["test"], "val": two["val"]} == {"test": one["test"], "val": one["val"]}


def test_the_only_split_is_judged_where_the_asked_ones_are_not_there(tmp_path: Path) -> None:
    rows = [image_row(i, "train", 30.0) for i in range(4)]
    found = judge(tmp_path, rows, [prediction(row, 33.0) for row in rows])
    assert found["train"]["num_rows"] == 4
    assert found["about"]["report_split"] == "train"
    assert "its only split, train" in " ".join((tmp_path / "report" / "report.html").read_text().split())


def test_rows_without_a_split_are_judged_too(tmp_path: Path) -> None:
    rows = [image_row(i, None, 30.0) for i in range(4)]
    assert judge(tmp_path, rows, [prediction(row, 33.0) for row in rows])["unsplit"]["mae"] == 3.0


def test_packed_faces_are_shown_and_missing_ones_have_a_placeholder(tmp_path: Path) -> None:
    rows, predictions = made_up_tables(60, with_faces=True)
    for row in rows[::2]:
        row["image"] = None
    judge(tmp_path, rows, predictions)
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= 10
    assert "cannot be read any more" in page


def test_a_regression_shows_neither_spread_nor_probability(tmp_path: Path) -> None:
    rows, predictions = made_up_tables(60)
    judge(tmp_path / "distribution", rows, predictions)
    page = (tmp_path / "distribution" / "report" / "report.html").read_text()
    assert "Most confidently wrong" in page
    assert re.search(r"</b> ± \d", page)
    judge(tmp_path / "regression", rows, predictions, card=CARD | {"task": "regression"})
    page = (tmp_path / "regression" / "report" / "report.html").read_text()
    assert "The worst" in page
    assert "Most confidently wrong" not in page
    assert "±" not in page
    captions = re.findall(r"<figcaption>\s*<div><b>.*?</figcaption>", page, flags=re.DOTALL)
    assert captions
    assert not any("%" in caption for caption in captions)


def errors_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "report" / "errors.csv").read_text("utf-8-sig"))))


def test_the_worst_of_every_split_are_shown_with_their_folders_and_all_errors_are_a_table(tmp_path: Path) -> None:
    rows = [
        image_row(index, split, 30.0, uri=f"/pictures/{split}/{'=1+1' if index == 5 else index}.jpg")
        for index, split in enumerate(["train"] * 4 + ["val"] * 2 + ["test"] * 14)
    ]
    said = [prediction(row, 30.0 if index % 4 == 3 else 31.0 + index) for index, row in enumerate(rows)]
    rows[0] |= {"age_low": 3.0, "age_high": 4.0}  # a wrong label, in the training split
    judge(tmp_path, rows, said)
    page = (tmp_path / "report" / "report.html").read_text()
    for title in ("The worst of the test split", "The worst of the train split", "The worst of the val split"):
        assert title in page
    assert re.search(r'"name">train/0\.jpg<', page)
    errors = errors_of(tmp_path)
    wrong = [row for row, told in zip(rows, said, strict=True) if row["age_low"] != told["age"]]
    assert len(errors) == len(wrong) == 15
    assert errors[0] == {
        "uri": "/pictures/train/0.jpg", "split": "train", "label": "3", "prediction": "31.0", "error": "28",
        "label_group": "child", "predicted_group": "adult", "group_probability": "0.8",
    }  # fmt: skip
    sizes = [abs(float(row["error"])) for row in errors]
    assert sizes == sorted(sizes, reverse=True)
    assert "errors.csv beside this page has all 15" in page


def test_of_very_many_errors_the_table_has_the_worst(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error_table, "MAX_ERRORS", 3)
    rows = [image_row(i, "test", 30.0) for i in range(9)]
    judge(tmp_path, rows, [prediction(row, 30.0 + i) for i, row in enumerate(rows)])
    assert [row["error"] for row in errors_of(tmp_path)] == ["8", "7", "6"]
    page = " ".join((tmp_path / "report" / "report.html").read_text().split())
    assert "errors.csv beside this page has the first 3 of 8 that are not quite right" in page


def test_names_that_a_spreadsheet_would_run_are_harmless_in_the_table_of_errors(tmp_path: Path) -> None:
    rows = [image_row(0, "test", 30.0, uri='=HYPERLINK("x").jpg'), image_row(1, "test", 30.0)]
    judge(tmp_path, rows, of(rows))
    assert sorted(row["uri"][:2] for row in errors_of(tmp_path)) == ["'=", "/p"]


def test_wrong_groups_are_mistakes_too_where_there_are_no_ages(tmp_path: Path) -> None:
    names = ["YOUNG", "OLD", "YOUNG", "OLD"]
    rows = [image_row(i, "train" if i < 2 else "test", None, group=name) for i, name in enumerate(names)]
    said = [prediction(row, None, group="OLD", group_probability=0.5 + i / 10) for i, row in enumerate(rows)]
    judge(tmp_path, rows, said, groups="YOUNG,OLD", card={"task": "classification"})
    errors = errors_of(tmp_path)
    assert [(row["uri"][-5:], row["label"], row["prediction"], row["error"]) for row in errors] == [
        ("2.jpg", "YOUNG", "OLD", ""),
        ("0.jpg", "YOUNG", "OLD", ""),
    ]
    page = (tmp_path / "report" / "report.html").read_text()
    assert "The worst of the train split" in page
    assert "In the wrong group, and the surest of it" in page


def test_a_training_split_that_was_not_scored_is_named(tmp_path: Path) -> None:
    rows = [image_row(0, "train", 30.0), *ROWS[1:]]
    judge(tmp_path, rows, of(rows[1:]))
    assert "Not scored, so not here: train." in (tmp_path / "report" / "report.html").read_text()


def test_the_checkpoint_describes_a_model_that_the_predictions_do_not(tmp_path: Path) -> None:
    spec = ModelSpec("torchvision/resnet18", "distribution", GROUPS, image_size=96)
    checkpoint = checkpoints.save(
        str(tmp_path / "best"), spec, {}, checkpoints.RunProgress(), {"data_license": "CC-BY"}
    )
    catalog = write_catalog(tmp_path / "catalog", ROWS)
    predictions = write_predictions(tmp_path / "predictions", of(ROWS), model_card=None, model=checkpoint.digest)
    config = EvaluateConfig(catalog, predictions, str(tmp_path / "out"), checkpoint=str(tmp_path / "best"))
    page = Path(evaluate(config).page).read_text()
    assert "torchvision/resnet18" in page
    assert "CC-BY" in page
    another = write_predictions(tmp_path / "another", of(ROWS), model="abad")
    with pytest.raises(ValueError, match="the predictions are of model abad"):
        evaluate(replace(config, predictions=another))


def test_an_image_that_was_scored_twice_counts_once_and_as_scored(tmp_path: Path) -> None:
    twice = [prediction(ROWS[0], None, status="unreachable"), *of(ROWS), *of(ROWS[:1])]
    test = judge(tmp_path, ROWS, twice)["test"]
    assert (test["num_rows"], test["num_not_scored"]) == (3, 0)


def test_two_models_are_compared_on_what_both_have_scored(tmp_path: Path) -> None:
    rows, predictions = made_up_tables()
    worse = [said | {"age": said["age"] + 6.0} for said in predictions[::2]]
    against = write_predictions(tmp_path / "against", worse, model="0ddd")
    found = judge(tmp_path, rows, predictions, against=against)
    assert found["about"]["against"] == against
    row, judged = found["test"]["against"], found["test"]
    in_test = {row["uri"] for row in rows if row["split"] == "test"}
    assert row["num_rows"] == row["num_with_age"] == sum(said["uri"] in in_test for said in worse) < judged["num_rows"]
    assert row["mae_difference"] == pytest.approx(row["mae"] - row["mae_against"], abs=1e-5)
    assert row["mae_difference_high"] < 0
    with (tmp_path / "report" / "against.csv").open() as file:
        table = list(csv.DictReader(file))
    assert {(line["split"], line["part"]) for line in table} == {
        (split, part) for split in ("test", "val") for part in ("all", "decade", "gender", "ethnicity")
    }
    genders = [line for line in table if (line["split"], line["part"]) == ("test", "gender")]
    assert sum(int(line["num_rows"]) for line in genders) == row["num_rows"]


def test_other_age_groups_are_not_compared_but_ages_are(tmp_path: Path) -> None:
    said = of(ROWS)
    names = {"groups": "minor,major", "model_card": {"task": "classification"}}  # from which no others derive
    other = write_predictions(tmp_path / "against", [row | {"group": "major"} for row in said], **names)
    row = judge(tmp_path, ROWS, said, against=other)["test"]["against"]
    assert (row["num_with_age"], row["num_with_group"], row["accuracy"]) == (3, 0, None)


def test_a_gap_above_its_limit_is_code_3_with_a_line_and_the_report_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, said = made_up_tables()
    said = [row | {"age": row["age"] + 8.0 * (at["gender"] == "female")} for at, row in zip(rows, said, strict=True)]
    config = EvaluateConfig(
        write_catalog(tmp_path / "catalog", rows), write_predictions(tmp_path / "ages", said), str(tmp_path / "report"),
        max_gap=("mae=1.0:gender,ethnicity", "cs_at_5=0.99:gender"), max_gate_gap=("adults=0.9:gender",),
    )  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        job(config)
    assert ended.value.code == 3
    told = capsys.readouterr()
    assert re.search(r"mae=1.0:gender,ethnicity: over it is mae \S+ years of female \(n \d+\) against", told.err)
    assert told.err.count("\n") == 1
    assert "--max-gap cs_at_5=0.99:gender: kept; the largest gap is cs_at_5" in told.out
    page = " ".join((tmp_path / "report" / "report.html").read_text().split())
    assert "Between whom" in page
    assert "mae=1.0:gender,ethnicity: over it is mae" in page
    test = json.loads((tmp_path / "report" / "metrics.json").read_text())["test"]
    assert [each["is_over"] for each in test["max_gaps"]] == [True, False, False]
    assert test["max_gaps"][0]["over"][0]["name"] == "female"
    gaps = list(csv.DictReader((tmp_path / "report" / "gaps.csv").read_text().splitlines()))
    assert {row["limit"] for row in gaps} == {"", *(limit[0] for limit in config.gap_limits)}
    evaluate(replace(config, out=str(tmp_path / "none"), max_gap=(), max_gate_gap=()))  # and nothing is asked


def test_a_limit_that_nobody_could_tell_to_be_exceeded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--max-gap mae=1:gender: no two parts by gender have 20 persons each"):
        judge(tmp_path, ROWS, of(ROWS), max_gap=("mae=1:gender",))
    assert not (tmp_path / "report").exists()


LIFE, HALVES = "child=0-12,teenager=13-19,adult=20-59,senior=60-", "young=0-29,middle=30-49,old=50-"


def told_in(rows: list[dict], groups: str) -> list[dict]:
    """What one and the same model says of each of ``rows``, scored for these groups: never quite the truth."""
    probs_NA = np.random.default_rng(0).dirichlet(np.ones(101), len(rows)) + 3 * np.eye(101)[[
        (3 * index) % 101 for index in range(len(rows))]]  # fmt: skip
    cdf_NA = cdf.quantize(probs_NA)
    columns = cdf.prediction_columns(cdf_NA, AgeGroups.parse(groups))
    keys = ("age", "age_std", "group", "group_probability")
    return [
        prediction(row, None, age_cdf=cdf_NA[index].astype(np.int32)) | {key: columns[key][index] for key in keys}
        for index, row in enumerate(rows)
    ]


AGED = [image_row(i, "test", float(i)) for i in range(60)]


@pytest.mark.parametrize("asked_by", ["option", "catalog"])
def test_other_groups_than_the_models_equal_scoring_anew_with_a_model_of_them(tmp_path: Path, asked_by: str) -> None:
    catalog = write_catalog(tmp_path / "catalog", AGED, age_groups=HALVES if asked_by == "catalog" else LIFE)
    asked = {"age_groups": HALVES} if asked_by == "option" else {}
    stored = write_predictions(tmp_path / "stored", told_in(AGED, LIFE), LIFE)
    anew = write_predictions(tmp_path / "scored anew", told_in(AGED, HALVES), HALVES)
    reports = []
    for name, predictions in (("derived", stored), ("anew", anew)):
        done = evaluate(EvaluateConfig(catalog, predictions, str(tmp_path / name), **asked))
        assert done.notes == ([f'age groups: {HALVES} (the model\'s own: --age-groups "{LIFE}")'] * (name == "derived"))
        reports.append(json.loads((tmp_path / name / "metrics.json").read_text()))
        assert ("which are not those of the model" in (tmp_path / name / "report.html").read_text()) == (
            name == "derived"
        )
    assert reports[0]["test"] == reports[1]["test"]
    assert reports[0]["test"]["num_with_group"] == 60
    assert (tmp_path / "derived" / "confusion.csv").read_text() == (tmp_path / "anew" / "confusion.csv").read_text()
    own = evaluate(EvaluateConfig(catalog, stored, str(tmp_path / "own"), age_groups=LIFE))
    assert own.notes == []
    assert "senior" in (tmp_path / "own" / "confusion.csv").read_text()


def test_two_models_of_different_groups_are_compared_in_the_same_ones(tmp_path: Path) -> None:
    against = write_predictions(tmp_path / "against", told_in(AGED, HALVES), HALVES)
    row = judge(tmp_path, AGED, told_in(AGED, LIFE), against=against)["test"]["against"]
    assert (row["num_with_group"], row["accuracy_difference"], row["mae_difference"]) == (60, 0, 0)


def test_groups_of_names_only_have_no_others_and_say_so_in_one_line(tmp_path: Path) -> None:
    rows = [image_row(i, "test", None, group=name) for i, name in enumerate(["YOUNG", "OLD"])]
    said = [prediction(row, None, group="OLD") for row in rows]
    facts = {"groups": "YOUNG,OLD", "model_card": {"task": "classification"}}
    predictions = write_predictions(tmp_path / "predictions", said, **facts)
    catalog = write_catalog(tmp_path / "catalog", rows, age_groups="YOUNG,OLD")
    config = EvaluateConfig(catalog, predictions, str(tmp_path / "out"), age_groups=LIFE)
    with pytest.raises(ValueError, match="has no ages to derive groups from, its model only chooses among YOUNG,OLD"):
        evaluate(config)
    with pytest.raises(ValueError, match="--age-groups YOUNG,OLD: names without bounds"):
        evaluate(replace(config, age_groups="YOUNG,OLD"))
    bounds = "YOUNG=0-29,OLD=30-"  # given to the same names later
    aged = [image_row(i, "test", 10.0 + 50 * i) for i in range(2)]
    later = write_catalog(tmp_path / "later", aged, age_groups=bounds)
    evaluate(replace(config, catalog=later, age_groups=None))
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["test"]["accuracy"] == 0.5
    others = write_catalog(tmp_path / "others", aged, age_groups=LIFE)
    with pytest.raises(ValueError, match=r"2 have no label .*; the model knows the groups YOUNG, OLD and no ages"):
        evaluate(replace(config, catalog=others, age_groups=None))


def test_a_comparison_without_a_common_face_is_refused(tmp_path: Path) -> None:
    rows = [*ROWS, image_row(9, "val", 30.0)]
    against = write_predictions(tmp_path / "against", of(rows[3:]))
    with pytest.raises(ValueError, match="of the judged faces of test it has scored none"):
        judge(tmp_path, rows, of(rows), against=against)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("catalog", "there is the catalog; give a folder of the report's own"),
        ("catalog.agescale", "there is what belongs to the catalog"),
        ("catalog/report", "catalog is the catalog; give"),
        ("predictions", "there is the table of predictions"),
        ("predictions/deep/report", "predictions is the table of predictions"),
        ("others", "there is the other table of predictions"),
        ("photos", "there is the folder of the photos"),
        ("photos/report", "photos is the folder of the photos"),
        (".", "stands in it"),
        ("run", r"there are other files already \(best\), and a report has a folder of its own"),
        ("run/best", r"there are other files already \(config.json\)"),
        ("metrics", r"there are other files already \(metrics.json\)"),
    ],
)
def test_somebody_elses_folder_is_refused_before_anything_is_written(tmp_path: Path, out: str, message: str) -> None:
    catalog = write_catalog(tmp_path / "catalog", ROWS, source=str(tmp_path / "photos"))
    predictions = write_predictions(tmp_path / "predictions", of(ROWS))
    others = write_predictions(tmp_path / "others", of(ROWS))
    for name in ("run/history.parquet", "run/best/config.json", "photos/a.jpg", "metrics/metrics.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    before = files_below(tmp_path)
    with pytest.raises(ValueError, match=message) as refusal:
        evaluate(EvaluateConfig(catalog, predictions, str(tmp_path / out), against=others))
    assert "\n" not in str(refusal.value)
    assert files_below(tmp_path) == before


def test_a_report_is_replaced_by_the_next_one_and_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    catalog = write_catalog(tmp_path / "catalog", ROWS)
    predictions = write_predictions(tmp_path / "predictions", of(ROWS))
    out = tmp_path / "report"
    evaluate(EvaluateConfig(catalog, predictions, str(out), against=predictions))
    (out / "notes of mine.txt").write_text("kept")
    assert (out / "against.csv").exists()
    evaluate(EvaluateConfig(catalog, predictions, str(out)))
    assert not (out / "against.csv").exists()
    assert (out / "notes of mine.txt").read_text() == "kept"


def test_a_report_that_was_cut_short_after_any_file_is_known_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = write_catalog(tmp_path / "catalog", ROWS)
    config = EvaluateConfig(catalog, write_predictions(tmp_path / "predictions", of(ROWS)), str(tmp_path / "report"))
    evaluate(config)
    whole, write = set(files_below(tmp_path / "report")), objects.write_bytes
    for num_written in {*range(1, len(whole), 3), len(whole) - 1}:  # each takes two reports
        shutil.rmtree(tmp_path / "report")
        left = iter(range(num_written))

        def write_some(uri: str, data: bytes, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            write(uri, data)

        with monkeypatch.context() as patch:
            patch.setattr(objects, "write_bytes", write_some)
            with pytest.raises(KeyboardInterrupt):
                evaluate(config)
        assert len(files_below(tmp_path / "report")) == num_written
        evaluate(config)
        assert set(files_below(tmp_path / "report")) == whole


def run_job(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(JOB), *arguments], capture_output=True, text=True, check=False, cwd=JOB.parents[1]
    )


def test_the_command_line_says_where_the_report_is(tmp_path: Path) -> None:
    rows = [image_row(i, "test", 30.0 + i) for i in range(6)]
    catalog = write_catalog(tmp_path / "catalog", rows)
    predictions = write_predictions(tmp_path / "predictions", [prediction(row, 31.0) for row in rows])
    done = run_job("--catalog", catalog, "--predictions", predictions, "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(str(tmp_path / "out" / "report.html"))


def test_a_missing_table_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = run_job("--catalog", str(tmp_path / "no"), "--predictions", str(tmp_path), "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "no catalog there" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rows", "predictions", "config", "message"),
    [
        (ROWS, of([image_row(77, "test", 30.0)]), {}, "none of these predictions is of an image of"),
        (UNLABELLED, of(UNLABELLED), {}, "catalog: none of its images has a label to judge by"),
        (
            [*UNLABELLED, image_row(9, "train", 3.0)],
            of(UNLABELLED),
            {},
            "nothing to judge in test: of 3 rows 0 are excluded .* 3 have no label",
        ),
        (ROWS, of(ROWS), {"split": ("tset",)}, "--split tset: one of train, val, test"),
        ([*ROWS, image_row(9, "train", 3.0)], of(ROWS), {"split": ("val",)}, "val: the catalog has train, test"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_one_line(
    tmp_path: Path, rows: list[dict], predictions: list[dict], config: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        judge(tmp_path, rows, predictions, **config)
    assert "\n" not in str(refusal.value)


def test_predictions_of_two_models_are_refused(tmp_path: Path) -> None:
    catalog = write_catalog(tmp_path / "catalog", ROWS)
    predictions = write_predictions(tmp_path / "predictions", of(ROWS[:1]))
    write_predictions(tmp_path / "predictions", of(ROWS[1:]), number=1, model="abad")
    with pytest.raises(ValueError, match="predictions of 2 models"):
        evaluate(EvaluateConfig(catalog, predictions, str(tmp_path / "out")))
