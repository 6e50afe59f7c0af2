"""A run survives whatever dies or stands still while it is written.

best/ has the weights of the best epoch, and who has lost the run spoils nothing of who has it now.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from agescale.ages.calibration import Band, Calibration
from agescale.ages.groups import AgeGroups
from agescale.config import TrainConfig
from agescale.models import checkpoints
from agescale.models.checkpoints import Order, RunProgress, Step
from agescale.models.spec import ModelSpec
from agescale.store import lease, objects, parquet, paths, writers
from agescale.store.writers import Writer
from agescale.tables.catalogs import Catalog
from agescale.training import finetuning, runs
from agescale.training import plan as training_plan
from agescale.training.cells import Cells
from agescale.training.plan import Plan, Selected

MAES = (9.0, 5.0, 6.0)
"""Of each epoch: the second one is the best."""
LONG_EPOCH = 2
"""It is saved in between, twice."""
ORDER = Order(num_workers=1, num_images=2, is_held=True)
SELECTED = Selected(
    pa.table({"uri": ["a.jpg", "b.jpg"]}).replace_schema_metadata({"catalog_ids": '["id"]'}),
    AgeGroups.parse("25-years"),
    {"settings": {}, "data": "d"},
    (Catalog("catalog", {}),),
)


@pytest.fixture(params=["disk", "s3"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "run") if request.param == "disk" else f"{request.getfixturevalue('s3')}/{tmp_path.name}/run"


@pytest.fixture
def out_on_s3(s3: str, tmp_path: Path) -> str:
    return f"{s3}/{tmp_path.name}/run"


def plan_of(out: str) -> Plan:
    phases = finetuning.parse_phases(f"all:{len(MAES)}@1e-3")
    spec = ModelSpec("cnn", "distribution", "25-years", image_size=32)
    return Plan(TrainConfig(), out, spec, phases, {}, {}, "mae", "", Cells(0, ()))


def weights_of(epoch: int) -> dict[str, torch.Tensor]:
    return {"w": torch.full((100,), float(epoch))}


def calibration_of(epoch: int) -> Calibration:
    return Calibration(0.9, (Band(0, None, 1.5, epoch),), epoch, "id", "val", "none", tta=False)


def save_epoch(out: str, progress: RunProgress, writer: Writer) -> RunProgress:
    """What a training process does after each epoch."""
    plan, epoch = plan_of(out), progress.epochs_done + 1
    if epoch == LONG_EPOCH:
        for number in (3, 5):
            save_step(out, progress, number, writer)
    entry: dict[str, Any] = {
        "epoch": epoch, "phase": "all", "phase_index": 0, "lr": 1e-3, "train_loss": 1.0, "images_per_s": 1.0,
        "val_loss": 1.0, "val_mae": MAES[epoch - 1], "val_worst_group_mae": None, "val_accuracy": None,
        "decode": "median", "seconds": 1.0,
    }  # fmt: skip
    progress = runs.extend(progress, entry, plan)
    training = {"optimizer": {"step": torch.tensor(epoch)}}
    return runs.save(plan, progress, weights_of(epoch), training, writer, calibration_of(epoch))


def save_step(out: str, progress: RunProgress, number: int, writer: Writer) -> None:
    training = {"optimizer": {"step": torch.tensor(number)}}
    runs.save_step(plan_of(out), progress, Step(ORDER, number, 2, (0.1, 0.3)), weights_of(number), training, writer)


def read_step(out: str, progress: RunProgress) -> Step | None:
    """What a training process finds of an epoch under way, where it can be used."""
    try:
        found = runs.read_step(plan_of(out), progress, ORDER)
    except ValueError as error:
        check_damage_told(out, str(error))
        return None
    if found is None:
        return None
    step, state = found
    assert state["optimizer"]["step"] == step.number, "a mixture of two"
    return step


def check_damage_told(out: str, said: str) -> None:
    assert said.startswith(f"{out}/step/"), said
    assert "damaged" in said
    assert "\n" not in said


@contextmanager
def held(out: str) -> Iterator[Writer]:
    with lease.hold(out) as each:
        yield Writer(each.claim)


def go_on(out: str, until: int = len(MAES)) -> None:
    """One job: takes the run over, and trains up to an epoch."""
    with held(out) as writer:
        progress = runs.begin(out, SELECTED, writer) or RunProgress(metric="mae")
        read_step(out, progress)
        while progress.epochs_done < until:
            progress = save_epoch(out, progress, writer)


def weights_in(folder: str) -> torch.Tensor:
    checkpoint = checkpoints.read(folder)
    weights: torch.Tensor = checkpoints.load_tensors(folder, checkpoint.weights_file, checkpoint.weights_sha256)["w"]
    return weights


def check_finished(out: str) -> None:
    best, last = checkpoints.read(f"{out}/best"), checkpoints.read(f"{out}/last")
    assert (best.epoch, last.epoch) == (2, len(MAES))
    assert best.is_best
    assert not last.is_best
    assert best.progress == last.progress
    assert (best.spec.calibration, last.spec.calibration) == (calibration_of(2), calibration_of(len(MAES)))
    assert [row["epoch"] for row in parquet.read_table(f"{out}/history.parquet").to_pylist()] == [1, 2, 3]
    torch.testing.assert_close(weights_in(f"{out}/best"), weights_of(2)["w"])
    torch.testing.assert_close(weights_in(f"{out}/last"), weights_of(len(MAES))["w"])
    for folder, checkpoint in ((f"{out}/best", best), (f"{out}/last", last)):
        checkpoints.check_files(folder, checkpoint)
        assert objects.list_names(folder) == sorted(["config.json", *checkpoint.files]), "nothing is left behind"
    assert not objects.list_names(f"{out}/step")


class Killed(BaseException):
    """The process is gone: nothing that it would still do is done."""


@contextmanager
def hooked(monkeypatch: pytest.MonkeyPatch, before: Callable[[str, str], None]) -> Iterator[None]:
    """Calls ``before(what, uri)`` before each write and each removal, while the block lasts."""
    with monkeypatch.context() as patch:
        for name in ("write_bytes", "write_if", "delete"):
            operation = getattr(objects, name)

            def hooked(uri: str, *args: Any, what: str = name, operation: Any = operation, **named: Any) -> Any:
                if not uri.endswith(lease.LEASE_NAME):
                    before(what, uri)
                return operation(uri, *args, **named)

            patch.setattr(objects, name, hooked)
        yield


def test_a_run_killed_at_any_of_its_writes_ends_with_the_weights_of_its_best_epoch(
    out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write of a whole run once, a new job after each kill; then a new process of the same job instead. On S3,
    where a run takes seconds, without the writes within an epoch, which are written as the others are."""
    if paths.is_remote(out):
        monkeypatch.setattr(f"{__name__}.LONG_EPOCH", None)
    num_writes = count_writes(f"{out}/undisturbed", monkeypatch)
    assert num_writes > 20
    for same_job in (False, True) if "://" not in out else (True,):  # a store takes its time
        for index in range(num_writes):
            folder = f"{out}/{same_job}-{index}"
            kill_at(folder, index, monkeypatch, same_job)
            check_finished(folder)


def count_writes(out: str, monkeypatch: pytest.MonkeyPatch) -> int:
    seen: list[str] = []
    with hooked(monkeypatch, lambda what, uri: seen.append(uri)):
        go_on(out)
    check_finished(out)
    return len(seen)


def kill_at(out: str, index: int, monkeypatch: pytest.MonkeyPatch, same_job: bool) -> None:
    seen: list[str] = []

    def kill(what: str, uri: str) -> None:
        seen.append(uri)
        if len(seen) == index + 1:
            raise Killed

    with ExitStack() as stack:
        writer = stack.enter_context(held(out)) if same_job else None
        begin = partial(process, out, writer, begins=True) if writer else partial(go_on, out)
        with hooked(monkeypatch, kill), pytest.raises(Killed):
            begin()
        if writer is not None:  # Ray starts the process again, and nobody begins anew
            process(out, writer, begins=not objects.exists(f"{out}/last/config.json"))
    if not same_job:
        go_on(out)


def process(out: str, writer: Writer, begins: bool) -> None:
    if begins:
        runs.begin(out, SELECTED, writer)
    runs.take_over(out, writer)
    last = f"{out}/last"
    progress = checkpoints.read(last).progress if checkpoints.exists(last) else RunProgress(metric="mae")
    read_step(out, progress)
    while progress.epochs_done < len(MAES):
        progress = save_epoch(out, progress, writer)


def test_a_process_that_was_started_again_and_lives_writes_no_more(out: str) -> None:
    """Both are of the job that holds the run: the first one seemed dead, with its machine away."""
    with held(out) as writer:
        before = save_epoch(out, runs.begin(out, SELECTED, writer) or RunProgress(metric="mae"), writer)
        process(out, writer, begins=False)
        check_finished(out)
        with pytest.raises(lease.Held, match="epoch 3 was written there by another process"):
            save_epoch(out, before, writer)
    check_finished(out)


def test_an_epoch_under_way_goes_on_from_its_last_step_where_the_order_of_images_is_the_same(out: str) -> None:
    with held(out) as writer:
        progress = save_epoch(out, runs.begin(out, SELECTED, writer) or RunProgress(metric="mae"), writer)
        for number in (2, 4):
            save_step(out, progress, number, writer)
    with held(out) as writer:
        assert runs.begin(out, SELECTED, writer) == progress
        assert read_step(out, progress) == Step(ORDER, 4, 2, (0.1, 0.3))
        assert read_step(out, RunProgress(metric="mae")) is None
        plan = plan_of(out)
        for other in (replace(ORDER, num_workers=2), replace(ORDER, num_images=3), replace(ORDER, is_held=False)):
            assert runs.read_step(plan, progress, other) is None
        for changes in ({"settings": {"seed": 1}}, {"data": "other"}, {"versions": {"torch": "99"}}):
            assert runs.read_step(replace(plan, provenance=changes), progress, ORDER) is None
        assert checkpoints.read(f"{out}/last").progress == progress, "a step is no epoch"
        after = save_epoch(out, progress, writer)
        assert read_step(out, after) is None
        with pytest.raises(lease.Held, match="epoch 2 was written there by another process"):
            save_step(out, progress, 6, writer)
    go_on(out)
    check_finished(out)


def test_a_step_that_is_damaged_is_told_and_the_epoch_begins_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, whole = tmp_path / "run", tmp_path / "whole"
    with held(str(out)) as writer:
        progress = save_epoch(str(out), runs.begin(str(out), SELECTED, writer) or RunProgress(metric="mae"), writer)
        save_step(str(out), progress, 2, writer)
    shutil.copytree(out, whole)
    for name in [path.name for path in files_of(out / "step") if not path.name.startswith("weights")]:
        for tenth in (0, 5, 9):
            shutil.rmtree(out)
            shutil.copytree(whole, out)
            data = (whole / "step" / name).read_bytes()
            (out / "step" / name).write_bytes(data[: len(data) * tenth // 10])
            capsys.readouterr()
            with held(str(out)) as writer:
                assert runs.begin(str(out), SELECTED, writer) == progress
            said = capsys.readouterr().out
            if name == "config.json":
                assert said.startswith(f"{out}/step/config.json: ")
                assert said.endswith("; the epoch begins anew\n")
                assert said.count("\n") == 1
            assert read_step(str(out), progress) is None
            go_on(str(out))
            check_finished(str(out))


def test_what_killed_writers_left_goes_with_the_next_holder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    go_on(str(out), until=2)
    strays = [
        out / "last" / ".weights-12.pt.abcdefgh",
        out / "best" / ".config.json.12345678",
        out / ".run.json.a_b_c_d_",
    ]
    strays += [out / "last" / "weights-0123456789ab.pt", out / "best" / "weights-ba9876543210.pt"]
    for stray in strays:
        stray.write_bytes(b"half")
    (out / ".keep").write_bytes(b"somebody's")
    go_on(str(out))
    assert not any(stray.exists() for stray in strays)
    assert (out / ".keep").exists()
    check_finished(str(out))


def test_who_has_lost_the_run_writes_and_removes_nothing(out: str) -> None:
    with held(out) as first:
        progress = save_epoch(out, runs.begin(out, SELECTED, first) or RunProgress(metric="mae"), first)
    with held(out) as second:
        again = runs.begin(out, SELECTED, second)
        assert again == progress
        save_epoch(out, again, second)
        before = state_of(out)
        with pytest.raises(lease.Held, match="has taken over and goes on there"):
            save_epoch(out, progress, first)
        with pytest.raises(lease.Held, match="has taken over and goes on there"):
            save_step(out, progress, 9, first)
        with pytest.raises(lease.Held, match="has taken over"):
            runs.take_over(out, first)
        assert state_of(out) == before
    go_on(out)
    check_finished(out)


def state_of(out: str) -> dict[str, bytes]:
    names = ["history.parquet", "run.json"]
    names += [
        f"{folder}/{name}" for folder in ("last", "step", "best") for name in objects.list_names(f"{out}/{folder}")
    ]
    return {name: objects.read_bytes(f"{out}/{name}") for name in names}


@pytest.mark.parametrize(
    "site",
    ["step/training", "step/config.json", "last/weights", "last/config.json", "best/config.json", "history.parquet"],
)
def test_a_process_that_stood_still_at_a_write_after_its_proof_spoils_nothing_on_s3(
    site: str, out_on_s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has proved its lease; then another job takes the run over and trains on; then it wakes up and writes."""
    out = out_on_s3
    with held(out) as first:
        progress = save_epoch(out, runs.begin(out, SELECTED, first) or RunProgress(metric="mae"), first)
    _give_back_to(out, first)
    states: list[dict[str, bytes]] = []

    def pause(what: str, uri: str) -> None:
        if f"{out}/{site}" in uri and not states:
            objects.delete(f"{out}/{lease.LEASE_NAME}")
            states.append({})  # only once
            go_on(out)
            states.append(state_of(out))

    with hooked(monkeypatch, pause), pytest.raises(lease.Held, match=r"another job has written there|has taken over"):
        save_epoch(out, progress, first)
    assert len(states) == 2
    after = state_of(out)
    assert {name: after[name] for name in states[1]} == states[1]
    go_on(out)
    check_finished(out)


def _give_back_to(out: str, writer: Writer) -> None:
    """The lease as its holder had it before it stood still."""
    assert objects.write_if(f"{out}/{lease.LEASE_NAME}", f'{{"id": "{writer.holder}"}}'.encode(), None)


def outlive(out: str, progress: RunProgress, writer: Writer) -> None:
    with suppress(lease.Held):
        save_epoch(out, progress, writer)


def test_on_disk_the_next_holder_waits_for_a_process_amid_its_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "POLL_S", 0.01)
    out = str(tmp_path / "run")
    with held(out) as first:
        progress = save_epoch(out, runs.begin(out, SELECTED, first) or RunProgress(metric="mae"), first)
    is_paused, goes_on = threading.Event(), threading.Event()

    def pause(what: str, uri: str) -> None:
        if uri == f"{out}/last/config.json" and not is_paused.is_set():
            is_paused.set()
            assert goes_on.wait(60)

    with hooked(monkeypatch, pause):
        zombie = threading.Thread(target=outlive, args=(out, progress, first))
        zombie.start()  # its job is dead, and nobody has the run yet
        assert is_paused.wait(60)
        monkeypatch.setattr(writers, "WAIT_S", 0.0)
        with pytest.raises(lease.Held, match="a process of the job before still writes there"):
            go_on(out)
        monkeypatch.setattr(writers, "WAIT_S", 60.0)
        goes_on.set()
        go_on(out)
        zombie.join()
    check_finished(out)


def files_of(out: Path) -> list[Path]:
    return sorted(path for path in out.rglob("*") if path.is_file() and not path.name.startswith("."))


@pytest.mark.parametrize("until", [2, len(MAES)])
def test_no_file_of_a_run_that_is_cut_anywhere_is_silently_taken(
    until: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a run that goes on and of one that is over: it is mended, or told in one line with what to do."""
    out, whole = tmp_path / "run", tmp_path / "whole"
    go_on(str(out), until)
    shutil.copytree(out, whole)
    for name in [str(path.relative_to(out)) for path in files_of(out)]:
        data = (whole / name).read_bytes()
        for tenth in range(10):
            shutil.rmtree(out)
            shutil.copytree(whole, out)
            (out / name).write_bytes(data[: len(data) * tenth // 10])
            capsys.readouterr()
            try:
                training_plan.pinned_images(str(out / "run.json"), ["id"])
                assert until < len(MAES) or not runs.is_over(str(out)) or name in ("run.json", "images.parquet")
                go_on(str(out))
            except ValueError as error:
                said = str(error)
                assert said.startswith(str(out / name)), said
                assert "damaged" in said
                assert any(way in said for way in ("give another --out", "delete "))
                assert "\n" not in said
                assert name.startswith("last/") or name in ("run.json", "images.parquet")
            else:
                best = checkpoints.read(str(out / "best"))
                checkpoints.check_files(str(out / "best"), best)
                if best.epoch == 2:
                    check_finished(str(out))
                else:
                    assert "the weights of epoch 2 are gone or damaged; replaced by those of the last epoch, 3" in (
                        capsys.readouterr().out
                    )
                    torch.testing.assert_close(weights_in(str(out / "best")), weights_of(3)["w"])


def test_a_run_without_what_it_is_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    go_on(str(tmp_path), until=2)
    (tmp_path / "run.json").unlink()
    with pytest.raises(ValueError, match=r"whose run\.json is missing; give another --out"):
        go_on(str(tmp_path))


def test_a_longer_run_is_told_the_way(tmp_path: Path) -> None:
    out = str(tmp_path)
    settings = {"epochs": 2, "seed": 0}
    with held(out) as writer:
        runs.begin(out, replace(SELECTED, run={"settings": settings, "data": "d"}), writer)
    for changes, way in (
        ({"epochs": 7}, f"--weights {out}/best --out ANOTHER trains on from its best epoch"),
        ({"epochs": 7, "seed": 1}, "give another --out"),
    ):
        with pytest.raises(ValueError, match=r"epochs was 2, is 7.*; " + way + "$"):
            runs.check_same(out, {"settings": {**settings, **changes}, "data": "d"})
