"""What the footers of a table's parts say, kept in one file beside the table, so that no start asks each of 100,000.

A table's listing and how to ask one part in; what all parts say out, by name. A part is asked where the file beside
does not know it in the version that stands now: it is a copy, and nothing becomes wrong if it is old, damaged or lost.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import pyarrow as pa

from agescale.store import objects, parquet, paths
from agescale.store.errors import StoreError
from agescale.tables import folders

NAME = "footers.parquet"
COLUMNS = pa.schema([("name", pa.string()), ("version", pa.string()), ("said", pa.string())])
"""``version`` as a listing tells it (``objects.list_versions``), ``said`` as JSON."""
Said = TypeVar("Said", bound=Mapping[str, Any])


def read(table: str, versions: Mapping[str, str], ask: Callable[[str], Said]) -> dict[str, Said]:
    """What ``ask(uri)`` says of each part of a table, which is listed in these ``versions``, in their order.

    Costs one file, and a footer for each part that came since that was kept. ``ask`` raises what it wants; whoever
    reads 100,000 footers is glad of the first mistake.
    """
    kept = _kept(table)
    said = {name: kept[name, version] for name, version in versions.items() if (name, version) in kept}
    unknown = [name for name in versions if name not in said]
    with objects.read_pool() as pool:
        said |= zip(unknown, pool.map(lambda name: ask(paths.join(table, name)), unknown), strict=True)
    return {name: said[name] for name in versions}


def keep(table: str, kind: str, said: Mapping[str, Mapping[str, Any]]) -> None:
    """Keeps what parts of a table say for the next ``read``. Only for who holds the table's lease and knows it."""
    versions = {name: version for name, version in folders.list_versions(table, kind).items() if name in said}
    texts = [json.dumps(said[name]) for name in versions]
    rows = pa.table([list(versions), list(versions.values()), texts], schema=COLUMNS)
    parquet.write_table(_uri(table), rows)


def _kept(table: str) -> dict[tuple[str, str], Any]:
    with contextlib.suppress(StoreError, ValueError):  # it is a copy
        rows = parquet.read_table(_uri(table), COLUMNS.names).to_pylist()
        return {(row["name"], row["version"]): json.loads(row["said"]) for row in rows}
    return {}


def _uri(table: str) -> str:
    return paths.join(folders.beside(table), NAME)
