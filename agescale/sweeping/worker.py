"""What Ray's processes do in a sweep: the settings of one trial in, a training."""

from __future__ import annotations

from dataclasses import replace

import ray
import ray.train
from ray.tune.integration.ray_train import TuneReportCallback

from agescale.config import SweepConfig, TrainConfig
from agescale.sweeping import trials
from agescale.sweeping.plan import config_of
from agescale.sweeping.trials import Status, Suggestion
from agescale.training.driver import Shared, train
from agescale.training.failures import Diverged, InvalidSettings, OutOfMemory

MIN_BATCH_SIZE = 4
"""Below it a trial for which memory does not suffice is given up."""


def train_driver_fn(trial: Suggestion, config: SweepConfig, base: TrainConfig, shared: Shared) -> None:
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
            if half < max(MIN_BATCH_SIZE, planned.worker_range[1]):
                trials.write_trial(out, replace(said, status="failed", reason=str(error)))
                return
            trials.drop_run(out, said.number)
            reason = f"out of memory: batches of {half} instead of {half << said.num_halvings + 1}"
            trials.write_trial(out, replace(said, num_halvings=said.num_halvings + 1, reason=reason))
            print(f"trial {said.name}: {reason}", flush=True)
        except (Diverged, InvalidSettings) as error:
            status: Status = "diverged" if isinstance(error, Diverged) else "failed"
            trials.write_trial(out, replace(said, status=status, reason=str(error)))
            return
