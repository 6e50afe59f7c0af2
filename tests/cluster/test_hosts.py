"""Jobs submitted by cluster/submit.sh to a cluster of three hosts, as a site has one.

Each has its own address, processes, ``/dev/shm`` and disk, and a root file system that cannot be written; the head does
no work, the driver has a node of its own, a token is asked for, pictures and tables lie on S3, and credentials stand in
the nodes' environment only.

The hosts are namespaces of Linux, made as root; skipped where these may not be made.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import make_checkpoint
from test_manifests import CLUSTER, ROOT, expressions

from agescale.synthetic.dataset import write_dataset

TOKEN = "a-token-of-this-test-0123456789abcdef0123456789abcdef"
SECRET = "a-secret-of-this-test"
STORE = {
    "AWS_ENDPOINT_URL": "http://10.88.0.254:8333",
    "AWS_ACCESS_KEY_ID": "hosts",
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

NETWORK = """
ip link set lo up
mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns
ip link add br0 type bridge && ip link set br0 up && ip addr add 10.88.0.254/24 dev br0
for i in 1 2 3; do
  ip netns add h$i && ip link add v$i type veth peer name eth0 netns h$i
  ip link set v$i master br0 up
  ip -n h$i link set lo up && ip -n h$i addr add 10.88.0.$i/24 dev eth0 && ip -n h$i link set eth0 up
done
echo ready
exec sleep infinity
"""

NODE = """
mount -t tmpfs -o size=600m tmpfs /dev/shm
mount -t tmpfs -o size=2g tmpfs "$RAY_TMPDIR"
mount -o remount,ro,bind /
! touch /written 2>/dev/null || exit 9
cd "$RAY_TMPDIR"
# ports that are known need not be waited for: on a busy machine longer than a raylet has patience
ports="--dashboard-agent-grpc-port=52366 --runtime-env-agent-port=52367 --metrics-export-port=8080"
options="--block --disable-usage-stats --object-store-memory=150000000 --node-ip-address=10.88.0.$1"
until ray start $options $ports "${@:2}"; do
  ray stop --force  # of this host only
done
"""

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]


class Hosts:
    """Runs commands in the network of the hosts, outside of them, as a submitter does; or on one of them."""

    def __init__(self, init: int, folder: Path) -> None:
        self.folder = folder
        self.enter = ["nsenter", f"--target={init}", "--net", "--mount", "--pid", "env", f"--chdir={ROOT}"]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))}
        self.environment = {**kept, "PATH": PATH, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
        self.environment |= {"RAY_API_SERVER_ADDRESS": "http://10.88.0.1:8265", "PYTHONPATH": str(ROOT)}
        self.started: list[subprocess.Popen[bytes]] = []

    def run(self, *command: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.enter, *map(str, command)], env=self.environment | environment, cwd=ROOT,
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip

    def start(self, name: str, *command: object, **environment: str) -> None:
        """Something that goes on until the end, with a log."""
        with open(self.folder / f"{name}.log", "wb") as log:
            process = subprocess.Popen(
                [*self.enter, *map(str, command)], env=self.environment | environment, cwd=ROOT,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.started.append(process)

    def start_node(self, number: int, *options: str) -> None:
        disk = self.folder / "disk"
        disk.mkdir(exist_ok=True)
        isolate = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        node = ["ip", "netns", "exec", f"h{number}", *isolate, "bash", "-c", NODE, "node", number, *options]
        environment = {**STORE, "RAY_TMPDIR": str(disk), "HOME": str(disk), "RAY_JOB_STOP_WAIT_TIME_S": "60"}
        environment |= {"RAY_worker_niceness": "0", "RAY_metrics_report_interval_ms": "1000"}
        self.start(f"node-{number}", *node, **environment)

    def wait(self, until: Callable[[], bool], what: str, timeout_s: float = 420) -> None:
        deadline = time.monotonic() + timeout_s
        while not until():
            logs = "".join(f"{file.name}:\n{file.read_text()[-1500:]}\n" for file in self.folder.glob("*.log"))
            assert time.monotonic() < deadline, f"{what}\n{logs}"
            time.sleep(1)

    def submit(self, job_id: str, *command: object) -> subprocess.CompletedProcess[str]:
        """As docs/cluster.md has it; no credentials of the store are there."""
        options = ["--working-dir", ".", "--entrypoint-resources", '{"driver": 1}']
        return self.run(CLUSTER / "submit.sh", job_id, *options, "--", "python", *command)

    def num_alive(self) -> int:
        return len(re.findall(r'"state": *"ALIVE"', self.ask("http://10.88.0.1:8265/api/v0/nodes")))

    def ask(self, url: str) -> str:
        return self.run("curl", "-s", "-H", f"Authorization: Bearer {TOKEN}", url).stdout


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    if not all(shutil.which(tool) for tool in ("unshare", "nsenter", "ip", "curl")) or os.geteuid():
        pytest.skip("needs root, unshare, nsenter, ip and curl")
    folder = Path("/tmp") / f"hosts-{os.getpid()}"  # short: Ray's sockets
    folder.mkdir()
    isolate = ["unshare", "--pid", "--fork", "--mount", "--mount-proc", "--net", "--kill-child"]
    outer = subprocess.Popen([*isolate, "bash", "-ec", NETWORK], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert outer.stdout
    try:
        said = outer.stdout.readline().decode()
        if said != "ready\n":
            pytest.skip(f"no namespaces here: {said}")
        made = Hosts(psutil.Process(outer.pid).children()[0].pid, folder)
        identity = {"name": "hosts", "credentials": [{"accessKey": "hosts", "secretKey": SECRET}]}
        identity["actions"] = ["Admin", "Read", "Write", "List", "Tagging"]
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        (folder / "store").mkdir()
        weed = shutil.which("weed", path=sysconfig.get_path("scripts")) or "weed"
        options = ["-ip=10.88.0.254", f"-dir={folder / 'store'}", "-volume.max=20", "-master.volumeSizeLimitMB=512"]
        options += ["-master.telemetry=false", "-filer", "-s3", f"-s3.config={folder / 's3.json'}"]
        made.start("store", weed, f"-logdir={folder}", "server", *options, "-s3.port.iceberg=0", "-s3.port.lance=0")
        head = ["--head", "--port=6379", "--dashboard-host=0.0.0.0", "--num-cpus=0"]
        made.start_node(1, *head, "--labels=agescale/role=head")
        made.wait(lambda: "success" in made.ask("http://10.88.0.1:8265/api/gcs_healthz"), "the head does not start")
        for number, role, resources in ((2, "driver", '{"driver": 1}'), (3, "cpu", "{}")):
            options = ["--address=10.88.0.1:6379", "--num-cpus=3", f"--labels=agescale/role={role}"]
            made.start_node(number, *options, f"--resources={resources}")
            made.wait(lambda number=number: made.num_alive() == number, f"host {number} does not join")
        made.wait(lambda: "<Error>" in made.ask(STORE["AWS_ENDPOINT_URL"]), "the store does not start")
        yield made
    finally:
        outer.kill()  # all that runs in its namespaces ends with it
        outer.communicate()
        for process in made.started if "made" in locals() else ():
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def prometheus(hosts: Hosts) -> Callable[[str], list[Any]]:
    """Prometheus with our configuration, told where the head is; asks it what it has seen since it began."""
    if not shutil.which("prometheus"):
        pytest.skip("prometheus is not installed")
    config = (CLUSTER / "monitoring" / "prometheus.yml").read_text().replace("127.0.0.1:8265", "10.88.0.1:8265")
    config = config.replace("/etc/prometheus/ray_token", str(hosts.folder / "token")).replace(" 15s", " 1s")
    (hosts.folder / "token").write_text(TOKEN)
    (hosts.folder / "prometheus.yml").write_text(config)
    shutil.copy(CLUSTER / "monitoring" / "alerts.yml", hosts.folder)
    files = [f"--config.file={hosts.folder}/prometheus.yml", f"--storage.tsdb.path={hosts.folder}/series"]
    hosts.start("prometheus", "prometheus", *files, "--web.listen-address=127.0.0.1:9090")
    began = int(time.time())

    def ask(query: str) -> list[Any]:
        asked = [f"query={query}", f"start={began}", f"end={int(time.time())}", "step=2"]
        encoded = [part for each in asked for part in ("--data-urlencode", each)]
        answer = hosts.run("curl", "-s", "-G", "http://127.0.0.1:9090/api/v1/query_range", *encoded).stdout
        return list(json.loads(answer)["data"]["result"])

    hosts.wait(lambda: "Ready" in hosts.run("curl", "-s", "http://127.0.0.1:9090/-/ready").stdout, "no Prometheus")
    return ask


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn faces, four of them broken."""
    folder = tmp_path_factory.mktemp("photos")
    write_dataset(folder, "utkface", num_faces=300, size=48)
    return folder


@pytest.fixture(scope="module")
def bucket(hosts: Hosts, faces: Path) -> str:
    """A bucket with the faces, below photos/."""
    program = """
import sys, s3fs
store = s3fs.S3FileSystem()
store.mkdir("faces")
store.put(sys.argv[1], "faces/photos", recursive=True)
"""
    put = hosts.run(sys.executable, "-c", program, str(faces), **STORE)
    assert put.returncode == 0, put.stderr
    return "s3://faces"


def rows(folder: str, hosts: Hosts | None = None) -> dict[str, Any]:
    """Status and age of each image in a table of predictions, by the image's name."""
    program = """
import json, sys, agescale
table = agescale.read_predictions(sys.argv[1]).to_table(columns=["uri", "status", "age"]).to_pylist()
print(json.dumps({row["uri"].rpartition("/")[2]: [row["status"], row["age"]] for row in table}))
"""
    command = [sys.executable, "-c", program, folder]
    if hosts:
        read = hosts.run(*command, **STORE)
    else:
        read = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert read.returncode == 0, read.stderr
    return dict(json.loads(read.stdout))


def test_jobs_from_a_clean_submitter_end_as_local_ones_and_say_their_code(
    hosts: Hosts, bucket: str, faces: Path, tmp_path: Path, run_job: Any, prometheus: Callable[[str], list[Any]]
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    program = "import sys, s3fs; s3fs.S3FileSystem().put(sys.argv[1], 'faces/checkpoint', recursive=True)"
    assert hosts.run(sys.executable, "-c", program, checkpoint, **STORE).returncode == 0

    listed = hosts.submit(
        "catalog-1",
        "jobs/catalog.py",
        "--source",
        f"{bucket}/photos",
        "--layout",
        "utkface",
        "--out",
        f"{bucket}/catalog",
    )
    assert listed.returncode == 0, listed.stdout + listed.stderr
    score = ["--catalog", f"{bucket}/catalog", "--checkpoint", f"{bucket}/checkpoint", "--out", f"{bucket}/ages"]
    score += ["--num-workers", "2", "--max-failed-fraction", "0"]
    scored = hosts.submit("score-1", "jobs/score.py", *score)
    assert scored.returncode == 3, scored.stdout + scored.stderr
    assert "over --max-failed-fraction 0" in scored.stdout

    local = tmp_path / "catalog"
    assert run_job("jobs/catalog.py", "--source", faces, "--layout", "utkface", "--out", local).returncode == 0
    paths = ["--catalog", local, "--checkpoint", checkpoint, "--out", tmp_path / "ages"]
    assert run_job("jobs/score.py", *paths, *score[6:]).returncode == 3
    here, there = rows(str(tmp_path / "ages")), rows(f"{bucket}/ages", hosts)
    assert here.keys() == there.keys()
    for name, (status, age) in here.items():
        assert there[name] == [status, pytest.approx(age, abs=1e-3)], name

    again = hosts.submit("score-1", "jobs/score.py", *score)
    assert again.returncode == 2
    assert (
        again.stderr == "error: score-1 was submitted before and is FAILED; ray job delete score-1, or another name\n"
    )


def test_a_job_that_is_stopped_ends_with_143(hosts: Hosts, bucket: str) -> None:
    command = ["jobs/draw.py", "--out", f"{hosts.folder}/disk/many", "--layout", "utkface", "--num-faces", "200000"]
    waiting = subprocess.Popen(
        [*hosts.enter, CLUSTER / "submit.sh", "draw-1", "--working-dir", ".", "--", "python", *command],
        env=hosts.environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    hosts.wait(lambda: "RUNNING" in hosts.run("ray", "job", "status", "draw-1").stdout, "it does not start")
    assert hosts.run("ray", "job", "stop", "draw-1").returncode == 0
    said, _ = waiting.communicate(timeout=120)
    assert waiting.returncode == 143, said


def test_strangers_are_refused_and_no_secret_is_told(hosts: Hosts) -> None:
    url = "http://10.88.0.1:8265/api/jobs/"
    for token, status in (("", "401"), ("-H 'Authorization: Bearer wrong'", "403")):
        assert hosts.run("bash", "-c", f"curl -s -o /dev/null -w '%{{http_code}}' {token} {url}").stdout == status
    jobs = hosts.ask(url)
    assert "score-1" in jobs
    logs = "".join(hosts.ask(f"{url}{name}/logs") for name in ("catalog-1", "score-1"))
    assert "images" in logs
    for text in (jobs, logs, hosts.ask("http://10.88.0.1:8265/api/v0/tasks?limit=10000&detail=1")):
        assert SECRET not in text
        assert TOKEN not in text


def test_prometheus_finds_the_nodes_and_answers_every_query_of_the_dashboard(
    prometheus: Callable[[str], list[Any]],
) -> None:
    """After the jobs above, of which none trains."""
    assert len(prometheus("count by (instance) (up == 1)")) >= 3
    scored = {series["metric"]["status"] for series in prometheus("ray_agescale_images_scored_total")}
    assert scored == {"ok", "unreadable"}
    for panel, query in expressions().items():
        if "_epoch" not in query and "_validation_metric" not in query:
            assert prometheus(query), f"{panel}: {query}"
