"""Who proposes what a trial tries: Optuna's TPE, which learns from the trials before, or points drawn beforehand.

In: a space, and the trials that have begun with what they have brought. Out: further trials. Runs nothing.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Protocol

import optuna

from agescale.config import SweepConfig
from agescale.sweeping import spaces
from agescale.sweeping.spaces import Point, Space
from agescale.sweeping.trials import Trial

DEFAULT_NUM_TRIALS = 20


class Proposer(Protocol):
    def propose(self, number: int) -> Trial:
        """A trial of that number, not begun yet."""

    def tell(self, number: int, value: float | None) -> None:
        """What a trial that is over has brought, the less the better; None where it has come to nothing."""


def build_proposer(
    config: SweepConfig, space: Space, known: Sequence[Trial], values: Mapping[int, float | None]
) -> tuple[Proposer, int]:
    """A proposer that knows the trials of before, and how many trials there will be in all. ``values`` are those of the
    trials that are over."""
    num_trials = config.num_trials or config.total_epochs or DEFAULT_NUM_TRIALS
    if config.searcher == "optuna":
        seed = config.seed + len(known)  # the same seed again would propose the first ones again
        return TreeParzen(space, seed, known, values), num_trials
    is_grid = config.searcher == "grid"
    points = spaces.grid(space, config.seed) if is_grid else spaces.sample(space, num_trials, config.seed)
    points = json.loads(json.dumps(points))
    for trial in known:
        if trial.point in points:
            points.remove(trial.point)  # once: what was drawn twice is tried twice
    if not is_grid or config.num_trials is not None:
        points = points[: max(0, num_trials - len(known))]
    return FixedPoints(points), len(known) + len(points)


class FixedPoints:
    """Points in their order, whatever comes of them."""

    def __init__(self, points: list[Point]) -> None:
        self.points = points

    def propose(self, number: int) -> Trial:
        return Trial(number, self.points.pop(0), {})

    def tell(self, number: int, value: float | None) -> None:
        """Learns nothing."""


class TreeParzen:
    """Optuna's TPE over all settings of an alternative together; does not propose again what is under way."""

    def __init__(self, space: Space, seed: int, known: Sequence[Trial], values: Mapping[int, float | None]) -> None:
        self.space = space
        self.open: dict[int, optuna.Trial] = {}  # trials that are not over, by number
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
        self.study = optuna.create_study(sampler=sampler)
        for trial in known:
            self.study.enqueue_trial(dict(trial.asked))
            self._ask(trial.number)
            if trial.number in values:
                self.tell(trial.number, values[trial.number])

    def propose(self, number: int) -> Trial:
        point = self._ask(number)
        return Trial(number, json.loads(json.dumps(point)), dict(self.open[number].params))

    def _ask(self, number: int) -> Point:
        self.open[number] = self.study.ask()
        return spaces.suggest(self.space, self.open[number])

    def tell(self, number: int, value: float | None) -> None:
        state = optuna.trial.TrialState.FAIL if value is None else optuna.trial.TrialState.COMPLETE
        self.study.tell(self.open.pop(number), value, state)
