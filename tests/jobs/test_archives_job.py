"""Archives as sources of whole jobs: what lies in a tar or a zip is cataloged, scored and learned from as files are."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.dataset as pads
import pytest
from conftest import make_checkpoint
from dying_writes import dies_at_write
from factories import write_rows, write_tar, write_zip
from fault_proxy import FaultProxy

from agescale.cataloging.driver import build_catalog
from agescale.cataloging.summary import CatalogResult
from agescale.config import CatalogConfig, CompactConfig, PackConfig, ScoreConfig, VerifyConfig
from agescale.operations import packing
from agescale.operations.packing import Packed, pack
from agescale.scoring.driver import score
from agescale.scoring.verification import verify
from agescale.store import archives, client, objects, paths
from agescale.tables import folders
from agescale.tables.catalogs import Catalog
from agescale.tables.compaction import compact

SEEN = ["size_bytes", "content_hash", "read_error", "age_low", "age_high", "gender", "split", "label_error", "subject"]


def files_of(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def faces(drawn_faces: Path) -> dict[str, bytes]:
    return files_of(drawn_faces / "utkface")


@pytest.fixture
def shards(faces: dict[str, bytes], tmp_path: Path) -> Path:
    """Three tars and a zip."""
    (tmp_path / "shards").mkdir()
    names = list(faces)
    for number in range(3):
        members = {name: faces[name] for name in names[number::4]}
        write_tar(tmp_path / "shards" / f"{number}.tar", members)
    write_zip(tmp_path / "shards" / "3.zip", {name: faces[name] for name in names[3::4]})
    return tmp_path / "shards"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "checkpoint")


def build(source: Path | str, out: Path | str, **settings: Any) -> CatalogResult:
    return build_catalog(CatalogConfig(str(source), str(out), **settings))


def told(catalog: Path | str, columns: list[str] = SEEN) -> dict[str, tuple[Any, ...]]:
    """What is told of each image, by the name of its file."""
    rows = Catalog.open(str(catalog)).read(["uri", *columns]).to_pylist()
    return {paths.name_of(row["uri"]): tuple(row[name] for name in columns) for row in rows}


def uris_of(folder: Path) -> list[str]:
    return list(Catalog.open(str(folder / "catalog")).read(["uri"])["uri"].to_pylist())


def kinds_of(result: CatalogResult) -> Counter[str]:
    return Counter(result.findings["kind"].to_pylist())


def score_here(catalog: Path | str, checkpoint: str, out: Path | str, **settings: Any) -> dict[str, Any]:
    """Ages by the names of files; None where there is none."""
    score(ScoreConfig(str(catalog), str(out), checkpoint, num_workers=0, **settings))
    rows = pads.dataset(str(out), format="parquet").to_table(columns=["uri", "status", "age"]).to_pylist()
    return {paths.name_of(row["uri"]): (row["status"], row["age"]) for row in rows}


def test_an_archive_and_what_is_unpacked_from_it_give_the_same_catalog(
    drawn_faces: Path, faces: dict[str, bytes], shards: Path, tmp_path: Path
) -> None:
    plain = build(drawn_faces / "utkface", tmp_path / "plain", layout="utkface")
    packed = build(shards, tmp_path / "packed", layout="utkface")
    alone = build(write_zip(tmp_path / "faces.zip", faces), tmp_path / "alone", layout="utkface")
    assert told(tmp_path / "plain") == told(tmp_path / "packed") == told(tmp_path / "alone")
    assert kinds_of(plain) == kinds_of(packed) == kinds_of(alone)
    assert plain.num_ignored == packed.num_ignored == alone.num_ignored == 1
    uris = Catalog.open(str(tmp_path / "alone")).read(["uri"])["uri"].to_pylist()
    assert sorted(uri.removeprefix(f"{tmp_path}/faces.zip!/") for uri in uris) == sorted(
        name for name in faces if not name.endswith(".txt")
    )


@pytest.mark.parametrize("layout", ["class_folders", "csv"])
def test_folders_and_csv_name_members_as_they_name_files(drawn_faces: Path, tmp_path: Path, layout: str) -> None:
    files = files_of(drawn_faces / layout)
    columns = {"split_column": "split", "subject_column": "subject", "gender_column": "gender"}
    csv: dict[str, Any] = columns if layout == "csv" else {}
    of_files = {"csv": str(drawn_faces / "csv" / "labels.csv")} if csv else {}
    plain = build(drawn_faces / layout, tmp_path / "plain", layout=layout, **csv, **of_files)
    archive = write_tar(tmp_path / "faces.tar", {f"./{name}": data for name, data in files.items()})
    inside = {"csv": f"{archive}!/labels.csv"} if csv else {}
    packed = build(archive, tmp_path / "packed", layout=layout, **csv, **inside)
    assert told(tmp_path / "packed") == told(tmp_path / "plain")
    assert kinds_of(packed) - Counter(["empty_class"]) == kinds_of(plain) - Counter(["empty_class"])


def test_splits_above_shards_are_those_of_their_members(faces: dict[str, bytes], tmp_path: Path) -> None:
    names = [name for name in faces if name.endswith("chip.jpg")][:8]
    for split, some in (("train", names[:4]), ("val", names[4:6]), ("test", names[6:])):
        (tmp_path / "source" / split).mkdir(parents=True)
        members = {
            f"{25 * (number % 2)}-{25 * (number % 2) + 24}/{name}": faces[name] for number, name in enumerate(some)
        }
        write_tar(tmp_path / "source" / split / "0.tar", members)
    build(tmp_path / "source", tmp_path / "catalog", layout="class_folders")
    splits = told(tmp_path / "catalog", ["split"])
    assert [splits[paths.name_of(name)] for name in names] == [("train",)] * 4 + [("val",)] * 2 + [("test",)] * 2


def test_a_name_in_a_csv_that_several_archives_have_is_no_label(faces: dict[str, bytes], tmp_path: Path) -> None:
    data = [data for name, data in faces.items() if name.endswith("chip.jpg")]
    (tmp_path / "source").mkdir()
    write_tar(tmp_path / "source" / "0.tar", {"a.jpg": data[0], "b.jpg": data[1]})
    write_tar(tmp_path / "source" / "1.tar", {"a.jpg": data[2]})
    (tmp_path / "labels.csv").write_text("file_name,age\na.jpg,3\nb.jpg,4\n")
    build(tmp_path / "source", tmp_path / "catalog", layout="csv", csv=str(tmp_path / "labels.csv"))
    rows = Catalog.open(str(tmp_path / "catalog")).read(["uri", "age_low", "label_error"]).to_pylist()
    found = {row["uri"].removeprefix(f"{tmp_path}/source/"): (row["age_low"], row["label_error"]) for row in rows}
    why = "2 images of this name in several archives; which is meant?"
    assert found == {"0.tar!/a.jpg": (None, why), "1.tar!/a.jpg": (None, why), "0.tar!/b.jpg": (4.0, None)}


def test_records_of_webdataset_are_labels_and_may_be_mended(faces: dict[str, bytes], tmp_path: Path) -> None:
    pictures = [data for name, data in faces.items() if name.endswith("chip.jpg")][:12]
    (tmp_path / "source").mkdir()

    def write(ages: list[int]) -> None:
        for shard in range(2):
            members = {}
            for number, age in enumerate(ages[shard::2]):  # the same names in each shard
                members[f"{number:06d}.jpg"] = pictures[shard::2][number]
                members[f"{number:06d}.json"] = json.dumps({"age": age, "sex": "f", "shard": shard}).encode()
            write_tar(tmp_path / "source" / f"{shard}.tar", members)

    def ages() -> list[float]:
        rows = Catalog.open(str(tmp_path / "catalog")).read(["uri", "age_low"]).sort_by("uri")
        return list(rows["age_low"].to_pylist())

    write(list(range(20, 32)))
    result = build(tmp_path / "source", tmp_path / "catalog", layout="records", gender_column="sex")
    assert (result.num_new, result.num_ignored) == (12, 12)
    assert ages() == [*range(20, 32, 2), *range(21, 32, 2)]
    write([*range(20, 31), 77])
    result = build(tmp_path / "source", tmp_path / "catalog", layout="records", gender_column="sex")
    assert (result.num_new, result.num_changed, len(result.relabelled)) == (0, 0, 1)
    assert ages() == [*range(20, 32, 2), *range(21, 31, 2), 77]


def test_a_data_set_of_hugging_face_is_cataloged_and_scored_as_its_files_are(
    drawn_faces: Path, faces: dict[str, bytes], checkpoint: str, tmp_path: Path
) -> None:
    (tmp_path / "source").mkdir()
    pictures = {name: data for name, data in faces.items() if not name.endswith(".txt")}
    ages = [name.partition("_")[0] for name in pictures]
    write_rows(tmp_path / "source" / "train-0.parquet", pictures, years=ages)
    build(drawn_faces / "utkface", tmp_path / "plain", layout="utkface")
    out = tmp_path / "source" / "catalog"  # tables of ours in the source hold no photos
    build(tmp_path / "source", out, layout="utkface", pack=32)
    assert told(out) == told(tmp_path / "plain")
    build(tmp_path / "source", tmp_path / "source" / "listed")
    build(tmp_path / "source", tmp_path / "records", layout="records", age_column="years")
    assert told(tmp_path / "records", ["age_low", "content_hash"]) == told(out, ["age_low", "content_hash"])
    of_plain = score_here(tmp_path / "plain", checkpoint, tmp_path / "of-plain")
    assert score_here(tmp_path / "source" / "listed", checkpoint, tmp_path / "of-listed") == of_plain


def test_members_are_scored_as_the_files_are(drawn_faces: Path, shards: Path, checkpoint: str, tmp_path: Path) -> None:
    build(drawn_faces / "utkface", tmp_path / "plain")
    build(shards, tmp_path / "packed")
    ages = score_here(tmp_path / "plain", checkpoint, tmp_path / "of-plain")
    assert score_here(tmp_path / "packed", checkpoint, tmp_path / "of-packed") == ages
    assert Counter(status for status, _ in ages.values())["ok"] > 20
    verify(VerifyConfig(str(tmp_path / "packed"), str(tmp_path / "of-packed")))


def test_of_an_archive_written_anew_only_members_with_other_bytes_are_scored_again(
    shards: Path, faces: dict[str, bytes], checkpoint: str, tmp_path: Path
) -> None:
    catalog, out = tmp_path / "catalog", tmp_path / "out"
    build(shards, catalog)
    before = score_here(catalog, checkpoint, out)
    names = list(faces)[0::4]
    members = {name: faces[name] for name in reversed(names)}  # all of them in other places
    members[names[3]] = faces[names[4]]
    del members[names[5]]
    members["new.jpg"] = faces[names[6]]
    write_tar(shards / "0.tar", members)
    result = build(shards, catalog)
    assert (result.num_new, result.num_changed, result.num_deleted) == (1, 1, 1)
    scored = score(ScoreConfig(str(catalog), str(out), checkpoint, num_workers=0))
    assert scored.num_scored_now == 2
    after = score_here(catalog, checkpoint, tmp_path / "anew")
    new, old = paths.name_of(names[3]), paths.name_of(names[5])
    assert after.keys() == {*before, "new.jpg"} - {old}
    assert {name: age for name, age in after.items() if name not in (new, "new.jpg")} == {
        name: age for name, age in before.items() if name not in (new, old)
    }


def test_an_archive_that_has_not_changed_is_not_read_again(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(shards, tmp_path / "catalog")
    build(shards, tmp_path / "labelled", layout="utkface")

    def read(uri: str, version: str) -> archives.Index:
        raise AssertionError(f"{uri} is read again")

    monkeypatch.setattr(archives, "read_index", read)
    assert build(shards, tmp_path / "catalog").num_new == 0
    assert build(shards, tmp_path / "labelled", layout="utkface").num_new == 0


@pytest.mark.parametrize("layout", ["unlabelled", "utkface"])
def test_a_broken_archive_is_findings_and_the_others_are_cataloged(
    shards: Path, faces: dict[str, bytes], tmp_path: Path, layout: str
) -> None:
    num_whole = sum(not name.endswith(".txt") for name in faces)
    tar, packed = (shards / "1.tar").read_bytes(), (shards / "3.zip").read_bytes()
    (shards / "1.tar").write_bytes(tar[: len(tar) // 2])
    (shards / "3.zip").write_bytes(packed[:-40])
    (shards / "4.tar").write_bytes(b"no tar")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_tar(shards / "5.tar", {"../x.jpg": b"1"})
    result = build(shards, tmp_path / "catalog", layout=layout)
    assert num_whole / 2 < result.num_current < num_whole
    about = [row for row in result.findings.to_pylist() if row["kind"] in ("broken_archive", "unusable_member")]
    found = {row["uri"].removeprefix(f"{shards}/"): row["kind"] for row in about}
    broken = dict.fromkeys(("1.tar", "3.zip", "4.tar"), "broken_archive")
    assert found == {**broken, "5.tar!/../x.jpg": "unusable_member"}
    assert Catalog.open(str(tmp_path / "catalog")).findings.num_rows == len(result.findings)
    again = build(shards, tmp_path / "catalog", layout=layout)
    assert again.findings.equals(result.findings)
    (shards / "1.tar").write_bytes(tar)
    assert kinds_of(build(shards, tmp_path / "catalog", layout=layout))["broken_archive"] == 2
    assert not [name for name in objects.list_names(folders.beside(str(tmp_path / "catalog"))) if "problems" in name]


def test_a_compacted_catalog_knows_where_members_lie(
    shards: Path, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(shards, tmp_path / "catalog")
    compact(CompactConfig(str(tmp_path / "catalog"), str(tmp_path / "compacted")))
    monkeypatch.setattr(archives, "read_index", lambda *_: pytest.fail("it is looked into again"))
    assert score_here(tmp_path / "compacted", checkpoint, tmp_path / "ages")


def test_shards_on_s3_are_cataloged_and_scored_in_few_requests(
    shards: Path, s3: str, checkpoint: str, counter: FaultProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = paths.join(s3, "shards")
    for path in shards.iterdir():
        objects.write_bytes(f"{source}/{path.name}", path.read_bytes())
    monkeypatch.setenv("AWS_ENDPOINT_URL", counter.url)
    client._filesystem.cache_clear()
    try:
        build(source, tmp_path / "catalog")
        assert counter.num_requests("HEAD") == len(list(shards.iterdir()))
        before = counter.num_requests("GET")
        ages = score_here(tmp_path / "catalog", checkpoint, tmp_path / "ages")
        assert counter.num_requests("GET") - before == len(list(shards.iterdir()))
        assert build(f"{source}/0.tar", tmp_path / "one").num_new == sum("/0.tar!/" in uri for uri in uris_of(tmp_path))
        counter.requests.clear()
        assert build(source, tmp_path / "catalog").num_new == 0
        assert {operation for operation, _ in counter.requests} == {"LIST"}
    finally:
        client._filesystem.cache_clear()
    build(shards, tmp_path / "on-disk")
    assert ages == score_here(tmp_path / "on-disk", checkpoint, tmp_path / "of-disk")


@pytest.mark.usefixtures("no_ray_for_few")
def test_whatever_write_on_s3_is_the_last_one_of_a_pack_the_same_command_ends_with_each_image_once(
    drawn_faces: Path, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kills between any two writes, one after the other; a shard tells of an image that has gone meanwhile."""
    monkeypatch.setattr(packing.units, "MAX_UNIT_ROWS", 9)
    shutil.copytree(drawn_faces / "utkface", tmp_path / "faces")
    build(tmp_path / "faces", tmp_path / "catalog", layout="utkface")
    next((tmp_path / "faces").glob("*.chip.jpg")).unlink()
    num_listed = len(uris_of(tmp_path))

    def packed(out: str) -> Packed:
        return pack(PackConfig(str(tmp_path / "catalog"), f"{s3}/packed/{out}"))

    def written(out: str) -> dict[str, bytes]:
        folders_of = (f"{s3}/packed/{out}", f"{s3}/packed/{out}.agescale")
        names = [(folder, name) for folder in folders_of for name in objects.list_names(folder)]
        return {
            name: objects.read_bytes(f"{folder}/{name}") for folder, name in names if name.endswith((".tar", ".json"))
        }

    whole = packed("whole")
    assert (whole.num_images, whole.num_left_out) == (num_listed - 1, 1)
    expected = written("whole")
    for number in range(20):
        if not dies_at_write(number, lambda number=number: packed(f"killed-{number}")):  # type: ignore[misc]
            break
        standing = sum(name.endswith(".tar") for name in written(f"killed-{number}"))
        assert standing < whole.num_shards
        again = packed(f"killed-{number}")
        assert again.num_shards == whole.num_shards
        assert written(f"killed-{number}") == expected
    assert number > whole.num_shards, "it was hardly ever killed"
    assert packed("whole") == Packed(whole.num_shards, 0, 0)
    shards = io.BytesIO(b"".join(data for name, data in expected.items() if name.endswith(".tar")))
    with tarfile.open(fileobj=shards, ignore_zeros=True) as together:
        members = together.getnames()
    pictures = [name for name in members if not name.endswith(".json")]
    assert len(set(pictures)) == len(pictures) == whole.num_images
