"""kill -9 of a sweep's driver, and of one of two nodes: the same trials, each once, and images decoded once a start."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path

import psutil
import pytest
from conftest import RunJob, free_ports
from factories import copy_folder
from fault_proxy import FaultProxy
from ray.cluster_utils import Cluster
from running_job import RunningJob

from agescale.store import objects, parquet
from agescale.sweeping import trials
from agescale.synthetic import dataset

NUM_TRIALS, NUM_EPOCHS, NUM_FACES = 6, 3, 90
SPACE = """
SPACE = [{
    "encoder": ["cnn"], "widths": [(4, 8)], "image_size": [32], "augmentation": ["none"],
    "task": ["distribution", "regression"], "phases": ["all:{epochs}@{lr}"], "lr": [3e-4, 1e-3, 3e-3],
}]
"""


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.py"
    path.write_text(SPACE)
    return path


def sweeping(catalog: object, out: object, space: Path) -> list[object]:
    searched = ["--space", space, "--searcher", "grid", "--scheduler", "none", "--epochs", NUM_EPOCHS]
    return ["jobs/sweep.py", "--catalog", catalog, "--out", out, *searched]


def check_each_trial_is_done_once(out: str) -> None:
    done = trials.read_trials(out)
    assert [trial.number for trial in done] == list(range(NUM_TRIALS))
    assert {trial.status for trial in done} == {"finished"}
    assert len({repr(trial.point) for trial in done}) == NUM_TRIALS
    for trial in done:
        assert [entry["epoch"] for entry in trials.read_curve(out, trial)] == list(range(1, NUM_EPOCHS + 1))
    board = parquet.read_table(f"{out}/leaderboard.parquet")
    assert sorted(board["number"].to_pylist()) == list(range(NUM_TRIALS))
    assert objects.exists(f"{out}/best/config.json")


@pytest.fixture
def bucket(s3: str, tmp_path: Path, run_job: RunJob) -> str:
    """A bucket with faces and their catalog, which holds no pixels."""
    dataset.write_dataset(tmp_path / "faces", "utkface", num_faces=NUM_FACES, size=48, num_broken=0)
    copy_folder(str(tmp_path / "faces"), f"{s3}/sweep/faces")
    catalog = ("--source", f"{s3}/sweep/faces", "--layout", "utkface", "--out", f"{s3}/sweep/catalog")
    listed = run_job("jobs/catalog.py", *catalog)
    assert listed.returncode == 0, listed.stdout + listed.stderr
    return f"{s3}/sweep"


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_a_killed_driver_goes_on_with_the_same_command_and_each_start_reads_an_image_once(
    bucket: str, counter: FaultProxy, space: Path, tmp_path: Path
) -> None:
    out = f"{bucket}/out"
    command = sweeping(f"{bucket}/catalog", out, space)

    def reads() -> Counter[int]:
        """How many images were read how often."""
        reads = {key: n for (operation, key), n in counter.requests.items() if operation == "GET"}
        return Counter(n for key, n in reads.items() if "/sweep/faces/" in key)

    def under_way() -> trials.Trial | None:
        """The trial after the first third of them, in the middle of its epochs."""
        begun = trials.read_trials(out)
        if len(begun) <= NUM_TRIALS // 3:
            return None
        trial = begun[NUM_TRIALS // 3]
        return trial if 0 < len(trials.read_curve(out, trial)) < NUM_EPOCHS else None

    first = RunningJob(tmp_path, *command, env={"AWS_ENDPOINT_URL": counter.url})
    try:
        first.wait_for(under_way, timeout_s=600)
        first.kill()
    finally:
        first.close()
    before = {trial.number: (trial, trials.read_curve(out, trial)) for trial in trials.read_trials(out)}
    num_done = sum(trial.status == "finished" for trial, _ in before.values())
    assert num_done >= NUM_TRIALS // 3, "the kill came too early"
    assert num_done < NUM_TRIALS, "the kill hit nothing"
    num_read = sum(reads().values())
    assert reads() == {1: num_read}, "a trial read images again"
    counter.requests.clear()

    second = RunningJob(tmp_path, *command, env={"AWS_ENDPOINT_URL": counter.url})
    try:
        assert second.end(timeout_s=900) == 0, second.said()
    finally:
        second.close()
    assert reads() == {1: num_read}
    check_each_trial_is_done_once(out)
    after = {trial.number: (trial, trials.read_curve(out, trial)) for trial in trials.read_trials(out)}
    for number, (trial, curve) in before.items():
        assert after[number][1][: len(curve)] == curve, "epochs that were done are not done again"
        if trial.status == "finished":
            assert after[number] == before[number]


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_of_two_nodes_one_dies_and_the_sweep_ends_right(
    drawn_faces: Path, space: Path, tmp_path: Path, run_job: RunJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog, out = tmp_path / "catalog", tmp_path / "out"
    shares = ("--split", "0.5", "0.5", "0")
    listing = ("--source", drawn_faces / "utkface", "--layout", "utkface", *shares, "--out", catalog)
    listed = run_job("jobs/catalog.py", *listing)
    assert listed.returncode == 0, listed.stdout + listed.stderr
    (port,) = free_ports(1)
    monkeypatch.setenv(
        "RAY_API_SERVER_ADDRESS", f"http://127.0.0.1:{port}"
    )  # this cluster's, whichever others run here
    memory = {"object_store_memory": 200 * 2**20}
    head = {"num_cpus": 3, "include_dashboard": True, "dashboard_port": port, **memory}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        dying = cluster.add_node(num_cpus=2, **memory)
        raylets = {name: _raylet(node) for name, node in (("head", cluster.head_node), ("dying", dying))}
        command = [*sweeping(catalog, out, space), "--cpus-per-worker", 2]  # so a node holds one trial
        job = RunningJob(tmp_path, *command, env={"RAY_ADDRESS": cluster.address})
        try:
            job.wait_for(lambda: all(map(_trains, raylets.values())) and _are_learning(str(out)), timeout_s=600)
            job.kill(raylets["dying"])
            assert job.end(timeout_s=900) == 0, job.said()
        finally:
            job.close()
    finally:
        cluster.shutdown()
    check_each_trial_is_done_once(str(out))


def _are_learning(out: str) -> bool:
    """Whether all trials under way have finished an epoch: before that, Ray keeps what a dead trial has reserved."""
    under_way = [trial for trial in trials.read_trials(out) if trial.status == "running"]
    return all(trials.read_curves(out, under_way).values())


def _raylet(node: object) -> psutil.Process:
    (info,) = node.all_processes["raylet"]  # type: ignore[attr-defined]
    return psutil.Process(info.process.pid)


def _trains(raylet: psutil.Process) -> bool:
    """Whether a training process runs on that node."""
    for child in raylet.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "RayTrainWorker" in " ".join(child.cmdline()):
                return True
    return False
