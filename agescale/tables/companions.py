"""A table beside a catalog, with a file for each of its parts: what was computed once of the photos that they list.

    <catalog>.agescale/<folder>/<kind>-<listing>-<number>.parquet

In a part without a file nobody has looked yet, so done work is known by its output, and a photo is never looked at
twice. The folder is named after all that decides what is found. Knows no columns but the key (``faces``, ``features``
do).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from agescale.store import objects, parquet, paths
from agescale.tables import catalogs, folders, schema
from agescale.tables.catalogs import Catalog

DIGEST_CHARACTERS = 12
"""Of what a folder is named after."""


@dataclass(frozen=True)
class Companion:
    """``kind`` is that of the table, which its files' names begin with, and ``name`` the folder's."""

    kind: str
    name: str

    def folder(self, catalog: str) -> str:
        """Where it is beside the catalog at that URI, if anywhere."""
        return paths.join(folders.beside(catalog), self.name)

    def file_of(self, catalog: str, part: str) -> str:
        """URI of what is known of one part of a catalog."""
        return paths.join(self.folder(catalog), part.replace("part-", f"{self.kind}-", 1))

    def missing_parts(self, catalog: Catalog) -> list[str]:
        """Names of the catalog's parts that list images, and of which nothing is known yet."""
        standing = set(folders.list_parts(self.folder(catalog.uri), self.kind))
        return [
            name for name in listing_parts(catalog) if paths.name_of(self.file_of(catalog.uri, name)) not in standing
        ]

    def write(self, catalog: str, part: str, rows: pa.Table, said: Mapping[str, Any]) -> None:
        """Writes the rows of one part, unless they stand already; their metadata name it, and what is ``said``."""
        table = rows.cast(schema.with_metadata(self.kind, {**said, "part": part}))
        data = parquet.as_parquet(table)
        objects.write_new(self.file_of(catalog, part), data, scratch=folders.beside(catalog))

    def carry(self, old: str, parts: Sequence[str], new: str, name: str, rows: pa.Table, before: pa.Array) -> None:
        """Writes what is known of ``rows`` (columns uri, version), as the part of that name of the catalog ``new``
        holds them, from what is known of those parts of ``old``, if all have been looked at. ``before`` are the keys of
        the rows there, in their order."""
        files = [self.file_of(old, part) for part in parts]
        if not files or not all(map(objects.exists, files)):
            return
        columns = schema.TABLES[self.kind]
        found = pa.concat_tables([columns.empty_table(), *(parquet.read_table(file) for file in files)])
        place = pc.index_in(catalogs.keys_of(found), value_set=before)
        found, place = found.filter(pc.is_valid(place)), place.drop_null()
        index = columns.get_field_index("version")
        found = found.set_column(index, columns.field(index), rows["version"].take(place))
        said = folders.read_metadata(files[0], self.kind)
        self.write(new, name, found, said)


def listing_parts(catalog: Catalog) -> list[str]:
    """Names of the parts that list images."""
    return [part.name for part in catalog.parts if part.num_rows and not part.relabels]
