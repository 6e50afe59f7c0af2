"""Scores a catalog with Ray Data: rows in, as many rows of predictions out.

The catalog is cut into units: at most ``unit_rows`` rows of one part. A unit's file is named after part and rows,
appears whole or not at all, and is never scored again while it stands; so a killed job loses at most the units under
way, and the same command scores what is missing. Within a unit a pool of threads reads and decodes ahead of the model;
only the units' names and counts pass through Ray.

    <out>/run.json               model digest, catalog, unit_rows, mirror: what the files here belong to
    <out>/part-...-rows-....parquet
    <out>/summary.json           written last: counts by status
"""

from __future__ import annotations

import datetime as dt
import json
import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data
import torch

from agescale import catalogs, checkpoints, schema, storage
from agescale.age_model import build_spec_task
from agescale.catalogs import FaceOrError
from agescale.config import ScoreConfig
from agescale.data import check_resources, num_gpus, read_pool, run_units, start_ray
from agescale.images import Face
from agescale.predictor import Predictor
from agescale.progress import ImageProgress
from agescale.storage import StoreError

MAX_UNIT_ROWS = 10_000


@dataclass(frozen=True)
class ScoreResult:
    """Counts of the whole table, and how many of its rows this run has scored."""

    num_rows: int
    num_scored_now: int
    by_status: dict[str, int]
    images_per_s: float


def score(config: ScoreConfig) -> ScoreResult:
    """Scores every unit of the catalog that has no file yet. Raises ValueError, before any work, where it cannot."""
    catalog, out = storage.absolute(config.catalog), storage.absolute(config.out)
    checkpoint_uri = storage.absolute(config.checkpoint)
    if not 1 <= config.unit_rows <= MAX_UNIT_ROWS:
        raise ValueError(f"--unit-rows {config.unit_rows}: from 1 to {MAX_UNIT_ROWS:,}")
    checkpoint = checkpoints.read(checkpoint_uri)
    if not build_spec_task(checkpoint.spec).predicts_age:
        raise ValueError(f"{checkpoint_uri}: its task, {checkpoint.spec.task}, predicts no age; nothing to score with")
    catalogs.check_complete(catalog)
    parts = catalogs.part_names(catalog)
    storage.check_writable(out)
    run = {"model": checkpoint.digest, "catalog": catalog, "unit_rows": config.unit_rows, "mirror": config.mirror}
    _check_same_output(out, run)

    units = _units(catalog, parts, config.unit_rows)
    done = set(storage.list_names(out, prefix="part-", suffix=".parquet"))
    missing = [unit for unit in units if unit["output"][0].as_py() not in done]
    num_rows = sum(unit["stop"][0].as_py() - unit["start"][0].as_py() for unit in missing)
    statuses: Counter[str] = Counter()
    progress = ImageProgress("scoring", num_rows)
    if missing:
        start_ray()
        workers = _workers(config, num_units=len(missing))
        metadata = _metadata(checkpoint_uri, checkpoint, config)
        scorer = UnitScorer(catalog, checkpoint_uri, out, metadata, config, workers)
        with progress:
            options = {"compute": ray.data.ActorPoolStrategy(size=workers.num, max_tasks_in_flight_per_actor=2)}
            options |= {"num_cpus": 1, "num_gpus": int(workers.device == "cuda")}
            for summary in run_units(missing, ScoringActor, progress, fn_constructor_args=(scorer,), **options):
                statuses.update(json.loads(summary["statuses"]))
                progress.note = f"{statuses.total() - statuses['ok']} failed"
    by_status = _count_statuses(out)
    result = ScoreResult(sum(by_status.values()), sum(statuses.values()), by_status, round(progress.images_per_s, 1))
    summary = {**run, "checkpoint": checkpoint_uri, "num_rows": result.num_rows, "by_status": by_status}
    summary |= {"catalog_parts": parts, "images_per_s": result.images_per_s, "versions": checkpoints.library_versions()}
    storage.write_bytes(storage.join(out, "summary.json"), json.dumps(summary, indent=1).encode())
    return result


@dataclass(frozen=True)
class Workers:
    num: int
    num_threads: int  # of the forward pass on the CPU
    device: str


def _workers(config: ScoreConfig, num_units: int) -> Workers:
    """One process a GPU, else one for two CPUs; never more than there are units. Raises ValueError where the cluster
    cannot hold them. Decoding threads are not reserved: a process may well use the CPUs of its node that lie idle."""
    num_cpus, gpus = int(ray.cluster_resources().get("CPU", 1)), num_gpus()
    use_gpu = config.device == "cuda" or (config.device == "auto" and gpus > 0)
    num = min(num_units, config.num_workers or max(1, gpus if use_gpu else num_cpus // 2))
    check_resources(num, cpus_per_worker=1, gpus_per_worker=float(use_gpu), extra_cpus=0)
    return Workers(num, num_threads=math.ceil(num_cpus / num), device="cuda" if use_gpu else "cpu")


def _units(catalog: str, parts: list[str], unit_rows: int) -> list[pa.Table]:
    """Every unit of the catalog as a table of one row: part, start, stop, output. Reads footers only."""
    units = []
    for part in parts:
        num_rows = storage.num_rows(storage.join(catalog, part))
        for start in range(0, num_rows, unit_rows):
            stop = min(start + unit_rows, num_rows)
            output = f"{part.removesuffix('.parquet')}-rows-{start:09d}-{stop:09d}.parquet"
            units.append(pa.table({"part": [part], "start": [start], "stop": [stop], "output": [output]}))
    return units


def _check_same_output(out: str, run: dict[str, Any]) -> None:
    name = storage.join(out, "run.json")
    if not storage.exists(name):
        storage.write_bytes(name, json.dumps(run, indent=1).encode())
        return
    before = json.loads(storage.read_bytes(name))
    different = [f"{key} was {before.get(key)}, is {run[key]}" for key in run if before.get(key) != run[key]]
    if different:
        raise ValueError(f"{out}: other predictions stand there ({'; '.join(different)}); give another --out")


def _metadata(uri: str, checkpoint: checkpoints.Checkpoint, config: ScoreConfig) -> dict[str, Any]:
    """What every file of predictions says of its model."""
    return {
        "model": checkpoint.digest,
        "age_groups": checkpoint.spec.age_groups,
        "checkpoint": uri,
        "model_card": {**checkpoint.card(), "mirror": config.mirror},
    }


def _count_statuses(out: str) -> dict[str, int]:
    counts: Counter[str] = Counter()
    files = [storage.join(out, name) for name in storage.list_names(out, prefix="part-", suffix=".parquet")]
    with read_pool() as pool:
        for table in pool.map(lambda file: storage.read_table(file, ["status"]), files):
            counts.update(table["status"].to_pylist())
    return dict(counts.most_common())


@dataclass(frozen=True)
class UnitScorer:
    """What a scoring process needs to know; small, because it travels to each of them."""

    catalog: str
    checkpoint: str
    out: str
    metadata: dict[str, Any]
    config: ScoreConfig
    workers: Workers


class ScoringActor:
    """Holds the model, and scores one unit a call: reads its rows, predicts, writes its file."""

    def __init__(self, scorer: UnitScorer) -> None:
        self.scorer = scorer
        device = scorer.workers.device
        if device == "cpu":
            torch.set_num_threads(min(scorer.workers.num_threads, len(os.sched_getaffinity(0))))
        self.predictor = Predictor(scorer.checkpoint, device, scorer.config.mirror)
        if self.predictor.digest != scorer.metadata["model"]:
            raise ValueError(f"{scorer.checkpoint}: another model stands there since scoring began; run it again")
        self.schema = schema.with_metadata(schema.PREDICTIONS, scorer.metadata)
        pack = int(catalogs.settings(scorer.catalog).get("pack") or 0)
        spec = self.predictor.spec
        self.use_packed = catalogs.can_use_packed(pack, spec.image_size, spec.center_crop)
        self.pool = read_pool()

    def __call__(self, unit: pa.Table) -> pa.Table:
        part, start, stop, output = (unit[name][0].as_py() for name in ("part", "start", "stop", "output"))
        rows = catalogs.read_part(self.scorer.catalog, part, ["uri", "version", "deleted"]).slice(start, stop - start)
        later = catalogs.superseded(self.scorer.catalog, part)
        rows = rows.filter(pc.invert(pc.or_(rows["deleted"], pc.is_in(rows["uri"], later.combine_chunks()))))
        predictions = self._predict(rows)
        statuses = Counter(predictions["status"].to_pylist())
        if statuses and set(statuses) <= {"forbidden", "unreachable"}:  # the store's trouble, and not these images'
            raise StoreError(predictions["status"][0].as_py(), predictions["error"][0].as_py())
        storage.write_table(storage.join(self.scorer.out, output), predictions)
        return pa.table({"num_rows": [stop - start], "statuses": [json.dumps(statuses)]})

    def _predict(self, rows: pa.Table) -> pa.Table:
        """One row of predictions for each of ``rows``, in their order."""
        records = [
            {"uri": uri, "version": version, "face": 0, "model": self.predictor.digest}
            for uri, version in zip(rows["uri"].to_pylist(), rows["version"].to_pylist(), strict=True)
        ]
        spec = self.predictor.spec
        faces = catalogs.load_faces(
            self.scorer.catalog, rows, spec.image_size, spec.center_crop, self.use_packed, self.pool
        )
        for indices, images_NHWC in self._batches(faces, records):
            columns = self.predictor(images_NHWC)
            for position, index in enumerate(indices):
                records[index] |= {name: values[position] for name, values in columns.items()}
        scored_at = dt.datetime.now(dt.UTC)
        return pa.Table.from_pylist([{**record, "scored_at": scored_at} for record in records], schema=self.schema)

    def _batches(
        self, faces: Iterator[FaceOrError], records: list[dict[str, Any]]
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        """Batches of decoded faces and their rows; writes what is known without the model into ``records``."""
        size, batch_size = self.predictor.spec.image_size, self.scorer.config.batch_size
        images_NHWC = np.empty((batch_size, size, size, 3), np.uint8)
        indices: list[int] = []
        for index, face in enumerate(faces):
            if isinstance(face, Face):
                records[index] |= {"status": "ok", "width": face.width, "height": face.height}
                images_NHWC[len(indices)] = face.pixels
                indices.append(index)
                if len(indices) == batch_size:
                    yield indices, images_NHWC
                    indices = []
            else:
                records[index] |= {"status": face.status, "error": str(face)[:500]}
        if indices:
            yield indices, images_NHWC[: len(indices)]
