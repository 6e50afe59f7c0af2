"""A catalog and predictions as arrays: row by row what a join by hand says, in a few bytes a row."""

from __future__ import annotations

import math
import random
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from factories import MODEL, write_catalog, write_predictions

from agescale.ages.groups import AgeGroups
from agescale.evaluation import arrays
from agescale.evaluation.arrays import Names
from agescale.tables import schema
from agescale.tables.catalogs import Catalog
from agescale.tables.predictions import Predictions

GROUPS = AgeGroups.parse("young=0-29,old=30-")
NAMES = list(GROUPS.names)


def image(number: int, draw: random.Random, version: str = "1") -> dict[str, Any]:
    age = draw.choice([None, float(draw.randrange(90))])
    return {
        "uri": f"s3://bucket/{number:04d}.jpg",
        "version": version,
        "deleted": False,
        "age_low": age,
        "age_high": None if age is None else age + draw.choice([1, 1, 40]),
        "subject": draw.choice([None, "a", "b"]),
        "gender": draw.choice([None, "male", "female"]),
        "split": draw.choice([None, "train", "val", "test"]),
    }


def prediction(row: dict[str, Any], draw: random.Random, **facts: Any) -> dict[str, Any]:
    ok = {"status": "ok", "age": draw.random() * 90, "age_std": draw.random(), "group": draw.choice(NAMES),
          "group_probability": draw.random(), "gender": draw.choice(["male", "female", "other"])}  # fmt: skip
    said = draw.choice([ok, ok, {"status": draw.choice(["missing", "unreadable"])}])
    return {"uri": row["uri"], "version": row["version"], "face": 0, "model": MODEL} | said | facts


def made_up(folder: Path, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Three parts, the last of a second night, and predictions in four files: of some images none, of some two, of
    versions that are gone and of strangers. The current rows in their order, and all predictions in theirs."""
    draw = random.Random(seed)
    first, second = [image(number, draw) for number in range(300)], [image(number, draw) for number in range(300, 500)]
    again = [image(number, draw, version="2") for number in sorted(draw.sample(range(500), 90))]
    for row in again[::5]:
        row["deleted"] = True
    names = [f"part-{name}.parquet" for name in ("00001-000000", "00001-000001", "00002-000000")]
    findings = [{"uri": row["uri"], "version": row["version"], "kind": "duplicate"} for row in first[::7]]
    write_catalog(str(folder / "catalog"), dict(zip(names, (first, second, again), strict=True)), findings)
    named_again = {row["uri"] for row in again}
    current = [row for row in (*first, *second) if row["uri"] not in named_again]
    current += [row for row in again if not row["deleted"]]

    strangers = [image(number, draw) for number in range(900, 950)]
    asked = draw.choices([*first, *second, *again, *strangers], k=700)
    predictions = [prediction(row, draw, face=draw.choice([0, 0, 0, 1])) for row in asked]
    for number, start in enumerate(range(0, 700, 200)):
        write_predictions(str(folder / "ages"), predictions[start : start + 200], GROUPS.format(), number)
    return current, predictions


@pytest.mark.parametrize("seed", range(4))
def test_each_row_has_what_was_predicted_of_its_image(tmp_path: Path, seed: int) -> None:
    current, predictions = made_up(tmp_path, seed)
    catalog = Catalog.open(str(tmp_path / "catalog"))
    listed = arrays.read_catalog(catalog, GROUPS, catalog.excluded())
    said = arrays.read_predictions(Predictions.open(str(tmp_path / "ages")), listed, NAMES)
    assert listed.places(np.arange(len(listed)))["uri"].to_pylist() == [row["uri"] for row in current]
    by_key: dict[tuple[str, str], dict[str, Any]] = {}
    for each in predictions:
        key = each["uri"], each["version"]
        if each["face"] == 0 and by_key.get(key, {}).get("status") != "ok":
            by_key[key] = each if each["status"] == "ok" else by_key.get(key, each)
    genders = [*listed.genders.names, None]
    for n, row in enumerate(current):
        expected = by_key.get((row["uri"], row["version"]), {})
        assert [*said.statuses, None][said.status_N[n]] == expected.get("status")
        assert said.is_ok_N[n] == (expected.get("status") == "ok")
        assert genders[said.gender_N[n]] == expected.get("gender")
        assert genders[listed.gender_N[n]] == row["gender"]
        assert [*NAMES, None][said.group_N[n]] == expected.get("group")
        for name, values_N in (
            ("age", said.age_N),
            ("age_std", said.age_std_N),
            ("group_probability", said.probability_N),
        ):
            assert float(values_N[n]) == pytest.approx(expected.get(name, math.nan), rel=1e-6, nan_ok=True)
        assert [*schema.SPLITS, None][listed.split_N[n]] == row["split"]
        assert listed.is_excluded_N[n] == (int(row["uri"][-8:-4]) % 7 == 0 and int(row["uri"][-8:-4]) < 300)
    subjects = [row["subject"] or f"own {n}" for n, row in enumerate(current)]
    assert (
        len(set(zip(subjects, listed.cluster_N.tolist(), strict=True)))
        == len(set(subjects))
        == len(set(listed.cluster_N))
    )
    counted = {split: of_split["duplicate"] for split, of_split in listed.findings.items()}
    splits = [row["split"] for row, is_excluded in zip(current, listed.is_excluded_N, strict=True) if is_excluded]
    assert counted == {split: splits.count(split) for split in set(splits)}


def test_a_row_takes_few_bytes_however_long_its_names_are(tmp_path: Path) -> None:
    made_up(tmp_path, seed=0)
    catalog = Catalog.open(str(tmp_path / "catalog"))
    listed = arrays.read_catalog(catalog, GROUPS, catalog.excluded())
    said = arrays.read_predictions(Predictions.open(str(tmp_path / "ages")), listed, NAMES)
    held_N = [getattr(held, field.name) for held in (listed, said) for field in fields(held) if "_N" in field.name]
    columns = [column for column in held_N if column is not None]
    assert len(columns) == 23
    assert {array.dtype.kind for array in columns} <= set("biuf")
    assert sum(array.nbytes for array in columns) < 100 * len(listed)


def test_names_that_come_later_leave_the_codes_before_as_they_are() -> None:
    names = Names()
    codes = [names.codes(pa.chunked_array([column], pa.string())).tolist() for column in (["b", None], ["c", "a", "b"])]
    assert codes == [[0, -1], [2, 1, 0]]
    code_N, in_order = names.sorted(np.array([0, -1, 2, 1]))
    assert (code_N.tolist(), in_order) == ([1, -1, 2, 0], ["a", "b", "c"])
    assert Names().sorted(np.array([-1, -1]))[0].tolist() == [-1, -1]
