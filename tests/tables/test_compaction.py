"""Tables of many nights, written anew: the same current rows, in few files, and the nights go on with them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import RunJob
from dying_writes import dies_at_write

from agescale.cataloging.driver import build_catalog
from agescale.config import CatalogConfig, CompactConfig, VerifyConfig
from agescale.scoring.verification import verify
from agescale.store import objects, parquet, paths
from agescale.tables import catalogs, datasets, folders, schema, units
from agescale.tables.catalogs import Catalog
from agescale.tables.compaction import compact
from agescale.tables.predictions import Predictions, summary_uri

MODEL = "3ab5"
NIGHTS = 4


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogs, "LISTED_PART_ROWS", 12)


def list_again(folder: Path) -> Any:
    return build_catalog(CatalogConfig(str(folder / "photos"), str(folder / "catalog")))


def score(catalog: str, out: str, but: str = "nothing") -> None:
    """What jobs/score.py would write: the current rows of each unit that has no file yet."""
    parts = Catalog.open(catalog).parts
    run = {"model": MODEL, "age_groups": "25-years", "catalog": catalog, "unit_rows": 5, "split": "", "tta": False}
    run["catalog_id"] = Catalog.open(catalog).metadata["id"]
    superseded = catalogs.Superseded(catalog, parts)
    for unit in units.cut(parts, 5):
        name = unit.file_name(MODEL)
        rows = units.listed_rows(Catalog.open(catalog), unit, [])
        rows = superseded.current(rows, catalogs.listing_of(unit.part))
        if but in rows["uri"].to_pylist() or objects.exists(paths.join(out, name)):
            continue
        keys = [{"uri": row["uri"], "version": row["version"]} for row in rows.to_pylist()]
        said = [{**key, "face": 0, "status": "ok", "age": 30.0, "group": "25-49", "model": MODEL} for key in keys]
        metadata = {"run": run, "checkpoint": "/best", "model_card": {}, "statuses": Counter(ok=len(said)), "gone": {}}
        folders.write_new_part(out, name, pa.Table.from_pylist(said, schema.with_metadata("predictions", metadata)))
    counts = Counter(parquet.read_tables(Predictions.open(out).files, ["status"])["status"].to_pylist())
    summary = {"num_rows": counts.total(), "by_status": counts}
    objects.write_bytes(summary_uri(out), json.dumps(summary).encode())


@pytest.fixture
def nights(tmp_path: Path) -> Path:
    """A folder that was listed and scored every night while photos came, changed and went."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for night in range(NIGHTS):
        for number in range(7):
            (photos / f"{number}-{night}.jpg").write_bytes(b"x" * night)
        if night:
            (photos / f"1-{night - 1}.jpg").write_bytes(b"changed" * night)
            (photos / f"2-{night - 1}.jpg").unlink()
        list_again(tmp_path)
        score(str(tmp_path / "catalog"), str(tmp_path / "ages"))
    return tmp_path


def config(folder: Path, name: str = "new", **others: Any) -> CompactConfig:
    new = f"{folder}/{name}-catalog", f"{folder}/{name}-ages"
    return CompactConfig(f"{folder}/catalog", new[0], f"{folder}/ages", new[1], **others)


def rows_of(catalog: str, predictions: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    listed, scored = datasets.read_catalog(catalog).to_table(), datasets.read_predictions(predictions).to_table()
    return listed.sort_by("uri").to_pylist(), scored.sort_by("uri").to_pylist()


def test_the_new_tables_have_the_current_rows_of_the_old_ones_in_fewer_files(nights: Path) -> None:
    done = compact(config(nights))
    old = rows_of(f"{nights}/catalog", f"{nights}/ages")
    assert rows_of(f"{nights}/new-catalog", f"{nights}/new-ages") == old
    assert done.num_parts == (3 * NIGHTS - 2, 3)  # new, changed and gone each night
    assert done.num_rows == (7 * NIGHTS + 2 * (NIGHTS - 1), len(old[0]))
    assert done.num_predicted == len(old[1]) == len(old[0])
    assert done.num_files[1] < done.num_files[0]
    found = verify(VerifyConfig(f"{nights}/new-catalog", f"{nights}/new-ages"))
    assert (found.problems, found.num_rows) == ((), len(old[0]))
    assert compact(config(nights)) == done  # again: nothing to do


def test_the_nights_go_on_with_the_new_tables(nights: Path) -> None:
    compact(config(nights))
    shutil.rmtree(nights / "catalog")
    shutil.rmtree(nights / "catalog.agescale")
    (nights / "new-catalog").rename(nights / "catalog")
    (nights / "new-catalog.agescale").rename(nights / "catalog.agescale")
    assert list_again(nights).num_new == 0
    (nights / "photos" / "late.jpg").write_bytes(b"late")
    (nights / "photos" / "3-0.jpg").write_bytes(b"changed")
    again = list_again(nights)
    assert (again.num_new, again.num_changed, again.num_deleted) == (1, 1, 0)


def test_whatever_write_is_the_last_the_same_command_continues(nights: Path) -> None:
    """Kills between any two writes, one after the other."""
    compact(config(nights, "whole"))
    expected = rows_of(f"{nights}/whole-catalog", f"{nights}/whole-ages")
    for number in range(100):
        killed = config(nights, f"killed-{number}")
        if not dies_at_write(number, lambda killed=killed: compact(killed)):  # type: ignore[misc]
            break
        compact(killed)
        assert rows_of(killed.out, killed.out_predictions) == expected
        assert verify(VerifyConfig(killed.out, killed.out_predictions)).problems == ()
    assert number > 8, "it was hardly ever killed"


def test_what_was_not_scored_is_left_to_be_scored(nights: Path) -> None:
    late = str(nights / "photos" / "late.jpg")
    Path(late).write_bytes(b"late")
    list_again(nights)
    done = compact(config(nights))
    listed, scored = rows_of(f"{nights}/new-catalog", f"{nights}/new-ages")
    without = {row["uri"] for row in listed} - {row["uri"] for row in scored}
    assert late in without
    assert done.num_predicted == len(listed) - len(without)
    assert "not scored yet" in verify(VerifyConfig(f"{nights}/new-catalog", f"{nights}/new-ages")).problems[0]
    score(f"{nights}/new-catalog", f"{nights}/new-ages")
    assert verify(VerifyConfig(f"{nights}/new-catalog", f"{nights}/new-ages")).problems == ()


def test_findings_and_packed_images_come_along(tmp_path: Path) -> None:
    catalog = str(tmp_path / "catalog")
    settings = {"layout": "class_folders", "source": "/faces", "pack": 32}
    listings = [[{"uri": "/b"}, {"uri": "/a"}], [{"uri": "/c"}, {"uri": "/a", "deleted": True}]]
    for listing, rows in enumerate(listings, start=1):
        metadata = schema.with_metadata("catalog", {"id": "1", "settings": settings})
        rows = [{"version": "1", "deleted": False, "image": row["uri"].encode(), "age_low": 3.0, **row} for row in rows]
        folders.write_new_part(catalog, f"part-{listing:05d}-000000.parquet", pa.Table.from_pylist(rows, metadata), 256)
    covered = schema.with_metadata("findings", {"id": "1", "parts": Catalog.open(catalog).names})
    findings = pa.Table.from_pylist([{"uri": "/b", "version": "1", "kind": "tiny", "detail": "small"}], covered)
    parquet.write_table(catalogs.findings_uri(catalog), findings)
    new = str(tmp_path / "new")
    compact(CompactConfig(catalog, new))
    Catalog.open(new).check_complete()
    assert folders.list_parts(new, "catalog") == ["part-00002-000000.parquet"]
    rows = parquet.read_table(f"{new}/part-00002-000000.parquet", ["uri", "image", "age_low"]).to_pylist()
    assert rows == [{"uri": uri, "image": uri.encode(), "age_low": 3.0} for uri in ("/b", "/c")]
    assert Catalog.open(new).findings.to_pylist() == findings.to_pylist()
    assert Catalog.open(new).settings == settings


def test_mistakes_are_told_before_anything_is_written(nights: Path) -> None:
    with pytest.raises(ValueError, match="go together"):
        compact(CompactConfig(f"{nights}/catalog", f"{nights}/new", predictions=f"{nights}/ages"))
    with pytest.raises(ValueError, match="catalog: there is the catalog; give a folder of the new catalog's own"):
        compact(CompactConfig(f"{nights}/catalog", f"{nights}/catalog"))
    assert not (nights / "new").exists()
    compact(config(nights))
    (nights / "photos" / "late.jpg").write_bytes(b"late")
    list_again(nights)
    with pytest.raises(ValueError, match="listing was 4, is 5"):
        compact(config(nights))


def test_the_job_says_what_became_of_it(nights: Path, run_job: RunJob) -> None:
    told = config(nights)
    done = run_job("jobs/compact.py", "--catalog", told.catalog, "--out", told.out, "--predictions", told.predictions,
                   "--out-predictions", told.out_predictions)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "parts -> " in done.stdout
    assert f"predictions: {told.out_predictions} (" in done.stdout
