"""Jobs where the environment is not what Ray and other libraries take for granted."""

from __future__ import annotations

import socket
from pathlib import Path

from conftest import RunJob

from agescale.runtime.work import FEW_IMAGES
from agescale.synthetic.dataset import write_dataset

SAY = """
import resource, sys, ray
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from agescale.runtime.cluster import start_ray

@ray.remote
def say():
    print("epoch 1/5 (all): loss 0.7")
    print("what a worker complains of", file=sys.stderr)

start_ray(has_dashboard=True)
ray.get(say.remote())
ray.shutdown()
"""


def test_a_job_starts_its_own_cluster_wherever_it_is_and_lines_of_its_workers_come_plain(
    run_job: RunJob, tmp_path: Path
) -> None:
    """No home, a long path for temporary files, warnings as errors, few open files, a proxy that nobody is behind."""
    long = tmp_path / ("x" * 90)
    long.mkdir()
    env = {"HOME": "/dev/null", "TMPDIR": str(long), "PYTHONWARNINGS": "error", "RAY_AUTH_MODE": "token"}
    env |= dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    said = run_job("-c", SAY, env=env)
    assert said.returncode == 0
    assert said.stdout == "epoch 1/5 (all): loss 0.7\n"
    assert said.stderr == "what a worker complains of\n"


def test_figures_need_no_home(run_job: RunJob) -> None:
    imported = run_job("-c", "import agescale.reports.figures", env={"HOME": "/dev/null"})
    assert (imported.returncode, imported.stderr) == (0, "")


def test_a_cluster_that_is_gone_ends_a_job_in_one_line(run_job: RunJob, drawn_faces: Path, tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        job = run_job(
            "jobs/catalog.py", "--source", drawn_faces / "utkface", "--out", tmp_path / "catalog", "--inspect",
            env={"RAY_ADDRESS": address}, timeout_s=60,
        )  # fmt: skip
    assert job.returncode == 2, job.stderr
    assert job.stderr.startswith(f"error: RAY_ADDRESS={address}: no Ray cluster answers there")
    assert job.stderr.count("\n") == 1


def test_a_ray_that_does_not_start_ends_a_job_in_one_line_that_names_its_logs(run_job: RunJob, tmp_path: Path) -> None:
    write_dataset(tmp_path / "faces", "utkface", num_faces=FEW_IMAGES, size=32)  # and some copies
    job = run_job(
        "jobs/catalog.py", "--source", tmp_path / "faces", "--out", tmp_path / "catalog", "--inspect",
        env={"RAY_object_spilling_config": "no JSON"},
    )  # fmt: skip
    assert job.returncode == 2, job.stderr
    assert job.stderr.startswith("error: Ray did not start: Expecting value: line 1 column 1 (char 0) (its logs: /")
    assert job.stderr.count("\n") == 1
