"""Searches for the best settings of training with Ray Tune: a space in, trials, a leaderboard and the best model out.

Each trial is what ``train`` does, with settings that a searcher proposes; a scheduler sees every epoch and stops those
that fall behind. What trials were and did stands in the sweep's folder (see ``trials``) and not in Ray's: the same
command shows it to searcher and scheduler again, continues what was under way and goes on. The catalog is read once,
and images are decoded once, as far as they fit in memory.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shlex
import tempfile
import warnings
from collections.abc import Mapping, Sequence
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

from agescale import catalogs, checkpoints, spaces, sweep_report, training_plan, trials, validation
from agescale.age_groups import AgeGroups
from agescale.cluster import start_ray
from agescale.config import EXECUTION_FIELDS, SweepConfig, TrainConfig
from agescale.data import WORKER_BYTES, SharedFaces, num_gpus, uses_gpu
from agescale.finetuning import format_phases, parse_phases
from agescale.labels import EXACT_YEARS
from agescale.spaces import Space
from agescale.store import lease, objects, paths
from agescale.store.errors import StoreError
from agescale.training import Diverged, Impossible, OutOfMemory, Shared, lasting_store_error, train
from agescale.training_plan import Selected
from agescale.trials import Curve, Status, Trial

TRIAL_BYTES = 2**29
"""Memory of the process that watches a trial. Of CPUs it asks for none: they are its training processes'."""
TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl+C ends a sweep as any other job, and not as if it were over
    "RAY_AIR_NEW_OUTPUT": "0",  # which is no output where nobody asks for any
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # every result as JSON, CSV and for TensorBoard, in a folder that goes
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # Python's tracebacks; a trial that fails is a row with its reason
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that diverges at once has nothing to report
}
MAX_FAILURES = 3
"""Deaths of a trial's processes that it survives; then it waits for the same command."""
SHARED_FIELDS = (
    "catalog",
    "where",
    "max_images",
    "num_workers",
    "cpus_per_worker",
    "gpus_per_worker",
    "device",
    "seed",
    "lease",
)
"""Settings of a sweep that are those of every trial."""
MIN_BATCH_SIZE = 4
"""Below it a trial for which memory does not suffice is given up."""


@dataclass(frozen=True)
class SweepResult:
    leaderboard: list[dict[str, Any]]
    num_left: int  # trials that are not over, and those that are still to begin
    command: str  # which trains the winner again; empty where no trial has a value
    refit: str  # the winner's checkpoint, trained on training and validation images together; empty where not asked for
    report: str
    disk_bytes: int


def sweep(config: SweepConfig, base: TrainConfig) -> SweepResult:
    """Runs what is left of a sweep. ``base`` has the settings that are the same for all trials.

    Raises ValueError, before anything is started, for a space with an impossible trial, and for another sweep's folder.
    """
    config, base = _with_absolute_paths(config, base)
    out, space = config.out, _with_absolute_weights(spaces.load(config.space))
    training_plan.check_place(paths.join(out, trials.SWEEP_NAME), "a sweep", config.catalog)
    selected = _check(config, base, space)
    objects.check_writable(out)
    with lease.hold(out, is_wanted=config.lease) as held:
        if not objects.exists(paths.join(out, trials.SWEEP_NAME)):
            training_plan.pin_images(out, selected)
        trials.begin(out, _identity(config, base, space, selected.run["data"]))
        known = trials.read_trials(out)
        proposals = Proposals(config, space, known, trials.read_curves(out, known), build_scheduler(config))
        if proposals.num_left:
            start_ray(min_cpus=base.num_workers * base.cpus_per_worker + 1, has_dashboard=True)
            _run(config, base, selected, proposals, held)
        return _conclude(config, base, selected, proposals.num_to_begin)


def _with_absolute_paths(config: SweepConfig, base: TrainConfig) -> tuple[SweepConfig, TrainConfig]:
    """Settings as other processes need them, whose working directory is another one."""
    pairs = (item.partition("=") for item in config.weights)
    weights = tuple(f"{encoder}{sign}{training_plan.absolute_weights(source)}" for encoder, sign, source in pairs)
    catalog, out = paths.absolute(config.catalog), paths.absolute(config.out)
    config = replace(config, catalog=catalog, out=out, weights=weights)
    base = replace(base, **{name: getattr(config, name) for name in SHARED_FIELDS})
    gender_from = paths.absolute(base.gender_from) if base.gender_from else ""
    return config, replace(base, gender_from=gender_from, weights=training_plan.absolute_weights(base.weights))


def _with_absolute_weights(space: Space) -> Space:
    return [
        {
            name: [*map(training_plan.absolute_weights, values)] if name == "weights" else values
            for name, values in each.items()
        }
        for each in space
    ]


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


def _about(
    config: SweepConfig, selected: Selected, rows: list[dict[str, Any]], num_to_begin: int, disk_bytes: int
) -> dict[str, Any]:
    """What the report says of the sweep as a whole, and what a model would have to beat."""
    train, val = _splits(selected)
    about = {
        name: getattr(config, name) for name in ("space", "searcher", "scheduler", "epochs", "objective", "catalog")
    }
    about |= {"num_trials": len(rows) + num_to_begin, "disk_bytes": disk_bytes}
    about |= {"seconds": sum(row["seconds"] for row in rows), "num_train": len(train), "num_val": len(val)}
    return about | {"baseline": baseline(config, selected)}


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
        value = max(errors_N[group_N == group].mean() for group in _large_groups(val, selected.age_groups))
    return {"name": "always the median age", "value": float(value)}


def _large_groups(val: pa.Table, age_groups: AgeGroups) -> list[int]:
    """The age groups of which enough faces are validated that their error says something."""
    groups, counts = np.unique(catalogs.group_indices(val.filter(_is_exact(val)), age_groups), return_counts=True)
    return [int(group) for group, count in zip(groups, counts, strict=True) if group >= 0 and count >= validation.FEW]


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
    for name in ("epochs", "num_trials", "total_epochs", "grace_epochs", "max_concurrent"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} {value}: at least 1")
    if config.reduction_factor <= 1 or (config.hours is not None and config.hours <= 0):
        raise ValueError("--reduction-factor is more than 1, and --hours more than 0")
    for item in config.weights:
        if "=" not in item:
            raise ValueError(f"--weights {item}: ENCODER=FILE is needed, such as torchvision/vgg16=vgg16.pth")
    if config.searcher == "grid":
        spaces.grid(space, config.seed)
    selected = training_plan.select(base, paths.join(config.out, trials.SWEEP_NAME))
    for point in spaces.examples(space):
        try:
            planned = config_of(config, base, Trial(0, point, {}))
            plan, _, _ = training_plan.build_plan(planned, training_plan.select(planned, known=selected))
        except (ValueError, TypeError) as error:
            raise ValueError(f"--space {config.space}: {json.dumps(point)}: {error}") from error
        if plan.metric != "mae" and config.objective != "accuracy":
            raise ValueError(f"--space {config.space}: {json.dumps(point)} tells no ages; give --objective accuracy")
    if config.objective == "worst_group_mae" and not _large_groups(_splits(selected)[1], selected.age_groups):
        raise ValueError(f"--objective worst_group_mae: no age group has {validation.FEW} faces to be judged by")
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


def _place(config: SweepConfig, base: TrainConfig) -> tuple[TrainConfig, int]:
    """Where trials train, the same for all of them, and how many at a time: such that every training process finds its
    place and one CPU is left for decoding. Raises ValueError where not even one does."""
    have, gpus = ray.cluster_resources(), num_gpus()
    use_gpu = uses_gpu(base.device)
    need = {"CPU": base.num_workers * base.cpus_per_worker}
    need |= {"GPU": base.num_workers * base.gpus_per_worker} if use_gpu else {}
    need |= {"memory": base.num_workers * WORKER_BYTES + TRIAL_BYTES}
    free = {"CPU": have.get("CPU", 0.0) - 1, "GPU": float(gpus), "memory": have.get("memory", 0.0)}
    num = min(math.floor(free[kind] / amount + 1e-9) for kind, amount in need.items())
    if num < 1:
        raise ValueError(
            f"a trial needs {need['CPU']:g} CPUs, one more for decoding, {need.get('GPU', 0):g} GPUs and "
            f"{need['memory'] / 2**30:.1f} GiB of memory; the cluster has {have.get('CPU', 0):g}, {gpus} and "
            f"{free['memory'] / 2**30:.1f}; lower --num-workers, or add nodes"
        )
    return replace(base, device="cuda" if use_gpu else "cpu"), min(num, config.max_concurrent or num)


def build_scheduler(config: SweepConfig) -> TrialScheduler:
    """Who stops trials, before it has seen any."""
    if config.scheduler == "none":
        return FIFOScheduler()
    return ASHAScheduler(
        time_attr="epoch",
        metric=f"val_{config.objective}",
        mode=validation.DIRECTIONS[config.objective],
        max_t=config.epochs,
        grace_period=min(config.grace_epochs, config.epochs),
        reduction_factor=config.reduction_factor,
        stop_last_trials=False,
    )


class Proposals(Searcher):
    """Where Tune gets its trials from: first those that were under way, then new ones until there are enough.

    What trials have brought before is shown to the scheduler and to the study as if it were now. ``error`` is what
    ends the sweep: raised here, Tune would take it for the end of a trial.
    """

    def __init__(
        self,
        config: SweepConfig,
        space: Space,
        known: Sequence[Trial],
        curves: Mapping[int, Curve],
        scheduler: TrialScheduler,
    ) -> None:
        super().__init__()
        self.config, self.space, self.out, self.scheduler = config, space, config.out, scheduler
        self.waiting = [trial for trial in known if trial.status == "running"]
        self.curves = {trial.number: curves[trial.number] for trial in self.waiting}
        self.num_begun = len(known)
        self.next_number = 1 + max((trial.number for trial in known), default=-1)
        self.num_epochs = sum(map(len, curves.values()))
        self.values = {trial.number: self._value(curves[trial.number]) for trial in known if trial.status != "running"}
        self.dropped = {number for number in self.values if number not in self._best}
        self.under_way: dict[str, Trial] = {}
        self.error: StoreError | lease.Held | None = None
        self.study: optuna.Study | None = None
        self.asked: dict[int, optuna.Trial] = {}
        for number in self.values:
            self._show(f"before-{number}", curves[number])
        num_trials = config.num_trials or config.total_epochs or 20
        if config.searcher == "optuna":
            self.num_trials = num_trials
            self.study = _study(config.seed + len(known))  # the same seed again would propose the first ones again
            for trial in known:
                self._recall(trial)
        else:
            is_grid = config.searcher == "grid"
            points = spaces.grid(space, config.seed) if is_grid else spaces.sample(space, num_trials, config.seed)
            tried = [trial.point for trial in known]
            self.points = [point for point in json.loads(json.dumps(points)) if point not in tried]
            if not is_grid or config.num_trials is not None:
                self.points = self.points[: max(0, num_trials - len(known))]
            self.num_trials = len(known) + len(self.points)

    @property
    def num_left(self) -> int:
        return len(self.waiting) + self.num_to_begin

    @property
    def num_to_begin(self) -> int:
        return 0 if self._is_spent else max(0, self.num_trials - self.num_begun)

    @property
    def _is_spent(self) -> bool:
        return self.config.total_epochs is not None and self.num_epochs >= self.config.total_epochs

    @property
    def _best(self) -> set[int]:
        """Of the trials that are over the best one, or several as good."""
        known = {number: value for number, value in self.values.items() if value is not None}
        return {number for number, value in known.items() if value == min(known.values())}

    def _show(self, trial_id: str, curve: Curve) -> None:
        """Lets the scheduler see what a trial has brought before."""
        trial = SimpleNamespace(trial_id=trial_id)
        self.scheduler.on_trial_add(None, trial)
        for entry in curve:
            if entry[f"val_{self.config.objective}"] is not None:
                self.scheduler.on_trial_result(None, trial, entry)

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if self.waiting:
            trial = self.waiting.pop(0)
            self._show(trial_id, self.curves[trial.number])
        elif self.num_to_begin:
            trial = self._propose(self.next_number)
            try:
                trials.write_trial(self.out, trial)
            except StoreError as error:
                self.error = error
                return Searcher.FINISHED
            self.num_begun += 1
            self.next_number += 1
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

    def _value(self, curve: Curve) -> float | None:
        """What a trial has brought, the less the better; None where it has come to nothing."""
        value = trials.value_of(curve, self.config.objective)
        return None if value is None else validation.sign(self.config.objective) * value

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Ends a trial. Only the best one's checkpoint is kept, so the disk holds a few, however many trials."""
        trial = self.under_way.pop(trial_id)
        if error:
            return  # it waits for the same command
        try:
            trial = end_trial(self.out, trial)
            self.values[trial.number] = self._value(trials.read_curve(self.out, trial))
            self._tell(trial)
            for number in self.values.keys() - self.dropped - self._best:
                trials.drop_checkpoints(self.out, number)
                self.dropped.add(number)
        except StoreError as failure:
            self.error = failure

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


def end_trial(out: str, trial: Trial) -> Trial:
    """Says how a trial ended, unless its own process has said so already."""
    said = trials.read_trial(out, trial.number)
    if said.status == "running":
        last = paths.join(trials.run_of(out, trial.number), "last")
        checkpoint = checkpoints.read(last) if checkpoints.exists(last) else None
        is_finished = checkpoint is not None and checkpoint.progress.is_finished
        num_parameters = checkpoint.provenance.get("num_parameters") if checkpoint else None
        said = replace(said, status="finished" if is_finished else "stopped", num_parameters=num_parameters)
        trials.write_trial(out, said)
    return said


def _run(
    config: SweepConfig,
    base: TrainConfig,
    selected: Selected,
    proposals: Proposals,
    held: lease.Lease,
) -> None:
    """One execution of Ray Tune over all that is left. Raises what ended it before its time."""
    os.environ.update(TUNE_ENVIRONMENT)
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
                callbacks=[Progress(config, proposals)],
                stop=Breaker(proposals, held),
            ),
        )
        tuner.fit()
    ray.kill(faces)
    if proposals.error is not None:
        raise proposals.error


class Breaker(tune.Stopper):
    """Ends a sweep whose store fails, or whose folder another one has taken over."""

    def __init__(self, proposals: Proposals, held: lease.Lease) -> None:
        self.proposals, self.held = proposals, held

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        try:
            self.held.check()
        except lease.Held as error:
            self.proposals.error = error
        return self.proposals.error is not None

    def __getstate__(self) -> dict[str, Any]:
        return {}  # of the copy that Ray keeps, which nobody uses


class Progress(tune.Callback):
    """A line for a trial's settings and for each epoch, and one where its processes die again and again."""

    def __init__(self, config: SweepConfig, proposals: Proposals) -> None:
        self.config, self.proposals = config, proposals

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as above

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number, point = trial.config["number"], trial.config["point"]
        settings = ", ".join(f"{name} {value}" for name, value in point.items())
        print(f"{trial}: {number + 1} of {self.proposals.num_trials}, {settings}", flush=True)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.proposals.num_epochs += 1  # here, because a searcher is not told of the epoch after which a trial stops
        value = result.get(f"val_{self.config.objective}")
        said = "" if value is None else f", {self.config.objective} {value:.3f}"
        print(f"{trial}: epoch {result['epoch']}/{self.config.epochs}{said}", flush=True)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Ends the sweep, instead of trying a trial again, where a store will say again what it has said."""
        self.proposals.error = self.proposals.error or lasting_store_error(trial.get_pickled_error())

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        error = str(trial.get_error() or "").strip().rpartition("\n")[2]
        reason = f"its processes died {MAX_FAILURES + 1} times, the same command tries again: {error[:300]}"
        print(f"{trial}: {reason}", flush=True)
        try:
            give_reason(self.config.out, trial.config["number"], reason)
        except StoreError as failure:
            self.proposals.error = failure


def give_reason(out: str, number: int, reason: str) -> None:
    """Says why a trial is not over."""
    said = trials.read_trial(out, number)
    if said.status == "running":
        trials.write_trial(out, replace(said, reason=reason))


def train_driver_fn(trial: dict[str, Any], config: SweepConfig, base: TrainConfig, shared: Shared) -> None:
    """One trial, in a process of its own: a training whose every epoch Tune is told of."""
    run_trial(trial["number"], config, base, (TuneReportCallback(),), shared)


def run_trial(
    number: int,
    config: SweepConfig,
    base: TrainConfig,
    callbacks: tuple[ray.train.UserCallback, ...],
    shared: Shared | None,
) -> None:
    """Trains, or continues, a trial, and says where its settings make it end. Where memory does not suffice it begins
    anew with half the batch. What else goes wrong (processes, nodes, the store) is raised, and Tune tries again."""
    out = config.out
    while True:
        said = trials.read_trial(out, number)
        planned = replace(config_of(config, base, said), out=trials.run_of(out, said.number))
        try:
            train(planned, callbacks, shared)
            return
        except OutOfMemory as error:
            half = planned.batch_size // 2
            if half < MIN_BATCH_SIZE or half % planned.num_workers:
                trials.write_trial(out, replace(said, status="failed", reason=str(error)))
                return
            trials.drop_run(out, said.number)
            reason = f"batches of {half}, and not {half << said.num_halvings + 1}, for want of memory"
            trials.write_trial(out, replace(said, num_halvings=said.num_halvings + 1, reason=reason))
            print(f"trial {said.name}: {reason}", flush=True)
        except (Diverged, Impossible) as error:
            status: Status = "diverged" if isinstance(error, Diverged) else "failed"
            trials.write_trial(out, replace(said, status=status, reason=str(error)))
            return
