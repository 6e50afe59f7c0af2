"""Catalog rows in, uint8 batches in Ray's object store out."""

from __future__ import annotations

import contextlib
import copy
import os
import threading
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch
from ray.data._internal.execution.execution_callback import ExecutionCallback

from agescale.faces.augment import Augmentation
from agescale.models import features
from agescale.models.age_model import AgeModel, below
from agescale.models.spec import ModelSpec
from agescale.runtime.cluster import start_ray
from agescale.runtime.progress import ImageProgress
from agescale.tables import catalogs
from agescale.training.decoding import FaceDecoder, decode_giving_way

CHUNK_ROWS = catalogs.ROW_GROUP_ROWS
"""Rows of one decoding task, and of one block of the training data."""
NICE = 10
"""A tenth of the processor time of a thread of training, where there is not enough for both."""


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
