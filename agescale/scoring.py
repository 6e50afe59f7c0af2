"""Scores a catalog with Ray Data: rows in, as many rows of predictions out.

The catalog is cut into units (``units.py``), each of which becomes one file, whole or not at all, and is never scored
again while that stands: a killed job loses the units under way, and the same command scores what is missing. A start
costs a listing of either table, whatever is done already (``footers``). Within a unit a pool of threads reads and
decodes ahead of the model; only the units' names and counts pass through Ray.

    <out>/part-...-rows-...-<model>.parquet
    <out>.agescale/summary.json      written last: counts by status
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray.data
import torch
from ray.util import metrics

from agescale import catalogs, checkpoints, footers, schema, tables, units, verification
from agescale.catalogs import Part
from agescale.cluster import allocator_environment, start_ray
from agescale.config import ScoreConfig, parse_names
from agescale.data import WORKER_BYTES, check_resources, decoder, num_gpus, run_units, uses_gpu
from agescale.predictor import Predictor, read_checkpoint
from agescale.progress import ImageProgress
from agescale.store import lease, objects, parquet, paths
from agescale.store.errors import StoreError
from agescale.store.objects import read_pool
from agescale.store.outputs import check_unchanged
from agescale.units import MAX_UNIT_ROWS, Unit

MAX_TASK_UNITS = 16
"""Units of one Ray task, where there are so many units that the tasks themselves would cost time."""
MIN_PROCESS_ROWS = 500
"""A process takes about as long to start as a CPU takes to score so many images."""
STORE_STATUSES = {"missing", "forbidden", "unreachable"}
"""Where all images of a unit have these, it may be the store's fault and not theirs."""
KEEP_S = 300.0
"""Pause between two copies of what the files say, so that the start after a kill reads few of their footers."""


@dataclass(frozen=True)
class ScoreResult:
    """Counts of the whole table, and of the rows that this run has scored."""

    by_status: dict[str, int]
    scored_now: dict[str, int]  # by status
    images_per_s: float

    @property
    def num_rows(self) -> int:
        return sum(self.by_status.values())

    @property
    def num_scored_now(self) -> int:
        return sum(self.scored_now.values())

    @property
    def failed_fraction(self) -> float:
        """Share of the rows scored by this run whose status is not ok."""
        return 1 - self.scored_now.get("ok", 0) / self.num_scored_now if self.num_scored_now else 0.0


def score(config: ScoreConfig) -> ScoreResult:
    """Scores every unit of the catalog that has no file yet. Raises ValueError, before any work, where it cannot."""
    catalog, out = paths.absolute(config.catalog), paths.absolute(config.out)
    checkpoint_uri = paths.absolute(config.checkpoint)
    _check(config)
    checkpoint = read_checkpoint(checkpoint_uri)
    checkpoints.read_file(checkpoint_uri, checkpoint.weights_file, checkpoint.weights_sha256)  # or it is damaged
    parts = catalogs.read_parts(catalog)
    about = catalogs.metadata(catalog, parts[0].name)
    if about["settings"]["layout"] != "unlabelled":  # a bucket is scored while it is still being listed
        catalogs.check_complete(catalog)
    tables.check_apart(out, {**catalogs.places(catalog), checkpoint_uri: "the checkpoint"}, "the table")
    tables.claim(out, "predictions")
    summary_uri = units.summary_uri(out)
    with lease.hold(out, tables.beside(out), config.lease) as held:
        if config.repair:
            _repair(catalog, out, held)
        said = footers.read(out, "predictions", units.read_counts)
        run = _begin(out, list(said), config, catalog, about["id"], checkpoint)
        work = plan_work(said, units.cut(parts, run["unit_rows"]), checkpoint.digest, parse_names(config.retry))
        progress = ImageProgress("scoring", work.num_rows)
        if work.todo:
            objects.delete(summary_uri)
            start_ray()
            workers = _workers(config, work)
            card = {**checkpoint.card(), "mirror": config.mirror}
            metadata = {"run": run, "checkpoint": checkpoint_uri, "model_card": card}
            replacing = tuple(part for part in parts if part.replaces)
            scorer = UnitScorer(catalog, replacing, checkpoint_uri, out, metadata, config, workers)
            with progress:
                result = _run(work, scorer, progress, held)
        else:
            result = ScoreResult(units.by_status(work.standing), {}, 0.0)
        if work.todo or not units.has_summary(out):
            summary = {**run, "checkpoint": checkpoint_uri, "num_rows": result.num_rows, "by_status": result.by_status}
            summary |= {
                "num_units": len(work.units),
                "catalog_parts": [part.name for part in parts],
                "images_per_s": result.images_per_s,
            }
            summary |= {"versions": checkpoints.library_versions()}
            objects.write_bytes(summary_uri, json.dumps(summary, indent=1).encode())
    return result


def _repair(catalog: str, out: str, held: lease.Lease) -> None:
    """Deletes files of predictions that are damaged or wrong, so that their images are scored again."""
    for name in verification.wrong_files(catalog, out):
        held.prove()
        objects.delete(paths.join(out, name))
        print(f"{name}: deleted, it is damaged or wrong", flush=True)


def _run(work: Work, scorer: UnitScorer, progress: ImageProgress, held: lease.Lease) -> ScoreResult:
    """One execution of Ray Data over all that is to do."""
    num_workers, on_gpu = scorer.workers.num, scorer.workers.device == "cuda"
    options = {"compute": ray.data.ActorPoolStrategy(size=num_workers, max_tasks_in_flight_per_actor=2)}
    options |= {"num_cpus": 1, "num_gpus": int(on_gpu), "fn_constructor_args": (scorer,)}
    options |= {"runtime_env": allocator_environment()}
    images_left = metrics.Gauge("agescale_images_left", "Images that are not scored yet")
    images_per_s = metrics.Gauge("agescale_images_per_s", "Images scored a second since the job began")
    standing, scored_now = dict(work.standing), Counter[str]()
    kept_at = time.monotonic()
    num_listed = 0
    for task in run_units(work.tasks(num_workers), ScoringActor, progress, **options):
        held.check()
        standing |= json.loads(task["standing"])
        if time.monotonic() - kept_at > KEEP_S:
            footers.keep(scorer.out, "predictions", standing)
            kept_at = time.monotonic()
        scored_now.update(json.loads(task["scored_now"]))
        progress.note = f"{scored_now.total() - scored_now['ok']} failed"
        num_listed += task["num_listed"]
        progress.total = _estimate(work.num_rows, num_listed, progress.done + task["num_rows"])
        images_left.set(progress.total - progress.done - task["num_rows"])
        images_per_s.set(progress.images_per_s)
    footers.keep(scorer.out, "predictions", standing)
    rate = scored_now.total() / max(time.monotonic() - progress.started, 1e-9)
    return ScoreResult(units.by_status(standing), dict(scored_now), round(rate, 1))


def _estimate(num_rows: int, num_listed: int, num_images: int) -> int:
    """Images in ``num_rows`` rows of the catalog, where the first ``num_listed`` had ``num_images``: the others are of
    splits that were not asked for, or no longer there.

    >>> _estimate(1500, 500, 110), _estimate(1500, 1500, 314)
    (330, 314)
    """
    return num_images + round((num_rows - num_listed) * num_images / max(num_listed, 1))


Said = Mapping[str, Mapping[str, Mapping[str, int]]]
"""What files of predictions say, by their names: ``units.read_counts``."""


@dataclass(frozen=True)
class Work:
    """A catalog's units by the names of their files, what those say that stand, and what is to do."""

    units: dict[str, Unit]
    standing: Said
    retry: tuple[str, ...]  # statuses of rows to be scored again

    @cached_property
    def todo(self) -> list[str]:
        return [name for name in self.units if name not in self.standing or self._num_retried(name)]

    @property
    def num_rows(self) -> int:
        """Rows of what is to do; of units that stand only those to be scored again."""
        return sum(self._num_retried(name) or len(self.units[name]) for name in self.todo)

    def _num_retried(self, name: str) -> int:
        if not self.retry or name not in self.standing:
            return 0
        statuses, gone = (self.standing[name][key] for key in ("statuses", "gone"))
        return sum(statuses.get(status, 0) - gone.get(status, 0) for status in self.retry)

    def tasks(self, num_workers: int) -> list[pa.Table]:
        """What is to do, a table a Ray task, a row a unit."""
        todo = self.todo
        size = max(1, min(MAX_TASK_UNITS, len(todo) // (16 * num_workers)))
        rows = [{"output": name, "num_retried": self._num_retried(name), **vars(self.units[name])} for name in todo]
        return [pa.Table.from_pylist(rows[start : start + size]) for start in range(0, len(rows), size)]


def plan_work(said: Said, all_units: Sequence[Unit], model: str, retry: tuple[str, ...]) -> Work:
    """What is to do for the model with that digest, where files that say so stand."""
    by_name = {unit.file_name(model): unit for unit in all_units}
    return Work(by_name, {name: counts for name, counts in said.items() if name in by_name}, retry)


def _check(config: ScoreConfig) -> None:
    """The user's mistakes that can be seen before anything is read."""
    if config.unit_rows is not None and not 1 <= config.unit_rows <= MAX_UNIT_ROWS:
        raise ValueError(f"--unit-rows {config.unit_rows}: from 1 to {MAX_UNIT_ROWS:,}")
    if not 0 <= config.max_failed_fraction <= 1:
        raise ValueError(f"--max-failed-fraction {config.max_failed_fraction}: a share from 0 to 1")
    for option, text, words in (("retry", config.retry, schema.STATUSES[1:]), ("split", config.split, schema.SPLITS)):
        unknown = [name for name in parse_names(text) if name not in words]
        if unknown:
            raise ValueError(f"--{option} {text}: {unknown[0]!r} is none of {', '.join(words)}")


def _begin(
    out: str,
    names: Sequence[str],
    config: ScoreConfig,
    catalog: str,
    catalog_id: str,
    checkpoint: checkpoints.Checkpoint,
) -> dict[str, Any]:
    """What the predictions in ``out`` belong to. Raises ValueError where those that stand, with these ``names``, belong
    to something else."""
    before = units.run_of([paths.join(out, name) for name in names]) if names else {}
    run = {
        "model": checkpoint.digest,
        "age_groups": checkpoint.spec.age_groups,
        "catalog": catalog,
        "catalog_id": catalog_id,
        "unit_rows": config.unit_rows or before.get("unit_rows"),
        "split": ",".join(sorted(parse_names(config.split))),
        "mirror": config.mirror,
    }
    if before.get("catalog_id") == catalog_id:
        run["catalog"] = before["catalog"]  # the same one, wherever it lies now, or by whatever name
    if before:
        check_unchanged(out, "another table of predictions", before, run)
    return run


@dataclass(frozen=True)
class Workers:
    num: int
    num_threads: int  # of the forward pass on the CPU
    device: str


def _workers(config: ScoreConfig, work: Work) -> Workers:
    """One process a GPU, else one a CPU: two threads of one forward pass wait for each other whenever a third, that
    decodes, runs. Fewer where there is little to do. Raises ValueError where the cluster cannot hold them."""
    num_cpus, gpus = int(ray.cluster_resources().get("CPU", 1)), num_gpus()
    use_gpu = uses_gpu(config.device)
    worthwhile = math.ceil(work.num_rows / MIN_PROCESS_ROWS)
    num = min(len(work.todo), config.num_workers or max(1, min(worthwhile, gpus if use_gpu else num_cpus)))
    check_resources(num, cpus_per_worker=1, gpus_per_worker=float(use_gpu), bytes_per_worker=WORKER_BYTES)
    return Workers(num, num_threads=math.ceil(num_cpus / num), device="cuda" if use_gpu else "cpu")


@dataclass(frozen=True)
class UnitScorer:
    """What a scoring process needs to know; small, because it travels to each of them."""

    catalog: str
    replacing: tuple[Part, ...]  # parts of the catalog when scoring began
    checkpoint: str
    out: str
    metadata: dict[str, Any]
    config: ScoreConfig
    workers: Workers


class ScoringActor:
    """Holds the model, and scores some units a call: reads their rows, predicts, writes their files."""

    def __init__(self, scorer: UnitScorer) -> None:
        self.scorer = scorer
        device = scorer.workers.device
        if device == "cpu":
            torch.set_num_threads(min(scorer.workers.num_threads, len(os.sched_getaffinity(0))))
        self.predictor = Predictor(scorer.checkpoint, device, scorer.config.mirror)
        if self.predictor.digest != scorer.metadata["run"]["model"]:
            raise ValueError(f"{scorer.checkpoint}: another model stands there since scoring began; run it again")
        pack = int(catalogs.settings(scorer.catalog).get("pack") or 0)
        spec = self.predictor.spec
        self.use_packed = catalogs.can_use_packed(pack, spec.image_size, spec.center_crop)
        self.pool = read_pool()
        self.num_scored = metrics.Counter("agescale_images_scored", "Images scored, by status", tag_keys=("status",))
        self.superseded = catalogs.Superseded(scorer.catalog, scorer.replacing)

    def __call__(self, task: pa.Table) -> pa.Table:
        standing: dict[str, Mapping[str, Mapping[str, int]]] = {}
        scored_now: Counter[str] = Counter()
        num_rows = num_listed = 0
        for row in task.to_pylist():
            name, unit = row["output"], Unit(row["part"], row["start"], row["stop"])
            take = self._retry if row["num_retried"] else self._score
            with decoder(paths.join(self.scorer.out, name)) as self.decoder:
                standing[name], scored = take(unit, name)
            scored_now.update(scored)
            num_rows += row["num_retried"] or sum(standing[name]["statuses"].values())
            num_listed += row["num_retried"] or len(unit)
        for status, count in scored_now.items():
            self.num_scored.inc(count, tags={"status": status})
        texts = {"standing": [json.dumps(standing)], "scored_now": [json.dumps(scored_now)]}
        return pa.table({"num_rows": [num_rows], "num_listed": [num_listed], **texts})

    def _score(self, unit: Unit, name: str) -> tuple[Mapping[str, Mapping[str, int]], Counter[str]]:
        """Writes the file of a unit. Returns what the file says, and counts by status of what was scored for it now."""
        output = paths.join(self.scorer.out, name)
        if objects.exists(output):  # written by a process that died before it could say so
            return units.read_counts(output), Counter()
        predictions = self._predict(self._current_rows(unit))
        scored = _count(predictions)
        has_none = bool(scored) and set(scored) <= STORE_STATUSES
        if has_none and not catalogs.can_be_read(self.scorer.catalog, predictions["uri"]):
            status, error = predictions["status"][0].as_py(), predictions["error"][0].as_py()
            hint = "no image that was tried could be read; is the source there? The same command continues"
            raise StoreError(status, f"{error}; {hint}")
        counts: dict[str, Mapping[str, int]] = {"statuses": scored, "gone": {}}
        if not tables.write_new_part(self.scorer.out, name, self._as_part(predictions, counts)):
            return units.read_counts(output), Counter()  # a process that was thought dead has written it meanwhile
        return counts, scored

    def _retry(self, unit: Unit, name: str) -> tuple[Mapping[str, Mapping[str, int]], Counter[str]]:
        """Writes the file of a unit anew, its failed rows scored again. Returns what ``_score`` does."""
        output = paths.join(self.scorer.out, name)
        version = objects.version(output)
        before = parquet.read_table(output, schema.PREDICTIONS.names)
        is_retried = pc.is_in(before["status"], pa.array(parse_names(self.scorer.config.retry)))
        rows = self._current_rows(unit)
        is_current = pc.is_in(before["uri"], rows["uri"].combine_chunks())
        retried = before["uri"].filter(pc.and_(is_retried, is_current)).combine_chunks()
        again = self._predict(rows.filter(pc.is_in(rows["uri"], retried)))
        predictions = _replace_rows(before, again)
        counts = {"statuses": _count(predictions), "gone": _count(before.filter(pc.invert(is_current)))}
        if not tables.replace_part(self.scorer.out, name, self._as_part(predictions, counts), str(version)):
            return units.read_counts(output), Counter()  # a process that was thought dead has written it meanwhile
        return counts, _count(again)

    def _current_rows(self, unit: Unit) -> pa.Table:
        rows = units.listed_rows(self.scorer.catalog, unit, parse_names(self.scorer.config.split), ["size_bytes"])
        return self.superseded.current(rows, catalogs.listing_of(unit.part))

    def _as_part(self, predictions: pa.Table, counts: Mapping[str, Mapping[str, int]]) -> pa.Table:
        metadata = {**self.scorer.metadata, **counts}
        return predictions.cast(schema.with_metadata("predictions", metadata))

    def _predict(self, rows: pa.Table) -> pa.Table:
        """One row of predictions for each of ``rows``, in their order."""
        spec, catalog = self.predictor.spec, self.scorer.catalog
        settings = (spec.image_size, spec.center_crop, self.use_packed)
        faces = catalogs.load_faces(catalog, rows, *settings, self.pool, self.decoder)
        return self.predictor.predict_rows(rows, faces, self.scorer.config.batch_size)


def _count(predictions: pa.Table) -> Counter[str]:
    """Rows by status."""
    return Counter(predictions["status"].to_pylist())


def _replace_rows(before: pa.Table, again: pa.Table) -> pa.Table:
    """``before`` with the rows of ``again`` in the places of those with the same URI."""
    position_of = {uri: index for index, uri in enumerate(again["uri"].to_pylist())}
    both = pa.concat_tables([before.replace_schema_metadata(None), again])
    indices = [
        len(before) + position_of[uri] if uri in position_of else index
        for index, uri in enumerate(before["uri"].to_pylist())
    ]
    return both.take(pa.array(indices))
