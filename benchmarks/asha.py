"""What ASHA would have spent on a grid that was trained in full, and whether its winner is as good.

    python jobs/sweep.py fast --catalog runs/utk/catalog --space space.py --searcher grid --scheduler none \\
        --out runs/grid
    python benchmarks/asha.py --sweep runs/grid

Shows the scheduler of a sweep, Ray Tune's ASHAScheduler, the recorded curves of all trials, in many random orders, as
if it were now: some trials at a time, each for as long as its epochs took. Trains nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Literal

import numpy as np
import tyro
from ray.tune.schedulers import TrialScheduler

from agescale.config import SweepConfig
from agescale.store import paths
from agescale.sweeping import search, trials
from agescale.sweeping.trials import Curve
from agescale.training import validation


@dataclass(frozen=True)
class AshaConfig:
    sweep: str
    """Folder of a sweep whose trials were all trained in full (--scheduler none)."""
    objective: Literal["mae", "worst_group_mae", "accuracy"] = "mae"
    """What is sought."""
    num_orders: int = 1000
    """Random orders of the trials."""
    max_concurrent: int = 1
    """Trials at a time."""
    grace_epochs: int = SweepConfig.grace_epochs
    """Epochs that every trial gets before ASHA may stop it."""
    reduction_factor: float = SweepConfig.reduction_factor
    """Of so many trials ASHA lets one go on, at each of its levels."""
    within: float = 0.02
    """How much worse than the grid's best, relative, still counts as found."""
    seed: int = 0
    """Seed of the orders."""


def main(config: AshaConfig) -> None:
    out = paths.absolute(config.sweep)
    finished = [trial for trial in trials.read_trials(out) if trial.status == "finished"]
    curves = list(trials.read_curves(out, finished).values())
    if len(curves) < 2:
        raise SystemExit(f"error: {out} has {len(curves)} trials that were trained in full")
    random = np.random.default_rng(config.seed)
    best, total = best_value(config, curves), sum(map(len, curves))
    replays = [replay(config, [curves[i] for i in random.permutation(len(curves))]) for _ in range(config.num_orders)]
    shares = np.array([num_epochs for num_epochs, _ in replays]) / total
    regrets = np.array([abs(value - best) / abs(best) for _, value in replays])
    print(f"{len(curves)} trials, {total} epochs in full, best {config.objective} {best:.3f}")
    print(f"ASHA, {config.num_orders} random orders, {config.max_concurrent} at a time:")
    for name, values in (("epochs, of the grid's", shares), ("winner, worse than the grid's best by", regrets)):
        low, median, high = np.percentile(values, [5, 50, 95])
        print(f"  {name}: median {median:.1%} (5 % to 95 %: {low:.1%} to {high:.1%})")
    print(
        f"  winner within {config.within:.0%} of the grid's best: in {(regrets <= config.within).mean():.1%} of orders"
    )


def best_value(config: AshaConfig, curves: Sequence[Curve]) -> float:
    sign, values = validation.sign(config.objective), (trials.value_of(curve, config.objective) for curve in curves)
    return sign * min(sign * value for value in values if value is not None)


def replay(config: AshaConfig, curves: Sequence[Curve]) -> tuple[int, float]:
    """Epochs that ASHA trains where trials come in this order, and the value of the one it would choose."""
    sweep = SweepConfig(
        catalog="",
        out=config.sweep,
        epochs=max(map(len, curves)),
        objective=config.objective,
        grace_epochs=config.grace_epochs,
        reduction_factor=config.reduction_factor,
    )
    scheduler = search.build_scheduler(sweep)
    waiting, seen = list(range(len(curves)))[::-1], [0] * len(curves)
    now, under_way = 0.0, list[tuple[float, int]]()
    while waiting or under_way:
        while waiting and len(under_way) < config.max_concurrent:
            number = waiting.pop()
            scheduler.on_trial_add(None, SimpleNamespace(trial_id=number))
            heapq.heappush(under_way, (now + curves[number][0]["seconds"], number))
        now, number = heapq.heappop(under_way)
        entry = curves[number][seen[number]]
        seen[number] += 1
        decision = scheduler.on_trial_result(None, SimpleNamespace(trial_id=number), entry)
        if decision == TrialScheduler.CONTINUE and seen[number] < len(curves[number]):
            heapq.heappush(under_way, (now + curves[number][seen[number]]["seconds"], number))
    return sum(seen), best_value(config, [curve[:num] for curve, num in zip(curves, seen, strict=True)])


if __name__ == "__main__":
    main(tyro.cli(AshaConfig))
