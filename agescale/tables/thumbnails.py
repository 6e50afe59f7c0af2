"""Small pictures of a catalog's rows, as they stand within a page."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from agescale.faces import images
from agescale.faces.loading import Framing, Loaded
from agescale.tables import packed

JPEG_QUALITY = 85


def square(loaded: Loaded, _: int) -> images.Pixels | None:
    """What a model is shown of a picture, or nothing where there is no such."""
    return loaded.pixels if isinstance(loaded, images.Face) else None


def data_uris(
    catalog: str,
    rows: pa.Table,
    framing: Framing,
    use_packed: bool,
    shown: Callable[[Loaded, int], images.Pixels | None] = square,
) -> list[str | None]:
    """A picture for each of ``rows`` (columns uri, part, row) as a data URI, or None where it cannot be read any more.
    What of it is ``shown`` is asked with the position of the row."""
    order = np.lexsort((rows["row"].to_numpy(), rows["part"].to_numpy().astype(str)))
    found: list[str | None] = [None] * len(rows)
    with ThreadPoolExecutor(8) as pool:
        faces = packed.load_faces(catalog, rows.take(order), framing, use_packed, pool)
        for position, face in zip(order.tolist(), faces, strict=True):
            pixels = shown(face, position)
            if pixels is not None:
                found[position] = images.to_data_uri(pixels, JPEG_QUALITY)
    return found
