from __future__ import annotations

import csv
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agescale.synthetic.dataset import LAYOUTS, write_dataset
from agescale.synthetic.portraits import ETHNICITIES, GENDERS, draw_face, draw_portrait, draw_subject

IMAGE_EXTENSIONS = {".jpg", ".png", ".bmp"}


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def images_of(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in files_of(folder).items() if Path(name).suffix in IMAGE_EXTENSIONS}


def names_by_content(folder: Path) -> list[list[str]]:
    groups = defaultdict(list)
    for name, data in images_of(folder).items():
        groups[data].append(name)
    return sorted(sorted(names) for names in groups.values() if len(names) > 1)


def is_readable(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.load()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("gender", GENDERS)
@pytest.mark.parametrize("ethnicity", ETHNICITIES)
@pytest.mark.parametrize("age", [0, 15.5, 100])
def test_a_face_can_be_drawn_for_every_person_and_age(age: float, gender: str, ethnicity: str) -> None:
    image = draw_face(np.random.default_rng(7), age, gender, ethnicity, size=48)
    assert (image.mode, image.size) == ("RGB", (48, 48))
    assert np.asarray(image).std() > 10


def test_the_same_generator_draws_the_same_face() -> None:
    first, again, other = (
        draw_face(np.random.default_rng(seed), 40, "female", "Asian", size=64).tobytes() for seed in (1, 1, 2)
    )
    assert first == again != other


def test_age_changes_the_picture_more_the_further_it_is() -> None:
    subjects = [draw_subject(np.random.default_rng(seed), "male", "White") for seed in range(8)]

    def portraits(age: float) -> np.ndarray:
        drawn = [draw_portrait(np.random.default_rng(5), subject, age, 64) for subject in subjects]
        return np.stack([np.asarray(image, dtype=float) for image in drawn])

    near, far = (np.abs(portraits(age) - portraits(30)).mean() for age in (33, 85))
    assert 0 < near < 0.6 * far


def test_an_unknown_gender_or_ethnicity_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="gender is one of"):
        draw_face(np.random.default_rng(0), 30, "robot", "White")
    with pytest.raises(ValueError, match="ethnicity one of"):
        draw_face(np.random.default_rng(0), 30, "male", "Martian")


def test_an_unknown_layout_is_the_callers_mistake_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'zip' is not one of class_folders"):
        write_dataset(tmp_path / "new", "zip")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_dataset_is_byte_for_byte_the_same_for_a_seed(layout: str, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_dataset(tmp_path / name, layout, num_faces=12, seed=seed, size=32)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b") != files_of(tmp_path / "c")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_dataset_has_the_asked_faces_and_the_asked_broken_files(layout: str, tmp_path: Path) -> None:
    num_images = write_dataset(tmp_path, layout, num_faces=30, size=32, num_broken=5)
    assert num_images == len(images_of(tmp_path))
    assert num_images == 30 + 5 + (1 if layout == "unlabelled" else 2)
    assert sum(not is_readable(tmp_path / name) for name in images_of(tmp_path)) == 5
    assert "README.txt" in files_of(tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_extensions_tell_the_true_format_and_sizes_vary(layout: str, tmp_path: Path) -> None:
    write_dataset(tmp_path, layout, num_faces=20, size=64, num_broken=0)
    formats, sizes = defaultdict(int), set()
    for name in images_of(tmp_path):
        with Image.open(tmp_path / name) as image:
            assert image.format == {".jpg": "JPEG", ".png": "PNG", ".bmp": "BMP"}[Path(name).suffix]
            formats[image.format] += 1
            sizes.add(image.size)
    assert len(sizes) > 5
    assert all(48 <= side <= 80 for size in sizes for side in size)
    if layout == "utkface":
        assert set(formats) == {"JPEG"}
    else:
        assert (formats["PNG"], formats["BMP"]) == (1, 1)


def test_no_broken_files_and_a_single_face_are_possible(tmp_path: Path) -> None:
    assert write_dataset(tmp_path, "unlabelled", num_faces=1, size=32, num_broken=0) == 2


@pytest.mark.parametrize("seed", range(6))
def test_class_folders_are_the_life_stages_and_one_photo_stands_in_two(seed: int, tmp_path: Path) -> None:
    write_dataset(tmp_path, "class_folders", num_faces=60, seed=seed, size=32, num_broken=0)
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"child", "teenager", "adult", "senior"}
    folders = sorted(len({Path(name).parent for name in names}) for names in names_by_content(tmp_path))
    assert folders == [1, 2]


def test_csv_names_every_image_once_with_an_age_and_a_split(tmp_path: Path) -> None:
    write_dataset(tmp_path, "csv", num_faces=80, size=32)
    with open(tmp_path / "labels.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file_name", "age", "gender", "ethnicity", "subject", "split"]
    assert sorted(row["file_name"] for row in rows) == sorted(images_of(tmp_path))
    assert all(0 <= int(row["age"]) <= 95 for row in rows)
    assert {row["gender"] for row in rows} == set(GENDERS)
    assert {row["ethnicity"] for row in rows} == set(ETHNICITIES)
    assert {row["split"] for row in rows} == {"train", "val", "test"}

    ages, splits = defaultdict(set), defaultdict(set)
    for row in rows:
        ages[row["subject"]].add(row["age"])
        splits[row["subject"]].add(row["split"])
    assert 5 < sum(len(of_subject) > 1 for of_subject in ages.values()) < 40
    assert all(len(of_subject) == 1 for of_subject in splits.values())

    age_of = {row["file_name"]: row["age"] for row in rows}
    pairs = [names for names in names_by_content(tmp_path) if is_readable(tmp_path / names[0])]
    assert sorted(len({age_of[name] for name in names}) for names in pairs) == [1, 2]


def test_utkface_names_hold_age_gender_race_and_time(tmp_path: Path) -> None:
    write_dataset(tmp_path, "utkface", num_faces=40, size=32)
    parsed = [re.fullmatch(r"(\d+)_([01])_([0-3])_\d{17}\.jpg\.chip\.jpg", name) for name in images_of(tmp_path)]
    assert all(parsed)
    assert {match[2] for match in parsed if match} == {"0", "1"}
    assert {match[3] for match in parsed if match} == {"0", "1", "2", "3"}
    pairs = [names for names in names_by_content(tmp_path) if is_readable(tmp_path / names[0])]
    assert sorted(len({name.split("_")[0] for name in names}) for names in pairs) == [1, 2]


def test_unlabelled_photos_lie_in_sub_folders(tmp_path: Path) -> None:
    write_dataset(tmp_path, "unlabelled", num_faces=9, size=32)
    assert all(re.fullmatch(r".+/photo-\d{6}\.(jpg|png|bmp)", name) for name in images_of(tmp_path))
    assert len({Path(name).parent for name in images_of(tmp_path)}) == 3
