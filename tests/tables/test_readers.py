"""The tables open in people's own tools by the name of their folder, all columns, also while a job writes them."""

from __future__ import annotations

import datetime as dt
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from readers import READERS

from agescale.ages import cdf as age_cdf
from agescale.store import lease, objects, parquet, paths
from agescale.tables import catalogs, folders, schema, units
from agescale.tables.catalogs import Catalog
from agescale.tables.predictions import Predictions, summary_uri

REPO = Path(__file__).parents[2]
OTHERS = os.environ.get("AGESCALE_READERS_PYTHON", "")
"""The interpreter of ``make test-readers``: the oldest pyarrow that is allowed, and readers that want it."""
NOT_ON_S3 = ("duckdb", "spark")
"""These two fetch their part for S3 from the network when they are first asked."""

ages_of = {"a.jpg": 5, "b.jpg": 17, "ü.jpg": 18, "日本.jpg": 60}
MINORS = ["/photos/a.jpg", "/photos/b.jpg"]


def predicted(name: str, age: int | None) -> dict[str, Any]:
    row = {"uri": f"/photos/{name}", "version": "1", "face": 0, "model": "beef", "scored_at": dt.datetime.now(dt.UTC)}
    if age is None:
        return row | {"status": "missing", "error": "not found"}
    cdf = age_cdf.quantize(np.eye(101)[[age]])[0].astype(np.int32)
    return row | {"status": "ok", "age": float(age), "group": "0-24", "group_probability": 0.5, "age_cdf": cdf}


def write_tables(folder: str) -> tuple[str, str]:
    """A catalog and its predictions: a part whose rows all failed, one whose rows did not, one without rows."""
    catalog, out = paths.join(folder, "catalog"), paths.join(folder, "predictions")
    for table in (catalog, out):
        objects.check_writable(folders.beside(table))
    metadata = {"id": "1", "settings": {}}
    for number, names in enumerate((["gone.jpg"], list(ages_of), [])):
        part = f"part-00001-{number:06d}.parquet"
        listed = [{"uri": f"/photos/{name}", "version": "1", "deleted": False} for name in names]
        listed = [row | ({"image": b"JPEG", "age_low": 5.0} if number else {}) for row in listed]
        rows = pa.Table.from_pylist(listed, schema.with_metadata("catalog", metadata))
        folders.write_new_part(catalog, part, rows, 2)
        scored = [predicted(name, ages_of.get(name)) for name in names]
        rows = pa.Table.from_pylist(scored, schema.with_metadata("predictions", {"run": {}}))
        folders.write_new_part(out, units.Unit(part, 0, 4).file_name("beef"), rows)
    parquet.write_table(catalogs.findings_uri(catalog), schema.with_metadata("findings", {}).empty_table())
    objects.write_bytes(summary_uri(out), b"{}")
    return catalog, out


@pytest.fixture
def written(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Both tables, while jobs hold them and are writing the next part."""
    both = write_tables(str(tmp_path))
    with ExitStack() as stack:
        for table in both:
            stack.enter_context(lease.hold(table, folders.beside(table)))
            Path(folders.beside(table), ".part-00002-000000.parquet.x7").write_bytes(b"PAR1")
        yield both


def pythons_with(reader: str) -> list[str]:
    """The interpreters that have a reader: this one, and that of ``make test-readers``."""
    module = {"spark": "pyspark"}.get(reader, reader)
    found = [sys.executable] if importlib.util.find_spec(module) else []
    if OTHERS and subprocess.run([OTHERS, "-c", f"import {module}"], capture_output=True).returncode == 0:
        found.append(OTHERS)
    return found


def answers_of(reader: str, folder: str) -> list[dict[str, Any]]:
    if reader == "spark" and not shutil.which("java"):
        pytest.skip("no Java on the PATH")
    answers = []
    for python in pythons_with(reader):
        command = [python, "-W", "ignore", str(REPO / "tests" / "readers.py"), reader, folder]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
        assert ended.returncode == 0, f"{python}: {ended.stderr[-3000:]}"
        answers.append(json.loads(ended.stdout.splitlines()[-1]))
    return answers


@pytest.mark.parametrize("reader", READERS)
def test_a_table_opens_by_the_name_of_its_folder_while_a_job_writes_it(reader: str, written: tuple[str, str]) -> None:
    catalog, predictions = written
    of_predictions = answers_of(reader, predictions)
    if not of_predictions:
        pytest.skip(f"no {reader} here; make test-readers installs it")
    expected = {"num_rows": 5, "columns": schema.PREDICTIONS.names, "minors": MINORS}
    assert of_predictions == [expected] * len(of_predictions)
    expected = {"num_rows": 5, "columns": schema.CATALOG.names, "minors": None}
    assert answers_of(reader, catalog) == [expected] * len(of_predictions)


@pytest.mark.parametrize("reader", [reader for reader in READERS if reader not in NOT_ON_S3])
def test_a_table_on_s3_opens_by_its_name_too(reader: str, s3: str) -> None:
    _, predictions = write_tables(f"{s3}/readers/{reader}")
    with lease.hold(predictions, folders.beside(predictions)):
        answers = answers_of(reader, predictions)
        if not answers:
            pytest.skip(f"no {reader} here; make test-readers installs it")
    expected = {"num_rows": 5, "columns": schema.PREDICTIONS.names, "minors": MINORS}
    assert answers == [expected] * len(answers)


@pytest.mark.parametrize("kind", ["catalog", "predictions"])
def test_a_table_of_nothing_but_strangers_files_is_left_alone(kind: str, tmp_path: Path) -> None:
    out = str(tmp_path / "photos")
    objects.write_bytes(f"{out}/me.jpg", b"")
    with pytest.raises(ValueError, match=r"photos: there are other files already \(me\.jpg\)"):
        folders.output(out, kind).check({})
    assert [path.name for path in tmp_path.rglob("*")] == ["photos", "me.jpg"]


def test_a_table_is_no_other_kind_of_table(tmp_path: Path) -> None:
    catalog, predictions = write_tables(str(tmp_path))
    for table, kind in ((catalog, "predictions"), (predictions, "catalog")):
        with pytest.raises(ValueError, match="there are other files already"):
            folders.output(table, kind).check({})


def test_where_another_table_or_photos_stand_instead_of_a_table_is_told(tmp_path: Path) -> None:
    catalog, predictions = write_tables(str(tmp_path))
    objects.write_bytes(str(tmp_path / "photos" / "me.jpg"), b"")
    with pytest.raises(ValueError, match="predictions: no catalog there, but predictions; make one with"):
        Catalog.open(predictions)
    with pytest.raises(ValueError, match="catalog: no predictions there, but a catalog; make them with"):
        Predictions.open(catalog)
    with pytest.raises(ValueError, match=r"photos: no catalog there, but other files \(such as me\.jpg\); make one"):
        Catalog.open(str(tmp_path / "photos"))


def test_a_table_stands_in_a_folder_that_can_have_a_neighbour(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"s3://bucket: a table needs a folder below, such as --out s3://bucket/catalog"
    ):
        folders.output("s3://bucket", "catalog")
    with pytest.raises(ValueError, match="/proc: a table needs a folder below"):
        folders.output("/proc", "predictions")


def test_a_strangers_parquet_file_is_read_by_no_job(tmp_path: Path) -> None:
    catalog, predictions = write_tables(str(tmp_path))
    before = folders.list_parts(catalog, "catalog"), Predictions.find(predictions).names
    for table in (catalog, predictions):
        parquet.write_table(f"{table}/part-of-mine.parquet", pa.table({"x": [1]}))
    assert (folders.list_parts(catalog, "catalog"), Predictions.find(predictions).names) == before


def test_looking_whether_a_folder_can_be_written_leaves_nothing(tmp_path: Path, s3: str) -> None:
    for out in (str(tmp_path / "out"), f"{s3}/probed"):
        objects.check_writable(out)
        assert objects.any_name(out) is None
        assert objects.list_names(out) == []
