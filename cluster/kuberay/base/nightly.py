"""One night: makes a dated RayJob of a RayCronJob's template, waits for it, ends with the exit code of its driver.

The RayJob's name is the mutex: whoever comes second, be it the next pod of the same CronJob, waits for the same one.
Codes 0, 2 and 3 are final; after any other (a crash, a lost cluster) another RayJob goes on where the last one stopped.
Needs a service account that may read RayCronJobs and read and create RayJobs; imports nothing but Python's own library.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import ssl
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
FINAL_CODES = (0, 2, 3)
MAX_FAILED_REQUESTS = 60


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--template", required=True, help="the RayCronJob")
    parser.add_argument("--name", required=True, help="what the RayJobs are called, before the date")
    parser.add_argument("--attempts", type=int, default=3, help="RayJobs a night, at most")
    parser.add_argument("--poll-s", type=float, default=10.0, help="seconds between two looks")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which the first process of a container else ignores
    date = night(os.environ.get("JOB_NAME", ""), time.time())
    template = request("GET", f"raycronjobs/{options.template}", poll_s=options.poll_s)
    labels = {**template["metadata"].get("labels", {}), "agescale/job": options.name}  # a queue's name among them
    code = 1
    for attempt in range(options.attempts):
        name = f"{options.name}-{date}" + (f"-{attempt}" if attempt else "")
        job = {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "metadata": {"name": name, "labels": labels, "ownerReferences": owners()},
            "spec": template["spec"]["jobTemplate"],
        }
        is_new = request("POST", "rayjobs", job, poll_s=options.poll_s) is not None
        print(f"{name}: {'made' if is_new else 'is there already, waiting for it'}", flush=True)
        code = wait(name, options.poll_s)
        if code in FINAL_CODES:
            break
    return code


def night(job_name: str, now_s: float) -> str:
    """The date of a night, in UTC. The CronJob's own: its Jobs' names end with the minute that they were due.

    >>> night("nightly-29387640", 0), night("by-hand", 86400)
    ('20251116', '19700102')
    """
    minute = re.search(r"-(\d{8,})$", job_name)
    return f"{datetime.fromtimestamp(60 * int(minute[1]) if minute else now_s, UTC):%Y%m%d}"


def owners() -> list[dict[str, Any]]:
    """The Job of this pod: with it, its RayJobs are deleted."""
    if not os.environ.get("JOB_UID"):
        return []
    return [{"apiVersion": "batch/v1", "kind": "Job", "name": os.environ["JOB_NAME"], "uid": os.environ["JOB_UID"]}]


def wait(name: str, poll_s: float) -> int:
    """The exit code of a RayJob, when it is over."""
    said = ""
    while True:
        status = request("GET", f"rayjobs/{name}", poll_s=poll_s).get("status", {})
        state = " ".join(status[key] for key in ("jobDeploymentStatus", "jobStatus") if status.get(key))
        if state != said:
            print(f"{name}: {state}", flush=True)
            said = state
        if status.get("jobDeploymentStatus") in ("Complete", "Failed"):
            message = status.get("message", "")
            print(f"{name}: {status.get('reason', '')} {message}".rstrip(), flush=True)
            return exit_code(status.get("jobStatus", ""), message)
        time.sleep(poll_s)


def exit_code(job_status: str, message: str) -> int:
    """The driver's exit code, which KubeRay tells in its message only.

    >>> exit_code("SUCCEEDED", "Job finished successfully."), exit_code("FAILED", "")
    (0, 1)
    >>> exit_code("STOPPED", "Job was intentionally stopped.")  # who stops a night wants no other attempt
    2
    >>> exit_code("FAILED", "Job entrypoint command failed with exit code 3, last available logs (truncated ...")
    3
    """
    if job_status in ("SUCCEEDED", "STOPPED"):
        return 0 if job_status == "SUCCEEDED" else 2
    code = re.match(r"Job entrypoint command failed with exit code (\d+)", message)
    return int(code[1]) if code else 1


def request(method: str, path: str, body: Any = None, poll_s: float = 10.0) -> Any:
    """Asks the Kubernetes API; None where what is to be made is there already. What passes is tried again."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    namespace = (ACCOUNT / "namespace").read_text()
    host = f"[{host}]" if ":" in host else host
    asked = urllib.request.Request(
        f"https://{host}:{port}/apis/ray.io/v1/namespaces/{namespace}/{path}",
        method=method,
        data=json.dumps(body).encode() if body else None,
        headers={"Content-Type": "application/json", "Accept": "application/json"},
    )
    trusted = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    failure, code = "", 1
    for _ in range(MAX_FAILED_REQUESTS):
        asked.add_header("Authorization", f"Bearer {(ACCOUNT / 'token').read_text()}")  # which is renewed now and then
        try:
            with urllib.request.urlopen(asked, timeout=30, context=trusted) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 409:
                return None
            failure = f"{error.code} {error.read().decode(errors='replace')[:300]}"
            if error.code < 500 and error.code != 429:
                code = 2
                break
        except (OSError, json.JSONDecodeError) as error:
            failure = str(error)
        time.sleep(poll_s)
    print(f"error: {method} {path}: {failure}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    raise SystemExit(main())
