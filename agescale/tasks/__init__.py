"""Tasks: features in, an age prediction out. A task is a head, a loss and a decoding; ``TASKS`` is the list.

Knows nothing of encoders, optimisers or tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from agescale.age_groups import AgeGroups
from agescale.tasks.classification import Classification
from agescale.tasks.distribution import Distribution
from agescale.tasks.prediction import Prediction

__all__ = ["METRIC_DIRECTIONS", "TASKS", "Prediction", "Task", "build_task"]

METRIC_DIRECTIONS = {"mae": "min", "accuracy": "max"}
"""What is better in each metric that a task watches: the smallest or the largest value."""


class Task(Protocol):
    """What every task can do. A batch holds ``image`` (N,3,H,W), ``age_low`` and ``age_high`` (N,) in years with NaN
    where missing and infinity where open, and ``group`` (N,), an index into the age groups or -1 where missing."""

    @property
    def metric(self) -> str:
        """The validation metric that decides which checkpoint is best: a key of ``METRIC_DIRECTIONS``."""

    def build_head(self, num_features: int, hidden: tuple[int, ...], dropout: float) -> nn.Module:
        """Features (N, num_features) to outputs, through dense layers of the ``hidden`` sizes."""

    def loss(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Float32 losses (N,) and weights (N,), 0 (and loss 0) for images whose label cannot be used.

        A batch's loss is sum(losses) / sum(weights), both summed over all workers.
        """

    def decode(self, outputs: Tensor) -> Prediction:
        """Probabilities from outputs."""

    def check_labels(self, num_exact: int, num_range: int, num_group: int, num_unlabelled: int) -> None:
        """Raises ValueError, in one line, where no image of the dataset can train this task.

        Images with an exact age, with a wider age range, that fall into one of the age groups (by age, range or class
        name: these are counted again), and without any label.
        """


TASKS: dict[str, Callable[..., Task]] = {"classification": Classification, "distribution": Distribution}


def build_task(name: str, age_groups: AgeGroups, **settings: Any) -> Task:
    """The task ``name``; ``settings`` are its fields. Raises ValueError, in one line, for an unknown name."""
    if name not in TASKS:
        raise ValueError(f"no task is called {name!r}; there are {', '.join(TASKS)}")
    return TASKS[name](age_groups, **settings)
