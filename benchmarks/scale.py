"""Towards 1,000,000,000 rows: what a start, a restart at half and a verification cost, with keys and without pixels.

python benchmarks/scale.py --num-rows 1000000 10000000
python benchmarks/scale.py --num-rows 10000000 --nights
python benchmarks/scale.py --num-rows 1000000 10000000 --labels

Writes a catalog and predictions with invented keys, and measures each step in a process of its own: seconds and peak
memory of the driver. The last line extrapolates from the two largest. With --nights each part is a listing of its own,
which also names a hundredth of the images of the night before again. With --labels each image has an age, and the steps
are to choose and plan what a training learns from, and to evaluate the predictions.
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

from agescale.ages.groups import AgeGroups
from agescale.store import objects, parquet
from agescale.tables import catalogs, folders, footers, schema, units
from agescale.tables.catalogs import LISTED_GROUP_ROWS, LISTED_PART_ROWS, Catalog
from agescale.tables.predictions import Predictions, read_counts, summary_uri

MODEL, GROUPS, CATALOG_ID = "0123456789abcdef", "25-years", "0" * 32
ROOT = Path(__file__).parents[1]
STEPS = ("start", "one unit", "restart at half", "verify")
LABEL_STEPS = ("train", "evaluate")
REPLACED = 100
"""Of so many images of a night one is listed again in the next."""


@dataclass(frozen=True)
class ScaleConfig:
    num_rows: tuple[int, ...] = (1_000_000, 10_000_000)
    """Sizes of the catalog, ascending; multiples of 100,000."""
    nights: bool = False
    """As many listings as parts, instead of one."""
    labels: bool = False
    """What labels are for, instead of what scoring is."""
    out: str = ""
    """Folder to work in; 100,000,000 rows take about 3 GB. Default: a temporary one."""


def main(config: ScaleConfig) -> None:
    steps = LABEL_STEPS if config.labels else STEPS
    with tempfile.TemporaryDirectory(dir=config.out or None) as folder:
        print(f"| rows | parts | files | {' | '.join(steps)} |\n| --- | --- | --- {'| --- ' * len(steps)}|")
        seconds: list[dict[str, float]] = []
        for num_rows in config.num_rows:
            place = Path(folder, str(num_rows)) if config.nights else Path(folder)
            ends = measure(str(place / "catalog"), str(place / "ages"), num_rows, config)
            seconds.append({name: ends[name]["seconds"] for name in steps})
            cells = [
                f"{len(Catalog.open(f'{place}/catalog').names):,}",
                f"{len(Predictions.find(f'{place}/ages').names):,}",
            ]
            cells += [f"{ends[name]['seconds']:.1f} s, {ends[name]['megabytes']:,.0f} MB" for name in steps]
            print(f"| {num_rows:,} | {' | '.join(cells)} |", flush=True)
    if len(config.num_rows) > 1 and not config.labels:
        (less, more), (small, large) = config.num_rows[-2:], seconds[-2:]
        slopes = {step: (large[step] - small[step]) / (more - less) for step in STEPS}
        cells = [f"{large[step] + slopes[step] * (10**9 - more):.0f} s" for step in STEPS]
        print(f"| 1,000,000,000, extrapolated | | | {' | '.join(cells)} |")


def measure(catalog: str, out: str, num_rows: int, config: ScaleConfig) -> dict[str, dict[str, float]]:
    write_catalog(catalog, num_rows, config)
    all_units = units.cut(Catalog.open(catalog).parts, None)
    if config.labels:
        write_predictions(catalog, out, all_units)
        return {name: step(name, catalog, out) for name in LABEL_STEPS}
    write_predictions(catalog, out, all_units[: len(all_units) // 2])
    ends = {"restart at half": step("start", catalog, out), "start": step("start", catalog, f"{out}-none")}
    ends["one unit"] = step("unit", catalog, out)
    write_predictions(catalog, out, all_units[len(all_units) // 2 :])
    num_predicted = sum(read_counts(file)["statuses"]["ok"] for file in Predictions.open(out).files)
    summary = {"num_rows": num_predicted, "by_status": {"ok": num_predicted}}
    objects.write_bytes(summary_uri(out), json.dumps(summary).encode())
    return ends | {"verify": step("verify", catalog, out)}


def write_catalog(catalog: str, num_rows: int, config: ScaleConfig) -> None:
    """Adds the parts that are missing; rows of a smaller catalog are among those of a larger one."""
    assert num_rows % LISTED_PART_ROWS == 0, "whole parts only"
    num_parts, nights = num_rows // LISTED_PART_ROWS, config.nights
    for number in range(num_parts):
        # of a night names are drawn from the whole range, so that no listing is passed over for its place
        first, stride = (number, num_parts) if nights else (number * LISTED_PART_ROWS, 1)
        keys = range(first, first + LISTED_PART_ROWS * stride, stride)
        listing = number + 1 if nights else 1
        write_part(
            catalog, f"part-{listing:05d}-{0 if nights else number:010d}.parquet", keys, "", False, config.labels
        )
        if nights and number:
            again = range(number - 1, num_rows, stride * REPLACED)
            write_part(catalog, f"part-{listing:05d}-{1:010d}.parquet", again, "again", True, config.labels)
    covered = schema.with_metadata("findings", {"id": CATALOG_ID, "parts": folders.list_parts(catalog, "catalog")})
    parquet.write_table(catalogs.findings_uri(catalog), covered.empty_table())
    Catalog.open(catalog).keep_footers()


def write_part(catalog: str, name: str, keys: range, version: str, replaces: bool, labels: bool) -> None:
    if objects.exists(f"{catalog}/{name}"):
        return
    told = {"layout": "csv", "age_groups": AgeGroups.parse(GROUPS).format()} if labels else {"layout": "unlabelled"}
    metadata = {"id": CATALOG_ID, "replaces": replaces, "settings": {"source": "s3://bucket", "pack": 0} | told}
    settings = schema.with_metadata("catalog", metadata)
    listed_at = pa.scalar(dt.datetime(2026, 1, 1, tzinfo=dt.UTC), schema.CATALOG.field("listed_at").type)
    columns = {field.name: pa.nulls(len(keys), field.type) for field in settings}
    columns["uri"] = pa.array([f"s3://bucket/{key // 10_000:06d}/{key:010d}.jpg" for key in keys])
    columns["version"] = pa.array([f"{key * 0x9E3779B97F4A7C15 % 2**64:016x}{version}" for key in keys])
    columns["deleted"] = pa.repeat(False, len(keys))
    columns["listed_at"] = pa.repeat(listed_at, len(keys))
    if labels:
        age_N = np.random.default_rng(keys.start).integers(0, 90, len(keys)).astype(np.float32)
        columns |= {"age_low": pa.array(age_N), "age_high": pa.array(age_N + 1)}
        columns["gender"] = pa.array(np.array(["male", "female"])[age_N.astype(int) % 2])
        columns["split"] = pa.array(np.array(["train"] * 8 + ["val", "test"])[np.arange(len(keys)) % 10])
        columns["content_hash"] = pa.array([f"{key:064x}" for key in keys])
    parquet.write_table(f"{catalog}/{name}", pa.table(list(columns.values()), schema=settings), LISTED_GROUP_ROWS)


def write_predictions(catalog: str, out: str, some_units: list[units.Unit]) -> None:
    run = {"model": MODEL, "age_groups": GROUPS, "unit_rows": None, "split": "", "tta": False}
    run |= {"catalog": catalog, "catalog_id": CATALOG_ID}
    for unit, rows in _rows_of(catalog, some_units):
        num_rows = len(rows)
        metadata = {"run": run, "checkpoint": "none", "model_card": {}, "statuses": {"ok": num_rows}, "gone": {}}
        table_schema = schema.with_metadata("predictions", metadata)
        columns = {field.name: pa.nulls(num_rows, field.type) for field in table_schema}
        columns |= {"face": pa.repeat(pa.scalar(0, pa.int32()), num_rows), "status": pa.repeat("ok", num_rows)}
        columns |= {"model": pa.repeat(MODEL, num_rows), "group": pa.repeat("25-49", num_rows)}
        columns["age"] = pa.array(np.linspace(0, 100, num_rows), pa.float32())
        columns["age_cdf"] = pa.repeat(pa.scalar([0] * 101, pa.list_(pa.int32())), num_rows)
        columns["age_std"] = columns["group_probability"] = columns["age"]
        columns |= {"uri": rows["uri"], "version": rows["version"]}
        table = pa.table(list(columns.values()), schema=table_schema)
        parquet.write_table(f"{out}/{unit.file_name(MODEL)}", table)
    footers.keep(out, "predictions", Predictions.open(out).counts)


def _rows_of(catalog: str, some_units: list[units.Unit]) -> Iterator[tuple[units.Unit, pa.Table]]:
    part, rows = "", None
    for unit in some_units:
        if unit.part != part:
            part, rows = unit.part, Catalog.open(catalog).read_part(unit.part, ["uri", "version"]).combine_chunks()
        assert rows is not None
        yield unit, rows.slice(unit.start, len(unit))


def step(name: str, catalog: str, out: str) -> dict[str, float]:
    """Runs one step in a process of its own: seconds, without those of its imports, and peak megabytes."""
    command = [sys.executable, __file__, "--step", name, catalog, out]
    ended = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def run_step(name: str, catalog: str, out: str) -> None:
    from agescale.config import EvaluateConfig, TrainConfig, VerifyConfig
    from agescale.evaluation import driver as evaluation
    from agescale.scoring import plan as scoring_plan
    from agescale.scoring import verification
    from agescale.training import plan as training_plan

    started = time.monotonic()
    if name == "start":
        all_units = units.cut(Catalog.open(catalog).parts, None)
        work = scoring_plan.plan_work(Predictions.find(out).counts, all_units, MODEL, ())
        num_standing = len(all_units) // 2 if objects.exists(out) else 0
        assert sum(len(task) for task in work.tasks(num_workers=1)) == len(all_units) - num_standing
    elif name == "unit":  # of the oldest part: which of its rows are current
        opened = Catalog.open(catalog)
        unit = units.cut(opened.parts, None)[0]
        rows = units.listed_rows(opened, unit, [])
        current = opened.superseded().current(rows, catalogs.listing_of(unit.part))
        assert 0 < len(current) <= len(rows)
    elif name == "train":
        config = TrainConfig(catalog=(catalog,), out=f"{out}-run", weights="")
        training_plan.build_plan(config, training_plan.select(config))
    elif name == "evaluate":
        evaluation.evaluate(EvaluateConfig(catalog, out, f"{out}-report"))
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
