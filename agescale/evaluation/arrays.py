"""A catalog and what was predicted of it as arrays of numbers: what a judgement of 10,000,000 rows can be held in.

Tables are read a part at a time, texts become indices into the few that there are, and images are told apart by a hash
of their key. A name is read again where it is to be shown. Decides nothing about which rows count.

Legend of shapes: N current rows of the catalog, in its order: part after part, as the rows stand there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from agescale.ages import cdf
from agescale.ages.groups import AgeGroups
from agescale.ages.labels import is_exact
from agescale.evaluation import metrics
from agescale.evaluation.age_gate import GATE_AGE
from agescale.store import objects, parquet, paths
from agescale.tables import catalogs, keys, schema
from agescale.tables.catalogs import Catalog
from agescale.tables.labels import BOX_COLUMNS, FACE_COLUMNS, corners_of, per_label, predicted_rows
from agescale.tables.predictions import Predictions, regrouped, stored_cdfs

CATALOG_COLUMNS = ("uri", "version", "age_low", "age_high", "group", "subject", "gender", "ethnicity", "split")
PREDICTION_COLUMNS = ("uri", "version", "face", "status", "group", "gender", "ethnicity")
"""Besides numbers."""
FILES_AHEAD = 16
"""Files of predictions read ahead; with their distributions some 5 MB each."""


class Names:
    """The texts of a column that has few, in the order in which they were met."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.names = list(names)

    def codes(self, column: pa.ChunkedArray) -> np.ndarray:
        """Index int32 (N,) into ``names`` of each value, -1 for null; what is not among them yet is added."""
        met = set(self.names)
        self.names += sorted(name for name in pc.unique(column).drop_null().to_pylist() if name not in met)
        return codes_of(column, self.names)

    def sorted(self, code_N: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """``code_N`` as indices into the sorted names, and these."""
        order = np.argsort(np.array(self.names, dtype=object))
        place = np.append(np.argsort(order), -1).astype(np.int32)  # the index -1 stays
        return place[code_N], sorted(self.names)


@dataclass(frozen=True)
class CatalogArrays:
    """The labels of the current rows of a catalog, mostly one a row; arrays (N,). Codes are indices, -1 = unknown."""

    catalog: str
    part_names: list[str]
    part_N: np.ndarray  # index into them
    row_N: np.ndarray
    hash_N: np.ndarray  # of the key
    split_N: np.ndarray  # index into schema.SPLITS
    true_age_N: np.ndarray  # years, NaN = unknown
    true_group_N: np.ndarray
    cluster_N: np.ndarray  # as in metrics.Outcomes
    gender_N: np.ndarray  # index into genders
    ethnicity_N: np.ndarray
    is_excluded_N: np.ndarray
    is_repeated_N: np.ndarray  # who, or whose picture, is there again, by the findings of the row or of another one
    box_N4: np.ndarray | None  # tables.labels.BOX of the face that a label is of, NaN = of the photo; None: all are
    genders: Names
    ethnicities: Names
    has_labels: bool
    findings: dict[str | None, dict[str, int]]  # current rows by split and kind of finding

    def __len__(self) -> int:
        return len(self.part_N)

    @cached_property
    def by_hash(self) -> tuple[np.ndarray, np.ndarray]:
        """The order of the hashes, and these in it."""
        order_N = np.argsort(self.hash_N, kind="stable")
        return order_N, self.hash_N[order_N]

    def places(self, index_E: np.ndarray) -> pa.Table:
        """``uri, part, row`` of some of the rows, in the order asked for."""
        index_E = np.asarray(index_E, np.int64)
        uris = np.empty(len(index_E), dtype=object)
        part_E, row_E = self.part_N[index_E], self.row_N[index_E]
        order_E = np.argsort(part_E, kind="stable")
        for of_part in np.split(order_E, np.flatnonzero(np.diff(part_E[order_E])) + 1) if len(order_E) else []:
            file = paths.join(self.catalog, self.part_names[part_E[of_part[0]]])
            uris[of_part] = parquet.read_table(file, ["uri"])["uri"].take(pa.array(row_E[of_part])).to_numpy()
        parts = pa.array(self.part_names, pa.string()).take(pa.array(part_E))
        return pa.table({"uri": pa.array(uris, pa.string()), "part": parts, "row": pa.array(row_E, pa.int64())})


def read_catalog(catalog: Catalog, groups: AgeGroups | None, excluded: pa.Table) -> CatalogArrays:
    """The current rows with their labels in ``groups``, where there are any; those ``excluded`` (column uri) marked."""
    genders, ethnicities, parts = Names(), Names(), Names()
    findings = catalog.findings.select(["uri", "kind"])
    findings = findings.group_by(["uri", "kind"]).aggregate([])
    counts: dict[str | None, Counter[str]] = {}
    excluded_uris = excluded["uri"].combine_chunks()
    repeated_uris, leaking_uris = _repeated(catalog.findings)
    has_labels = False
    held: list[dict[str, np.ndarray]] = []
    for rows in catalog.current_rows([*CATALOG_COLUMNS, *(BOX_COLUMNS if catalog.has_boxes else ())]):
        if catalog.has_boxes:
            rows = per_label(rows)
        low_N, high_N = floats(rows["age_low"]), floats(rows["age_high"])
        split_N = codes_of(rows["split"], schema.SPLITS)
        has_labels = has_labels or bool(
            pc.any(pc.or_(pc.is_valid(rows["age_low"]), pc.is_valid(rows["group"]))).as_py()
        )
        held.append({
            "part": parts.codes(rows["part"]),
            "row": rows["row"].to_numpy().astype(np.int32),
            "hash": keys.hashes_of(catalogs.keys_of(rows)),
            "split": split_N.astype(np.int8),
            "true_age": np.where(is_exact(low_N, high_N), low_N, np.nan),
            "true_group": catalogs.group_indices(rows, groups) if groups else np.full(len(rows), -1),
            "subject": _hashes_or_0(rows["subject"]),
            "gender": genders.codes(rows["gender"]),
            "ethnicity": ethnicities.codes(rows["ethnicity"]),
            "is_excluded": pc.is_in(rows["uri"], value_set=excluded_uris).to_numpy(),
            "is_repeated": pc.is_in(rows["uri"], value_set=repeated_uris).to_numpy(),
            "leaks": pc.is_in(rows["uri"], value_set=leaking_uris).to_numpy(),
        })  # fmt: skip
        if catalog.has_boxes:
            held[-1]["box"] = corners_of(rows["box"])
        place = pc.index_in(findings["uri"], value_set=rows["uri"].combine_chunks())
        for position, kind in zip(place.to_pylist(), findings["kind"].to_pylist(), strict=True):
            if position is not None:
                split = schema.SPLITS[split_N[position]] if split_N[position] >= 0 else None
                counts.setdefault(split, Counter())[kind] += 1
    arrays = {name: _joined(held, name) for name in list(held[0])}
    subject_N, box_N4, leaks_N = arrays.pop("subject"), arrays.pop("box", None), arrays.pop("leaks")
    cluster_N = metrics.clusters_of_subjects(_numbered(subject_N))
    arrays["is_repeated"] |= np.isin(cluster_N, np.unique(cluster_N[leaks_N]))  # all photos of such a person
    return CatalogArrays(
        catalog=catalog.uri,
        part_names=parts.names,
        box_N4=box_N4,
        cluster_N=cluster_N,
        genders=genders,
        ethnicities=ethnicities,
        has_labels=has_labels,
        findings={split: dict(of_split) for split, of_split in counts.items()},
        **{f"{name}_N": values for name, values in arrays.items()},
    )


def _repeated(findings: pa.Table) -> tuple[pa.Array, pa.Array]:
    """URIs of what the findings say is there again, and of those of them that stand in two splits: of the row of a
    finding, and of the one in the stricter split that it names."""
    is_leaking = pc.is_in(findings["kind"], pa.array(schema.LEAKING_KINDS))
    leaking = findings.filter(is_leaking)
    own = findings["uri"].filter(pc.is_in(findings["kind"], pa.array(schema.REPEATED_KINDS)))
    across = pa.chunked_array([*leaking["uri"].chunks, *leaking["related_uri"].chunks], pa.string()).drop_null()
    return (
        pa.chunked_array([*own.chunks, *across.chunks], pa.string()).combine_chunks(),
        across.combine_chunks(),
    )


def _joined(held: list[dict[str, np.ndarray]], name: str) -> np.ndarray:
    """One column of all parts, which give theirs up."""
    return np.concatenate([part.pop(name) for part in held])


def _hashes_or_0(column: pa.ChunkedArray) -> np.ndarray:
    """A hash (N,), uint64, of each text, 0 for null."""
    if column.null_count == len(column):
        return np.zeros(len(column), np.uint64)
    hash_N = keys.hashes_of(pc.fill_null(column, "").combine_chunks())
    return np.where(pc.is_valid(column).to_numpy(), hash_N, np.uint64(0))


def _numbered(hash_N: np.ndarray) -> np.ndarray:
    """A number of each hash, int64 (N,), -1 for 0."""
    if not hash_N.any():
        return np.full(len(hash_N), -1)
    hashes, number_N = np.unique(hash_N, return_inverse=True)
    return number_N - 1 if hashes[0] == 0 else number_N


@dataclass(frozen=True)
class PredictionArrays:
    """What was predicted of the face of each of N labels, mostly the first one of a photo. Codes are indices, -1 =
    nothing."""

    is_ok_N: np.ndarray
    face_N: np.ndarray | None  # its number, where labels are of faces by their boxes
    status_N: np.ndarray  # index into statuses
    age_N: np.ndarray  # years, NaN = none
    age_std_N: np.ndarray
    age_lower_N: np.ndarray  # ends of the interval, NaN = none
    age_upper_N: np.ndarray
    group_N: np.ndarray  # index into the groups asked for
    probability_N: np.ndarray  # of the group
    share_below_N: np.ndarray  # of the age's distribution, below the true age; NaN where that was not asked for, as
    under_gate_N: np.ndarray  # the probability of an age under the gate
    gender_N: np.ndarray  # index into the genders of the catalog's rows, and those met here
    ethnicity_N: np.ndarray
    statuses: list[str]
    has_gender: np.ndarray  # indices of the genders that were said of any image, in the catalog or not


def read_predictions(
    predictions: Predictions,
    listed: CatalogArrays,
    group_names: list[str],
    regroup: AgeGroups | None = None,
    share: float | None = None,
    tells_doubt: bool = False,
) -> PredictionArrays:
    """What a table of predictions says of the ``listed`` rows: of an image that was scored twice what is "ok", where
    anything is. Of one model, whose metadata the files say alike; else raises ValueError.

    The groups are told as stored or, with ``regroup``, derived from the distributions; so are intervals with ``share``,
    then those of the central share of each, and, with ``tells_doubt``, what they say of the true age and of the gate.
    An image takes another one's prediction where the hashes of their keys are the same: of 10,000,000 images any does
    with a chance of 1 in 300,000.

    A label by a box takes the prediction of the face that is nearest to it (``faces.geometry.matched``); where all
    faces were looked for and none is near, it is one without a face.
    """
    if (num_models := len(predictions.models)) > 1:
        hint = "score each into a folder of its own"
        raise ValueError(f"{predictions.uri}: predictions of {num_models} models stand there; {hint}")
    which = predictions.run.get("faces", "none")
    if listed.box_N4 is not None and which == "none":
        hint = "score it with jobs/score.py --faces all"
        raise ValueError(f"{predictions.uri}: no faces were looked for, and {listed.catalog} has labels by box; {hint}")
    find, statuses = _finder(listed.hash_N), Names()
    num_rows, met = len(listed), [np.zeros(0, np.int32)]
    only_first = listed.box_N4 is None
    names = ("status", "group", "gender", "ethnicity", *(() if only_first else ("face",)))
    whole = {name: np.full(num_rows, -1, np.int32) for name in names}
    ends = ("age_lower", "age_upper")
    told = ("age", "age_std", "group_probability", *(ends if share or predictions.interval_coverage else ()))
    numbers = {name: np.full(num_rows, np.nan, np.float32) for name in told}
    none_N = np.broadcast_to(np.float32(np.nan), num_rows)
    is_ok_N = np.zeros(num_rows, bool)
    of_doubt_2N = np.full((2, num_rows), np.nan, np.float32) if tells_doubt else np.broadcast_to(none_N, (2, num_rows))
    with objects.read_pool() as pool:
        columns = told if only_first else (*told, *FACE_COLUMNS)
        tasks = (
            pool.submit(_read_faces, file, columns, regroup, share, only_first, tells_doubt)
            for file in predictions.files
        )
        for rows in objects.ahead(tasks, FILES_AHEAD):
            if only_first:
                place = find(rows["hash"].to_numpy())
            else:
                rows, place = _by_box(rows, listed, finds_all=which == "all")
            is_ok = pc.equal(rows["status"], "ok").to_numpy()
            codes = {
                "status": statuses.codes(rows["status"]),
                "group": codes_of(rows["group"], group_names),
                "gender": listed.genders.codes(rows["gender"]),
                "ethnicity": listed.ethnicities.codes(rows["ethnicity"]),
            }
            codes |= {} if only_first else {"face": rows["face"].to_numpy()}
            met.append(np.unique(codes["gender"]))
            first = np.arange(len(place))[::-1]
            first = first[np.argsort(is_ok[first], kind="stable")]  # of the same image the last one stays
            first = first[(place[first] >= 0) & ~is_ok_N[place[first]]]
            first = first[is_ok[first] | (whole["status"][place[first]] < 0)]
            for name, values in codes.items():
                whole[name][place[first]] = values[first]
            for name, values in numbers.items():
                values[place[first]] = floats(rows[name])[first]
            if tells_doubt:
                of_doubt_2N[:, place[first]] = _of_doubt(rows["age_cdf"], first, listed.true_age_N[place[first]])
            is_ok_N[place[first]] = is_ok[first]
    return PredictionArrays(
        is_ok_N=is_ok_N,
        face_N=whole.get("face"),
        status_N=whole["status"],
        age_N=numbers["age"],
        age_std_N=numbers["age_std"],
        age_lower_N=numbers.get("age_lower", none_N),
        age_upper_N=numbers.get("age_upper", none_N),
        group_N=whole["group"],
        probability_N=numbers["group_probability"],
        share_below_N=of_doubt_2N[0],
        under_gate_N=of_doubt_2N[1],
        gender_N=whole["gender"],
        ethnicity_N=whole["ethnicity"],
        statuses=statuses.names,
        has_gender=np.unique(np.concatenate(met)),
    )


def _read_faces(
    file: str,
    numbers: Sequence[str],
    regroup: AgeGroups | None,
    share: float | None,
    only_first: bool,
    keeps_cdf: bool,
) -> pa.Table:
    """One file of predictions, of all faces or of the first one of each image, with the ``hash`` of the key in place
    of it."""
    needs_cdf = bool(regroup or share or keeps_cdf)
    rows = parquet.read_table(file, [*PREDICTION_COLUMNS, *numbers, *(["age_cdf"] if needs_cdf else [])])
    if regroup:
        rows = regrouped(rows, regroup)
    if share:
        rows = _with_central(rows, share)
    if needs_cdf and not keeps_cdf:
        rows = rows.drop_columns(["age_cdf"])
    if only_first:
        rows = rows.filter(pc.equal(rows["face"], 0))
    rows = rows.append_column("hash", pa.array(keys.hashes_of(catalogs.keys_of(rows)), pa.uint64()))
    return rows.drop_columns(["uri", "version"])


def _by_box(rows: pa.Table, listed: CatalogArrays, finds_all: bool) -> tuple[pa.Table, np.ndarray]:
    """Of one file of predictions, in which the faces of an image stand together, those rows that say something of a
    label, and which label that is. What is said of an image as a whole is said of all of its labels."""
    assert listed.box_N4 is not None
    order_N, sorted_N = listed.by_hash
    hash_P = rows["hash"].to_numpy()
    starts = np.flatnonzero(np.append(True, np.diff(hash_P) != 0)) if len(rows) else np.zeros(0, int)
    low, high = (np.searchsorted(sorted_N, hash_P[starts], side) for side in ("left", "right"))
    num_S = high - low
    place_L = order_N[np.arange(num_S.sum()) + np.repeat(low - (np.cumsum(num_S) - num_S), num_S)]
    start_L, stop_L = (np.repeat(each, num_S) for each in (starts, np.append(starts, len(rows))[1:]))
    said_L = predicted_rows(listed.box_N4[place_L], start_L, stop_L, rows)
    told_L = np.flatnonzero((said_L >= 0) | finds_all)
    is_missed = said_L[told_L] < 0
    said = np.where(is_missed, start_L[told_L], said_L[told_L])
    rows = rows.take(pa.array(said, pa.int64()))
    of_missed = {"status": "no_face", "group": None, "gender": None, "ethnicity": None}
    for name, value in of_missed.items():
        column = pc.if_else(pa.array(is_missed, pa.bool_()), pa.scalar(value, pa.string()), rows[name])
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    return rows, place_L[told_L]


def _of_doubt(age_cdf: pa.ChunkedArray, index_F: np.ndarray, true_age_F: np.ndarray) -> np.ndarray:
    """Of the rows ``index_F`` of a column of distributions the shares (2, F) below the true age and under the gate,
    NaN where there is none."""
    is_known = pc.is_valid(age_cdf).to_numpy()
    known_F = is_known[index_F]
    cdf_KA = stored_cdfs(age_cdf)[(np.cumsum(is_known) - 1)[index_F[known_F]]]
    found_2F = np.full((2, len(index_F)), np.nan)
    found_2F[0, known_F] = cdf.share_below(cdf_KA, true_age_F[known_F])
    found_2F[1, known_F] = cdf.probability_under(cdf_KA, GATE_AGE)
    return found_2F


def _with_central(rows: pa.Table, share: float) -> pa.Table:
    """Rows with the ends of the central ``share`` of their distributions as those of their intervals."""
    is_known_N = pc.is_valid(rows["age_cdf"]).to_numpy()
    ends = cdf.central_interval(stored_cdfs(rows["age_cdf"]), share)
    for name, values in zip(("age_lower", "age_upper"), ends, strict=True):
        end_N = np.full(len(rows), np.nan)
        end_N[is_known_N] = values
        rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array(end_N))
    return rows


def _finder(hash_N: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function from hashes to their places in ``hash_N``, -1 where they are not there."""
    order_N = np.argsort(hash_N, kind="stable").astype(np.int32)
    return partial(_find, hash_N[order_N], order_N)


def _find(sorted_N: np.ndarray, order_N: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    if not len(sorted_N):
        return np.full(len(hashes), -1)
    place = np.searchsorted(sorted_N, hashes).clip(max=len(sorted_N) - 1)
    return np.where(sorted_N[place] == hashes, order_N[place], -1)


def codes_of(column: pa.ChunkedArray, names: Iterable[str]) -> np.ndarray:
    """Index int32 (N,) into ``names`` of each value, -1 for null and for what is not there."""
    found = pc.index_in(column, value_set=pa.array(list(names), pa.string()))
    return np.asarray(pc.fill_null(found, -1).to_numpy(), np.int32)


def floats(column: pa.ChunkedArray) -> np.ndarray:
    return pc.cast(column, pa.float64()).to_numpy()
