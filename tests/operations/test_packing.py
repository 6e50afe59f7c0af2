"""Shards of a catalog: as many images as it has, with their labels, once, however often and however it is packed."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from agescale.ages.labels import parse_interval
from agescale.cataloging.driver import build_catalog
from agescale.config import CatalogConfig, PackConfig
from agescale.operations import packing
from agescale.operations.packing import Packed, pack, record_of, shards_of
from agescale.store import paths
from agescale.tables.catalogs import Catalog

SEEN = ["content_hash", "age_low", "age_high", "gender", "ethnicity", "split"]

pytestmark = pytest.mark.usefixtures("no_ray_for_few")


def told(catalog: Path) -> list[tuple[Any, ...]]:
    rows = Catalog.open(str(catalog)).read(["uri", *SEEN]).to_pylist()
    return sorted((paths.name_of(row["uri"]), *(str(row[name]) for name in SEEN)) for row in rows)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


@pytest.fixture
def source(drawn_faces: Path, tmp_path: Path) -> Path:
    shutil.copytree(drawn_faces / "utkface", tmp_path / "faces")
    return tmp_path / "faces"


@pytest.fixture
def catalog(source: Path, tmp_path: Path) -> Path:
    build_catalog(CatalogConfig(str(source), str(tmp_path / "catalog"), layout="utkface"))
    return tmp_path / "catalog"


def test_a_catalog_of_the_shards_is_that_of_the_files(catalog: Path, tmp_path: Path) -> None:
    done = pack(PackConfig(str(catalog), str(tmp_path / "shards")))
    rows = Catalog.open(str(catalog)).read(["uri"])
    assert done == Packed(1, len(rows), 0)
    build_catalog(
        CatalogConfig(
            str(tmp_path / "shards"), str(tmp_path / "again"), layout="records", label_column="label",
            gender_column="gender", ethnicity_column="ethnicity", split_column="split",
        )
    )  # fmt: skip
    before = [row for row in told(catalog) if "None" not in row]
    assert [row for row in told(tmp_path / "again") if "None" not in row] == before
    assert len(before) > 20


def test_the_same_command_again_writes_only_what_does_not_stand(
    catalog: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing.units, "MAX_UNIT_ROWS", 9)
    config = PackConfig(str(catalog), str(tmp_path / "shards"))
    done = pack(config)
    assert done.num_shards == len(contents(tmp_path / "shards")) > 2
    assert pack(config) == Packed(done.num_shards, 0, 0)
    before = contents(tmp_path / "shards")
    name = sorted(before)[1]
    (tmp_path / "shards" / name).unlink()
    assert 0 < pack(config).num_images <= 9
    assert contents(tmp_path / "shards") == before


def test_what_a_catalog_has_grown_by_becomes_further_shards(source: Path, catalog: Path, tmp_path: Path) -> None:
    config = PackConfig(str(catalog), str(tmp_path / "shards"))
    pack(config)
    before = contents(tmp_path / "shards")
    shutil.copy(next(source.glob("*.chip.jpg")), source / "new.jpg")
    build_catalog(CatalogConfig(str(source), str(catalog), layout="utkface"))
    assert pack(config) == Packed(2, 1, 0)
    after = contents(tmp_path / "shards")
    assert {name: after[name] for name in before} == before


def test_an_image_that_is_gone_is_left_out_and_told(source: Path, catalog: Path, tmp_path: Path) -> None:
    gone = next(source.glob("*.chip.jpg"))
    gone.unlink()
    done = pack(PackConfig(str(catalog), str(tmp_path / "shards")))
    assert done.num_left_out == 1
    (report,) = (tmp_path / "shards.agescale").glob("left-out-*.json")
    (row,) = json.loads(report.read_text())
    assert (row["uri"], row["status"]) == (str(gone), "missing")


def test_images_with_one_name_and_two_endings_keep_their_own_records(source: Path, tmp_path: Path) -> None:
    first, second = sorted(source.glob("*.chip.jpg"))[:2]
    (tmp_path / "two").mkdir()
    shutil.copy(first, tmp_path / "two" / "a.jpg")
    shutil.copy(second, tmp_path / "two" / "a.png")
    (tmp_path / "labels.csv").write_text("file,age\na.jpg,3\na.png,60+\n")
    csv = str(tmp_path / "labels.csv")
    build_catalog(CatalogConfig(str(tmp_path / "two"), str(tmp_path / "catalog-2"), layout="csv", csv=csv))
    pack(PackConfig(str(tmp_path / "catalog-2"), str(tmp_path / "shards")))
    with tarfile.open(next((tmp_path / "shards").glob("*.tar"))) as shard:
        found = {info.name: shard.extractfile(info).read() for info in shard}  # type: ignore[union-attr]
    images = [name for name in found if not name.endswith(".json")]
    labels = {found[name]: json.loads(found[f"{name.partition('.')[0]}.json"])["label"] for name in images}
    assert labels == {first.read_bytes(): "3", second.read_bytes(): "60+"}


def test_shards_are_no_larger_than_they_may_be(catalog: Path) -> None:
    opened = Catalog.open(str(catalog))
    (part,) = opened.parts
    sizes = opened.read_part(part.name, ["size_bytes"])["size_bytes"].to_pylist()
    for num_bytes in (5000, 20_000, 10**9):
        cut = shards_of(opened, part, num_bytes / 10**6)  # type: ignore[arg-type]
        assert [unit.start for unit in cut] == [0, *(unit.stop for unit in cut[:-1])]
        assert cut[-1].stop == part.num_rows
        for unit in cut:
            assert len(unit) == 1 or sum(sizes[unit.start : unit.stop]) <= num_bytes + max(sizes)


def test_other_settings_and_other_folders_are_refused(catalog: Path, source: Path, tmp_path: Path) -> None:
    pack(PackConfig(str(catalog), str(tmp_path / "shards")))
    with pytest.raises(ValueError, match="shard_mb"):
        pack(PackConfig(str(catalog), str(tmp_path / "shards"), shard_mb=7))
    for out in (source, source / "shards", catalog):
        with pytest.raises(ValueError, match="--out"):
            pack(PackConfig(str(catalog), str(out)))


@pytest.mark.parametrize(("low", "high"), [(34, 35), (25, 50), (60, float("inf")), (0, 13), (27.5, 28.5)])
def test_a_record_tells_the_label_that_is_read_from_it(low: float, high: float) -> None:
    assert parse_interval(record_of({"age_low": low, "age_high": high})["label"]) == (low, high)


def test_a_record_of_nothing_is_none() -> None:
    assert record_of({"age_low": None, "age_high": None, "group": None, "subject": None}) == {}
    assert record_of({"age_low": None, "age_high": None, "group": "OLD"}) == {"label": "OLD"}
