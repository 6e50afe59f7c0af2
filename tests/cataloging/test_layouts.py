"""Labels from folders, names and CSVs as people really have them."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from agescale.ages.groups import AgeGroups
from agescale.ages.labels import OLDEST_YEARS
from agescale.cataloging.layouts import (
    LAYOUTS,
    Label,
    Labels,
    LabelSource,
    check_labelled,
    class_folders,
    csv_file,
    records,
    utkface,
)
from agescale.store.listing import is_in_system_folder

LIFE_STAGES = AgeGroups.parse("life-stages")


def read_csv(text: str | bytes, paths: list[str], age_groups: AgeGroups | None = None, **columns: str) -> Labels:
    data = text if isinstance(text, bytes) else text.encode()
    return csv_file(paths, LabelSource(age_groups, data, **columns))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_answers_for_every_path(layout: str) -> None:
    paths = ["child/a.jpg", "b c.jpg", "Zoë/34_1_0_20170109142408075.jpg", "x/y/z.png"]
    records = {"b c.jpg": {"age": "3"}}
    labels = LAYOUTS[layout](paths, LabelSource(csv_bytes=b"file_name,age\nb c.jpg,3\n", records=records))
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


@pytest.mark.parametrize(
    ("names", "intervals"),
    [
        (["0_2", "1_9", "3_9"], [(0, 3), (1, 10), (3, 10)]),  # they overlap, and are ranges all the same
        (["(0, 2)", "(25, 32)", "(60, 100)"], [(0, 3), (25, 33), (60, math.inf)]),
        (["under 18", "18-59", "60 and over"], [(0, 18), (18, 60), (60, math.inf)]),
        (["<18", "18-59", ">=60"], [(0, 18), (18, 60), (60, math.inf)]),
    ],
)
def test_folders_named_by_ranges_of_any_spelling_are_ranges(
    names: list[str], intervals: list[tuple[float, float]]
) -> None:
    labels = class_folders([f"{name}/a.jpg" for name in names], LabelSource())
    assert [(label.age_low, label.age_high) for label in labels.by_path.values()] == intervals
    assert labels.age_groups is None or labels.age_groups.is_bounded


def test_blanks_around_a_folder_s_name_and_its_accents_pieces_make_no_other_class() -> None:
    labels = class_folders(["child /a.jpg", "child/b.jpg", "be\u0301be\u0301/c.jpg", "bébé/d.jpg"], LabelSource())
    assert [label.group for label in labels.by_path.values()] == ["child", "child", "bébé", "bébé"]
    assert labels.age_groups is not None
    again = class_folders(list(labels.by_path), LabelSource(AgeGroups.parse(labels.age_groups.format())))
    assert again == labels


@pytest.mark.parametrize("name", ["young, male", "a=b", "old [bold]", "decades", '"x"'])
def test_a_class_of_any_name_is_one_in_a_catalog_that_grows(name: str) -> None:
    labels = class_folders([f"{name}/a.jpg"], LabelSource())
    assert labels.age_groups is not None
    assert class_folders([f"{name}/a.jpg"], LabelSource(AgeGroups.parse(labels.age_groups.format()))) == labels
    assert labels.by_path[f"{name}/a.jpg"] == Label(group=name)


def test_whether_folders_are_ranges_is_decided_by_their_images() -> None:
    few = [f"{name}/a.jpg" for name in ("misc", "other", "9-Mar", "unknown")]
    many = [f"{decade}0-{decade}9/{i}.jpg" for decade in (2, 3) for i in range(9)]
    labels = class_folders(few + many, LabelSource())
    assert labels.age_groups is not None
    assert labels.age_groups.names == ("20-29", "30-39")
    assert [labels.by_path[path].error for path in few] == [
        "class 'misc' is none of the age groups 20-29, 30-39",
        "class 'other' is none of the age groups 20-29, 30-39",
        "malformed class '9-Mar': a date, which spreadsheets make of ranges such as 3-9",
        "malformed class 'unknown': it says that nothing is known",
    ]


def test_folders_of_splits_hold_class_folders() -> None:
    paths = ["train/child/a.jpg", "Valid/child/b.jpg", "test/adult/c.jpg", "testing/adult/d/e.jpg"]
    labels = class_folders(paths, LabelSource())
    assert [label.split for label in labels.by_path.values()] == ["train", "val", "test", "test"]
    assert [label.group for label in labels.by_path.values()] == ["child", "child", "adult", "adult"]
    assert labels.has_splits
    assert labels.age_groups == AgeGroups.parse("child,adult")
    no_val = class_folders(["train/child/a.jpg", "test/adult/c.jpg"], LabelSource())
    assert [label.split for label in no_val.by_path.values()] == [None, "test"]  # some of the first will be val
    kept = class_folders(["train/child/a.jpg", "car/b/c.jpg"], LabelSource(AgeGroups.parse("train,car")))
    assert [label.group for label in kept.by_path.values()] == ["train", "car"]  # as they were asked for


@pytest.mark.parametrize(
    ("paths", "seen"),
    [
        (["train/a.jpg", "test/b.jpg"], "train/a.jpg lies in a split and in no class folder"),
        (["train/child/a.jpg", "old/b.jpg"], "train/ stands beside old/"),
        (["faces/child/a.jpg", "faces/adult/b.jpg"], "folders in folders were seen, such as faces/adult/"),
        (
            ["m/child/a.jpg", "m/adult/b.jpg", "f/adult/c.jpg", "d.jpg"],
            "folders in folders were seen, such as m/adult/",
        ),
        (["train/m/child/a.jpg", "train/f/child/b.jpg"], "folders in folders were seen, such as m/child/"),
    ],
)
def test_folders_above_the_classes_are_refused(paths: list[str], seen: str) -> None:
    with pytest.raises(ValueError, match=seen) as caught:
        class_folders(paths, LabelSource())
    assert "class folders stand directly below --source, or in train, val and test there" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_below_classes_that_are_known_are_none_of_our_business() -> None:
    assert class_folders(["20-29/m/a.jpg", "30-39/m/b.jpg"], LabelSource()).by_path["30-39/m/b.jpg"].age_low == 30
    known = LabelSource(AgeGroups.parse("child,adult"))
    assert class_folders(["child/m/a.jpg", "adult/m/b.jpg"], known).by_path["adult/m/b.jpg"] == Label(group="adult")


@pytest.mark.parametrize(
    "folder",
    ["@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found", "System Volume Information", "__MACOSX", "c.agescale", ".x"],
)
def test_folders_of_disks_and_archives_hold_no_photos(folder: str) -> None:
    assert is_in_system_folder(f"{folder}/a.jpg")
    assert is_in_system_folder(f"child/{folder}/b/a.jpg")
    assert not is_in_system_folder(f"child/{folder}.jpg")


def test_a_layout_in_which_no_image_has_a_label_is_refused_with_what_the_first_says() -> None:
    with pytest.raises(ValueError, match=r"^--layout utkface: none of 1 images has a label; a.jpg: malformed name"):
        check_labelled("utkface", utkface(["a.jpg"], LabelSource()))
    labels = read_csv("file,age\nb.jpg,none\na.jpg,NaN\n", ["a.jpg", "b.jpg"])
    with pytest.raises(
        ValueError, match=r"none of 2 images has a label; b.jpg, line 2 of the CSV: no label in its row"
    ):
        check_labelled("csv", labels)
    check_labelled("unlabelled", LAYOUTS["unlabelled"](["a.jpg"], LabelSource()))


# labels by box


def read_boxes(text: str, paths: list[str], **columns: Any) -> dict[str, Label]:
    return read_csv(text, paths, box_columns="x,y,w,h", **columns).by_path


def boxes_in(label: Label) -> list[tuple[float, float, float, float, float | None]]:
    return [(box.x, box.y, box.width, box.height, told.age_low) for box, told in label.boxes]


def test_rows_of_a_photo_are_labels_of_its_faces() -> None:
    text = "file,age,x,y,w,h,id\na.jpg,30,1,2,10,20,anna\nb.jpg,5,0,0,9.5,9,\na.jpg,61,50,2,12,24,otto\n"
    labels = read_boxes(text, ["a.jpg", "b.jpg"], subject_column="id")
    assert boxes_in(labels["a.jpg"]) == [(1, 2, 10, 20, 30), (50, 2, 12, 24, 61)]
    assert [told.subject for _, told in labels["a.jpg"].boxes] == ["anna", "otto"]
    assert boxes_in(labels["b.jpg"]) == [(0, 0, 9.5, 9, 5)]
    assert all(label.is_labelled and label.age_low is None and not label.error for label in labels.values())


def test_boxes_may_be_told_by_their_corners() -> None:
    labels = read_boxes("file,age,x,y,w,h\na.jpg,30,1,2,11,22\n", ["a.jpg"], box_format="xyxy")
    assert boxes_in(labels["a.jpg"]) == [(1, 2, 10, 20, 30)]


@pytest.mark.parametrize(
    ("rows", "ages", "error", "line"),
    [
        (["30,1,2,0,20", "31,5,5,9,9"], [31], "box '1,2,0,20' has no width and height; is it xywh?", 2),
        (["30,1,2,9,20", "31,,,,"], [30], "box ',,,' is not four numbers", 3),
        (["30,1,2,9,inf"], [], "box '1,2,9,inf' has no width and height; is it xywh?", 2),
        (["30,1,2,9,20", "old,5,5,9,9"], [30], f"age 'old' is not a number from 0 to {OLDEST_YEARS}", 3),
        (["30,1,2,9,20", "31,1,2,9,20"], [30], "the CSV names its box twice, with different labels", 3),
        (["30,1,2,9,20", "30,1,2,9,20"], [30], None, 2),
    ],
)
def test_what_of_a_photo_s_faces_cannot_be_read_is_told_and_the_rest_is_used(
    rows: list[str], ages: list[int], error: str | None, line: int
) -> None:
    text = "\n".join(["file,age,x,y,w,h", *(f"a.jpg,{row}" for row in rows)])
    label = read_boxes(text, ["a.jpg"])["a.jpg"]
    assert [age for *_, age in boxes_in(label)] == ages
    assert (label.error, label.line) == (error, line)


def test_faces_of_one_photo_are_in_one_split() -> None:
    text = "file,age,x,y,w,h,s\na.jpg,30,1,2,9,20,{}\na.jpg,31,50,2,9,20,test\n"
    label = read_boxes(text.format("test"), ["a.jpg"], split_column="s")["a.jpg"]
    assert (label.split, label.error, [told.split for _, told in label.boxes]) == ("test", None, [None, None])
    label = read_boxes(text.format("train"), ["a.jpg"], split_column="s")["a.jpg"]
    assert (label.split, label.error) == (None, "the CSV puts its faces into different splits")


def test_columns_of_boxes_are_four_that_are_there() -> None:
    with pytest.raises(ValueError, match="--box-columns x,y: four columns, separated by commas"):
        read_csv("file,age,x,y\na.jpg,3,1,2\n", ["a.jpg"], box_columns="x,y")
    with pytest.raises(ValueError, match="--box-columns h: the CSV has no such column, but file, age, x, y, w"):
        read_boxes("file,age,x,y,w\na.jpg,3,1,2,3\n", ["a.jpg"])


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


@pytest.mark.parametrize("age", ["-1", "121", "1e1", "inf", "old", "3O"])
def test_an_age_that_is_none_is_told(age: str) -> None:
    label = read_csv(f"file_name,age\na.jpg,{age}\n", ["a.jpg"]).by_path["a.jpg"]
    assert label == Label(error=f"age {age!r} is not a number from 0 to 120")


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
    assert labels.age_groups == AgeGroups.parse("YOUNG,OLD")
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
        ("file_name,age,age\na.jpg,1,2\n", {}, "its header names the column age 2 times"),
        ("file_name;age\na.jpg;1\n", {}, "commas separate the cells of a CSV; its first line has ';'"),
    ],
)
def test_a_csv_that_does_not_fit_is_refused_in_one_line(
    text: str | bytes, columns: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_csv(text, ["a.jpg"], **columns)
    assert "\n" not in str(caught.value)


# Names in a CSV


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("train\\a.jpg", "train/a.jpg"),
        ("/data/faces/train/a.jpg", "train/a.jpg"),
        ("file:///data/faces/a.jpg", "a.jpg"),
        (".\\train\\a.jpg", "train/a.jpg"),
        ("x//../train/./a.jpg", "train/a.jpg"),
        ("Zoé.jpg", "Zoe\u0301.jpg"),
        ("Zoe\u0301.jpg", "Zoé.jpg"),
        ("a.jpg", " a.jpg"),
        ("a\\b.jpg", "a\\b.jpg"),
    ],
)
def test_a_name_that_differs_in_writing_alone_is_the_file_s(name: str, path: str) -> None:
    source = LabelSource(csv_bytes=f"path,age\n{name},20\n".encode(), root="/data/faces")
    assert csv_file([path], source).by_path == {path: Label(20, 21)}


def test_a_name_that_could_mean_two_files_means_neither() -> None:
    labels = read_csv("path,age\nZoe\u0301 .jpg,20\na.jpg,3\n", ["Zoé .jpg", " Zoe\u0301 .jpg", "a.jpg"])
    assert labels.missing_files == ["Zoe\u0301 .jpg"]


@pytest.mark.parametrize(
    ("name", "path", "why"),
    [
        ("0", "0.jpg", "'0.jpg' is, the same but for its extension ('0')"),
        ("0.jpg", "0.JPG", "'0.JPG' is, the same but for upper and lower case"),
        ("faces/0.jpg", "0.jpg", "'0.jpg' is, the same but for the folders before it"),
        ("C:\\faces\\0.jpg", "0.jpg", "'0.jpg' is, the same but for the folders before it"),
        ("0.jpg", "a/0.jpg", "'a/0.jpg' is, the same but for the folders before it"),
        ("in/0.JPG", "x/0.png", "'x/0.png' is, the same but for folders, extension and case"),
        ("1.jpg", "0.jpg", "where '0.jpg' is; line 2 of the CSV names it, and it is not there ('1.jpg')"),
        ("b.heic", "0.jpg", "and its format is not taken ('b.heic')"),
    ],
)
def test_a_csv_that_names_no_image_is_refused_with_what_would_match(name: str, path: str, why: str) -> None:
    source = LabelSource(csv_bytes=f"path,age\n{name},20\n".encode(), other_files=frozenset(["b.heic"]))
    with pytest.raises(ValueError, match=f"^--csv: none of its 1 rows names an image below --source.*{re.escape(why)}"):
        csv_file([path], source)


def test_a_file_whose_format_is_not_taken_is_not_told_to_be_away() -> None:
    text = "path,age\na.jpg,1\nb.heic,2\n./d,3\ngone.jpg,4\npath,age\n"
    source = LabelSource(csv_bytes=text.encode(), other_files=frozenset(["b.heic", "d"]))
    assert csv_file(["a.jpg"], source).why_missing == {
        "b.heic": "line 3 of the CSV names it, and its format is not taken",
        "d": "line 4 of the CSV names it, and its format is not taken",
        "gone.jpg": "line 5 of the CSV names it, and it is not there",
        "path": "line 6 of the CSV names it, which repeats the header",
    }


def test_what_a_row_says_is_told_with_its_line() -> None:
    text = 'path,age\n"a\n.jpg",old\n\nb.jpg,27,5\nc.jpg,3,,\n'
    labels = read_csv(text, ["a\n.jpg", "b.jpg", "c.jpg", "d.jpg"]).by_path
    assert [label.line for label in labels.values()] == [3, 5, 6, None]
    assert labels["b.jpg"].error == "its row has more cells than the header has columns"
    assert labels["c.jpg"] == Label(3, 4)


# Labels in a CSV


def test_a_column_of_ages_may_hold_ranges() -> None:
    text = "file,age\na.jpg,0-2\nb.jpg,more than 70\nc.jpg,34\nd.jpg,9-Mar\n"
    labels = read_csv(text, [f"{name}.jpg" for name in "abcd"]).by_path
    assert list(labels.values())[:3] == [Label(0, 3), Label(71, math.inf), Label(34, 35)]
    assert labels["d.jpg"].error == (
        "age '9-Mar' is not a number from 0 to 120: a date, which spreadsheets make of ranges such as 3-9"
    )


def test_odd_spellings_however_many_make_no_classes_of_ranges() -> None:
    odd = ["9-Mar", "Oct-19", "child", "senior", "nan", "?", "27,5"]
    rows = [f"{i}.jpg,{label}" for i, label in enumerate([*["20-29"] * 3, *(f'"{text}"' for text in odd)])]
    labels = read_csv("\n".join(["file,label", *rows]), [f"{i}.jpg" for i in range(10)], label_column="label")
    assert labels.age_groups is None
    assert labels.by_path["0.jpg"] == Label(20, 30)
    assert all(labels.by_path[f"{i}.jpg"].error for i in range(3, 10))


@pytest.mark.parametrize("nothing", ["nan", "NA", "N/A", "NULL", "None", "unknown", "Unknown", "-", "?", " ", ""])
def test_what_says_that_nothing_is_known_is_no_label_in_any_column(nothing: str) -> None:
    text = f"file,label,who,sex,race,split\na.jpg,YOUNG,x,f,White,val\nb.jpg,{','.join([nothing] * 5)}\n"
    columns = {"label_column": "label", "subject_column": "who", "gender_column": "sex", "ethnicity_column": "race"}
    labels = read_csv(text, ["a.jpg", "b.jpg"], split_column="split", **columns)
    assert labels.by_path["a.jpg"] == Label(group="YOUNG", subject="x", gender="f", ethnicity="White", split="val")
    label = labels.by_path["b.jpg"]
    assert (label.error or "").startswith("no label in its row")
    assert label == Label(error=label.error)
    assert labels.age_groups == AgeGroups.parse("YOUNG")


def test_a_class_that_was_asked_for_by_the_name_unknown_is_one() -> None:
    groups = AgeGroups.parse("known,unknown")
    labels = read_csv("file,label\na.jpg,unknown\n", ["a.jpg"], groups, label_column="label")
    assert labels.by_path["a.jpg"] == Label(group="unknown")


def test_blanks_after_commas_and_capitals_in_the_header_do_not_count() -> None:
    labels = read_csv('\n\nFile_Name, Age, Who\n"a, b.jpg", "34", "x, y"\n', ["a, b.jpg"], subject_column="Who")
    assert labels.by_path["a, b.jpg"] == Label(34, 35, subject="x, y")


def test_columns_that_seem_to_be_known_and_are_not_asked_for_are_named() -> None:
    text = "file,age,sex,race,identity,smile\na.jpg,3,f,White,x,0\n"
    labels = read_csv(text, ["a.jpg"], subject_column="identity")
    assert labels.unused_columns == ("--gender-column sex", "--ethnicity-column race")
    assert labels.by_path["a.jpg"].gender is None


# records


def test_records_tell_what_the_columns_of_a_csv_tell() -> None:
    told = {
        "0.tar!/a.jpg": {"age": "34", "sex": "f", "who": "7", "split": "test"},
        "0.tar!/b.jpg": {"age": "25-49", "sex": ""},
        "1.tar!/a.jpg": {"sex": "m"},
    }
    source = LabelSource(gender_column="sex", subject_column="who", split_column="split", records=told)
    labels = records([*told, "1.tar!/c.jpg"], source).by_path
    assert labels["0.tar!/a.jpg"] == Label(34, 35, gender="f", subject="7", split="test")
    assert labels["0.tar!/b.jpg"] == Label(25, 50)
    assert (labels["1.tar!/a.jpg"].gender, labels["1.tar!/a.jpg"].error) == ("m", "no label in its row")
    assert labels["1.tar!/c.jpg"] == Label(error="no record lies beside it")
    assert {label.line for label in labels.values()} == {None}


def test_a_class_file_is_the_label_where_no_other_column_is_named() -> None:
    told = {f"{number}.jpg": {"cls": ("YOUNG", "OLD")[number % 2], "age": "3"} for number in range(4)}
    labels = records(list(told), LabelSource(records=told))
    assert labels.by_path["1.jpg"] == Label(group="OLD")
    assert labels.age_groups is not None
    assert set(labels.age_groups.names) == {"YOUNG", "OLD"}
    assert records(list(told), LabelSource(age_column="age", records=told)).by_path["1.jpg"] == Label(3, 4)


def test_records_that_cannot_be_used_are_told_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"nothing lies beside any image .* such as a\.jpg"):
        records(["a.jpg"], LabelSource())
    with pytest.raises(ValueError, match="--age-column years: the records have no such column, but id"):
        records(["a.jpg"], LabelSource(age_column="years", records={"a.jpg": {"id": "1"}}))
    with pytest.raises(ValueError, match="name the column of labels, one of id"):
        records(["a.jpg"], LabelSource(records={"a.jpg": {"id": "1"}}))
