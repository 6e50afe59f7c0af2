"""Drift: other photos raise the alarm, the same ones drawn again do not, however few or many they are."""

from __future__ import annotations

import datetime as dt
import doctest
import json
from pathlib import Path
from typing import Any

import factories
import numpy as np
import pytest
from html_page import Page

from agescale.commands.drift import main as job
from agescale.config import DriftConfig
from agescale.evaluation import drift
from agescale.evaluation.drift import Drift, Histograms, drifts_of
from agescale.evaluation.drift_driver import ONLY_SIZES, find_drift
from agescale.models import checkpoints
from agescale.models.checkpoints import RunProgress
from agescale.models.spec import ModelSpec
from agescale.operations.status import look

NIGHT = dt.datetime(2026, 11, 30, tzinfo=dt.UTC)


def test_the_worked_example_holds() -> None:
    found = doctest.testmod(drift)
    assert (found.failed, found.attempted) == (0, 2)


def faces(
    rng: np.random.Generator, num: int, age: float = 35.0, side: float = 200.0, broken: float = 0.02
) -> Histograms:
    status = rng.random(num) < broken
    words = {"status": {"ok": int((~status).sum()), "unreadable": int(status.sum())}}
    words["gender"] = dict(zip(("female", "male"), rng.multinomial(num, [0.5, 0.5]).tolist(), strict=True))
    numbers = {"age": rng.normal(age, 15, num), "age_std": rng.gamma(4, 1.5, num), "short_side": np.full(num, side)}
    return Histograms.of(num, numbers, words)


def drifted(drifts: list[Drift]) -> list[str]:
    return [each.aspect for each in drifts if each.has_drifted]


@pytest.mark.parametrize(("num", "num_before"), [(25, 5000), (200, 200), (5000, 5000)])
def test_the_same_photos_drawn_again_raise_no_alarm(num: int, num_before: int) -> None:
    rng = np.random.default_rng(0)
    alarms = [drifted(drifts_of(faces(rng, num), faces(rng, num_before), 0.2)) for _ in range(200)]
    assert sum(map(bool, alarms)) <= 5


def test_what_differs_is_named_and_the_rest_is_not() -> None:
    rng = np.random.default_rng(0)
    before = faces(rng, 3000)
    assert drifted(drifts_of(faces(rng, 300, age=50), before, 0.2)) == ["age"]
    assert drifted(drifts_of(faces(rng, 300, broken=0.3), before, 0.2)) == ["status"]
    for side in (100.0, 400.0):
        assert drifted(drifts_of(faces(rng, 300, side=side), before, 0.2)) == ["short_side"], "all of them had one size"
    slight = {each.aspect: each for each in drifts_of(faces(rng, 3000, age=39), before, 0.2)}["age"]
    assert slight.p_value < 0.01
    assert not slight.has_drifted, "it is no chance, and yet little"


def test_histograms_add_up_and_values_beyond_the_bins_stay_in_the_last() -> None:
    rng = np.random.default_rng(0)
    age_N = rng.normal(40, 60, 1000)
    parts = [Histograms.of(500, {"age": half}, {"status": {"ok": 500}}) for half in np.split(age_N, 2)]
    whole = Histograms.of(1000, {"age": age_N}, {"status": {"ok": 1000}})
    added = Histograms() + parts[0] + parts[1]
    assert added.numbers["age"].tolist() == whole.numbers["age"].tolist()
    assert added.numbers["age"].sum() == added.num_rows == 1000
    assert dict(added.words["status"]) == {"ok": 1000}
    assert drifts_of(whole, Histograms.of(10, {"age": age_N[:10]}, {}), 0.2) == [], "of ten rows nothing is told"


def rows_of(num: int, age: float, scored_at: dt.datetime = NIGHT, prefix: str = "a") -> list[dict[str, Any]]:
    rng = np.random.default_rng(num)
    rows: list[dict[str, Any]] = [
        {"uri": f"/in/{prefix}{index}", "version": "1", "face": 0, "status": "ok", "age": age + float(rng.normal(0, 9)),
         "age_std": 5.0, "group": "adult", "gender": "male", "gender_probability": 0.9, "width": 200, "height": 300,
         "model": "beef", "scored_at": scored_at}
        for index in range(num)
    ]  # fmt: skip
    return [*rows, rows[0] | {"uri": f"/in/{prefix}broken", "status": "unreadable", "age": None}]


def write(folder: Path, rows: list[dict[str, Any]], number: int = 0, **facts: Any) -> str:
    return factories.write_predictions(str(folder), rows, "25-years", number, **facts)


def test_the_job_ends_with_3_and_a_line_where_photos_are_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, alike, older = (
        write(tmp_path / name, rows_of(num, age)) for name, num, age in (("b", 400, 30), ("a", 300, 30), ("o", 300, 60))
    )
    job(DriftConfig(alike, before, str(tmp_path / "out")))
    assert "no drift above --max-psi 0.2; the most is age" in capsys.readouterr().out
    assert look(str(tmp_path / "out")).kind == "drift"
    with pytest.raises(SystemExit) as ended:
        job(DriftConfig(older, before, str(tmp_path / "out")))
    assert ended.value.code == 3
    assert "1 of 7 aspects differ by more than --max-psi 0.2: age " in capsys.readouterr().err
    told = json.loads((tmp_path / "out" / "drift.json").read_text())
    assert told["has_drifted"]
    assert [each["aspect"] for each in told["aspects"] if each["has_drifted"]] == ["age"]
    assert sum(told["aspects"][0]["shares"]) == pytest.approx(1)
    text = Page((tmp_path / "out" / "drift.html").read_text()).text
    assert "Predicted age, years: drifted" in text
    job(DriftConfig(older, before, str(tmp_path / "out"), max_psi=50))


def test_a_night_is_compared_with_the_nights_before_in_the_same_table(tmp_path: Path) -> None:
    table = write(tmp_path / "t", rows_of(400, 30, NIGHT - dt.timedelta(days=1)))
    write(tmp_path / "t", rows_of(100, 60, NIGHT, "b"), number=1)
    out = str(tmp_path / "out")
    found = find_drift(DriftConfig(table, table, out, since="2026-11-30"))
    assert [each.aspect for each in found.drifted] == ["age"]
    assert found.answer.endswith("101 rows against 401")
    quiet = find_drift(DriftConfig(table, table, out, since="2026-11-30T02:00"))
    assert (quiet.page, quiet.drifted) == ("", [])
    assert "0 rows since 2026-11-30T02:00, too few to tell" in quiet.answer
    with pytest.raises(ValueError, match="the same table; --since DATE"):
        find_drift(DriftConfig(table, table, out))
    with pytest.raises(ValueError, match=r"--against .*: 0 rows, 20 are needed"):
        find_drift(DriftConfig(table, table, out, since="2020-01-01"))
    with pytest.raises(ValueError, match=r"^--since yesterday: a date, or a time, such as"):
        DriftConfig(table, table, out, since="yesterday")


def test_what_cannot_be_compared_or_overwritten_is_told_in_one_line(tmp_path: Path) -> None:
    one = write(tmp_path / "one", rows_of(50, 30))
    other = factories.write_predictions(str(tmp_path / "other"), rows_of(50, 30), "decades", model="cafe")
    found = find_drift(DriftConfig(one, other, str(tmp_path / "out")))
    assert found.notes == ["the predictions are of two models (cafe, now beef): what differs may be that"]
    told = json.loads((tmp_path / "out" / "drift.json").read_text())
    assert "group" not in {each["aspect"] for each in told["aspects"]}, "they are other groups"
    for out in (one, str(tmp_path)):
        with pytest.raises(ValueError, match="--out"):
            find_drift(DriftConfig(one, other, out))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"there are other files already \(letter.txt\)"):
        find_drift(DriftConfig(one, other, str(tmp_path / "mine")))


def photos_of(num: int, side: int, split: str = "train", **facts: Any) -> list[dict[str, Any]]:
    """Rows of a catalog, of which one could not be read."""
    rows = [
        {"uri": f"/in/{split}{index}", "version": "1", "deleted": False, "split": split, "width": side + 100,
         "height": side, "age_low": 5.0, "age_high": 6.0, **facts}
        for index in range(num)
    ]  # fmt: skip
    return [*rows, rows[0] | {"uri": f"/in/{split}broken", "width": None, "height": None}]


def test_against_a_catalog_or_what_a_model_has_learned_from_sizes_are_compared_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its ages are labels: of children, where adults are predicted."""
    rows = rows_of(300, 40)
    table = write(tmp_path / "t", [*rows, *({**row, "face": face} for row in rows for face in (1, 2, 3))])
    listed = [*photos_of(100, 200), *photos_of(300, 400, "val")]
    catalog = factories.write_catalog(str(tmp_path / "catalog"), {factories.PART: listed})
    out = str(tmp_path / "out")
    found = find_drift(DriftConfig(table, catalog, out))
    assert [(each.aspect, each.num_rows, each.num_against) for each in found.drifted] == [("short_side", 301, 400)]
    assert found.notes == [ONLY_SIZES.format(catalog)]
    spec = ModelSpec("cnn", "distribution", "25-years", 32)
    checkpoints.save(str(tmp_path / "best"), spec, {}, RunProgress(), {"settings": {"catalog": [catalog]}})
    job(DriftConfig(table, str(tmp_path / "best"), out))
    assert "no drift above --max-psi 0.2; the most is short_side 0.007; 301 rows against 100" in capsys.readouterr().out
    told = json.loads((tmp_path / "out" / "drift.json").read_text())
    assert [each["aspect"] for each in told["aspects"]] == ["short_side"]
    assert told["about"]["run_against"] == {"catalog": catalog, "split": "train"}


def test_photos_that_were_only_listed_have_no_size_to_compare_with(tmp_path: Path) -> None:
    table = write(tmp_path / "t", rows_of(50, 30))
    listed = photos_of(50, 200, width=None, height=None)
    catalog = factories.write_catalog(str(tmp_path / "catalog"), {factories.PART: listed})
    with pytest.raises(ValueError, match=r"--against .*: its photos were only listed; jobs/catalog.py --inspect"):
        find_drift(DriftConfig(table, catalog, str(tmp_path / "out")))
    with pytest.raises(ValueError, match=r"no predictions there"):
        find_drift(DriftConfig(table, str(tmp_path / "nothing"), str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
