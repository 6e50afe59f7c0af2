"""What the framing of a photo does to the age that a model tells, with its face found and without.

python benchmarks/framing.py CHECKPOINT PHOTOS --num-photos 40

Of each photo (spread over the folder) squares are cut out: as it is, shifted, with the face smaller or larger, turned,
and all at once, by the same draws for each photo. What lies beyond a photo's edge is its mirror image: tight chips have
nothing else to bring in. The same squares go through ``predict_images`` with ``faces`` none and largest. Printed is the
standard deviation of a face's age over its framings, years: its mean and its 90th percentile over the faces. Framings
in which no face was found count in neither column, and are told; photos without a face as they are are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tyro
from tyro.conf import Positional

from agescale.faces import images
from agescale.faces.alignment import Pixels, warp
from agescale.models.framing import Which
from agescale.models.inference import Source, find_device, predict_images
from agescale.models.predictor import Predictor

SHIFTS = (-0.1, -0.05, 0.05, 0.1)
SCALES = (0.8, 0.9, 1.1, 1.2, 1.3)
TURNS = (-15.0, -7.5, 7.5, 15.0)
NUM_DRAWN = 8
REACH = 1.1
"""From the middle of a photo to the farthest pixel that is shown, in sides of the square."""


@dataclass(frozen=True)
class Framing:
    """The face shifted by parts of the square's side, so much larger, turned by degrees."""

    kind: str
    x: float = 0.0
    y: float = 0.0
    scale: float = 1.0
    turn: float = 0.0


@dataclass(frozen=True)
class Settings:
    checkpoint: Positional[str]
    photos: Positional[str]
    """A folder of photos of one face each, in the middle."""
    num_photos: int = 40
    crop: float = 1.0
    """Side of the square as it is, in shorter sides of the photo. Above 1 its border is mirrored: with 1.4 a chip of
    UTKFace's lies in it as a model with a margin of 0.2 is used to."""
    device: str = "auto"


def main(settings: Settings) -> None:
    paths = sorted(path for path in Path(settings.photos).rglob("*") if images.is_image_name(path.name))
    chosen = paths[:: max(1, len(paths) // settings.num_photos)][: settings.num_photos]
    drawn = np.random.default_rng(0).uniform(-1, 1, (NUM_DRAWN, 4))
    framings = [
        Framing("as it is"),
        *(Framing("shifted", x=shift) for shift in SHIFTS),
        *(Framing("shifted", y=shift) for shift in SHIFTS),
        *(Framing("scaled", scale=scale) for scale in SCALES),
        *(Framing("turned", turn=turn) for turn in TURNS),
        *(Framing("all at once", 0.1 * x, 0.1 * y, 1.05 + 0.25 * scale, 15 * turn) for x, y, scale, turn in drawn),
    ]
    none, largest = (ages_of(settings, chosen, framings, faces) for faces in ("none", "largest"))
    is_known = np.isfinite(none) & np.isfinite(largest)
    is_face = is_known[:, 0]
    if not is_face.any():
        raise ValueError(f"{settings.photos}: no photo that both ways tell an age of")
    print(
        f"{is_face.sum()} of {len(chosen)} photos, {len(framings)} framings each; no face found in "
        f"{(~is_known[is_face]).sum()} of {is_known[is_face].size}"
    )
    print(f"{'years':16}{'none':>14}{'largest':>14}  largest / none")
    for kind in ("shifted", "scaled", "turned", "all at once", "any"):
        is_shown = np.array([kind in (each.kind, "any") or each.kind == "as it is" for each in framings])
        is_counted = is_known[is_face] & is_shown
        means = [np.std(ages[is_face], axis=1, where=is_counted) for ages in (none, largest)]
        said = [f"{spread.mean():.2f} ({np.percentile(spread, 90):.2f})" for spread in means]
        print(f"{kind:16}{said[0]:>14}{said[1]:>14}  {means[1].mean() / means[0].mean():.2f}")


def ages_of(settings: Settings, chosen: list[Path], framings: list[Framing], faces: Which) -> npt.NDArray[np.float64]:
    """Years (photos, framings), NaN where no face was found."""
    predictor = Predictor(settings.checkpoint, find_device(settings.device), faces=faces)
    sources = (Source(picture=pixels) for path in chosen for pixels in cut_out(path, framings, settings.crop))
    ages = predict_images(predictor, sources)["age"].to_numpy(zero_copy_only=False)
    return ages.reshape(len(chosen), len(framings)).astype(np.float64)


def cut_out(path: Path, framings: list[Framing], crop: float) -> Iterator[Pixels]:
    """Squares of one size, pixels, for each framing."""
    photo = images.load_photo(path.read_bytes()).pixels
    height, width = photo.shape[:2]
    side = round(crop * min(height, width))
    borders = [max(0, math.ceil(REACH * side - length / 2)) for length in (height, width)]
    mirrored = np.pad(photo, [(borders[0],) * 2, (borders[1],) * 2, (0, 0)], mode="symmetric")
    centre = np.array([width / 2 + borders[1], height / 2 + borders[0]])
    for each in framings:
        cosine, sine = (each.scale * part(math.radians(each.turn)) for part in (math.cos, math.sin))
        turn = np.array([[cosine, -sine], [sine, cosine]])
        place = side * (np.array([each.x, each.y]) + 0.5)
        yield warp(mirrored, np.column_stack([turn, place - turn @ centre]), side)


if __name__ == "__main__":
    main(tyro.cli(Settings))
