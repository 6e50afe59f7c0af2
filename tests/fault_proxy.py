"""An HTTP proxy that stands before an S3 server, answers some requests with a fault, and counts all of them.

    with FaultProxy(server_url, kinds=("reset",), fraction=0.3) as proxy:     # clients go to proxy.url
    python tests/fault_proxy.py --upstream http://127.0.0.1:8333 --kinds slow_down reset     # prints its own URL

Every request is drawn anew, so what failed may pass at the next attempt. The Host header goes through as it came,
because signatures cover it; every connection ends after one answer. Tests may change the settings while it runs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import re
import signal
import socket
import struct
import threading
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from urllib.parse import unquote, urlsplit

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

ERRORS = {
    "slow_down": ("503 Slow Down", "SlowDown", "Please reduce your request rate."),
    "expired": ("400 Bad Request", "ExpiredToken", "The provided token has expired."),
    "denied": ("403 Forbidden", "AccessDenied", "Access Denied"),
    "archived": ("403 Forbidden", "InvalidObjectState", "The operation is not valid for the object's storage class"),
    "encrypted": (
        "400 Bad Request",
        "InvalidRequest",
        "The object was stored using a form of Server Side Encryption. The correct parameters must be provided.",
    ),
    "internal": ("500 Internal Server Error", "InternalError", "We encountered an internal error. Please try again."),
}
NO_CONDITIONS = ("501 Not Implemented", "NotImplemented", "A header implies functionality that is not implemented.")
PAGES = {
    "login": b"<html><body><form>Please log in</form></body></html>",
    "empty": b"",
    "error": b"<?xml version='1.0'?><Error><Code>InternalError</Code></Error>",
}
"""What a proxy on the way answers instead, with status 200."""
KINDS = (*ERRORS, *PAGES, "unanswered", "lost", "reset", "cut", "short", "stall", "trickle", "latency")
"""Answers of S3, and of others; the connection reset before the request is done, after it, or amid the body of the
answer; a body that ends early (`short`: as its head announces), never goes on, or comes byte by byte; an answer that
comes late."""
OPERATIONS = ("GET", "LIST", "HEAD", "PUT", "POST", "DELETE")


class FaultProxy:
    """``kinds`` of faults on a ``fraction`` of ``operations`` (LIST is the GET of a listing, GET that of an object).

    ``requests`` counts by (operation, "/bucket/key"), ``faults`` by kind, ``bytes_sent`` what clients were sent. Writes
    on a condition are kept as such, or the conditions ignored, or such writes refused, as stores do that know none.
    """

    def __init__(
        self,
        upstream: str,
        kinds: Sequence[str] = ("slow_down",),
        fraction: float = 0.3,
        operations: Sequence[str] = ("GET",),
        seed: int = 0,
        seconds: float = 3600,
        port: int = 0,
        conditions: str = "kept",
        only: str = "",
        host: str = "127.0.0.1",
    ) -> None:
        assert set(kinds) <= set(KINDS), f"{kinds}: of {KINDS}"
        self.upstream, self.host, self.port = urlsplit(upstream), host, port
        self.kinds, self.fraction, self.operations = kinds, fraction, operations
        self.conditions = conditions
        self.only = only  # what the keys of faulty requests end in
        self.seconds = seconds  # how long `stall` and `latency` last, and each byte of `trickle`
        self.random = random.Random(seed)
        self.requests: Counter[tuple[str, str]] = Counter()
        self.faults: Counter[str] = Counter()
        self.bytes_sent = 0
        self.url = ""

    def __enter__(self) -> FaultProxy:
        started = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._serve(started),), daemon=True)
        self._thread.start()
        assert started.wait(10), "the proxy did not start"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def num_requests(self, operation: str) -> int:
        return sum(count for (made, _), count in self.requests.items() if made == operation)

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._answer, self.host, self.port)
        self.url = f"http://{self.host}:{server.sockets[0].getsockname()[1]}"
        started.set()
        await self._stop.wait()
        server.close()
        await asyncio.sleep(0.1)  # connections half made become tasks, and are cancelled like the others at the end

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head, body, operation, key = await self._request(reader, writer)
            self.requests[operation, key] += 1
            is_meant = operation in self.operations and key.endswith(self.only)
            is_faulty = is_meant and self.random.random() < self.fraction
            kind = self.random.choice(self.kinds) if is_faulty else ""
            self.faults.update([kind] if kind else [])
            if kind in ERRORS:
                answer = _error(kind, with_body=operation != "HEAD")
            elif kind in PAGES:
                answer = _page(PAGES[kind])
            elif operation == "PUT" and b"\r\nif-" in head.lower() and self.conditions != "kept":
                is_refused = self.conditions == "refused"
                answer = (
                    _error("no_conditions", True) if is_refused else await self._ask(_unconditional(head, body), body)
                )
            else:
                answer = await self._ask(head, body) if kind != "unanswered" else b""
            answer = _shortened(answer) if kind == "short" else answer
            await self._send(answer if kind != "lost" else b"", kind, writer)
        writer.close()

    async def _request(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[bytes, bytes, str, str]:
        """Head and body of a request, what it does and to which key."""
        lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[:-2]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
        if b"expect" in headers:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert b"transfer-encoding" not in headers, "a body in chunks"
        body = await reader.readexactly(int(headers.get(b"content-length", 0)))
        kept = [line for line in lines if line.partition(b":")[0].lower() not in (b"expect", b"connection")]
        method, target, _ = lines[0].decode().split(" ")
        path, _, query = target.partition("?")
        operation = "LIST" if method == "GET" and "list-type=" in query else method
        return b"\r\n".join([*kept, b"Connection: close", b"", b""]), body, operation, unquote(path)

    async def _ask(self, head: bytes, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection(self.upstream.hostname, self.upstream.port)
        try:
            writer.write(head + body)
            return await reader.read()
        finally:
            writer.close()

    async def _send(self, answer: bytes, kind: str, writer: asyncio.StreamWriter) -> None:
        start = answer.find(b"\r\n\r\n") + 4
        middle = start + (len(answer) - start) // 2
        if kind == "latency":
            await asyncio.sleep(self.seconds)
        if kind == "trickle":
            writer.write(answer[:start])
            for index in range(start, len(answer)):
                writer.write(answer[index : index + 1])
                await writer.drain()
                await asyncio.sleep(self.seconds)
            return
        part = answer[:middle] if kind in ("reset", "cut", "stall") else answer
        writer.write(part)
        await writer.drain()
        self.bytes_sent += len(part)
        if kind == "stall":
            await asyncio.sleep(self.seconds)
        if kind in ("reset", "unanswered", "lost"):
            linger = struct.pack("ii", 1, 0)  # closing says RST
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()


def _error(kind: str, with_body: bool) -> bytes:
    status, code, message = ERRORS.get(kind, NO_CONDITIONS)
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message></Error>' if with_body else ""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\nConnection: close"
    return f"{head}\r\n\r\n{body}".encode()


def _unconditional(head: bytes, body: bytes) -> bytes:
    """The head of a request without its conditions, signed anew, because signatures cover them."""
    line, *lines = head.decode().split("\r\n")[:-2]
    method, target, _ = line.split(" ")
    headers = dict(each.split(": ", 1) for each in lines if not each.lower().startswith("if-"))
    request = AWSRequest(method, f"http://{headers['Host']}{target}", headers, body)
    credentials = Credentials(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
    S3SigV4Auth(credentials, "s3", "us-east-1").add_auth(request)
    return "\r\n".join([line, *(f"{name}: {value}" for name, value in request.headers.items()), "", ""]).encode()


def _shortened(answer: bytes) -> bytes:
    """The answer with half of its body, and a head that announces no more."""
    head, end, body = answer.partition(b"\r\n\r\n")
    body = body[: len(body) // 2]
    return re.sub(rb"(?i)(content-length: )\d+", rb"\g<1>%d" % len(body), head) + end + body


def _page(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\nConnection: close"
    return f"{head}\r\n\r\n".encode() + body


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=("slow_down", "reset", "cut"))
    parser.add_argument("--fraction", type=float, default=0.3)
    parser.add_argument("--operations", nargs="+", choices=OPERATIONS, default=("GET",))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    options, ends = vars(parser.parse_args()), {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    with FaultProxy(**options) as proxy:
        print(proxy.url, flush=True)
        signal.sigwait(ends)
    counts = {operation: proxy.num_requests(operation) for operation in OPERATIONS}
    print(f"requests {counts}, faults {dict(proxy.faults)}")


if __name__ == "__main__":
    main()
