"""What a sweep is, worked out and checked before anything starts: settings, space, images, baseline."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from agescale.ages import few
from agescale.ages.baselines import constant_predictor
from agescale.config import EXECUTION_FIELDS, SweepConfig, TrainConfig
from agescale.store import paths
from agescale.sweeping import spaces, trials
from agescale.sweeping.spaces import Space
from agescale.sweeping.trials import Identity, Trial
from agescale.tables import catalogs
from agescale.training import initial_weights
from agescale.training import plan as training_plan
from agescale.training.cells import cells_of, exact_ages
from agescale.training.finetuning import format_phases, parse_phases
from agescale.training.plan import Selected

SHARED_FIELDS = (
    "where",
    "leave_out",
    "max_images",
    "worst_of",
    "num_workers",
    "cpus_per_worker",
    "gpus_per_worker",
    "device",
    "seed",
    "lease",
)
"""Settings of a sweep that are those of every trial, beside its catalog."""


def with_absolute_paths(config: SweepConfig, base: TrainConfig) -> tuple[SweepConfig, TrainConfig]:
    """Settings as other processes need them, whose working directory is another one."""
    pairs = (item.rpartition("=") for item in config.weights)
    weights = tuple(f"{encoder}{sign}{initial_weights.absolute_weights(source)}" for encoder, sign, source in pairs)
    config = replace(paths.with_absolute_uris(config), weights=weights)
    base = replace(base, catalog=(config.catalog,), **{name: getattr(config, name) for name in SHARED_FIELDS})
    base = paths.with_absolute_uris(base)
    return config, replace(base, weights=initial_weights.absolute_weights(base.weights))


def with_absolute_weights(space: Space) -> Space:
    return [
        {
            name: [*map(initial_weights.absolute_weights, values)] if name == "weights" else values
            for name, values in each.items()
        }
        for each in space
    ]


def read_splits(selected: Selected) -> tuple[pa.Table, pa.Table]:
    train, val = (selected.rows.filter(pc.equal(selected.rows["split"], split)) for split in ("train", "val"))
    return train, val


class Baseline(TypedDict):
    """What a model would have to beat: a constant answer, in words, and what it reaches in the objective."""

    name: str
    value: float


def baseline(config: SweepConfig, selected: Selected) -> Baseline | None:
    """What always the same answer reaches, the one that suits the training images best, by its name and value."""
    train, val = read_splits(selected)
    constant = constant_predictor(exact_ages(train), catalogs.group_indices(train, selected.age_groups))
    age_N, group_N = exact_ages(val), catalogs.group_indices(val, selected.age_groups)
    if config.objective == "accuracy":
        if constant.group is None or not (group_N >= 0).any():
            return None
        name = f"always {selected.age_groups.names[constant.group]}"
        return {"name": name, "value": float((group_N[group_N >= 0] == constant.group).mean())}
    is_known_N = ~np.isnan(age_N)
    if constant.age is None or not is_known_N.any():
        return None
    errors_N = np.abs(age_N - constant.age)
    value = errors_N[is_known_N].mean()
    if config.objective == "worst_group_mae":
        cell_N, cells = cells_of(val, selected.age_groups, config.worst_of)
        value = max(errors_N[is_known_N & np.isin(cell_N, part)].mean() for part in cells.parts)
    return {"name": "always the median age", "value": float(value)}


def config_of(config: SweepConfig, base: TrainConfig, trial: Trial) -> TrainConfig:
    """The training that a trial of the sweep is.

    Where its batch had to be halved, so is the learning rate: Goyal et al., "Accurate, Large Minibatch SGD", 2017.
    """
    weights = dict(item.rsplit("=", 1) for item in config.weights)
    planned = spaces.to_config(base, trial.point, config.epochs)
    if "weights" not in trial.point and planned.encoder in weights:
        planned = replace(planned, weights=weights[planned.encoder])
    if not trial.num_halvings:
        return planned
    share = 0.5**trial.num_halvings
    phases = (replace(phase, lr=phase.lr * share) for phase in parse_phases(planned.phases))
    return replace(planned, batch_size=int(planned.batch_size * share), phases=format_phases(tuple(phases)))


def check(config: SweepConfig, base: TrainConfig, space: Space) -> Selected:
    """Plans a trial with each value of each setting. Returns the images; raises ValueError for a mistake."""
    if config.searcher == "grid":
        spaces.grid(space, config.seed)
    selected = training_plan.select(base, paths.join(config.out, trials.SWEEP_NAME))
    _, cells = cells_of(read_splits(selected)[1], selected.age_groups, config.worst_of)
    if config.objective == "worst_group_mae" and not cells.parts:
        raise ValueError(
            f"--objective worst_group_mae: no age group has the {few.ENOUGH_FACES} validation faces that it needs"
        )
    encoders = set()
    for point in spaces.examples(space):
        try:
            planned = config_of(config, base, Trial(0, point, {}))
            encoders.add(planned.encoder)
            plan, _, _ = training_plan.build_plan(planned, training_plan.select(planned, known=selected))
        except (ValueError, TypeError) as error:
            raise ValueError(f"--space {config.space}: {json.dumps(point)}: {error}") from error
        if plan.metric != "mae" and config.objective != "accuracy":
            raise ValueError(f"--space {config.space}: {json.dumps(point)} predicts no ages; use --objective accuracy")
    for encoder, _, source in (item.rpartition("=") for item in config.weights):
        if encoder not in encoders:
            raise ValueError(f"--weights {encoder}={source}: trials have other encoders: {', '.join(sorted(encoders))}")
    return selected


def identity_of(config: SweepConfig, base: TrainConfig, space: Space, data: str) -> Identity:
    """What sweep.json says."""
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
