"""Labels from folders, names and CSVs as people really have them."""

from __future__ import annotations

import math

import pytest

from agescale.age_groups import AgeGroups
from agescale.layouts import LAYOUTS, Label, Labels, LabelSource, class_folders, csv_file, utkface

LIFE_STAGES = AgeGroups.parse("life-stages")


def read_csv(text: str | bytes, paths: list[str], age_groups: AgeGroups | None = None, **columns: str) -> Labels:
    data = text if isinstance(text, bytes) else text.encode()
    return csv_file(paths, LabelSource(age_groups, data, **columns))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_answers_for_every_path(layout: str) -> None:
    paths = ["child/a.jpg", "b c.jpg", "Zoë/34_1_0_20170109142408075.jpg", "x/y/z.png"]
    labels = LAYOUTS[layout](paths, LabelSource(csv_bytes=b"file_name,age\nb c.jpg,3\n"))
    assert set(labels.by_path) == set(paths)
    for label in labels.by_path.values():
        assert label.is_labelled or label.error or label == Label()


# class folders


def test_folders_named_by_ranges_are_groups_with_bounds() -> None:
    labels = class_folders(["25-49/a.jpg", "0-24/b/c.jpg", "75+/d.jpg", "50-74/e.jpg"], LabelSource())
    assert labels.by_path["25-49/a.jpg"] == Label(age_low=25, age_high=50)
    assert labels.by_path["0-24/b/c.jpg"] == Label(age_low=0, age_high=25)
    assert labels.by_path["75+/d.jpg"] == Label(age_low=75, age_high=math.inf)
    assert labels.age_groups is not None
    assert labels.age_groups.names == ("0-24", "25-49", "50-74", "75+")


def test_folders_named_by_words_are_groups_without_bounds() -> None:
    labels = class_folders(["YOUNG/a.jpg", "OLD/b.jpg", "60+/c.jpg"], LabelSource())
    assert labels.by_path["60+/c.jpg"] == Label(group="60+")
    assert labels.by_path["OLD/b.jpg"] == Label(group="OLD")
    assert labels.age_groups is not None
    assert not labels.age_groups.is_bounded


def test_one_folder_an_age_gives_exact_ages_and_no_groups() -> None:
    labels = class_folders(["001/a.jpg", "34/b.jpg", "110/c.jpg"], LabelSource())
    assert labels.by_path["001/a.jpg"] == Label(age_low=1, age_high=2)
    assert labels.by_path["110/c.jpg"] == Label(age_low=110, age_high=111)
    assert labels.age_groups is None


def test_age_groups_give_folders_their_bounds_and_refuse_unknown_ones() -> None:
    paths = ["child/a.jpg", "34/b.jpg", "15-17/c.jpg", "toddler/d.jpg", "e.jpg"]
    labels = class_folders(paths, LabelSource(LIFE_STAGES)).by_path
    assert labels["child/a.jpg"] == Label(age_low=0, age_high=13)
    assert labels["34/b.jpg"] == Label(age_low=34, age_high=35)
    assert labels["15-17/c.jpg"] == Label(age_low=15, age_high=18)
    assert labels["toddler/d.jpg"].error == ("class 'toddler' is none of the age groups child, teenager, adult, senior")
    assert labels["e.jpg"] == Label(error="in no class folder")
    assert class_folders(["e.jpg"], LabelSource()).age_groups is None


# UTKFace


@pytest.mark.parametrize(
    "name",
    [
        "24_0_1_20170116220224657.jpg.chip.jpg",
        "folder/24_0_1_20170116220224657.jpg",
        "24_0_1_20170116220224657 .jpg.chip.jpg",
        "24_0_1_20170116220224657jpg.chip.jpg",
        "24_0_1_20170116220224657.pg.chip.jpg",
        "24_0_1_2017011022340900.jpg.chip.jpg",
        "24_0_1_201701161846515488.jpg.chip.jpg",
    ],
)
def test_utkface_names_with_all_fields_are_read_whatever_their_ends_look_like(name: str) -> None:
    assert utkface([name], LabelSource()).by_path[name] == Label(24, 25, gender="male", ethnicity="Black")


@pytest.mark.parametrize(
    ("name", "age"),
    [
        ("61_1_20170109142408075.jpg.chip.jpg", 61),
        ("39_1_20170116174525125.jpg.chip.jpg", 39),
        ("61_3_20170109150557335.jpg.chip.jpg", 61),
        ("7_5_9_20170109150557335.jpg", 7),
    ],
)
def test_utkface_names_that_lack_a_field_keep_their_age_and_say_so(name: str, age: int) -> None:
    label = utkface([name], LabelSource()).by_path[name]
    assert (label.age_low, label.age_high, label.gender, label.ethnicity) == (age, age + 1, None, None)
    assert label.error is not None
    assert label.error.startswith("malformed name")


@pytest.mark.parametrize("name", ["portrait.jpg", "_1_0_20170109150557335.jpg", "121_1_0_20170109150557335.jpg"])
def test_utkface_names_without_an_age_are_unlabelled(name: str) -> None:
    label = utkface([name], LabelSource()).by_path[name]
    assert not label.is_labelled
    assert label.error


def test_the_genders_and_ethnicities_of_utkface_are_words() -> None:
    names = ["1_0_0_20170109150557335.jpg", "116_1_4_20170109150557335.jpg"]
    labels = list(utkface(names, LabelSource()).by_path.values())
    assert [(it.age_low, it.gender, it.ethnicity) for it in labels] == [(1, "male", "White"), (116, "female", "Others")]


# CSV


def test_a_csv_as_spreadsheets_write_it_is_read() -> None:
    text = '\ufefffile_name,age,who\r\n"a, b.jpg",34,x\r\n./c.jpg, 7.5 ,y\r\n\r\nZoë.jpg,0\r\n'
    labels = read_csv(text, ["a, b.jpg", "c.jpg", "Zoë.jpg"], subject_column="who")
    assert labels.by_path["a, b.jpg"] == Label(34, 35, subject="x")
    assert labels.by_path["c.jpg"] == Label(7.5, 8.5, subject="y")
    assert labels.by_path["Zoë.jpg"] == Label(0, 1)  # its row is short
    assert labels.missing_files == []


def test_rows_without_a_file_and_files_without_a_row_are_both_told() -> None:
    labels = read_csv("file_name,age\na.jpg,3\ngone.jpg,4\nA.JPG,5\n", ["a.jpg", "b.jpg"])
    assert labels.missing_files == ["gone.jpg", "A.JPG"]
    assert labels.by_path["b.jpg"] == Label(error="the CSV has no row for it")


def test_a_file_named_twice_keeps_a_label_only_where_both_agree() -> None:
    text = "file_name,age\na.jpg,3\na.jpg,3\nb.jpg,4\nb.jpg,5\nb.jpg,4\n"
    labels = read_csv(text, ["a.jpg", "b.jpg"]).by_path
    assert labels["a.jpg"] == Label(3, 4)
    assert labels["b.jpg"] == Label(error="the CSV names it twice, with different labels")


@pytest.mark.parametrize("age", ["-1", "121", "nan", "inf", "old", "3O"])
def test_an_age_that_is_none_is_told(age: str) -> None:
    label = read_csv(f"file_name,age\na.jpg,{age}\n", ["a.jpg"]).by_path["a.jpg"]
    assert label == Label(error=f"age {age!r} is no number from 0 to 120")


def test_a_row_without_a_label_is_told() -> None:
    assert read_csv("file_name,age\na.jpg, \n", ["a.jpg"]).by_path["a.jpg"] == Label(error="no label in its row")


def test_splits_are_taken_under_their_usual_names_and_others_are_told() -> None:
    text = "file_name,age,split\na.jpg,1,train\nb.jpg,1,VALID\nc.jpg,1,Testing\nd.jpg,1,dev\ne.jpg,1,\n"
    labels = read_csv(text, [f"{name}.jpg" for name in "abcde"], split_column="split").by_path
    assert [labels[f"{name}.jpg"].split for name in "abcde"] == ["train", "val", "test", None, None]
    assert labels["d.jpg"] == Label(1, 2, error="split 'dev' is none of train, val, test")
    assert labels["e.jpg"].error is None


def test_a_label_column_holds_ages_ranges_and_class_names() -> None:
    text = "image,label\na.jpg,34\nb.jpg,25-49\nc.jpg,34.6\n"
    labels = read_csv(text, ["a.jpg", "b.jpg", "c.jpg"], label_column="label")
    assert labels.age_groups is None
    assert list(labels.by_path.values()) == [Label(34, 35), Label(25, 50), Label(34.6, 35.6)]
    text = "image,label\na.jpg,YOUNG\nb.jpg,OLD \n"
    labels = read_csv(text, ["a.jpg", "b.jpg"], label_column="label")
    assert labels.age_groups == AgeGroups.parse("OLD,YOUNG")
    assert labels.by_path["b.jpg"] == Label(group="OLD")
    text = "image,label\na.jpg,child\nb.jpg,baby\nc.jpg,30-39\n"
    labels = read_csv(text, ["a.jpg", "b.jpg", "c.jpg"], LIFE_STAGES, label_column="label")
    assert labels.by_path["a.jpg"] == Label(0, 13)
    assert labels.by_path["b.jpg"].error == "class 'baby' is none of the age groups child, teenager, adult, senior"
    assert labels.by_path["c.jpg"] == Label(30, 40)


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("", {}, "the file is empty"),
        (b"\xff\xfe\x00", {}, "not a UTF-8 CSV file"),
        ("photo,age\na.jpg,1\n", {}, "--image-column: name the column of image names, one of photo, age"),
        ("file_name,years\na.jpg,1\n", {}, "--label-column or --age-column: name the column"),
        ("file_name,age\na.jpg,1\n", {"split_column": "part"}, "--split-column part: the CSV has no such column"),
        ("file_name,age\na.jpg,1\n", {"age_column": "Age"}, "--age-column Age: the CSV has no such column"),
        ("file_name,age\na.jpg,1\n", {"age_column": "age", "label_column": "age"}, "not both"),
        ('file_name,label\na.jpg,"(25, 32)"\n', {"label_column": "label"}, "a name holds a comma"),
    ],
)
def test_a_csv_that_does_not_fit_is_refused_in_one_line(
    text: str | bytes, columns: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_csv(text, ["a.jpg"], **columns)
    assert "\n" not in str(caught.value)
