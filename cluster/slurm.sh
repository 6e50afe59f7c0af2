#!/usr/bin/env bash
# A job on nodes of Slurm: one Ray for it alone, which ends with it; the exit code is the job's.
#
#   sbatch --nodes 4 cluster/slurm.sh python jobs/train.py fast --num-workers 4 --catalog s3://... --out s3://...
#
# Runs in the folder that it is submitted from. The time limit sends SIGTERM two minutes ahead: what was done is kept,
# and the same command continues.
#SBATCH --job-name=agescale
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --output=%x-%j.log
##SBATCH --partition=NAME
##SBATCH --gpus-per-node=1
set -euo pipefail
[ $# -gt 0 ] || { echo "error: no command; sbatch cluster/slurm.sh python jobs/train.py ..." >&2; exit 2; }
export PATH="${AGESCALE_VENV:-$PWD/.venv}/bin:$PATH"

# A port and a token of this job's own: other jobs may share its nodes, and their users must not reach its Ray
port=$((20000 + SLURM_JOB_ID % 10000))
export RAY_AUTH_MODE=token RAY_TMPDIR="/tmp/ray-$SLURM_JOB_ID" RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
exec srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
  ray symmetric-run --address "${hosts%%$'\n'*}:$port" --min-nodes "$SLURM_JOB_NUM_NODES" --num-cpus "${SLURM_CPUS_ON_NODE:-1}" -- "$@"
