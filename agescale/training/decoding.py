"""Catalog rows in, decoded faces out: what a decoding task of a training does. Loads no more than decoding needs, so
that the processes that do it are there soon: no network, and none of what it is made of.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import Executor
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pyarrow as pa

from agescale.faces.finding import finder_of
from agescale.faces.geometry import matched
from agescale.faces.images import Face, TinyFace
from agescale.faces.isolation import Decoder
from agescale.faces.loading import Framing
from agescale.runtime.work import decoder
from agescale.store.errors import StoreError
from agescale.store.objects import read_pool
from agescale.tables import packed

DECODERS_NICE = 5
"""A quarter of the processor time of a thread of training, where there is not enough for both: enough where other
programs, and not training, have the processors."""


class FaceDecoder:
    """Catalog rows in, a batch of training data out: images uint8 (n, S, S, 3), and the ``index`` of their rows.

    Labels do not travel with them, so that trainings which are told other things can share decoded images. Rows whose
    image cannot be decoded (any more), or has no face where faces are looked for, are left out; a store that fails
    stops the job. ``framings``: of each catalog; one that has ``only_largest`` is for rows that are of the largest face
    of their photo, the other for rows that tell by a ``box`` of which.
    """

    def __init__(self, catalogs: tuple[str, ...], framings: tuple[Framing, ...], use_packed: tuple[bool, ...]) -> None:
        self.catalogs = catalogs
        self.framings = framings
        self.use_packed = use_packed

    @property
    def size(self) -> int:
        return self.framings[0].size

    def __call__(self, rows: pa.Table) -> dict[str, np.ndarray]:
        import torch  # here, since it takes a second that the process which only plans need not wait for

        torch.set_num_threads(1)
        images_NHWC = np.empty((len(rows), self.size, self.size, 3), np.uint8)
        is_loaded = np.zeros(len(rows), bool)
        first = f"{self.catalogs[rows['catalog'][0].as_py()]} {rows['part'][0]} {rows['row'][0]}"
        with read_pool() as pool, decoder(first) as decode:
            for start, stop in _stretches(rows, ["catalog"]):
                catalog = rows["catalog"][start].as_py()
                of_catalog = rows.slice(start, stop - start)
                for index, face in self._shown(catalog, of_catalog, pool, decode):
                    images_NHWC[start + index] = face.pixels
                    is_loaded[start + index] = True
        return {"image": images_NHWC[is_loaded], "index": rows["index"].to_numpy()[is_loaded]}

    def _shown(self, catalog: int, rows: pa.Table, pool: Executor, decode: Decoder) -> Iterator[tuple[int, Face]]:
        """The face of each of the rows of a catalog that has one, with the row's place; a photo is decoded once, whose
        rows follow one another."""
        framing = self.framings[catalog]
        photos = _stretches(rows, ["part", "row"])
        boxes = rows["box"].to_pylist() if "box" in rows.column_names else [None] * len(rows)
        first = rows.take([start for start, _ in photos])
        uri, use_packed = self.catalogs[catalog], self.use_packed[catalog]
        loaded = packed.load_faces(uri, first, framing, use_packed, pool, decode)
        for (start, stop), found in finder_of(framing).find(zip(photos, loaded, strict=True)):
            if isinstance(found, list):
                for index, face in enumerate(_of_boxes(found, boxes[start:stop]), start=start):
                    if isinstance(face, Face):
                        yield index, face
            elif isinstance(found, StoreError) and not found.is_about_one_file:
                raise found


def _stretches(rows: pa.Table, columns: list[str]) -> list[tuple[int, int]]:
    """Where rows that follow one another and agree in these columns begin and end."""
    is_other_N = np.ones(len(rows), bool)
    is_other_N[1:] = False
    for name in columns:
        codes_N = rows[name].combine_chunks().dictionary_encode().indices.to_numpy()
        is_other_N[1:] |= np.diff(codes_N) != 0
    return list(pairwise([*np.flatnonzero(is_other_N).tolist(), len(rows)]))


def _of_boxes(faces: list[Face | TinyFace], boxes: list[list[float] | None]) -> list[Face | TinyFace | None]:
    """The faces of a photo that some labels are of: that of each box, or the largest where a label has none."""
    found = [face.place.share_of(face.width, face.height) for face in faces if face.place]
    numbers = iter(matched([(x1, y1, x2, y2) for x1, y1, x2, y2 in filter(None, boxes)], found))
    chosen = [0 if box is None else next(numbers) for box in boxes]
    return [None if number is None else faces[number] for number in chosen]


def decode_giving_way(rows: pa.Table, decoder: FaceDecoder) -> dict[str, np.ndarray]:
    """What a task of decoding does."""
    give_way()
    return decoder(rows)


@lru_cache(maxsize=1)
def give_way() -> None:
    """Lets this process, and what it begins, give way to training on its node, once for all: a step of several threads
    is as slow as the one that waits for a core. Where a step waits for images there is a core for those who decode."""
    with contextlib.suppress(OSError):  # where a process may not change even that
        os.nice(DECODERS_NICE)
