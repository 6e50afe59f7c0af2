"""The gate job on made-up tables: whose faces count, what it writes, and when it writes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import factories
import numpy as np
import pytest
from conftest import RunJob
from html_page import Page, browse, needs_browser

from agescale.ages import cdf
from agescale.config import GateConfig
from agescale.evaluation.gate_driver import Found, find_gate
from agescale.evaluation.gates import upper_bound
from agescale.operations import status
from agescale.store import objects

Row = dict[str, Any]


def image_row(index: int, age: float | None, split: str | None = "test", **facts: Any) -> Row:
    high = None if age is None else age + 1
    return {"uri": f"/pictures/{index:05d}.jpg", "version": "1", "deleted": False, "age_low": age, "age_high": high,
            "split": split} | facts  # fmt: skip


def prediction(row: Row, age: float | None, status: str = "ok", **facts: Any) -> Row:
    return {"uri": row["uri"], "version": row["version"], "face": 0, "status": status, "age": age, "age_std": 5.0,
            "model": "beef"} | facts  # fmt: skip


def tables(
    folder: Path, rows: list[Row], said: list[Row], findings: list[Row] = (), groups: str = "25-years", **facts: Any
) -> tuple[str, str]:
    """A catalog and predictions of it."""
    settings = {"source": "/pictures", "layout": "csv", "age_groups": "25-years"}
    catalog = factories.write_catalog(str(folder / "catalog"), {factories.PART: rows}, findings, settings)
    return catalog, factories.write_predictions(str(folder / "ages"), said, groups, **facts)


def people(num: int = 600, split: str = "test", first: int = 0) -> tuple[list[Row], list[Row]]:
    """Faces of 10 to 69 years, and what is predicted of each; men look older."""
    rng = np.random.default_rng(first)
    rows, said = [], []
    for index in range(num):
        gender = ("female", "male")[index % 2]
        row = image_row(first + index, float(10 + index % 60), split, gender=gender)
        rows.append(row)
        said.append(prediction(row, row["age_low"] + rng.normal(0, 4) + 3 * (gender == "male")))
    return rows, said


def found(tmp_path: Path, rows: list[Row], said: list[Row], **config: Any) -> tuple[Found, dict[str, Any]]:
    facts = {name: config.pop(name) for name in ("findings", "model_card") if name in config}
    done = find_gate(GateConfig(*tables(tmp_path, rows, said, **facts), out=str(tmp_path / "gate"), **config))
    return done, json.loads((tmp_path / "gate" / "gate.json").read_text(), parse_constant=pytest.fail)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_job_writes_the_threshold_with_all_that_it_stands_on(tmp_path: Path) -> None:
    rows, said = people(1200)
    done, numbers = found(tmp_path, rows, said)
    assert numbers["about"] == {
        "catalog": str(tmp_path / "catalog"), "catalog_id": "1", "source": "/pictures",
        "predictions": str(tmp_path / "ages"), "model": "beef", "checkpoint": None,
        "run": {"model": "beef", "age_groups": "25-years"}, "splits": ["test"],
        "judged_on": numbers["about"]["judged_on"], "num_minors_not_scored": 0, "by": "age", "gate_age": 18,
        "band": [14, 17], "max_false_positive_rate": 0.1, "confidence": 0.95,
    }  # fmt: skip
    true_N, said_N = (np.array([row[key] for row in table]) for table, key in ((rows, "age_low"), (said, "age")))
    minors_N = said_N[(true_N >= 14) & (true_N < 18)].astype(np.float32)
    threshold, num_false = numbers["threshold"], numbers["num_false_positives"]
    assert (numbers["num_minors"], num_false) == (80, (minors_N >= threshold).sum())
    assert numbers["upper_bound"] == upper_bound(num_false, 80, 0.95) <= 0.1
    assert upper_bound(int((minors_N >= threshold - 0.5).sum()), 80, 0.95) > 0.1
    assert [each["threshold"] for each in numbers["sequence"]] == np.arange(60, threshold - 1, -0.5).tolist()
    assert numbers["adults"]["num_wrong"] == (said_N[true_N >= 18] < threshold).sum()
    assert [part["name"] for part in numbers["by_gender"]] == ["female", "male"]
    assert numbers["by_ethnicity"] == []
    assert numbers["papers_where"] == f"age < {threshold:g}"
    assert done.answer.startswith(f"papers where age < {threshold:g}: {num_false} of 80 minors of 14 to 17 years pass")
    assert {path.name for path in (tmp_path / "gate").iterdir()} == {"gate.json", "gate.html"}


def test_the_page_holds_the_threshold_and_refers_to_nothing_outside(tmp_path: Path) -> None:
    done, numbers = found(tmp_path, *people(1200))
    page = Page(Path(done.page).read_text())
    assert f"papers where age < {numbers['threshold']:g}" in page.text
    assert f"T = {numbers['threshold']:g}" in page.text, "in the figure"
    assert "must show papers at T, with its 95 % interval" in page.text
    assert page.tags.count("svg") == 2
    assert all(reference.startswith("#") for reference in page.references)
    assert len(page.ids) == len(set(page.ids))


@needs_browser
def test_the_page_opens_in_a_browser(tmp_path: Path) -> None:
    done, numbers = found(tmp_path, *people(1200))
    assert f"age &lt; {numbers['threshold']:g}" in browse(Path(done.page))


def test_by_probability_the_distributions_decide_as_the_table_tells_them(tmp_path: Path) -> None:
    rows, said = people(1200)
    ages_A = np.arange(101)
    probs_NA = np.exp(-0.5 * ((ages_A - np.array([row["age"] for row in said])[:, None]) / 4) ** 2)
    cdf_NA = cdf.quantize(probs_NA)
    said = [row | {"age_cdf": stored.astype(np.int32)} for row, stored in zip(said, cdf_NA, strict=True)]
    _, numbers = found(tmp_path, rows, said, by="probability")
    under_N = cdf.probability_under(cdf_NA, 18)
    true_N = np.array([row["age_low"] for row in rows])
    is_minor_N = (true_N >= 14) & (true_N < 18)
    threshold = numbers["threshold"]
    assert 0 < threshold < 0.5
    assert numbers["num_false_positives"] == (under_N[is_minor_N] <= threshold).sum() > 0
    assert numbers["adults"]["num_wrong"] == (under_N[true_N >= 18] > threshold).sum()
    assert numbers["papers_where"] == f"probability_under_18 > {threshold:g}"


def test_faces_with_findings_ranges_and_without_predictions_do_not_count(tmp_path: Path) -> None:
    rows = [image_row(index, 15.0) for index in range(40)]
    said = [prediction(row, 12.0) for row in rows]
    rows[0] |= {"age_low": 14.0, "age_high": 18.0}
    rows[1] |= {"age_low": None, "age_high": None}
    said[2] = prediction(rows[2], None, status="no_face")
    del said[5]
    findings = [{"uri": rows[3]["uri"], "version": "1", "kind": "duplicate"}]
    done, numbers = found(tmp_path, rows, said, findings=findings)
    assert (numbers["num_minors"], numbers["about"]["num_minors_not_scored"]) == (35, 2)
    assert "2 photos of minors have no prediction, and do not count" in done.notes


def test_one_photo_a_person_counts_the_same_one_in_any_order_and_it_is_told(tmp_path: Path) -> None:
    rows = [image_row(index, 15.0, subject=f"person {index % 40}") for index in range(120)]
    said = [prediction(row, 15.0 + index % 9) for index, row in enumerate(rows)]
    done, numbers = found(tmp_path / "one", rows, said)
    assert (numbers["num_minors"], numbers["num_photos"]) == (40, 120)
    assert "120 photos are of 40 minors: one photo of each counts" in done.notes
    _, others = found(tmp_path / "two", rows[::-1], said[::-1])
    assert others["sequence"] == numbers["sequence"]


def test_only_the_asked_splits_count_and_those_of_training_are_told(tmp_path: Path) -> None:
    rows, said = people(1200)
    learnt, of_learnt = people(1200, "train", first=2000)
    done, numbers = found(tmp_path / "test", rows + learnt, said + of_learnt)
    assert (numbers["num_minors"], numbers["about"]["splits"]) == (80, ["test"])
    assert not any("trained" in note for note in done.notes)
    done, numbers = found(tmp_path / "both", rows + learnt, said + of_learnt, split=("train", "test"))
    assert (numbers["num_minors"], numbers["about"]["splits"]) == (160, ["train", "test"])
    line = "trained or chosen on faces of this catalog (train): nothing here holds for new ones"
    assert f"the model may have been {line}" in done.notes
    done, numbers = found(
        tmp_path / "known", learnt, of_learnt, model_card={"settings": {"catalog": str(tmp_path / "known" / "catalog")}}
    )
    assert done.notes[0] == "--split test: the catalog has only train, which is taken"
    assert f"the model was {line}" in done.notes
    assert numbers["notes"] == done.notes
    done, _ = found(tmp_path / "other", learnt, of_learnt, model_card={"settings": {"catalog": "/another"}})
    assert not any("trained" in note for note in done.notes)


def test_who_passes_clearly_too_often_is_told(tmp_path: Path) -> None:
    rows = [image_row(index, 14.0 if index % 5 else 17.0) for index in range(500)]
    said = [
        prediction(row, 59.0 if row["age_low"] == 17.0 and index % 3 == 0 else 12.0) for index, row in enumerate(rows)
    ]
    done, _ = found(tmp_path, rows, said)
    line = "clearly more than the target pass of some minors by themselves: 17 years (34% of 100)"
    assert line in done.notes
    assert "17 years (34% of 100)" in Path(done.page).read_text()


@pytest.mark.parametrize(
    ("num_minors", "age", "config", "facts", "message"),
    [
        (
            28,
            15.0,
            {},
            {},
            r"takes 29 persons of 14 to 17 years, .* \(test\) has 28 with an exact age and a prediction",
        ),
        (28, 15.0, {"max_false_positive_rate": 0.01}, {}, "takes 299 persons"),
        (
            80,
            70.0,
            {},
            {},
            r"age < 60 must show papers, the strictest, 80 of 80 minors .* still pass \(100%, at most 100%\)",
        ),
        (80, 15.0, {"split": ("val",)}, {}, "--split val: the catalog has train, test"),
        (
            80,
            15.0,
            {"by": "probability"},
            {"model_card": {"task": "regression"}},
            "a model of --task regression does not",
        ),
        (80, 15.0, {}, {"model_card": {"task": "classification"}, "groups": "YOUNG,OLD"}, "no ages to judge by"),
    ],
)
def test_where_nothing_can_be_certified_one_line_says_why_and_nothing_is_written(
    tmp_path: Path, num_minors: int, age: float, config: dict[str, Any], facts: dict[str, Any], message: str
) -> None:
    rows = [*(image_row(index, 15.0) for index in range(num_minors)), image_row(9000, 30.0, "train")]
    catalog, predictions = tables(tmp_path, rows, [prediction(row, age) for row in rows], **facts)
    before = files_below(tmp_path)
    with pytest.raises(ValueError, match=message) as refusal:
        find_gate(GateConfig(catalog, predictions, str(tmp_path / "gate"), **config))
    assert "\n" not in str(refusal.value)
    assert files_below(tmp_path) == before
    assert not (tmp_path / "gate").exists()


@pytest.mark.parametrize(
    ("out", "message"),
    [("run", "there are other files already"), ("report", "there are other files already"), ("catalog", "the catalog"),
     ("ages", "the table of predictions"), ("ages/gate", "the table of predictions"), (".", "stands in it")],
)  # fmt: skip
def test_somebody_elses_folder_is_refused_before_anything_is_written(tmp_path: Path, out: str, message: str) -> None:
    catalog, predictions = tables(tmp_path, *people(1200))
    for name in ("run/history.parquet", "report/metrics.json"):
        objects.write_bytes(str(tmp_path / name), b"{}")
    before = files_below(tmp_path)
    with pytest.raises(ValueError, match=message) as refusal:
        find_gate(GateConfig(catalog, predictions, str(tmp_path / out)))
    assert "\n" not in str(refusal.value)
    assert files_below(tmp_path) == before


def test_a_gate_that_was_cut_short_is_replaced_and_so_is_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = GateConfig(*tables(tmp_path, *people(1200)), out=str(tmp_path / "gate"))
    write = objects.write_bytes

    def write_the_numbers(uri: str, data: bytes) -> None:
        if uri.endswith(".html"):
            raise KeyboardInterrupt
        write(uri, data)

    with monkeypatch.context() as patch:
        patch.setattr(objects, "write_bytes", write_the_numbers)
        with pytest.raises(KeyboardInterrupt):
            find_gate(config)
    assert [path.name for path in (tmp_path / "gate").iterdir()] == ["gate.json"]
    assert (status.look(config.out).kind, status.look(config.out).state) == ("gate", "stopped")
    for _ in range(2):
        done = find_gate(config)
        assert len(list((tmp_path / "gate").iterdir())) == 2
    standing = status.look(config.out)
    assert standing.state == "complete"
    assert done.answer.startswith(f"{standing.says}: ")


def test_no_page_stands_beside_the_numbers_of_another_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = GateConfig(*tables(tmp_path, *people(1200)), out=str(tmp_path / "gate"))
    find_gate(config)

    def fail(uri: str, data: bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(objects, "write_bytes", fail)
    with pytest.raises(KeyboardInterrupt):
        find_gate(config)
    assert [path.name for path in (tmp_path / "gate").iterdir()] == ["gate.json"]


def test_a_bucket_holds_a_gate_as_a_folder_does(tmp_path: Path, s3: str) -> None:
    done, _ = found(tmp_path, *people(1200))
    catalog, predictions = tables(tmp_path, *people(1200))
    for _ in range(2):
        on_s3 = find_gate(GateConfig(catalog, predictions, f"{s3}/gate"))
        assert (on_s3.page, on_s3.answer) == (f"{s3}/gate/gate.html", done.answer)
    assert objects.list_names(f"{s3}/gate") == ["gate.html", "gate.json"]


def test_the_command_prints_the_threshold_and_refuses_with_two(tmp_path: Path, run_job: RunJob) -> None:
    catalog, predictions = tables(tmp_path, *people(1200))
    given = ("jobs/gate.py", "--catalog", catalog, "--predictions", predictions, "--out", tmp_path / "gate")
    done = run_job(*given, "--confidence", "0.9", "--band", "13", "17")
    assert (done.returncode, done.stderr) == (0, "")
    numbers = json.loads((tmp_path / "gate" / "gate.json").read_text())
    assert numbers["about"]["confidence"] == 0.9
    assert numbers["about"]["band"] == [13, 17]
    assert f"papers where age < {numbers['threshold']:g}: " in done.stdout
    assert done.stdout.endswith(f"gate: {tmp_path}/gate/gate.html\n")
    refused = run_job(*given, "--max-false-positive-rate", "0.001")
    assert refused.returncode == 2
    assert refused.stderr.startswith(
        "error: --max-false-positive-rate 0.001 with --confidence 0.95 takes 2,995 persons"
    )
    assert len(refused.stderr.splitlines()) == 1
