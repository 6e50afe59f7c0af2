"""The command line of SeaweedFS, a real S3 server of one process, for tests and benchmarks."""

from __future__ import annotations

import json
import shutil
import sysconfig
from collections.abc import Sequence
from pathlib import Path

SERVICES = ("master", "volume", "filer", "s3")
"""Each takes a port, and another one for gRPC, in this order."""


def server_command(
    folder: Path, access_key: str, secret_key: str, ip: str = "127.0.0.1", ports: Sequence[int] = ()
) -> list[str]:
    """What starts a server that keeps its data and logs in ``folder``, for whoever knows the keys.

    ``ports``: of the services, then of their gRPC; by default the usual ones, S3's 8333 among them.
    """
    (folder / "data").mkdir()
    identity = {"name": "tests", "credentials": [{"accessKey": access_key, "secretKey": secret_key}]}
    identity["actions"] = ["Admin", "Read", "Write", "List", "Tagging"]
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    weed = shutil.which("weed", path=sysconfig.get_path("scripts")) or "weed"
    options = ["server", f"-ip={ip}", f"-ip.bind={ip}", f"-dir={folder / 'data'}", "-volume.max=20"]
    options += ["-master.volumeSizeLimitMB=512", "-master.telemetry=false", "-filer", "-s3"]
    options += [f"-s3.config={folder / 's3.json'}"]
    options += ["-s3.port.iceberg=0", "-s3.port.lance=0"]  # fixed ones, which a second server here would not get
    names = [f"{service}.port" for service in SERVICES] + [f"{service}.port.grpc" for service in SERVICES]
    options += [f"-{name}={port}" for name, port in zip(names, ports, strict=False)]
    return [weed, f"-logdir={folder}", *options]
