"""Tables as other programs want them: a table's URI in, a lazy ``pyarrow.dataset.Dataset`` of its current rows out.

Current is the newest row of each image that is not deleted, and the prediction of that. All that is read beforehand are
URIs and versions, and none of a catalog that was listed only once. Runs no model.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from agescale.store import parquet, paths
from agescale.tables import catalogs, folders, schema
from agescale.tables.catalogs import Catalog
from agescale.tables.predictions import Predictions

Uri = str | os.PathLike[str]


def read_catalog(uri: Uri) -> pads.Dataset:
    """The current rows of the catalog at ``uri`` (a path, ``file://`` or ``s3://``), columns as in schema.CATALOG.

    Nothing is loaded before it is asked for, and no packed image that is not: ``.to_table(columns=[...])``,
    ``.to_batches()``, ``.filter(...)``, ``.count_rows()``, and DuckDB or Polars, which take the dataset as it is, see
    current rows only. (``.get_fragments()`` would give files, and raises ValueError.)

    Raises ValueError where no catalog stands there, StoreError where it cannot be read.
    """
    catalog = Catalog.open(os.fspath(uri))
    folders.read_metadata(catalog.file(catalog.names[-1]), "catalog")  # refuses other tables
    return _open(catalog, catalog.names).filter(~pads.field("deleted") & _is_current(catalog, LISTED))


def read_predictions(uri: Uri, catalog: Uri | None = None) -> pads.Dataset:
    """The predictions at ``uri`` of the current rows of their catalog, columns as in schema.PREDICTIONS: one row for
    each image that is there now and has been scored. The dataset is like that of ``read_catalog``.

    The predictions know where their catalog is; ``catalog`` says where it has moved to. Raises ValueError where there
    are no predictions, or not the catalog that they are of; StoreError where one of them cannot be read.
    """
    predictions = Predictions.open(os.fspath(uri))
    place = predictions.run["catalog"] if catalog is None else paths.absolute(os.fspath(catalog))
    source = Catalog.find(place)  # after the files: of what is scored meanwhile none is taken for current
    if source is None or source.id != predictions.run["catalog_id"]:
        hint = "; read_predictions(..., catalog=...) names it where it has moved" if catalog is None else ""
        raise ValueError(f"{predictions.uri}: the catalog that these are predictions of is not at {place}{hint}")
    if catalogs.listing_of(source.names[0]) < catalogs.listing_of(source.names[-1]):
        source = source.only([part.name for part in source.parts if not part.relabels])
    return parquet.open_dataset(predictions.files, predictions.schema).filter(_is_current(source, KEY))


def _open(catalog: Catalog, parts: Sequence[str]) -> pads.Dataset:
    return parquet.open_dataset([catalog.file(part) for part in parts], schema.CATALOG)


KEY = pc.binary_join_element_wise(pads.field("uri"), pads.field("version"), pa.scalar("\0"))
"""Of a row of either table. No listing names an image twice, and what comes back as it had been gets another version
(see ``changes``), so that no two rows share one, but for those that tell of a deletion, and those of a catalog that
tell new labels (``catalogs.NewLabels``): these are of no interest for predictions."""
LISTED = pc.binary_join_element_wise(
    *(pads.field(name) for name in ("uri", "version")),
    pads.field("listed_at").cast(pa.int64()).cast(pa.string()),
    pa.scalar("\0"),
    null_handling="replace",
)
"""Of a row of a catalog that tells new labels too: a later listing is later."""


def _is_current(catalog: Catalog, key: pads.Expression) -> pads.Expression:
    """Of a row of either table, which ``key`` names: that no later listing of the catalog names its image again.

    Held are URI and key of the rows of all listings but the first, which has most of a catalog.
    """
    parts = catalog.names
    first = [part for part in parts if catalogs.listing_of(part) == catalogs.listing_of(parts[0])]
    if len(first) == len(parts):
        return pc.scalar(True)
    later = _open(catalog, parts[len(first) :]).to_table(columns={"uri": pads.field("uri"), "key": key})
    numbered = later.append_column("position", pa.array(np.arange(len(later))))
    newest = numbered.group_by("uri").aggregate([("position", "max")])
    is_superseded = np.ones(len(later), bool)
    is_superseded[newest["position_max"].to_numpy()] = False
    is_named_again = pc.is_in(pads.field("uri"), value_set=newest["uri"].combine_chunks())
    before = _open(catalog, first).to_table(columns={"key": key}, filter=is_named_again)
    superseded = pa.chunked_array([*later["key"].filter(is_superseded).chunks, *before["key"].chunks], pa.string())
    return ~pc.is_in(key, value_set=superseded.combine_chunks())
