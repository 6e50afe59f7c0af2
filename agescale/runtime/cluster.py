"""Ray's start: joins the cluster that the environment names, or starts one for this job; what stands in the way is
said in one line.

Nothing goes in but the environment (RAY_ADDRESS, RAY_TMPDIR, TMPDIR, RAY_AUTH_TOKEN, ...); a Ray that is ready comes
out, or a ValueError. Gives no work to Ray.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import resource
import secrets
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import ray
import ray.data
from ray._common.utils import get_default_ray_temp_dir, get_system_memory
from ray._private import ray_constants, services
from ray._private import utils as ray_utils
from ray._private import worker as ray_worker
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray._private.gcs_utils import create_gcs_channel
from ray._private.utils import read_ray_address
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc
from ray.exceptions import AuthenticationError

NO_PROGRESS_TIMEOUT_S = 1800
"""A pipeline of Ray Data that finishes no task for so long ends with an error instead of hanging. One task may read and
decode some thousand large photos, or wait for a busy cluster."""

ANSWER_TIMEOUT_S = 8.0
"""A cluster that does not say in so long that it is one is not waited for: Ray itself waits for minutes, in silence."""

MIN_ADDRESS_SPACE_BYTES = 8 * 10**9
"""Of each process, where it is limited: the libraries, and a quarter of it for the object store, which all map."""

MAX_STARTS = 3
"""Of a cluster on a machine that others keep busy."""

SOCKET_NAME = "/session_2026-01-31_23-59-59_999999_4194304/sockets/dash_TaskEventsHead"
"""The longest name that Ray gives to a socket below its temporary folder."""
LISTENER_NAME = "/pymp-12345678/listener-12345678"
"""And the one that Python's multiprocessing, which the dashboard uses, gives to one below TMPDIR."""
MAX_SOCKET_BYTES = 107 if sys.platform == "linux" else 103

ALLOCATOR = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**28),
}
"""glibc gives every large tensor back to the system and asks for it again, page by page: a fifth of the time of a
training step on a CPU, and half of that of a forward pass. One arena that keeps what it has does not."""

RAY_ENVIRONMENT = {
    **ALLOCATOR,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # Ray would run workers at nice 15; a job that somebody waits for is no background work
    "RAY_DATA_LOG_LEVEL": "ERROR",  # plans and their timings, line after line; they stand in Ray's own log files
    "PYTHONWARNINGS": "ignore:`ExecutionOptions.exclude_resources`",  # Ray's use of its own deprecated option
    "RAY_task_oom_retries": "2",  # of a task that is ended when out of memory; else without end, and without a word
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # would show each line that a training process prints twice
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # nobody drains this machine; it logs an error that is none
}
"""Defaults for the cluster that a job starts for itself; what is set already stays."""


LOG_LEVEL = "RAY_BACKEND_LOG_LEVEL"


def start_ray(min_cpus: float = 2, has_dashboard: bool = False) -> None:
    """Joins the cluster that RAY_ADDRESS or ``ray start`` names, else starts a local one.

    A local one declares at least ``min_cpus`` logical CPUs: on a small laptop tasks then share cores, where a plan that
    needs one CPU more than there are would wait forever. A dashboard takes seconds to start; Ray Train asks it all the
    time whether its controller lives. Raises ValueError where the cluster cannot be joined or started.
    """
    if not ray.is_initialized():
        logging.getLogger("ray").setLevel(logging.CRITICAL)  # what fails here is raised, and need not be logged too
        if "RAY_DISABLE_WORKER_LOG_PREFIX" not in os.environ:  # which Ray has read by now
            ray_constants.RAY_DISABLE_WORKER_LOG_PREFIX = True  # whoever reads a line cares little what process said it
        ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER = True  # in C++, which takes SIGTERM for a crash: abort()
        address = cluster_address()
        options = {"address": address} if address else _own_cluster(min_cpus, has_dashboard)
        try:
            with _own_sigterm(), _quiet_core():
                init_ray(logging_level="CRITICAL", **options)
        except Exception as error:  # Ray raises half a dozen types here, plain Exception among them
            raise ValueError(_failure(error, options)) from error
        logging.getLogger("ray").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.execution_no_progress_timeout_s = NO_PROGRESS_TIMEOUT_S
    context.enable_progress_bars = False  # ours count images; Ray's count blocks
    context.raise_original_map_exception = True  # one of Ray's own would not name ours, which is one line to act on
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what fails is raised, and need not be logged too


def init_ray(**options: Any) -> None:
    """``ray.init``, which gives a cluster that it starts 30 s to come up; begins anew where that was too little."""
    before = _children()
    for num_left in reversed(range(MAX_STARTS)):
        try:
            ray.init(**options)
            return
        except Exception as error:
            if not num_left or "timed out during startup" not in str(error):
                raise
            ray.shutdown()
            _kill_children(before)


def is_cluster_at_hand() -> bool:
    """Whether ``start_ray`` would have none to start. Raises ValueError as it does."""
    return ray.is_initialized() or cluster_address() is not None


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keeps who listens to SIGTERM: Ray puts itself in that place. Where it comes while Ray starts, no process of
    that is left: they are too young to end with one another."""
    listener = signal.getsignal(signal.SIGTERM)
    if not callable(listener) or threading.current_thread() is not threading.main_thread():
        yield
        return
    received, connecting, connect = [], threading.Event(), ray_worker.connect

    def interrupt(signum: int, frame: Any) -> None:
        received.append(signum)
        if not connecting.is_set():
            listener(signum, frame)

    def connect_whole(*args: Any, **kwargs: Any) -> Any:
        connecting.set()  # a second or so; half a connection would crash at its end
        try:
            return connect(*args, **kwargs)
        finally:
            connecting.clear()

    before = _children()
    install, unraisable = ray_utils.set_sigterm_handler, sys.unraisablehook
    ray_worker.connect = connect_whole
    sys.unraisablehook = lambda said: None if received else unraisable(said)
    ray_utils.set_sigterm_handler = lambda handler: None
    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
        if received:  # while it connected, or amid something that drops exceptions
            listener(signal.SIGTERM, None)
    except BaseException:
        if received:
            ray.shutdown()
            _kill_children(before)
            raise KeyboardInterrupt from None
        raise
    finally:
        ray_worker.connect, ray_utils.set_sigterm_handler, sys.unraisablehook = connect, install, unraisable
        signal.signal(signal.SIGTERM, signal.SIG_IGN if received else listener)


def _children() -> set[Any]:
    """The processes that this one has started, however far down, as psutil has them."""
    import psutil  # Ray brings it, and finds it only once it is imported itself

    return set(psutil.Process().children(recursive=True))


def _kill_children(besides: set[Any]) -> None:
    import psutil

    while children := _children() - besides:
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(children, timeout=10)


@contextlib.contextmanager
def _quiet_core() -> Iterator[None]:
    """Keeps Ray's C++ in this process from writing errors that are none among a job's lines: with each start of
    scoring, that an actor of Ray Data has arguments in the object store (ray#53727). What does fail is raised. Its
    level is read when this process connects; Ray's own processes have been started by then, and log as ever."""
    connect = ray_worker.connect

    def connect_quietly(*args: Any, **kwargs: Any) -> Any:
        if LOG_LEVEL in os.environ:
            return connect(*args, **kwargs)
        os.environ[LOG_LEVEL] = "fatal"
        stderr = os.dup(2)
        with tempfile.TemporaryFile() as said:
            os.dup2(said.fileno(), 2)  # where it tells that it has read its level
            try:
                return connect(*args, **kwargs)
            finally:
                os.dup2(stderr, 2)
                os.close(stderr)
                del os.environ[LOG_LEVEL]
                said.seek(0)
                os.write(2, b"".join(line for line in said if LOG_LEVEL.encode() not in line))

    ray_worker.connect = connect_quietly
    try:
        yield
    finally:
        ray_worker.connect = connect


def allocator_environment() -> dict[str, Any]:
    """The runtime environment of processes that compute: ALLOCATOR, where they do not inherit it from this one."""
    is_inherited = all(os.environ.get(name) == value for name, value in ALLOCATOR.items())
    return {} if is_inherited else {"env_vars": ALLOCATOR}


SUBMIT = "submit the job (ray job submit --address http://HEAD:8265 --working-dir . -- python jobs/...)"


def cluster_address() -> str | None:
    """HOST:PORT of the cluster to join, which has answered and has a node on this machine; None: start one.

    RAY_ADDRESS names it, else the file that ``ray start`` leaves in Ray's temporary folder. Such a file may be older
    than its cluster, which is no reason to fail. Raises ValueError where RAY_ADDRESS names no cluster that answers, and
    where one refuses our token.
    """
    said = os.environ.get("RAY_ADDRESS", "")
    try:
        return _answering_cluster(said)
    except ConnectionError as error:
        if not said:
            return None
        way_out = "or unset RAY_ADDRESS: the job then starts a cluster of its own"
        raise ValueError(f"RAY_ADDRESS={said}: {error}, {way_out}") from None


def _answering_cluster(said: str) -> str | None:
    """``cluster_address`` by what RAY_ADDRESS says. Raises ConnectionError where that is no cluster for this job."""
    if "://" in said:
        raise ConnectionError(f"not HOST:PORT of a cluster; {SUBMIT}, or run it on a node with RAY_ADDRESS=HEAD:6379")
    try:
        address = services.canonicalize_bootstrap_address(said or read_ray_address() or "local")
    except (OSError, ValueError):  # of a file that is no address, too
        reason = "no Ray runs on this machine; start it" if said == "auto" else "not HOST:PORT of a cluster; correct it"
        raise ConnectionError(reason) from None
    if address is None:
        return None
    try:
        if said in ("", "auto"):  # as Ray does: a token is not sent unasked to a cluster that was named
            maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        reply = _ask(address)
    except AuthenticationError as error:
        raise ValueError(_no_token(error)) from None
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            raise ValueError(_wrong_token(address, said)) from None
        raise ConnectionError(f"no Ray cluster answers there ({_reason(error)}); start it") from None
    if not any(reply.raylet_alive):
        join = f"join it (ray start --address={address})"
        raise ConnectionError(f"no node of that cluster runs on this machine; {SUBMIT}, or {join}")
    return str(address)


def _ask(address: str) -> Any:
    """Whether a Ray head lives at ``address``, and which of this machine's nodes are its own. Raises grpc.RpcError."""
    nodes = [bytes.fromhex(node) for node in services.find_node_ids()]
    with create_gcs_channel(address) as channel:
        head = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
        return head.CheckAlive(gcs_service_pb2.CheckAliveRequest(node_ids=nodes), timeout=ANSWER_TIMEOUT_S)


def _reason(error: grpc.RpcError) -> str:
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"silent for {ANSWER_TIMEOUT_S:g} s"
    return str(error.details()).rpartition(": ")[2].strip("]")[:100]  # the innermost of several layers


def _wrong_token(address: str, said: str) -> str:
    name = f"RAY_ADDRESS={said}" if said else f"a Ray cluster runs at {address}"
    hint = "RAY_AUTH_TOKEN to the cluster's token, or RAY_AUTH_TOKEN_PATH to a file with it"
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        hint = f"RAY_AUTH_MODE=token and {hint}"
    own = "" if said else ", or RAY_ADDRESS=local to start a cluster of your own"
    return f"{name}: it refuses this user's token; set {hint} (~/.ray/auth_token of whoever started it){own}"


def _no_token(error: AuthenticationError) -> str:
    return f"{one_line(error).partition('. ')[0]}; set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file with the token"


def _own_cluster(min_cpus: float, has_dashboard: bool) -> dict[str, Any]:
    """What ray.init is told for a cluster of this job alone; the rest of it is set in the environment."""
    port = _free_port()
    # Without this address Ray Train's watchdog asks any cluster of this machine whether our controller lives, is
    # told by a second one that it does not, and ends the training
    environment = {**RAY_ENVIRONMENT, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}"}
    if os.environ.get("RAY_AUTH_MODE", "token").lower() == "token" and not _has_token():
        environment["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # Ray would write one to HOME, for all clusters to come
    if any(
        "error".startswith(option.partition(":")[0]) for option in sys.warnoptions
    ):  # Ray's own warnings would end it
        os.environ.pop("PYTHONWARNINGS", None)
        for unwanted in [each for each in warnings.filters if each[0] == "error"]:
            warnings.filters.remove(unwanted)  # type: ignore[attr-defined]
    os.environ.update({name: value for name, value in environment.items() if name not in os.environ})
    return {
        "address": "local",
        "num_cpus": max(os.cpu_count() or 1, int(np.ceil(min_cpus))),
        "include_dashboard": has_dashboard,
        "dashboard_port": port,
        **_folders(),
        **_object_store(),
    }


def _folders() -> dict[str, str]:
    """Where Ray keeps its files, if not where it would by itself."""
    default, temporary = get_default_ray_temp_dir(), temporary_folder()
    if len(os.fsencode(tempfile.gettempdir() + LISTENER_NAME)) > MAX_SOCKET_BYTES:
        os.environ["TMPDIR"] = temporary
    if temporary == default:
        return {}
    wanted = os.path.dirname(default)  # too long a path for sockets, and maybe the disk with room
    is_open = os.path.isabs(wanted) and os.access(wanted, os.W_OK | os.X_OK)
    return {"_temp_dir": temporary, **({"object_spilling_directory": wanted} if is_open else {})}


def _object_store() -> dict[str, int]:
    """A smaller object store than Ray's own choice where the address space is limited: each process maps all of it."""
    space_bytes, _ = resource.getrlimit(resource.RLIMIT_AS)
    if space_bytes == resource.RLIM_INFINITY:
        return {}
    if space_bytes < MIN_ADDRESS_SPACE_BYTES:
        raise ValueError(
            f"the address space of a process is limited to {space_bytes / 1e9:.1f} GB, and Ray needs "
            f"{MIN_ADDRESS_SPACE_BYTES / 1e9:g}; raise the limit (ulimit -v unlimited)"
        )
    return {"object_store_memory": int(min(space_bytes // 4, 0.3 * get_system_memory()))}


def _failure(error: Exception, options: dict[str, Any]) -> str:
    reason = one_line(error.__cause__ or error)
    if options["address"] != "local":
        return f"the Ray cluster at {options['address']} could not be joined: {reason}"
    folder = options.get("_temp_dir", get_default_ray_temp_dir())
    sessions = sorted(glob.glob(f"{glob.escape(folder)}/session_*_{os.getpid()}"))
    return f"Ray did not start: {reason} (its logs: {sessions[-1] if sessions else folder})"


def _has_token() -> bool:
    try:
        return bool(AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))
    except AuthenticationError as error:
        raise ValueError(_no_token(error)) from None


def temporary_folder() -> str:
    """Where a cluster of this job keeps sockets, logs and spilled objects: Ray's own choice (RAY_TMPDIR, TMPDIR, /tmp)
    where its sockets may be there, else a folder of this user's. Raises ValueError where there is none."""
    default, own = get_default_ray_temp_dir(), f"ray-{os.getuid()}"
    for folder in (default, f"{default}-{os.getuid()}", f"/tmp/{own}", f"/var/tmp/{own}"):
        if _can_hold_sockets(folder):
            return folder
    longest = MAX_SOCKET_BYTES - len(SOCKET_NAME) - len("/ray")
    raise ValueError(
        f"{default} cannot hold Ray's sockets, and /tmp is closed; set RAY_TMPDIR to a folder of yours of at most "
        f"{longest} letters"
    )


def _can_hold_sockets(folder: str) -> bool:
    if not os.path.isabs(folder) or len(os.fsencode(folder + SOCKET_NAME)) > MAX_SOCKET_BYTES:
        return False
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def one_line(error: BaseException) -> str:
    """What an error says; of the end of a log its last line, which tells most."""
    lines = str(error).strip().splitlines()
    said = " ".join(" ".join(lines if len(lines) < 10 else lines[-1:]).split())
    return said[:300] or type(error).__name__


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
