"""Scored once, decided later: other age groups and gates of a table are what scoring would have said, exactly once."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import RunJob, make_checkpoint

import agescale
from agescale.ages import cdf
from agescale.ages.groups import AgeGroups
from agescale.ages.papers import PapersRule
from agescale.cataloging.driver import build_catalog
from agescale.config import (
    CatalogConfig,
    CompactConfig,
    EvaluateConfig,
    RegroupConfig,
    ScoreConfig,
    TableConfig,
    VerifyConfig,
)
from agescale.evaluation.driver import evaluate
from agescale.evaluation.gates import PROBABILITIES
from agescale.models import checkpoints
from agescale.operations import status
from agescale.scoring.driver import score
from agescale.scoring.verification import verify
from agescale.store import objects, parquet, paths
from agescale.tables import folders, schema
from agescale.tables.compaction import compact
from agescale.tables.exports import export
from agescale.tables.predictions import Predictions, summary_uri
from agescale.tables.regrouping import regroup

UNIT_ROWS = 5
GROUPS = ("life-stages", "adulthood", "decades", "teenager=13-19", "low=0-39,high=40-")
BUT = ["model", "scored_at"]
"""What names the checkpoint and the moment is not the same in two scorings."""


@pytest.fixture(scope="module")
def scored(drawn_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a catalog, a model, and its predictions: of the last photo that it is broken."""
    folder = tmp_path_factory.mktemp("regroup")
    shutil.copytree(drawn_faces / "utkface", folder / "faces")
    (folder / "faces" / "40_0_0_20170101000000000.jpg").write_bytes(b"no picture")
    build_catalog(CatalogConfig(str(folder / "faces"), str(folder / "catalog"), layout="utkface"))
    make_checkpoint(folder / "model")
    score(ScoreConfig(f"{folder}/catalog", f"{folder}/ages", f"{folder}/model", unit_rows=UNIT_ROWS, num_workers=0))
    return folder


@pytest.fixture
def folder(scored: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    for name in ("ages", "ages.agescale"):
        shutil.copytree(scored / name, tmp_path / name)
    return tmp_path


def told(folder: Path, out: str = "view", groups: str | None = "adulthood", **others: Any) -> RegroupConfig:
    return RegroupConfig(f"{folder}/ages", f"{folder}/{out}", groups, **others)


def rows_of(table: str | Path) -> pa.Table:
    predictions = Predictions.open(str(table))
    return parquet.read_tables(predictions.files, predictions.schema.names)


def with_groups(folder: Path, out: Path, groups: str) -> str:
    """The model of a folder, made for other age groups."""
    shutil.copytree(folder / "model", out)
    known = checkpoints.read(str(out))
    checkpoints.update(str(out), spec=replace(known.spec, age_groups=groups))
    return str(out)


def gate(folder: Path, by: str = "age", threshold: float = 25.0, **changed: Any) -> str:
    """What jobs/gate.py would have found on these predictions."""
    run = Predictions.open(f"{folder}/ages").run | changed
    about = {"catalog": "c", "by": by, "gate_age": 18, "run": run}
    objects.write_bytes(f"{folder}/gate.json", json.dumps({"about": about, "threshold": threshold}).encode())
    return f"{folder}/gate.json"


@pytest.mark.parametrize("groups", GROUPS)
def test_a_regrouped_table_is_that_of_a_fresh_scoring_row_for_row(groups: str, scored: Path, tmp_path: Path) -> None:
    model = with_groups(scored, tmp_path / "model", groups)
    fresh = ScoreConfig(f"{scored}/catalog", f"{tmp_path}/fresh", model, unit_rows=UNIT_ROWS, num_workers=0)
    score(fresh)
    regroup(RegroupConfig(f"{scored}/ages", f"{tmp_path}/view", groups))
    expected, found = rows_of(tmp_path / "fresh"), rows_of(tmp_path / "view")
    assert found.drop_columns(BUT).equals(expected.drop_columns(BUT))
    assert found["group"] != rows_of(scored / "ages")["group"], "that would be the same groups"
    assert verify(VerifyConfig(f"{scored}/catalog", f"{tmp_path}/view")).problems == ()


def test_every_job_reads_it(scored: Path, tmp_path: Path) -> None:
    catalog, out = f"{scored}/catalog", f"{tmp_path}/view"
    done = regroup(RegroupConfig(f"{scored}/ages", out, "adulthood", gate=gate_of(scored, tmp_path)))
    assert (done.is_complete, done.num_files, done.papers_where) == (True, done.num_files_now, "age < 25")
    rows = rows_of(out)
    assert rows.column_names == [*schema.PREDICTIONS.names, "needs_papers"]
    assert verify(VerifyConfig(catalog, out)).problems == ()
    assert agescale.read_predictions(out).to_table().equals(rows)
    compact(CompactConfig(catalog, f"{tmp_path}/catalog", out, f"{tmp_path}/compacted"))
    by_uri = [("uri", "ascending")]
    assert rows_of(tmp_path / "compacted").sort_by(by_uri).equals(rows.sort_by(by_uri))
    assert verify(VerifyConfig(f"{tmp_path}/catalog", f"{tmp_path}/compacted")).problems == ()
    standing = status.look(out)
    assert (standing.kind, standing.state) == ("predictions", "complete")
    page = evaluate(EvaluateConfig(catalog, out, f"{tmp_path}/report", age_groups="adulthood")).page
    about = json.loads(Path(page).with_name("metrics.json").read_text())["about"]
    own = Predictions.open(f"{scored}/ages").run["age_groups"]
    assert (about["age_groups"], about["model_age_groups"]) == ("minor=0-17,adult=18-", own)
    assert f"which are not those of the model ({own})" in Path(page).read_text()
    export(TableConfig(catalog, out, f"{tmp_path}/of-view.parquet", columns=("uri", "group", "needs_papers")))
    straight = {"age_groups": "adulthood", "gate": f"{tmp_path}/gate.json", "columns": ("uri", "group")}
    export(TableConfig(catalog, f"{scored}/ages", f"{tmp_path}/of-ages.parquet", **straight))
    tables = [parquet.read_table(f"{tmp_path}/of-{name}.parquet") for name in ("view", "ages")]
    assert tables[0].equals(tables[1])


def gate_of(scored: Path, folder: Path) -> str:
    found = gate(scored)
    return shutil.move(found, folder / "gate.json").as_posix()


@pytest.mark.parametrize(("by", "threshold"), [("age", 30.0), ("probability", 0.2)])
def test_a_gate_is_that_of_the_ages_and_lets_nobody_pass_without_one(by: str, threshold: float, folder: Path) -> None:
    scored_rows = rows_of(folder / "ages")
    regroup(told(folder, groups=None, gate=gate(folder, by, threshold)))
    rows = rows_of(folder / "view")
    assert rows.drop_columns(["needs_papers"]).equals(scored_rows)
    needs = rows["needs_papers"].to_pylist()
    for row, needs_papers in zip(rows.to_pylist(), needs, strict=True):
        under = None if row["age_cdf"] is None else row["age_cdf"][18] / 65535
        is_passed = under is not None and (row["age"] >= threshold if by == "age" else under <= threshold)
        assert needs_papers is not is_passed
    assert needs[rows["status"].to_pylist().index("unreadable")] is True


def test_the_stored_probability_decides_as_the_gate_was_found() -> None:
    """Of all probabilities that can be stored, at all thresholds that a gate may have."""
    values_V = np.arange(65536)
    cdf_VA = np.zeros((len(values_V), 101), np.int32)
    cdf_VA[:, 18:] = values_V[:, None]
    derived = cdf.group_columns(cdf_VA, AgeGroups.parse("minor=0-17,adult=18-"))  # as evaluation reads them
    probability_V = derived["group_probability"].astype(np.float64)
    found_V = np.where(derived["group"] == "minor", probability_V, 1 - probability_V).round(6)
    for threshold in PROBABILITIES:
        rule = PapersRule("probability", 18, threshold)
        assert (rule.passes(rule.scores(np.zeros(len(values_V)), cdf_VA)) == rule.passes(found_V)).all()


def test_the_same_command_adds_what_was_scored_since_and_makes_anew_what_was_scored_again(folder: Path) -> None:
    whole = rows_of(folder / "ages")
    files = Predictions.open(f"{folder}/ages").files
    late, again = files[0], files[1]
    shutil.move(late, folder / "late")
    shutil.move(summary_uri(f"{folder}/ages"), folder / "summary")
    first = regroup(told(folder))
    assert (first.is_complete, first.num_files_now) == (False, len(files) - 1)
    assert not objects.exists(summary_uri(f"{folder}/view"))
    shutil.move(folder / "late", late)
    shutil.move(folder / "summary", summary_uri(f"{folder}/ages"))
    objects.write_bytes(again, objects.read_bytes(again))  # another file of that name
    second = regroup(told(folder))
    assert (second.is_complete, second.num_files_now) == (True, 2)
    regroup(told(folder, "at-once"))
    assert rows_of(folder / "view").equals(rows_of(folder / "at-once"))
    assert (
        rows_of(folder / "view")
        .drop_columns(["group", "group_probability"])
        .equals(whole.drop_columns(["group", "group_probability"]))
    )
    assert regroup(told(folder)).num_files_now == 0
    objects.delete(again)
    third = regroup(told(folder))
    assert (third.num_files, third.num_files_now) == (len(files) - 1, 0)


def test_a_damaged_file_is_made_anew(folder: Path) -> None:
    regroup(told(folder))
    expected = rows_of(folder / "view")
    damaged = Predictions.open(f"{folder}/view").files[-1]
    objects.write_bytes(damaged, b"PAR1 and no more")
    assert regroup(told(folder)).num_files_now == 1
    assert rows_of(folder / "view").equals(expected)


def test_whatever_write_is_the_last_the_same_command_ends_with_the_same_table(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    regroup(told(folder, "whole"))
    expected = rows_of(folder / "whole")
    for number in range(50):
        left = number
        with monkeypatch.context() as patched:

            def write(*arguments: Any, write: Any, **options: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:  # dead from then on, in all threads
                    raise KeyboardInterrupt
                return write(*arguments, **options)

            for name in ("write_bytes", "write_new"):
                patched.setattr(objects, name, partial(write, write=getattr(objects, name)))
            try:
                regroup(told(folder, f"killed-{number}"))
                break
            except KeyboardInterrupt:
                assert not objects.exists(summary_uri(f"{folder}/killed-{number}"))
        regroup(told(folder, f"killed-{number}"))
        assert rows_of(folder / f"killed-{number}").equals(expected)
        assert objects.list_names(f"{folder}/killed-{number}") == objects.list_names(f"{folder}/whole")
    assert number > 5, "it was hardly ever killed"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"groups": "young,old"}, "--age-groups young,old: names without bounds"),
        ({"out": "ages"}, "ages: there is the table of predictions; give a folder of the new table's own"),
        ({"gate": "/no/gate.json"}, "--gate /no/gate.json: no such file; jobs/gate.py --out writes its gate.json"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(settings: dict[str, Any], message: str, folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    with pytest.raises(ValueError, match=message):
        regroup(told(folder, **settings))
    assert sorted(folder.rglob("*")) == before


def test_a_gate_of_other_predictions_is_refused(folder: Path) -> None:
    for changed, words in (({"model": "beef"}, "model beef, not "), ({"tta": True}, "tta True, not False as in ")):
        with pytest.raises(ValueError, match=words):
            regroup(told(folder, gate=gate(folder, **changed)))
    objects.write_bytes(f"{folder}/gate.json", b"{}")
    with pytest.raises(ValueError, match=r"not the gate\.json that jobs/gate.py writes"):
        regroup(told(folder, gate=f"{folder}/gate.json"))


def test_another_view_and_a_table_that_was_scored_are_left_alone(folder: Path, scored: Path) -> None:
    regroup(told(folder))
    with pytest.raises(ValueError, match="age_groups was 'minor=0-17,adult=18-', is 'teenager=13-19'"):
        regroup(told(folder, groups="teenager=13-19"))
    with pytest.raises(ValueError, match="papers_where was None, is 'age < 25'"):
        regroup(told(folder, gate=gate(folder)))
    for name in ("", ".agescale"):
        shutil.copytree(folder / f"ages{name}", folder / f"other{name}")
    with pytest.raises(ValueError, match="regrouped_from was None, is "):
        regroup(told(folder, "other", groups=Predictions.open(f"{folder}/ages").run["age_groups"]))
    again = ScoreConfig(f"{scored}/catalog", f"{folder}/view", f"{scored}/model", num_workers=0, repair=True)
    with pytest.raises(ValueError, match=r"jobs/regroup\.py made this table of another one; score into that"):
        score(again)


def test_of_a_view_others_can_be_made(folder: Path) -> None:
    regroup(told(folder, gate=gate(folder)))
    regroup(RegroupConfig(f"{folder}/view", f"{folder}/second", "life-stages"))
    regroup(told(folder, "straight", "life-stages", gate=f"{folder}/gate.json"))
    assert rows_of(folder / "second").equals(rows_of(folder / "straight"))


def test_to_a_bucket_and_from_one(folder: Path, s3: str) -> None:
    predictions = Predictions.open(f"{folder}/ages")
    for name in predictions.names:
        objects.write_bytes(f"{s3}/regroup/ages/{name}", objects.read_bytes(paths.join(predictions.uri, name)))
    summary = objects.read_bytes(summary_uri(predictions.uri))
    objects.write_bytes(summary_uri(f"{s3}/regroup/ages"), summary)
    remote = RegroupConfig(f"{s3}/regroup/ages", f"{s3}/regroup/view", "adulthood")
    regroup(remote)
    regroup(told(folder))
    assert rows_of(f"{s3}/regroup/view").equals(rows_of(folder / "view"))
    name = predictions.names[0]
    data = parquet.as_parquet(parquet.read_table(f"{predictions.uri}/{name}"), row_group_size=2)
    objects.write_bytes(f"{s3}/regroup/ages/{name}", data)
    assert regroup(remote).num_files_now == 1
    assert rows_of(f"{s3}/regroup/view").equals(rows_of(folder / "view"))


def test_the_job_says_what_became_of_it(folder: Path, run_job: RunJob) -> None:
    done = run_job("jobs/regroup.py", "--predictions", folder / "ages", "--age-groups", "adulthood", "--gate",
                   gate(folder), "--out", folder / "view")  # fmt: skip
    assert done.returncode == 0, done.stderr
    num_files = len(folders.list_parts(f"{folder}/view", "predictions"))
    assert f"regrouped {num_files} files now; the table has {num_files}: " in done.stdout
    assert "needs_papers: age < 25, or no prediction" in done.stdout
    none = run_job("jobs/regroup.py", "--predictions", folder / "ages", "--out", folder / "none")
    assert none.returncode == 2
    assert "--age-groups or --gate: one of them is needed" in none.stderr
    assert not (folder / "none").exists()
