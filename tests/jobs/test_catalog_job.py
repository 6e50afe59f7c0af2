"""Catalogs of drawn faces, from the folder to the two tables, on a real Ray; and of S3, as users run the job."""

from __future__ import annotations

import io
import os
import runpy
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from factories import write_tar
from fault_proxy import FaultProxy
from PIL import Image

from agescale.cataloging import driver, layouts, summary, worker
from agescale.cataloging import parts as parts_module
from agescale.cataloging import settings as settings_module
from agescale.cataloging.driver import build_catalog
from agescale.cataloging.summary import CatalogResult, count_by_group_and_split, remarks
from agescale.commands import catalog as catalog_command
from agescale.config import CatalogConfig
from agescale.faces import images
from agescale.store import lease, listing, objects, parquet, paths
from agescale.store.outputs import Output
from agescale.synthetic import portraits
from agescale.tables import catalogs, folders, schema, splits
from agescale.tables.catalogs import Catalog
from agescale.training import selection

JOB = str(Path(__file__).parents[2] / "jobs" / "catalog.py")
EXPECTED = {"broken": 4, "duplicate": 1, "conflicting": 2}
"""What is wrong with drawn faces."""
CSV = {"layout": "csv", "split_column": "split", "subject_column": "subject", "gender_column": "gender"}


def build(source: Path | str, out: Path | str, **settings: Any) -> CatalogResult:
    return build_catalog(CatalogConfig(str(source), str(out), **settings))


def picture_files(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*") if images.is_image_name(path.name))


def rows_of(catalog: Path | str) -> list[dict[str, Any]]:
    """Current rows, sorted by URI, without their pictures."""
    columns = [name for name in schema.CATALOG.names if name != "image"]
    rows = Catalog.open(str(catalog)).read(columns).drop_columns(["part", "row"]).to_pylist()
    return sorted(rows, key=lambda row: row["uri"])


def kinds_of(catalog: Path | str) -> Counter[str]:
    return Counter(Catalog.open(str(catalog)).findings["kind"].to_pylist())


def part_sizes(catalog: Path | str) -> dict[str, int]:
    return {name: parquet.num_rows(paths.join(str(catalog), name)) for name in Catalog.open(str(catalog)).names}


@pytest.fixture(scope="module", autouse=True)
def _few_parts() -> Iterator[None]:
    """A Ray process for each part would take its seconds to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts_module, "MIN_PARTS", 2)
        yield


@pytest.fixture(scope="module")
def utkface_catalog(drawn_faces: Path, local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Only to be read; copy what a test changes."""
    out = tmp_path_factory.mktemp("catalogs") / "utkface"
    build(drawn_faces / "utkface", out, layout="utkface", pack=32)
    return out


@pytest.fixture(scope="module")
def csv_catalog(drawn_faces: Path, local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("catalogs") / "csv"
    build(drawn_faces / "csv", out, csv=str(drawn_faces / "csv" / "labels.csv"), **CSV)
    return out


def test_every_image_file_is_a_row_and_broken_ones_are_findings(utkface_catalog: Path, drawn_faces: Path) -> None:
    rows = rows_of(utkface_catalog)
    assert [row["uri"] for row in rows] == picture_files(drawn_faces / "utkface")
    assert kinds_of(utkface_catalog) == EXPECTED
    Catalog.open(str(utkface_catalog)).check_complete()
    for row in rows:
        age, gender = Path(row["uri"]).name.split("_")[:2]
        assert (row["age_low"], row["age_high"]) == (int(age), int(age) + 1)
        assert row["gender"] == ("male", "female")[int(gender)]
        assert (row["width"] is None) == (row["read_error"] is not None)
        assert row["size_bytes"] == Path(row["uri"]).stat().st_size
    assert Catalog.open(str(utkface_catalog)).settings["age_groups"].startswith("0-24=0-24,25-49=25-49")


def test_the_split_is_a_hash_of_the_content_so_that_copies_stay_together(utkface_catalog: Path) -> None:
    rows = rows_of(utkface_catalog)
    assert [row["split"] for row in rows] == [splits.assign(row["content_hash"], (0.8, 0.1, 0.1)) for row in rows]
    splits_of_content = defaultdict(set)
    for row in rows:
        splits_of_content[row["content_hash"]].add(row["split"])
    assert len(splits_of_content) < len(rows)
    assert {len(names) for names in splits_of_content.values()} == {1}


def test_packed_images_stand_in_the_rows(utkface_catalog: Path) -> None:
    tables = [parquet.read_table(str(path), ["image", "read_error"]) for path in utkface_catalog.glob("part-*")]
    rows = pa.concat_tables(tables).to_pylist()
    assert [row["image"] is None for row in rows] == [row["read_error"] is not None for row in rows]
    sides = {min(Image.open(io.BytesIO(row["image"])).size) for row in rows if row["image"]}
    assert sides == {32}


def test_a_csv_names_splits_subjects_and_genders(csv_catalog: Path, drawn_faces: Path) -> None:
    lines = (drawn_faces / "csv" / "labels.csv").read_text().splitlines()[1:]
    labels = {name: rest for name, *rest in (line.split(",") for line in lines)}
    rows = rows_of(csv_catalog)
    assert [row["uri"] for row in rows] == picture_files(drawn_faces / "csv")
    for row in rows:
        age, gender, _, subject, split = labels[f"faces/{Path(row['uri']).name}"]
        facts = (row["age_low"], row["gender"], row["ethnicity"], row["subject"], row["split"])
        assert facts == (float(age), gender, None, subject, split)
    assert {kind: kinds_of(csv_catalog)[kind] for kind in EXPECTED} == EXPECTED


def test_an_unlabelled_source_is_only_listed(drawn_faces: Path, tmp_path: Path, local_ray: None) -> None:
    result = build(drawn_faces / "unlabelled", tmp_path)
    rows = rows_of(tmp_path)
    assert [row["uri"] for row in rows] == picture_files(drawn_faces / "unlabelled")
    assert {row["content_hash"] for row in rows} == {row["split"] for row in rows} == {None}
    assert kinds_of(tmp_path) == {}
    assert (result.num_new, result.num_ignored) == (len(rows), 1)
    Catalog.open(str(tmp_path)).check_complete()


@pytest.fixture
def large(tmp_path: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that counts as large: listed in four ranges, parts of four rows."""
    monkeypatch.setattr(driver, "SMALL_SOURCE_FILES", 5)
    monkeypatch.setattr(catalogs, "LISTED_PART_ROWS", 4)
    monkeypatch.setattr(driver, "RANGES_PER_CPU", 1)
    source = tmp_path / "large"
    for folder in ("a", "a-b", "b/c", "d é", "e"):
        (source / folder).mkdir(parents=True)
        for index in range(6):
            (source / folder / f"{index}.jpg").touch()
    (source / "a" / "notes.txt").touch()
    return source


def counts_of(result: CatalogResult) -> tuple[int, ...]:
    return result.num_new, result.num_changed, result.num_deleted, result.num_current, result.num_ignored


def test_a_large_source_is_listed_in_ranges_and_written_as_it_comes(
    large: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = large / "catalog"
    assert counts_of(build(large, out)) == (30, 0, 0, 30, 1)
    assert "cataloging: 30 images" in capsys.readouterr().out
    before = part_sizes(out)
    assert len({name.split("-")[2][:4] for name in before}) > 2  # tasks
    assert max(before.values()) == 4
    assert [row["uri"] for row in rows_of(out)] == picture_files(large)
    Catalog.open(str(out)).check_complete()
    assert counts_of(build(large, out)) == (0, 0, 0, 30, 1)
    assert part_sizes(out) == before

    (large / "a" / "1.jpg").write_bytes(b"changed")
    (large / "a" / "notes.txt").unlink()
    shutil.rmtree(large / "e")
    (large / "a.jpg").touch()
    assert counts_of(build(large, out)) == (1, 1, 6, 25, 0)
    assert sum(part_sizes(out).values()) == 30 + 8
    assert [row["uri"] for row in rows_of(out)] == picture_files(large)

    lost = next(name for name in before if "/b/c/" in parquet.read_table(str(out / name))["uri"][0].as_py())
    (out / lost).unlink()  # as after a kill
    Path(catalogs.findings_uri(str(out))).unlink()
    with pytest.raises(ValueError, match="not complete"):
        Catalog.open(str(out)).check_complete()
    assert build(large, out).num_new == before[lost]
    assert [row["uri"] for row in rows_of(out)] == picture_files(large)
    Catalog.open(str(out)).check_complete()


def test_a_picture_that_was_replaced_while_it_was_cataloged_is_read_the_next_time(
    drawn_faces: Path, tmp_path: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "faces", tmp_path / "catalog"
    shutil.copytree(drawn_faces / "utkface", source)
    listed = listing.list_files(str(source))
    replaced, put_back = [Path(item.uri) for item in listed if item.relative.endswith(".jpg")][:2]
    times = put_back.stat()
    with monkeypatch.context() as patch:
        patch.setattr(listing, "list_files", lambda uri: listed)
        for path in (replaced, put_back):
            path.touch()
        build(source, out, layout="utkface")
    errors = {row["uri"]: row["read_error"] or "" for row in rows_of(out)}
    told = "changed: {0}: changed since it was listed".format
    assert [errors[str(path)] for path in (replaced, put_back)] == [told(replaced), told(put_back)]
    os.utime(put_back, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert build(source, out, layout="utkface").num_changed == 2
    rows = {row["uri"]: row for row in rows_of(out)}
    assert [rows[str(path)]["read_error"] for path in (replaced, put_back)] == [None, None]
    assert rows[str(put_back)]["version"].endswith("@2")
    assert build(source, out, layout="utkface").num_changed == 0


@pytest.mark.parametrize("layout", ["unlabelled", "utkface"])
def test_what_is_no_file_is_passed_over_and_counted(
    layout: str, drawn_faces: Path, tmp_path: Path, local_ray: None
) -> None:
    source = tmp_path / "faces"
    shutil.copytree(drawn_faces / "utkface", source)
    num_others = build(source, tmp_path / "before", layout=layout).num_ignored
    for name, target in (("1_0_0_1.jpg", "2_0_0_2.jpg"), ("2_0_0_2.jpg", "1_0_0_1.jpg"), ("3_0_0_3.jpg", "/dev/zero")):
        (source / name).symlink_to(target)
    os.mkfifo(source / "4_0_0_4.jpg")
    result = build(source, tmp_path / "catalog", layout=layout)
    assert (result.num_current, result.num_ignored) == (len(picture_files(drawn_faces / "utkface")), num_others + 4)
    (tmp_path / "same").symlink_to(source)
    with pytest.raises(ValueError, match=r"same: there are the photos themselves; give another folder"):
        build(source, tmp_path / "same", layout=layout)


@pytest.mark.parametrize("layout", ["unlabelled", "utkface"])
def test_a_disk_that_is_away_deletes_nothing(layout: str, drawn_faces: Path, tmp_path: Path, local_ray: None) -> None:
    source, out = tmp_path / "faces", tmp_path / "catalog"
    shutil.copytree(drawn_faces / "utkface", source / "stays")
    shutil.copytree(drawn_faces / "utkface", source / "disk" / "of many")
    build(source, out, layout=layout)
    before = rows_of(out)
    (source / "disk" / "of many").rename(tmp_path / "away")
    with pytest.raises(ValueError, match=r"images would be deleted, .*/faces/disk is empty; is it mounted\?"):
        build(source, out, layout=layout)
    assert rows_of(out) == before
    Catalog.open(str(out)).check_complete()
    (tmp_path / "away").rename(source / "disk" / "of many")
    assert build(source, out, layout=layout).num_new == 0
    shutil.rmtree(source / "disk" / "of many")
    assert build(source, out, layout=layout, max_deleted_fraction=0.6).num_deleted == len(before) / 2
    assert len(rows_of(out)) == len(before) / 2
    Catalog.open(str(out)).check_complete()


def test_a_listing_made_elsewhere_stands_for_the_source(
    large: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    refused: Callable[..., str],
) -> None:
    out, lists = tmp_path / "catalog", tmp_path / "lists"
    lists.mkdir()
    items = listing.list_files(str(large))
    table = pa.Table.from_pylist(
        [{"name": it.relative, "etag": it.version, "size": it.size_bytes} for it in items[::-1]]
    )
    pq.write_table(table.slice(0, 10), lists / "1.parquet")
    pq.write_table(table.slice(0, 0), lists / "2.parquet")
    lines = [f"{it.uri},{it.version}" for it in items[1::2] + items[::2] if it not in items[-10:]]
    (lists / "3.csv").write_text("\n".join(["uri,version", *lines, "/elsewhere/a.jpg,1"]))
    with monkeypatch.context() as patch:
        patch.delattr(listing, "pages")
        assert counts_of(build(large, out, listing=str(lists))) == (30, 0, 0, 30, 2)
    assert [row["uri"] for row in rows_of(out)] == picture_files(large)
    sizes = part_sizes(out)
    assert list(sizes.values()) == [4] * 7 + [2]
    assert counts_of(build(large, out)) == (0, 0, 0, 30, 1)  # the same as its own listing finds
    (lists / "4.csv").write_text("name,etag\na.jpg,1\n,2\n")
    assert capsys.readouterr().out.count("30 images") == 2
    assert "4.csv: row 2 has no URI" in refused("--source", large, "--out", out, "--listing", lists)
    assert part_sizes(out) == sizes


def test_a_messy_source_gives_a_reason_for_everything(drawn_faces: Path, tmp_path: Path, local_ray: None) -> None:
    source = tmp_path / "source"
    for folder in ("child", "adult", "senior", "toddler", "adult/.cache"):
        (source / folder).mkdir(parents=True)
    one, two, three = sorted((drawn_faces / "class_folders" / "adult").glob("*.jpg"))[:3]
    shutil.copy(one, source / "child" / "Zoë 1 #2 100%.JPG")
    shutil.copy(one, source / "toddler" / "same.jpg")
    shutil.copy(two, source / "adult" / "日本.jpeg")
    shutil.copy(three, source / "in no folder.jpg")
    shutil.copy(three, source / "adult" / ".cache" / "hidden.jpg")
    Image.new("L", (4, 90)).save(source / "adult" / "tiny.png")
    (source / "adult" / "empty.webp").touch()
    (source / "adult" / "empty too.webp").touch()
    (source / "adult" / "text.gif").write_text("not a picture")
    (source / "adult" / "notes.txt").write_text("not meant as a picture")
    result = build(
        *(source, source / "catalog"), layout="class_folders", age_groups="life-stages", split=(0, 0, 1), pack=16
    )
    found = {(Path(row["uri"]).name, row["kind"]) for row in result.findings.to_pylist()}
    assert found == {
        ("same.jpg", "duplicate"),
        ("same.jpg", "unlabelled"),
        ("in no folder.jpg", "unlabelled"),
        ("tiny.png", "tiny"),
        ("empty.webp", "broken"),
        ("empty too.webp", "broken"),
        ("text.gif", "broken"),
        ("senior", "empty_class"),
    }
    assert {row["split"] for row in rows_of(source / "catalog")} == {"test"}
    assert (result.num_current, result.num_ignored) == (8, 1)
    counts = count_by_group_and_split(result)
    assert counts == {
        "child": {"test": 1}, "teenager": {"test": 0}, "adult": {"test": 5}, "senior": {"test": 0}, "none": {"test": 2}
    }  # fmt: skip
    (source / "catalog.agescale" / "ages.png").write_bytes(one.read_bytes())  # the job draws its figures there
    assert build(
        *(source, source / "catalog"), layout="class_folders", age_groups="life-stages", split=(0, 0, 1), pack=16
    ).num_new == 0  # fmt: skip


def test_a_grown_folder_adds_what_is_new_changed_or_gone(drawn_faces: Path, tmp_path: Path, local_ray: None) -> None:
    source, out = tmp_path / "faces", tmp_path / "catalog"
    source.mkdir()
    for path in picture_files(drawn_faces / "utkface")[:9]:
        shutil.copy(path, source)
    *_, changed, gone, kept = picture_files(source)
    new = source / "33_0_0_20170116000000000.jpg"
    build(source, out, layout="utkface")
    before = part_sizes(out)
    facts = {row["uri"]: row for row in rows_of(out)}

    again = build(source, out, layout="utkface", split=(0.80, 0.1, 0.1))
    assert part_sizes(out) == before
    assert (again.num_new, again.num_changed, again.num_deleted, again.num_current) == (0, 0, 0, 9)

    shutil.copy(kept, new)
    Path(changed).write_bytes(b"no picture any more")
    Path(gone).unlink()
    grown = build(source, out, layout="utkface")
    added = {name: rows for name, rows in part_sizes(out).items() if name not in before}
    assert sum(added.values()) == 3  # only these were read
    replacing = [name for name in added if catalogs.ask_part(str(out / name)).replaces]
    named = parquet.read_tables([str(out / name) for name in replacing], ["uri"])["uri"]
    assert sorted(named.to_pylist()) == sorted([changed, gone])
    assert (grown.num_new, grown.num_changed, grown.num_deleted, grown.num_current) == (1, 1, 1, 9)
    rows = {row["uri"]: row for row in rows_of(out)}
    assert set(rows) == set(picture_files(source))
    assert {uri for uri in rows if rows[uri] != facts.get(uri)} == {changed, str(new)}
    assert rows[changed]["read_error"].startswith("unreadable")
    findings = Catalog.open(str(out)).findings.to_pylist()
    assert (changed, "broken") in [(row["uri"], row["kind"]) for row in findings]
    assert (kept, "conflicting") in [(row["uri"], row["kind"]) for row in findings]  # judged again
    Catalog.open(str(out)).check_complete()


def test_after_a_kill_the_same_command_completes_the_catalog(
    utkface_catalog: Path, drawn_faces: Path, tmp_path: Path
) -> None:
    out = tmp_path / "catalog"
    shutil.copytree(utkface_catalog, out)
    lost = Catalog.open(str(out)).names[1]
    num_lost = parquet.num_rows(str(out / lost))
    (out / lost).unlink()
    with pytest.raises(ValueError, match="not complete"):
        Catalog.open(str(out)).check_complete()
    result = build(drawn_faces / "utkface", out, layout="utkface", pack=32)
    assert result.num_new == num_lost
    Catalog.open(str(out)).check_complete()
    assert kinds_of(out) == EXPECTED
    without_time = [[{**row, "listed_at": None} for row in rows_of(catalog)] for catalog in (out, utkface_catalog)]
    assert without_time[0] == without_time[1]


def test_a_late_part_of_a_job_that_was_thought_dead_is_refused_or_removed(
    drawn_faces: Path, tmp_path: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = drawn_faces / "utkface", str(tmp_path / "catalog")
    left: list[Any] = []

    def die(units: list[pa.Table], writer: worker.PartWriter, *_: object, **__: object) -> Iterator[dict[str, Any]]:
        left.extend([units[0], writer])
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(driver, "run_work", die)
        with pytest.raises(ZeroDivisionError):
            build(source, out, layout="utkface")
    build(source, out, layout="utkface")
    before, about = rows_of(out), Catalog.open(out).metadata
    unit, writer = left
    with pytest.raises(lease.Held, match="another job has taken over"):
        writer(unit)
    assert rows_of(out) == before

    writer.claim = lease.Claim("", "", holder="")  # proved the moment before
    writer(unit)
    assert Catalog.open(out).metadata == about
    with pytest.raises(ValueError, match="not complete"):
        Catalog.open(out).check_complete()
    assert build(source, out, layout="utkface").num_new == 0
    Catalog.open(out).check_complete()
    assert rows_of(out) == before
    assert sum(part_sizes(out).values()) == len(before), "no row stands twice"


def test_labels_of_another_csv_are_taken_and_nothing_is_read_again(
    csv_catalog: Path, drawn_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, labels = tmp_path / "catalog", tmp_path / "labels.csv"
    shutil.copytree(csv_catalog, out)
    before = {row["uri"].rpartition("/")[2]: row for row in rows_of(out)}
    head, first, second, *others = (drawn_faces / "csv" / "labels.csv").read_text().splitlines()
    (name, age, *rest), (moved, moved_age, gender, ethnicity, subject, split) = first.split(","), second.split(",")
    other_split = "val" if split == "test" else "test"
    changed = [",".join([name, str(int(age) + 1), *rest])]
    changed += [",".join([moved, moved_age, gender, ethnicity, f"{subject}-b", other_split])]
    labels.write_text("\n".join([head, *changed, *others, "faces/gone.jpg,3,male,White,x,test"]))
    read, read_bytes = [], objects.read_bytes
    monkeypatch.setattr(objects, "read_bytes", lambda uri, *told: read.append(uri) or read_bytes(uri, *told))
    result = build(drawn_faces / "csv", out, csv=str(labels), **CSV, ethnicity_column="ethnicity")
    after = {row["uri"].rpartition("/")[2]: row for row in rows_of(out)}
    assert str(labels) in read
    assert not any(images.is_image_name(uri) for uri in read)
    assert {name: row["ethnicity"] for name, row in after.items() if row["ethnicity"] is None} == {}
    name, moved = (each.rpartition("/")[2] for each in (name, moved))
    for key, row in after.items():
        told = {"age_low", "age_high"} if key == name else {"version", "subject", "split"} if key == moved else set()
        assert {column for column in row if row[column] != before[key][column]} - {"listed_at"} == told | {"ethnicity"}
    assert after[moved]["version"] == f"{before[moved]['version']}@2"
    assert (after[moved]["split"], after[moved]["subject"]) == (other_split, f"{subject}-b")

    words = {each.uri.rpartition("/")[2]: each.words for each in result.relabelled}
    assert words[name] == f"{age} -> {int(age) + 1}, ethnicity nothing -> {after[name]['ethnicity']}"
    why = f"subject {subject} -> {subject}-b, ethnicity nothing -> {ethnicity}, split {split} -> {other_split}"
    assert words[moved] == why
    told = summary.remarks(result)
    assert f"labels changed (images not read again): {len(after)}" in told
    assert f"    and {len(after) - 10} others" in told
    assert "of these, moved to another split by their subject or split: 1; scored again next" in told
    assert {row["kind"]: row for row in result.findings.to_pylist()}["missing_file"]["uri"].endswith("/faces/gone.jpg")
    settings = {"csv": str(labels), **CSV, "ethnicity_column": "ethnicity"}
    assert build(drawn_faces / "csv", out, **settings).relabelled == ()
    labels.write_text(labels.read_text().replace("male", "woman"))

    def die(*arguments: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(driver, "_write_findings", die)  # new labels stand, and the job is killed
        with pytest.raises(ZeroDivisionError):
            build(drawn_faces / "csv", out, **settings)
    with pytest.raises(ValueError, match="not complete"):
        Catalog.open(str(out)).check_complete()
    assert build(drawn_faces / "csv", out, **settings).relabelled == ()
    Catalog.open(str(out)).check_complete()
    assert {row["gender"] for row in rows_of(out)} == {"woman", "fewoman"}

    before_groups, rows = part_sizes(out), rows_of(out)
    result = build(drawn_faces / "csv", out, **settings, age_groups="adulthood")
    assert (result.relabelled, result.group_names) == ((), ("minor", "adult"))
    assert list(part_sizes(out).values()) == [*before_groups.values(), 0], "a part of no rows tells the groups"
    assert Catalog.open(str(out)).age_groups.names == ("minor", "adult")
    assert rows_of(out) == rows
    Catalog.open(str(out)).check_complete()


def test_less_is_not_told_of_images_because_a_setting_was_forgotten(
    csv_catalog: Path, drawn_faces: Path, refused: Callable[..., str]
) -> None:
    command = ["--source", drawn_faces / "csv", "--layout", "csv", "--csv", drawn_faces / "csv" / "labels.csv"]
    said = refused(*command, "--out", csv_catalog, "--split-column", "split", "--subject-column", "subject")
    assert "gender_column was 'gender', is None" in said


def test_class_names_become_ages_and_groups_others_by_the_same_command(
    drawn_faces: Path, local_ray: None, tmp_path: Path
) -> None:
    pictures = picture_files(drawn_faces / "unlabelled")
    for folder, picture in zip(["child", "child", "teen", "adult"], pictures, strict=False):
        (tmp_path / "in" / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, tmp_path / "in" / folder)
    source, out = tmp_path / "in", tmp_path / "catalog"
    build(source, out, layout="class_folders")
    before, parts = rows_of(out), part_sizes(out)
    result = build(source, out, layout="class_folders", age_groups="child=0-12,teen=13-19,adult=20-")
    assert sorted(each.words for each in result.relabelled) == [
        "adult -> 20 and more", "child -> 0-12", "child -> 0-12", "teen -> 13-19"
    ]  # fmt: skip
    assert {row["age_low"] for row in rows_of(out)} == {0.0, 13.0, 20.0}
    assert [row["content_hash"] for row in rows_of(out)] == [row["content_hash"] for row in before]
    groups = "child=0-12,teen=13-19,adult=20-"
    assert f"age groups: {groups} (they were child,teen,adult)" in summary.remarks(result)
    assert Catalog.open(str(out)).settings["age_groups"] == groups
    assert build(source, out, layout="class_folders").relabelled == (), "the groups stay"
    narrower = build(source, out, layout="class_folders", age_groups="child=0-12,teen=13-19,adult=20-59")
    assert [each.words for each in narrower.relabelled] == ["20 and more -> 20-59"]
    assert list(part_sizes(out).values())[len(parts) :] == [4, 1]


def test_folders_of_splits_make_the_splits_and_what_a_drive_keeps_is_left_out(
    drawn_faces: Path, local_ray: None, tmp_path: Path
) -> None:
    pictures = picture_files(drawn_faces / "unlabelled")
    names = ["train/child /a.jpg", "train/young, male/b.jpg", "valid/child/c.jpg", "test/child/d.jpg"]
    thumbnails = ["@eaDir/a.jpg/THUMB.jpg", "train/child/@eaDir/a.jpg/THUMB.jpg", "lost+found/e.jpg"]
    for name, picture in zip(names + thumbnails, pictures, strict=False):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, tmp_path / "in" / name)
    out = tmp_path / "catalog"
    result = build(tmp_path / "in", out, layout="class_folders")
    assert result.num_current == 4
    assert {(row["split"], row["group"]) for row in rows_of(out)} == {
        *(("train", "child"), ("train", "young, male"), ("val", "child"), ("test", "child"))
    }
    assert result.group_names == ("child", "young, male")
    again = build(tmp_path / "in", out, layout="class_folders")
    assert (again.num_new, again.num_changed, again.num_current) == (0, 0, 4)
    assert again.relabelled == ()
    counts = count_by_group_and_split(again)
    assert counts["child"] == {"train": 1, "val": 1, "test": 1}


def test_of_folders_without_a_val_some_of_train_becomes_one() -> None:
    folders, hashed = layouts.Labels({}, has_splits=True), layouts.Labels({})
    assert settings_module.fractions_of(CatalogConfig("x", "y", split=(0.6, 0.2, 0.2)), folders) == pytest.approx(
        (0.75, 0.25, 0)
    )
    assert settings_module.fractions_of(CatalogConfig("x", "y", split=(0, 0, 1)), folders) == (1, 0, 0)
    assert settings_module.fractions_of(CatalogConfig("x", "y", split=(0.6, 0.2, 0.2)), hashed) == (0.6, 0.2, 0.2)
    assert settings_module.fractions_of(CatalogConfig("x", "y", split_column="split"), hashed) is None


def test_findings_about_a_csv_name_its_lines(drawn_faces: Path, local_ray: None, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, picture in zip("abc", picture_files(drawn_faces / "unlabelled"), strict=False):
        shutil.copy(picture, tmp_path / "in" / f"{name}.jpg")
    (tmp_path / "in" / "d.jxl").touch()
    labels = tmp_path / "labels.csv"
    labels.write_text("file,age,sex\na.jpg,30-39,f\nb.jpg,9-Mar,m\nd.jxl,4,m\nC.jpg,5,m\n")
    result = build(f"file://{tmp_path}/in", f"file://{tmp_path}/catalog", layout="csv", csv=f"file://{labels}")
    assert result.unused_columns == ("--gender-column sex",)
    found = {(paths.name_of(row["uri"]), row["kind"]): row["detail"] for row in result.findings.to_pylist()}
    lines = {paths.name_of(row["uri"]): row["line"] for row in result.findings.to_pylist()}
    assert lines == {"b.jpg": 3, "c.jpg": None, "d.jxl": 4, "C.jpg": 5}
    date = "a date, which spreadsheets make of ranges such as 3-9"
    assert found["b.jpg", "unlabelled"] == f"age '9-Mar' is not a number from 0 to 120: {date}"
    assert found["c.jpg", "unlabelled"] == "the CSV has no row for it"
    assert found["d.jxl", "missing_file"] == "line 4 of the CSV names it, and its format is not taken"
    why = "line 5 of the CSV names it, and it is not there; 'c.jpg' is, the same but for upper and lower case"
    assert found["C.jpg", "missing_file"] == why


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the job's command line and returns the one line with which it refuses."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr("sys.argv", [JOB, *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(JOB, run_name="__main__")
        assert caught.value.code == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err

    return run


def test_a_catalog_of_other_settings_is_not_touched(
    utkface_catalog: Path, drawn_faces: Path, refused: Callable[..., str]
) -> None:
    command = ("--source", drawn_faces / "utkface", "--layout", "utkface", "--out", utkface_catalog)
    before = {path.name: path.stat().st_mtime_ns for path in utkface_catalog.glob("[!.]*")}
    assert "(pack was 32, is 64); give another --out" in refused(*command, "--pack", 64)
    message = refused(*command, "--pack", 32, "--age-groups", "life-stages", "--split", 0, 0, 1)
    assert "(split was '0.8,0.1,0.1', is '0,0,1'); give another --out" in message
    other = ("--source", drawn_faces / "unlabelled", *command[2:], "--pack", 32)
    assert f"source was '{drawn_faces}/utkface', is '{drawn_faces}/unlabelled'" in refused(*other)
    assert before == {path.name: path.stat().st_mtime_ns for path in utkface_catalog.glob("[!.]*")}


@pytest.mark.parametrize("layout", ["utkface", "unlabelled"])
def test_a_second_job_on_the_same_output_stops_in_one_line(
    layout: str, drawn_faces: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    command = ("--source", drawn_faces / layout, "--layout", layout, "--out", tmp_path / "catalog")
    with lease.hold(str(tmp_path / "catalog"), folders.beside(str(tmp_path / "catalog"))):
        assert "another job" in refused(*command)
    assert folders.list_parts(str(tmp_path / "catalog"), "catalog") == []


def test_the_columns_of_a_csv_stay_too(csv_catalog: Path, drawn_faces: Path, refused: Callable[..., str]) -> None:
    command = ("--source", drawn_faces / "csv", "--layout", "csv", "--csv", drawn_faces / "csv" / "labels.csv")
    message = refused(*command, "--split-column", "split", "--gender-column", "gender", "--out", csv_catalog)
    assert "(subject_column was 'subject', is None)" in message


def test_what_cannot_work_is_refused_before_any_work(
    drawn_faces: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    out = ("--out", tmp_path / "catalog")
    faces = ("--source", drawn_faces / "utkface", *out)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    assert "empty: no images there (1 other files)" in refused("--source", tmp_path / "empty", *out)
    assert "nowhere: no such folder" in refused("--source", tmp_path / "nowhere", *out)
    assert "gs://x/y: a URI is a path" in refused("--source", "gs://x/y", *out)
    assert "--out" in refused("--source", drawn_faces / "utkface", "--out", drawn_faces / "utkface")
    assert "--csv and --layout csv go together" in refused(*faces, "--layout", "csv")
    assert "--csv and --layout csv go together" in refused(*faces, "--csv", drawn_faces / "csv" / "labels.csv")
    assert "nothing.csv: not found" in refused(*faces, "--layout", "csv", "--csv", tmp_path / "nothing.csv")
    assert "--split 0.9 0.2: three shares" in refused(*faces, "--split", 0.9, 0.2)
    assert "overlap" in refused(*faces, "--layout", "utkface", "--age-groups", "a=0-20,b=20-")
    assert "--pack 4: pixels" in refused(*faces, "--layout", "utkface", "--pack", 4)
    assert "give --inspect with it" in refused(*faces, "--pack", 64)
    assert "none of 29 images has a label" in refused(
        *("--source", drawn_faces / "unlabelled", *out, "--layout", "utkface")
    )
    (tmp_path / "labels.csv").write_text("file,age\nin/a.jpg,3\n")
    assert "none of its 1 rows names an image" in refused(*faces, "--layout", "csv", "--csv", tmp_path / "labels.csv")
    (tmp_path / "list.csv").write_text("file,etag\n")
    assert "--listing goes with --layout unlabelled" in refused(*faces, "--layout", "utkface", "--listing", "x.csv")
    assert "x.csv: not found" in refused(*faces, "--listing", tmp_path / "x.csv")
    assert "list.csv: " in refused(*faces, "--listing", tmp_path / "list.csv")
    assert folders.list_parts(str(tmp_path / "catalog"), "catalog") == []


def test_few_images_are_read_without_ray_where_none_runs(
    utkface_catalog: Path, drawn_faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "is_cluster_at_hand", lambda: False)
    with monkeypatch.context() as patch:
        patch.setattr(driver, "start_ray", None)
        build(drawn_faces / "utkface", tmp_path / "here", layout="utkface", pack=32)
    assert len(part_sizes(tmp_path / "here")) == 1 < len(part_sizes(utkface_catalog))
    found, expected = (
        [{**row, "listed_at": None} for row in rows_of(catalog)] for catalog in (tmp_path / "here", utkface_catalog)
    )
    assert found == expected
    monkeypatch.setattr(driver, "FEW_IMAGES", len(expected) - 1)
    build(drawn_faces / "utkface", tmp_path / "there", layout="utkface", pack=32)
    assert len(part_sizes(tmp_path / "there")) == len(part_sizes(utkface_catalog))


@pytest.fixture(scope="module")
def faces_on_s3(s3: str, drawn_faces: Path) -> str:
    folder = drawn_faces / "csv"
    for path in folder.rglob("*.*"):
        objects.write_bytes(f"{s3}/csv/{path.relative_to(folder)}", path.read_bytes())
    return f"{s3}/csv"


def test_from_s3_comes_the_same_catalog_as_from_disk(
    faces_on_s3: str, csv_catalog: Path, drawn_faces: Path, run_job: Callable[..., Any]
) -> None:
    out = "s3://faces/catalogs/csv"
    columns = [("--split-column", "split"), ("--subject-column", "subject"), ("--gender-column", "gender")]
    done = run_job(
        *("jobs/catalog.py", "--source", faces_on_s3, "--layout", "csv", "--csv", f"{faces_on_s3}/labels.csv"),
        *(word for pair in columns for word in pair),
        *("--out", out, "--report"),
    )
    assert done.returncode == 0, done.stderr
    assert f"catalog: {out}" in done.stdout
    assert "finding: broken      │ 4" in done.stdout
    assert "age group" in done.stdout
    assert done.stderr == ""  # Ray keeps its news to itself
    beside = folders.beside(out)
    shown = {"ages.png", "classes.png", "findings.html"}
    assert b"data:image/jpeg" in objects.read_bytes(f"{beside}/findings.html")
    assert set(objects.list_names(beside)) == shown | {"findings.csv", "findings.parquet", "footers.parquet"}
    assert objects.list_names(out) == folders.list_parts(out, "catalog")
    assert objects.read_bytes(f"{beside}/ages.png").startswith(b"\x89PNG")
    Catalog.open(out).check_complete()

    def facts(catalog: str, source: str) -> list[dict[str, Any]]:
        rows = [{**row, "uri": row["uri"].removeprefix(source)} for row in rows_of(catalog)]
        return [{name: value for name, value in row.items() if name not in ("version", "listed_at")} for row in rows]

    def findings(catalog: str, source: str) -> list[tuple[str, ...]]:
        rows = Catalog.open(catalog).findings.to_pylist()
        return [(row["uri"].removeprefix(source), row["kind"], row["detail"]) for row in rows]

    local, source = str(csv_catalog), str(drawn_faces / "csv")
    assert facts(out, faces_on_s3) == facts(local, source)
    assert findings(out, faces_on_s3) == findings(local, source)


def test_a_bucket_without_labels_is_listed_as_a_folder_is(
    faces_on_s3: str, drawn_faces: Path, run_job: Callable[..., Any]
) -> None:
    out = "s3://faces/catalogs/listed"
    for num_new in (len(picture_files(drawn_faces / "csv")), 0):
        done = run_job("jobs/catalog.py", "--source", faces_on_s3, "--out", out)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert f"│ new                  │ {num_new} " in done.stdout
    assert objects.list_names(out) == ["part-00001-0000000000.parquet"]
    names = [row["uri"].removeprefix(faces_on_s3) for row in rows_of(out)]
    assert names == [name.removeprefix(str(drawn_faces / "csv")) for name in picture_files(drawn_faces / "csv")]


def test_a_wrong_secret_is_one_clear_line(faces_on_s3: str, tmp_path: Path, run_job: Callable[..., Any]) -> None:
    command = ("jobs/catalog.py", "--source", faces_on_s3, "--out", tmp_path / "catalog")
    done = run_job(*command, env={"AWS_SECRET_ACCESS_KEY": "wrong"})
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {faces_on_s3}: access refused")
    assert "check the credentials in the environment" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_store_without_conditional_writes_wants_a_word_from_the_user(
    faces_on_s3: str, counter: FaultProxy, run_job: Callable[..., Any]
) -> None:
    counter.conditions = "ignored"
    out = "s3://faces/catalogs/without-conditions"
    command = ("jobs/catalog.py", "--source", faces_on_s3, "--out", out)
    done = run_job(*command, env={"AWS_ENDPOINT_URL": counter.url})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {out}: this store ignores If-None-Match")
    assert done.stderr.endswith("--no-lease\n")
    assert done.stderr.count("\n") == 1
    assert folders.list_parts(out, "catalog") == []
    done = run_job(*command, "--no-lease", env={"AWS_ENDPOINT_URL": counter.url})
    assert done.returncode == 0, done.stderr
    assert len(rows_of(out)) > 0


def found(groups: dict[str, dict[str, int]], age: float | None) -> CatalogResult:
    """What a run has found where so many images of each group stand in each split, all of one age or of none."""
    rows = [
        {"group": group, "split": split, "age_low": age, "age_high": age and age + 1}
        for group, by_split in groups.items()
        for split, count in by_split.items()
        for _ in range(count)
    ]
    columns = pa.schema([field.with_nullable(True) for field in schema.CATALOG])
    nothing = schema.FINDINGS.empty_table()
    return CatalogResult(len(rows), 0, 0, len(rows), 0, nothing, pa.Table.from_pylist(rows, columns), tuple(groups))


ENOUGH = {"train": 100, "val": 20, "test": 2}


def test_a_class_with_few_validation_images_is_remarked_with_its_count() -> None:
    groups = {"child": {"train": 200, "val": 15}, "teen": {"train": 120}, "adult": ENOUGH}
    (remark,) = remarks(found(groups, age=9.0))
    assert remark.startswith("few validation images (under 20): child (15), teen (0); ")
    assert remarks(found({"adult": ENOUGH}, age=9.0)) == []


def test_a_group_and_children_of_whom_there_is_little_to_learn_are_remarked_with_their_count() -> None:
    groups = {"child": {"train": 7, "val": 20}, "adult": ENOUGH, "senior": {"test": 9}}
    group, minors = remarks(found(groups, age=17.0))[:1], remarks(found({"adult": ENOUGH}, age=18.0))
    assert group == ["few training images (under 100): child (7), senior (0); a model hardly learns such people"]
    assert minors == [
        "few minors: of 100 training images with an age 0 are of people under 18; a model hardly learns children"
    ]
    assert remarks(found({"adult": {"test": 9}}, age=30.0)) == [], "nobody is to learn from these"


def test_that_no_image_has_an_age_is_said_with_what_gives_the_names_bounds() -> None:
    (remark,) = remarks(found({"child": ENOUGH, "adult": ENOUGH}, age=None))
    assert remark.startswith("no image has an age, only a class name")
    assert '--age-groups "child=0-12,adult=..."' in remark


def test_ages_that_the_groups_leave_out_are_remarked() -> None:
    rows = [{"uri": f"{index}.jpg", "version": "", "kind": "outside_groups"} for index in range(3)]
    result = replace(found({"child": ENOUGH}, 11.0), findings=pa.Table.from_pylist(rows, schema.FINDINGS))
    assert remarks(result) == ["3 images have an age or age range outside all age groups"]


def test_ages_are_drawn_only_where_there_are_any(tmp_path: Path) -> None:
    for age, files in ((None, ["classes.png"]), (30.0, ["ages.png", "classes.png"])):
        out = tmp_path / str(age)
        assert catalog_command.write_charts(str(out), found({"child": ENOUGH}, age)) == files
        assert sorted(path.name for path in (tmp_path / f"{age}.agescale").iterdir()) == files


@pytest.mark.parametrize("layout", ["unlabelled", "utkface"])
def test_a_listing_that_waited_for_another_job_is_made_anew(
    layout: str, drawn_faces: Path, tmp_path: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "faces", tmp_path / "catalog"
    source.mkdir()
    faces = picture_files(drawn_faces / "utkface")[:6]
    for path in faces[:5]:
        shutil.copy(path, source)
    build(source, out, layout=layout)
    claim = folders.output

    def another_job_is_faster(*arguments: Any) -> Output:
        monkeypatch.setattr(folders, "output", claim)
        shutil.copy(faces[5], source)
        assert build(source, out, layout=layout).num_new == 1
        return claim(*arguments)

    monkeypatch.setattr(folders, "output", another_job_is_faster)
    late = build(source, out, layout=layout)
    assert (late.num_new, late.num_deleted, late.num_current) == (0, 0, 6)


def test_large_archives_are_read_by_ray(
    drawn_faces: Path, tmp_path: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [path for path in sorted((drawn_faces / "utkface").iterdir()) if images.is_image_name(path.name)]
    (tmp_path / "shards").mkdir()
    for number in range(3):
        members = {path.name: path.read_bytes() for path in files[number::3]}
        write_tar(tmp_path / "shards" / f"{number}.tar", members)
    (tmp_path / "shards" / "3.tar").write_bytes(b"no tar")
    monkeypatch.setattr(driver, "MANY_BYTES", 0)
    labelled = build(tmp_path / "shards", tmp_path / "labelled", layout="utkface")
    listed = build(tmp_path / "shards", tmp_path / "listed")
    names = [path.name for path in files]
    for out in ("labelled", "listed"):
        assert sorted(paths.name_of(row["uri"]) for row in rows_of(tmp_path / out)) == names
        assert kinds_of(tmp_path / out)["broken_archive"] == 1
    assert labelled.num_new == listed.num_new == len(files)
    assert build(tmp_path / "shards", tmp_path / "listed").num_new == 0


def test_a_photo_saved_again_is_found_without_reading_known_ones_and_left_out_where_asked(
    tmp_path: Path, no_ray_for_few: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "catalog"
    (photos / "train/20").mkdir(parents=True)
    (photos / "test/20").mkdir(parents=True)
    faces = [portraits.draw_face(np.random.default_rng(seed), 20, "female", "White") for seed in range(4)]
    for number, face in enumerate(faces):
        face.save(photos / f"train/20/{number}.jpg", quality=95)
    faces[3].save(photos / "test/20/3.jpg", quality=95)
    result = build(photos, out, layout="class_folders", split=(1, 0, 0))
    assert summary.count_by_kind(result.findings) == {"duplicate": 1, "leaking": 1}
    assert not [remark for remark in remarks(result) if "looks the same" in remark]

    faces[0].resize((90, 90)).save(photos / "test/20/again.jpg")
    faces[1].resize((90, 90)).save(photos / "train/20/again.jpg")
    inspected: list[int] = []
    write = worker.PartWriter.__call__

    def count_rows(self: worker.PartWriter, unit: pa.Table) -> pa.Table:
        inspected.append(len(unit))
        return write(self, unit)

    monkeypatch.setattr(worker.PartWriter, "__call__", count_rows)
    build(photos, out, layout="class_folders", split=(1, 0, 0))
    assert sum(inspected) == 2
    catalog = Catalog.open(str(out))
    found = {row["kind"]: row for row in catalog.findings.to_pylist()}
    assert found.keys() == {"duplicate", "leaking", "near_duplicate", "near_leaking"}
    assert paths.name_of(found["near_leaking"]["uri"]) == "0.jpg"
    assert found["near_leaking"]["related_uri"].endswith("test/20/again.jpg")
    assert found["near_leaking"]["detail"].endswith("in train and test")
    assert found["near_duplicate"]["related_uri"].endswith("train/20/1.jpg")

    def num_learned(*leave_out: str) -> int:
        return len(selection.labelled_rows(catalog, leave_out=leave_out))

    assert (num_learned(), num_learned("near_leaking"), num_learned("near_leaking", "near_duplicate")) == (4, 3, 2)


def test_images_that_an_older_agescale_has_listed_are_told() -> None:
    rows = [{"uri": name, "version": "1", "deleted": False, "width": 9, "age_low": 3.0} for name in "ab"]
    table = pa.Table.from_pylist(rows, schema.CATALOG)
    result = CatalogResult(0, 0, 0, 2, 0, findings=schema.FINDINGS.empty_table(), rows=table, group_names=("child",))
    assert [remark for remark in remarks(result) if remark.startswith("images of which")] == [
        "images of which is not known what looks the same as they: 2 (flat pictures, or listed by an older agescale; a "
        "new catalog knows of the latter)"
    ]
