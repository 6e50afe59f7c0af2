"""How many faces are found, of whom, what is taken for a face, and what it costs.

python benchmarks/face_detection.py --utkface utkface.tar --appa-real appa_real.tar --number 2000 --faceless FOLDER

A hit on a chip of UTKFace is a face whose box holds the middle of the chip; on a photo of APPA-REAL, any face. Shares
come with Wilson's 95 % intervals. Pictures without a face are generated ones, tiles of the two photos that scikit-learn
brings, and whatever lies in ``--faceless``. Photos of several people are composed of two to six chips on smooth noise,
and looked at again at another size and JPEG quality: is every face found once, and in the same order?

Times are CPU time of one thread, the least of several runs, beside those of a model's forward pass, taken in turn: on a
busy machine compare the two, and read neither as absolute.
"""

from __future__ import annotations

import csv
import io
import tarfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torchvision
import tyro
from sklearn.datasets import load_sample_images

from agescale.evaluation.intervals import wilson_interval
from agescale.faces import images
from agescale.faces.alignment import Pixels, align
from agescale.faces.detection import RetinaFaceDetector
from agescale.faces.geometry import FaceGeometry, FoundFace

BATCH = 64
GENDERS = ("male", "female")
ETHNICITIES = ("White", "Black", "Asian", "Indian", "Others")
NUM_TIMED = 32
NUM_RUNS = 5
NUM_GROUPS = 60


@dataclass(frozen=True)
class Settings:
    utkface: str
    appa_real: str
    number: int = 2000
    """Images of each set, spread over it."""
    faceless: str = ""
    """A folder of pictures without a face."""


def main(settings: Settings) -> None:
    detector = RetinaFaceDetector(FaceGeometry())
    hits: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for name, pictures in (
        ("UTKFace", chips(settings.utkface, settings.number)),
        ("APPA-REAL", photos(settings.appa_real, settings.number)),
    ):
        timed: list[Pixels] = []
        for batch in batches(pictures):
            for (image, parts), faces in zip(batch, detector.detect([image for image, _ in batch]), strict=True):
                is_hit = any(holds_the_middle(face, image) for face in faces) if name == "UTKFace" else bool(faces)
                for part in ("all", *parts):
                    hits[name, part].append(is_hit)
            timed = timed or [image for image, _ in batch[:NUM_TIMED]]
        print_shares(name, {part: said for (where, part), said in hits.items() if where == name})
        print_times(name, timed, detector)
    print_alarms(detector, settings.faceless)
    people = [image for image, _ in chips(settings.utkface, 200)]
    for size in (detector.geometry.detection_size, 640):
        print_groups(RetinaFaceDetector(FaceGeometry(detection_size=size)), people)


Row = TypeVar("Row")
Labelled = tuple[Pixels, tuple[str, ...]]


def chips(path: str, number: int) -> Iterator[Labelled]:
    with tarfile.open(path) as archive:
        for member in spread([one for one in archive if one.isfile()], number):
            said = Path(member.name).name.split("_")
            if len(said) == 4 and all(part.isdigit() for part in said[:3]):
                age, gender, ethnicity = (int(part) for part in said[:3])
                yield read(archive, member), (decade(age), GENDERS[gender], ETHNICITIES[ethnicity])


def photos(path: str, number: int) -> Iterator[Labelled]:
    with tarfile.open(path) as archive:
        labels = archive.extractfile("appa_real/labels.csv")
        assert labels is not None
        for row in spread([*csv.DictReader(io.TextIOWrapper(labels))], number):
            member = archive.getmember(f"appa_real/final_files/{row['file_name']}")
            yield read(archive, member), (decade(float(row["real_age"])),)


def spread(rows: list[Row], number: int) -> list[Row]:
    chosen = np.random.default_rng(0).permutation(len(rows))[:number]
    return [rows[index] for index in sorted(chosen)]


def read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Pixels:
    file = archive.extractfile(member)
    assert file is not None
    return np.asarray(images.Image.open(file).convert("RGB"))


def decade(age: float) -> str:
    return f"{10 * int(age // 10)}-{10 * int(age // 10) + 9}" if age < 80 else "80 and over"


def batches(pictures: Iterator[Labelled]) -> Iterator[list[Labelled]]:
    batch = []
    for picture in pictures:
        batch.append(picture)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def holds_the_middle(face: FoundFace, image: Pixels) -> bool:
    x, y = image.shape[1] / 2, image.shape[0] / 2
    return face.box[0] < x < face.box[2] and face.box[1] < y < face.box[3]


def print_shares(name: str, hits: dict[str, list[bool]]) -> None:
    print(f"\n| {name} | found | of | share | 95 % interval |\n| --- | --- | --- | --- | --- |")
    order = ("all", *GENDERS, *ETHNICITIES)
    for part in sorted(hits, key=lambda part: (part not in order, order.index(part) if part in order else 0, part)):
        num_hits, num_rows = sum(hits[part]), len(hits[part])
        low, high = wilson_interval(num_hits, num_rows)
        print(f"| {part} | {num_hits:,} | {num_rows:,} | {num_hits / num_rows:.4f} | {low:.4f}..{high:.4f} |")


def print_times(name: str, timed: list[Pixels], detector: RetinaFaceDetector) -> None:
    torch.set_num_threads(1)
    model = torchvision.models.mobilenet_v2().eval().to(memory_format=torch.channels_last)
    inputs_NCHW = torch.zeros(32, 3, 112, 112).to(memory_format=torch.channels_last)
    once = RetinaFaceDetector(FaceGeometry(retry_size=0, landmark_size=0))
    found = [(image, faces[0]) for image, faces in zip(timed, detector.detect(timed), strict=True) if faces]

    def forward() -> None:
        with torch.inference_mode():
            model(inputs_NCHW)

    works: dict[str, tuple[int, Callable[[], object]]] = {
        "the model's forward pass, 112 px": (32, forward),
        "finding, all of it": (len(timed), lambda: detector.detect(timed)),
        "  of it the first look": (len(timed), lambda: once.detect(timed)),
        "aligning": (len(found), lambda: [align(image, face, detector.geometry) for image, face in found]),
    }
    least = dict.fromkeys(works, float("inf"))
    for _ in range(NUM_RUNS):
        for work, (number, run) in works.items():
            started = time.thread_time()
            run()
            least[work] = min(least[work], (time.thread_time() - started) / number)
    for work, seconds in least.items():
        print(f"{name}: {work}: {1000 * seconds:.2f} ms an image")


def print_alarms(detector: RetinaFaceDetector, folder: str) -> None:
    sources = {"generated": [*generated()], "tiles of two photos": [*tiles()]}
    if folder:
        files = [path for path in sorted(Path(folder).rglob("*")) if images.is_image_name(path.name)]
        sources["of --faceless"] = [np.asarray(images.Image.open(path).convert("RGB")) for path in files]
    for name, pictures in sources.items():
        found = detector.detect(pictures)
        scores = [round(max(face.score for face in faces), 2) for faces in found if faces]
        print(f"pictures without a face, {name}: {len(scores)} of {len(pictures)} taken for one {scores}")


def print_groups(detector: RetinaFaceDetector, people: list[Pixels]) -> None:
    counts: Counter[str] = Counter()
    for seed in range(NUM_GROUPS):
        photo, places = compose(people, seed)
        found = detector.detect([photo, encoded_again(photo, seed)])
        once = [sum(is_at(face, place, 1.0) for face in found[0]) for place in places]
        scale = encoded_again(photo, seed).shape[0] / photo.shape[0]
        orders = [
            [index for face in faces for index, place in enumerate(places) if is_at(face, place, factor)]
            for faces, factor in zip(found, (1.0, scale), strict=True)
        ]
        counts["faces"] += len(places)
        counts["found once"] += sum(number == 1 for number in once)
        counts["missed"] += sum(number == 0 for number in once)
        counts["found elsewhere"] += len(found[0]) - sum(once)
        counts["photos with the same faces again, in the same order"] += orders[0] == orders[1]
    what = ", ".join(f"{number} {name}" for name, number in counts.items())
    print(f"{NUM_GROUPS} composed photos at {detector.geometry.detection_size} px: {what}")


Place = tuple[int, int, int]
"""Left, top and side of a chip."""


def compose(people: list[Pixels], seed: int) -> tuple[Pixels, list[Place]]:
    """A photo of 900x600 pixels with two to six chips of 80 to 280 pixels, one in each of its six parts."""
    rng = np.random.default_rng(seed)
    ground = images.Image.fromarray(next(islice(generated(), 4 * (seed % 20), None))).resize((900, 600))
    places = []
    for part in rng.permutation(6)[: rng.integers(2, 7)]:
        side = int(rng.uniform(80, 280))
        left, top = 300 * (part % 3) + rng.integers(0, 300 - side), 300 * (part // 3) + rng.integers(0, 300 - side)
        chip = images.Image.fromarray(people[rng.integers(len(people))]).resize((side, side))
        ground.paste(chip, (int(left), int(top)))
        places.append((int(left), int(top), side))
    return np.asarray(ground), places


def encoded_again(photo: Pixels, seed: int) -> Pixels:
    rng = np.random.default_rng(seed)
    scale, quality = rng.uniform(0.6, 1.4), int(rng.integers(40, 95))
    file = io.BytesIO()
    images.Image.fromarray(photo).resize((round(900 * scale), round(600 * scale))).save(file, "JPEG", quality=quality)
    return np.asarray(images.Image.open(file))


def is_at(face: FoundFace, place: Place, scale: float) -> bool:
    left, top, side = (scale * part for part in place)
    x, y = face.centre
    is_near = abs(x - left - side / 2) < 0.3 * side and abs(y - top - side / 2) < 0.3 * side
    return is_near and 0.4 * side < face.side < 1.4 * side


def generated() -> Iterator[Pixels]:
    """Smooth noise of several grains and colours, stripes, checks and discs."""
    for seed in range(80):
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[:240, :240] / 240
        frequency, phase = rng.uniform(1, 25, 2), rng.uniform(0, 6, 3)
        if seed % 4 == 0:
            power = 1 / np.maximum(np.hypot(*np.meshgrid(np.fft.fftfreq(240), np.fft.fftfreq(240))), 1 / 240)
            spectra = np.fft.fft2(rng.normal(size=(3, 240, 240))) * power ** rng.uniform(0.5, 1.5)
            values = np.fft.ifft2(spectra).real.transpose(1, 2, 0)
        elif seed % 4 == 1:
            values = np.stack([np.sin(6 * (frequency[0] * x + frequency[1] * y) + one) for one in phase], 2)
        elif seed % 4 == 2:
            values = np.stack([np.sign(np.sin(6 * frequency[0] * x) * np.sin(6 * frequency[1] * y + 1))] * 3, 2)
        else:
            discs = [np.hypot(x - rng.random(), y - rng.random()) < rng.uniform(0.03, 0.2) for _ in range(12)]
            values = sum(disc[..., None] * rng.normal(size=3) for disc in discs) + np.zeros((240, 240, 3))
        low, high = values.min(), values.max()
        yield (255 * (values - low) / max(high - low, 1e-9)).astype(np.uint8)


def tiles() -> Iterator[Pixels]:
    for photo in load_sample_images().images:  # a temple, a flower
        for side in (427, 200, 100):
            for top in range(0, photo.shape[0] - side + 1, side):
                for left in range(0, photo.shape[1] - side + 1, side):
                    yield np.ascontiguousarray(photo[top : top + side, left : left + side])


if __name__ == "__main__":
    main(tyro.cli(Settings))
