"""What is measured on the validation split after each epoch: sums that add up over batches and workers.

In: a model's outputs and a batch of labels. Out: sums, and from their total the metrics. Ages are judged by the path
that scoring takes, each way of telling one age of a distribution is tried, and the best one is kept with the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
from torch import Tensor

from agescale import age_cdf
from agescale.age_cdf import DecodeRule
from agescale.age_groups import EXACT_YEARS, AgeGroups
from agescale.tasks import Task

RULES: tuple[DecodeRule, ...] = get_args(DecodeRule)
NUM_SUMS = 5 + len(RULES)


def judge(task: Task, age_groups: AgeGroups, outputs: Tensor, batch: Mapping[str, Tensor]) -> list[float]:
    """Counts of exact ages, of groups and of right groups, and absolute age errors of each of RULES, summed."""
    if not task.predicts_age:
        return [0.0] * (3 + len(RULES))
    prediction = task.decode(outputs)
    group_N = batch["group"].cpu().numpy()
    if prediction.age_probs_NA is None:
        assert prediction.group_probs_NG is not None
        predicted_N = prediction.group_probs_NG.argmax(dim=1).cpu().numpy()
        return [0.0, *_hits(predicted_N, group_N), *[0.0] * len(RULES)]
    cdf_NA = age_cdf.encode(prediction.age_probs_NA.cpu().numpy())
    low_N, high_N = batch["age_low"].cpu().numpy(), batch["age_high"].cpu().numpy()
    is_exact_N = high_N - low_N <= EXACT_YEARS
    errors = [float(np.abs(age_cdf.decode_age(cdf_NA, rule) - low_N)[is_exact_N].sum()) for rule in RULES]
    hits = (0.0, 0.0)
    if age_groups.is_bounded:
        hits = _hits(age_cdf.group_probabilities(cdf_NA, age_groups).argmax(axis=1), group_N)
    return [float(is_exact_N.sum()), *hits, *errors]


def summarise(sums: Tensor) -> dict[str, Any]:
    """Metrics of a validation split from the sums over all of it: loss, its weights, then those of ``judge``.

    >>> import torch
    >>> summarise(torch.tensor([6.0, 4, 2, 4, 3, 9.0, 8.0, 10.0]))
    {'val_loss': 1.5, 'val_mae': 4.0, 'val_accuracy': 0.75, 'decode': 'mean'}
    """
    loss, num_loss, num_exact, num_groups, num_hits, *errors = sums.tolist()
    best = int(np.argmin(errors))
    return {
        "val_loss": loss / max(num_loss, 1e-9),
        "val_mae": errors[best] / num_exact if num_exact else None,
        "val_accuracy": num_hits / num_groups if num_groups else None,
        "decode": RULES[best] if num_exact else RULES[0],
    }


def _hits(predicted_N: np.ndarray, group_N: np.ndarray) -> tuple[float, float]:
    return float((group_N >= 0).sum()), float((predicted_N == group_N)[group_N >= 0].sum())
