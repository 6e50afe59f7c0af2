"""Which rows of a catalog a run learns from, and what it is told of them: filters, and labels that are held back.

Rows in, rows out; every choice is a stable hash of the image, the same on every machine and in every run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from agescale.ages.groups import AgeGroups
from agescale.ages.labels import is_exact
from agescale.tables import catalogs, schema, splits
from agescale.tables.catalogs import Catalog
from agescale.tables.filters import check_genders
from agescale.tables.labels import per_label

LABEL_COLUMNS = [
    "uri", "version", "content_hash", "split", "age_low", "age_high", "group", "gender", "ethnicity", "subject",
    "width", "height",
]  # fmt: skip


LEARNED_SPLITS = pa.array(["train", "val"])


def labelled_rows(catalog: Catalog, columns: Sequence[str] = LABEL_COLUMNS, leave_out: Sequence[str] = ()) -> pa.Table:
    """The rows that are trained on or validated: labelled, current, without an excluding finding, or one of the kinds
    to ``leave_out``; ``columns``, part and row, in the order of the catalog. With ``boxes`` (and width, height) among
    them a row each, with its ``box``."""

    def is_learned(rows: pa.Table) -> pa.ChunkedArray:
        is_labelled = pc.or_(pc.is_valid(rows["age_low"]), pc.is_valid(rows["group"]))
        return pc.and_(is_labelled, pc.is_in(rows["split"], LEARNED_SPLITS))

    return _fit_rows(catalog, columns, leave_out, lambda rows: rows.filter(is_learned(rows)))


def usable_rows(catalog: Catalog, columns: Sequence[str] = LABEL_COLUMNS, leave_out: Sequence[str] = ()) -> pa.Table:
    """Like ``labelled_rows``, for a task that needs no labels; a tenth of those without a split is put into val."""

    def with_split(rows: pa.Table) -> pa.Table:
        if rows["split"].null_count:
            by_uri = [splits.assign(uri, (0.9, 0.1, 0.0)) for uri in rows["uri"].to_pylist()]
            split = pc.coalesce(rows["split"], pa.chunked_array([by_uri], pa.string()))
            rows = rows.set_column(rows.schema.get_field_index("split"), "split", split)
        return rows.filter(pc.is_in(rows["split"], LEARNED_SPLITS))

    return _fit_rows(catalog, columns, leave_out, with_split)


def _fit_rows(
    catalog: Catalog, columns: Sequence[str], leave_out: Sequence[str], choose: Callable[[pa.Table], pa.Table]
) -> pa.Table:
    """What ``choose`` leaves of the current rows, without those that have an excluding finding."""
    unfit = catalog.excluded((*schema.EXCLUDED_KINDS, "leaking", *leave_out))
    uris, keys = unfit["uri"].combine_chunks(), catalogs.keys_of(unfit)

    def choose_fit(rows: pa.Table) -> pa.Table:
        rows = choose(per_label(rows) if "boxes" in columns else rows)
        if pc.any(pc.is_in(rows["uri"], uris)).as_py():
            rows = rows.filter(pc.invert(pc.is_in(catalogs.keys_of(rows), keys)))
        return rows

    return catalog.read(columns, choose_fit)


STRICTER = {"train": ("val", "test"), "val": ("test",)}
"""In which splits of another catalog a photo may not stand that is in such a one."""


def taken_once(catalogs: Sequence[Catalog], tables: Sequence[pa.Table]) -> list[np.ndarray]:
    """Whether each of the rows chosen from each catalog (N,) is one to take: none is whose photo (by URI or content)
    another catalog has in a stricter split, or one before among those chosen in the same. Holds 16 bytes a row."""
    learned = [_keys_by_split(rows, ("train", "val")) for rows in tables]
    columns = ["uri", "content_hash", "split"]
    strict = [_keys_by_split(catalog.read(columns, _held_out), STRICTER["train"]) for catalog in catalogs]
    are_taken = []
    for number, rows in enumerate(tables):
        others = [other for other in range(len(tables)) if other != number]
        is_taken_N = np.ones(len(rows), bool)
        for split, keys_N2 in learned[number].items():
            known = [keys[each] for keys in (strict[other] for other in others) for each in STRICTER[split]]
            known += [learned[other]["val"] for other in others if split == "train"]  # of those without a split
            known += [learned[other][split] for other in range(number)]
            is_taken_N[pc.equal(rows["split"], split).to_numpy()] = ~_are_among(keys_N2, known).any(axis=1)
        are_taken.append(is_taken_N)
    return are_taken


def _held_out(rows: pa.Table) -> pa.Table:
    return rows.filter(pc.is_in(rows["split"], pa.array(STRICTER["train"])))


def _keys_by_split(rows: pa.Table, names: Sequence[str]) -> dict[str, np.ndarray]:
    """What tells photos apart, (N, 2) uint64, by split: their URI, and their content, where it is known."""
    content = pc.coalesce(rows["content_hash"], rows["uri"])
    keys_N2 = np.stack([_digests(rows["uri"]), _digests(content)], axis=1)
    return {name: keys_N2[pc.equal(rows["split"], name).to_numpy()] for name in names}


def _are_among(keys: np.ndarray, some: Sequence[np.ndarray]) -> np.ndarray:
    known = np.sort(np.concatenate([each.ravel() for each in some]))
    if not len(known):
        return np.zeros(keys.shape, bool)
    found: np.ndarray = known[np.searchsorted(known, keys).clip(max=len(known) - 1)] == keys
    return found


def in_catalog_order(rows: pa.Table) -> pa.Table:
    """Joins do not keep the order of rows, and packed images are read fastest in theirs."""
    return rows.sort_by([("catalog", "ascending"), ("part", "ascending"), ("row", "ascending")])


def fingerprint(rows: pa.Table) -> str:
    """Names the images and labels of a training run: 16 hex digits, whatever the order in their catalogs."""
    columns = ["catalog", "version", "split", "age_low", "age_high", "group", "gender", "ethnicity"]
    columns += ["box"] if "box" in rows.column_names else []
    total = 0
    for batch in rows.select(columns).to_batches(max_chunksize=catalogs.LISTED_ROWS):
        for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            total += int.from_bytes(hashlib.sha256(repr(values).encode()).digest())
    return f"{total % 2**256:064x}"[:16]


def fill_gender(rows: pa.Table, predictions: pa.Table) -> pa.Table:
    """``rows`` with a gender where they have none and ``predictions`` (uri, version, gender) tell one.

    Raises ValueError, in one line, where they tell none, or others than the catalog knows.
    """
    predictions = predictions.filter(pc.is_valid(predictions["gender"]))
    predicted = predictions.group_by(["uri", "version"]).aggregate([("gender", "min")])
    predicted = predicted.rename_columns(["uri", "version", "predicted_gender"])
    is_any = pc.any(pc.is_in(predicted["uri"], rows["uri"].combine_chunks())).as_py()
    check_genders(is_any, *(pc.unique(table["gender"]).drop_null().to_pylist() for table in (rows, predictions)))
    rows = rows.join(predicted, keys=["uri", "version"], join_type="left outer")
    gender = pc.coalesce(rows["gender"], rows["predicted_gender"])
    rows = rows.set_column(rows.schema.get_field_index("gender"), "gender", gender)
    return rows.drop_columns(["predicted_gender"])


def coarsen_labels(rows: pa.Table, share: float, age_groups: AgeGroups) -> pa.Table:
    """``rows`` with the exact ages of that ``share`` of them replaced by their age group, ``[25, 50)`` for 34.

    Rows without an exact age, or whose age falls into no group, stay as they are. Raises ValueError for groups without
    bounds.
    """
    bounds = age_groups.bounds()
    low_N, high_N = (rows[name].to_numpy().astype(np.float32) for name in ("age_low", "age_high"))
    for index in np.flatnonzero(is_exact(low_N, high_N) & (_positions(rows, "coarse") < share)):
        group = age_groups.index_of(float(low_N[index]))
        if group is not None:
            low_N[index], high_N[index] = bounds[group]
    for name, values_N in (("age_low", low_N), ("age_high", high_N)):
        column = pa.array(values_N, pa.float32(), mask=np.isnan(values_N))
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    return rows


def limit_rows(rows: pa.Table, num_rows: int) -> pa.Table:
    """``num_rows`` of the rows, or all where there are no more. Those of a smaller number are among a larger one's."""
    if num_rows < 1:
        raise ValueError(f"--max-images {num_rows}: at least 1")
    if len(rows) <= num_rows:
        return rows
    chosen = np.sort(np.argsort(_positions(rows, "limit"), kind="stable")[:num_rows])
    return rows.take(pa.array(chosen))


def _positions(rows: pa.Table, purpose: str) -> np.ndarray:
    """A number in [0, 1) for each row, which depends on its image and on the purpose alone."""
    keys = pc.coalesce(rows["content_hash"], rows["uri"])  # only listed images have no hash
    return _digests(keys, f"{purpose} ") / 2**64


def one_of_each_person(rows: pa.Table) -> np.ndarray:
    """Indices, rising, of one row of each person (``subject`` of a ``catalog``), and of each row of nobody known. Which
    one hangs on nothing but the image's URI."""
    persons = rows.select(["catalog", "subject"]).append_column("index", pa.array(np.arange(len(rows))))
    nobody, known = (persons.filter(has(rows["subject"])) for has in (pc.is_null, pc.is_valid))
    order = np.argsort(_digests(rows["uri"].take(known["index"])), kind="stable")
    known = known.take(pa.array(order))
    firsts = known.group_by(["catalog", "subject"], use_threads=False).aggregate([("index", "first")])
    return np.sort(np.concatenate([nobody["index"].to_numpy(), firsts["index_first"].to_numpy()]))


def _digests(texts: pa.ChunkedArray, prefix: str = "") -> np.ndarray:
    """64 bits (N,) uint64 for each text."""
    digests = (
        hashlib.sha256(f"{prefix}{text}".encode()).digest()[:8] for chunk in texts.chunks for text in chunk.to_pylist()
    )
    return np.fromiter((int.from_bytes(digest, "big") for digest in digests), np.uint64, len(texts))
