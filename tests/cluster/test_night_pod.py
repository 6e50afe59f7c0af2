"""The pod of a night (cluster/kuberay/base/nightly.py) against a stand-in for the Kubernetes API."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SCRIPT = Path(__file__).parents[2] / "cluster" / "kuberay" / "base" / "nightly.py"
FAILED = "Job entrypoint command failed with exit code {}, last available logs (truncated to 20,000 chars):\n..."
RunNight = Callable[..., subprocess.CompletedProcess[str]]


class Api(ThreadingHTTPServer):
    """What Kubernetes and its operator do with RayJobs: each ends as ``ends`` says, when it was looked at twice."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.jobs: dict[str, Any] = {}
        self.num_looks: dict[str, int] = {}
        self.ends: list[tuple[str, str]] = []  # jobStatus and message, one a RayJob
        self.failures: list[int] = []  # statuses of the next answers
        self.tokens: set[str] = set()


class Handler(BaseHTTPRequestHandler):
    server: Api

    def do_GET(self) -> None:
        kind, name = self.path.split("/")[-2:]
        if kind == "raycronjobs":
            template = {
                "metadata": {"labels": {"kueue.x-k8s.io/queue-name": "ages"}},
                "spec": {"jobTemplate": {"a": 1}},
            }
            self.answer(200, template)
            return
        status: dict[str, str] = {}
        self.server.num_looks[name] = self.server.num_looks.get(name, 0) + 1
        if self.server.num_looks[name] > 1:
            state, message = self.server.ends[list(self.server.jobs).index(name)]
            status = {"jobStatus": state, "message": message}
            status["jobDeploymentStatus"] = "Failed" if state == "FAILED" else "Complete"
        self.answer(200, {"status": status})

    def do_POST(self) -> None:
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_there = job["metadata"]["name"] in self.server.jobs
        if not is_there:
            self.server.jobs[job["metadata"]["name"]] = job
        self.answer(409 if is_there else 201, {})

    def answer(self, status: int, body: Any) -> None:
        self.server.tokens.add(self.headers["Authorization"])
        if self.server.failures:
            status = self.server.failures.pop(0)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def account(tmp_path: Path) -> Path:
    """A service account's folder: namespace, token, and the certificate of the API."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, raw, plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (tmp_path / "ca.crt").write_bytes(certificate.public_bytes(pem))
    (tmp_path / "api.key").write_bytes(key.private_bytes(pem, raw, plain))
    (tmp_path / "namespace").write_text("ages")
    (tmp_path / "token").write_text("a-token")
    return tmp_path


@pytest.fixture
def api(account: Path) -> Iterator[Api]:
    server = Api()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(account / "ca.crt", account / "api.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def night(api: Api, account: Path) -> RunNight:
    """Runs the pod."""

    def run(job_name: str = "nightly-29387640") -> subprocess.CompletedProcess[str]:
        program = SCRIPT.read_text().replace("/var/run/secrets/kubernetes.io/serviceaccount", str(account))
        (account / "nightly.py").write_text(program)
        environment = {"KUBERNETES_SERVICE_HOST": "localhost", "KUBERNETES_SERVICE_PORT": str(api.server_port)}
        environment |= {"JOB_NAME": job_name, "JOB_UID": "uid-1"}
        arguments = ["--template", "nightly", "--name", "night", "--attempts", "3", "--poll-s", "0.05"]
        return subprocess.run(
            [sys.executable, str(account / "nightly.py"), *arguments],
            env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    return run


def test_the_examples_in_its_text_are_right() -> None:
    import doctest

    module: dict[str, Any] = {"__name__": "nightly"}
    exec(compile(SCRIPT.read_text(), str(SCRIPT), "exec"), module)
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    tests = [test for name in ("night", "exit_code") for test in finder.find(module[name], name, globs=module)]
    assert [runner.run(test).failed for test in tests] == [0, 0]


def test_a_night_makes_a_dated_job_of_the_template_waits_and_ends_well(api: Api, night: RunNight) -> None:
    api.ends = [("SUCCEEDED", "Job finished successfully.")]
    ran = night()
    assert (ran.returncode, ran.stderr) == (0, "")
    assert list(api.jobs) == ["night-20251116"]
    job = api.jobs["night-20251116"]
    assert job["spec"] == {"a": 1}
    assert job["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "ages", "agescale/job": "night"}
    assert job["metadata"]["ownerReferences"][0]["uid"] == "uid-1"
    assert api.tokens == {"Bearer a-token"}


@pytest.mark.parametrize("code", [2, 3])
def test_what_would_end_alike_is_not_tried_again(api: Api, night: RunNight, code: int) -> None:
    api.ends = [("FAILED", FAILED.format(code))]
    assert night().returncode == code
    assert len(api.jobs) == 1


def test_a_crash_and_a_lost_cluster_are_tried_again(api: Api, night: RunNight) -> None:
    api.ends = [("FAILED", FAILED.format(1)), ("FAILED", "The job deadline has passed"), ("SUCCEEDED", "")]
    assert night().returncode == 0
    assert list(api.jobs) == ["night-20251116", "night-20251116-1", "night-20251116-2"]


def test_after_three_attempts_it_gives_up(api: Api, night: RunNight) -> None:
    api.ends = [("FAILED", FAILED.format(1))] * 3
    assert night().returncode == 1
    assert len(api.jobs) == 3


def test_a_night_that_somebody_stops_is_over(api: Api, night: RunNight) -> None:
    api.ends = [("STOPPED", "Job was intentionally stopped.")]
    assert night().returncode == 2


def test_the_next_pod_waits_for_the_job_of_the_first(api: Api, night: RunNight) -> None:
    api.jobs["night-20251116"] = {}
    api.ends = [("FAILED", FAILED.format(3))]
    ran = night()
    assert ran.returncode == 3
    assert "is there already" in ran.stdout
    assert len(api.jobs) == 1


def test_an_api_that_fails_for_a_while_ends_nothing_and_one_that_forbids_ends_at_once(
    api: Api, night: RunNight
) -> None:
    api.ends = [("SUCCEEDED", "")]
    api.failures = [503, 500, 429]
    assert night().returncode == 0
    api.failures = [403]
    refused = night("by-hand")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: GET raycronjobs/nightly: 403")
