"""The images of a catalog's rows: packed in its parts, or from where they lie; decoded ahead in threads."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any

import pyarrow as pa

from agescale.faces import images
from agescale.faces.isolation import Decoder
from agescale.faces.loading import Framing, Loaded, Spent, load_one
from agescale.store import members, parquet, paths
from agescale.store.objects import ahead
from agescale.tables import faces, folders
from agescale.tables.catalogs import ROW_GROUP_ROWS, as_listed


def load_faces(
    uri: str,
    rows: pa.Table,
    framing: Framing,
    use_packed: bool,
    pool: Executor,
    decoder: Decoder = images,
    spent: Spent | None = None,
) -> Iterator[Loaded]:
    """A face, or a photo to find faces in, or why there is none, for each of ``rows`` (columns uri, part, row), in
    order, decoded ahead in ``pool``. Photos come with their faces, as far as the catalog has them. Of archives, members
    that lie near one another are read together.

    Where the rows have the columns version and size_bytes, another picture than was listed is a reason, too. With
    ``use_packed`` the pictures come from the catalog's parts, and from their own URIs only where a row has none. What
    reading and decoding take is added to what is ``spent``.
    """
    spent = spent or Spent()
    nothing = [None] * len(rows)
    packed = _packed_images(uri, rows, spent) if use_packed else nothing
    alone = itertools.repeat(members.read_bytes, len(rows))
    reads = alone if use_packed else members.reads(rows["uri"].to_pylist(), folders.archives(uri), pool)
    known = faces.known_faces(uri, rows, framing.geometry) if framing.geometry else nothing
    tasks = (
        pool.submit(
            load_one, framing=framing, picture=picture, known=of_it, decoder=decoder, read=read, spent=spent, **listed
        )
        for listed, picture, of_it, read in zip(_listed(rows), packed, known, reads, strict=True)
    )
    return ahead(tasks, num_ahead=framing.look_ahead)


def _listed(rows: pa.Table) -> list[dict[str, Any]]:
    """What a listing told of each of ``rows``: its uri, and of version and size_bytes those that are columns."""
    names = [name for name in ("uri", "version", "size_bytes") if name in rows.column_names]
    told = rows.select(names).to_pylist()
    return [row | {"version": as_listed(row["version"])} if "version" in row else row for row in told]


def _packed_images(uri: str, rows: pa.Table, spent: Spent) -> Iterator[bytes | None]:
    """The ``image`` column at ``rows``, read by row groups, one group held at a time where rows are in order."""
    held: tuple[str, int] | None = None
    column: pa.ChunkedArray | None = None
    for part, row in zip(rows["part"].to_pylist(), rows["row"].to_pylist(), strict=True):
        group = row // ROW_GROUP_ROWS
        if held != (part, group):
            with spent.reading():
                column = parquet.read_row_groups(paths.join(uri, part), [group], ["image"])["image"]
            held = (part, group)
        assert column is not None
        yield column[row - group * ROW_GROUP_ROWS].as_py()
