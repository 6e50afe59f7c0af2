"""Search for the best settings of training on a catalog; the same command continues a sweep that was stopped.

python jobs/sweep.py --catalog s3://bucket/catalog --space architectures --num-trials 50 --out s3://bucket/sweep
python jobs/sweep.py fast --catalog runs/catalog --space my_space.py --out runs/sweep     # other settings as in fast
"""

from __future__ import annotations

from agescale.command_line import refuse
from agescale.config import SweepConfig, TrainConfig
from agescale.store import paths
from agescale.sweeping.driver import SweepResult, sweep

NUM_SHOWN = 10


def main(config: SweepConfig, base: TrainConfig) -> None:
    config = paths.with_absolute_uris(config)
    result = sweep(config, base)
    print(table(result, config.objective))
    counts = [row["epochs"] for row in result.leaderboard]
    spent = f"{sum(counts)} epochs of at most {len(counts) * config.epochs}"
    print(f"{len(counts)} trials, {spent}; {result.disk_bytes / 2**20:,.0f} MiB on disk")
    if result.num_left:
        print(f"{result.num_left} trials are unfinished or not started; the same command continues")
    if not result.command:
        refuse("no trial has a validation metric; leaderboard.parquet says why", code=3)
    print(f"report: {result.report}")
    print(f"checkpoint: {paths.join(config.out, 'best')}")
    if result.refit:
        print(f"trained on validation images as well: {result.refit}")
    print(f"train the winner again: {result.command}")
    if any(row["status"] == "running" and row["reason"] for row in result.leaderboard):
        refuse("the processes of some trials kept dying; leaderboard.parquet says why", code=3)


def table(result: SweepResult, objective: str) -> str:
    """The first trials of the leaderboard, with the settings in which trials differ."""
    lines = [f"{'trial':>5}  {'status':<9}{'epochs':>7}{objective:>17}  settings"]
    for row in result.leaderboard[:NUM_SHOWN]:
        value = "" if row["value"] is None else f"{row['value']:.3f}"
        settings = ", ".join(f"{name} {value}" for name, value in row["settings"].items())
        lines.append(f"{row['number']:>5}  {row['status']:<9}{row['epochs']:>7}{value:>17}  {settings}")
    return "\n".join(lines)
