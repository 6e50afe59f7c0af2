"""Scores a catalog with Ray Data: rows in, as many rows of predictions out.

The catalog is cut into units (``units.py``), each of which becomes one file, whole or not at all, and is never scored
again while that stands: a killed job loses the units under way, and the same command scores what is missing. A start
costs a listing of either table, whatever is done already (``footers``). Within a unit a pool of threads reads and
decodes ahead of the model; only the units' names and counts pass through Ray.

    <out>/part-...-rows-...-<model>.parquet
    <out>.agescale/summary.json      written last: counts by status
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import ray.data
from ray.util import metrics

from agescale.config import Backend, ScoreConfig
from agescale.models import checkpoints, included
from agescale.models.inference import find_device
from agescale.models.predictor import faces_of, framing_of, read_checkpoint
from agescale.runtime import nodes
from agescale.runtime.cluster import allocator_environment, is_cluster_at_hand, start_ray
from agescale.runtime.progress import ImageProgress
from agescale.runtime.resources import WORKER_BYTES, check_resources, num_gpus, uses_gpu
from agescale.runtime.versions import installed_versions
from agescale.runtime.work import FEW_IMAGES, run_here, run_work
from agescale.scoring import verification
from agescale.scoring.plan import Work, plan_work
from agescale.scoring.worker import ScoringActor, UnitScorer, Workers
from agescale.store import lease, objects, paths
from agescale.store.errors import Damaged, StoreError
from agescale.store.outputs import check_unchanged
from agescale.tables import faces, folders, footers, predictions, units
from agescale.tables.catalogs import Catalog
from agescale.tables.predictions import Predictions

MIN_PROCESS_ROWS = 500
"""A process takes about as long to start as a CPU takes to score so many images."""
MIN_COMPILED_ROWS = 2000
"""OpenVINO takes some seconds to compile a network in a process, and spares milliseconds an image."""
KEEP_S = 300.0
"""Pause between two copies of what the files say, so that the start after a kill reads few of their footers."""


@dataclass(frozen=True)
class ScoreResult:
    """Counts of the whole table, and of the rows that this run has scored: of images, or of their faces."""

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
        """Share of the rows scored by this run that should have had an age."""
        return num_failed(self.scored_now) / self.num_scored_now if self.num_scored_now else 0.0


def num_failed(counts: Mapping[str, int]) -> int:
    """Rows, by status, that should have had an age: there is none of a photo without a face."""
    return sum(count for status, count in counts.items() if status not in ("ok", "no_face"))


def score(config: ScoreConfig) -> ScoreResult:
    """Scores every unit of the catalog that has no file yet. Raises ValueError, before any work, where it cannot."""
    config = paths.with_absolute_uris(config)
    out, checkpoint_uri = config.out, config.checkpoint
    checkpoint = read_checkpoint(checkpoint_uri)
    folder, named = included.located(checkpoint_uri), checkpoint_uri or included.NAME
    checkpoints.read_file(folder, checkpoint.weights_file, checkpoint.weights_sha256)  # or it is damaged
    catalog = Catalog.open(config.catalog)
    if catalog.settings["layout"] != "unlabelled":  # a bucket is scored while it is still being listed
        catalog.check_complete()
    output = folders.output(out, "predictions")
    output.check({**catalog.places, folder: "the checkpoint"}, "the table")
    summary_uri = predictions.summary_uri(out)
    with output.held(config.lease) as held:
        before = Predictions.find(out)
        _check_scored(before)
        if config.repair:
            _repair(catalog, out, held)
            before = Predictions.find(out)
        run = _begin(before, config, catalog, checkpoint)
        all_units = units.cut(catalog.parts, run["unit_rows"])
        work = plan_work(before.counts, all_units, checkpoint.digest, config.retry)
        progress = ImageProgress("scoring", work.num_rows)
        if work.todo:
            objects.delete(summary_uri)
            if said := faces.found_on_the_fly(catalog, framing_of(checkpoint.spec, config.faces)):
                print(said, flush=True)
            made = checkpoint.spec.calibration
            if said := made.used_otherwise(run["faces"], config.tta) if made else "":
                print(said, flush=True)
            workers = _workers(config, work, catalog)
            card = {**checkpoint.card(), "tta": config.tta}
            metadata = {"run": run, "checkpoint": named, "model_card": card}
            scorer = UnitScorer(catalog, checkpoint_uri, out, metadata, config, workers)
            with progress:
                result = _run(work, scorer, progress, held)
        else:
            result = ScoreResult(predictions.by_status(work.standing), {}, 0.0)
        if work.todo or not predictions.has_summary(out):
            summary = {**run, "checkpoint": named, "num_rows": result.num_rows, "by_status": result.by_status}
            summary |= {
                "num_units": len(work.units),
                "catalog_parts": catalog.names,
                "images_per_s": result.images_per_s,
            }
            summary |= {"versions": installed_versions()}
            objects.write_bytes(summary_uri, json.dumps(summary, indent=1).encode())
    return result


def _check_scored(standing: Predictions) -> None:
    """Raises ValueError where a table stands there that is made of another one, and is not to be scored into."""
    with contextlib.suppress(Damaged, StoreError):  # told later, or repaired
        if standing.names and standing.is_regrouped:
            raise ValueError(
                f"{standing.uri}: jobs/regroup.py made this table of another one; score into that, and regroup again"
            )


def _repair(catalog: Catalog, out: str, held: lease.Lease) -> None:
    """Deletes files of predictions that are damaged or wrong, so that their images are scored again."""
    for name in verification.wrong_files(catalog, out):
        held.prove()
        objects.delete(paths.join(out, name))
        print(f"{name}: deleted, it is damaged or wrong", flush=True)


def _run(work: Work, scorer: UnitScorer, progress: ImageProgress, held: lease.Lease) -> ScoreResult:
    """All that is to do, in one execution of Ray Data, or here."""
    images_left = metrics.Gauge("agescale_images_left", "Images that are not scored yet")
    images_per_s = metrics.Gauge("agescale_images_per_s", "Images scored a second since the job began")
    standing, scored_now = dict(work.standing), Counter[str]()
    kept_at = time.monotonic()
    num_listed = 0
    reasons: set[str] = set()
    for task in _run_by_ray(work, scorer, progress) if scorer.workers.num else _run_here(work, scorer, progress):
        held.check()
        standing |= json.loads(task["standing"])
        if time.monotonic() - kept_at > KEEP_S:
            footers.keep(scorer.out, "predictions", standing)
            kept_at = time.monotonic()
        scored_now.update(json.loads(task["scored_now"]))
        if task["why_eager"] not in ("", *reasons):
            reasons.add(task["why_eager"])
            print(f"computed by torch: {task['why_eager']}", flush=True)
        progress.note = f"{num_failed(scored_now)} failed"
        num_listed += task["num_listed"]
        progress.total = _estimate(work.num_rows, num_listed, progress.done + task["num_rows"])
        images_left.set(progress.total - progress.done - task["num_rows"])
        images_per_s.set(progress.images_per_s)
    footers.keep(scorer.out, "predictions", standing)
    rate = scored_now.total() / max(time.monotonic() - progress.started, 1e-9)
    return ScoreResult(predictions.by_status(standing), dict(scored_now), round(rate, 1))


def _run_by_ray(work: Work, scorer: UnitScorer, progress: ImageProgress) -> Iterator[dict[str, Any]]:
    num_workers, on_gpu = scorer.workers.num, scorer.workers.device == "cuda"
    options = {"compute": ray.data.ActorPoolStrategy(size=num_workers, max_tasks_in_flight_per_actor=2)}
    options |= {"num_cpus": 1, "num_gpus": int(on_gpu), "fn_constructor_args": (scorer,)}
    options |= {"runtime_env": allocator_environment()}
    return run_work(work.tasks(num_workers), ScoringActor, progress, **options)


def _run_here(work: Work, scorer: UnitScorer, progress: ImageProgress) -> Iterator[dict[str, Any]]:
    return run_here(work.tasks(1), ScoringActor(scorer), progress)


def _estimate(num_rows: int, num_listed: int, num_images: int) -> int:
    """Images in ``num_rows`` rows of the catalog, where the first ``num_listed`` had ``num_images``: the others are of
    splits that were not asked for, or no longer there.

    >>> _estimate(1500, 500, 110), _estimate(1500, 1500, 314)
    (330, 314)
    """
    return num_images + round((num_rows - num_listed) * num_images / max(num_listed, 1))


def _begin(
    standing: Predictions, config: ScoreConfig, catalog: Catalog, checkpoint: checkpoints.Checkpoint
) -> dict[str, Any]:
    """What the predictions belong to. Raises ValueError where those that stand belong to something else."""
    before = standing.run if standing.names else {}
    run = {
        "model": checkpoint.digest,
        "age_groups": checkpoint.spec.age_groups,
        "catalog": catalog.uri,
        "catalog_id": catalog.id,
        "unit_rows": config.unit_rows or before.get("unit_rows"),
        "split": ",".join(sorted(config.split)),
        "tta": config.tta,
        "faces": faces_of(framing_of(checkpoint.spec, config.faces)),
    }
    if before.get("catalog_id") == catalog.id:
        run["catalog"] = before["catalog"]  # the same one, wherever it lies now, or by whatever name
    if before:
        check_unchanged(standing.uri, "another table of predictions", before, run)
    return run


def _workers(config: ScoreConfig, work: Work, catalog: Catalog) -> Workers:
    """One process a GPU, else one a CPU: two threads of one forward pass wait for each other whenever a third, that
    decodes, runs. Fewer where there is little to do, and none but this one for a few images. Starts Ray, or joins one.
    Raises ValueError where the cluster cannot hold them."""
    is_few = work.num_rows <= FEW_IMAGES and not is_cluster_at_hand()
    if config.num_workers == 0 or (config.num_workers is None and is_few):
        device = find_device(config.device)
        return Workers(0, os.cpu_count() or 1, device, _backend(config, device, work.num_rows))
    start_ray()
    nodes.check_shared(folders.beside(config.out), catalog.uri, *filter(None, [config.checkpoint]))
    num_cpus, gpus = int(ray.cluster_resources().get("CPU", 1)), num_gpus()
    use_gpu = uses_gpu(config.device)
    worthwhile = math.ceil(work.num_rows / MIN_PROCESS_ROWS)
    num = min(len(work.todo), config.num_workers or max(1, min(worthwhile, gpus if use_gpu else num_cpus)))
    check_resources(num, cpus_per_worker=1, gpus_per_worker=float(use_gpu), bytes_per_worker=WORKER_BYTES)
    device = "cuda" if use_gpu else "cpu"
    return Workers(num, math.ceil(num_cpus / num), device, _backend(config, device, work.num_rows // num))


def _backend(config: ScoreConfig, device: str, num_rows: int) -> Backend:
    """What a process computes with that has so many rows to score."""
    return "eager" if config.backend == "auto" and (device != "cpu" or num_rows < MIN_COMPILED_ROWS) else config.backend
