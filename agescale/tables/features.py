"""What a network says of a catalog's faces, computed once: a table beside the catalog, a file for each of its parts.

    <catalog>.agescale/features-<source>/features-<listing>-<number>.parquet

A photo of which a face could be shown to the network has a row. The folder is named after the network and what of a
photo it is shown, which the catalog's settings tell. Computes no features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from agescale.store import objects, parquet
from agescale.tables import catalogs
from agescale.tables.catalogs import Catalog
from agescale.tables.companions import Companion, listing_parts
from agescale.tables.schema import FEATURES


def table(source: str) -> Companion:
    """The features of the source of that digest."""
    return Companion("features", f"features-{source}")


def table_of(catalog: Catalog) -> Companion | None:
    """The features that a catalog keeps, or None where that has not been asked for."""
    source = catalog.settings.get("suspects")
    return table(source) if source else None


def as_rows(keys: Sequence[Mapping[str, Any]], made: Sequence[npt.NDArray[np.float16]]) -> pa.Table:
    """A row for each key (uri, version) and its features, which come batch by batch (n, F)."""
    columns = {name: pa.array([key[name] for key in keys], pa.string()) for name in ("uri", "version")}
    rows = [row_F for features_NF in made for row_F in features_NF]
    return pa.table({**columns, "features": pa.array(rows, FEATURES.field("features").type)}, schema=FEATURES)


def read(catalog: Catalog, known: Companion, rows: pa.Table) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float16]]:
    """Of which of ``rows`` (columns uri, version) features are known by now: their places (K,), and their features
    (K, F)."""
    keys = catalogs.keys_of(rows)
    places, features = [np.zeros(0, np.int64)], []
    for found in _tables(catalog, known):
        place = pc.index_in(catalogs.keys_of(found), value_set=keys)
        is_one = pc.is_valid(place)
        if pc.any(is_one).as_py():
            kept = found["features"].combine_chunks().filter(is_one)
            features.append(kept.flatten().to_numpy(zero_copy_only=False).reshape(len(kept), -1))
            places.append(place.drop_null().to_numpy().astype(np.int64))
    if not features:
        return places[0], np.zeros((0, 0), np.float16)
    places_K = np.concatenate(places)
    order_K = np.argsort(places_K, kind="stable")
    return places_K[order_K], np.concatenate(features)[order_K]


def _tables(catalog: Catalog, known: Companion) -> Iterator[pa.Table]:
    missing = set(known.missing_parts(catalog))
    files = [known.file_of(catalog.uri, part) for part in listing_parts(catalog) if part not in missing]
    with objects.read_pool() as pool:
        yield from objects.ahead((pool.submit(parquet.read_table, file) for file in files), num_ahead=8)
