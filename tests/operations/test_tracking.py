"""A run is one MLflow run, whoever dies; an MLflow that is away, or silent, costs one line. A real client throughout,
with a database of its own; the package is an extra."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import REPO

from agescale.cataloging.driver import build_catalog
from agescale.commands import evaluate as evaluate_command
from agescale.commands import train as train_command
from agescale.config import CatalogConfig, EvaluateConfig, ScoreConfig, TrainConfig
from agescale.models import checkpoints
from agescale.models.age_model import AgeModel
from agescale.models.checkpoints import Epoch, RunProgress
from agescale.models.spec import ModelSpec
from agescale.operations import tracking
from agescale.scoring.driver import score
from agescale.store import objects, outputs

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")  # MLflow's SQL
NOBODY = "http://me:hunter2@127.0.0.1:9"
Client = Any


def test_without_its_package_nothing_begins(tmp_path: Path) -> None:
    out = tmp_path / "run"
    program = "import sys; sys.modules['mlflow'] = None; from agescale.__main__ import run; run('train')"
    command = [sys.executable, "-c", program, "--catalog", "drawn", "--out", str(out), "--mlflow", "http://127.0.0.1:9"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)
    line = "error: --mlflow: its package is not installed; pip install 'agescale[mlflow]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With MLflow's tables, which take seconds to make."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    pytest.importorskip("mlflow").MlflowClient(tracking_uri=f"sqlite:///{file}")
    return file


@pytest.fixture
def mlflow(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Client]:
    """The URI of an MLflow, and a client of it."""
    for name, value in tracking.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "faces")
    monkeypatch.setattr(tracking, "LOOK_EVERY_S", 0.1)
    uri = f"sqlite:///{shutil.copy(empty_database, tmp_path / 'mlflow.db')}"
    client = pytest.importorskip("mlflow").MlflowClient(tracking_uri=uri)
    client.create_experiment("faces", artifact_location=str(tmp_path / "artifacts"))
    return uri, client


def only_run(client: Client) -> Any:
    (run,) = client.search_runs([client.get_experiment_by_name("faces").experiment_id])
    return run


def steps(client: Client, name: str) -> list[int]:
    return [metric.step for metric in client.get_metric_history(only_run(client).info.run_id, name)]


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., str]:
    """Leaves in a folder what a run has after so many epochs."""

    def write(num_epochs: int, is_finished: bool = False) -> str:
        out = str(tmp_path / "run")
        settings = {"catalog": ["c", "d"], "seed": 3, "widths": [8, 16], "where": "x" * 900}
        objects.write_bytes(f"{out}/run.json", json.dumps({"settings": settings, "data": "abc"}).encode())
        if num_epochs:
            model = AgeModel(ModelSpec(encoder="cnn", task="distribution", age_groups="25-years", image_size=32))
            history = tuple(map(epoch, range(1, num_epochs + 1)))
            progress = RunProgress(num_epochs, history, "mae", num_epochs, 1.0, is_finished=is_finished)
            about = {"data": "abc", "num_parameters": 1000, "num_images": {"train": 7, "val": 2}}
            for name in ("last", "best"):
                checkpoints.save(f"{out}/{name}", model.spec, model.state_dict(), progress, about)  # type: ignore[arg-type]
        return out

    return write


def epoch(number: int) -> Epoch:
    return {
        "epoch": number, "phase": "all", "phase_index": 0, "lr": 1e-3, "train_loss": 1 / number, "images_per_s": 9.0,
        "val_loss": 0.5, "val_mae": 10.0 - number, "val_worst_group_mae": None, "val_accuracy": 0.5, "seconds": 2.0,
        "mae_by_catalog": [10.0 - number, None], "decode": "median",
    }  # fmt: skip


def test_a_run_that_goes_on_stays_one_and_no_epoch_is_missed_or_told_twice(
    mlflow: tuple[str, Client], write_run: Callable[..., str]
) -> None:
    uri, client = mlflow
    tracking.Tracker(uri, write_run(0)).tell("RUNNING")
    assert only_run(client).info.status == "RUNNING"
    first = tracking.Tracker(uri, write_run(1))
    first.tell("RUNNING")
    first.tell("FAILED")
    assert only_run(client).info.status == "FAILED"
    second = tracking.Tracker(uri, write_run(3))  # its first job died before it told of 2 and 3
    second.tell("RUNNING")
    assert only_run(client).info.status == "RUNNING"
    out = write_run(4, is_finished=True)
    second.tell("FINISHED")
    tracking.Tracker(uri, out).tell("FINISHED")  # the same command once more
    for name in ("train_loss", "val_mae", "val_mae_1", "seconds"):
        assert steps(client, name) == [1, 2, 3, 4], name
    assert steps(client, "best_mae") == [4]
    assert steps(client, "val_worst_group_mae") == steps(client, "val_mae_2") == []
    run = only_run(client)
    assert run.info.status == "FINISHED"
    assert run.data.tags["checkpoint"] == f"{out}/best"
    assert run.data.tags["model"] == checkpoints.read(f"{out}/best").digest
    expected = {"seed": "3", "widths": "[8, 16]", "where": "x" * 500, "num_parameters": "1000", "num_val_images": "2"}
    assert expected.items() <= run.data.params.items()


def test_the_checkpoint_is_kept_there_and_loads_and_a_large_one_is_named(
    mlflow: tuple[str, Client], write_run: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, client = mlflow
    out = write_run(1, is_finished=True)
    with monkeypatch.context() as patched:
        patched.setattr(tracking, "MAX_CHECKPOINT_BYTES", 3999)
        tracking.Tracker(uri, out).tell("FINISHED")
    run_id = only_run(client).info.run_id
    assert [file.path for file in client.list_artifacts(run_id)] == ["model_card.json"]
    client.delete_tag(run_id, "model")
    tracking.Tracker(uri, out).tell("FINISHED")
    folder = client.download_artifacts(run_id, "best", str(tmp_path))
    checkpoints.load_model(folder)
    card = json.loads(Path(client.download_artifacts(run_id, "model_card.json", str(tmp_path))).read_text())
    assert card["num_images"] == {"train": 7, "val": 2}


def test_a_run_that_was_deleted_there_is_told_anew(mlflow: tuple[str, Client], write_run: Callable[..., str]) -> None:
    uri, client = mlflow
    tracker = tracking.Tracker(uri, write_run(1))
    tracker.tell("RUNNING")
    before = only_run(client).info.run_id
    client.delete_run(before)
    write_run(2)
    tracker.tell("RUNNING")
    assert only_run(client).info.run_id != before
    assert steps(client, "seconds") == [1, 2]


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and says nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(100)
        yield f"http://me:hunter2@127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["nobody", "silent"])
def test_who_does_not_answer_costs_one_line(
    kind: str, silent: str, write_run: Callable[..., str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pytest.importorskip("mlflow")
    for name, value in {**tracking.ENVIRONMENT, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tracking, "LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(tracking, "PATIENCE_S", 1.0)
    out = write_run(1)
    began = time.monotonic()
    with tracking.followed(NOBODY if kind == "nobody" else silent, out):
        outputs.tell_held(out)
        time.sleep(1)
        write_run(2)
        time.sleep(1)
    assert time.monotonic() - began < 10
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mlflow http://***@127.0.0.1:")
    assert line.endswith("; what is not told now, the same command tells later")
    assert "hunter2" not in line


def test_a_server_that_comes_back_is_told_everything(
    mlflow: tuple[str, Client], write_run: Callable[..., str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    uri, client = mlflow
    connect, is_away, asked = tracking.Tracker._connect, [True], threading.Semaphore(0)

    def connect_maybe(tracker: tracking.Tracker) -> Any:
        asked.release()
        if is_away:
            raise OSError("away")
        return connect(tracker)

    monkeypatch.setattr(tracking.Tracker, "_connect", connect_maybe)
    out = write_run(1)
    with tracking.followed(uri, out):
        outputs.tell_held(out)
        assert all(asked.acquire(timeout=30) for _ in range(4))
        is_away.clear()
        write_run(2)
    assert steps(client, "seconds") == [1, 2]
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_job_that_is_refused_its_folder_tells_nothing_of_it(
    mlflow: tuple[str, Client], write_run: Callable[..., str]
) -> None:
    uri, client = mlflow
    before = list(outputs.ON_HELD)
    with pytest.raises(ValueError, match="another run"), tracking.followed(uri, write_run(1)):
        raise ValueError("another run stands there")
    assert not client.search_runs([client.get_experiment_by_name("faces").experiment_id])
    assert before == outputs.ON_HELD


@pytest.mark.parametrize("uri", ["foo://me:hunter2@x", "runs/mlruns"])
def test_what_is_no_mlflow_is_refused(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^--mlflow ") as refused, tracking.followed(uri, str(tmp_path / "run")):
        pytest.fail("it began")
    assert "hunter2" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("local_ray")
def test_a_training_and_its_report_are_one_run(
    mlflow: tuple[str, Client], drawn_faces: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    uri, client = mlflow
    catalog, out = str(tmp_path / "catalog"), str(tmp_path / "run")
    build_catalog(
        CatalogConfig(source=str(drawn_faces / "utkface"), layout="utkface", split=(0.5, 0.25, 0.25), out=catalog)
    )
    config = TrainConfig(catalog=(catalog,), out=out, image_size=32, widths=(8, 8), phases="all:2@1e-3", mlflow=uri)
    config = replace(config, num_workers=0)
    train_command.main(config)
    train_command.main(replace(config, device="cpu"))  # finished; nothing is told twice
    history = pq.read_table(f"{out}/history.parquet").to_pylist()
    run = only_run(client)
    told = client.get_metric_history(run.info.run_id, "train_loss")
    assert [(metric.step, metric.value) for metric in told] == [(row["epoch"], row["train_loss"]) for row in history]
    assert run.info.status == "FINISHED"
    assert "mlflow" not in run.data.params
    assert run.data.params["phases"] == "all:2@1e-3"

    ages, report = str(tmp_path / "ages"), str(tmp_path / "report")
    score(ScoreConfig(catalog=catalog, checkpoint=f"{out}/best", out=ages, num_workers=0))
    judged = EvaluateConfig(catalog=catalog, predictions=ages, out=report, mlflow=uri)
    evaluate_command.main(judged)
    numbers = json.loads(Path(report, "metrics.json").read_text())
    run = only_run(client)
    assert run.data.metrics["test/mae"] == pytest.approx(numbers["test"]["mae"])
    names = {file.path for file in client.list_artifacts(run.info.run_id, "report")}
    assert names == {"report/metrics.json", "report/report.html"}
    Path(out, tracking.NAME).unlink()
    with pytest.raises(ValueError, match=r"run has no mlflow\.json"):
        evaluate_command.main(judged)
    assert "mlflow" not in capfd.readouterr().err, "nothing went wrong"
