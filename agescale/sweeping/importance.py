"""Which settings of a sweep mattered: points and the values that they reached in, a share for each setting out.

A random forest (Breiman, "Random Forests", Machine Learning 45, 2001, section 10) learns to rank points by their
settings. How much worse it ranks points that it has not seen, once one setting is shuffled among them, is what that
setting mattered. Runs no training and reads no files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

MIN_POINTS = 8
"""Of fewer points nothing can be told."""
NUM_FOLDS, NUM_SHUFFLES = 5, 20


def importances(
    settings: Sequence[Mapping[str, Any]], values: Sequence[float], seed: int = 0
) -> list[tuple[str, float]]:
    """The settings that vary with their shares, which sum to 1, the largest first.

    ``settings`` are points, each with settings of its own; one is shuffled among the points that have it. ``values``
    are finite, and only their order counts: one training that went astray would drown all others. The list is empty
    for fewer than ``MIN_POINTS``, for values that are all the same, and where the forest ranks no better than chance.

    A hint, no proof. Of a few dozen points, shares move by ten per cent and more with the next few. They hold for the
    space that was searched, most of all for where the searcher looked. Settings that change together (image sizes of
    their own for some architectures) share at random what one of them did: see Strobl et al., "Conditional variable
    importance for random forests", BMC Bioinformatics 9, 2008.

    >>> points = [{"lr": 10.0 ** -(n % 5), "mixup": n % 3, "task": "ordinal"} for n in range(30)]
    >>> importances(points, [abs(math.log10(point["lr"]) + 2) for point in points])
    [('lr', 1.0), ('mixup', 0.0)]
    """
    assert len(settings) == len(values), (len(settings), len(values))
    assert np.isfinite(values).all(), "a value is not finite"
    names = [name for name in varying(settings) if len({repr(point[name]) for point in settings if name in point}) > 1]
    if len(values) < MIN_POINTS or not names or np.ptp(values) == 0:
        return []
    points_NS = np.stack([_encoded(settings, name) for name in names], axis=1)
    has_it_NS = np.array([[name in point for name in names] for point in settings])
    ranks_N = rankdata(values)
    categories = [index for index, name in enumerate(names) if not _is_numeric(settings, name)]
    encoder = ColumnTransformer(
        [("categories", OneHotEncoder(handle_unknown="ignore"), categories)], remainder="passthrough"
    )
    forest = make_pipeline(encoder, RandomForestRegressor(min_samples_leaf=2, random_state=seed))
    random = np.random.default_rng(seed)
    error, worse_S = 0.0, np.zeros(len(names))
    for seen, unseen in KFold(NUM_FOLDS, shuffle=True, random_state=seed).split(points_NS):
        forest.fit(points_NS[seen], ranks_N[seen])
        error_of_fold = np.abs(forest.predict(points_NS[unseen]) - ranks_N[unseen]).sum()
        shuffled_SRNS = np.tile(points_NS[unseen], (len(names), NUM_SHUFFLES, 1, 1))
        for index, shuffled_RNS in enumerate(shuffled_SRNS):
            rows = has_it_NS[unseen, index]
            shuffled_RNS[:, rows, index] = random.permuted(shuffled_RNS[:, rows, index], axis=1)
        told_SRN = forest.predict(shuffled_SRNS.reshape(-1, len(names))).reshape(shuffled_SRNS.shape[:-1])
        worse_S += np.abs(told_SRN - ranks_N[unseen]).sum(axis=-1).mean(axis=-1) - error_of_fold
        error += error_of_fold
    worse_S = worse_S.clip(min=0)
    if error >= np.abs(ranks_N - ranks_N.mean()).sum() or not worse_S.any():
        return []
    shares = zip(names, (worse_S / worse_S.sum()).tolist(), strict=True)
    return sorted(shares, key=lambda pair: -pair[1])


def varying(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings that are not the same at all points, in the order in which they occur; to lack one is a value, too.

    >>> varying([{"task": "ordinal", "lr": 0.1}, {"task": "ordinal", "lr": 0.2, "dropout": 0.5}])
    ['lr', 'dropout']
    """
    names = dict.fromkeys(name for point in settings for name in point)
    return [name for name in names if len({repr(point.get(name, ...)) for point in settings}) > 1]


def _is_numeric(settings: Sequence[Mapping[str, Any]], name: str) -> bool:
    values = [point[name] for point in settings if name in point]
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


def _encoded(settings: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """A setting as numbers (N,): by size (log10 over more than a decade) or by kind; below all where it lacks."""
    known = [point[name] for point in settings if name in point]
    if not _is_numeric(settings, name):
        kinds = sorted({repr(value) for value in known})
        return np.array([kinds.index(repr(point[name])) if name in point else -1 for point in settings], dtype=float)
    is_wide = min(known) > 0 and max(known) > 10 * min(known)
    number_of = math.log10 if is_wide else float
    below = number_of(min(known)) - 1
    return np.array([number_of(point[name]) if name in point else below for point in settings])
