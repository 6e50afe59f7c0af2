"""Searches for the best settings of training with Ray Tune: a space in, trials, a leaderboard and the best model out.

Each trial is what ``train`` does, with settings that a searcher proposes; a scheduler sees every epoch and stops those
that fall behind. What trials were and did stands in the sweep's folder (see ``trials``) and not in Ray's: the same
command shows it to searcher and scheduler again, continues what was under way and goes on. Images are decoded once.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shlex
import tempfile
import warnings
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.train
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from agescale import catalogs, checkpoints, lease, spaces, storage, sweep_report, training_plan, trials
from agescale.age_groups import EXACT_YEARS
from agescale.config import EXECUTION_FIELDS, SweepConfig, TrainConfig
from agescale.data import SharedFaces, num_gpus, start_ray
from agescale.finetuning import format_phases, parse_phases
from agescale.spaces import Space
from agescale.training import Diverged, OutOfMemory, train
from agescale.training_plan import Selected
from agescale.trials import Status, Trial

TRIAL_CPUS = 0.01
"""What Ray reserves for the process that watches a trial; its training processes ask for their own."""
TUNE_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # which is no output where nobody asks for any
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # every result as JSON, CSV and for TensorBoard, in a folder that goes
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # Python's tracebacks; a trial that fails is a row with its reason
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that diverges at once has nothing to report
}
MAX_FAILURES = 3
"""Deaths of a trial's processes that it survives; then it is a row with its reason."""
SHARED_FIELDS = (
    "catalog",
    "where",
    "max_images",
    "num_workers",
    "cpus_per_worker",
    "gpus_per_worker",
    "device",
    "seed",
)
"""Settings of a sweep that are those of every trial."""
MIN_BATCH_SIZE = 4
"""Below it a trial for which memory does not suffice is given up."""


@dataclass(frozen=True)
class SweepResult:
    leaderboard: list[dict[str, Any]]
    command: str  # which trains the winner again; empty where no trial has a value
    refit: str  # the winner's checkpoint, trained on training and validation images together; empty where not asked for
    report: str
    disk_bytes: int


def sweep(config: SweepConfig, base: TrainConfig) -> SweepResult:
    """Runs what is left of a sweep. ``base`` has the settings that are the same for all trials.

    Raises ValueError, before anything is started, for a space with an impossible trial, and for another sweep's folder.
    """
    out = storage.absolute(config.out)
    space = spaces.load(config.space)
    base = replace(base, **{name: getattr(config, name) for name in SHARED_FIELDS})
    selected = _check(config, base, space)
    storage.check_writable(out)
    with lease.hold(out) as held:
        trials.begin(out, _identity(config, base, space, selected.run["data"]))
        proposals = Proposals(config, space, trials.read_trials(out))
        if proposals.num_left:
            start_ray(min_cpus=base.num_workers * base.cpus_per_worker + 1, has_dashboard=True)
            concurrency = _concurrency(config, base)
            scheduler = build_scheduler(config, trials.read_trials(out))
            _run(config, base, proposals, scheduler, concurrency, held)
        rows = trials.leaderboard(out, config.objective)
        trials.write_leaderboard(out, rows)
        disk_bytes = trials.tidy(out, rows)
        command = refit = ""
        if rows and rows[0]["value"] is not None:
            trials.copy_best(out, rows[0]["number"])
            best = config_of(config, base, trials.read_trial(out, rows[0]["number"]))
            command = shlex.join(["python", "jobs/train.py", *spaces.to_arguments(replace(best, out=f"{out}-winner"))])
            if config.refit:
                print("training the winner on training and validation images together", flush=True)
                refit = storage.join(out, "refit/best")
                train(replace(best, refit=True, out=storage.join(out, "refit")))
        curves = {trial.number: trials.read_curve(out, trial) for trial in trials.read_trials(out)}
        report = sweep_report.write_report(out, _about(config, selected, rows, disk_bytes), rows, curves, command)
        return SweepResult(rows, command, refit, report, disk_bytes)


def _about(config: SweepConfig, selected: Selected, rows: list[dict[str, Any]], disk_bytes: int) -> dict[str, Any]:
    """What the report says of the sweep as a whole, and what a model would have to beat."""
    about = {
        name: getattr(config, name) for name in ("space", "searcher", "scheduler", "epochs", "objective", "catalog")
    }
    seconds = sum(row["seconds"] for row in rows)
    about |= {"num_trials": len(rows), "seconds": seconds, "disk_bytes": disk_bytes}
    train, val = _splits(selected)
    return about | {"num_train": len(train), "num_val": len(val), "baseline": baseline(config, selected)}


def _splits(selected: Selected) -> tuple[pa.Table, pa.Table]:
    train, val = (selected.rows.filter(pc.equal(selected.rows["split"], split)) for split in ("train", "val"))
    return train, val


def baseline(config: SweepConfig, selected: Selected) -> dict[str, Any] | None:
    """What always the same answer reaches, the one that suits the training images best, by its name and value."""
    train, val = _splits(selected)
    if config.objective == "accuracy":
        known_N, judged_N = (catalogs.group_indices(rows, selected.age_groups) for rows in (train, val))
        known_N, judged_N = known_N[known_N >= 0], judged_N[judged_N >= 0]
        if not len(known_N) or not len(judged_N):
            return None
        largest = np.bincount(known_N).argmax()
        name = f"always {selected.age_groups.names[largest]}"
        return {"name": name, "value": float((judged_N == largest).mean())}
    train, val = (rows.filter(_is_exact(rows)) for rows in (train, val))
    if not len(train) or not len(val):
        return None
    errors_N = np.abs(val["age_low"].to_numpy() - np.median(train["age_low"].to_numpy()))
    value = errors_N.mean()
    if config.objective == "worst_group_mae":
        group_N = catalogs.group_indices(val, selected.age_groups)
        value = max(errors_N[group_N == group].mean() for group in np.unique(group_N))
    return {"name": "always the median age", "value": float(value)}


def _is_exact(rows: pa.Table) -> pa.BooleanArray:
    return pc.less_equal(pc.subtract(rows["age_high"], rows["age_low"]), EXACT_YEARS)


def config_of(config: SweepConfig, base: TrainConfig, trial: Trial) -> TrainConfig:
    """The training that a trial of the sweep is.

    Where its batch had to be halved, so is the learning rate: Goyal et al., "Accurate, Large Minibatch SGD", 2017.
    """
    weights = dict(item.split("=", 1) for item in config.weights)
    planned = spaces.to_config(base, trial.point, config.epochs)
    if "weights" not in trial.point and planned.encoder in weights:
        planned = replace(planned, weights=weights[planned.encoder])
    if not trial.num_halvings:
        return planned
    share = 0.5**trial.num_halvings
    phases = (replace(phase, lr=phase.lr * share) for phase in parse_phases(planned.phases))
    return replace(planned, batch_size=int(planned.batch_size * share), phases=format_phases(tuple(phases)))


def _check(config: SweepConfig, base: TrainConfig, space: Space) -> Selected:
    """Plans a trial with each value of each setting. Returns the images; raises ValueError for a mistake."""
    if config.epochs < 1 or (config.num_trials is not None and config.num_trials < 1):
        raise ValueError("--epochs and --num-trials are at least 1")
    for item in config.weights:
        if "=" not in item:
            raise ValueError(f"--weights {item}: ENCODER=FILE is needed, such as torchvision/vgg16=vgg16.pth")
    if config.searcher == "grid":
        spaces.grid(space)
    selected = training_plan.select(base)
    for point in spaces.examples(space):
        try:
            plan, _, _ = training_plan.build_plan(config_of(config, base, Trial(0, point, {})), selected)
        except (ValueError, TypeError) as error:
            raise ValueError(f"--space {config.space}: {json.dumps(point)}: {error}") from error
        if plan.metric != "mae" and config.objective != "accuracy":
            raise ValueError(f"--space {config.space}: {json.dumps(point)} tells no ages; give --objective accuracy")
    return selected


def _identity(config: SweepConfig, base: TrainConfig, space: Space, data: str) -> dict[str, Any]:
    """What has to stay while a sweep goes on; its budget may grow."""
    return {
        "space": spaces.describe(space),
        "searcher": config.searcher,
        "scheduler": config.scheduler,
        "objective": config.objective,
        "epochs": config.epochs,
        "weights": list(config.weights),
        "settings": spaces.to_arguments(
            replace(base, **{name: getattr(TrainConfig(), name) for name in EXECUTION_FIELDS})
        ),
        "data": data,
    }


def _concurrency(config: SweepConfig, base: TrainConfig) -> int:
    """Trials at a time, such that every training process finds its place and one CPU is left for decoding."""
    have = ray.cluster_resources()
    gpus = num_gpus()
    use_gpu = base.device == "cuda" or (base.device == "auto" and gpus > 0)
    need = {"CPU": base.num_workers * base.cpus_per_worker}
    need |= {"GPU": base.num_workers * base.gpus_per_worker} if use_gpu else {}
    free = {"CPU": have.get("CPU", 0.0) - 1, "GPU": float(gpus)}
    num = min(math.floor(free[kind] / amount + 1e-9) for kind, amount in need.items())
    if num < 1:
        raise ValueError(
            f"a trial needs {need['CPU']:g} CPUs, one more for decoding, and {need.get('GPU', 0):g} GPUs; the cluster "
            f"has {have.get('CPU', 0):g} and {gpus}; lower --num-workers, or add nodes"
        )
    return min(num, config.max_concurrent or num)


def build_scheduler(config: SweepConfig, known: list[Trial]) -> TrialScheduler:
    """ASHA that has seen what the trials before have brought."""
    if config.scheduler == "none":
        return FIFOScheduler()
    scheduler = ASHAScheduler(
        time_attr="epoch",
        metric=f"val_{config.objective}",
        mode=trials.DIRECTIONS[config.objective],
        max_t=config.epochs,
        grace_period=min(config.grace_epochs, config.epochs),
        reduction_factor=config.reduction_factor,
        stop_last_trials=False,
    )
    for trial in known:
        before = SimpleNamespace(trial_id=f"before-{trial.name}")
        scheduler.on_trial_add(None, before)
        for entry in trials.read_curve(storage.absolute(config.out), trial) if trial.status != "running" else ():
            scheduler.on_trial_result(None, before, entry)
    return scheduler


class Proposals(Searcher):
    """Where Tune gets its trials from: first those that were under way, then new ones until there are enough."""

    def __init__(self, config: SweepConfig, space: Space, known: list[Trial]) -> None:
        super().__init__()
        self.config, self.space, self.out = config, space, storage.absolute(config.out)
        self.waiting = [trial for trial in known if trial.status == "running"]
        self.num_begun = len(known)
        self.values = {trial.number: self._value(trial) for trial in known if trial.status != "running"}
        self.num_epochs = sum(len(trials.read_curve(self.out, trial)) for trial in known)
        self.under_way: dict[str, Trial] = {}
        self.dropped: set[int] = set()
        self.study: optuna.Study | None = None
        self.asked: dict[int, optuna.Trial] = {}
        num_trials = config.num_trials or config.total_epochs or 20
        if config.searcher == "optuna":
            self.num_trials = num_trials
            self.study = _study(config.seed + len(known))  # the same seed again would propose the first ones again
            for trial in known:
                self._recall(trial)
        else:
            points = spaces.grid(space) if config.searcher == "grid" else spaces.sample(space, num_trials, config.seed)
            points = points if config.searcher == "random" or config.num_trials is None else points[:num_trials]
            tried = [trial.point for trial in known]
            self.points = [point for point in json.loads(json.dumps(points)) if point not in tried]
            self.num_trials = len(known) + len(self.points)

    @property
    def num_left(self) -> int:
        return len(self.waiting) + (0 if self._is_spent else max(0, self.num_trials - self.num_begun))

    @property
    def _is_spent(self) -> bool:
        return self.config.total_epochs is not None and self.num_epochs >= self.config.total_epochs

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if self.waiting:
            trial = self.waiting.pop(0)
        elif self.num_begun < self.num_trials and not self._is_spent:
            trial = self._propose(self.num_begun)
            self.num_begun += 1
            trials.write_trial(self.out, trial)
        else:
            return Searcher.FINISHED
        self.under_way[trial_id] = trial
        return {"number": trial.number, "point": trial.point}

    def _propose(self, number: int) -> Trial:
        if self.study is None:
            return Trial(number, self.points.pop(0), {})
        asked = self.study.ask()
        point = spaces.suggest(self.space, asked)
        self.asked[number] = asked
        return Trial(number, json.loads(json.dumps(point)), dict(asked.params))

    def _recall(self, trial: Trial) -> None:
        """Shows the study a trial of before."""
        assert self.study is not None
        self.study.enqueue_trial(trial.asked)
        asked = self.study.ask()
        spaces.suggest(self.space, asked)
        self.asked[trial.number] = asked
        if trial.status != "running":
            self._tell(trial)

    def _tell(self, trial: Trial) -> None:
        """Tells the study what a trial that is over has brought."""
        if self.study is not None:
            value = self.values[trial.number]
            state = optuna.trial.TrialState.FAIL if value is None else optuna.trial.TrialState.COMPLETE
            self.study.tell(self.asked.pop(trial.number), value, state)

    def _value(self, trial: Trial) -> float | None:
        """What a trial has brought, the less the better; None where it has come to nothing."""
        kept = trials.best_epoch(trials.read_curve(self.out, trial)) or {}
        value = kept.get(f"val_{self.config.objective}")
        return None if value is None else trials.sign(self.config.objective) * value

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self.num_epochs += 1

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Ends a trial. Only the best one's checkpoint is kept, so the disk holds a few, however many trials."""
        trial = end_trial(self.out, self.under_way.pop(trial_id), has_failed=error)
        self.values[trial.number] = self._value(trial)
        self._tell(trial)
        best = min((value for value in self.values.values() if value is not None), default=None)
        for number, value in self.values.items():
            if (value is None or value != best) and number not in self.dropped:
                trials.drop_checkpoints(self.out, number)
                self.dropped.add(number)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: all that it knows stands in the sweep's folder."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as above, of the copy that Ray keeps


def _study(seed: int) -> optuna.Study:
    """TPE over settings together, those of each alternative apart, that does not ask for what is under way again."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
    return optuna.create_study(sampler=sampler)


def end_trial(out: str, trial: Trial, has_failed: bool) -> Trial:
    """Says how a trial ended, unless its own process has said so already."""
    said = trials.read_trial(out, trial.number)
    if said.status == "running":
        last = storage.join(trials.run_of(out, trial.number), "last")
        checkpoint = checkpoints.read(last) if checkpoints.exists(last) else None
        is_finished = checkpoint is not None and checkpoint.progress.is_finished
        status: Status = "finished" if is_finished else "failed" if has_failed else "stopped"
        reason = f"its processes died {MAX_FAILURES + 1} times" if status == "failed" else said.reason
        num_parameters = checkpoint.provenance.get("num_parameters") if checkpoint else None
        said = replace(said, status=status, reason=reason, num_parameters=num_parameters)
        trials.write_trial(out, said)
    return said


def _run(
    config: SweepConfig,
    base: TrainConfig,
    proposals: Proposals,
    scheduler: TrialScheduler,
    concurrency: int,
    held: lease.Lease,
) -> None:
    """One execution of Ray Tune over all that is left."""
    os.environ.update(TUNE_ENVIRONMENT)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    shared = SharedFaces.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]  # dies when we do
    driver = tune.with_parameters(train_driver_fn, config=config, base=base, shared=shared)
    with tempfile.TemporaryDirectory(prefix="agescale-") as scratch:  # Ray's own records; nothing we keep stands there
        tuner = tune.Tuner(
            tune.with_resources(driver, {"CPU": TRIAL_CPUS}),
            tune_config=tune.TuneConfig(
                search_alg=proposals,
                scheduler=scheduler,
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
                callbacks=[Progress(config, held)],
            ),
        )
        tuner.fit()


class Progress(tune.Callback):
    """A line an epoch, and the end of a sweep whose folder another one has taken over."""

    def __init__(self, config: SweepConfig, held: lease.Lease) -> None:
        self.config, self.held = config, held

    def __getstate__(self) -> dict[str, Any]:
        return {}  # of the copy that Ray keeps, which nobody uses

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.held.check()
        value = result.get(f"val_{self.config.objective}")
        said = "" if value is None else f", {self.config.objective} {value:.3f}"
        print(f"{trial}: epoch {result['epoch']}/{self.config.epochs}{said}", flush=True)


def train_driver_fn(trial: dict[str, Any], config: SweepConfig, base: TrainConfig, shared: Any) -> None:
    """One trial, in a process of its own: a training whose every epoch Tune is told of."""
    run_trial(trial["number"], config, base, (TuneReportCallback(),), shared)


def run_trial(
    number: int,
    config: SweepConfig,
    base: TrainConfig,
    callbacks: tuple[ray.train.UserCallback, ...],
    shared: SharedFaces | None,
) -> None:
    """Trains, or continues, a trial, and says how it ended. Where memory does not suffice it begins anew with half the
    batch. Raises Held while a process of this very trial is still dying."""
    out = storage.absolute(config.out)
    while True:
        said = trials.read_trial(out, number)
        planned = replace(config_of(config, base, said), out=trials.run_of(out, said.number))
        try:
            train(planned, callbacks, shared)
            return
        except lease.Held:  # Tune tries again
            raise
        except OutOfMemory as error:
            half = planned.batch_size // 2
            if half < MIN_BATCH_SIZE or half % planned.num_workers:
                trials.write_trial(out, replace(said, status="failed", reason=str(error)))
                return
            trials.drop_run(out, said.number)
            reason = f"batches of {half}, and not {half << said.num_halvings + 1}, for want of memory"
            trials.write_trial(out, replace(said, num_halvings=said.num_halvings + 1, reason=reason))
            print(f"trial {said.name}: {reason}", flush=True)
        except ValueError as error:  # its settings are impossible in a way that no plan shows, or it diverged
            status: Status = "diverged" if isinstance(error, Diverged) else "failed"
            trials.write_trial(out, replace(said, status=status, reason=str(error)))
            return
