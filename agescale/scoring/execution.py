"""Scores what is to do with Ray Data, or in this process: a plan in, files of predictions written, a result out.

Imported only where there is something to do: Ray takes seconds to import.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import ray.data
from ray.util import metrics

from agescale.config import Backend, ScoreConfig
from agescale.runtime import nodes
from agescale.runtime.bottleneck import STAGES, Bottleneck
from agescale.runtime.cluster import allocator_environment, is_cluster_at_hand, start_ray
from agescale.runtime.progress import ImageProgress
from agescale.runtime.resources import WORKER_BYTES, check_resources, num_gpus, uses_gpu
from agescale.runtime.work import FEW_IMAGES, run_here, run_work
from agescale.scoring.plan import Work
from agescale.scoring.result import ScoreResult, num_failed
from agescale.scoring.worker import ScoringActor, UnitScorer, Workers
from agescale.store import lease
from agescale.tables import folders, footers, predictions
from agescale.tables.catalogs import Catalog

MIN_PROCESS_ROWS = 500
"""A process takes about as long to start as a CPU takes to score so many images."""
LEAST_UNITS_APART = 4
"""Of a task whose images are loaded apart: those of the next unit come while one is computed, but not across tasks."""
MIN_DECODERS = 2
"""CPUs that a process would have besides its own, from which on decoding apart feeds a GPU better than its threads."""
MIN_COMPILED_ROWS = 2000
"""OpenVINO takes some seconds to compile a network in a process, and spares milliseconds an image."""
KEEP_S = 300.0
"""Pause between two copies of what the files say, so that the start after a kill reads few of their footers."""


def run(work: Work, scorer: UnitScorer, progress: ImageProgress, held: lease.Lease) -> ScoreResult:
    """All that is to do, in one execution of Ray Data, or here."""
    images_left = metrics.Gauge("agescale_images_left", "Images that are not scored yet")
    images_per_s = metrics.Gauge("agescale_images_per_s", "Images scored a second since the job began")
    standing, scored_now = dict(work.standing), Counter[str]()
    kept_at = time.monotonic()
    num_listed = 0
    reasons: set[str] = set()
    seconds, begun_s, worked_s = dict.fromkeys(STAGES, 0.0), 0.0, 0.0
    for task in _run_by_ray(work, scorer, progress) if scorer.workers.num else _run_here(work, scorer, progress):
        held.check()
        begun_s = begun_s or max(0.0, time.monotonic() - progress.started - task["wall_s"])
        worked_s += task["wall_s"]
        for stage, spent_s in json.loads(task["seconds"]).items():
            seconds[stage] += spent_s
        standing |= json.loads(task["standing"])
        if time.monotonic() - kept_at > KEEP_S:
            held.prove()
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
    held.prove()
    footers.keep(scorer.out, "predictions", standing)
    lasted_s, num = max(time.monotonic() - progress.started, 1e-9), max(1, scorer.workers.num)
    seconds["start"] = num * begun_s  # of the first process that was done with something; all begin at once
    seconds["waiting"] += max(0.0, num * (lasted_s - begun_s) - worked_s)
    rate = round(scored_now.total() / lasted_s, 1)
    return ScoreResult(predictions.by_status(standing), dict(scored_now), rate, Bottleneck(seconds, num))


def _run_by_ray(work: Work, scorer: UnitScorer, progress: ImageProgress) -> Iterator[dict[str, Any]]:
    num_workers, on_gpu = scorer.workers.num, scorer.workers.device == "cuda"
    options = {"compute": ray.data.ActorPoolStrategy(size=num_workers, max_tasks_in_flight_per_actor=2)}
    options |= {"num_cpus": 1, "num_gpus": int(on_gpu), "fn_constructor_args": (scorer,)}
    options |= {"runtime_env": allocator_environment()}
    tasks = work.tasks(num_workers, LEAST_UNITS_APART if scorer.workers.num_decoders else 1)
    return run_work(tasks, ScoringActor, progress, **options)


def _run_here(work: Work, scorer: UnitScorer, progress: ImageProgress) -> Iterator[dict[str, Any]]:
    return run_here(work.tasks(1), ScoringActor(scorer), progress)


def _estimate(num_rows: int, num_listed: int, num_images: int) -> int:
    """Images in ``num_rows`` rows of the catalog, where the first ``num_listed`` had ``num_images``: the others are of
    splits that were not asked for, or no longer there.

    >>> _estimate(1500, 500, 110), _estimate(1500, 1500, 314)
    (330, 314)
    """
    return num_images + round((num_rows - num_listed) * num_images / max(num_listed, 1))


def workers_for(config: ScoreConfig, work: Work, catalog: Catalog) -> Workers:
    """One process a GPU, else one a CPU: two threads of one forward pass wait for each other whenever a third, that
    decodes, runs. Fewer where there is little to do, and none but this one for a few images. Starts Ray, or joins one.
    Raises ValueError where the cluster cannot hold them."""
    is_few = work.num_rows <= FEW_IMAGES and config.decode != "apart" and not is_cluster_at_hand()
    if config.num_workers == 0 or (config.num_workers is None and is_few):
        from agescale.models.inference import find_device  # torch: whoever scores by Ray's processes need not load it

        device = find_device(config.device)
        if config.decode == "apart":
            raise ValueError("--decode apart: there are Ray's tasks for that, and --num-workers 0 does without Ray")
        return Workers(0, os.cpu_count() or 1, device, _backend(config, device, work.num_rows))
    asked = (config.num_workers or 1) + (os.cpu_count() or 1)
    start_ray(min_cpus=asked if config.decode == "apart" else 2)  # who has but a model leaves its CPU to decoders
    nodes.check_shared(folders.beside(config.out), catalog.uri, *filter(None, [config.checkpoint]))
    num_cpus, gpus = int(ray.cluster_resources().get("CPU", 1)), num_gpus()
    use_gpu = uses_gpu(config.device)
    worthwhile = math.ceil(work.num_rows / MIN_PROCESS_ROWS)
    possible = gpus if use_gpu else num_cpus // 2 if config.decode == "apart" else num_cpus
    num = min(len(work.todo), config.num_workers or max(1, min(worthwhile, possible)))
    device = "cuda" if use_gpu else "cpu"
    check_resources(num, cpus_per_worker=1, gpus_per_worker=float(use_gpu), bytes_per_worker=WORKER_BYTES)
    backend = _backend(config, device, work.num_rows // num)
    return Workers(num, math.ceil(num_cpus / num), device, backend, num_decoders(config, use_gpu, num, num_cpus))


def num_decoders(config: ScoreConfig, use_gpu: bool, num: int, num_cpus: int) -> int:
    """Decoding tasks at once for each of ``num`` processes; 0: these decode for themselves. Raises ValueError where no
    CPU is left for those that are asked for: Ray would wait in silence."""
    if config.decode == "apart" and num >= num_cpus:
        raise ValueError(
            f"--decode apart: {num} scoring processes have all {num_cpus} CPUs of the cluster; lower --num-workers, or "
            "leave it out"
        )
    to_spare = (num_cpus - num) // num
    is_apart = config.decode == "apart" or (config.decode == "auto" and use_gpu and to_spare >= MIN_DECODERS)
    return max(1, to_spare) if is_apart else 0


def _backend(config: ScoreConfig, device: str, num_rows: int) -> Backend:
    """What a process computes with that has so many rows to score."""
    return "eager" if config.backend == "auto" and (device != "cpu" or num_rows < MIN_COMPILED_ROWS) else config.backend
