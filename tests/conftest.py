"""What tests share: drawn faces, a local Ray, jobs as users run them, and a real S3 server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fault_proxy import FaultProxy
from seaweedfs import SERVICES, server_command

os.environ.update(  # before anything imports ray, whose processes inherit it
    RAY_ADDRESS="local",  # no test may ever join a cluster that happens to run here
    RAY_AUTH_MODE="disabled",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_DEDUP_LOGS="0",
    RAY_DATA_DISABLE_PROGRESS_BARS="1",
    RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.2",
    RAY_memory_monitor_refresh_ms="0",
    RAY_worker_niceness="0",
)

from agescale.store import client
from agescale.synthetic import dataset

REPO = Path(__file__).parents[1]
NUM_FACES = 24
RunJob = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def drawn_faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small drawn faces: a folder for each layout, named like it. Only to be read; copy what a test changes."""
    folder = tmp_path_factory.mktemp("drawn-faces")
    for layout in dataset.LAYOUTS:
        dataset.write_dataset(folder / layout, layout, num_faces=NUM_FACES, size=48)
    return folder


def make_checkpoint(
    folder: Path, task: str = "distribution", age_groups: str = "25-years", seed: int = 0, **settings: Any
) -> str:
    """A checkpoint of a small model that has learned nothing, always the same."""
    import torch

    from agescale.models import checkpoints
    from agescale.models.age_model import AgeModel
    from agescale.models.spec import ModelSpec

    torch.manual_seed(seed)
    model = AgeModel(ModelSpec(encoder="cnn", task=task, age_groups=age_groups, image_size=32, **settings))
    checkpoints.save(str(folder), model.spec, model.state_dict(), checkpoints.RunProgress(), {})
    return str(folder)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Work so small is done sooner by one thread of torch's than shared out, above all on a busy machine."""
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One Ray of this machine alone for all tests of this process; jobs called as functions find it running."""
    import ray

    from agescale.runtime.cluster import ALLOCATOR, init_ray

    os.environ.update(ALLOCATOR)  # as in the cluster that a job starts for itself; else it takes seconds a training
    with pytest.MonkeyPatch.context() as environment:
        # nobody answers there: a second cluster on this machine must not be asked about the first one's actors
        environment.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
        init_ray(
            address="local",
            num_cpus=4,  # logical: tests wait for one another's processes rather than for CPUs
            include_dashboard=False,
            object_store_memory=200 * 2**20,
            log_to_driver=False,
            logging_level="WARNING",
        )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def no_ray_for_few() -> Iterator[None]:
    """Jobs on few images do as where no Ray runs, whether or not one was started for the tests before."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("cataloging.driver", "scoring.execution", "operations.packing"):
            patch.setattr(f"agescale.{module}.is_cluster_at_hand", lambda: False)
        yield


@pytest.fixture
def ray_address(local_ray: None) -> str:
    """HOST:PORT of ``local_ray``, for a job in a process of its own that has no need to start another one."""
    import ray

    return str(ray.get_runtime_context().gcs_address)


@pytest.fixture(scope="session")
def run_job() -> RunJob:
    """``run_job("jobs/catalog.py", "--source", folder, ...)``: a job in a process of its own, as users run it."""

    def run(
        *arguments: object, env: Mapping[str, str] | None = None, timeout_s: float = 240
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *map(str, arguments)]
        process = subprocess.Popen(
            command,
            cwd=REPO,
            env=os.environ | dict(env or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    return run


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of an empty bucket on a real S3 server; its credentials stand in the environment, as they would in use.

    A Ray that was started before does not know them: run whole jobs on S3 by ``run_job``.
    """
    folder = tmp_path_factory.mktemp("s3")
    ports = free_ports(2 * len(SERVICES))
    endpoint = f"http://127.0.0.1:{ports[3]}"
    command = server_command(folder, "test-key", "test-secret", ports=ports)
    with ExitStack() as stack, pytest.MonkeyPatch.context() as environment:
        log = stack.enter_context(open(folder / "log.txt", "w"))
        server = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        stack.callback(server.wait)
        stack.callback(server.kill)  # it holds nothing that anybody wants, and would take its time
        _wait_until_it_refuses_strangers(endpoint, server, folder / "log.txt")
        environment.setenv("AWS_ENDPOINT_URL", endpoint)
        environment.setenv("AWS_ACCESS_KEY_ID", "test-key")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
        client.filesystem("s3://faces").mkdir("faces")
        yield "s3://faces"


@pytest.fixture
def counter(s3: str) -> Iterator[FaultProxy]:
    """The S3 server behind a proxy that spoils nothing and counts its requests."""
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"], fraction=0) as counter:
        yield counter


def free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait_until_it_refuses_strangers(endpoint: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(endpoint, timeout=5).close()
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 403:
                return
        except OSError:
            pass  # not there yet
        time.sleep(0.2)
    raise RuntimeError(f"the S3 server did not start:\n{log.read_text()[-4000:]}")
