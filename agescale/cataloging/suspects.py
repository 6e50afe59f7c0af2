"""Which labels are suspected to be wrong: ages and features of faces in, findings out. Reads no pixels.

Each photo is judged by a model that has not seen it, nor a copy of it, nor another photo of the same person: what the
model expects, how far off it usually is with such faces, and how many labels are wrong at all give the probability that
this one is. It is the idea of confident learning (Northcutt, Jiang and Chuang, "Confident Learning: Estimating
Uncertainty in Dataset Labels", JAIR 2021), to look at the out-of-sample probability of the given label, for ages in
place of classes; none of that paper's estimates or guarantees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy import ndimage, sparse, stats

from agescale.ages.labels import OLDEST_YEARS
from agescale.cataloging import lookalikes
from agescale.cataloging.findings import finding, say
from agescale.tables.schema import FINDINGS

THRESHOLD = 0.9
"""Of the probability that a label is wrong; chosen by planted ones (docs/results.md)."""
NUM_FOLDS = 5
MIN_LEARNED = 300
"""Photos that a model learns from, at least: from fewer it knows too little to suspect anybody."""
MAX_LEARNED = 30_000
"""As many tell all that such a model can learn."""
LEARNED_YEARS = 10
"""Of a range of ages that is learned from, as its middle; labels of a wider one are only judged."""
MAX_SHARE = 0.2
"""Of wrong labels: where more seem to be, it is the model that is wrong."""
COVERAGE = 0.9
"""Of the ages that a finding says are expected."""

Floats = npt.NDArray[np.float64]


class NotJudged(Exception):
    """Why no label can be judged, in words."""


@dataclass(frozen=True)
class Judged:
    """Of N labels: how probably each is wrong, the age that is expected of its face, and the ages that would not
    surprise, all as labels are written: 34 is from 34 to 35. ``share`` of them all is estimated to be wrong."""

    probability_N: Floats
    expected_N: Floats
    lower_N: Floats
    upper_N: Floats
    share: float


def can_be_judged(rows: pa.Table) -> pa.Array:
    """Whether each of the current ``rows`` of a catalog is a photo of one age, or range of ages."""
    has_boxes = pc.fill_null(pc.greater(pc.list_value_length(rows["boxes"]), 0), False)
    is_labelled = pc.and_(pc.is_valid(rows["age_low"]), pc.invert(has_boxes))
    return pc.and_(is_labelled, pc.is_null(rows["read_error"]))


def find(rows: pa.Table, features_NF: npt.NDArray[np.float16]) -> tuple[pa.Table, str]:
    """Findings about those of ``rows`` (``can_be_judged``) whose labels seem wrong, and in words how many were judged,
    or why none was."""
    low_N, high_N = (rows[name].to_numpy().astype(np.float64) for name in ("age_low", "age_high"))
    try:
        judged = judge(features_NF.astype(np.float32), low_N, high_N, folds(rows))
    except NotJudged as reason:
        return FINDINGS.empty_table(), f"labels not judged, so none is suspect: {reason}"
    places = np.flatnonzero(judged.probability_N > THRESHOLD)
    found = []
    for place, row in zip(places.tolist(), rows.take(pa.array(places)).to_pylist(), strict=True):
        ages = [max(0, round(float(each[place]))) for each in (judged.expected_N, judged.lower_N, judged.upper_N)]
        expected = f"expects {ages[0]} ({ages[1]} to {ages[2]})"
        found.append(finding(row, "suspect", f"labelled {say(row)}; a model that has not seen it {expected}"))
    said = f"{len(rows):,} labels judged, of which about {judged.share:.1%} seem to be wrong"
    return pa.Table.from_pylist(found, schema=FINDINGS), said


def folds(rows: pa.Table) -> npt.NDArray[np.int64]:
    """The fold (N,) of each of ``rows``: of photos that are linked by their bytes, looks or persons the same one, which
    what is added to a catalog changes only by such a link."""
    num_nodes = num_rows = len(rows)
    edges = [np.zeros((2, 0), np.int64)]  # between a photo and what it shares with others, and between looks
    for column in ("content_hash", "perceptual_hash", "subject"):
        encoded = rows[column].combine_chunks().dictionary_encode()
        is_known_N = encoded.is_valid().to_numpy(zero_copy_only=False)
        codes = encoded.indices.drop_null().to_numpy().astype(np.int64)
        edges.append(np.stack([np.flatnonzero(is_known_N), num_nodes + codes]))
        if column == "perceptual_hash":
            near = lookalikes.find_pairs(encoded.dictionary.to_pylist())
            edges.append(num_nodes + np.stack([near.first, near.second]))
        num_nodes += len(encoded.dictionary)
    ends_2E = np.concatenate(edges, axis=1)
    graph = sparse.coo_array((np.ones(ends_2E.shape[1]), tuple(ends_2E)), shape=(num_nodes, num_nodes))
    component_N = sparse.csgraph.connected_components(graph, directed=False)[1][:num_rows]
    hashes = rows["content_hash"].to_pylist()
    least: dict[int, str] = {}
    for component, digest in zip(component_N.tolist(), hashes, strict=True):
        least[component] = min(digest, least.get(component, digest))
    return np.array([int(least[component][:8], 16) % NUM_FOLDS for component in component_N.tolist()], np.int64)


def judge(
    features_NF: npt.NDArray[np.float32],
    low_N: Floats,
    high_N: Floats,
    fold_N: npt.NDArray[np.int64],
) -> Judged:
    """Judges labels [low, high). Raises NotJudged where there are too few, or where the features tell too little.

    Two kinds of labels are told apart: right ones, whose distance from what is expected has Student's distribution,
    as wide as it is with such faces, and wrong ones, of which half are ages as others have here, and half any ages.
    """
    middle_N, is_learned_N = (low_N + high_N) / 2, high_N - low_N <= LEARNED_YEARS
    if (num_learned := int(is_learned_N.sum())) < MIN_LEARNED:
        told = f"an age, or a range of at most {LEARNED_YEARS} years, that can be shown to a model"
        raise NotJudged(f"{num_learned:,} photos have {told}; it takes {MIN_LEARNED}")
    expected_N = _out_of_fold(features_NF, middle_N, fold_N, is_learned_N)
    residual_N = np.where(is_learned_N, middle_N - expected_N, 0)
    spread_N = np.exp(_out_of_fold(features_NF, np.log(np.abs(residual_N) + 0.5), fold_N, is_learned_N))
    wrong_N = _mass_of_wrong(low_N, high_N, is_learned_N)
    of_learned = residual_N[is_learned_N] / spread_N[is_learned_N]
    width_N = (high_N - low_N)[is_learned_N]
    share, scale = _mixture(of_learned, wrong_N[is_learned_N] / width_N * spread_N[is_learned_N])
    if share > MAX_SHARE:
        raise NotJudged("a model cannot tell these ages from the photos well enough")
    spread_N *= scale
    below_N, above_N = ((each - expected_N) / spread_N for each in (low_N, high_N))
    right_N = stats.t.cdf(above_N, FREEDOM) - stats.t.cdf(below_N, FREEDOM)
    probability_N = share * wrong_N / (share * wrong_N + (1 - share) * right_N)
    away_N = stats.t.ppf((1 + COVERAGE) / 2, FREEDOM) * spread_N
    expected_N = expected_N - 0.5
    return Judged(probability_N, expected_N, expected_N - away_N, expected_N + away_N, share)


def _out_of_fold(
    features_NF: npt.NDArray[np.float32],
    target_N: Floats,
    fold_N: npt.NDArray[np.int64],
    is_learned_N: npt.NDArray[np.bool_],
) -> Floats:
    """What a model of the photos in other folds says of each: linear in the features and in how near a face is to some
    others."""
    from sklearn.kernel_approximation import Nystroem  # takes seconds, which most catalogs need not
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    said_N = np.zeros(len(target_N))
    for fold in range(NUM_FOLDS):
        learned = np.flatnonzero(is_learned_N & (fold_N != fold))
        if len(learned) < MIN_LEARNED / 2:
            raise NotJudged("too many of the photos are copies, or of one person")
        if len(learned) > MAX_LEARNED:
            learned = np.random.default_rng(0).choice(learned, MAX_LEARNED, replace=False)
        near = Nystroem(gamma=1 / features_NF.shape[1], n_components=min(NUM_NEAR, len(learned)), random_state=0)
        model = make_pipeline(StandardScaler(), make_union(FunctionTransformer(), near), Ridge(alpha=ALPHA))
        model.fit(features_NF[learned], target_N[learned])
        places = np.flatnonzero(fold_N == fold)
        for chunk in np.array_split(places, range(CHUNK, len(places), CHUNK)):
            if len(chunk):
                said_N[chunk] = model.predict(features_NF[chunk])
    return said_N


NUM_NEAR = 400
"""Faces to which the others are compared."""
ALPHA = 1.0
CHUNK = 20_000
"""Faces that are judged at once."""


def _mass_of_wrong(low_N: Floats, high_N: Floats, is_learned_N: npt.NDArray[np.bool_]) -> Floats:
    """The probability that a wrong label is this one."""
    years = np.arange(OLDEST_YEARS + 2)
    counts = np.bincount(np.clip(low_N[is_learned_N], 0, OLDEST_YEARS).astype(np.int64), minlength=len(years) - 1)
    seen = ndimage.gaussian_filter1d(counts.astype(np.float64), sigma=3, mode="nearest")
    below = np.concatenate([[0], np.cumsum(seen / seen.sum() / 2 + 0.5 / len(seen))])
    return np.interp(high_N, years, below) - np.interp(low_N, years, below)


NUM_STEPS = 200
FREEDOM = 30.0
"""Degrees of freedom of Student's distribution of right labels. Fitted they are 7 on UTKFace, with tails so long that a
wrong label may nearly always be a right one: half as many planted ones are found then."""


def _mixture(distance_N: Floats, wrong_N: Floats) -> tuple[float, float]:
    """Share of wrong labels, and scale of the distances of right ones, by expectation-maximisation. ``distance_N`` is
    in spreads, and ``wrong_N`` the density of a wrong label there."""
    share = 0.02
    scale = float(np.median(np.abs(distance_N - np.median(distance_N)))) * 1.4 + 1e-6
    for _ in range(NUM_STEPS):
        right_N = stats.t.pdf(distance_N, FREEDOM, scale=scale)
        is_right_N = 1 - share * wrong_N / (share * wrong_N + (1 - share) * right_N)
        before, share = share, float(1 - is_right_N.mean())
        pull_N = is_right_N * (FREEDOM + 1) / (FREEDOM + (distance_N / scale) ** 2)
        scale = float(np.sqrt((pull_N * distance_N**2).sum() / is_right_N.sum()))
        if abs(share - before) < 1e-6:
            break
    return share, scale
