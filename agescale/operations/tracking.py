"""Tells MLflow of a run: its settings, the metrics of each epoch, its best checkpoint, and how that was judged.

    <run>/mlflow.json       the experiment, and the key by which the MLflow run is found there again

In: the folder of a run, which is looked at now and then while its job works. Out: one MLflow run, however often that
job was begun: what MLflow has already is asked of MLflow, and what it lacks is told, as the run's ``last/`` says it.
Never in the way: a server that is silent or refuses is one line.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict, cast

from agescale.models import checkpoints
from agescale.models.checkpoints import Checkpoint
from agescale.operations.executions import in_time, masked
from agescale.runtime import terminal
from agescale.store import objects, outputs, paths
from agescale.store.errors import StoreError
from agescale.tables.predictions import Predictions
from agescale.training import runs

NAME = "mlflow.json"
EXPERIMENT_NAME = "MLFLOW_EXPERIMENT_NAME"
"""Where the environment names the experiment, as MLflow itself reads it."""
LOOK_EVERY_S = 5.0
PATIENCE_S = 60.0
"""At the end of a job that has done its work, for what has not been told yet: a checkpoint, at most."""
HASTE_S = 2.0
"""The same of one that is being ended."""
ANSWER_S = 10.0
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": f"{ANSWER_S:.0f}",  # it would wait for 2 minutes,
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # eight times
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""Defaults; what is set already stays."""
METRICS = (
    "lr", "train_loss", "val_loss", "val_mae", "val_worst_group_mae", "val_accuracy", "images_per_s", "seconds",
)  # fmt: skip
"""Of each epoch, at the step of its number; the last one is there if all are."""
MAX_PARAM_LETTERS = 500
"""What servers of MLflow 2 take."""
MAX_CHECKPOINT_BYTES = 200 * 10**6
"""A larger checkpoint is told by its URI only."""


class Known(TypedDict):
    """mlflow.json."""

    experiment: str
    key: str


class Tracker:
    """The MLflow run of the run in the folder ``out``. Raises ValueError where there can be none: the package is
    missing, or the URI is none of MLflow's. Its other methods raise whatever MLflow does."""

    def __init__(self, uri: str, out: str) -> None:
        self.uri, self.out = uri, out
        self.run_id = ""
        self._client: Any = None
        self._told: tuple[int, str] | None = None
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            import mlflow.exceptions
        except ImportError as error:
            raise ValueError("--mlflow: its package is not installed; pip install 'agescale[mlflow]'") from error
        wrong = in_time(self._connect, ANSWER_S)
        if isinstance(wrong, mlflow.exceptions.MlflowException):  # no server has been asked yet
            raise ValueError(f"--mlflow {masked(uri)}: {_one_line(wrong)}") from wrong

    def tell(self, status: str) -> None:
        """Brings MLflow up to date with the run, whose job has that ``status``, in MLflow's words."""
        last = paths.join(self.out, "last")
        newest = checkpoints.read(last) if checkpoints.exists(last) else None
        now = (newest.progress.epochs_done if newest else 0, status)
        if now == self._told or not objects.exists(paths.join(self.out, runs.RUN_NAME)):
            return
        client, run = self._connect(), self._run()
        if status == "RUNNING" and run.info.status != status:  # of a job before this one
            client.update_run(self.run_id, status=status)
        if newest:
            self._tell_epochs(newest)
        if newest and newest.progress.is_finished and status == "FINISHED":
            self._tell_best(checkpoints.read(paths.join(self.out, "best")), run.data.tags)
        if status not in ("RUNNING", run.info.status):
            client.set_terminated(self.run_id, status)
        self._told = now

    def tell_report(self, metrics: str, page: str) -> None:
        """Tells what ``evaluate`` has written into these files: the numbers of each split, and both."""
        files = {paths.name_of(uri): objects.read_bytes(uri) for uri in (metrics, page)}
        self._run()
        numbers = {
            f"{split}/{name}": float(value)
            for split, values in json.loads(files[paths.name_of(metrics)]).items()
            for name, value in values.items()
            if split != "about" and isinstance(value, int | float) and not isinstance(value, bool)
        }
        self._log_metrics(numbers, step=0)
        self._log_files("report", files)

    def _connect(self) -> Any:
        """MLflow's client. One for a database looks into it first, and makes its tables."""
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.ERROR)
        self._client = self._client or MlflowClient(tracking_uri=self.uri)
        return self._client

    def _run(self) -> Any:
        """The run as MLflow has it, made where it has none."""
        client, known = self._connect(), known_run(self.out)
        if known is None:
            known = {"experiment": os.environ.get(EXPERIMENT_NAME) or "agescale", "key": uuid.uuid4().hex}
            objects.write_bytes(paths.join(self.out, NAME), json.dumps(known).encode())
        experiment = client.get_experiment_by_name(known["experiment"])
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(known["experiment"])
        found = client.search_runs([experiment_id], f"tags.agescale_run = '{known['key']}'", max_results=1)
        if found:
            run = found[0]
        else:
            tags = {"agescale_run": known["key"], "checkpoint": paths.join(self.out, "best")}
            run = client.create_run(experiment_id, tags=tags, run_name=paths.name_of(self.out))
        if run.info.run_id != self.run_id:
            print(f"mlflow: run {run.info.run_id} of experiment {known['experiment']}", flush=True)
            self.run_id = run.info.run_id
            self._log_params(json.loads(objects.read_bytes(paths.join(self.out, runs.RUN_NAME)))["settings"])
        return run

    def _tell_epochs(self, newest: Checkpoint) -> None:
        provenance = newest.provenance
        self._log_params(
            {
                "data": provenance["data"],
                "num_parameters": provenance["num_parameters"],
                **{f"num_{split}_images": number for split, number in provenance["num_images"].items()},
            }
        )
        told = {metric.step for metric in self._connect().get_metric_history(self.run_id, METRICS[-1])}
        for epoch in newest.progress.history:
            if epoch["epoch"] not in told:
                values = cast(Mapping[str, float | None], epoch)
                numbers = {name: value for name in METRICS if (value := values.get(name)) is not None}
                maes = epoch["mae_by_catalog"] if len(epoch["mae_by_catalog"]) > 1 else []
                of_each = {f"val_mae_{place}": mae for place, mae in enumerate(maes, 1) if mae is not None}
                self._log_metrics(of_each | numbers, step=epoch["epoch"])

    def _tell_best(self, best: Checkpoint, tags: Mapping[str, str]) -> None:
        if tags.get("model") == best.digest:
            return
        client, progress, folder = self._connect(), best.progress, paths.join(self.out, "best")
        assert progress.best_value is not None
        self._log_metrics({f"best_{progress.metric}": progress.best_value}, step=best.epoch)
        files = {"model_card.json": json.dumps(best.card(), indent=1).encode()}
        self._log_files(None, files)
        if 4 * best.provenance["num_parameters"] <= MAX_CHECKPOINT_BYTES:
            files = {name: checkpoints.read_file(folder, name, sha256) for name, sha256 in best.files.items()}
            files[checkpoints.CONFIG_NAME] = objects.read_bytes(paths.join(folder, checkpoints.CONFIG_NAME))
            self._log_files("best", files)
        client.set_tag(self.run_id, "model", best.digest)  # the last of it

    def _log_params(self, values: Mapping[str, object]) -> None:
        from mlflow.entities import Param

        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
        params = [Param(name, text[:MAX_PARAM_LETTERS]) for name, text in texts.items()]
        self._connect().log_batch(self.run_id, params=params)

    def _log_metrics(self, numbers: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        metrics = [Metric(name, value, now_ms, step) for name, value in numbers.items()]
        self._connect().log_batch(self.run_id, metrics=metrics)

    def _log_files(self, place: str | None, files: Mapping[str, bytes]) -> None:
        with tempfile.TemporaryDirectory(prefix="agescale-") as folder:
            for name, data in files.items():
                Path(folder, name).write_bytes(data)
            self._connect().log_artifacts(self.run_id, folder, place)


class Follower:
    """Tells MLflow of a run while its job works, on a thread that nobody waits for until the end."""

    def __init__(self, uri: str, out: str) -> None:
        self._tracker, self._out = Tracker(uri, out), out
        self._status, self._is_over = "RUNNING", threading.Event()
        self._has_failed = False
        self._thread = threading.Thread(target=self._follow, name="agescale-mlflow", daemon=True)

    @property
    def has_begun(self) -> bool:
        return self._thread.ident is not None

    def begin(self, out: str) -> None:
        """Called when the job has the folder ``out``."""
        if out == self._out and not self.has_begun:
            self._thread.start()

    def end(self, status: str, patience_s: float) -> None:
        self._status = status
        self._is_over.set()
        self.begin(self._out)
        self._thread.join(patience_s)
        if self._thread.is_alive() and not self._has_failed:
            self._say(f"no answer in {patience_s:g} s")

    def _follow(self) -> None:
        is_over = False
        while not is_over:
            is_over = self._is_over.wait(LOOK_EVERY_S)
            try:
                self._tracker.tell(self._status)
                self._has_failed = False
            except StoreError:
                pass  # the job itself says what is wrong with its folder
            except Exception as error:  # noqa: BLE001  (of MLflow, of requests, of databases)
                if not self._has_failed:
                    self._say(_one_line(error))
                self._has_failed = True

    def _say(self, what: str) -> None:
        _warn(self._tracker.uri, f"{what}; what is not told now, the same command tells later")


@contextlib.contextmanager
def followed(uri: str, out: str) -> Iterator[None]:
    """Tells the MLflow at ``uri``, if any, of the run in the folder ``out``, which the block trains. Raises ValueError
    as ``Tracker`` does."""
    if not uri:
        yield
        return
    follower = Follower(uri, out)
    outputs.ON_HELD.append(follower.begin)
    try:
        yield
        follower.end("FINISHED", PATIENCE_S)
    except BaseException as error:
        if follower.has_begun:  # else the folder may be another run's
            follower.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED", HASTE_S)
        raise
    finally:
        outputs.ON_HELD.remove(follower.begin)


def tracker_of(uri: str, predictions: str, checkpoint: str | None) -> Tracker:
    """That of the run whose model made the ``predictions``. Raises ValueError where MLflow was not told of it."""
    best = paths.absolute(checkpoint or str(Predictions.open(paths.absolute(predictions)).metadata.get("checkpoint")))
    run = best.rpartition("/")[0]
    if known_run(run) is None:
        raise ValueError(f"--mlflow: {run} has no {NAME}; the same command that trained it, with --mlflow, tells of it")
    return Tracker(uri, run)


def tell_report(tracker: Tracker, metrics: str, page: str) -> None:
    """``Tracker.tell_report``, or one line that says why not."""
    error = in_time(lambda: tracker.tell_report(metrics, page), PATIENCE_S)
    if error:
        _warn(tracker.uri, f"{_one_line(error)}; the report is not told")


def known_run(run: str) -> Known | None:
    """What the folder of a run says of its MLflow run; None where there is none yet, or it cannot be read."""
    uri = paths.join(run, NAME)
    if not objects.exists(uri):
        return None
    try:
        said = json.loads(objects.read_bytes(uri))
        return {"experiment": str(said["experiment"]), "key": uuid.UUID(said["key"]).hex}
    except (ValueError, KeyError, TypeError):
        return None


def _one_line(error: BaseException) -> str:
    return masked(" ".join(str(error).split()))[:300]


def _warn(uri: str, what: str) -> None:
    print(terminal.printable(f"mlflow {masked(uri)}: {what}"), file=sys.stderr, flush=True)
