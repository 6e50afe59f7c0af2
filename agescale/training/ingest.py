"""Catalog rows in, uint8 batches in Ray's object store out."""

from __future__ import annotations

import contextlib
import copy
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Executor
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch
from ray.data._internal.execution.execution_callback import ExecutionCallback

from agescale.faces.augment import Augmentation
from agescale.faces.finding import finder_of
from agescale.faces.geometry import matched
from agescale.faces.images import Face, TinyFace
from agescale.faces.isolation import Decoder
from agescale.faces.loading import Framing
from agescale.models import features
from agescale.models.age_model import AgeModel, ModelSpec, below
from agescale.runtime.cluster import start_ray
from agescale.runtime.progress import ImageProgress
from agescale.runtime.work import decoder
from agescale.store.errors import StoreError
from agescale.store.objects import read_pool
from agescale.tables import catalogs, packed

CHUNK_ROWS = catalogs.ROW_GROUP_ROWS
"""Rows of one decoding task, and of one block of the training data."""
NICE = 10
"""A tenth of the processor time of a thread of training, where there is not enough for both."""
DECODERS_NICE = 5
"""A quarter of the processor time there: enough where other programs, and not training, have the processors."""


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


def decoded_dataset(rows: pa.Table, decoder: FaceDecoder, seed: ray.data.RandomSeedConfig | None) -> ray.data.Dataset:
    """Decoded faces of ``rows`` as a lazy dataset of blocks of CHUNK_ROWS, in a random order where there is a seed."""
    names = ["uri", "catalog", "part", "row", *({"box"} & set(rows.column_names))]
    rows = rows.select(names).append_column("index", pa.array(np.arange(len(rows)), pa.int64()))
    dataset = ray.data.from_arrow(mixed_chunks(rows))
    if seed is not None:
        dataset = dataset.randomize_block_order(seed=seed)  # waits for all of its input, so not behind the decoder
    dataset.context.custom_execution_callback_classes = [Unhurried]
    return dataset.map_batches(
        decode_giving_way,
        fn_args=(decoder,),
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=1,
    )


def mixed_chunks(rows: pa.Table) -> list[pa.Table]:
    """``rows``, which are in the order of their catalogs, as chunks of CHUNK_ROWS which hold of each catalog as much as
    there is of it: batches are drawn from a few chunks at a time, and are to be of all catalogs.

    >>> rows = pa.table({"catalog": [0] * 512 + [1] * 256, "index": range(768)})
    >>> [chunk["catalog"].to_pylist().count(1) for chunk in mixed_chunks(rows)]
    [85, 86, 85]
    """
    catalog_N = rows["catalog"].to_numpy()
    starts_N = np.searchsorted(catalog_N, catalog_N)
    share_N = (np.arange(len(rows)) - starts_N + 0.5) / np.bincount(catalog_N)[catalog_N]
    order_N = np.argsort(share_N, kind="stable")
    starts = range(0, len(rows), CHUNK_ROWS)
    return [rows.take(np.sort(order_N[start : start + CHUNK_ROWS])).combine_chunks() for start in starts]


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


class Unhurried(ExecutionCallback):
    """Lets the loop that hands blocks out give way to what else runs on its node. While tasks hold images back for
    which there is no room yet, Ray finds at each turn that they have some, and the loop takes most of a core."""

    def on_execution_step(self, executor: Any) -> None:
        with contextlib.suppress(OSError):  # where a process may not change even that
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def held_faces(rows: pa.Table, decoder: FaceDecoder, verb: str = "") -> ray.data.Dataset:
    """Decoded faces of ``rows`` in the object store; with a ``verb`` it says how far it is."""
    return held(decoded_dataset(rows, decoder, seed=None), len(rows), verb)


def held(dataset: ray.data.Dataset, num_images: int, verb: str = "") -> ray.data.Dataset:
    """``dataset`` in the object store, in the order of its rows, whichever were done first: where a training begins
    with the same ones in another order, the same seed makes another model."""
    dataset.context.execution_options.preserve_order = True
    blocks = []
    with ImageProgress(verb, num_images, is_quiet=not verb) as progress:
        for bundle in dataset.iter_internal_ref_bundles():
            blocks += bundle.block_refs
            progress.add(bundle.num_rows() or 0)
    return ray.data.from_arrow_refs(blocks)


class FeatureMaker:
    """A block of decoded images in, what the top of a model takes out: ``features`` float32 (n, V, ...), of each image
    and, where it ``has_mirrored`` ones, of its mirror image; and the ``index`` of their rows. In batches of one size
    and by one thread, so that the same images always have the same features."""

    def __init__(self, spec: ModelSpec, weights: ray.ObjectRef, device: str, has_mirrored: bool) -> None:
        self.spec = spec
        self.has_mirrored = has_mirrored
        self.weights = weights
        self.device = device

    def __call__(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        torch.set_num_threads(1)
        model = model_of(self.spec, self.weights, self.device)
        images_NCHW = torch.from_numpy(block["image"]).permute(0, 3, 1, 2)
        views = [images_NCHW, images_NCHW.flip(3)] if self.has_mirrored else [images_NCHW]
        made = [features.make(model, view, self.device) for view in views]
        return {"features": torch.stack(made, dim=1).numpy(), "index": block["index"]}


@lru_cache(maxsize=1)
def model_of(spec: ModelSpec, weights: ray.ObjectRef, device: str) -> AgeModel:
    """One a process, to be looked at and not trained."""
    model = AgeModel(spec)
    model.load_state_dict(ray.get(weights))
    return model.eval().to(device)


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class SharedFaces:
    """Decoded faces for several trainings: each size is decoded once, and stays while there is room."""

    def __init__(self) -> None:
        start_ray()  # this process's settings
        self.datasets: dict[tuple[Any, ...], tuple[ray.data.Dataset, int]] = {}  # what was asked for last comes last

    def decode(self, split: str, rows: pa.Table, decoder: FaceDecoder) -> ray.data.Dataset:
        """The decoded faces of ``rows``, which are the same for all that ask for this split."""
        key = (split, len(rows), *vars(decoder).values())
        if key in self.datasets:
            self.datasets[key] = self.datasets.pop(key)
        else:
            num_bytes = decoded_bytes(len(rows), decoder.size)
            while self.datasets and not fits_in_object_store(
                num_bytes + sum(held for _, held in self.datasets.values())
            ):
                del self.datasets[next(iter(self.datasets))]
            self.datasets[key] = held_faces(rows, decoder), num_bytes
        return self.datasets[key][0]


def decoded_bytes(num_images: int, image_size: int) -> int:
    return num_images * image_size**2 * 3


def feature_bytes(model: AgeModel, augmentation: Augmentation) -> int:
    """Of the features of one image."""
    side = model.spec.image_size
    with torch.inference_mode():
        taken = below(copy.deepcopy(model).eval(), torch.zeros(1, 3, side, side, dtype=torch.uint8))
    return taken.numel() * 4 * (2 if augmentation.flip else 1)


def fits_in_object_store(num_bytes: int) -> bool:
    """Whether decoded images fill less than half of the cluster's object store, so that epochs can share them."""
    return num_bytes < 0.5 * float(ray.cluster_resources().get("object_store_memory", 0))
