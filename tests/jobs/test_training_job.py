"""Whole trainings on a local Ray: workers change nothing, runs are known by their output, mistakes are told early."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import ray.exceptions
import torch
from conftest import make_checkpoint
from factories import write_tar
from PIL import Image
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from torchvision.models import resnet18

from agescale.cataloging.driver import build_catalog
from agescale.config import CalibrateConfig, CatalogConfig, ScoreConfig, TrainConfig
from agescale.faces.geometry import FaceGeometry
from agescale.faces.loading import Framing
from agescale.models import checkpoints
from agescale.models.age_model import AgeModel
from agescale.models.checkpoints import RunProgress
from agescale.models.spec import ModelSpec
from agescale.operations.calibration import calibrate
from agescale.scoring.driver import score
from agescale.store import lease, listing, objects, parquet
from agescale.store.errors import StoreError
from agescale.synthetic import dataset
from agescale.tables.catalogs import Catalog
from agescale.tables.predictions import Predictions
from agescale.training import decoding, ingest, runs, worker
from agescale.training import plan as training_plan
from agescale.training.driver import Watch, _num_top_phases, bottleneck_of, is_out_of_memory, train
from agescale.training.failures import OutOfMemory, lasting_store_error
from agescale.training.finetuning import parse_phases
from agescale.training.learner import Learner

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Drawn faces, an even number of them in train."""
    folder = tmp_path_factory.mktemp("training")
    dataset.write_dataset(folder / "faces", "csv", num_faces=90, size=64)
    out = str(folder / "catalog")
    build_catalog(
        CatalogConfig(
            source=str(folder / "faces"),
            csv=str(folder / "faces" / "labels.csv"),
            layout="csv",
            age_column="age",
            gender_column="gender",
            split=(0.6, 0.2, 0.2),
            pack=48,
            out=out,
        )
    )
    return out


@pytest.fixture(scope="module")
def config(catalog: str) -> TrainConfig:
    """One step an epoch: the whole training split is one batch. No batch norm, no dropout, no augmentation. In this
    process, which is quick; where others are the subject, a test says how many."""
    return TrainConfig(
        catalog=(catalog,), image_size=32, batch_size=512, phases="head:1@1e-3,all:1@1e-3", dropout=0.0,
        augmentation="none", ema_decay=0.0, warmup_epochs=0, weighting="density", auxiliary=("gender",), num_workers=0,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = str(tmp_path_factory.mktemp("runs") / "here")
    train(replace(config, out=out))
    return out


def test_what_is_learned_from_a_shard_is_what_is_learned_from_its_files(config: TrainConfig, tmp_path: Path) -> None:
    dataset.write_dataset(tmp_path / "faces", "utkface", num_faces=40, size=48)
    files = {path.name: path.read_bytes() for path in sorted((tmp_path / "faces").iterdir())}
    write_tar(tmp_path / "faces.tar", files)
    histories = []
    for source in ("faces", "faces.tar"):
        catalog, out = str(tmp_path / f"catalog-of-{source}"), str(tmp_path / f"run-of-{source}")
        build_catalog(CatalogConfig(str(tmp_path / source), catalog, layout="utkface", split=(0.6, 0.4, 0.0)))
        train(replace(config, catalog=(catalog,), out=out, phases="all:2@1e-3", auxiliary=()))
        histories.append([each["val_loss"] for each in checkpoints.read(f"{out}/last").progress.history])
    assert histories[1] == pytest.approx(histories[0], rel=1e-4)


def test_two_workers_take_the_same_step_and_measure_the_same_as_none(
    config: TrainConfig, run: str, tmp_path: Path
) -> None:
    num_train = checkpoints.read(f"{run}/last").provenance["num_images"]["train"]
    assert num_train % 2 == 0, "an odd image would be dropped by two workers; draw another number of faces"
    two = str(tmp_path / "two-workers")
    train(replace(config, out=two, num_workers=2, cpus_per_worker=0.5))
    one_history, two_history = (checkpoints.read(f"{out}/last").progress.history for out in (run, two))
    for name in ("train_loss", "val_loss", "val_mae", "val_accuracy"):
        for ours, theirs in zip(one_history, two_history, strict=True):
            assert theirs[name] == pytest.approx(ours[name], rel=1e-3), name
    made, of_two = (checkpoints.read(f"{out}/best").spec.calibration for out in (run, two))
    assert made is not None
    assert of_two is not None
    assert of_two.num_faces == made.num_faces
    assert [band.offset for band in of_two.bands] == pytest.approx([band.offset for band in made.bands], abs=0.05)
    ones = checkpoints.load_tensors(f"{run}/last", checkpoints.read(f"{run}/last").weights_file)
    twos = checkpoints.load_tensors(f"{two}/last", checkpoints.read(f"{two}/last").weights_file)
    for name, tensor in ones.items():
        torch.testing.assert_close(
            twos[name], tensor, rtol=2e-3, atol=2e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_decoded_faces_stand_in_the_order_of_their_rows_whichever_come_first_and_decoders_give_way_to_training(
    catalog: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SlowFirst(decoding.FaceDecoder):
        def __call__(self, rows: pa.Table) -> dict[str, np.ndarray]:
            if rows["index"][0].as_py() == 0:
                time.sleep(3)
            decoded = super().__call__(rows)
            return decoded | {"nice": np.full(len(decoded["index"]), os.getpriority(os.PRIO_PROCESS, 0))}

    monkeypatch.setattr(ingest, "CHUNK_ROWS", 20)
    rows = Catalog.open(catalog).read(["uri"])
    rows = rows.append_column("catalog", pa.array([0] * len(rows)))
    held = ingest.held_faces(rows, SlowFirst((catalog,), (Framing(32),), use_packed=(True,)))
    decoded = held.select_columns(["index", "nice"]).take_all()
    indices = [row["index"] for row in decoded]
    assert len(indices) > 60
    assert indices == sorted(indices)
    assert {row["nice"] for row in decoded} == {min(19, os.getpriority(os.PRIO_PROCESS, 0) + decoding.DECODERS_NICE)}


def test_a_finished_run_says_so_and_does_nothing(
    config: TrainConfig, run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {item.relative: item.version for item in listing.list_files(run)}
    progress = train(replace(config, out=run, num_workers=7, device="cpu"))  # how it runs is not what it is
    assert progress.epochs_done == 2
    assert "finished, after 2 epochs" in capsys.readouterr().out
    assert {item.relative: item.version for item in listing.list_files(run)} == before


def test_another_configuration_on_the_same_output_is_refused_by_name(config: TrainConfig, run: str) -> None:
    with pytest.raises(ValueError, match=r"dropout was 0.0, is 0.5; seed was 0, is 3") as caught:
        train(replace(config, out=run, seed=3, dropout=0.5))
    assert "\n" not in str(caught.value)


def test_a_run_ends_with_the_intervals_that_calibrating_its_model_on_the_same_faces_gives(
    config: TrainConfig, run: str, tmp_path: Path
) -> None:
    best = checkpoints.read(f"{run}/best")
    made = best.spec.calibration
    assert made is not None
    again = calibrate(
        CalibrateConfig(config.catalog[0], str(tmp_path / "again"), checkpoint=f"{run}/best", num_workers=0)
    ).checkpoint.spec.calibration
    assert again is not None
    assert replace(again, bands=(), assumes="") == replace(made, bands=(), assumes="")
    assert [band.name for band in again.bands] == [band.name for band in made.bands]
    assert [band.offset for band in again.bands] == pytest.approx([band.offset for band in made.bands], abs=0.01)
    score(ScoreConfig(config.catalog[0], str(tmp_path / "ages"), f"{run}/best", split=("val",), num_workers=0))
    rows = parquet.read_tables(Predictions.open(str(tmp_path / "ages")).files, ["age_lower", "age_upper"])
    assert rows["age_lower"].null_count == rows["age_upper"].null_count == len(rows) - made.num_faces


def test_few_validation_faces_are_one_line_and_no_intervals(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    wanted = replace(config, out=out, epochs=1, interval_coverage=0.99)
    assert train(wanted).is_finished
    assert "no intervals: --interval-coverage 0.99 takes 99 validation faces" in capsys.readouterr().out
    assert checkpoints.read(f"{out}/best").spec.calibration is None
    with pytest.raises(
        ValueError, match=r"interval_coverage was 0.99, is 0.5\); jobs/calibrate.py --checkpoint .*/best"
    ):
        train(replace(wanted, interval_coverage=0.5))


def test_history_has_a_row_an_epoch_and_best_its_model(run: str) -> None:
    history = pq.read_table(f"{run}/history.parquet").to_pylist()
    assert [row["epoch"] for row in history] == [1, 2]
    assert [row["phase"] for row in history] == ["head", "all"]
    best = checkpoints.read(f"{run}/best")
    assert best.progress.best_value == min(row["val_mae"] for row in history)
    assert best.progress.is_finished
    checkpoints.load_model(f"{run}/best", best)
    limited = bottleneck_of(checkpoints.read(f"{run}/last").progress)
    assert {"images", "model", "validation", "write"} <= limited.shares.keys()
    told = sum(row["seconds"] for row in history)
    assert sum(limited.seconds.values()) >= told - 0.1 * len(history), "seconds of epochs are missing"


MISTAKES = {
    "unknown encoder": ({"encoder": "resnot18"}, "no encoder is called 'resnot18'"),
    "unknown torchvision name": ({"encoder": "torchvision/resnet19"}, "near it: torchvision/resnet1"),
    "more blocks than there are": ({"phases": "last50:1@1e-3"}, "last50 is more than the"),
    "phases that are none": ({"phases": "all:0@1e-3"}, "phases: 'all:0@1e-3'"),
    "a learning rate of 0": ({"phases": "all:1@0"}, "phases: 'all:1@0'"),
    "no epochs": ({"epochs": 0}, "--epochs 0: at least 1"),
    "weights that are not there": ({"weights": "/nowhere/w.pth"}, "/nowhere/w.pth: not found"),
    "a range that ends before it begins": (
        {"num_workers": "8:2"},
        "--num-workers 8:2: a number, or a range such as 2:8",
    ),
    "less than an image each": (
        {"batch_size": 3, "num_workers": "2:4"},
        "--batch-size 3 is less than an image for each",
    ),
    "more workers than the cluster holds": ({"num_workers": 64, "batch_size": 64}, "the cluster has"),
    "a crop of nothing": ({"center_crop": 0.0}, "--center-crop 0.0"),
    "no catalog": ({"catalog": ("",)}, "--catalog: missing; .* and --catalog drawn draws faces to try it on"),
    "no catalog there": ({"catalog": ("/nowhere",)}, "no catalog there"),
    "groups that no label falls into": (
        {"task": "classification", "age_groups": "YOUNG,OLD"},
        "classification has nothing to learn from",
    ),
    "an output that cannot be written": ({"out": "/proc/nowhere"}, "/proc/nowhere"),
    "a loss of another task": ({"task": "ordinal", "loss": "l1"}, "ordinal has no loss 'l1'; it has coral, corn"),
    "weights of thresholds that there are not": ({"weighting": "ranks"}, "--weighting ranks"),
    "mixed labels where there are none": (
        {"encoder": "conv_autoencoder", "task": "reconstruction", "auxiliary": (), "mixup": 0.2},
        "--mixup blends labels",
    ),
    "a filter that is none": ({"where": "gendre == 'male'"}, "--where .gendre == 'male'.: name 'gendre'"),
    "a number below 0": ({"mixup": -0.2}, "--mixup -0.2: at least 0"),
    "a layer of nothing": ({"head_sizes": (0,)}, "--head-sizes 0"),
    "no image at all": ({"max_images": 0}, "--max-images 0"),
    "a run for its checkpoint": ({"weights": "/nowhere/run"}, "/nowhere/run: no checkpoint there"),
    "a checksum of what has none": (
        {"encoder": "torchvision/resnet18", "weights": "IMAGENET1K_V1", "weights_sha256": "0" * 64},
        "--weights-sha256 is for a file",
    ),
    "heads of a decoder": (
        {"encoder": "conv_autoencoder", "task": "reconstruction", "auxiliary": ("gender",)},
        "reconstruction has a decoder and no further heads",
    ),
    "a share above 1": ({"coarse_labels": 80}, "--coarse-labels 80"),
    "smoothing of what is no class": ({"label_smoothing": 0.1}, "--label-smoothing"),
    "widths of a published network": ({"encoder": "torchvision/resnet18", "widths": (8, 16)}, "--widths"),
    "reconstruction without a decoder": (
        {"task": "reconstruction", "auxiliary": ()},
        "needs an encoder with a decoder",
    ),
    "a head for what nobody labelled": ({"auxiliary": ("ethnicity",)}, "have 0 kinds of ethnicity"),
    "genders that nobody predicted": ({"gender_from": "/nowhere"}, "/nowhere: no predictions there"),
    "vit at a size it cannot take": ({"encoder": "torchvision/vit_b_16", "image_size": 100}, "100"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_in_one_line_before_anything_runs(config: TrainConfig, mistake: str, tmp_path: Path) -> None:
    changes, words = MISTAKES[mistake]
    with pytest.raises((ValueError, StoreError), match=words) as caught:
        train(replace(config, **{"out": str(tmp_path / "run"), **changes}))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "last").exists()


def test_weights_come_from_a_file_the_head_phase_leaves_them_and_a_wrong_checksum_is_refused(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "resnet18.pth"
    torch.manual_seed(config.seed + 1)
    torch.save(resnet18().state_dict(), weights)
    wanted = replace(config, encoder="torchvision/resnet18", weights=str(weights), out=str(tmp_path / "run"), epochs=1)
    with pytest.raises(ValueError, match="its SHA-256 is"):
        train(replace(wanted, weights_sha256="0" * 64))
    train(replace(wanted, weights_sha256=objects.sha256(weights.read_bytes())))
    assert "missing keys: none; unexpected keys, not used: 2 (fc.weight, fc.bias)" in capsys.readouterr().out
    best = str(tmp_path / "run" / "best")
    trained, given = checkpoints.load_model(best).state_dict(), torch.load(weights)
    torch.manual_seed(wanted.seed)
    initial = AgeModel(checkpoints.read(best).spec).state_dict()
    for name, tensor in given.items():
        if not name.startswith("fc."):
            assert torch.equal(trained[f"encoder.trunk.{name}"], tensor), name
    changed = {name.split(".")[0] for name in initial if not torch.equal(initial[name], trained[name])}
    assert changed == {"encoder", "head", "auxiliary"}


ON_FEATURES = [(0, "flip"), *(pytest.param(2, each, marks=pytest.mark.chaos) for each in ("none", "flip"))]


@pytest.mark.parametrize(("num_workers", "augmentation"), ON_FEATURES)
def test_phases_of_dense_layers_alone_learn_the_same_from_features_made_once(
    num_workers: int,
    augmentation: Literal["none", "flip"],
    config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The head, then the encoder's dense layer as well, then all of it from images; dropout and averaged weights. And
    cut off in between, they end the same."""
    monkeypatch.setattr(ingest, "CHUNK_ROWS", 12)
    config = replace(
        config, batch_size=8, phases="head:2@1e-2,last1:2@1e-2,all:1@1e-3", dropout=0.2, ema_decay=0.9,
        num_workers=num_workers, cpus_per_worker=0.5, augmentation=augmentation,
    )  # fmt: skip
    of_images, of_features, cut_off = (str(tmp_path / name) for name in ("images", "features", "cut-off"))
    train(replace(config, out=of_images, cache="never"))
    train(replace(config, out=of_features))
    histories = [checkpoints.read(f"{out}/last").progress.history for out in (of_images, of_features)]
    assert [epoch["phase"] for epoch in histories[0]] == ["head", "head", "last1", "last1", "all"]
    for theirs, ours in zip(*histories, strict=True):
        for name in ("train_loss", "val_loss", "val_mae", "val_accuracy"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3), (ours["epoch"], name)
    if num_workers:
        return

    def killed_in_the_third_epoch(learner: Learner, *arguments: Any) -> Any:
        if learner.phase_index == 1:
            raise lease.Held("killed")
        return step(learner, *arguments)

    step = Learner.step
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", killed_in_the_third_epoch)
        with pytest.raises(lease.Held, match="killed"):
            train(replace(config, out=cut_off))
    train(replace(config, out=cut_off))
    assert len({checkpoints.read(f"{out}/last").weights_sha256 for out in (of_features, cut_off)}) == 1


def test_features_are_made_where_they_save_work_and_fit(config: TrainConfig) -> None:
    def num_phases(**changes: Any) -> int:
        changed = replace(config, **changes)
        spec = ModelSpec(encoder=changed.encoder, task="distribution", age_groups="decades", image_size=32)
        return _num_top_phases(changed, parse_phases(changed.phases), AgeModel(spec), num_images=100)

    assert num_phases(phases="head:3@1e-3,last1:1@1e-3,last2:1@1e-3,head:1@1e-3") == 2
    assert num_phases(phases="head:3@1e-3", encoder="skip_cnn") == 1
    assert num_phases(phases="last1:3@1e-3", encoder="skip_cnn") == 0
    assert num_phases(phases="head:1@1e-3,all:9@1e-3") == 0
    for changes in ({"augmentation": "light"}, {"mixup": 0.2}, {"cache": "never"}):
        assert num_phases(phases="head:3@1e-3", **changes) == 0


def test_an_unfinished_or_unlabelled_catalog_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    dataset.write_dataset(tmp_path / "faces", "unlabelled", num_faces=12, size=32)
    out = str(tmp_path / "catalog")
    build_catalog(CatalogConfig(source=str(tmp_path / "faces"), out=out))
    with pytest.raises(ValueError, match="an unlabelled catalog"):
        train(replace(config, catalog=(out,), out=str(tmp_path / "run")))
    (tmp_path / "catalog.agescale" / "findings.parquet").unlink()
    with pytest.raises(ValueError, match="is not complete; run the same"):
        train(replace(config, catalog=(out,), out=str(tmp_path / "run")))


def test_a_second_job_on_the_same_output_stops_in_one_line(config: TrainConfig, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    with lease.hold(out), pytest.raises(ValueError, match=r"another job .* writes there"):
        train(replace(config, out=out))
    assert objects.list_names(out) == [lease.LOCK_NAME]


def test_a_diverging_run_ends_with_one_line(config: TrainConfig, tmp_path: Path) -> None:
    hot = replace(config, phases="all:3@1e30", clip_norm=0.0, out=str(tmp_path / "run"))
    with pytest.raises(ValueError, match=r"training diverged: epoch \d's loss is NaN or infinite"):
        train(hot)


def test_a_store_that_will_say_the_same_again_ends_training_at_once(config: TrainConfig, tmp_path: Path) -> None:
    """Two processes: one cannot write its checkpoint, the other one waits for it."""

    def stand_in_the_way() -> None:
        for _ in range(600):
            if (tmp_path / "run" / "run.json").exists():
                (tmp_path / "run" / "last").write_text("a file where a checkpoint is to stand")
                return
            time.sleep(0.1)

    thread = threading.Thread(target=stand_in_the_way)
    thread.start()
    with pytest.raises(StoreError, match="run/last/"):  # Ray's own error, after three starts more
        train(replace(config, out=str(tmp_path / "run"), num_workers=2, cpus_per_worker=0.5))
    thread.join()


def test_ctrl_c_amid_a_training_is_an_interruption(config: TrainConfig, tmp_path: Path) -> None:
    """And no SystemExit of Ray's, which would be code 1 without a word."""
    long = replace(config, out=str(tmp_path / "run"), phases="all:500@1e-3", patience=500, num_workers=1)

    def interrupt() -> None:
        for _ in range(600):
            if (tmp_path / "run" / "last" / "config.json").exists():
                os.kill(os.getpid(), signal.SIGINT)
                return
            time.sleep(0.1)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        train(long)
    thread.join()


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.chaos)])
def test_a_training_whose_folder_another_job_has_taken_ends_in_one_line(
    num_workers: int, config: TrainConfig, tmp_path: Path
) -> None:
    """Its processes find out at their next write, though the job that has started them stands still."""
    out = tmp_path / "run"
    long = replace(config, out=str(out), phases="all:500@1e-3", patience=500, num_workers=num_workers)

    def take() -> None:
        for _ in range(600):
            if (out / "last" / "config.json").exists():
                (out / lease.LOCK_NAME).write_text('{"id": "another", "host": "b", "pid": 7, "since": "today"}')
                return
            time.sleep(0.1)

    thread = threading.Thread(target=take)
    thread.start()
    with pytest.raises(lease.Held, match="another job has taken over"):
        train(long)
    thread.join()
    assert checkpoints.read(str(out / "last")).progress.epochs_done < 20


@pytest.mark.parametrize("cache", ["always", "never"])
def test_a_run_that_was_cut_off_ends_with_the_weights_of_an_undisturbed_one_though_its_catalog_has_grown(
    cache: Literal["always", "never"],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Several parts, a block of images each, so that their order counts. One goes on in a process apart, with what
    another has begun in the job's own."""
    monkeypatch.setattr(ingest, "CHUNK_ROWS", 12)
    faces, out = tmp_path / "faces", str(tmp_path / "catalog")
    add = CatalogConfig(source=str(faces), layout="utkface", split=(0.8, 0.2, 0), pack=32, out=out)
    for seed in (1, 2):
        dataset.write_dataset(faces, "utkface", num_faces=30, size=32, seed=seed)
        build_catalog(add)
    config = TrainConfig(catalog=(out,), image_size=16, batch_size=8, augmentation="light", patience=9, cache=cache)
    config = replace(config, phases="all:3@1e-3", num_workers=0)
    undisturbed, cut_off = str(tmp_path / "undisturbed"), str(tmp_path / "cut-off")
    train(replace(config, out=undisturbed))

    def save_and_end(*arguments: Any) -> None:
        save(*arguments)
        raise lease.Held("killed")

    save = runs.save
    monkeypatch.setattr(runs, "save", save_and_end)
    with pytest.raises(lease.Held, match="killed"):
        train(replace(config, out=cut_off))
    monkeypatch.setattr(runs, "save", save)
    assert checkpoints.read(f"{cut_off}/last").progress.epochs_done == 1
    dataset.write_dataset(faces, "utkface", num_faces=30, size=32, seed=3)
    build_catalog(add)
    capsys.readouterr()
    train(replace(config, out=cut_off, num_workers=1 if cache == "always" else 0))
    assert f"{cut_off}: continues after epoch 1 of 3\n" in capsys.readouterr().out

    for folder in ("last", "best"):
        ours, theirs = (checkpoints.read(f"{run}/{folder}") for run in (cut_off, undisturbed))
        assert ours.provenance["num_images"] == theirs.provenance["num_images"]
        assert (ours.epoch, ours.weights_sha256) == (theirs.epoch, theirs.weights_sha256)
    with pytest.raises(ValueError, match="seed was 0, is 1"):
        train(replace(config, out=cut_off, seed=1))
    shutil.rmtree(out)
    shutil.rmtree(f"{out}.agescale")
    build_catalog(add)
    with pytest.raises(ValueError, match=r"cut-off: --catalog is not the one that it began with"):
        train(replace(config, out=cut_off))


def test_a_run_of_two_catalogs_that_was_cut_off_ends_with_the_weights_of_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A large catalog with packed pictures and a small one without, in blocks that cross from one to the other."""
    monkeypatch.setattr(ingest, "CHUNK_ROWS", 12)
    catalog = (str(tmp_path / "large"), str(tmp_path / "small"))
    for seed, (out, num_faces, pack) in enumerate(zip(catalog, (60, 25), (32, 0), strict=True)):
        dataset.write_dataset(f"{out}-faces", "utkface", num_faces=num_faces, size=32, seed=seed)
        build_catalog(CatalogConfig(f"{out}-faces", out, layout="utkface", split=(0.7, 0.3, 0), pack=pack))
    config = TrainConfig(catalog=catalog, mix=(1, 1), image_size=16, batch_size=16, patience=9, num_workers=0)
    config = replace(config, phases="all:2@1e-3", out=str(tmp_path / "undisturbed"))
    rows = training_plan.select(config).rows
    rows = rows.append_column("index", pa.array(range(len(rows))))
    decoded = decoding.FaceDecoder(catalog, (Framing(16),) * 2, (True, False))(rows)["image"]
    for number, uri in enumerate(catalog):
        own = rows.filter(pc.equal(rows["catalog"], number)).drop_columns(["catalog"])
        own = own.append_column("catalog", pa.array([0] * len(own)))
        alone = decoding.FaceDecoder((uri,), (Framing(16),), (number == 0,))(own)["image"]
        np.testing.assert_array_equal(decoded[pc.equal(rows["catalog"], number).to_numpy()], alone)

    train(config)
    save = runs.save

    def save_and_end(*arguments: Any) -> None:
        save(*arguments)
        raise lease.Held("killed")

    cut_off = str(tmp_path / "cut-off")
    monkeypatch.setattr(runs, "save", save_and_end)
    with pytest.raises(lease.Held, match="killed"):
        train(replace(config, out=cut_off))
    monkeypatch.setattr(runs, "save", save)
    with pytest.raises(ValueError, match=r"mix was \[1, 1\], is \[\]"):
        train(replace(config, out=cut_off, mix=()))
    capsys.readouterr()
    train(replace(config, out=cut_off))
    ours, theirs = (checkpoints.read(f"{run}/last") for run in (cut_off, config.out))
    assert ours.weights_sha256 == theirs.weights_sha256
    for epoch in pq.read_table(f"{cut_off}/history.parquet").to_pylist():
        large, small = epoch["mae_by_catalog"]
        assert epoch["val_mae"] == pytest.approx((large + small) / 2)
    assert f"MAE {epoch['val_mae']:.3f} (large {large:.3f}, small {small:.3f})" in capsys.readouterr().out


def amid_an_epoch(run: str, epoch: int, *deeds: Callable[[], None]) -> threading.Thread:
    """Does something once three steps of the epoch have been saved in step/; to be joined."""

    def wait() -> None:
        for _ in range(12_000):
            with contextlib.suppress(ValueError):  # none yet
                found = checkpoints.read(f"{run}/step")
                if found.step is not None and found.epoch == epoch - 1 and found.step.number >= 3:
                    for do in deeds:
                        do()
                    return
            time.sleep(0.01)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def kill_training_processes() -> None:
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "RayTrainWorker" in (process.cmdline() or [""])[0]:
                process.kill()
                process.wait(20)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    kill_training_processes()  # else they may end the epoch before they are ended


LONG_S = 1000.0


def marker(run: str) -> Callable[[], None]:
    """Makes step/ say that its steps took long, by which the epoch that goes on from it is known."""

    def mark() -> None:
        config = Path(run) / "step" / "config.json"
        said = json.loads(config.read_text())
        said["step"]["seconds"] += LONG_S
        config.write_text(json.dumps(said))

    return mark


def notice(told: Path, mark: Callable[[], None]) -> Any:
    """Tells the processes that Ray starts first that their node will be taken away, as Ray's own watcher does."""

    class Notice(WorkerGroupCallback):
        def after_worker_group_start(self, worker_group: WorkerGroup) -> None:
            if told.exists():
                mark()
            else:
                told.touch()
                info = ray.train.PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"n": [0]})
                ray.get([each.actor.mark_preempt.remote(info) for each in worker_group.get_workers()])

    return Notice()


CASES = {
    "here": ("always", 0),
    "a job": ("never", 2),
    "its processes": ("never", 1),
    "its processes, two": ("always", 2),
    "a node": ("always", 2),
}


@pytest.mark.parametrize("victim", ["here", *(pytest.param(each, marks=pytest.mark.chaos) for each in [*CASES][1:])])
def test_what_ends_amid_an_epoch_goes_on_from_its_last_step_to_the_same_weights(
    victim: str,
    config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A job in its second epoch, and the same command again; its processes, killed in the first one, and Ray starts
    them again; its node, after a notice. Several blocks of images, batch norm, dropout, averaged weights and
    augmentation, so that all state counts.
    """
    monkeypatch.setattr(ingest, "CHUNK_ROWS", 12)
    cache, num_workers = CASES[victim]
    config = replace(
        config, batch_size=2 * max(1, num_workers), phases="all:2@1e-3", dropout=0.2, augmentation="light",
        ema_decay=0.9, layer_decay=0.75, cache=cache, num_workers=num_workers, cpus_per_worker=0.5, save_minutes=0,
    )  # fmt: skip
    undisturbed, run = str(tmp_path / "undisturbed"), str(tmp_path / "run")
    train(replace(config, out=undisturbed))
    assert not (tmp_path / "undisturbed" / "step").exists()

    config, often, mark = replace(config, out=run), replace(config, out=run, save_minutes=1e-9), marker(run)
    if victim == "here":
        with monkeypatch.context() as patch:
            patch.setattr(runs, "save_step", saved_and_killed(epoch=2, number=3))
            with pytest.raises(lease.Held, match="killed"):
                train(often)
        mark()
        notices = iter([ray.train.PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"n": [0]})])
        monkeypatch.setattr(ray.train, "get_preemption_info", lambda: next(notices, None))
        train(config)
        check_left_once(capsys.readouterr().out)
        assert next(notices, None) is None
    elif victim == "a node":
        train(config, (notice(tmp_path / "told", mark),))
        check_left_once(capsys.readouterr().out)
    elif victim == "a job":
        thread = amid_an_epoch(run, 2, interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(often)
        thread.join()
        assert checkpoints.read(f"{run}/last").progress.epochs_done == 1, "it ended before it was interrupted"
        mark()
        train(config)
    else:
        thread = amid_an_epoch(run, 1, kill_training_processes, mark)
        train(often)
        thread.join()

    history = checkpoints.read(f"{run}/last").progress.history
    assert max(epoch["seconds"] for epoch in history) > LONG_S, "it began the epoch anew"
    for epoch, expected in zip(history, checkpoints.read(f"{undisturbed}/last").progress.history, strict=True):
        timed = {"seconds": 0, "images_per_s": 0, "stage_seconds": {}}
        assert {**epoch, **timed} == {**expected, **timed}
    for folder in ("last", "best"):
        ours, theirs = (checkpoints.read(f"{each}/{folder}") for each in (run, undisturbed))
        assert ours.weights_sha256 == theirs.weights_sha256
    assert not objects.list_names(f"{run}/step")


def saved_and_killed(epoch: int, number: int) -> Callable[..., None]:
    """``runs.save_step`` of a process that dies right after it has saved that step."""
    save_step = runs.save_step

    def save(plan: training_plan.Plan, progress: RunProgress, step: checkpoints.Step, *rest: Any) -> None:
        save_step(plan, progress, step, *rest)
        if (progress.epochs_done + 1, step.number) == (epoch, number):
            raise lease.Held("killed")

    return save


def check_left_once(said: str) -> None:
    assert said.count("a node will be taken away: saved; goes on elsewhere, as soon as there is room\n") == 1


@pytest.mark.parametrize("step_s", [0.001, 0.3, 5.0])
def test_notices_are_looked_for_every_few_seconds_whatever_a_step_takes(
    step_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, looked = 0.0, [0.0]
    monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(ray.train.collective, "broadcast_from_rank_zero", lambda value: value)
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: looked.append(now))
    notices = worker.Notices()
    while now < 60:
        now += step_s
        assert not notices.are_there()
    pauses = [after - before for before, after in itertools.pairwise(looked)]
    assert max(pauses) == pytest.approx(max(worker.LOOK_S, step_s), rel=0.2)
    assert len(pauses) < 60


FULL = StoreError("unreachable", "/runs/last/weights.pt: [Errno 28] No space left on device")
REFUSED = StoreError("forbidden", "s3://b/last/weights.pt: access refused", stops_the_job=True)
SILENT = StoreError("unreachable", "s3://b/last/weights.pt: no answer in time")


@pytest.mark.parametrize(("error", "lasts"), [(FULL, True), (REFUSED, True), (SILENT, False), (ValueError("x"), False)])
def test_training_is_started_again_only_where_that_may_help(
    error: Exception, lasts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("ray.train"), "level", logging.ERROR)
    by_ray = ray.exceptions.RayTaskError("decode", "Traceback", error).as_instanceof_cause()
    wrapped = RuntimeError("a training process failed")
    wrapped.__cause__ = by_ray
    for failure in (error, by_ray, wrapped):
        assert lasting_store_error(failure) is (error if lasts else None)
        watched = {0: RuntimeError("the other process is gone"), 1: failure}
        with pytest.raises(StoreError) if lasts else contextlib.nullcontext():
            Watch().after_exception(None, watched)


def test_a_cluster_without_the_memory_is_refused_in_one_line(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    have = {**ray.cluster_resources(), "memory": 1.2 * 2**30}
    monkeypatch.setattr(ray, "cluster_resources", lambda: have)
    with pytest.raises(
        ValueError, match=r"2 workers need 2\.0 GiB of memory, the cluster has 1\.2; lower --num-workers"
    ):
        train(replace(config, out=str(tmp_path / "run"), num_workers=2))


def test_a_process_that_is_out_of_memory_is_started_once_more_and_then_told() -> None:
    watch, failures = (
        Watch(),
        {0: RuntimeError("the other process is gone"), 1: ray.exceptions.OutOfMemoryError("killed")},
    )
    watch.after_exception(None, failures)
    with pytest.raises(OutOfMemory) as caught:
        watch.after_exception(None, failures)
    assert is_out_of_memory(caught.value)


def test_want_of_memory_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)  # a petabyte, which no system grants
    wrapped = RuntimeError("a training process failed")
    wrapped.__cause__ = caught.value
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(wrapped)
    assert is_out_of_memory(WorkerHealthCheckFailedError("it died", ray.exceptions.OutOfMemoryError("killed")))
    assert not is_out_of_memory(RuntimeError("shapes differ"))


def test_a_refit_learns_from_validation_images_and_keeps_the_last_epoch(config: TrainConfig) -> None:
    selected = training_plan.select(config)
    plan, splits, _ = training_plan.build_plan(replace(config, refit=True, phases="all:3@1e-3"), selected)
    assert len(splits["train"]) == len(selected.rows) > len(splits["val"]) > 0
    progress = RunProgress(metric=plan.metric)
    for epoch, value in ((1, 5.0), (2, 4.0), (3, 6.0)):
        entry = {"epoch": epoch, "phase_index": 0, f"val_{plan.metric}": value}
        progress = runs.extend(progress, entry, plan)
    assert (progress.best_epoch, progress.best_value, progress.is_finished) == (3, 6.0, True)


def test_an_autoencoder_learns_from_unlabelled_pictures_and_its_encoder_is_used_again(
    config: TrainConfig, tmp_path: Path
) -> None:
    dataset.write_dataset(tmp_path / "faces", "unlabelled", num_faces=100, size=32)
    unlabelled = str(tmp_path / "catalog")
    build_catalog(CatalogConfig(source=str(tmp_path / "faces"), out=unlabelled))
    auto = replace(
        config, catalog=(unlabelled,), encoder="conv_autoencoder", task="reconstruction", out=str(tmp_path / "auto"),
        phases="all:8@3e-3", batch_size=8, auxiliary=(), weighting="none",
    )  # fmt: skip
    history = train(auto).history
    assert history[-1]["val_loss"] < 0.7 * history[0]["val_loss"]
    best = str(tmp_path / "auto" / "best")
    with pytest.raises(ValueError, match="its task, reconstruction, predicts no age"):
        score(ScoreConfig(catalog=unlabelled, checkpoint=best, out=str(tmp_path / "ages")))
    finetune = replace(config, encoder="conv_autoencoder", weights=best, out=str(tmp_path / "fine"))
    plan, _, model = training_plan.build_plan(finetune, training_plan.select(finetune))
    assert "took the encoder of a checkpoint trained on reconstruction" in plan.loaded
    torch.testing.assert_close(model.encoder.state_dict(), checkpoints.load_model(best).encoder.state_dict())
    shutil.rmtree(tmp_path / "faces")
    with pytest.raises(ValueError, match=r"none of the \d+ images of the train split can be read"):
        train(replace(auto, out=str(tmp_path / "gone")))


def test_every_technique_at_once_trains_and_its_heads_predict(config: TrainConfig, tmp_path: Path) -> None:
    """Mixup, weights, heavy augmentation, SGD, an exponential schedule, layer-wise rates, frozen batch norms, ranges
    beside ages, a gender head."""
    everything = replace(
        config, encoder="attention_cnn", auxiliary=("gender",), mixup=0.2, weighting="density", coarse_labels=0.5,
        augmentation="heavy", optimizer="sgd", schedule="exponential", head_weight_decay=1e-3, batch_size=32,
        max_images=40, ema_decay=0.9, layer_decay=0.75, freeze_batch_norm=True, out=str(tmp_path / "run"),
    )  # fmt: skip
    progress = train(everything)
    assert progress.epochs_done == 2
    checkpoint = checkpoints.read(str(tmp_path / "run" / "best"))
    encoder = checkpoints.load_model(str(tmp_path / "run" / "best")).encoder
    means = [tensor for name, tensor in encoder.state_dict().items() if name.endswith("running_mean")]
    assert means
    assert not torch.cat(means).any()
    assert checkpoint.spec.genders == ("female", "male")
    assert checkpoint.provenance["num_images"]["train"] == 40
    predictions = str(tmp_path / "ages")
    score(ScoreConfig(config.catalog[0], predictions, str(tmp_path / "run" / "best"), num_workers=0))
    rows = parquet.read_tables(
        Predictions.open(predictions).files, ["status", "gender", "gender_probability"]
    ).to_pylist()
    assert all((row["gender"] is not None) == (row["status"] == "ok") for row in rows)
    men = training_plan.select(replace(config, gender_from=predictions, where="gender == 'male'"))
    assert 0 < len(men.rows) < len(training_plan.select(config).rows)


def test_a_model_that_learns_from_faces_finds_them_in_what_it_scores(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "faces", str(tmp_path / "catalog")
    dataset.write_dataset(folder, "utkface", num_faces=20, size=96, num_broken=0)
    for number in range(4):
        Image.new("RGB", (96, 96), (90, 90, 90 + number)).save(folder / f"30_0_0_2017011{number}000000000.jpg.chip.jpg")
    build_catalog(CatalogConfig(str(folder), out, layout="utkface", split=(0.5, 0.5, 0)))
    largest = replace(config, catalog=(out,), auxiliary=(), faces="largest", epochs=1, out=str(tmp_path / "run"))
    train(largest)
    assert "have no face, or cannot be read: left out" in capsys.readouterr().out
    spec = checkpoints.read(str(tmp_path / "run" / "best")).spec
    assert spec.faces == FaceGeometry(size=32)
    wider = make_checkpoint(tmp_path / "wider", faces=FaceGeometry(size=32, margin=0.3))
    on = replace(largest, weights=wider, image_size=40, out=str(tmp_path / "on"))
    plan, _, _ = training_plan.build_plan(on, training_plan.select(on))
    assert plan.spec.faces == FaceGeometry(size=40, margin=0.3), "as the model that is trained on has been shown them"
    scoring = ScoreConfig(out, str(tmp_path / "ages"), str(tmp_path / "run" / "best"), num_workers=0)
    score(scoring)
    rows = parquet.read_tables(Predictions.open(scoring.out).files, ["uri", "status", "num_faces"]).to_pylist()
    walls = [(row["status"], row["num_faces"]) for row in rows if "/30_0_0_2017011" in row["uri"]]
    assert walls == [("no_face", 0)] * 4
    assert sum(row["status"] == "ok" for row in rows) >= 0.9 * (len(rows) - 4)
    with pytest.raises(ValueError, match="faces was 'largest', is 'none'"):
        score(replace(scoring, faces="none"))
    with pytest.raises(ValueError, match=r"--center-crop 0\.5 and --faces largest are two ways"):
        train(replace(largest, center_crop=0.5, out=str(tmp_path / "other")))


def test_a_filter_leaves_out_images_of_training_and_validation(config: TrainConfig) -> None:
    rows = training_plan.select(replace(config, where="gender == 'male'")).rows
    everyone = training_plan.select(config).rows
    for split in ("train", "val"):
        of_men, of_all = (table.filter(pc.equal(table["split"], split)) for table in (rows, everyone))
        assert set(of_men["gender"].to_pylist()) == {"male"}
        assert len(of_men) == of_all["gender"].to_pylist().count("male") > 0
