"""Which cluster a job joins, and where it starts one of its own; no Ray is started here but the one of all tests."""

from __future__ import annotations

import os
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

from agescale.runtime import cluster


@contextmanager
def closed_port() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield _address(probe)  # bound, and nobody listens


@contextmanager
def silent_server() -> Iterator[str]:
    with socket.socket() as server:
        server.bind(("0.0.0.0", 0))  # Ray asks for 127.0.0.1 at this machine's own address
        server.listen()
        yield _address(server)


@contextmanager
def web_server() -> Iterator[str]:
    with ThreadingHTTPServer(("0.0.0.0", 0), SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield _address(server.socket)
        server.shutdown()


@contextmanager
def nonsense() -> Iterator[str]:
    yield "nonsense"


def _address(listener: socket.socket) -> str:
    return f"127.0.0.1:{listener.getsockname()[1]}"


class Head(gcs_service_pb2_grpc.NodeInfoGcsServiceServicer):
    """What a head of Ray answers to a stranger, or to one who is on another machine."""

    def __init__(self, refuses: bool) -> None:
        self.refuses = refuses

    def CheckAlive(self, request: object, context: grpc.ServicerContext) -> object:
        if self.refuses:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken: Authentication token is missing")
        return gcs_service_pb2.CheckAliveReply(ray_version="2.60.0", raylet_alive=[False])


@contextmanager
def head(refuses: bool) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1))
    gcs_service_pb2_grpc.add_NodeInfoGcsServiceServicer_to_server(Head(refuses), server)
    port = server.add_insecure_port("0.0.0.0:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


NOT_A_CLUSTER = {
    closed_port: r"no Ray cluster answers there \(Connection refused\); start it, or unset RAY_ADDRESS",
    silent_server: r"no Ray cluster answers there \(silent for 0.5 s\)",
    web_server: r"no Ray cluster answers there \(.*HTTP.*\)",
    nonsense: r"not HOST:PORT of a cluster; correct it, or unset RAY_ADDRESS",
}


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has named a cluster, and none has left its address behind."""
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(cluster, "ANSWER_TIMEOUT_S", 0.5)


def record(tmp_path: Path, address: str) -> None:
    """As `ray start` does."""
    (tmp_path / "ray").mkdir(exist_ok=True)
    (tmp_path / "ray" / "ray_current_cluster").write_text(address)


@pytest.mark.parametrize("server", NOT_A_CLUSTER, ids=lambda server: server.__name__)
def test_a_named_address_without_a_cluster_is_told_in_one_line(
    server: Callable[[], ExitStack], monkeypatch: pytest.MonkeyPatch
) -> None:
    with server() as address:
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ValueError, match=rf"^RAY_ADDRESS={address}: {NOT_A_CLUSTER[server]}.*$"):
            cluster.cluster_address()


@pytest.mark.parametrize("server", NOT_A_CLUSTER, ids=lambda server: server.__name__)
def test_an_address_that_a_dead_cluster_left_behind_is_passed_over(
    server: Callable[[], ExitStack], tmp_path: Path
) -> None:
    with server() as address:
        record(tmp_path, address)
        assert cluster.cluster_address() is None


@pytest.mark.parametrize("address", ["http://HEAD:8265", "ray://HEAD:10001"])
def test_an_address_for_other_programs_is_answered_with_the_way_to_submit_a_job(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ValueError, match=f"^RAY_ADDRESS={address}: not HOST:PORT .*ray job submit --address http.*$"):
        cluster.cluster_address()


def test_a_living_cluster_is_joined_whether_it_is_named_or_found(
    local_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(cluster, "ANSWER_TIMEOUT_S", 30)
    address = ray.get_runtime_context().gcs_address
    record(tmp_path, address)
    assert cluster.cluster_address() == address
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert cluster.cluster_address() == address
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert cluster.cluster_address() is None


def test_a_cluster_that_refuses_the_token_is_an_error_whether_it_is_named_or_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with head(refuses=True) as address:
        record(tmp_path, address)
        with pytest.raises(
            ValueError, match=r"refuses .* token; .*RAY_AUTH_TOKEN_PATH.*, or RAY_ADDRESS=local"
        ) as found:
            cluster.cluster_address()
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ValueError, match=rf"^RAY_ADDRESS={address}: .*RAY_AUTH_MODE=token and RAY_AUTH_TOKEN.*$"):
            cluster.cluster_address()
    assert "\n" not in str(found.value)


def test_a_cluster_of_other_machines_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with head(refuses=False) as address:
        record(tmp_path, address)
        assert cluster.cluster_address() is None
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(ValueError, match=r"no node of that cluster runs on this machine; submit .*ray start"):
            cluster.cluster_address()


def test_a_temporary_folder_that_cannot_hold_sockets_is_replaced_by_one_of_this_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = f"/tmp/ray-{os.getuid()}"
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    assert cluster.temporary_folder() == "/tmp/ray"
    for name in (str(tmp_path / ("x" * 90)), "relative"):
        monkeypatch.setenv("RAY_TMPDIR", name)
        assert cluster.temporary_folder() == own
    assert list(tmp_path.iterdir()) == []
    with ExitStack() as stack:
        short = Path("/tmp", f"a{os.getpid()}")
        short.mkdir()
        stack.callback(short.rmdir)
        (short / "ray").touch()  # no folder, as little as another user's is one for us
        stack.callback((short / "ray").unlink)
        monkeypatch.setenv("RAY_TMPDIR", str(short))
        assert cluster.temporary_folder() == f"{short}/ray-{os.getuid()}"
        stack.callback((short / f"ray-{os.getuid()}").rmdir)


def test_spilled_objects_stay_where_the_user_wants_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.delenv("RAY_TMPDIR")
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr(cluster.tempfile, "tempdir", None)
    folders = cluster._folders()
    assert folders == {"_temp_dir": f"/tmp/ray-{os.getuid()}", "object_spilling_directory": str(long)}
    assert os.environ["TMPDIR"] == folders["_temp_dir"]  # the dashboard's sockets would not fit there either


@pytest.mark.parametrize(("limit_gb", "store_gb"), [(8.5, 2.125), (7, None)])
def test_a_limited_address_space_makes_the_object_store_small_or_ends_the_job(
    limit_gb: float, store_gb: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (int(limit_gb * 1e9), resource.RLIM_INFINITY))
    monkeypatch.setattr(cluster, "get_system_memory", lambda: 512 * 10**9)
    if store_gb is None:
        with pytest.raises(ValueError, match=r"limited to 7.0 GB.*ulimit -v unlimited"):
            cluster._object_store()
    else:
        assert cluster._object_store() == {"object_store_memory": int(store_gb * 1e9)}


def test_reasons_are_one_line() -> None:
    assert cluster.one_line(OSError("a\n  b\n")) == "a b"
    assert cluster.one_line(OSError("\n".join(["Traceback", *"0123456789", "OSError: AF_UNIX path too long"]))) == (
        "OSError: AF_UNIX path too long"
    )
    assert cluster.one_line(OSError()) == "OSError"
