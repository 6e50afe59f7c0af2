"""What a source has otherwise than its catalog: a listing and the current rows in, the images that are new, changed and
gone out; of images that are read also those whose labels are other ones now.

Reads no image but those that a store did not deliver the last time, and writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from agescale.cataloging import relabelling
from agescale.cataloging.layouts import Labels
from agescale.cataloging.parts import split_of, told
from agescale.cataloging.relabelling import Relabelled
from agescale.store import listing, members, objects
from agescale.store.listing import Listed
from agescale.tables import catalogs, schema, splits
from agescale.tables.catalogs import Catalog

CHANGES = pa.schema([*listing.ROWS, schema.CATALOG.field("deleted")])
KNOWN_COLUMNS = ["uri", "version", "read_error", "content_hash", *relabelling.TOLD]
READ_AGAIN = ("missing", "changed", "forbidden", "unreachable")
"""What a store may have said of an image that it delivers now."""


def compare(pictures: pa.Table, known: pa.Table) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Rows (CHANGES) of ``pictures`` (listing.ROWS) that are not ``known`` (columns uri, version), that are known by
    another version, and of known ones that are gone."""
    position = pc.index_in(pictures["uri"], value_set=known["uri"].combine_chunks())
    stored = pc.replace_substring_regex(known["version"], catalogs.LISTING_SUFFIX, "")
    is_changed = pc.not_equal(pictures["version"], stored.take(position))  # null where it is new
    listed = pictures.append_column("deleted", pa.repeat(False, len(pictures))).cast(CHANGES)
    is_gone = pc.invert(pc.is_in(known["uri"], value_set=pictures["uri"].combine_chunks()))
    uri, version = (known[name].filter(is_gone) for name in ("uri", "version"))
    sizes, deleted = pa.nulls(len(uri), pa.int64()), pa.repeat(True, len(uri))
    gone = pa.table([uri, version, sizes, deleted], schema=CHANGES)
    return listed.filter(pc.is_null(position)), listed.filter(is_changed), gone


def told_apart(rows: pa.Table, known: pa.Table, listing_number: int) -> pa.Table:
    """``rows`` (uri, version, ...), where a version that the catalog has had before gets the number of this listing
    behind it.

    A file that was put back, after it was deleted or overwritten, is another row: (uri, version) stays a key.
    """
    is_back = pc.is_in(catalogs.keys_of(rows), value_set=catalogs.keys_of(known))
    numbered = pc.binary_join_element_wise(rows["version"], str(listing_number), "@")
    return rows.set_column(1, rows.schema.field("version"), pc.if_else(is_back, numbered, rows["version"]))


@dataclass(frozen=True)
class Difference:
    """Of a source whose images are read: what to read, the keys of what is gone, and other labels."""

    new: list[Listed]
    changed: list[Listed]  # and those that the store did not deliver the last time, and does now
    gone: pa.Table  # uri, version
    relabelled: list[Relabelled]
    num_known: int

    def told_apart(self, catalog: Catalog | None, listing_number: int) -> tuple[list[Listed], list[Listed]]:
        """What is new and what has changed, by versions as the listing of that number has to tell them."""
        if not catalog or not (self.new or self.changed):
            return self.new, self.changed
        known = pa.concat_tables(catalog.read_part(part, ["uri", "version"]) for part in catalog.names)
        return _told_apart(self.new, known, listing_number), _told_apart(self.changed, known, listing_number)


def _told_apart(items: Sequence[Listed], known: pa.Table, listing_number: int) -> list[Listed]:
    versions = told_apart(listing.to_table(list(items)), known, listing_number)["version"].to_pylist()
    return [replace(item, version=version) for item, version in zip(items, versions, strict=True)]


def difference(
    catalog: Catalog | None, pictures: list[Listed], labels: Labels, fractions: splits.Fractions | None
) -> Difference:
    """How a source of these ``pictures`` and ``labels`` differs from its catalog, where there is one already."""
    if catalog is None:
        return Difference(pictures, [], schema.CATALOG.empty_table().select(["uri", "version"]), [], 0)
    known = catalog.read(KNOWN_COLUMNS)
    new, changed, gone = compare(listing.to_table(pictures), known)
    row_of: dict[str, dict[str, Any]] = {row["uri"]: row for row in known.to_pylist()}
    new_uris, changed_uris = set(new["uri"].to_pylist()), set(changed["uri"].to_pylist())
    changed_uris |= _delivered_again([item for item in pictures if item.uri not in new_uris], row_of)
    relabelled = []
    for item in pictures:
        if item.uri not in new_uris and item.uri not in changed_uris:
            row, now = row_of[item.uri], told(labels.by_path[item.relative])
            now["split"] = split_of(now, row["content_hash"], fractions)
            if found := relabelling.compare(row, now):
                relabelled.append(found)
    return Difference(
        new=[item for item in pictures if item.uri in new_uris],
        changed=[item for item in pictures if item.uri in changed_uris],
        gone=gone.select(["uri", "version"]),
        relabelled=relabelled,
        num_known=len(known),
    )


def _delivered_again(pictures: list[Listed], row_of: dict[str, dict[str, Any]]) -> set[str]:
    """URIs of known images that the store did not deliver the last time, and does now."""
    failed = [item for item in pictures if (row_of[item.uri]["read_error"] or "").partition(":")[0] in READ_AGAIN]
    with objects.read_pool() as pool:
        answers = pool.map(lambda item: members.delivers(item.uri, item.version, item.size_bytes), failed)
        return {item.uri for item, is_delivered in zip(failed, answers, strict=True) if is_delivered}
