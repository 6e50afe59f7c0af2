"""What a cluster has and does: units of work in, their summaries out; catalog rows in, uint8 batches in the object
store out. Ray runs already."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch

from agescale import catalogs, images
from agescale.cluster import start_ray
from agescale.images import Face
from agescale.isolation import Decoder, IsolatedImages
from agescale.progress import ImageProgress
from agescale.store.errors import StoreError
from agescale.store.objects import read_pool


def check_resources(
    num_workers: int, cpus_per_worker: float, gpus_per_worker: float, extra_cpus: float = 0, bytes_per_worker: float = 0
) -> None:
    """Raises ValueError where the cluster cannot hold the workers and what feeds them: Ray would wait in silence."""
    have = ray.cluster_resources()
    need = {"CPU": num_workers * cpus_per_worker + extra_cpus, "GPU": num_workers * gpus_per_worker}
    if num_workers * bytes_per_worker > have.get("memory", 0):
        raise ValueError(
            f"{num_workers} workers need {num_workers * bytes_per_worker / 2**30:.1f} GiB of memory, the cluster has "
            f"{have.get('memory', 0) / 2**30:.1f}; lower --num-workers, or add nodes"
        )
    for kind, amount in need.items():
        if amount > have.get(kind, 0.0) + 1e-9:
            way_out = "lower --num-workers" if have.get(kind) else "--device cpu"
            if kind == "CPU" and extra_cpus:  # of a training
                way_out += " or --cpus-per-worker (0.5, say)"
            raise ValueError(
                f"{num_workers} workers need {amount:g} {kind}s, the cluster has {have.get(kind, 0.0):g}; "
                f"{way_out}, or add nodes"
            )


WORKER_BYTES = 2**30
"""What a process with a model needs besides its weights: torch, Ray, and the images that are decoded ahead."""


def num_gpus() -> int:
    return int(ray.cluster_resources().get("GPU", 0))


def uses_gpu(device: str) -> bool:
    """What a job's --device means on this cluster."""
    return device == "cuda" or (device == "auto" and num_gpus() > 0)


def run_units(
    units: list[pa.Table], work: Callable[..., Any], progress: ImageProgress, **map_options: Any
) -> Iterator[dict[str, Any]]:
    """Runs ``work`` on every unit, one task each, and yields the summary row that each returns, as they end.

    ``work`` takes a unit (a table) and returns a table of one row with at least ``num_rows``; it writes its own output,
    under a name that the unit decides, so a unit that Ray runs again overwrites itself.
    """
    if not units:
        return
    summaries = ray.data.from_arrow(units).map_batches(
        work, batch_size=None, batch_format="pyarrow", zero_copy_batch=True, **map_options
    )
    for batch in summaries.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for row in batch.to_pylist():
            yield row
            progress.add(row["num_rows"], progress.note)


MAX_DEATHS = 2
"""Processes that a piece of work may end before its pictures are decoded elsewhere."""
HOPELESS_DEATHS = 10


@contextlib.contextmanager
def decoder(work: str) -> Iterator[Decoder]:
    """What a Ray process decodes with for the piece of ``work`` of that name. Where that has ended its process twice on
    this node, one of its pictures is suspected: they are decoded in processes of their own, and one crash is one row.

    Raises ValueError where that has not helped either.
    """
    with _noted(work) as num_deaths:
        if num_deaths >= HOPELESS_DEATHS:
            hint = "its pictures are not to blame; is there memory enough? The same command continues"
            raise ValueError(f"{work}: the process that makes it has died {num_deaths} times; {hint}")
        if num_deaths < MAX_DEATHS:
            yield images
            return
        with IsolatedImages() as isolated:
            yield isolated


@contextlib.contextmanager
def _noted(work: str) -> Iterator[int]:
    """How many processes have died at it on this node. (Ray knows, but tells no actor how often it has begun a call.)

    The note, a byte for each beginning, lies in the session's folder on the node's disk, and goes with the work's end.
    """
    if not ray.is_initialized():
        yield 0
        return
    context = ray.get_runtime_context()
    notes = Path(context.get_temp_dir(), context.get_session_name(), "agescale")
    note, num_deaths = notes / hashlib.sha256(work.encode()).hexdigest(), 0
    with contextlib.suppress(OSError):  # a full disk is no reason not to work
        notes.mkdir(exist_ok=True)
        with open(note, "ab") as file:
            num_deaths = file.tell()
            file.write(b".")
    try:
        yield num_deaths
    finally:
        with contextlib.suppress(OSError):
            note.unlink()


CHUNK_ROWS = catalogs.ROW_GROUP_ROWS
"""Rows of one decoding task, and of one block of the training data."""


class FaceDecoder:
    """Catalog rows in, a batch of training data out: images uint8 (n, S, S, 3), and the ``index`` of their rows.

    Labels do not travel with them, so that trainings which are told other things can share decoded images. Rows whose
    image cannot be decoded (any more) are left out; a store that fails stops the job.
    """

    def __init__(self, catalog: str, image_size: int, center_crop: float, use_packed: bool) -> None:
        self.catalog = catalog
        self.image_size = image_size
        self.center_crop = center_crop
        self.use_packed = use_packed

    def __call__(self, rows: pa.Table) -> dict[str, np.ndarray]:
        torch.set_num_threads(1)
        images_NHWC = np.empty((len(rows), self.image_size, self.image_size, 3), np.uint8)
        is_loaded = np.zeros(len(rows), bool)
        first = f"{self.catalog} {rows['part'][0]} {rows['row'][0]}"
        with read_pool() as pool, decoder(first) as decode:
            settings = (self.image_size, self.center_crop, self.use_packed)
            faces = catalogs.load_faces(self.catalog, rows, *settings, pool, decode)
            for index, face in enumerate(faces):
                if isinstance(face, Face):
                    images_NHWC[index] = face.pixels
                    is_loaded[index] = True
                elif isinstance(face, StoreError) and not face.is_about_one_file:
                    raise face
        return {"image": images_NHWC[is_loaded], "index": rows["index"].to_numpy()[is_loaded]}


def decoded_dataset(rows: pa.Table, decoder: FaceDecoder, seed: ray.data.RandomSeedConfig | None) -> ray.data.Dataset:
    """Decoded faces of ``rows`` as a lazy dataset of blocks of CHUNK_ROWS, in a random order where there is a seed."""
    rows = rows.select(["uri", "part", "row"]).append_column("index", pa.array(np.arange(len(rows)), pa.int64()))
    chunks = [rows.slice(start, CHUNK_ROWS).combine_chunks() for start in range(0, len(rows), CHUNK_ROWS)]
    dataset = ray.data.from_arrow(chunks)
    if seed is not None:
        dataset = dataset.randomize_block_order(seed=seed)  # waits for all of its input, so not behind the decoder
    return dataset.map_batches(decoder, batch_size=None, batch_format="pyarrow", zero_copy_batch=True, num_cpus=1)


def held_faces(rows: pa.Table, decoder: FaceDecoder) -> ray.data.Dataset:
    """Decoded faces of ``rows`` in the object store, in the order of the rows, whichever were decoded first: where a
    training begins with the same ones in another order, the same seed makes another model."""
    dataset = decoded_dataset(rows, decoder, seed=None)
    dataset.context.execution_options.preserve_order = True
    return dataset.materialize()


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
            num_bytes = decoded_bytes(len(rows), decoder.image_size)
            while self.datasets and not fits_in_object_store(
                num_bytes + sum(held for _, held in self.datasets.values())
            ):
                del self.datasets[next(iter(self.datasets))]
            self.datasets[key] = held_faces(rows, decoder), num_bytes
        return self.datasets[key][0]


def decoded_bytes(num_images: int, image_size: int) -> int:
    return num_images * image_size**2 * 3


def fits_in_object_store(num_bytes: int) -> bool:
    """Whether decoded images fill less than half of the cluster's object store, so that epochs can share them."""
    return num_bytes < 0.5 * float(ray.cluster_resources().get("object_store_memory", 0))
