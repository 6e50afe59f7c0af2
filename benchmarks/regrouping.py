"""A table told in other age groups and behind a gate, against pyarrow's copy of the same files.

python benchmarks/regrouping.py --num-rows 1000000
python benchmarks/regrouping.py --num-rows 10000000 --out /mnt/disk

Writes predictions of invented photos with smooth random distributions, in files of 10,000 rows. Then, some files at a
time and in turn, agescale regroups them and pyarrow copies them (reads each and writes it with zstd, on as many threads
as agescale), so that both meet the machine in the same state. Prints seconds, rows a second, what each process held in
memory at a tenth and at the end, and the ratio. Exits with 1 where regrouping takes more than twice as long.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from turns import machine, tell

from agescale.ages import cdf
from agescale.ages.groups import AgeGroups
from agescale.config import RegroupConfig
from agescale.tables import folders, regrouping, schema, units
from agescale.tables.predictions import Predictions, summary_uri

FILE_ROWS = 10_000
GROUPS, MODEL = "25-years", "beef"
RUN = {"model": MODEL, "age_groups": GROUPS, "catalog": "/photos/catalog", "catalog_id": "1", "unit_rows": FILE_ROWS,
       "split": "", "tta": False, "faces": "none"}  # fmt: skip
GATE = {"about": {"by": "age", "gate_age": 18, "run": RUN}, "threshold": 25.0}
MAX_RATIO = 2.0


@dataclass(frozen=True)
class RegroupBenchmark:
    num_rows: int = 1_000_000
    """Rows; a multiple of 10,000."""
    num_turns: int = 20
    """How often the two take turns."""
    out: str = ""
    """Folder to work in; 10,000,000 rows take about 6 GB. Default: a temporary one."""
    worker: str = ""
    """Used by the benchmark itself: regroup or copy, in a process that is told files by its standard input."""


def main(config: RegroupBenchmark) -> None:
    if config.worker:
        work(Path(config.out), config.worker)
        return
    with tempfile.TemporaryDirectory(dir=config.out or None) as folder:
        write_table(Path(folder), config.num_rows)
        ratio = measure(Path(folder), config)
    if ratio > MAX_RATIO:
        sys.exit(f"regrouping takes {ratio:.2f} times as long as a copy")


def write_table(folder: Path, num_rows: int) -> None:
    """A file a unit; a row in 50 could not be read."""
    generator = np.random.default_rng(0)
    ages_A, groups = np.arange(cdf.NUM_AGES), AgeGroups.parse(GROUPS)
    for number in range(num_rows // FILE_ROWS):
        mean_N1 = generator.uniform(0, 90, (FILE_ROWS, 1))
        probs_NA = np.exp(-0.5 * ((ages_A - mean_N1) / generator.uniform(2, 12, (FILE_ROWS, 1))) ** 2)
        cdf_NA = cdf.quantize(probs_NA * generator.uniform(0.8, 1.2, probs_NA.shape))
        is_bad_N = generator.random(FILE_ROWS) < 0.02
        said = cdf.prediction_columns(cdf_NA, groups)
        offsets = pa.array(np.arange(FILE_ROWS + 1) * cdf.NUM_AGES, pa.int32())
        columns = {name: pa.array(values, mask=is_bad_N) for name, values in said.items()}
        columns["age_cdf"] = pa.ListArray.from_arrays(
            offsets, pa.array(cdf_NA.ravel().astype(np.int32)), mask=pa.array(is_bad_N)
        )
        columns["uri"] = pa.array([f"s3://photos/inbox/{number:05d}/{row:05d}.jpg" for row in range(FILE_ROWS)])
        columns["version"] = pa.array([f"{value:032x}" for value in generator.integers(0, 2**62, FILE_ROWS)])
        columns["face"], columns["model"] = pa.array(np.zeros(FILE_ROWS, np.int32)), pa.array([MODEL] * FILE_ROWS)
        columns["status"] = pa.array(np.where(is_bad_N, "unreadable", "ok"))
        columns["error"] = pa.array(["cannot be decoded"] * FILE_ROWS, mask=~is_bad_N)
        for name in ("width", "height"):
            columns[name] = pa.array(generator.integers(200, 4000, FILE_ROWS).astype(np.int32))
        counts = {"ok": int((~is_bad_N).sum()), "unreadable": int(is_bad_N.sum())}
        metadata = {"run": RUN, "model_card": {"task": "distribution"}, "statuses": counts, "gone": {}}
        full = schema.with_metadata("predictions", metadata)
        nulls = {name: pa.nulls(FILE_ROWS, full.field(name).type) for name in full.names if name not in columns}
        rows = pa.table({name: (columns | nulls)[name] for name in full.names}).cast(full)
        unit = units.Unit("part-00001-000000.parquet", number * FILE_ROWS, (number + 1) * FILE_ROWS)
        folders.write_new_part(str(folder / "ages"), unit.file_name(MODEL), rows)
    summary = Path(summary_uri(str(folder / "ages")))
    summary.write_text(json.dumps({"by_status": {}}))
    (folder / "gate.json").write_text(json.dumps(GATE))


def measure(folder: Path, config: RegroupBenchmark) -> float:
    """Prints the table; returns how much longer regrouping takes."""
    names = Predictions.open(str(folder / "ages")).names
    turns = [chunk.tolist() for chunk in np.array_split(names, config.num_turns)]
    kinds = ("copy", "regroup")
    workers = {kind: start(folder, kind) for kind in kinds}
    seconds, held = dict.fromkeys(kinds, 0.0), {kind: list[float]() for kind in kinds}
    for number, chunk in enumerate(turns):
        for kind in kinds if number % 2 else kinds[::-1]:
            said = ask(workers[kind], chunk)
            seconds[kind] += said["seconds"]
            held[kind].append(said["megabytes"])
    for worker in workers.values():
        worker.communicate()
    whole = RegroupConfig(f"{folder}/ages", f"{folder}/regroup", "life-stages", gate=f"{folder}/gate.json")
    done = regrouping.regroup(whole)
    assert (done.num_files, done.num_files_now) == (len(names), 0), "the command itself would have done something else"
    print("| | seconds | rows/s | MB at a tenth | MB at the end |\n| --- | --- | --- | --- | --- |")
    for kind in kinds:
        begun = held[kind][max(len(turns) // 10 - 1, 0)]
        row = f"{seconds[kind]:.1f} | {config.num_rows / seconds[kind]:,.0f} | {begun:.0f} | {held[kind][-1]:.0f}"
        print(f"| {kind} | {row} |")
    ratio = seconds["regroup"] / seconds["copy"]
    print(f"{config.num_rows:,} rows, {len(names):,} files, {machine()}: regrouping takes {ratio:.2f} times")
    tell("regrouping predictions, against pyarrow's copy of them", 1 / ratio, 1 / MAX_RATIO)
    return ratio


def start(folder: Path, kind: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--out", str(folder), "--worker", kind]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(worker: subprocess.Popen[str], names: Sequence[str]) -> dict[str, float]:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(json.dumps(names) + "\n")
    worker.stdin.flush()
    said: dict[str, float] = json.loads(worker.stdout.readline())
    return said


def work(folder: Path, kind: str) -> None:
    """Does what it is told, file by file, and says the seconds of each turn and what it holds in memory at most."""
    view = regrouping.view_of(
        RegroupConfig(f"{folder}/ages", f"{folder}/regroup", "life-stages", gate=f"{folder}/gate.json"),
        Predictions.open(f"{folder}/ages"),
    )
    (folder / "copy").mkdir(exist_ok=True)
    for line in sys.stdin:
        names, started = json.loads(line), time.perf_counter()
        if kind == "regroup":
            for _ in regrouping.write_files(view, f"{folder}/regroup", dict.fromkeys(names)):
                pass
        else:
            with ThreadPoolExecutor(regrouping.FILES_AHEAD) as pool:
                list(pool.map(lambda name: copy(folder / "ages" / name, folder / "copy" / name), names))
        seconds, megabytes = time.perf_counter() - started, psutil.Process().memory_info().rss / 2**20
        print(json.dumps({"seconds": seconds, "megabytes": megabytes}), flush=True)


def copy(source: Path, target: Path) -> None:
    pq.write_table(pq.read_table(source), target, compression="zstd")


if __name__ == "__main__":
    main(tyro.cli(RegroupBenchmark, description=__doc__))
