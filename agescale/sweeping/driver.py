"""Searches for the best settings of training with Ray Tune: a space in, trials, a leaderboard and the best model out.

Each trial is what ``train`` does, with settings that a searcher proposes; a scheduler sees every epoch and stops those
that fall behind. What trials were and did stands in the sweep's folder (see ``trials``) and not in Ray's: the same
command shows it to searcher and scheduler again, continues what was under way and goes on. The catalog is read once,
and images are decoded once, as far as they fit in memory.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shlex
import tempfile
from dataclasses import dataclass, replace

import ray
import ray.train
from ray import tune
from ray.tune.execution import class_cache
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from agescale.config import SweepConfig, TrainConfig
from agescale.runtime import nodes
from agescale.runtime.cluster import start_ray
from agescale.runtime.resources import WORKER_BYTES, num_gpus, uses_gpu, wait_for_nodes
from agescale.store import lease, objects, paths
from agescale.store.errors import StoreError
from agescale.sweeping import report as sweep_report
from agescale.sweeping import spaces, trials
from agescale.sweeping.plan import (
    baseline,
    check,
    config_of,
    identity_of,
    read_splits,
    with_absolute_paths,
    with_absolute_weights,
)
from agescale.sweeping.report import About
from agescale.sweeping.search import MAX_FAILURES, Breaker, Proposals, TrialPrinter, build_scheduler
from agescale.sweeping.trials import Row
from agescale.sweeping.worker import train_driver_fn
from agescale.tables.catalogs import Catalog
from agescale.training import plan as training_plan
from agescale.training.driver import Shared, train
from agescale.training.ingest import SharedFaces
from agescale.training.plan import Selected

TRIAL_BYTES = 2**29
"""Memory of the process that watches a trial. Of CPUs it asks for none: they are its training processes'."""
TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl+C ends a sweep as any other job, and not as if it were over
    "RAY_AIR_NEW_OUTPUT": "0",  # which is no output where nobody asks for any
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # every result as JSON, CSV and for TensorBoard, in a folder that goes
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # Python's tracebacks; a trial that fails is a row with its reason
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that diverges at once has nothing to report
}


@dataclass(frozen=True)
class SweepResult:
    leaderboard: list[Row]
    num_left: int  # trials that are not over, and those that are still to begin
    command: str  # which trains the winner again; empty where no trial has a value
    refit: str  # the winner's checkpoint, trained on training and validation images together; empty where not asked for
    report: str
    disk_bytes: int


def sweep(config: SweepConfig, base: TrainConfig) -> SweepResult:
    """Runs what is left of a sweep. ``base`` has the settings that are the same for all trials.

    Raises ValueError, before anything is started, for a space with an impossible trial, and for another sweep's folder.
    """
    config, base = with_absolute_paths(config, base)
    out, space = config.out, with_absolute_weights(spaces.load(config.space))
    output = training_plan.output(paths.join(out, trials.SWEEP_NAME), "a sweep")
    output.check(Catalog.open(config.catalog).places)
    selected = check(config, base, space)
    with output.held(config.lease) as held:
        if not objects.exists(paths.join(out, trials.SWEEP_NAME)):
            training_plan.pin_images(out, selected)
        trials.begin(out, identity_of(config, base, space, selected.run["data"]))
        known = trials.read_trials(out)
        proposals = Proposals(config, space, known, trials.read_curves(out, known), build_scheduler(config))
        if proposals.num_left:
            start_ray(min_cpus=config.num_workers * base.cpus_per_worker + 1, has_dashboard=True)
            nodes.check_shared(out, config.catalog)
            _run(config, base, selected, proposals, held)
        return _conclude(config, base, selected, proposals.budget.num_to_begin)


def _conclude(config: SweepConfig, base: TrainConfig, selected: Selected, num_to_begin: int) -> SweepResult:
    """What a sweep leaves behind: one table, one page, one checkpoint."""
    out, done = config.out, trials.read_trials(config.out)
    curves = trials.read_curves(out, done)
    rows = trials.leaderboard(done, curves, config.objective)
    trials.write_leaderboard(out, rows)
    disk_bytes = trials.tidy(out, rows)
    num_left = num_to_begin + sum(row["status"] == "running" for row in rows)
    command = refit = ""
    if rows and rows[0]["value"] is not None:
        winner = trials.read_trial(out, rows[0]["number"])
        best = config_of(config, base, winner)
        trials.copy_best(out, winner.number)
        command = shlex.join(["python", "jobs/train.py", *spaces.to_arguments(replace(best, out=f"{out}-winner"))])
        if config.refit and not num_left:
            print("training the winner on training and validation images together", flush=True)
            folder = paths.join(out, f"refit/{winner.name}")
            train(replace(best, refit=True, epochs=rows[0]["epochs"], out=folder), selected=selected)
            refit = paths.join(folder, "best")
    report = sweep_report.write_report(
        out, _about(config, selected, rows, num_to_begin, disk_bytes), rows, curves, command
    )
    return SweepResult(rows, num_left, command, refit, report, disk_bytes)


def _about(config: SweepConfig, selected: Selected, rows: list[Row], num_to_begin: int, disk_bytes: int) -> About:
    """What the report says of the sweep as a whole."""
    train, val = read_splits(selected)
    return {
        "space": config.space,
        "searcher": config.searcher,
        "scheduler": config.scheduler,
        "epochs": config.epochs,
        "objective": config.objective,
        "worst_of": config.worst_of,
        "catalog": config.catalog,
        "num_trials": len(rows) + num_to_begin,
        "disk_bytes": disk_bytes,
        "seconds": sum(row["seconds"] for row in rows),
        "num_train": len(train),
        "num_val": len(val),
        "baseline": baseline(config, selected),
    }


def _place(config: SweepConfig, base: TrainConfig) -> tuple[TrainConfig, int]:
    """Where trials train, the same for all of them, and how many at a time: such that every training process finds its
    place and one CPU is left for decoding. Raises ValueError where not even one does."""
    use_gpu = uses_gpu(base.device)
    worker = {"CPU": base.cpus_per_worker, **({"GPU": base.gpus_per_worker} if use_gpu else {}), "memory": WORKER_BYTES}
    need = {kind: config.num_workers * amount for kind, amount in worker.items()}
    need["memory"] += TRIAL_BYTES
    wait_for_nodes([worker] * config.num_workers + [{"CPU": 1, "memory": TRIAL_BYTES}])
    have, gpus = ray.cluster_resources(), num_gpus()
    free = {"CPU": have.get("CPU", 0.0) - 1, "GPU": float(gpus), "memory": have.get("memory", 0.0)}
    num = min(math.floor(free[kind] / amount + 1e-9) for kind, amount in need.items())
    if num < 1:
        raise ValueError(
            f"a trial needs {need['CPU']:g} CPUs, one more for decoding, {need.get('GPU', 0):g} GPUs and "
            f"{need['memory'] / 2**30:.1f} GiB of memory; the cluster has {have.get('CPU', 0):g}, {gpus} and "
            f"{free['memory'] / 2**30:.1f}; lower --num-workers, or add nodes"
        )
    return replace(base, device="cuda" if use_gpu else "cpu"), min(num, config.max_concurrent or num)


def keep_credentials() -> None:
    """Keeps Ray Tune from writing this process's credentials into the description of its actors, which the dashboard
    shows; every node has its own, as for any other job."""
    secrets = {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(secrets)


def _run(
    config: SweepConfig,
    base: TrainConfig,
    selected: Selected,
    proposals: Proposals,
    held: lease.Lease,
) -> None:
    """One execution of Ray Tune over all that is left. Raises what ended it before its time."""
    os.environ.update(TUNE_ENVIRONMENT)
    keep_credentials()
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    base, concurrency = _place(config, base)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)  # it dies when we do
    faces = SharedFaces.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
    num_nodes = sum(node["Alive"] for node in ray.nodes())
    shared = Shared(selected, faces, num_trainings=math.ceil(concurrency / num_nodes))
    driver = tune.with_parameters(train_driver_fn, config=config, base=base, shared=shared)
    with tempfile.TemporaryDirectory(prefix="agescale-") as scratch:  # Ray's own records; nothing we keep stands there
        tuner = tune.Tuner(
            tune.with_resources(driver, {"memory": TRIAL_BYTES}),
            tune_config=tune.TuneConfig(
                search_alg=proposals,
                scheduler=proposals.scheduler,
                num_samples=proposals.num_left,
                max_concurrent_trials=concurrency,
                time_budget_s=config.hours * 3600 if config.hours else None,
                trial_dirname_creator=lambda trial: trial.trial_id,
                trial_name_creator=lambda trial: f"trial-{trial.config['number']:04d}",
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
                callbacks=[TrialPrinter(config, proposals)],
                stop=Breaker(proposals, held),
            ),
        )
        try:
            tuner.fit()
        finally:
            _give_back(config.out, held)
    ray.kill(faces)
    if proposals.error is not None:
        raise proposals.error


def _give_back(out: str, held: lease.Lease) -> None:
    """The folders of trials that are not over: their processes end with this one, and cannot do it themselves."""
    with contextlib.suppress(lease.Held, StoreError):
        held.prove()  # else they are another sweep's
        for trial in trials.read_trials(out):
            if trial.status == "running":
                lease.release(trials.run_of(out, trial.number))
