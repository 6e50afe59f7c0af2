"""Drawn faces as a folder of files with labels, in each of the layouts that catalogs read."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.random import Generator, default_rng

from agescale.ages.groups import AgeGroups
from agescale.store import objects
from agescale.synthetic.portraits import ETHNICITIES, GENDERS, README, README_NAME, draw_portrait, draw_subject

LAYOUTS = ("class_folders", "csv", "utkface", "unlabelled")
MAX_DRAWN_AGE = 95
JPEG_QUALITY = 90


@dataclass(frozen=True)
class _Label:
    age: int  # years
    gender: str
    ethnicity: str
    subject: int
    split: str


def claim(folder: str) -> None:
    """Raises ValueError, before anything is written, where other files than drawn ones stand in a folder."""
    stranger, readme = objects.any_name(folder), Path(folder, README_NAME)
    if stranger and not (readme.is_file() and readme.read_bytes() == README.encode()):
        raise ValueError(
            f"--out {folder}: there are other files already ({stranger}), and drawn faces have a folder of their own; "
            "give another --out"
        )


def write_dataset(
    folder: Path | str, layout: str, num_faces: int = 600, seed: int = 0, size: int = 128, num_broken: int = 4
) -> int:
    """Writes faces of about ``size`` pixels under ``folder``, byte for byte the same for the same arguments.

    The layouts: ``class_folders`` (child/ teenager/ adult/ senior/: the ``life-stages`` preset), ``csv`` (faces/, and
    labels.csv whose ``file_name`` is relative to ``folder``), ``utkface`` (the age in the name), ``unlabelled`` (a few
    sub-folders). To ``num_faces`` faces come ``num_broken`` files that do not decode, one photo stored twice and, where
    there are labels, one stored under two that disagree; a README.txt that is no image; one PNG and one BMP where the
    layout does not fix the extension. What already stood in ``folder`` stays, unless overwritten.

    Returns the number of files with an image's extension. Raises ValueError for an unknown layout.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r} is not one of {', '.join(LAYOUTS)}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / README_NAME).write_text(README, encoding="utf-8")
    rows: list[tuple[str, _Label]] = []

    def save(label: _Label, data: bytes, extension: str = "jpg") -> None:
        name = _name(layout, len(rows), label, extension)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
        rows.append((name, label))

    labels = _draw_labels(num_faces, seed, max_per_subject=3 if layout == "csv" else 1)
    for index, label in enumerate(labels):
        extension = {1: "png", 2: "bmp"}.get(index, "jpg") if layout != "utkface" else "jpg"
        data = _encode_face(label, index, seed, size, extension)
        save(label, data, extension)
        if index == num_faces // 3:
            save(label, data, extension)
        if index == num_faces // 2 and layout != "unlabelled":
            save(replace(label, age=(label.age + 45) % 90), data, extension)
    for index in range(num_broken):
        label = labels[index % num_faces]
        whole = _encode_face(label, num_faces + index, seed, size, "jpg")
        save(label, (b"", whole[: len(whole) // 2], b"This is a text, not a photo.\n", whole[::-1])[index % 4])
    if layout == "csv":
        with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["file_name", "age", "gender", "ethnicity", "subject", "split"])
            for name, it in rows:
                writer.writerow([name, it.age, it.gender, it.ethnicity, f"subject-{it.subject:05d}", it.split])
    return len(rows)


def _draw_labels(num_faces: int, seed: int, max_per_subject: int) -> list[_Label]:
    """All faces of a subject stand in one split; most subjects have one face, some up to ``max_per_subject``."""
    rng = default_rng([seed, 0])
    labels: list[_Label] = []
    for subject in range(num_faces):
        gender, ethnicity = str(rng.choice(GENDERS)), str(rng.choice(ETHNICITIES, p=(0.4, 0.2, 0.2, 0.2)))
        split = str(rng.choice(("train", "val", "test"), p=(0.8, 0.1, 0.1)))
        num_ages = int(rng.integers(2, max_per_subject + 1)) if max_per_subject > 1 and rng.random() < 0.25 else 1
        labels += [_Label(_draw_age(rng), gender, ethnicity, subject, split) for _ in range(num_ages)]
    return labels[:num_faces]


def _draw_age(rng: Generator) -> int:
    """All ages, and more young adults, as in collections of photos."""
    ages = (rng.normal(30, 8), rng.uniform(0, 18), rng.uniform(18, MAX_DRAWN_AGE + 1), rng.normal(58, 10))
    return int(np.clip(ages[rng.choice(4, p=(0.45, 0.2, 0.25, 0.1))], 0, MAX_DRAWN_AGE))


def _encode_face(label: _Label, index: int, seed: int, size: int, extension: str) -> bytes:
    subject = draw_subject(default_rng([seed, 1, label.subject]), label.gender, label.ethnicity)
    rng, buffer = default_rng([seed, 2, index]), io.BytesIO()
    portrait = draw_portrait(rng, subject, label.age + rng.random(), round(size * rng.uniform(0.75, 1.25)))
    portrait.save(buffer, {"jpg": "JPEG", "png": "PNG", "bmp": "BMP"}[extension], quality=JPEG_QUALITY)
    return buffer.getvalue()


def _name(layout: str, index: int, label: _Label, extension: str) -> str:
    if layout == "class_folders":
        return f"{AgeGroups.parse('life-stages').name_of(label.age)}/face-{index:05d}.{extension}"
    if layout == "csv":
        return f"faces/face-{index:05d}.{extension}"
    if layout == "utkface":  # age, 0 male or 1 female, race, time
        gender, race = 1 - GENDERS.index(label.gender), ETHNICITIES.index(label.ethnicity)
        return f"{label.age}_{gender}_{race}_{20170116000000000 + 1009 * index}.jpg.chip.jpg"
    return f"{('2023', '2024', '2024/summer')[index % 3]}/photo-{index:06d}.{extension}"
