"""What training processes are fed: rows of a split in, a Ray Dataset of decoded images, or of their features, out."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pyarrow as pa
import ray
import ray.data

from agescale.config import TrainConfig
from agescale.faces.augment import AUGMENTATIONS, source_size
from agescale.faces.loading import Framing
from agescale.models import checkpoints
from agescale.models.framing import framing_of
from agescale.models.spec import ModelSpec
from agescale.store import paths
from agescale.tables.catalogs import Catalog
from agescale.training.failures import InvalidSettings
from agescale.training.ingest import (
    FaceDecoder,
    FeatureMaker,
    decoded_bytes,
    decoded_dataset,
    fits_in_object_store,
    held,
    held_faces,
)


class Feed(NamedTuple):
    """``is_held``: in the object store for all epochs, rather than made in each."""

    dataset: ray.data.Dataset
    num_images: int
    is_held: bool


@dataclass(frozen=True)
class Feeder:
    """Makes the feeds of one training."""

    config: TrainConfig
    spec: ModelSpec
    catalogs: tuple[Catalog, ...]
    shared_faces: Any  # the actor that holds decoded images for all trainings of a sweep, or None
    use_gpu: bool

    def images(self, split: str, rows: pa.Table) -> Feed:
        """Decoded faces, held where they fit."""
        decoder, seed = self._decoder(split), self._seed(split)
        if not self._is_held(rows, decoder):
            return Feed(decoded_dataset(rows, decoder, seed), len(rows), False)
        return self._held(self._held_faces(split, rows, decoder), split, rows)

    def features(self, split: str, rows: pa.Table, weights: ray.ObjectRef) -> Feed:
        """What a model with these weights makes of the faces, for its top; held."""
        decoder = self._decoder(split)
        if self.shared_faces is not None and self._is_held(rows, decoder):
            images = self._held_faces(split, rows, decoder)
        else:
            images = decoded_dataset(rows, decoder, seed=None)
        has_mirrored = split == "train" and AUGMENTATIONS[self.config.augmentation].flip > 0
        maker = FeatureMaker(self.spec, weights, "cuda" if self.use_gpu else "cpu", has_mirrored)
        num_gpus = self.config.gpus_per_worker if self.use_gpu else None
        features = images.map_batches(maker, batch_size=None, num_cpus=1, num_gpus=num_gpus)
        verb = f"features of the {split} split, once for all epochs" if self.shared_faces is None else ""
        return self._held(held(features, len(rows), verb), split, rows)

    def _decoder(self, split: str) -> FaceDecoder:
        config = self.config
        size = config.image_size
        if split == "train":
            size = source_size(size, AUGMENTATIONS[config.augmentation])
        seen = [labelled_framing(self.spec, catalog) for catalog in self.catalogs]
        use_packed = tuple(catalog.holds_packed(each) for catalog, each in zip(self.catalogs, seen, strict=True))
        return FaceDecoder(config.catalog, tuple(_resized(each, size) for each in seen), use_packed)

    def _seed(self, split: str) -> ray.data.RandomSeedConfig | None:
        is_train = split == "train"
        return ray.data.RandomSeedConfig(seed=self.config.seed, reseed_after_execution=True) if is_train else None

    def _is_held(self, rows: pa.Table, decoder: FaceDecoder) -> bool:
        fits = fits_in_object_store(decoded_bytes(len(rows), decoder.size))
        return self.config.cache == "always" or (self.config.cache == "auto" and fits)

    def _held_faces(self, split: str, rows: pa.Table, decoder: FaceDecoder) -> ray.data.Dataset:
        if self.shared_faces is not None:
            shared: ray.data.Dataset = ray.get(self.shared_faces.decode.remote(split, rows, decoder))
            return shared
        return held_faces(rows, decoder, f"decoding the {split} split, once for all epochs")

    def _held(self, dataset: ray.data.Dataset, split: str, rows: pa.Table) -> Feed:
        num_images = int(dataset.count())
        if not num_images:
            raise InvalidSettings(
                f"none of the {len(rows):,} images of the {split} split can be read, {rows['uri'][0]} first"
            )
        if num_images < len(rows):
            why = "have no face, or cannot be read" if self.spec.faces else "cannot be read"
            print(f"{len(rows) - num_images:,} of the {split} split's {len(rows):,} images {why}: left out")
        seed = self._seed(split)
        return Feed(dataset.randomize_block_order(seed=seed) if seed else dataset, num_images, True)


def labelled_framing(spec: ModelSpec, catalog: Catalog) -> Framing:
    """What a model is shown of a catalog's photos in training; of one whose labels are of single faces all of these."""
    return framing_of(spec, "all" if catalog.has_boxes else "auto")


def _resized(framing: Framing, size: int) -> Framing:
    geometry = framing.geometry
    return replace(framing, size=size, geometry=replace(geometry, size=size) if geometry else None)


def from_the_next_epoch(dataset: ray.data.Dataset, out: str) -> ray.data.Dataset:
    """The images of training, such that their order in each epoch is that of a run which nothing has disturbed. Ray
    Train asks for them whenever it starts training processes; their order is that of seed and number of the pass."""
    dataset.context.execution_options = in_order()  # where Ray Train deals out no blocks, but this process takes them
    last = paths.join(out, "last")
    dataset.context._execution_idx = checkpoints.read(last).progress.epochs_done if checkpoints.exists(last) else 0
    return dataset


def in_order() -> ray.data.ExecutionOptions:
    """This process's options, but that blocks come, and are dealt out, in their order and not as they are ready."""
    options = copy.copy(ray.data.DataContext.get_current().execution_options)
    options.preserve_order = True
    return options
