"""Ray's start, and the flow of catalog rows into training: rows in, uint8 batches in the object store out."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch

from agescale import catalogs
from agescale.images import Face
from agescale.progress import ImageProgress
from agescale.storage import StoreError, read_pool

NO_PROGRESS_TIMEOUT_S = 1800
"""A pipeline of Ray Data that finishes no task for so long ends with an error instead of hanging. One task may read and
decode some thousand large photos, or wait for a busy cluster."""

ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**28),
}
"""glibc gives every large tensor back to the system and asks for it again, page by page: a fifth of the time of a
training step on a CPU, and half of that of a forward pass. One arena that keeps what it has does not."""

RAY_ENVIRONMENT = {
    **ALLOCATOR,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # Ray would run workers at nice 15; a job that somebody waits for is no background work
    "RAY_DATA_LOG_LEVEL": "ERROR",  # plans and their timings, line after line; they stand in Ray's own log files
    "PYTHONWARNINGS": "ignore:`ExecutionOptions.exclude_resources`",  # Ray's use of its own deprecated option
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # would show each line that a training process prints twice
}
"""Defaults for the cluster that a job starts for itself; what is set already stays."""


def start_ray(min_cpus: float = 2, has_dashboard: bool = False) -> None:
    """Joins the cluster that RAY_ADDRESS or ``ray start`` names, else starts a local one.

    A local one declares at least ``min_cpus`` logical CPUs: on a small laptop tasks then share cores, where a plan that
    needs one CPU more than there are would wait forever. A dashboard takes seconds to start; Ray Train asks it all the
    time whether its controller lives.
    """
    if not ray.is_initialized():
        num_cpus, port = max(os.cpu_count() or 1, int(np.ceil(min_cpus))), _free_port()
        # Without this address Ray Train's watchdog asks any cluster of this machine whether our controller lives, is
        # told by a second one that it does not, and ends the training
        environment = {**RAY_ENVIRONMENT, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}"}
        ours = {name: value for name, value in environment.items() if name not in os.environ}
        os.environ.update(ours)
        address = None if "RAY_ADDRESS" in os.environ or _is_recorded_cluster_alive() else "local"
        try:
            dashboard = {"include_dashboard": has_dashboard, "dashboard_port": port}
            ray.init(address, num_cpus=num_cpus, logging_level="ERROR", **dashboard)
        except ValueError:  # a running cluster takes no resources from its drivers
            for name in ours:
                del os.environ[name]
            ray.init(logging_level="ERROR")
    context = ray.data.DataContext.get_current()
    context.execution_no_progress_timeout_s = NO_PROGRESS_TIMEOUT_S
    context.enable_progress_bars = False  # ours count images; Ray's count blocks
    context.raise_original_map_exception = True  # one of Ray's own would not name ours, which is one line to act on
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what fails is raised, and need not be logged too


def allocator_environment() -> dict[str, Any]:
    """The runtime environment of processes that compute: ALLOCATOR, where they do not inherit it from this one."""
    is_inherited = all(os.environ.get(name) == value for name, value in ALLOCATOR.items())
    return {} if is_inherited else {"env_vars": ALLOCATOR}


def _is_recorded_cluster_alive() -> bool:
    """Whether somebody answers at the address that ``ray start`` left behind; Ray waits for dead ones in silence."""
    record = Path(tempfile.gettempdir(), "ray", "ray_current_cluster")
    if not record.exists():
        return False
    host, _, port = record.read_text().strip().rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
    except (OSError, ValueError):
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
            raise ValueError(
                f"{num_workers} workers need {amount:g} {kind}s, the cluster has {have.get(kind, 0.0):g}; "
                "lower --num-workers, or add nodes"
            )


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
        with read_pool() as pool:
            faces = catalogs.load_faces(self.catalog, rows, self.image_size, self.center_crop, self.use_packed, pool)
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
