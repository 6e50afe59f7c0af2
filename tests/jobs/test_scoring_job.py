"""Whole scorings on a local Ray: as many rows out as in, one schema, nothing twice, mistakes told early."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from conftest import REPO, RunJob, make_checkpoint
from PIL import Image

from agescale.ages import cdf
from agescale.ages.groups import AgeGroups
from agescale.cataloging.driver import build_catalog
from agescale.config import CatalogConfig, CompactConfig, ScoreConfig, TableConfig, VerifyConfig
from agescale.faces import images
from agescale.faces.loading import Framing, Spent
from agescale.models import checkpoints
from agescale.runtime import resources
from agescale.scoring import apart, execution, plan, worker
from agescale.scoring.driver import score
from agescale.scoring.verification import verify
from agescale.store import lease, objects, paths
from agescale.store.errors import StoreError
from agescale.synthetic import dataset, portraits
from agescale.tables import catalogs, folders, packed, schema
from agescale.tables.catalogs import Catalog
from agescale.tables.compaction import compact
from agescale.tables.exports import export
from agescale.tables.predictions import read_counts, stored_cdfs, summary_uri
from agescale.tables.units import Unit

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scoring") / "faces"
    dataset.write_dataset(folder, "unlabelled", num_faces=60, size=64)
    return folder


@pytest.fixture(scope="module")
def catalog(faces: Path) -> str:
    out = str(faces.parent / "catalog")
    build_catalog(CatalogConfig(source=str(faces), out=out))
    return out


@pytest.fixture(scope="module")
def checkpoint(faces: Path) -> str:
    return make_checkpoint(faces.parent / "checkpoint")


@pytest.fixture(scope="module")
def predictions(catalog: str, checkpoint: str, faces: Path) -> str:
    out = str(faces.parent / "predictions")
    score(ScoreConfig(catalog=catalog, checkpoint=checkpoint, out=out, unit_rows=5, batch_size=4))
    return out


def here(catalog: str, checkpoint: str, out: str, **settings: Any) -> ScoreConfig:
    """In this process, which is quick; ``predictions`` are by Ray."""
    return ScoreConfig(catalog=catalog, checkpoint=checkpoint, out=out, num_workers=0, **settings)


def read(out: str) -> pa.Table:
    return pads.dataset(out, format="parquet", exclude_invalid_files=False).to_table().sort_by("uri")


def test_as_many_rows_come_out_as_went_in_and_bad_images_say_why(catalog: str, predictions: str) -> None:
    rows, expected = read(predictions), Catalog.open(catalog).read(["uri", "version"])
    assert sorted(rows["uri"].to_pylist()) == sorted(expected["uri"].to_pylist())
    assert pc.count_distinct(rows["uri"]).as_py() == len(rows)
    bad = rows.filter(pc.not_equal(rows["status"], "ok"))
    assert len(bad) == 4
    assert set(bad["status"].to_pylist()) <= set(schema.STATUSES)
    assert bad["error"].null_count == 0
    assert bad["age"].null_count == len(bad)
    good = rows.filter(pc.equal(rows["status"], "ok"))
    for name in ("age", "age_std", "age_cdf", "group", "group_probability", "width", "height", "scored_at"):
        assert good[name].null_count == 0, name
    assert good["error"].null_count == len(good)
    limited = json.loads(objects.read_bytes(summary_uri(predictions)))["bottleneck"]
    assert {"start", "read", "decode", "model", "write"} <= limited["shares"].keys()
    assert sum(limited["shares"].values()) == pytest.approx(1, abs=0.01)


def test_every_file_has_the_same_schema_and_names_its_model(predictions: str, checkpoint: str) -> None:
    files = sorted(Path(predictions).glob("*.parquet"))
    assert len(files) > 4
    for path in files:
        found = pq.read_schema(path)
        assert found.equals(schema.PREDICTIONS), path
        run = schema.read_metadata(found, "predictions")["run"]
        assert run["model"] == checkpoints.read(checkpoint).digest
        assert AgeGroups.parse(run["age_groups"]).names == AgeGroups.parse("25-years").names


def test_ages_derive_from_the_stored_distribution(predictions: str) -> None:
    rows = read(predictions)
    rows = rows.filter(pc.equal(rows["status"], "ok"))
    cdf_NA = stored_cdfs(rows["age_cdf"])
    np.testing.assert_allclose(rows["age"].to_numpy(), cdf.median_age(cdf_NA), atol=1e-3)


def test_the_same_command_scores_only_what_is_missing(
    catalog: str, checkpoint: str, predictions: str, tmp_path: Path
) -> None:
    out = tmp_path / "predictions"
    shutil.copytree(predictions, out)
    config = ScoreConfig(catalog=catalog, checkpoint=checkpoint, out=str(out), unit_rows=5, batch_size=4, num_workers=1)
    assert score(config).num_scored_now == 0
    lost = sorted(out.glob("part-*.parquet"))[2]
    num_lost = pq.read_metadata(lost).num_rows
    lost.unlink()
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}
    result = score(config)
    assert result.num_scored_now == num_lost
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept
    before, after = (read(str(folder)).drop_columns(["scored_at"]) for folder in (predictions, out))
    assert after.equals(before)


def test_units_and_batches_do_not_change_predictions(
    catalog: str, checkpoint: str, predictions: str, tmp_path: Path
) -> None:
    out = str(tmp_path / "other")
    score(here(catalog=catalog, checkpoint=checkpoint, out=out, unit_rows=1000, batch_size=64))
    ours, theirs = read(predictions), read(out)
    assert ours["uri"].equals(theirs["uri"])
    assert ours["status"].equals(theirs["status"])
    ages = [pc.fill_null(rows["age"], -1).to_numpy() for rows in (ours, theirs)]
    np.testing.assert_allclose(ages[0], ages[1], atol=1e-3)


def test_images_loaded_apart_make_the_same_table(
    catalog: str, checkpoint: str, predictions: str, tmp_path: Path
) -> None:
    config = ScoreConfig(catalog, str(tmp_path / "out"), checkpoint, unit_rows=25, num_workers=1, decode="apart")
    score(config)
    ours, theirs = read(predictions), read(config.out)
    assert ours.select(["uri", "status", "error"]).equals(theirs.select(["uri", "status", "error"]))
    ages = [pc.fill_null(rows["age"], -1).to_numpy() for rows in (ours, theirs)]
    np.testing.assert_allclose(ages[0], ages[1], atol=1e-3)
    assert score(replace(config, retry=("unreadable",))).num_scored_now > 0
    assert read(config.out).drop_columns(["scored_at"]).equals(theirs.drop_columns(["scored_at"]))
    assert verify(VerifyConfig(catalog, config.out)).problems == ()


def test_apart_what_was_asked_for_comes_in_its_order_and_what_fails_is_told_by_its_own_name(
    catalog: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apart, "SLICE_ROWS", 7)
    rows = Catalog.open(catalog).read(["uri", "version", "size_bytes"])
    framing, spent = Framing(32), Spent()
    loader = apart.ApartLoader(catalog, framing, False, num_tasks=2)
    with objects.read_pool() as pool:
        expected = list(packed.load_faces(catalog, rows, framing, False, pool))
    loader.begin(rows.slice(0, 20), "first")
    loader.begin(rows.slice(20), "second")
    found = [*loader.take(rows.slice(0, 20), spent), *loader.take(rows.slice(20), spent)]
    assert len(found) == len(expected) > 40
    for ours, theirs in zip(found, expected, strict=True):
        if isinstance(theirs, images.Face):
            np.testing.assert_array_equal(ours[0].pixels, theirs.pixels)
        else:
            assert (type(ours), str(ours)) == (type(theirs), str(theirs))
    assert min(spent.read_s, spent.decode_s, spent.decode_cpu_s) > 0

    loader.begin(rows.slice(0, 20), "forgotten")
    loader.forget()
    nowhere = apart.ApartLoader(f"{catalog}-elsewhere", framing, True, num_tasks=2)
    nowhere.begin(rows, "lost")
    with pytest.raises(StoreError, match="elsewhere") as caught:
        next(nowhere.take(rows, spent))
    assert caught.value.status == "missing"


def test_decoders_apart_are_refused_where_no_cpu_is_left_for_them(
    catalog: str, checkpoint: str, tmp_path: Path
) -> None:
    config = ScoreConfig(catalog, str(tmp_path / "out"), checkpoint, unit_rows=5, decode="apart")
    with pytest.raises(ValueError, match=r"--decode apart: 4 scoring processes have all 4 CPUs .* lower --num-workers"):
        score(replace(config, num_workers=4))
    with pytest.raises(ValueError, match=r"--decode apart: .* --num-workers 0"):
        score(replace(config, num_workers=0))


def test_a_gpu_is_fed_by_decoders_apart_where_two_cpus_a_gpu_are_left() -> None:
    config = ScoreConfig("catalog", "out")
    assert [execution.num_decoders(config, True, 2, num_cpus) for num_cpus in (4, 5, 6, 16)] == [0, 0, 2, 7]
    assert execution.num_decoders(config, False, 1, 16) == 0
    assert execution.num_decoders(replace(config, decode="inside"), True, 1, 16) == 0
    assert execution.num_decoders(replace(config, decode="apart"), True, 3, 5) == 1


def test_other_predictions_in_the_same_place_are_refused(
    catalog: str, predictions: str, checkpoint: str, tmp_path: Path
) -> None:
    other = make_checkpoint(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match=r"another table of predictions stands there \(model was") as caught:
        score(here(catalog=catalog, checkpoint=other, out=predictions, unit_rows=5))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="unit_rows was 5, is 6"):
        score(here(catalog=catalog, checkpoint=checkpoint, out=predictions, unit_rows=6))


def test_a_catalog_that_was_moved_or_is_named_by_a_link_is_the_same(
    catalog: str, predictions: str, checkpoint: str, tmp_path: Path
) -> None:
    shutil.copytree(predictions, tmp_path / "ages")
    (tmp_path / "linked").symlink_to(catalog)
    (tmp_path / f"linked{folders.SUFFIX}").symlink_to(folders.beside(catalog))
    moved = here(str(tmp_path / "linked"), checkpoint, str(tmp_path / "ages"), unit_rows=5)
    assert score(moved).num_scored_now == 0
    assert verify(VerifyConfig(moved.catalog, moved.out)).problems == ()


def test_a_cluster_that_is_too_small_is_told_with_the_way_out(catalog: str, checkpoint: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"1 workers need 1 GPUs, the cluster has 0; --device cpu, or add nodes"):
        score(ScoreConfig(catalog, str(tmp_path / "out"), checkpoint, device="cuda"))
    with pytest.raises(ValueError, match=r"need 5 CPUs, the cluster has 4; lower --num-workers or --cpus-per-worker"):
        resources.check_resources(4, cpus_per_worker=1, gpus_per_worker=0, extra_cpus=1)


def test_no_checkpoint_there_is_told_before_anything_is_written(catalog: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no checkpoint there"):
        score(here(catalog=catalog, checkpoint=str(tmp_path / "none"), out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_a_damaged_checkpoint_is_told_before_ray_starts_and_anything_is_written(
    catalog: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start() -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(execution, "start_ray", start)
    checkpoint = tmp_path / "model"
    make_checkpoint(checkpoint)
    for file in checkpoint.iterdir():
        data = file.read_bytes()
        for tenth in range(10):
            file.write_bytes(data[: len(data) * tenth // 10])
            with pytest.raises(ValueError, match=rf"model/{file.name}: .*damaged") as caught:
                score(here(catalog=catalog, checkpoint=str(checkpoint), out=str(tmp_path / "ages")))
            assert "\n" not in str(caught.value)
        file.write_bytes(data)
    assert not (tmp_path / "ages").exists()


def test_a_model_of_names_without_bounds_has_groups_and_no_ages(catalog: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "names", age_groups="YOUNG,MIDDLE,OLD", task="classification")
    score(here(catalog=catalog, checkpoint=checkpoint, out=str(tmp_path / "out")))
    rows = read(str(tmp_path / "out"))
    good = rows.filter(pc.equal(rows["status"], "ok"))
    assert good["age"].null_count == len(good)
    assert set(good["group"].to_pylist()) <= {"YOUNG", "MIDDLE", "OLD"}
    assert all(len(values) == 3 for values in good["group_probabilities"].to_pylist())
    for path in (tmp_path / "out").glob("*.parquet"):
        assert pq.read_schema(path).equals(schema.PREDICTIONS)


def test_a_grown_bucket_adds_units_and_leaves_scored_ones(checkpoint: str, tmp_path: Path) -> None:
    folder, catalog, out = tmp_path / "faces", str(tmp_path / "catalog"), str(tmp_path / "out")
    dataset.write_dataset(folder, "unlabelled", num_faces=12, size=48, num_broken=0)
    list_again = CatalogConfig(source=str(folder), out=catalog)
    config = here(catalog=catalog, checkpoint=checkpoint, out=out)
    build_catalog(list_again)
    first = score(config)
    photo = next(folder.rglob("*.jpg"))
    (photo.parent / "neu – 1.jpg").write_bytes(photo.read_bytes())
    photo.unlink()
    build_catalog(list_again)
    second = score(config)
    assert second.num_scored_now == 1
    assert second.num_rows == first.num_rows + 1  # the deleted photo's old prediction stays


def test_an_image_gone_since_the_listing_is_a_row_that_says_so(checkpoint: str, tmp_path: Path) -> None:
    dataset.write_dataset(tmp_path / "faces", "unlabelled", num_faces=6, size=48, num_broken=0)
    build_catalog(CatalogConfig(source=str(tmp_path / "faces"), out=str(tmp_path / "catalog")))
    gone = next((tmp_path / "faces").rglob("*.jpg"))
    gone.unlink()
    result = score(here(str(tmp_path / "catalog"), checkpoint, str(tmp_path / "out")))
    assert result.by_status["missing"] == 1
    rows = read(str(tmp_path / "out"))
    assert rows.filter(pc.equal(rows["status"], "missing"))["uri"].to_pylist() == [str(gone)]


def test_packed_images_give_nearly_the_ages_of_the_originals(checkpoint: str, faces: Path, tmp_path: Path) -> None:
    ages = {}
    for pack in (0, 128):
        catalog, out = str(tmp_path / f"catalog{pack}"), str(tmp_path / f"out{pack}")
        build_catalog(CatalogConfig(source=str(faces), out=catalog, pack=pack, inspect=True))
        score(here(catalog=catalog, checkpoint=checkpoint, out=out))
        rows = read(out)
        ages[pack] = pc.fill_null(rows["age"], -1).to_numpy()
    assert np.abs(ages[0] - ages[128]).max() < 0.5


def test_packed_images_are_scored_without_their_originals(checkpoint: str, tmp_path: Path) -> None:
    dataset.write_dataset(tmp_path / "faces", "unlabelled", num_faces=8, size=48, num_broken=0)
    catalog = str(tmp_path / "catalog")
    build_catalog(CatalogConfig(source=str(tmp_path / "faces"), out=catalog, pack=64, inspect=True))
    shutil.rmtree(tmp_path / "faces")
    result = score(here(catalog, checkpoint, str(tmp_path / "out")))
    assert set(result.by_status) == {"ok"}
    assert objects.exists(summary_uri(str(tmp_path / "out")))


def test_failed_rows_are_scored_again_in_their_places(checkpoint: str, tmp_path: Path) -> None:
    dataset.write_dataset(tmp_path / "faces", "unlabelled", num_faces=12, size=48, num_broken=1)
    catalog, out = str(tmp_path / "catalog"), str(tmp_path / "out")
    build_catalog(CatalogConfig(source=str(tmp_path / "faces"), out=catalog))
    gone = next((tmp_path / "faces").rglob("*.jpg"))
    gone.rename(tmp_path / "hidden.jpg")
    config = here(catalog, checkpoint, out, unit_rows=4)
    first = score(config)
    before = {path.name: path.read_bytes() for path in Path(out).glob("part-*.parquet")}
    rows_before = read(out)
    (tmp_path / "hidden.jpg").rename(gone)
    assert score(config).num_scored_now == 0
    second = score(here(catalog, checkpoint, out, unit_rows=4, retry=("missing", "unreachable")))
    assert second.scored_now == {"ok": 1}
    assert second.by_status["ok"] == first.by_status["ok"] + 1
    after = {path.name: path.read_bytes() for path in Path(out).glob("part-*.parquet")}
    assert sum(before[name] != after[name] for name in before) == 1, "one unit was rewritten, the others were not"
    rows = read(out)
    is_other = pc.not_equal(rows["uri"], str(gone))
    assert rows["uri"].equals(rows_before["uri"])
    assert rows.filter(is_other).equals(rows_before.filter(is_other))
    assert verify(VerifyConfig(catalog, out)).problems == ()


def test_an_image_that_was_replaced_since_it_was_listed_is_told_and_scored_when_it_is_listed_again(
    checkpoint: str, tmp_path: Path
) -> None:
    dataset.write_dataset(tmp_path / "faces", "unlabelled", num_faces=6, size=48, num_broken=0)
    catalog, out = str(tmp_path / "catalog"), str(tmp_path / "out")
    list_again = CatalogConfig(source=str(tmp_path / "faces"), out=catalog)
    build_catalog(list_again)
    first, *_, last = sorted((tmp_path / "faces").rglob("*.jpg"))
    kept, times = first.read_bytes(), first.stat()
    first.write_bytes(last.read_bytes())
    config = here(catalog, checkpoint, out)
    assert score(config).by_status["changed"] == 1
    assert verify(VerifyConfig(catalog, out)).problems == ()
    build_catalog(list_again)
    assert score(replace(config, retry=("changed",))).scored_now == {"ok": 1}
    rows = read(out).to_pylist()
    assert sorted(row["status"] for row in rows if row["uri"] == str(first)) == ["changed", "ok"]
    assert verify(VerifyConfig(catalog, out)).problems == ()

    first.write_bytes(kept)
    os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns))  # as it was listed at first
    build_catalog(list_again)
    assert score(replace(config, retry=("changed",))).scored_now == {"ok": 1}
    assert verify(VerifyConfig(catalog, out)).problems == ()


def test_rows_of_images_that_have_gone_are_scored_again_once_and_no_more(checkpoint: str, tmp_path: Path) -> None:
    dataset.write_dataset(tmp_path / "faces", "unlabelled", num_faces=6, size=48, num_broken=0)
    catalog, out = str(tmp_path / "catalog"), str(tmp_path / "out")
    list_again = CatalogConfig(source=str(tmp_path / "faces"), out=catalog)
    build_catalog(list_again)
    next((tmp_path / "faces").rglob("*.jpg")).unlink()
    assert score(here(catalog, checkpoint, out)).by_status["missing"] == 1
    build_catalog(list_again)
    again = here(catalog, checkpoint, out, retry=("missing",))
    assert score(again).num_scored_now == 0
    before = {path.name: path.stat().st_mtime_ns for path in Path(out).iterdir()}
    assert score(again).by_status["missing"] == 1, "the row stays, of a photo that was"
    assert {path.name: path.stat().st_mtime_ns for path in Path(out).iterdir()} == before


@pytest.mark.parametrize("inspect", [False, True])
def test_odd_files_and_names_are_rows_or_counted(checkpoint: str, tmp_path: Path, inspect: bool) -> None:
    dataset.write_dataset(tmp_path / "faces", "unlabelled", num_faces=4, size=48, num_broken=0)
    (photo, *_) = (tmp_path / "faces").rglob("*.jpg")
    folder = Path(os.fsdecode(os.fsencode(tmp_path / "faces") + b"/fr\xe8re"))
    folder.mkdir()
    for name in (b"Mu\xf1oz.jpg", b"Zo\xc3\xab.jpg"):
        (folder / os.fsdecode(name)).write_bytes(photo.read_bytes())
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypmif1\0\0\0\0heic" + bytes(100))
    (folder / "x.jpg").write_bytes(b"\xff\x0a" + bytes(100))
    (folder / "y.jxl").write_bytes(b"\xff\x0a" + bytes(100))
    os.mkfifo(folder / "pipe.jpg")
    catalog, out = str(tmp_path / "catalog"), str(tmp_path / "out")
    result = build_catalog(CatalogConfig(str(tmp_path / "faces"), catalog, inspect=inspect))
    assert (result.num_new, result.num_ignored) == (4 + 1 + 4, 3)  # with a copy; a pipe, a .jxl and a README
    assert result.ignored == ({".txt": 1, ".jxl": 1, ".jpg": 1} if inspect else {})
    assert score(here(catalog, checkpoint, out)).by_status["ok"] == 7
    bad = read(out).filter(pc.field("status") != "ok").to_pylist()
    assert [(paths.name_of(row["uri"]), row["status"]) for row in bad] == [
        ("phone.heic", "unreadable" if "HEIF" in images.FORMATS else "unsupported"),
        ("x.jpg", "unsupported"),
    ]
    assert r"fr\xe8re/Mu\xf1oz.jpg" in " ".join(read(out)["uri"].to_pylist())
    assert verify(VerifyConfig(catalog, out)).problems == ()


def test_a_source_that_is_away_makes_no_table_of_missing_images(checkpoint: str, tmp_path: Path) -> None:
    dataset.write_dataset(tmp_path / "faces", "unlabelled", num_faces=6, size=48, num_broken=0)
    catalog, out = str(tmp_path / "catalog"), str(tmp_path / "out")
    build_catalog(CatalogConfig(source=str(tmp_path / "faces"), out=catalog))
    (tmp_path / "faces").rename(tmp_path / "unmounted")
    config = here(catalog, checkpoint, out, unit_rows=4)
    with pytest.raises(StoreError, match="not found; none of the images tried could be read; is the source available"):
        score(config)
    assert objects.list_names(out) == []
    (tmp_path / "unmounted").rename(tmp_path / "faces")
    next((tmp_path / "faces").rglob("*.jpg")).unlink()
    one_a_unit = here(catalog, checkpoint, out, unit_rows=1)  # one image alone is a row
    by_status = score(one_a_unit).by_status
    assert (set(by_status), by_status["missing"]) == ({"ok", "missing"}, 1)


def test_a_zombie_does_not_replace_what_its_successor_has_written(
    catalog: str, checkpoint: str, predictions: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(predictions, out)
    path = sorted(out.glob("part-*.parquet"))[0]
    before, unit = path.read_bytes(), Unit(path.name.partition("-rows-")[0] + ".parquet", 0, 5)
    actor = worker.ScoringActor(unit_scorer(catalog, checkpoint, str(out)))
    monkeypatch.setattr(objects, "exists", lambda uri: False)  # it looked before the other one wrote
    monkeypatch.setattr(objects, "read_bytes", unreachable)
    monkeypatch.setattr(Catalog, "delivers_others", lambda *_: True)
    row = {"output": path.name, "num_retried": 0, **vars(unit)}
    (ended,) = actor(pa.Table.from_pylist([row])).to_pylist()
    assert path.read_bytes() == before
    assert json.loads(ended["standing"]) == {path.name: read_counts(str(path))}
    assert json.loads(ended["scored_now"]) == {}


def test_a_zombie_that_scores_again_does_not_replace_what_its_successor_has_written(
    catalog: str, checkpoint: str, predictions: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(predictions, out)
    path = next(path for path in sorted(out.iterdir()) if "unreadable" in read_counts(str(path))["statuses"])
    first, _, rows = path.name.partition("-rows-")
    unit = Unit(f"{first}.parquet", *map(int, rows.split("-")[:2]))
    scorer = unit_scorer(catalog, checkpoint, str(out))
    actor = worker.ScoringActor(replace(scorer, config=replace(scorer.config, retry=("unreadable",))))
    task = pa.Table.from_pylist([{"output": path.name, "num_retried": 1, **vars(unit)}])
    replace_part, written = folders.replace_part, []

    def sleep_before(*arguments: Any) -> bool:
        monkeypatch.setattr(folders, "replace_part", replace_part)
        actor(task)  # the other one, from beginning to end
        written.append(path.read_bytes())
        return replace_part(*arguments)

    monkeypatch.setattr(folders, "replace_part", sleep_before)
    (ended,) = actor(task).to_pylist()
    assert path.read_bytes() == written[0]
    assert json.loads(ended["scored_now"]) == {}


def unreachable(uri: str, *_: object) -> bytes:
    raise StoreError("unreachable", f"{uri}: no answer in time")


def test_what_a_dead_process_had_finished_is_taken_and_counted(
    catalog: str, checkpoint: str, predictions: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(predictions, out)
    names = sorted(path.name for path in out.glob("part-*.parquet"))
    work = plan.Work({name: Unit("no such part", 0, 5) for name in names}, {}, ())  # it would crash if it scored
    actor = worker.ScoringActor(unit_scorer(catalog, checkpoint, str(out)))
    (ended,) = (actor(task).to_pylist()[0] for task in work.tasks(num_workers=1)[:1])
    assert json.loads(ended["standing"]).keys() == {names[0]}
    assert json.loads(ended["scored_now"]) == {}


def unit_scorer(catalog: str, checkpoint: str, out: str) -> worker.UnitScorer:
    config = here(catalog, checkpoint, out)
    metadata = {"run": {"model": checkpoints.read(checkpoint).digest}}
    return worker.UnitScorer(Catalog.open(catalog), checkpoint, out, metadata, config, worker.Workers(1, 1, "cpu"))


def test_scoring_begins_on_the_first_parts_of_a_bucket_that_is_still_listed(checkpoint: str, tmp_path: Path) -> None:
    dataset.write_dataset(tmp_path / "faces", "unlabelled", num_faces=8, size=48, num_broken=0)
    catalog, out = tmp_path / "catalog", str(tmp_path / "out")
    list_again = CatalogConfig(source=str(tmp_path / "faces"), out=str(catalog))
    build_catalog(list_again)
    Path(catalogs.findings_uri(str(catalog))).unlink()
    config = here(str(catalog), checkpoint, out)
    first = score(config)
    (next((tmp_path / "faces").rglob("*.jpg")).parent / "later.jpg").write_bytes(b"")
    build_catalog(list_again)
    assert score(config).num_scored_now == 1
    assert verify(VerifyConfig(str(catalog), out)).num_rows == first.num_rows + 1


def test_only_the_splits_that_are_asked_for_are_scored_and_counted(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset.write_dataset(tmp_path / "faces", "utkface", num_faces=24, size=48, num_broken=0)
    catalog, out = str(tmp_path / "catalog"), str(tmp_path / "out")
    build_catalog(CatalogConfig(str(tmp_path / "faces"), catalog, layout="utkface", split=(0.4, 0.3, 0.3)))
    score(here(catalog, checkpoint, out, split=("test",)))
    rows = Catalog.open(catalog).read(["uri", "split"])
    expected = rows.filter(pc.equal(rows["split"], "test"))["uri"].to_pylist()
    assert 0 < len(expected) < len(rows)
    assert f"scoring: {len(expected)}/{len(expected)} images" in capsys.readouterr().out
    assert read(out)["uri"].to_pylist() == sorted(expected)
    assert verify(VerifyConfig(catalog, out)).problems == ()


def test_a_second_job_on_the_same_output_stops_in_one_line(catalog: str, checkpoint: str, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with lease.hold(out, folders.beside(out)), pytest.raises(ValueError, match=r"another job .* writes there"):
        score(here(catalog, checkpoint, out))


def assert_equal_but_for_rounding(rows: pa.Table, others: pa.Table) -> None:
    """A detector in another number of threads rounds otherwise, so that a pixel may be 1 of 255 off."""
    assert rows.schema.equals(others.schema)
    for name in rows.column_names:
        both = [table[name].combine_chunks() for table in (rows, others)]
        if name == "age_cdf":
            assert both[0].is_null().equals(both[1].is_null())
            np.testing.assert_allclose(*(each.flatten().to_numpy() for each in both), atol=65)
        elif pa.types.is_floating(both[0].type):
            np.testing.assert_allclose(*(each.to_numpy(zero_copy_only=False) for each in both), atol=0.01, err_msg=name)
        else:
            assert both[0].equals(both[1]), name


def test_all_faces_of_an_image_are_rows_and_stay_together(checkpoint: str, tmp_path: Path) -> None:
    """Through a death, another try, a verification, an export and a compaction."""
    source, catalog, out = tmp_path / "photos", str(tmp_path / "catalog"), str(tmp_path / "ages")
    source.mkdir()
    rng = np.random.default_rng
    for name, sides in (("a-wall", ()), ("b-one", (300,)), ("c-two", (300, 200)), ("d-two", (200, 300))):
        photo = Image.new("RGB", (700, 340), (150, 150, 150))
        for left, side in zip((20, 360), sides, strict=False):
            photo.paste(portraits.draw_face(rng(20), 20, "female", "White", side), (left, 20))
        photo.save(source / f"{name}.png")
    (source / "e-broken.png").write_bytes(b"")
    build_catalog(CatalogConfig(str(source), catalog))
    config = here(catalog, checkpoint, out, unit_rows=2, faces="all")
    assert score(config).by_status == {"ok": 5, "no_face": 1, "unreadable": 1}

    def table(folder: str = out) -> pa.Table:
        rows = read(folder).sort_by([("uri", "ascending"), ("face", "ascending")])
        return rows.drop_columns(["scored_at"]).combine_chunks()

    def faces() -> list[tuple[str, int, str]]:
        return [(Path(row["uri"]).stem, row["face"], row["status"]) for row in table().to_pylist()]

    expected = [
        ("a-wall", 0, "no_face"), ("b-one", 0, "ok"), ("c-two", 0, "ok"), ("c-two", 1, "ok"), ("d-two", 0, "ok"),
        ("d-two", 1, "ok"), ("e-broken", 0, "unreadable"),
    ]  # fmt: skip
    assert faces() == expected
    whole = table()
    elsewhere = str(tmp_path / "apart")
    score(replace(config, out=elsewhere, num_workers=1, decode="apart"))
    assert_equal_but_for_rounding(table(elsewhere), whole)
    (second,) = [path for path in Path(out).glob("part-*") if pq.read_metadata(path).num_rows == 4]
    second.unlink()
    assert score(config).scored_now == {"ok": 4}
    assert score(replace(config, retry=("no_face", "unreadable"))).num_scored_now == 2
    assert table().equals(whole)
    assert verify(VerifyConfig(catalog, out)).num_problems == 0

    export(TableConfig(catalog, out, str(tmp_path / "table.csv"), where="status == 'ok'"))
    lines = (tmp_path / "table.csv").read_text(encoding="utf-8-sig").splitlines()
    assert lines[0].startswith('"file","face",')
    assert [line.split(",")[:2] for line in lines[3:5]] == [['"c-two.png"', "1"], ['"d-two.png"', "0"]]
    new = CompactConfig(catalog, str(tmp_path / "new"), out, str(tmp_path / "new-ages"))
    compact(new)
    assert table(new.out_predictions).equals(whole)
    assert verify(VerifyConfig(new.out, new.out_predictions)).num_problems == 0

    rows = pq.read_table(second)
    pq.write_table(rows.slice(0, 3), second)
    problems = verify(VerifyConfig(catalog, out)).problems
    assert any("1 row of an image, and not one for each of its faces, such as" in problem for problem in problems)


def test_more_failures_than_may_be_end_with_code_3_and_a_complete_table(
    catalog: str, checkpoint: str, tmp_path: Path, run_job: RunJob
) -> None:
    """And without Ray, which need not be started for so few images."""
    arguments = ["--catalog", catalog, "--checkpoint", checkpoint, "--out", tmp_path / "out"]
    ended = run_job("jobs/score.py", *arguments, "--max-failed-fraction", "0.01")
    assert ended.returncode == 3, ended.stdout + ended.stderr
    assert "over --max-failed-fraction 0.01" in ended.stderr.splitlines()[-1]
    assert objects.exists(summary_uri(str(tmp_path / "out")))
    config = here(catalog, checkpoint, str(tmp_path / "out"))
    assert score(config).failed_fraction == 0, "nothing was scored, so nothing failed"


def test_what_nobody_reads_stops_nothing(catalog: str, checkpoint: str, tmp_path: Path, ray_address: str) -> None:
    arguments = ["--catalog", catalog, "--checkpoint", checkpoint, "--out", str(tmp_path / "out")]
    script = 'set -o pipefail; "$@" 2>&- | true'
    command = ["bash", "-c", script, "bash", sys.executable, "jobs/score.py", *arguments]
    environment = os.environ | {"RAY_ADDRESS": ray_address}
    ended = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=240, env=environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert objects.exists(summary_uri(str(tmp_path / "out")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"retry": ("broken",)}, "--retry broken: one of unreadable, "),
        ({"retry": ("missing", "ok")}, "--retry missing ok: one of unreadable, "),
        ({"split": ("tests",)}, "--split tests: one of train, val, test"),
        ({"unit_rows": 10_001}, "--unit-rows 10001"),
        ({"max_failed_fraction": 1.5}, "--max-failed-fraction 1.5"),
    ],
)
def test_impossible_settings_are_one_line(
    catalog: str, checkpoint: str, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        score(here(catalog, checkpoint, str(tmp_path / "out"), **settings))
    assert not (tmp_path / "out").exists()
