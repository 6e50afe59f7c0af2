"""Who proposes the next trial, and who stops one: Optuna and ASHA behind Ray Tune, replayed from the trials on disk."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import optuna
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from agescale.config import SweepConfig
from agescale.store import lease
from agescale.store.errors import StoreError
from agescale.sweeping import spaces, trials
from agescale.sweeping.spaces import Space
from agescale.sweeping.trials import Curve, Trial, end_trial, give_reason
from agescale.training import validation
from agescale.training.failures import lasting_store_error

MAX_FAILURES = 3
"""Deaths of a trial's processes that it survives; then it waits for the same command."""


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
