"""What Ray Tune asks: which trial comes next, and who stops one; both are shown the trials on disk again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from agescale.config import SweepConfig
from agescale.store import lease
from agescale.store.errors import StoreError
from agescale.sweeping import proposers, trials
from agescale.sweeping.spaces import Space
from agescale.sweeping.trials import Curve, Suggestion, Trial, end_trial, give_reason
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


@dataclass
class Budget:
    """What a sweep may still begin, and what it has begun and spent."""

    num_trials: int
    num_begun: int
    total_epochs: int | None  # after which no further trial begins
    num_epochs: int  # trained so far by all trials

    @property
    def num_to_begin(self) -> int:
        is_spent = self.total_epochs is not None and self.num_epochs >= self.total_epochs
        return 0 if is_spent else max(0, self.num_trials - self.num_begun)


def replay(scheduler: TrialScheduler, trial_id: str, curve: Curve, objective: str) -> None:
    """Lets the scheduler see what a trial has brought before, as if it were now."""
    trial = SimpleNamespace(trial_id=trial_id)
    scheduler.on_trial_add(None, trial)
    for epoch in curve:
        if validation.value_of(epoch, objective) is not None:
            scheduler.on_trial_result(None, trial, epoch)


class NotKept:
    """Something of which Ray keeps a copy that nobody uses: all that it knows stands in the sweep's folder."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Proposals(NotKept, Searcher):
    """Where Tune gets its trials from: first those that were under way, then new ones until there are enough.

    What trials have brought before is shown to the scheduler and to the proposer as if it were now. ``error`` is what
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
        self.out, self.objective, self.scheduler = config.out, config.objective, scheduler
        self.waiting = [trial for trial in known if trial.status == "running"]
        self.curves = {trial.number: curves[trial.number] for trial in self.waiting}
        self.next_number = 1 + max((trial.number for trial in known), default=-1)
        self.values = {trial.number: self._value(curves[trial.number]) for trial in known if trial.status != "running"}
        self.dropped = {number for number in self.values if number not in self._best}
        self.under_way: dict[str, Trial] = {}
        self.error: StoreError | lease.Held | None = None
        for number in self.values:
            replay(scheduler, f"before-{number}", curves[number], self.objective)
        self.proposer, num_trials = proposers.build_proposer(config, space, known, self.values)
        self.budget = Budget(num_trials, len(known), config.total_epochs, sum(map(len, curves.values())))

    @property
    def num_left(self) -> int:
        return len(self.waiting) + self.budget.num_to_begin

    @property
    def _best(self) -> set[int]:
        """Of the trials that are over the best one, or several as good."""
        known = {number: value for number, value in self.values.items() if value is not None}
        return {number for number, value in known.items() if value == min(known.values())}

    def suggest(self, trial_id: str) -> Suggestion | None:
        if self.waiting:
            trial = self.waiting.pop(0)
            replay(self.scheduler, trial_id, self.curves[trial.number], self.objective)
        elif self.budget.num_to_begin:
            trial = self.proposer.propose(self.next_number)
            try:
                trials.write_trial(self.out, trial)
            except StoreError as error:
                self.error = error
                return Searcher.FINISHED
            self.budget.num_begun += 1
            self.next_number += 1
        else:
            return Searcher.FINISHED
        self.under_way[trial_id] = trial
        return {"number": trial.number, "point": trial.point}

    def _value(self, curve: Curve) -> float | None:
        """What a trial has brought, the less the better; None where it has come to nothing."""
        value = trials.value_of(curve, self.objective)
        return None if value is None else validation.sign(self.objective) * value

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Ends a trial. Only the best one's checkpoint is kept, so the disk holds a few, however many trials."""
        trial = self.under_way.pop(trial_id)
        if error:
            return  # it waits for the same command
        try:
            trial = end_trial(self.out, trial)
            self.values[trial.number] = self._value(trials.read_curve(self.out, trial))
            self.proposer.tell(trial.number, self.values[trial.number])
            for number in self.values.keys() - self.dropped - self._best:
                trials.drop_checkpoints(self.out, number)
                self.dropped.add(number)
        except StoreError as failure:
            self.error = failure

    def save(self, checkpoint_path: str) -> None:
        """Nothing, as above."""


class Breaker(NotKept, tune.Stopper):
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


class TrialPrinter(NotKept, tune.Callback):
    """A line for a trial's settings and for each epoch, and one where its processes die again and again."""

    def __init__(self, config: SweepConfig, proposals: Proposals) -> None:
        self.config, self.proposals = config, proposals

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number, point = trial.config["number"], trial.config["point"]
        settings = ", ".join(f"{name} {value}" for name, value in point.items())
        print(f"{trial}: {number + 1} of {self.proposals.budget.num_trials}, {settings}", flush=True)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        budget = self.proposals.budget
        budget.num_epochs += 1  # here, because a searcher is not told of the epoch after which a trial stops
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
