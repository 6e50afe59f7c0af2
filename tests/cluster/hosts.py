"""A cluster of hosts, as a site has one, made of Linux namespaces, and a store beside them.

Each host has its own address, processes, ``/dev/shm`` and disk, and a root file system that cannot be written; the head
(1) does no work, drivers have a node of their own (2) and so do two workers (3, 4); a token is asked for, and
credentials stand in the nodes' environment only. All of it ends with the process that made it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
from seaweedfs import server_command

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-of-this-test-0123456789abcdef0123456789abcdef"
SECRET = "a-secret-of-this-test"
HEAD, DRIVER, WORKERS = 1, 2, (3, 4)
DASHBOARD = "http://10.88.0.1:8265"
STORE_URL, SLOW_STORE_URL = "http://10.88.0.254:8333", "http://10.88.0.254:8334"
STORE = {
    "AWS_ENDPOINT_URL": STORE_URL,
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
ip route add default dev br0  # by which a Ray of one machine finds its own address
for i in 1 2 3 4; do
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
until ray start $options $ports "${@:2}"; do  # started again, as a kubelet or systemd does
  ray stop --force  # of this host only
done
"""


class Submission:
    """A job that was submitted, and whoever waits for it. What both say goes to a file."""

    def __init__(self, hosts: Hosts, job_id: str, *command: object, is_slow: bool = False) -> None:
        """``is_slow``: the store answers it late."""
        environment = {"env_vars": {"AWS_ENDPOINT_URL": SLOW_STORE_URL} if is_slow else {}}
        options = ["--working-dir", ".", "--entrypoint-resources", '{"driver": 1}']
        options += ["--runtime-env-json", json.dumps(environment)]
        self.hosts, self.id, self.log = hosts, job_id, hosts.folder / f"{job_id}-{time.monotonic_ns()}.submitted"
        with self.log.open("wb") as log:
            self.process = hosts.popen(log, ROOT / "cluster" / "submit.sh", job_id, *options, "--", "python", *command)

    @property
    def said(self) -> str:
        return self.log.read_text()

    def wait_for(self, happened: Callable[[], object], what: str = "", timeout_s: float = 240) -> None:
        def happened_meanwhile() -> bool:
            assert self.process.poll() is None, f"it ended too early:\n{self.said}"
            return bool(happened())

        self.hosts.wait(happened_meanwhile, f"{self.id}: {what}\n{self.said}", timeout_s)

    def stop(self) -> None:
        """As `ray job stop` does, which takes seconds to start."""
        self.hosts.ask(f"{DASHBOARD}/api/jobs/{self.id}/stop", "-X", "POST")

    def end(self, code: int = 0, timeout_s: float = 300) -> str:
        """Waits for its end, sees that it ended with ``code``, and returns what was said."""
        try:
            ended = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.id} does not end:\n{self.said}\n{self.hosts.logs()}") from None
        assert ended == code, f"{self.id} ended with {ended}:\n{self.said}"
        return self.said


class Hosts:
    """Runs commands in the network of the hosts, outside of them, as a submitter does; starts and kills hosts, cuts
    their links."""

    def __init__(self, init: int, folder: Path) -> None:
        self.folder = folder
        self.enter = ["nsenter", f"--target={init}", "--net", "--mount", "--pid", "env", f"--chdir={ROOT}"]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_"))}
        self.environment = {**kept, "PATH": PATH, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
        self.environment |= {"RAY_API_SERVER_ADDRESS": DASHBOARD, "PYTHONPATH": str(ROOT)}
        self.started: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "disk").mkdir()

    def run(self, *command: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.enter, *map(str, command)], env=self.environment | environment, cwd=ROOT,
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip

    def python(self, program: str, *arguments: object) -> str:
        """What a program prints that has the store's credentials."""
        ended = self.run(sys.executable, "-c", program, *arguments, **STORE)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def run_locally(self, *command: object) -> str:
        """What a job says that runs on the submitter's own machine, which has credentials too."""
        ended = self.run(sys.executable, *command, RAY_ADDRESS="local", RAY_USAGE_STATS_ENABLED="0", **STORE)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def popen(self, log: Any, *command: object, **environment: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self.enter, *map(str, command)], env=self.environment | environment, cwd=ROOT,
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def start(self, name: str, *command: object, **environment: str) -> None:
        """Something that goes on until the end, with a log."""
        with open(self.folder / f"{name}.log", "ab") as log:
            self.started[name] = self.popen(log, *command, **environment)

    def start_store(self) -> None:
        self.start("store", *server_command(self.folder, "hosts", SECRET, ip="10.88.0.254"))
        late = ["--host", "10.88.0.254", "--port", "8334", "--kinds", "latency", "--fraction", "1", "--seconds", "0.4"]
        self.start("slow-store", sys.executable, "tests/fault_proxy.py", "--upstream", STORE_URL, *late)

    def start_host(self, number: int) -> None:
        options = ["--head", "--port=6379", "--dashboard-host=0.0.0.0", "--num-cpus=0", "--labels=agescale/role=head"]
        if number != HEAD:
            role, num_cpus, resources = ("driver", 0, {"driver": 4}) if number == DRIVER else ("cpu", 3, {})
            options = ["--address=10.88.0.1:6379", f"--num-cpus={num_cpus}", f"--labels=agescale/role={role}"]
            options += [f"--resources={json.dumps(resources)}"]
        isolate = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        node = ["ip", "netns", "exec", f"h{number}", *isolate, "bash", "-c", NODE, "node", number, *options]
        disk = str(self.folder / "disk")
        environment = {**STORE, "RAY_TMPDIR": disk, "HOME": disk, "RAY_JOB_STOP_WAIT_TIME_S": "60"}
        environment |= {"RAY_worker_niceness": "0", "RAY_metrics_report_interval_ms": "1000"}
        environment |= {"AGESCALE_NODES_WAIT_S": "300"}
        self.start(f"host-{number}", *node, **environment)

    def init_of(self, number: int) -> psutil.Process:
        """The first process of a host, with which all others end."""
        processes = psutil.Process(self.started[f"host-{number}"].pid).children(recursive=True)
        return next(process for process in processes if process.name() == "bash")

    def processes(self, number: int, title: str) -> list[psutil.Process]:
        """Processes of a host whose titles begin so."""
        found = []
        for process in self.init_of(number).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                found += [process] if (process.cmdline() or [""])[0].startswith(title) else []
        return found

    def seconds_of(self, number: int, program: str) -> float:
        """How long a Python program has been running on a host; 0 where none is."""
        for process in self.init_of(number).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if process.cmdline()[1:2] == [program]:
                    return time.time() - process.create_time()
        return 0.0

    def kill_host(self, number: int) -> None:
        self.init_of(number).send_signal(signal.SIGKILL)
        self.started[f"host-{number}"].wait()

    def drain_host(self, number: int, deadline_s: int) -> None:
        """What a cloud's handler does when it hears that a host will be taken away."""
        nodes = json.loads(self.ask(f"{DASHBOARD}/api/v0/nodes"))["data"]["result"]["result"]
        alive = (node for node in nodes if node["state"] == "ALIVE")
        node = next(node["node_id"] for node in alive if node["node_ip"] == f"10.88.0.{number}")
        options = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        options += ["--deadline-remaining-seconds", str(deadline_s)]
        ended = self.run("ray", "drain-node", "--address", "10.88.0.1:6379", "--node-id", node, *options)
        assert ended.returncode == 0, ended.stderr

    def set_link(self, number: int, state: str) -> None:
        """``down`` cuts the host's cable, ``up`` heals it."""
        assert self.run("ip", "link", "set", f"v{number}", state).returncode == 0

    def logs(self) -> str:
        return "".join(f"{file.name}:\n{file.read_text()[-1500:]}\n" for file in self.folder.glob("*.log"))

    def wait(self, until: Callable[[], object], what: str, timeout_s: float = 300) -> None:
        deadline = time.monotonic() + timeout_s
        while not until():
            assert time.monotonic() < deadline, f"{what}\n{self.logs()}"
            time.sleep(0.5)

    def wait_for_hosts(self, *numbers: int) -> None:
        """Until exactly these are alive."""
        wanted = {f"10.88.0.{number}" for number in numbers}
        self.wait(lambda: self.alive() == wanted, f"not the hosts that are alive: {numbers}")

    def alive(self) -> set[str]:
        """Addresses of the hosts that the head thinks alive."""
        try:
            nodes = json.loads(self.ask(f"{DASHBOARD}/api/v0/nodes"))["data"]["result"]["result"]
        except (ValueError, KeyError, TypeError):  # it has not begun to answer
            return set()
        return {node["node_ip"] for node in nodes if node["state"] == "ALIVE"}

    def names(self, uri: str) -> list[str]:
        """Files below a folder of the store, without the bother of starting a Python."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        query = f"{STORE_URL}/{bucket}?list-type=2&prefix={quote(key + '/', safe='')}"
        sign = ["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", f"hosts:{SECRET}"]
        listed = self.run("curl", "-s", *sign, query).stdout
        return [name.removeprefix(f"{key}/") for name in re.findall("<Key>([^<]+)</Key>", listed)]

    def ask(self, url: str, *options: str) -> str:
        return self.run("curl", "-s", "-H", f"Authorization: Bearer {TOKEN}", *options, url).stdout


@contextlib.contextmanager
def started_hosts(folder: Path) -> Iterator[Hosts]:
    """Head, node of drivers and store; no worker yet. Raises PermissionError where no namespaces can be made."""
    folder.mkdir()
    isolate = ["unshare", "--pid", "--fork", "--mount", "--mount-proc", "--net", "--kill-child"]
    outer = subprocess.Popen([*isolate, "bash", "-ec", NETWORK], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert outer.stdout
    hosts = None
    try:
        said = outer.stdout.readline().decode()
        if said != "ready\n":
            raise PermissionError(said)
        hosts = Hosts(psutil.Process(outer.pid).children()[0].pid, folder)
        hosts.start_store()
        hosts.start_host(HEAD)
        hosts.wait(lambda: "success" in hosts.ask(f"{DASHBOARD}/api/gcs_healthz"), "the head does not start")
        hosts.start_host(DRIVER)
        hosts.wait_for_hosts(HEAD, DRIVER)
        hosts.wait(lambda: "<Error>" in hosts.ask(STORE_URL), "the store does not start")
        yield hosts
    finally:
        outer.kill()  # all that runs in its namespaces ends with it
        outer.communicate()
        for process in hosts.started.values() if hosts else ():
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)
