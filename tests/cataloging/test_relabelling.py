"""Labels that changed: what reads labels sees the new ones, what knows images only sees nothing new."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from agescale.cataloging import relabelling
from agescale.config import CompactConfig, TableConfig, TrainConfig, VerifyConfig
from agescale.faces.geometry import FaceGeometry
from agescale.scoring.verification import verify
from agescale.store import objects, parquet, paths
from agescale.tables import catalogs, compaction, datasets, exports, faces, folders, labels, schema, units
from agescale.tables.catalogs import Catalog
from agescale.tables.predictions import Predictions, summary_uri
from agescale.training import plan

MODEL = "3ab5"
METADATA = {"id": "1", "settings": {"source": "/in", "layout": "csv", "age_groups": "child=0-12,adult=13-", "pack": 9}}
FACTS = {"version": "1", "deleted": False, "width": 64, "height": 48, "image": b"packed"}
Row = dict[str, Any]


def label(age: float | None, split: str = "train", **others: Any) -> Row:
    told = dict.fromkeys(relabelling.TOLD) | {"age_low": age, "age_high": None if age is None else age + 1}
    return told | {"split": split, **others}


def write_part(catalog: str, listing: int, rows: list[Row]) -> None:
    listed = [{"listed_at": listing, **FACTS, "content_hash": f"hash of {row['uri']}", **row} for row in rows]
    table = pa.Table.from_pylist(listed, schema.with_metadata("catalog", METADATA))
    folders.write_new_part(catalog, f"part-{listing:05d}-000000.parquet", table, catalogs.ROW_GROUP_ROWS)


def complete(catalog: str) -> None:
    covered = schema.with_metadata("findings", {"id": "1", "parts": Catalog.open(catalog).names})
    parquet.write_table(catalogs.findings_uri(catalog), covered.empty_table())


def relabel(catalog: str, listing: int, now: dict[str, Row]) -> list[str]:
    rows = Catalog.open(catalog).read(["uri", "version", *relabelling.TOLD]).to_pylist()
    found = [each for row in rows if (each := relabelling.compare(row, now.get(row["uri"], row)))]
    return relabelling.write_parts(catalog, found, METADATA, listing, 0, lambda: None)


def score(catalog: str, out: str, splits: str = "") -> int:
    """What jobs/score.py would write; returns how many images were scored now."""
    parts, num_scored = Catalog.open(catalog).parts, 0
    run = {"model": MODEL, "age_groups": "25-years", "catalog": catalog, "catalog_id": "1", "unit_rows": 2}
    run |= {"split": splits, "tta": False}
    superseded = catalogs.Superseded(catalog, parts)
    for unit in units.cut(parts, 2):
        name = unit.file_name(MODEL)
        if objects.exists(paths.join(out, name)):
            continue
        rows = units.listed_rows(Catalog.open(catalog), unit, splits.split(",") if splits else [])
        rows = superseded.current(rows, catalogs.listing_of(unit.part))
        keys = [{"uri": row["uri"], "version": row["version"]} for row in rows.to_pylist()]
        said = [{**key, "face": 0, "status": "ok", "age": 30.0, "group": "25-49", "model": MODEL} for key in keys]
        metadata = {
            "run": run,
            "checkpoint": "/best",
            "model_card": {},
            "statuses": Counter(row["status"] for row in said),
            "gone": {},
        }
        folders.write_new_part(out, name, pa.Table.from_pylist(said, schema.with_metadata("predictions", metadata)))
        num_scored += len(said)
    counts = Counter(parquet.read_tables(Predictions.open(out).files, ["status"])["status"].to_pylist())
    summary = {"num_rows": counts.total(), "by_status": counts}
    objects.write_bytes(summary_uri(out), json.dumps(summary).encode())
    return num_scored


@pytest.fixture
def catalog(tmp_path: Path) -> str:
    """a to e, listed on two nights."""
    out = str(tmp_path / "catalog")
    write_part(out, 1, [{"uri": f"/in/{name}", **label(10 * age)} for age, name in enumerate("abc", start=1)])
    write_part(out, 2, [{"uri": f"/in/{name}", **label(10 * age)} for age, name in enumerate("de", start=4)])
    complete(out)
    return out


def ages(catalog: str) -> dict[str, float | None]:
    rows = Catalog.open(catalog).read(["uri", "age_low"]).to_pylist()
    return {row["uri"].removeprefix("/in/"): row["age_low"] for row in rows}


def listed_ages(catalog: str) -> dict[str, float | None]:
    """The same for whoever reads the files as they are: the newest row of each URI, unless deleted."""
    columns = ["uri", "age_low", "image", "content_hash"]
    rows = datasets.read_catalog(catalog).to_table(columns=columns).to_pylist()
    assert all(row["image"] == b"packed" and row["content_hash"] == f"hash of {row['uri']}" for row in rows)
    assert len({row["uri"] for row in rows}) == len(rows)
    return {row["uri"].removeprefix("/in/"): row["age_low"] for row in rows}


def test_what_is_new_is_told_in_words() -> None:
    def words(before: Row, now: Row) -> str:
        found = relabelling.compare(before, now)
        return found.words if found else "nothing new"

    assert words(label(34), label(34.0)) == "nothing new"
    assert words(label(27.3), label(pa.scalar(27.3, pa.float32()).as_py())) == "nothing new"
    assert words(label(34), label(43)) == "34 -> 43"
    assert words(label(34, label_error="no label"), label(34)) == ""
    assert words(label(None), label(7, gender="female")) == "nothing -> 7, gender nothing -> female"
    assert words(label(None, group="child"), label(0, age_high=13.0)) == "child -> 0-12"
    moved = label(7, subject="anna", split="test")
    assert words(label(7, subject="otto"), moved) == "subject otto -> anna, split train -> test"


def test_new_labels_are_seen_by_all_who_read_labels_and_images_stay_as_they_were(catalog: str, tmp_path: Path) -> None:
    out = str(tmp_path / "ages")
    assert score(catalog, out) == 5
    before = Catalog.open(catalog).read(["uri", "width"])
    relabel(catalog, 3, {"/in/b": label(72), "/in/e": label(None, label_error="no label")})
    relabel(catalog, 4, {"/in/b": label(21, gender="female")})
    complete(catalog)
    expected = {"a": 10.0, "b": 21.0, "c": 30.0, "d": 40.0, "e": None}
    assert ages(catalog) == listed_ages(catalog) == expected
    assert Catalog.open(catalog).read(["uri", "width"]).equals(before)
    assert score(catalog, out) == 0
    assert verify(VerifyConfig(catalog, out)).problems == ()
    assert datasets.read_predictions(out).count_rows() == 5

    table = str(tmp_path / "table.parquet")
    columns = ("uri", "age", "age_low", "label_gender")
    exported = exports.export(TableConfig(catalog, out, table, columns=columns))
    assert (exported.num_rows, exported.num_not_scored) == (5, 0)
    rows = {row["uri"]: row for row in parquet.read_table(table).to_pylist()}
    assert rows["/in/b"] == {"uri": "/in/b", "age": 30.0, "age_low": 21.0, "label_gender": "female"}

    new, new_out = f"{catalog}-new", f"{out}-new"
    compaction.compact(CompactConfig(catalog, new, out, new_out))
    assert ages(new) == listed_ages(new) == expected
    assert not any(part.relabels for part in Catalog.open(new).parts)
    assert datasets.read_predictions(new_out).count_rows() == 5
    assert verify(VerifyConfig(new, new_out)).problems == ()


def test_an_image_with_new_labels_may_still_change_and_go(catalog: str, tmp_path: Path) -> None:
    out = str(tmp_path / "ages")
    relabel(catalog, 3, {"/in/a": label(11), "/in/b": label(21), "/in/d": label(41)})
    write_part(catalog, 4, [{"uri": "/in/a", "deleted": True}, {"uri": "/in/b", "version": "2", **label(21)}])
    write_part(catalog, 5, [{"uri": "/in/b", "version": "1@5", **label(22)}])  # back as it had been
    assert ages(catalog) == listed_ages(catalog) == {"b": 22.0, "c": 30.0, "d": 41.0, "e": 50.0}
    assert score(catalog, out) == 4
    relabel(catalog, 6, {"/in/b": label(23)})
    complete(catalog)
    assert ages(catalog) == listed_ages(catalog) == {"b": 23.0, "c": 30.0, "d": 41.0, "e": 50.0}
    assert score(catalog, out) == 0
    assert verify(VerifyConfig(catalog, out)).problems == ()
    assert datasets.read_predictions(out).count_rows() == 4


def test_an_image_that_moves_to_another_split_is_scored_there(catalog: str, tmp_path: Path) -> None:
    out = str(tmp_path / "ages")
    assert score(catalog, out, "train") == 5
    assert score(catalog, f"{out}-test", "test") == 0
    relabel(catalog, 3, {"/in/a": label(11), "/in/b": label(21, split="test")})
    complete(catalog)
    assert ages(catalog) == listed_ages(catalog) == {"a": 11.0, "b": 21.0, "c": 30.0, "d": 40.0, "e": 50.0}
    assert (score(catalog, out, "train"), score(catalog, f"{out}-test", "test")) == (0, 1)
    for table in (out, f"{out}-test"):
        assert verify(VerifyConfig(catalog, table)).problems == ()
    relabel(catalog, 4, {"/in/b": label(21)})  # and back
    complete(catalog)
    assert (score(catalog, out, "train"), score(catalog, f"{out}-test", "test")) == (1, 0)
    assert datasets.read_predictions(out).count_rows() == 5
    assert datasets.read_predictions(f"{out}-test").count_rows() == 0


def test_what_was_found_of_its_faces_moves_with_an_image(catalog: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And where not all were looked for, nobody says that there are none."""
    monkeypatch.setitem(METADATA["settings"], "faces", "largest")
    monkeypatch.setattr(relabelling, "PART_ROWS", 2)
    geometry, box = FaceGeometry(), [1.0, 2.0, 30.0, 40.0]
    photo = {"version": "1", "num_faces": 1, "photo_width": 64, "photo_height": 48, "content_hash": "beef"}
    found = [{**photo, "uri": f"/in/{name}", "face": 0, "face_box": box, "face_score": 0.9} for name in "ac"]
    found += [{**photo, "uri": "/in/b", "face": 0, "num_faces": 0}]
    faces.write(catalog, geometry, "part-00001-000000.parquet", pa.Table.from_pylist(found, schema.FACES))
    names = relabel(catalog, 3, {f"/in/{name}": label(1, split="test") for name in "abcd"})
    assert len(names) == 2
    assert faces.missing_parts(Catalog.open(catalog), geometry) == ["part-00002-000000.parquet", names[1]]
    moved = parquet.read_table(faces.file_of(catalog, geometry, names[0])).to_pylist()
    assert [(row["uri"], row["version"], row["num_faces"]) for row in moved] == [
        ("/in/a", "1@3", 1),
        ("/in/b", "1@3", 0),
    ]
    asked = pa.table({"uri": ["/in/b", "/in/a"], "part": [names[0]] * 2})
    wall, face = faces.known_faces(catalog, asked, geometry)
    assert wall is not None
    assert wall.faces == ()
    assert face is not None
    assert face.faces[0].box == tuple(box)


def test_a_catalog_of_before_there_were_boxes_goes_on(catalog: str, tmp_path: Path) -> None:
    for name in Catalog.open(catalog).names:
        rows = parquet.read_table(paths.join(catalog, name))
        said = {**rows.schema.metadata, b"agescale.schema_version": b"3"}
        Path(catalog, name).write_bytes(parquet.as_parquet(rows.drop_columns(["boxes"]).replace_schema_metadata(said)))
    rows = Catalog.open(catalog).read(["uri", "boxes"])
    assert rows["boxes"].null_count == len(rows) == 5
    box = {"x": 1.0, "y": 2.0, "width": 3.0, "height": 4.0, **dict.fromkeys(schema.BOX_LABEL), "age_low": 7.0}
    relabel(catalog, 3, {"/in/b": label(72), "/in/e": label(None, boxes=[box | {"age_high": 8.0}, box])})
    assert ages(catalog) == listed_ages(catalog) == {"a": 10.0, "b": 72.0, "c": 30.0, "d": 40.0, "e": None}
    complete(catalog)
    compaction.compact(CompactConfig(catalog, f"{catalog}-new"))
    for each in (catalog, f"{catalog}-new"):
        told = labels.per_label(Catalog.open(each).read(["uri", "age_low", "boxes", "width", "height"])).to_pylist()
        assert [(row["uri"], row["age_low"]) for row in told][-2:] == [("/in/e", 7.0)] * 2
        assert told[-1]["box"] == [1 / 64, 2 / 48, 4 / 64, 6 / 48]
        assert [row["box"] for row in told[:-2]] == [None] * 4


def test_settings_are_those_of_the_newest_part_even_if_no_label_is_new(catalog: str) -> None:
    metadata = METADATA | {"settings": {"age_groups": "minor=0-17,adult=18-"}}
    names = relabelling.write_parts(catalog, [], metadata, 3, 0, lambda: None)
    assert names == ["part-00003-000000.parquet"]
    assert Catalog.open(catalog).settings == metadata["settings"]
    assert ages(catalog) == listed_ages(catalog) == {"a": 10.0, "b": 20.0, "c": 30.0, "d": 40.0, "e": 50.0}


def test_many_new_labels_are_parts_of_some_rows(catalog: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relabelling, "PART_ROWS", 2)
    names = relabel(catalog, 3, {f"/in/{name}": label(1) for name in "abcde"})
    assert [parquet.num_rows(paths.join(catalog, name)) for name in names] == [2, 2, 1]
    assert set(ages(catalog).values()) == set(listed_ages(catalog).values()) == {1.0}


def test_a_run_goes_on_with_the_labels_and_groups_that_it_began_with(catalog: str, tmp_path: Path) -> None:
    config, begun = TrainConfig(catalog=(catalog,)), tmp_path / "run.json"
    first = plan.select(config, str(begun))
    plan.pin_images(str(tmp_path), first)
    begun.write_text("{}")
    relabel(catalog, 3, {"/in/b": label(72)})
    groups = {"settings": METADATA["settings"] | {"age_groups": "minor=0-17,adult=18-"}}
    relabelling.write_parts(catalog, [], METADATA | groups, 4, 0, lambda: None)
    complete(catalog)
    again, other = plan.select(config, str(begun)), plan.select(config)
    assert (again.age_groups, again.run) == (first.age_groups, first.run)
    assert again.rows.equals(first.rows)
    assert other.age_groups.names == ("minor", "adult")
    assert other.rows["age_low"].to_pylist() == [10.0, 72.0, 30.0, 40.0, 50.0]
    assert other.run["data"] != first.run["data"]
