"""What is measured on the validation split after each epoch: sums that add up over batches and workers.

In: a model's outputs and a batch of labels. Out: sums, and from their total the metrics. Ages are judged by the path
that scoring takes, each way of telling one age of a distribution is tried, and the best one is kept with the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast, get_args

import numpy as np
from torch import Tensor

from agescale.ages import cdf, few
from agescale.ages.cdf import PointEstimate
from agescale.ages.groups import AgeGroups
from agescale.ages.labels import is_exact
from agescale.models.checkpoints import Epoch, Validation
from agescale.models.tasks import Task

DIRECTIONS = {"loss": "min", "mae": "min", "worst_group_mae": "min", "accuracy": "max"}
"""What is better in each metric, which history calls ``val_<metric>``: the smallest or the largest value."""
RULES: tuple[PointEstimate, ...] = get_args(PointEstimate)


def sign(metric: str) -> int:
    """What a metric is multiplied by so that smaller is better."""
    return -1 if DIRECTIONS[metric] == "max" else 1


def value_of(epoch: Epoch, metric: str) -> float | None:
    """What an epoch has reached in a metric; None where that is not known."""
    return cast(Mapping[str, float | None], epoch).get(f"val_{metric}")


def num_sums(num_cells: int) -> int:
    """Length of what is summed of each catalog: the loss, its weights, and what ``judge`` returns."""
    return 4 + (1 + len(RULES)) * (1 + num_cells)


def judge(
    task: Task, age_groups: AgeGroups, num_cells: int, outputs: Tensor, batch: Mapping[str, Tensor]
) -> list[float]:
    """Counts of groups and of right groups; and, of all images and then of each cell, exact ages and the absolute age
    errors of each of RULES. Sums."""
    nothing = [0.0] * (1 + len(RULES)) * (1 + num_cells)
    if not task.predicts_age:
        return [0.0, 0.0, *nothing]
    prediction = task.predict(outputs)
    group_N = batch["group"].cpu().numpy()
    if prediction.age_probs_NA is None:
        assert prediction.group_probs_NG is not None
        predicted_N = prediction.group_probs_NG.argmax(dim=1).cpu().numpy()
        return [*_hits(predicted_N, group_N), *nothing]
    cdf_NA = cdf.quantize(prediction.age_probs_NA.cpu().numpy())
    low_N, high_N = batch["age_low"].cpu().numpy(), batch["age_high"].cpu().numpy()
    is_exact_N, cell_N = is_exact(low_N, high_N), batch["cell"].cpu().numpy()
    error_RN = [np.abs(cdf.point_estimate(cdf_NA, rule) - low_N) for rule in RULES]
    hits = (0.0, 0.0)
    if age_groups.is_bounded:
        hits = _hits(cdf.group_probabilities(cdf_NA, age_groups).argmax(axis=1), group_N)
    errors: list[float] = []
    for is_one_N in (is_exact_N, *(is_exact_N & (cell_N == cell) for cell in range(num_cells))):
        errors += [float(is_one_N.sum()), *(float(error_N[is_one_N].sum()) for error_N in error_RN)]
    return [*hits, *errors]


def summarise(sums: Tensor, parts: Sequence[Sequence[int]], mix: Sequence[float] = ()) -> Validation:
    """Metrics of a validation split from the sums over all of it (C, S), of each catalog: loss, its weights, then
    those of ``judge``; of each of the ``parts`` the cells that it is made up of. All images count the same, or those of
    each catalog together as much as its share in ``mix``.

    >>> import torch
    >>> sums_S = torch.tensor([6.0, 4, 80, 60, 50, 225, 200, 250, 30, 180, 150, 200, 20, 45, 50, 50])
    >>> summarise(sums_S[None], [[0], [1]])  # doctest: +NORMALIZE_WHITESPACE
    {'val_loss': 1.5, 'val_mae': 4.0, 'val_worst_group_mae': 5.0, 'val_accuracy': 0.75, 'mae_by_catalog': [4.0],
     'decode': 'mean'}
    """
    sums_CS = sums.double().numpy()
    total_S = sums_CS.sum(axis=0)
    weighted_S = (sums_CS * _scales(sums_CS, mix)).sum(axis=0) if mix else total_S
    loss, num_loss, num_groups, num_hits = weighted_S[:4].tolist()
    by_cell, num_C = weighted_S[4:].reshape(-1, 1 + len(RULES)), total_S[4 :: 1 + len(RULES)][1:]
    num_exact, best = by_cell[0, 0], int(np.argmin(by_cell[0, 1:]))
    large = [by_cell[1:][list(part)].sum(axis=0) for part in parts if num_C[list(part)].sum() >= few.ENOUGH_FACES]
    return {
        "val_loss": loss / num_loss if num_loss else loss or None,  # infinite where no output was a number
        "val_mae": _ratio(by_cell[0, 1 + best], num_exact),
        "val_worst_group_mae": max((float(part[1 + best] / part[0]) for part in large), default=None),
        "val_accuracy": _ratio(num_hits, num_groups),
        "mae_by_catalog": [_ratio(each_S[5 + best], each_S[4]) for each_S in sums_CS],
        "decode": RULES[best] if num_exact else RULES[0],
    }


def _scales(sums_CS: np.ndarray, mix: Sequence[float]) -> np.ndarray:
    """What the sums of each catalog are multiplied by, so that its loss, its hits and its age errors have its share."""
    counts_CS = sums_CS[:, [1, 1, 2, 2, *[4] * (sums_CS.shape[1] - 4)]]
    return np.divide(np.array(mix)[:, None], counts_CS, out=np.ones_like(counts_CS), where=counts_CS > 0)


def _ratio(total: float, count: float) -> float | None:
    return float(total / count) if count else None


def _hits(predicted_N: np.ndarray, group_N: np.ndarray) -> tuple[float, float]:
    return float((group_N >= 0).sum()), float((predicted_N == group_N)[group_N >= 0].sum())
