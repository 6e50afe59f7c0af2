#!/usr/bin/env bash
# `ray job submit` that exits with the job's own code: Ray makes 1 of every code but 0.
#
#   cluster/submit.sh ID [options of ray job submit] -- python jobs/score.py ...
#
# ID is the job's name in the cluster, and a mutex: score-$(date +%F) runs once a day, whoever submits it twice. A name
# that is taken is refused in one line, with code 2. The cluster is RAY_API_SERVER_ADDRESS=http://HEAD:8265 or --address.
set -euo pipefail
if [[ $# -lt 3 || $1 == -* ]]; then
  echo "error: cluster/submit.sh ID [options of ray job submit] -- COMMAND" >&2
  exit 2
fi
id=$1
shift
for ((i = 1; i <= $#; i++)); do
  next=$((i + 1))
  case ${!i} in
    --) break ;;
    --address) export RAY_API_SERVER_ADDRESS=${!next} ;;
    --address=*) address=${!i} && export RAY_API_SERVER_ADDRESS=${address#*=} ;;
  esac
done

exec python - "$id" "$@" <<'PYTHON'
import logging
import signal
import subprocess
import sys
import time

from ray.job_submission import JobStatus, JobSubmissionClient

ASK_EVERY_S = 10
PATIENCE_S = 300


def refuse(message):
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def job_info(job, patience_s):
    """What the cluster says of a job; None where it knows none of that name."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return next((info for info in JobSubmissionClient().list_jobs() if info.submission_id == job), None)
        except Exception as error:  # half a dozen types, plain RuntimeError among them
            if time.monotonic() > deadline:
                refuse(f"the cluster does not answer: {str(error).splitlines()[0]}")
            time.sleep(5)


def follow(job, submission):
    """Waits for the end of a job, whose log is shown by whoever submits it. That one may end before the job, where its
    connection breaks, and never where the node of the driver is lost. Returns the driver's code."""
    while True:
        try:
            submission.wait(ASK_EVERY_S)
        except subprocess.TimeoutExpired:
            pass
        info = job_info(job, PATIENCE_S)
        if info is None and submission.poll() is not None:
            return submission.returncode  # it was not submitted
        if info and info.status.is_terminal():
            return code_of(info)
        if submission.poll() is not None:
            time.sleep(2)


def code_of(info):
    """The driver's code, also where there is none: then it is said why."""
    if info.driver_exit_code is not None:
        return info.driver_exit_code
    if info.status != JobStatus.FAILED:
        return 143 if info.status == JobStatus.STOPPED else 0
    *_, reason = str(info.message).strip().splitlines() or [""]
    hint = "the same command under another name continues"
    print(f"error: {info.submission_id} was lost: {reason.strip()}; {hint}", file=sys.stderr)
    return 1


logging.disable(logging.CRITICAL)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
job, *options = sys.argv[1:]
if info := job_info(job, patience_s=0):
    way_out = f"ray job delete {job}" if info.status.is_terminal() else f"ray job logs --follow {job}"
    refuse(f"{job} was submitted before and is {info.status.value}; {way_out}, or another name")
command = ["ray", "job", "submit", "--submission-id", job, *options]
with subprocess.Popen(command, stdin=subprocess.DEVNULL) as submission:
    try:
        code = follow(job, submission)
        submission.wait(ASK_EVERY_S)  # for the last lines
    except subprocess.TimeoutExpired:
        pass
    except KeyboardInterrupt:
        code = 130
    finally:
        submission.kill()
sys.exit(code)
PYTHON
