"""Towards 1,000,000,000 rows: what a start, a restart at half and a verification cost, with keys and without pixels.

python benchmarks/scale.py --num-rows 1000000 10000000

Writes a catalog and predictions with invented keys, and measures each step in a process of its own: seconds and peak
memory of the driver. The last line extrapolates from the two largest.
"""

from __future__ import annotations

import datetime as dt
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import tyro

from agescale import catalogs, schema, storage, units
from agescale.cataloging import LISTED_PART_ROWS
from agescale.changes import ROW_GROUP_ROWS

MODEL, GROUPS, CATALOG_ID = "0123456789abcdef", "25-years", "0" * 32
ROOT = Path(__file__).parents[1]
STEPS = ("start", "restart at half", "verify")


@dataclass(frozen=True)
class ScaleConfig:
    num_rows: tuple[int, ...] = (1_000_000, 10_000_000)
    """Sizes of the catalog, ascending; multiples of 100,000."""
    out: str = ""
    """Folder to work in; 100,000,000 rows take about 3 GB. Default: a temporary one."""


def main(config: ScaleConfig) -> None:
    with tempfile.TemporaryDirectory(dir=config.out or None) as folder:
        print("| rows | files | start | restart at half | verify |\n| --- | --- | --- | --- | --- |")
        seconds: list[dict[str, float]] = []
        for num_rows in config.num_rows:
            cells, taken = measure(Path(folder), num_rows)
            seconds.append(taken)
            print(f"| {num_rows:,} | {num_rows // units.MAX_UNIT_ROWS:,} | {' | '.join(cells)} |", flush=True)
    if len(config.num_rows) > 1:
        (less, more), (small, large) = config.num_rows[-2:], seconds[-2:]
        slopes = {step: (large[step] - small[step]) / (more - less) for step in STEPS}
        cells = [f"{large[step] + slopes[step] * (10**9 - more):.0f} s" for step in STEPS]
        print(f"| 1,000,000,000, extrapolated | 100,000 | {' | '.join(cells)} |")


def measure(folder: Path, num_rows: int) -> tuple[list[str], dict[str, float]]:
    catalog, out = str(folder / "catalog"), str(folder / "ages")
    write_catalog(catalog, num_rows)
    all_units = units.cut(catalogs.read_parts(catalog), None)
    write_predictions(catalog, out, all_units[: len(all_units) // 2])
    ends = {"restart at half": step("start", catalog, out), "start": step("start", catalog, str(folder / "none"))}
    write_predictions(catalog, out, all_units[len(all_units) // 2 :])
    summary = {"num_rows": num_rows, "by_status": {"ok": num_rows}}
    storage.write_bytes(units.summary_uri(out), json.dumps(summary).encode())
    ends["verify"] = step("verify", catalog, out)
    cells = [f"{ends[name]['seconds']:.1f} s, {ends[name]['megabytes']:,.0f} MB" for name in STEPS]
    return cells, {name: ends[name]["seconds"] for name in STEPS}


def write_catalog(catalog: str, num_rows: int) -> None:
    """Adds the parts that are missing; rows of a smaller catalog are among those of a larger one."""
    assert num_rows % LISTED_PART_ROWS == 0, "whole parts only"
    metadata = {"id": CATALOG_ID, "replaces": False, "settings": {"layout": "unlabelled", "source": "s3://bucket"}}
    settings = schema.with_metadata("catalog", metadata)
    listed_at = pa.scalar(dt.datetime(2026, 1, 1, tzinfo=dt.UTC), schema.CATALOG.field("listed_at").type)
    names = [f"part-00001-{number:010d}.parquet" for number in range(num_rows // LISTED_PART_ROWS)]
    for number, name in enumerate(names):
        if storage.exists(f"{catalog}/{name}"):
            continue
        keys = range(number * LISTED_PART_ROWS, (number + 1) * LISTED_PART_ROWS)
        columns = {field.name: pa.nulls(len(keys), field.type) for field in settings}
        columns["uri"] = pa.array([f"s3://bucket/{key // 10_000:06d}/{key:010d}.jpg" for key in keys])
        columns["version"] = pa.array([f"{key * 0x9E3779B97F4A7C15 % 2**64:016x}" for key in keys])
        columns["deleted"] = pa.repeat(False, len(keys))
        columns["listed_at"] = pa.repeat(listed_at, len(keys))
        storage.write_table(f"{catalog}/{name}", pa.table(list(columns.values()), schema=settings), ROW_GROUP_ROWS)
    covered = schema.with_metadata("findings", {"id": CATALOG_ID, "parts": names})
    storage.write_table(catalogs.findings_uri(catalog), covered.empty_table())


def write_predictions(catalog: str, out: str, some_units: list[units.Unit]) -> None:
    num_rows = units.MAX_UNIT_ROWS
    run = {"model": MODEL, "age_groups": GROUPS, "unit_rows": None, "split": "", "mirror": False}
    run |= {"catalog": catalog, "catalog_id": CATALOG_ID}
    metadata = {"run": run, "checkpoint": "none", "model_card": {}, "statuses": {"ok": num_rows}, "gone": {}}
    table_schema = schema.with_metadata("predictions", metadata)
    columns = {field.name: pa.nulls(num_rows, field.type) for field in table_schema}
    columns |= {"face": pa.repeat(pa.scalar(0, pa.int32()), num_rows), "status": pa.repeat("ok", num_rows)}
    columns |= {"model": pa.repeat(MODEL, num_rows), "group": pa.repeat("25-49", num_rows)}
    columns["age"] = pa.array(np.linspace(0, 100, num_rows), pa.float32())
    columns["age_cdf"] = pa.repeat(pa.scalar([0] * 101, pa.list_(pa.int32())), num_rows)
    columns["age_std"] = columns["group_probability"] = columns["age"]
    for unit, rows in _rows_of(catalog, some_units):
        columns |= {"uri": rows["uri"], "version": rows["version"]}
        table = pa.table(list(columns.values()), schema=table_schema)
        storage.write_table(f"{out}/{unit.file_name(MODEL)}", table)


def _rows_of(catalog: str, some_units: list[units.Unit]) -> Iterator[tuple[units.Unit, pa.Table]]:
    part, rows = "", None
    for unit in some_units:
        if unit.part != part:
            part, rows = unit.part, catalogs.read_part(catalog, unit.part, ["uri", "version"]).combine_chunks()
        assert rows is not None
        yield unit, rows.slice(unit.start, len(unit))


def step(name: str, catalog: str, out: str) -> dict[str, float]:
    """Runs one step in a process of its own: seconds, without those of its imports, and peak megabytes."""
    command = [sys.executable, __file__, "--step", name, catalog, out]
    ended = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def run_step(name: str, catalog: str, out: str) -> None:
    from agescale import footers, scoring, verification
    from agescale.config import VerifyConfig

    started = time.monotonic()
    if name == "start":
        all_units = units.cut(catalogs.read_parts(catalog), None)
        work = scoring.plan_work(footers.read(out, "predictions", units.read_counts), all_units, MODEL, ())
        num_standing = len(all_units) // 2 if storage.exists(out) else 0
        assert sum(len(task) for task in work.tasks(num_workers=1)) == len(all_units) - num_standing
    else:
        found = verification.verify(VerifyConfig(catalog, out))
        assert found.problems == (), found.problems
    seconds = time.monotonic() - started
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "megabytes": megabytes}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        run_step(*sys.argv[2:])
    else:
        main(tyro.cli(ScaleConfig))
