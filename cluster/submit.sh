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

# job before: refuses an ID that is taken; job after CODE: waits for the end, and exits with the driver's code, or with
# CODE where there is no such job
job() {
  python - "$id" "$@" <<'PYTHON'
import logging
import sys
import time

from ray.job_submission import JobStatus, JobSubmissionClient

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


logging.disable(logging.CRITICAL)
job, when, *submitted = sys.argv[1:]
if when == "before":
    if info := job_info(job, patience_s=0):
        way_out = f"ray job delete {job}" if info.status.is_terminal() else f"ray job logs --follow {job}"
        refuse(f"{job} was submitted before and is {info.status.value}; {way_out}, or another name")
else:
    while (info := job_info(job, PATIENCE_S)) and not info.status.is_terminal():
        time.sleep(2)
    code = info.driver_exit_code if info else int(*submitted)
    if code is None:
        code = {JobStatus.SUCCEEDED: 0, JobStatus.STOPPED: 143}.get(info.status, 1)
    sys.exit(code)
PYTHON
}

job before
submitted=0
ray job submit --submission-id "$id" "$@" || submitted=$?  # also where the connection broke: the job goes on
job after "$submitted"
