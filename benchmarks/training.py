"""Training's images and its steps: agescale against training_by_hand.py, same images, same network, in turn; ratios.

    python benchmarks/training.py --num-faces 4000 --repetitions 2

The first table is of what a training is fed with, float batches that are ready for the network, without a network; the
second of training one, the epochs after the first. Drawn faces and random weights: speed does not depend on either.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import ray
import torch
import tyro
from turns import in_turn, machine, run, tell

from agescale.config import TrainConfig
from agescale.faces.augment import AUGMENTATIONS, augment
from agescale.models import checkpoints
from agescale.runtime.cluster import start_ray
from agescale.synthetic import dataset
from agescale.training import plan as training_plan
from agescale.training.feeds import Feeder, from_the_next_epoch
from agescale.training.worker import SHUFFLE_BUFFER_IMAGES

EPOCHS = 3
BATCH = 64
Ways = dict[str, Callable[[], list[float]]]
"""Functions that give the seconds of each epoch."""
WANTED = {"DataLoader from files": (2.5, 15.0), "DataLoader, decoding as agescale does": (None, 5.0)}
"""Ratios of the first epoch and of later ones, augmentation off."""
TRAIN_WANTED = 1.5
AUGMENTED: tuple[Literal["none", "light"], ...] = ("none", "light")


@dataclass(frozen=True)
class BenchConfig:
    num_faces: int = 4000
    """Drawn faces to learn from."""
    picture_size: int = 200
    """Their side, pixels: 200 as chips have it, 600 and more as cameras and scrapers leave pictures."""
    image_size: int = 112
    """Side that the network looks at, pixels."""
    repetitions: int = 2
    """Runs of each, in turn."""


def main(config: BenchConfig) -> None:
    what = f"{config.num_faces:,} images of {config.picture_size} px at {config.image_size} px"
    print(f"{what}, CPU, {machine()} at the start", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset.write_dataset(folder / "faces", "utkface", config.num_faces, size=config.picture_size, num_broken=0)
        source = ("--source", folder / "faces", "--layout", "utkface", "--split", 0.98, 0.02, 0.0)
        run("jobs/catalog.py", *source, "--out", folder / "catalog")
        for augmentation in AUGMENTED:
            ways: Ways = {
                "DataLoader from files": by_hand(folder, config, augmentation, "pillow", "feed"),
                "DataLoader, decoding as agescale does": by_hand(folder, config, augmentation, "fast", "feed"),
                "agescale": partial(feed, folder, config, augmentation),
            }
            what, wanted = f"batches, augmentation {augmentation}", WANTED if augmentation == "none" else {}
            print_table(what, in_turn(ways, config.repetitions), config.num_faces, wanted)
        ways = {
            "DataLoader and a plain loop": by_hand(folder, config, "none", "pillow", "train"),
            "agescale": partial(train, folder, config),
        }
        wanted = {"DataLoader and a plain loop": (None, TRAIN_WANTED)}
        print_table("training mobilenet_v2", in_turn(ways, config.repetitions), config.num_faces, wanted)


def print_table(
    what: str,
    runs: dict[str, list[list[float]]],
    num_images: int,
    wanted: Mapping[str, tuple[float | None, float]],
) -> None:
    """Images a second in first and in later epochs, and how many times those of the others agescale's are."""
    first = {name: num_images / statistics.median(epochs[0] for epochs in of_one) for name, of_one in runs.items()}
    later = {
        name: num_images / statistics.median(seconds for epochs in of_one for seconds in epochs[1:])
        for name, of_one in runs.items()
    }
    print(f"\n| {what} | first epoch | agescale's by this | later epochs | agescale's by this |")
    print("| --- | --- | --- | --- | --- |")
    for name in runs:
        said = (f"{each[name]:,.0f} images/s | {each['agescale'] / each[name]:.2f}" for each in (first, later))
        print(f"| {name} | {' | '.join(said)} |", flush=True)
    for name in [each for each in runs if each != "agescale"]:
        least_of_first, least_of_later = wanted.get(name, (None, None))
        tell(f"{what}, first epoch, against {name}", first["agescale"] / first[name], least_of_first)
        tell(f"{what}, later epochs, against {name}", later["agescale"] / later[name], least_of_later)


def by_hand(
    folder: Path, config: BenchConfig, augmentation: str, decoding: str, purpose: str
) -> Callable[[], list[float]]:
    arguments = (folder / "faces", config.image_size, EPOCHS, augmentation, decoding, purpose)
    return lambda: [float(line) for line in run("benchmarks/training_by_hand.py", *arguments)[1].split()]


def feed(folder: Path, config: BenchConfig, augmentation: Literal["none", "light"]) -> list[float]:
    """Seconds of epochs of what a training in this process takes its batches from, the first with all decoding."""
    size, generator = config.image_size, torch.Generator().manual_seed(0)
    settings = TrainConfig(
        catalog=(str(folder / "catalog"),), image_size=size, augmentation=augmentation, out=str(folder / "fed")
    )
    selected = training_plan.select(settings)
    plan, splits, model = training_plan.build_plan(settings, selected)
    start_ray(min_cpus=1)
    started = time.monotonic()
    fed = Feeder(settings, plan.spec, selected.catalogs, None, use_gpu=False).images("train", splits["train"])
    batches = from_the_next_epoch(fed.dataset, settings.out).iterator()
    seconds = []
    for epoch in range(EPOCHS):
        for batch in batches.iter_torch_batches(
            batch_size=BATCH,
            local_shuffle_buffer_size=min(SHUFFLE_BUFFER_IMAGES, max(1, fed.num_images // 2)),
            local_shuffle_seed=epoch,
        ):
            images_NCHW = augment(batch["image"].permute(0, 3, 1, 2), AUGMENTATIONS[augmentation], generator, size)
            model.normalise(images_NCHW)
        seconds.append(time.monotonic() - started)
        started = time.monotonic()
    ray.shutdown()
    return seconds


def train(folder: Path, config: BenchConfig) -> list[float]:
    """Seconds of epochs of a whole job, as it tells them, without their validation; of the first one with the decoding
    for all of them, which comes before it."""
    out = folder / f"trained-{time.monotonic_ns()}"
    run(
        *("jobs/train.py", "--catalog", folder / "catalog", "--out", out, "--encoder", "torchvision/mobilenet_v2"),
        *("--weights", "", "--image-size", config.image_size, "--batch-size", BATCH, "--phases", f"all:{EPOCHS}@1e-3"),
        *("--augmentation", "none", "--patience", 100),
    )
    history = checkpoints.read(str(out / "last")).progress.history
    seconds = [config.num_faces / epoch["images_per_s"] for epoch in history]
    return [seconds[0] + history[0]["stage_seconds"]["images"], *seconds[1:]]


if __name__ == "__main__":
    main(tyro.cli(BenchConfig))
