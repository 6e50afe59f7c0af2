"""Say what stands in some folders, how far it is, and who works there.

python jobs/status.py --out s3://bucket/inbox s3://bucket/ages runs/fast
"""

from __future__ import annotations

import json
from dataclasses import asdict

from agescale.config import StatusConfig
from agescale.operations.status import Standing, look
from agescale.runtime import terminal


def main(config: StatusConfig) -> None:
    found = [look(uri) for uri in config.out]
    if config.format == "json":
        print(json.dumps([{"state": each.state, **asdict(each)} for each in found], indent=1))
        return
    rows = [[each.out, each.kind, each.state, far(each), since(each.written_s_ago), who(each), last(each)]
            for each in found]  # fmt: skip
    terminal.print_table(["folder", "what", "state", "how far", "last written", "by whom", "last execution"], rows)


def far(each: Standing) -> str:
    """How far it is, in words."""
    of = "" if each.total is None else f" of {each.total:,}"
    count = "" if each.done is None else f"{each.done:,}{of} {each.unit}"
    counts = ", ".join(f"{number:,} {status}" for status, number in each.counts.items())
    return "; ".join(filter(None, (count, each.says, counts)))


def since(seconds: float | None) -> str:
    """A time span, in its largest unit.

    >>> [since(seconds) for seconds in (None, 3.2, 240.0, 7300.0, 200_000.0)]
    ['', '3 s ago', '4 min ago', '2 h ago', '2 days ago']
    """
    if seconds is None:
        return ""
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"


def who(each: Standing) -> str:
    """Who works there, or did last."""
    if each.holder is None:
        return ""
    was = "" if each.holder.is_alive else "ended: "
    return f"{was}host {each.holder.host}, pid {each.holder.pid}, since {each.holder.since}"


def last(each: Standing) -> str:
    """How the execution that began last has ended."""
    if (said := each.execution) is None:
        return ""
    who = f"{said.job} of {said.user} on {said.host}"
    if said.exit_code is None:
        return f"{who}, began {said.began}" + ("" if each.state == "working" else ", never ended: killed?")
    return f"{who}, ended {said.ended} with {said.exit_code}" + (f": {said.reason}" if said.reason else "")
