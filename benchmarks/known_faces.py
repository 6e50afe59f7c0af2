"""What a photo costs on its way to a model: decoded alone, its faces known from the catalog, or found on the fly.

python benchmarks/known_faces.py --photos FOLDER --num-photos 300

Times are CPU time of the whole process, the least of several runs, taken in turn, beside the forward pass of a small
model: on a busy machine compare them, and read none as absolute. Says, too, how near the pixels are to one another.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torchvision
import tyro

from agescale.cataloging.driver import build_catalog
from agescale.config import CatalogConfig, CompactConfig
from agescale.faces import images
from agescale.faces.finding import FaceFinder, Found
from agescale.faces.geometry import FaceGeometry
from agescale.faces.images import Face, Photo
from agescale.faces.loading import Framing
from agescale.store.objects import read_pool
from agescale.tables import packed
from agescale.tables.catalogs import ROW_GROUP_ROWS, Catalog
from agescale.tables.compaction import compact
from agescale.tables.faces import known_faces

BATCH = 32
Shown = images.Pixels | None


@dataclass(frozen=True)
class Settings:
    photos: str
    """A folder of photos."""
    num_photos: int = 300
    repetitions: int = 3


def main(settings: Settings) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        source, out = Path(scratch, "photos"), str(Path(scratch, "catalog"))
        source.mkdir()
        files = sorted(path for path in Path(settings.photos).rglob("*") if images.is_image_name(path.name))
        for index, path in enumerate(files[:: max(1, len(files) // settings.num_photos)][: settings.num_photos]):
            os.symlink(path.resolve(), source / f"{index:06d}{path.suffix}")
        build_catalog(CatalogConfig(str(source), out, inspect=True, faces="largest"))
        compact(CompactConfig(out, f"{out}-whole"))  # into parts of full size, as those of many photos are
        compare(Catalog.open(f"{out}-whole"), settings.repetitions)


def compare(catalog: Catalog, repetitions: int) -> None:
    rows = catalog.read(["uri", "version", "size_bytes"])
    finder = FaceFinder(Framing(112, geometry=FaceGeometry()))
    model = torchvision.models.mobilenet_v2().eval().to(memory_format=torch.channels_last)
    inputs_NCHW = torch.zeros(BATCH, 3, 112, 112).to(memory_format=torch.channels_last)

    def load(knows: bool) -> Iterator[tuple[int, packed.Loaded]]:
        with read_pool() as pool:
            for index, each in enumerate(packed.load_faces(catalog.uri, rows, finder.framing, False, pool)):
                yield index, each if knows or not isinstance(each, Photo) else replace(each, faces=None)

    def look_up() -> None:
        """As training does, a block of rows after the other."""
        for start in range(0, len(rows), ROW_GROUP_ROWS):
            for _ in known_faces(catalog.uri, rows.slice(start, ROW_GROUP_ROWS), FaceGeometry()):
                pass

    def forward() -> None:
        with torch.inference_mode():
            for _ in range(len(rows) // BATCH):
                model(inputs_NCHW)

    works: dict[str, Callable[[], object]] = {
        "looking up what is known of its faces": look_up,
        "decoding alone": lambda: [type(each) for _, each in load(knows=False)],
        "faces known": lambda: [found for _, found in finder.find(load(knows=True))],
        "faces found on the fly": lambda: [found for _, found in finder.find(load(knows=False))],
        "the model's forward pass, 112 px": forward,
    }
    seconds = dict.fromkeys(works, (np.inf, np.inf))
    for _ in range(repetitions):
        for name, work in works.items():
            cpu, wall = time.process_time(), time.monotonic()
            work()
            taken = time.process_time() - cpu, time.monotonic() - wall
            seconds[name] = min(seconds[name], taken)
    for name, (cpu, wall) in seconds.items():
        per_photo = f"{1000 * cpu / len(rows):6.2f} ms of CPU a photo"
        print(f"{name}: {per_photo}, {len(rows) / cpu:.0f} photos a second of CPU, {len(rows) / wall:.0f} on the clock")
    tell_difference(*([pixels(found) for _, found in finder.find(load(knows))] for knows in (True, False)))


def tell_difference(known: list[Shown], on_the_fly: list[Shown]) -> None:
    alike = [one is None and other is None for one, other in zip(known, on_the_fly, strict=True)]
    both = [(one, other) for one, other in zip(known, on_the_fly, strict=True) if one is not None and other is not None]
    largest = [int(np.abs(one.astype(int) - other).max()) for one, other in both]
    print(
        f"{len(both)} photos with a face either way, {sum(alike)} with none; {largest.count(0)} with the "
        f"very same pixels, the others differ by at most {max(largest, default=0)} of 255"
    )


def pixels(found: Found) -> Shown:
    return found[0].pixels if isinstance(found, list) and isinstance(found[0], Face) else None


if __name__ == "__main__":
    main(tyro.cli(Settings))
