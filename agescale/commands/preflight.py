"""Try a cluster before a long job: its nodes, versions, clocks, disks and rights, and how fast it would be.

python jobs/preflight.py --catalog s3://bucket/inbox --checkpoint s3://bucket/runs/fast/best --out s3://bucket/ages
"""

from __future__ import annotations

from agescale.command_line import refuse
from agescale.config import PreflightConfig
from agescale.operations.preflight import preflight
from agescale.runtime import terminal


def main(config: PreflightConfig) -> None:
    checks = preflight(config)
    rows = [[check.name, "mend" if check.remedy else "right", check.found] for check in checks]
    terminal.print_table(["check", "is", "found"], rows)
    wrong = [check for check in checks if check.remedy]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        refuse(f"{wrong[0].name}: {wrong[0].remedy}{more}")
