"""Jobs submitted by cluster/submit.sh to a cluster of hosts (``hosts.py``), as a site has one; in the order of a day:
it begins without workers, and ends with a search for secrets.

The hosts are made as root; skipped where this is not allowed.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import make_checkpoint
from hosts import DASHBOARD, DRIVER, HEAD, SECRET, TOKEN, WORKERS, Hosts, Submission, started_hosts
from test_manifests import CLUSTER, expressions

from agescale.synthetic.dataset import write_dataset

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]
EVERYBODY = (HEAD, DRIVER, *WORKERS)
CATALOG, MODEL, AGES, RUN = (f"s3://faces/{name}" for name in ("catalog", "model", "ages", "run"))
LIST = ("jobs/catalog.py", "--source", "s3://faces/photos", "--layout", "utkface", "--out")
ACTOR = "ray::MapWorker(MapBatches(ScoringActor))"
TRAINER = "ray::RayTrainWorker"


def scoring(out: str) -> tuple[object, ...]:
    """Many small units; with the slow store half a minute of them."""
    settings = ("--num-workers", "2", "--unit-rows", "5", "--batch-size", "5")
    return ("jobs/score.py", "--catalog", CATALOG, "--checkpoint", MODEL, "--out", out, *settings)


def training(out: str, epochs: int = 1) -> tuple[object, ...]:
    """One process on each of two hosts, of three CPUs each."""
    settings = ("--num-workers", "2", "--cpus-per-worker", "2", "--image-size", "32", "--patience", "99")
    return ("jobs/train.py", "--catalog", CATALOG, "--out", out, "--phases", f"all:{epochs}@1e-3", *settings)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Without workers. The bucket has photos of drawn faces, four of them broken, and a model that has not learned."""
    if not all(shutil.which(tool) for tool in ("unshare", "nsenter", "ip", "curl")) or os.geteuid():
        pytest.skip("needs root, unshare, nsenter, ip and curl")
    photos = tmp_path_factory.mktemp("photos")
    write_dataset(photos, "utkface", num_faces=200, size=48)
    model = make_checkpoint(tmp_path_factory.mktemp("model"))
    program = """
import sys, s3fs
store = s3fs.S3FileSystem()
store.makedirs("faces", exist_ok=True)  # the first answer may be lost
store.put(sys.argv[1], "faces/photos", recursive=True)
store.put(sys.argv[2], "faces/model", recursive=True)
"""
    try:
        with started_hosts(Path("/tmp") / f"hosts-{os.getpid()}") as made:  # short: Ray's sockets
            made.python(program, photos, model)
            yield made
    except PermissionError as error:
        pytest.skip(f"no namespaces here: {error}")


@pytest.fixture(scope="module")
def prometheus(hosts: Hosts) -> Callable[[str], list[Any]] | None:
    """Prometheus with our configuration, told where the head is; asks it what it has seen since it began."""
    if not shutil.which("prometheus"):
        return None
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
def catalog(hosts: Hosts, prometheus: object) -> str:
    """Made by a job that was submitted while there was no worker; what it said. Then there are workers."""
    job = Submission(hosts, "catalog-1", *LIST, CATALOG)
    job.wait_for(lambda: "waiting for nodes: 1 CPUs needed, 0 there" in job.said, "does not wait for nodes")
    hosts.start_host(WORKERS[0])
    said = job.end()
    hosts.start_host(WORKERS[1])  # not both at once: a busy machine takes longer than a raylet has patience
    hosts.wait_for_hosts(*EVERYBODY)
    return said


@pytest.fixture(scope="module")
def undisturbed(hosts: Hosts, catalog: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The table of predictions as one machine makes it."""
    out = str(tmp_path_factory.mktemp("local") / "ages")
    hosts.run_locally(*scoring(out))
    return rows(hosts, out)


def rows(hosts: Hosts, folder: str) -> dict[str, Any]:
    """Status and age of each image in a table of predictions, which has each once."""
    program = """
import json, sys, agescale
table = agescale.read_predictions(sys.argv[1]).to_table(columns=["uri", "status", "age"]).to_pylist()
rows = {row["uri"]: [row["status"], row["age"]] for row in table}
assert len(rows) == len(table), "an image stands there twice"
print(json.dumps(rows))
"""
    return dict(json.loads(hosts.python(program, folder)))


def check_right(hosts: Hosts, out: str, undisturbed: dict[str, Any]) -> None:
    """As if nothing had happened, by what the table says and by what ``verify`` says of it."""
    there = rows(hosts, out)
    assert there.keys() == undisturbed.keys()
    for uri, (status, age) in undisturbed.items():
        assert there[uri] == [status, pytest.approx(age, abs=1e-3)], uri
    assert hosts.run_locally("jobs/verify.py", "--catalog", CATALOG, "--predictions", out).startswith("right")


def begin_scoring(hosts: Hosts, name: str, out: str) -> Submission:
    """A scoring job, slow enough that something can happen to it, of which two units have been written."""
    job = Submission(hosts, name, *scoring(out), is_slow=True)
    job.wait_for(lambda: len(hosts.names(out)) >= 2, "writes nothing")
    return job


def error_of(said: str) -> str:
    """The one line by which a job says why it ended; Ray repeats what a job that failed has said last."""
    (line,) = {line for line in said.splitlines() if line.startswith("error:")}
    return line


def history(hosts: Hosts, run: str) -> list[dict[str, Any]]:
    program = "import sys, json; from agescale.store import parquet; "
    program += "print(json.dumps(parquet.read_table(sys.argv[1] + '/history.parquet').to_pylist()))"
    return list(json.loads(hosts.python(program, run)))


def check_same_history(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [epoch["epoch"] for epoch in found] == [epoch["epoch"] for epoch in expected]
    for here, there in zip(expected, found, strict=True):
        for name in ("lr", "train_loss", "val_loss", "val_mae", "val_accuracy"):
            assert there[name] == pytest.approx(here[name], rel=1e-3), name


def test_a_job_waits_for_hosts_that_come_late(catalog: str) -> None:
    assert "waiting for nodes: 1 CPUs needed, 0 there (0 of 300 s)" in catalog


def test_jobs_end_as_on_one_machine_and_say_their_code(
    hosts: Hosts, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    train = Submission(hosts, "train-1", *training(RUN))
    train.wait_for(lambda: all(hosts.processes(number, TRAINER) for number in WORKERS), "not one on each host")
    assert f"checkpoint: {RUN}/best" in train.end()
    hosts.run_locally(*training(str(tmp_path / "run")))
    check_same_history(history(hosts, RUN), history(hosts, str(tmp_path / "run")))

    said = Submission(hosts, "score-1", *scoring(AGES), "--max-failed-fraction", "0").end(code=3)
    assert "over --max-failed-fraction 0" in said
    check_right(hosts, AGES, undisturbed)
    again = hosts.run(CLUSTER / "submit.sh", "score-1", "--working-dir", ".", "--", "python", *scoring(AGES))
    assert again.returncode == 2
    taken = "error: score-1 was submitted before and is FAILED; ray job delete score-1, or another name\n"
    assert again.stderr == taken

    evaluate = ("jobs/evaluate.py", "--catalog", CATALOG, "--predictions", AGES, "--out")
    Submission(hosts, "evaluate-1", *evaluate, "s3://faces/report").end()
    hosts.run_locally(*evaluate, tmp_path / "report")
    program = "import s3fs; print(s3fs.S3FileSystem().cat('faces/report/metrics.json').decode())"
    here, there = json.loads((tmp_path / "report" / "metrics.json").read_text()), json.loads(hosts.python(program))
    assert {**there, "about": None} == {**here, "about": None}

    sweep = ("jobs/sweep.py", "--catalog", CATALOG, "--out", "s3://faces/sweep", "--num-trials", "2", "--epochs", "1")
    said = Submission(hosts, "sweep-1", *sweep, "--max-images", "80").end()
    assert {"0000.json", "0001.json"} <= set(hosts.names("s3://faces/sweep/trials")), said


def test_an_out_on_a_hosts_own_disk_is_refused_before_any_work(hosts: Hosts, catalog: str) -> None:
    mine = f"{hosts.folder}/disk/my"
    commands = {"catalog": (*LIST, f"{mine}-catalog"), "score": scoring(f"{mine}-ages")}
    commands["train"] = training(f"{mine}-run")
    for job in [Submission(hosts, f"{name}-own-disk", *command) for name, command in commands.items()]:
        line = error_of(job.end(code=2))
        assert "cannot see it; give a folder on storage that all nodes share, or s3://" in line


def test_a_host_that_dies_while_scoring_costs_no_row(hosts: Hosts, undisturbed: dict[str, Any]) -> None:
    out = "s3://faces/ages-of-a-host-that-died"
    job = begin_scoring(hosts, "score-host-dies", out)
    job.wait_for(lambda: hosts.processes(WORKERS[1], ACTOR), "no work on that host")
    hosts.kill_host(WORKERS[1])
    hosts.start_host(WORKERS[1])  # another one, with an empty disk
    job.end()
    check_right(hosts, out, undisturbed)
    hosts.wait_for_hosts(*EVERYBODY)


def test_a_host_that_dies_while_training_costs_an_epoch(hosts: Hosts, catalog: str) -> None:
    out, num_epochs = "s3://faces/run-of-a-host-that-died", 4
    job = Submission(hosts, "train-host-dies", *training(out, num_epochs))
    job.wait_for(lambda: "history.parquet" in hosts.names(out), "no epoch")
    hosts.kill_host(WORKERS[0])
    hosts.start_host(WORKERS[0])
    job.end(timeout_s=400)
    assert [epoch["epoch"] for epoch in history(hosts, out)] == list(range(1, num_epochs + 1))
    hosts.wait_for_hosts(*EVERYBODY)


def test_a_notice_that_a_host_will_be_taken_away_costs_no_step(hosts: Hosts, catalog: str, tmp_path: Path) -> None:
    """The training leaves it at once, and nothing of it is left when it dies."""
    out, num_epochs = "s3://faces/run-of-a-host-with-a-notice", 12
    settings = ("--num-workers", "1", "--batch-size", "2", "--save-minutes", "0")
    job = Submission(hosts, "train-notice", *training(out, num_epochs), *settings)
    job.wait_for(lambda: "history.parquet" in hosts.names(out), "no epoch")
    (host,) = (number for number in WORKERS if hosts.processes(number, TRAINER))
    (other,) = set(WORKERS) - {host}
    hosts.drain_host(host, deadline_s=60)
    job.wait_for(lambda: hosts.processes(other, TRAINER), "does not go on elsewhere")
    assert hosts.names(f"{out}/step")
    hosts.kill_host(host)
    hosts.start_host(host)
    said = job.end(timeout_s=400)
    assert said.count("a node will be taken away: saved; goes on elsewhere") == 1
    assert "continues after step" in said
    undisturbed = str(tmp_path / "run")
    hosts.run_locally(*training(undisturbed, num_epochs), *settings)
    check_same_history(history(hosts, out), history(hosts, undisturbed))
    hosts.wait_for_hosts(*EVERYBODY)


def test_a_training_of_as_many_processes_as_there_is_room_for_goes_on_with_fewer(hosts: Hosts, catalog: str) -> None:
    out, num_epochs = "s3://faces/run-of-fewer-processes", 4
    job = Submission(hosts, "train-elastic", *training(out, num_epochs), "--num-workers", "1:2")
    job.wait_for(lambda: all(hosts.processes(number, TRAINER) for number in WORKERS), "not one on each host")
    job.wait_for(lambda: "history.parquet" in hosts.names(out), "no epoch")
    hosts.kill_host(WORKERS[0])
    try:
        job.end(timeout_s=400)
    finally:
        hosts.start_host(WORKERS[0])
    assert [epoch["epoch"] for epoch in history(hosts, out)] == list(range(1, num_epochs + 1))
    hosts.wait_for_hosts(*EVERYBODY)


def test_a_link_that_is_cut_for_long_costs_no_row(hosts: Hosts, undisturbed: dict[str, Any]) -> None:
    out = "s3://faces/ages-of-a-cut-link"
    job = begin_scoring(hosts, "score-cut-link", out)
    job.wait_for(lambda: hosts.processes(WORKERS[0], ACTOR), "no work on that host")
    hosts.set_link(WORKERS[0], "down")
    try:
        job.end()  # by itself, on the other one
    finally:
        hosts.set_link(WORKERS[0], "up")
    check_right(hosts, out, undisturbed)
    hosts.wait_for_hosts(*EVERYBODY)  # it comes back by itself


def test_a_driver_that_was_cut_off_is_followed_by_the_same_command(hosts: Hosts, undisturbed: dict[str, Any]) -> None:
    out = "s3://faces/ages-of-a-driver-that-was-cut-off"
    job = begin_scoring(hosts, "score-driver-cut-off", out)
    hosts.set_link(DRIVER, "down")
    try:
        job.end(code=1)
    finally:
        hosts.set_link(DRIVER, "up")
    assert "summary.json" not in hosts.names(f"{out}.agescale")
    Submission(hosts, "score-driver-cut-off-2", *scoring(out)).end()
    check_right(hosts, out, undisturbed)
    hosts.wait_for_hosts(*EVERYBODY)


def test_of_two_nights_that_overlap_one_works(hosts: Hosts, undisturbed: dict[str, Any]) -> None:
    out = "s3://faces/ages-of-two-nights"
    first = begin_scoring(hosts, "night-1", out)
    actors = [actor for number in WORKERS for actor in hosts.processes(number, ACTOR)]
    for actor in actors:  # a long night: it does not end before the second one has begun
        actor.suspend()
    second = Submission(hosts, "night-2", *scoring(out))
    line = error_of(second.end(code=2))
    assert "writes there; wait for it, or give another --out" in line
    for actor in actors:
        actor.resume()
    first.end()
    check_right(hosts, out, undisturbed)


def stop(job: Submission) -> None:
    """As a site does; it ends in one line, by which it goes on."""
    job.stop()
    line = error_of(job.end(code=143))
    assert "error: exit code 143: interrupted; the same command continues: python jobs/" in line


def test_stopped_jobs_end_with_143_give_their_folders_back_and_go_on(hosts: Hosts, undisturbed: dict[str, Any]) -> None:
    out = "s3://faces/stopped"
    search = ("--space", "quick", "--num-trials", "2", "--epochs", "2", "--max-images", "80")
    jobs = {
        "catalog": ((*LIST, f"{out}/catalog"), "catalog.agescale/.lease.json"),
        "score": (scoring(f"{out}/ages"), "ages/part-"),
        "train": (training(f"{out}/run", epochs=5), "run/history.parquet"),
        "sweep": (("jobs/sweep.py", "--catalog", CATALOG, "--out", f"{out}/sweep", *search), "sweep/runs/0000/history"),
    }
    for name, (command, wanted) in jobs.items():
        job = Submission(hosts, f"{name}-stopped", *command, is_slow=name in ("catalog", "score"))
        job.wait_for(lambda wanted=wanted: any(file.startswith(wanted) for file in hosts.names(out)), "no work")
        stop(job)
    assert not [file for file in hosts.names(out) if file.endswith(".lease.json")]
    for job in [Submission(hosts, f"{name}-goes-on", *command) for name, (command, _) in jobs.items()]:
        assert "may still run" not in job.end(), "it waits for a lease that nobody has"
    check_right(hosts, f"{out}/ages", undisturbed)
    assert len(history(hosts, f"{out}/run")) == 5
    program = "import sys, json; from agescale.store import parquet; "
    program += "print(json.dumps(parquet.read_table(sys.argv[1])['status'].to_pylist()))"
    statuses = json.loads(hosts.python(program, f"{out}/sweep/leaderboard.parquet"))
    assert (len(statuses), set(statuses) & {"running", "failed"}) == (2, set())

    evaluate = ("jobs/evaluate.py", "--catalog", CATALOG, "--predictions", f"{out}/ages", "--out", f"{out}/report")
    job = Submission(hosts, "evaluate-stopped", *evaluate, is_slow=True)
    job.wait_for(lambda: hosts.seconds_of(DRIVER, evaluate[0]) > 10, "does not begin")
    stop(job)
    assert not hosts.names(f"{out}/report")
    Submission(hosts, "evaluate-goes-on", *evaluate).end()
    assert {"metrics.json", "report.html"} <= set(hosts.names(f"{out}/report"))


def test_strangers_are_refused_and_no_secret_is_told(hosts: Hosts, undisturbed: dict[str, Any]) -> None:
    """After all that stands above: in what the cluster tells, on the disks of hosts, in titles of processes."""
    url = f"{DASHBOARD}/api/jobs/"
    for token, status in (("", "401"), ("-H 'Authorization: Bearer wrong'", "403")):
        assert hosts.run("bash", "-c", f"curl -s -o /dev/null -w '%{{http_code}}' {token} {url}").stdout == status
    jobs = json.loads(hosts.ask(url))
    assert "catalog-1" in [job["submission_id"] for job in jobs]
    told = {job["submission_id"]: hosts.ask(f"{url}{job['submission_id']}/logs") for job in jobs}
    assert "cataloged" in told["catalog-1"] or "images" in told["catalog-1"]
    told |= {"jobs": json.dumps(jobs)}
    for kind in ("tasks", "actors", "workers", "nodes", "runtime_envs", "placement_groups"):
        told[kind] = hosts.ask(f"{DASHBOARD}/api/v0/{kind}?limit=10000&detail=1")
        assert '"result": true' in told[kind], told[kind][:500]
    told |= {f"submitted {file.name}": file.read_text() for file in hosts.folder.glob("*.submitted")}
    told |= {f"started {file.name}": file.read_text() for file in hosts.folder.glob("*.log")}
    for place, text in told.items():
        for secret in (SECRET, TOKEN):
            before, found, after = text.partition(secret)
            assert not found, f"{place}: ...{before[-500:]}{secret}{after[:200]}..."
    num_files = 0
    for number in EVERYBODY:
        init = hosts.init_of(number)
        for process in init.children(recursive=True):
            with_secrets = [word for word in process.cmdline() if SECRET in word or TOKEN in word]
            assert not with_secrets, process
        for file in Path(f"/proc/{init.pid}/root{hosts.folder}/disk").rglob("*"):
            if file.is_file():
                num_files += 1
                content = file.read_bytes()
                assert SECRET.encode() not in content, file
                assert TOKEN.encode() not in content, file
    assert num_files > 100, "these are not the hosts' disks"


def test_prometheus_finds_the_nodes_and_answers_every_query_of_the_dashboard(
    undisturbed: dict[str, Any], prometheus: Callable[[str], list[Any]] | None
) -> None:
    """After the jobs above."""
    if prometheus is None:
        pytest.skip("prometheus is not installed")
    assert len(prometheus("count by (instance) (up == 1)")) >= 3
    scored = {series["metric"]["status"] for series in prometheus("ray_agescale_images_scored_total")}
    assert scored == {"ok", "unreadable"}
    for panel, query in expressions().items():
        assert prometheus(query), f"{panel}: {query}"
