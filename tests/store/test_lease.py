"""Of two jobs on one folder the second stops and says why; what a killed one leaves behind is free soon."""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from fault_proxy import FaultProxy

from agescale.store import client, lease, objects, paths, writers
from agescale.store.errors import StoreError

REFUSED = r"^\S+: another job \(host \S+, pid \d+, since \S+\) writes there; wait for it, or give another --out$"
HOLDER = """
import sys, time
from agescale.store import lease
with lease.hold(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("RENEW_S", 0.1), ("EXPIRES_S", 5.0), ("POLL_S", 0.1)):
        monkeypatch.setattr(lease, name, seconds)
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 0.002)


@pytest.fixture(params=["disk", "s3"])
def out(request: pytest.FixtureRequest, tmp_path: Path, fast: None) -> str:
    return str(tmp_path / "out") if request.param == "disk" else f"{request.getfixturevalue('s3')}/{tmp_path.name}/out"


@pytest.fixture
def out_on_s3(s3: str, tmp_path: Path, fast: None) -> str:
    return f"{s3}/{tmp_path.name}/out"


def kill_a_holder_of(out: str) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, out], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        holder.kill()


def wait_until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def abandoned(out: str) -> lease.Lease:
    """A lease that nobody renews, such as a killed job leaves behind."""
    left = lease.Lease(out)
    assert left.write(None)
    return left


def test_a_second_job_on_a_folder_is_refused_in_one_line(out: str) -> None:
    with lease.hold(out) as held:
        with pytest.raises(ValueError, match=REFUSED) as caught, lease.hold(out):
            pass
        assert f"pid {os.getpid()}" in str(caught.value)
        held.check()


def test_a_folder_is_free_at_once_after_success_and_after_failure(out: str, capsys: pytest.CaptureFixture[str]) -> None:
    with lease.hold(out):
        pass
    with pytest.raises(ZeroDivisionError), lease.hold(out):
        raise ZeroDivisionError
    with lease.hold(out) as held:
        held.check()
    assert capsys.readouterr().err == ""


def test_what_a_killed_job_held_is_free_again(out: str, capsys: pytest.CaptureFixture[str]) -> None:
    kill_a_holder_of(out)
    with lease.hold(out) as held:
        held.check()
    said = capsys.readouterr().err
    if paths.is_remote(out):
        assert said.startswith(f"{out}: waiting 5 s, because another job (host ")
        assert said.endswith("may still run\n")
        assert said.count("\n") == 1
    else:
        assert said == ""


def test_who_has_killed_a_holder_gives_its_folder_back(out: str, capsys: pytest.CaptureFixture[str]) -> None:
    kill_a_holder_of(out)
    lease.release(out)
    with lease.hold(out) as held:
        held.prove()
        assert capsys.readouterr().err == "", "waits for a dead one"


def test_a_folder_without_locks_is_used_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lease.hold(str(tmp_path)):
        pass
    assert capsys.readouterr().err == f"{tmp_path}: no lock (No locks available); let no other job write there\n"


def test_a_folder_that_cannot_be_written_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"^\S+/file/\.lock: "), lease.hold(str(tmp_path / "file")):
        pass


def test_of_many_that_begin_at_once_one_works(out_on_s3: str) -> None:
    leases = [lease.Lease(out_on_s3) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda each: each.write(None), leases)) == 1


def test_of_many_that_wait_for_a_dead_job_one_works(out_on_s3: str) -> None:
    abandoned(out_on_s3)
    num_refused = itertools.count()
    others_are_refused = threading.Event()

    def run(_: int) -> str:
        try:
            with lease.hold(out_on_s3):
                assert others_are_refused.wait(30)
                return "worked"
        except ValueError:
            if next(num_refused) == 1:
                others_are_refused.set()
            return "refused"

    with ThreadPoolExecutor(3) as pool:
        assert sorted(pool.map(run, range(3))) == ["refused", "refused", "worked"]


def test_a_job_that_lost_its_lease_learns_of_it_and_leaves_the_other_alone(out_on_s3: str) -> None:
    def work() -> None:
        with lease.hold(out_on_s3) as held:
            other = lease.Lease(out_on_s3)
            wait_until(lambda: other.write(objects.etag(held.uri)))
            wait_until(lambda: held.is_lost)
            held.check()

    with pytest.raises(ValueError, match="another job has taken over"):
        work()
    assert objects.list_names(out_on_s3) == [lease.LEASE_NAME]


@pytest.fixture
def proxy(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"], ("slow_down", "lost"), 0, ("PUT", "GET", "HEAD")) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        client._filesystem.cache_clear()
        yield proxy
    client._filesystem.cache_clear()


def test_faults_and_lost_answers_do_not_cost_the_lease(proxy: FaultProxy, out_on_s3: str) -> None:
    proxy.fraction = 0.4
    with lease.hold(out_on_s3) as held:
        wait_until(lambda: min(proxy.faults["slow_down"], proxy.faults["lost"]) > 5)
        assert not held.is_lost
        wait_until(lambda: held.silent_s < 1)
        held.check()


def test_a_job_that_cannot_renew_its_lease_learns_of_it(proxy: FaultProxy, out_on_s3: str) -> None:
    with lease.hold(out_on_s3) as held:
        proxy.fraction = 1
        wait_until(lambda: held.silent_s > 5)
        with pytest.raises(ValueError, match=r"could not be written to for \d s, so another job may have taken over"):
            held.check()
        proxy.fraction = 0
        wait_until(lambda: held.silent_s < 1)
        held.check()


def test_whoever_lost_the_folder_cannot_prove_it_in_any_process(out: str) -> None:
    with ExitStack() as stack:
        held = stack.enter_context(lease.hold(out))
        claim = pickle.loads(pickle.dumps(held.claim))
        held.prove()
        claim.prove()
        if paths.is_remote(out):
            other = lease.Lease(out)
            wait_until(lambda: other.write(objects.etag(held.uri)))
        else:
            os.unlink(held.uri)
            stack.enter_context(lease.hold(out))
        for prove in (claim.prove, held.prove):  # the second one whether or not a renewal has told it
            with pytest.raises(lease.Held, match="another job has taken over"):
                prove()


def test_a_folder_given_back_is_nobodys_to_prove(out_on_s3: str) -> None:
    with lease.hold(out_on_s3) as held:
        pass
    with pytest.raises(lease.Held):
        held.claim.prove()


def test_a_machine_that_slept_has_lost_its_lease(out_on_s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_S", 600)
    awake = time.clock_gettime
    with lease.hold(out_on_s3) as held:
        held.check()
        asleep = {time.CLOCK_BOOTTIME: 3600}  # which no other clock counts
        monkeypatch.setattr(time, "clock_gettime", lambda which: awake(which) + asleep.get(which, 0))
        with pytest.raises(lease.Held, match="could not be written to for 36"):
            held.check()


def test_whoever_slept_through_a_whole_successor_does_not_get_the_folder_back(out_on_s3: str) -> None:
    with lease.hold(out_on_s3) as held:
        successor = lease.Lease(out_on_s3)
        wait_until(lambda: successor.write(objects.etag(held.uri)))
        objects.delete(successor.uri)  # it is done
        wait_until(lambda: held.is_lost)
        with pytest.raises(lease.Held, match="another job has taken over"):
            held.check()
    assert objects.list_names(out_on_s3) == []


@pytest.mark.parametrize("conditions", ["ignored", "refused"])
def test_a_store_without_conditions_cannot_keep_a_folder_and_is_used_without_a_lease(
    conditions: str, proxy: FaultProxy, out_on_s3: str
) -> None:
    proxy.conditions = conditions
    with (
        pytest.raises(ValueError, match=rf"^{out_on_s3}: this store {conditions[:-1]}.*--no-lease$"),
        lease.hold(out_on_s3),
    ):
        pass
    assert objects.list_names(out_on_s3) == []
    objects.check_writable(out_on_s3)
    with lease.hold(out_on_s3, is_wanted=False) as held, lease.hold(out_on_s3, is_wanted=False):
        held.check()
        held.prove()
        assert objects.write_new(f"{out_on_s3}/unit", b"1")
    assert objects.list_names(out_on_s3) == ["unit"]
    proxy.conditions = "kept"
    assert not objects.write_new(f"{out_on_s3}/unit", b"2")


def test_a_store_that_knows_one_condition_only_is_no_better(
    s3: str, out_on_s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_if = objects.write_if

    def ignore_matches(uri: str, data: bytes, expected_etag: str | None, *rest: int | None) -> str | None:
        return write_if(uri, data, expected_etag and objects.etag(uri), *rest)

    monkeypatch.setattr(objects, "write_if", ignore_matches)
    with pytest.raises(ValueError, match="ignores If-Match, so it cannot keep two jobs apart"), lease.hold(out_on_s3):
        pass


def test_no_lease_takes_none_on_disk_either(tmp_path: Path) -> None:
    with lease.hold(str(tmp_path), is_wanted=False), lease.hold(str(tmp_path), is_wanted=False) as held:
        held.prove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("is_shared", [False, True], ids=["each their own group", "one group"])
def test_a_second_user_goes_on_in_a_folder_of_both(is_shared: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        first = lease.Lease(folder)
        with lease.hold(folder):
            pass
        if not is_shared:
            os.chmod(first.uri, 0o644)
        try:
            if is_shared:
                os.setegid(os.stat(folder).st_gid)
            else:
                os.setegid(12345)
            os.seteuid(12345)
            with lease.hold(folder) as held:
                held.prove()
                with pytest.raises(ValueError, match=REFUSED), lease.hold(folder):
                    pass
            os.seteuid(0)
            with lease.hold(folder) as held:
                held.prove()
                os.seteuid(12345)
                with pytest.raises(ValueError, match=REFUSED), lease.hold(folder):
                    pass
        finally:
            os.seteuid(0)
            os.setegid(0)
        assert os.listdir(folder) == [lease.LOCK_NAME]


def test_a_lock_that_is_closed_to_this_user_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, *more: object) -> int:
        raise PermissionError(13, "Permission denied", path)

    for wait in (lambda: lease.hold(str(tmp_path)), lambda: writers._locked(str(tmp_path))):
        with monkeypatch.context() as patch:
            patch.setattr("os.open", refuse)
            with (
                pytest.raises(StoreError, match=r"/\.(lock|saving): Permission denied; let this user write it, or"),
                wait(),
            ):
                pass


def test_who_holds_a_folder_is_seen_without_taking_it(out: str) -> None:
    assert lease.look(out) is None
    with lease.hold(out) as held:
        holder = lease.look(out)
        assert holder is not None
        assert (holder.pid, holder.host, holder.is_alive) == (os.getpid(), held.holder["host"], True)
        held.prove()
    gone = lease.look(out)
    assert gone is None or not gone.is_alive, "of a lock the name stays, for people to read"


def test_a_lease_that_nobody_renews_is_seen_to_be_dead(out_on_s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    abandoned(out_on_s3)
    seen = lease.look(out_on_s3)
    assert seen is not None
    assert seen.is_alive
    monkeypatch.setattr(lease, "EXPIRES_S", 0.0)
    wait_until(lambda: not (again := lease.look(out_on_s3)) or not again.is_alive)
