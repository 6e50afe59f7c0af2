"""Catalog rows in, uint8 batches in Ray's object store out."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
import torch

from agescale.faces.augment import Augmentation
from agescale.faces.finding import finder_of
from agescale.faces.images import Face
from agescale.faces.loading import Framing
from agescale.models.age_model import AgeModel, ModelSpec, autocast, below
from agescale.runtime.cluster import start_ray
from agescale.runtime.progress import ImageProgress
from agescale.runtime.work import decoder
from agescale.store.errors import StoreError
from agescale.store.objects import read_pool
from agescale.tables import catalogs, packed

CHUNK_ROWS = catalogs.ROW_GROUP_ROWS
"""Rows of one decoding task, and of one block of the training data."""
FEATURE_BATCH = 64


class FaceDecoder:
    """Catalog rows in, a batch of training data out: images uint8 (n, S, S, 3), and the ``index`` of their rows.

    Labels do not travel with them, so that trainings which are told other things can share decoded images. Rows whose
    image cannot be decoded (any more), or has no face where faces are looked for, are left out; a store that fails
    stops the job.
    """

    def __init__(self, catalogs: tuple[str, ...], framing: Framing, use_packed: tuple[bool, ...]) -> None:
        self.catalogs = catalogs
        self.framing = framing
        self.use_packed = use_packed

    def __call__(self, rows: pa.Table) -> dict[str, np.ndarray]:
        torch.set_num_threads(1)
        size = self.framing.size
        images_NHWC = np.empty((len(rows), size, size, 3), np.uint8)
        is_loaded = np.zeros(len(rows), bool)
        first = f"{self.catalogs[rows['catalog'][0].as_py()]} {rows['part'][0]} {rows['row'][0]}"
        with read_pool() as pool, decoder(first) as decode:
            loaded = chain.from_iterable(
                packed.load_faces(self.catalogs[each], part, self.framing, self.use_packed[each], pool, decode)
                for each, part in _by_catalog(rows)
            )
            for index, found in finder_of(self.framing).find(enumerate(loaded)):
                if isinstance(found, list) and isinstance(found[0], Face):
                    images_NHWC[index] = found[0].pixels
                    is_loaded[index] = True
                elif isinstance(found, StoreError) and not found.is_about_one_file:
                    raise found
        return {"image": images_NHWC[is_loaded], "index": rows["index"].to_numpy()[is_loaded]}


def _by_catalog(rows: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """The stretches of ``rows`` that are of one catalog, with its number."""
    numbers_N = rows["catalog"].to_numpy()
    starts = [0, *(np.flatnonzero(np.diff(numbers_N)) + 1).tolist(), len(rows)]
    for start, stop in pairwise(starts):
        yield int(numbers_N[start]), rows.slice(start, stop - start)


def decoded_dataset(rows: pa.Table, decoder: FaceDecoder, seed: ray.data.RandomSeedConfig | None) -> ray.data.Dataset:
    """Decoded faces of ``rows`` as a lazy dataset of blocks of CHUNK_ROWS, in a random order where there is a seed."""
    rows = rows.select(["uri", "catalog", "part", "row"]).append_column(
        "index", pa.array(np.arange(len(rows)), pa.int64())
    )
    chunks = [rows.slice(start, CHUNK_ROWS).combine_chunks() for start in range(0, len(rows), CHUNK_ROWS)]
    dataset = ray.data.from_arrow(chunks)
    if seed is not None:
        dataset = dataset.randomize_block_order(seed=seed)  # waits for all of its input, so not behind the decoder
    return dataset.map_batches(decoder, batch_size=None, batch_format="pyarrow", zero_copy_batch=True, num_cpus=1)


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
        with torch.inference_mode(), autocast(torch.device(self.device)):
            views = [images_NCHW, images_NCHW.flip(3)] if self.has_mirrored else [images_NCHW]
            features = [
                torch.cat([below(model, batch.to(self.device)).float().cpu() for batch in view.split(FEATURE_BATCH)])
                for view in views
            ]
        return {"features": torch.stack(features, dim=1).numpy(), "index": block["index"]}


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
            num_bytes = decoded_bytes(len(rows), decoder.framing.size)
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
        features = below(copy.deepcopy(model).eval(), torch.zeros(1, 3, side, side, dtype=torch.uint8))
    return features.numel() * 4 * (2 if augmentation.flip else 1)


def fits_in_object_store(num_bytes: int) -> bool:
    """Whether decoded images fill less than half of the cluster's object store, so that epochs can share them."""
    return num_bytes < 0.5 * float(ray.cluster_resources().get("object_store_memory", 0))
