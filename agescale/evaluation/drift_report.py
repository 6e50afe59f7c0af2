"""A drift as files: ``drift.json``, written first, and one self-contained page, ``drift.html``.

In: what of each aspect was found, and what was compared with what. Decides nothing and reads no tables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from agescale.evaluation import plots
from agescale.evaluation.drift import LEVEL, NAMES, Drift
from agescale.reports.page import inline, is_about, template
from agescale.store import objects, outputs, paths
from agescale.store.outputs import Output

PAGE_NAME, NUMBERS_NAME = "drift.html", "drift.json"
MARKS = ("predictions", "against", "max_psi")
"""What ``drift.json`` says under "about", by which its folder is known."""


@dataclass(frozen=True)
class About:
    """What was compared with what, as ``drift.json`` says it."""

    predictions: str
    against: str
    since: str | None
    max_psi: float
    num_rows: int
    num_against: int
    run: Mapping[str, Any]  # what either predictions say of themselves
    run_against: Mapping[str, Any]
    judged_on: str


def claim(out: str, others: Mapping[str, str]) -> None:
    """Raises ValueError, before anything is written, where ``out`` is no place for it: one of the ``others`` (URIs by
    what stands there), a folder in or around one of them, or a folder with other files."""
    Output(out, "a drift report", lambda name: None if _is_drift(out) else name).check(others, "the report")


def _is_drift(out: str) -> bool:
    return is_about(paths.join(out, NUMBERS_NAME), MARKS)


def answer(about: About, drifts: Sequence[Drift]) -> str:
    """What was found, in a line."""
    size = f"{about.num_rows:,} rows against {about.num_against:,}"
    drifted = [drift for drift in drifts if drift.has_drifted]
    if drifted:
        which = ", ".join(f"{drift.aspect} {drift.psi:.2f}" for drift in drifted)
        return (
            f"{len(drifted)} of {len(drifts)} aspects differ by more than --max-psi {about.max_psi:g}: {which}; {size}"
        )
    if not drifts:
        return f"nothing to compare, no aspect is known of enough rows of both; {size}"
    first = drifts[0]
    return f"no drift above --max-psi {about.max_psi:g}; the most is {first.aspect} {first.psi:.3f}; {size}"


def write_report(out: str, about: About, drifts: Sequence[Drift], notes: Sequence[str]) -> str:
    """Writes both files into the folder ``out`` (a path or ``s3://``), and returns the page's URI."""
    page = render(about, drifts, notes).encode()
    numbers = {
        "about": asdict(about),
        "answer": answer(about, drifts),
        "notes": list(notes),
        "has_drifted": any(drift.has_drifted for drift in drifts),
        "aspects": [asdict(drift) for drift in drifts],
    }
    outputs.tell_held(out)
    objects.delete(paths.join(out, PAGE_NAME))  # or it would stand beside another one's numbers
    text = json.dumps(numbers, indent=2, ensure_ascii=False, allow_nan=False)
    for name, data in ((NUMBERS_NAME, text.encode()), (PAGE_NAME, page)):
        objects.write_bytes(paths.join(out, name), data)
    return paths.join(out, PAGE_NAME)


def render(about: About, drifts: Sequence[Drift], notes: Sequence[str]) -> str:
    """The page as text."""
    figures = {
        drift.aspect: (plots.shares(drift.bins, drift.shares, drift.shares_against), f"Shares by {drift.aspect}")
        for drift in drifts
    }
    return template("drift.html.j2").render(
        about=about,
        answer=answer(about, drifts),
        notes=notes,
        drifts=drifts,
        names=NAMES,
        level=LEVEL,
        figures=inline(figures),
    )
