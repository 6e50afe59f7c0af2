"""Tasks: features in, an age prediction out. A task is a head, a loss and a decoding; ``TASKS`` is the list.

Knows nothing of optimisers or tables, and of encoders only what a head needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from agescale.ages.groups import AgeGroups
from agescale.models.tasks.classification import Classification
from agescale.models.tasks.distribution import Distribution
from agescale.models.tasks.heads import Reads
from agescale.models.tasks.ordinal import Ordinal
from agescale.models.tasks.prediction import Prediction
from agescale.models.tasks.reconstruction import Reconstruction
from agescale.models.tasks.regression import Regression

__all__ = ["TASKS", "Prediction", "Task", "build_task"]


class Task(Protocol):
    """What every task, a frozen dataclass, can do. Its fields are the age groups, ``loss_name``, and its settings.

    A batch holds ``image`` (N,3,H,W), ``age_low`` and ``age_high`` (N,) in years with NaN where missing and infinity
    where open, ``group`` (N,), an index into the age groups or -1 where missing, and for reconstruction ``target``
    (N,3,H,W), normalised pixels.
    """

    losses: ClassVar[tuple[str, ...]]
    """The losses that it has; the first is the default."""
    reads: ClassVar[Reads]
    """What of the encoder its head is fed."""
    predicts_age: ClassVar[bool]
    """Whether it can ``predict``. Whether the spread of that says how sure it is tells ``spec.learns_spread``."""
    metric: ClassVar[str]
    """The validation metric that decides which checkpoint is best: one of validation.DIRECTIONS."""

    def __init__(self, age_groups: AgeGroups, **settings: Any) -> None: ...

    @property
    def loss_name(self) -> str:
        """The one of ``losses`` that it learns by."""

    def build_head(self, encoder: nn.Module, head_sizes: tuple[int, ...], dropout: float) -> nn.Module:
        """What it ``reads`` of the encoder to outputs, through dense layers of the ``head_sizes`` sizes."""

    def loss(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Float32 losses (N,) and weights (N,), 0 (and loss 0) for images whose label cannot be used.

        A batch's loss is sum(losses) / sum(weights), both summed over all workers.
        """

    def predict(self, outputs: Tensor) -> Prediction:
        """Probabilities from outputs."""

    def check_labels(self, num_exact: int, num_range: int, num_group: int, num_unlabelled: int) -> None:
        """Raises ValueError, in one line, where no image of the dataset can train this task.

        Images with an exact age, with a wider age range, that fall into one of the age groups (by age, range or class
        name: these are counted again), and without any label.
        """


TASKS: dict[str, type[Task]] = {
    "classification": Classification,
    "regression": Regression,
    "distribution": Distribution,
    "ordinal": Ordinal,
    "reconstruction": Reconstruction,
}


def build_task(name: str, age_groups: AgeGroups, loss: str = "", **settings: Any) -> Task:
    """The task ``name``, learning by ``loss`` (default: the first of its ``losses``); ``settings`` are further fields.

    Raises ValueError, in one line, for a task, loss or setting that there is not.

    >>> build_task("ordinal", AgeGroups.parse("decades")).loss_name
    'coral'
    >>> build_task("ordinal", AgeGroups.parse("decades"), loss="l1")
    Traceback (most recent call last):
    ValueError: ordinal has no loss 'l1'; it has coral, corn
    """
    if name not in TASKS:
        raise ValueError(f"no task is called {name!r}; there are {', '.join(TASKS)}")
    losses = TASKS[name].losses
    if loss and loss not in losses:
        raise ValueError(f"{name} has no loss {loss!r}; it has {', '.join(losses)}")
    for setting in settings:
        takers = [task for task in TASKS if setting in _settings(task)]
        if name not in takers:
            hint = f"; {', '.join(takers)} does" if takers else ""
            raise ValueError(f"{name} does not take --{setting.replace('_', '-')}{hint}")
    return TASKS[name](age_groups, loss_name=loss or losses[0], **settings)


def _settings(name: str) -> set[str]:
    """The settings that a task takes: its fields, less those that every task has."""
    return {field.name for field in fields(TASKS[name])} - {"age_groups", "loss_name"}  # type: ignore[arg-type]
