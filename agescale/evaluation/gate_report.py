"""A gate as files: ``gate.json``, written first, and one self-contained page, ``gate.html``.

In: a ``Gate``, the policy that it keeps, and what it was found on. Decides nothing and reads no tables.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from agescale.ages.few import ENOUGH_FACES
from agescale.evaluation import plots
from agescale.evaluation.gates import Gate, Policy, percent
from agescale.reports.page import inline, interval, is_about, template
from agescale.store import objects, outputs, paths
from agescale.store.outputs import Output

PAGE_NAME, NUMBERS_NAME = "gate.html", "gate.json"
MARKS = ("catalog", "predictions", "band")
"""What ``gate.json`` says under "about", by which a gate's folder is known."""


@dataclass(frozen=True)
class About:
    """What the gate was found on, as ``gate.json`` says it."""

    catalog: str
    catalog_id: str
    source: str | None
    predictions: str
    model: str  # digest
    checkpoint: str | None
    run: Mapping[str, Any]  # what the predictions say of themselves
    splits: list[str]
    judged_on: str
    num_minors_not_scored: int  # photos


def claim(out: str, others: Mapping[str, str]) -> None:
    """Raises ValueError, before anything is written, where ``out`` is no place for a gate: one of the ``others`` (URIs
    by what stands there), a folder in or around one of them, or a folder with files that are no gate's."""
    Output(out, "a gate", lambda name: None if _is_gate(out) else name).check(others, "the gate")


def _is_gate(out: str) -> bool:
    return is_about(paths.join(out, NUMBERS_NAME), MARKS)


def answer(policy: Policy, gate: Gate) -> str:
    """The threshold, and what it does, in a line."""
    chosen, adults = gate.chosen, gate.adults
    cost = (
        ""
        if adults.wrong is None
        else f"; {percent(adults.wrong)} of {adults.num_people:,} adults must show papers, too"
    )
    return (
        f"papers where {policy.challenged_where(chosen.threshold)}: {chosen.num_false_positives:,} of "
        f"{gate.num_minors:,} minors of {policy.band_name} years pass ({percent(chosen.false_positive_rate)}, with "
        f"{100 * policy.confidence:g}% confidence at most {percent(chosen.upper_bound)}){cost}"
    )


def notes(about: About, policy: Policy, gate: Gate) -> list[str]:
    """What whoever uses the threshold should know, a line each."""
    found = []
    if gate.num_photos > gate.num_minors:
        found.append(f"{gate.num_photos:,} photos are of {gate.num_minors:,} minors: one photo of each counts")
    if about.num_minors_not_scored:
        found.append(f"{about.num_minors_not_scored:,} photos of minors have no prediction, and do not count")
    above = [
        f"{kind.name} ({percent(kind.wrong)} of {kind.num_people:,})"
        for kind in gate.above(policy.max_false_positive_rate)
        if kind.wrong is not None
    ]
    if above:
        found.append(f"clearly more than the target pass of some minors by themselves: {', '.join(above)}")
    return found


def write_report(out: str, about: About, policy: Policy, gate: Gate, lines: list[str]) -> str:
    """Writes both files into the folder ``out`` (a path or ``s3://``), and returns the page's URI."""
    page = render(about, policy, gate, lines).encode()
    numbers = json.dumps(numbers_of(about, policy, gate, lines), indent=2, ensure_ascii=False, allow_nan=False).encode()
    outputs.tell_held(out)
    objects.delete(paths.join(out, PAGE_NAME))  # or it would stand beside another one's numbers
    for name, data in ((NUMBERS_NAME, numbers), (PAGE_NAME, page)):
        objects.write_bytes(paths.join(out, name), data)
    return paths.join(out, PAGE_NAME)


def numbers_of(about: About, policy: Policy, gate: Gate, lines: list[str]) -> dict[str, Any]:
    """What ``gate.json`` says."""
    return {
        "about": asdict(about) | asdict(policy),
        "papers_where": policy.challenged_where(gate.chosen.threshold),
        **asdict(gate.chosen),
        "num_minors": gate.num_minors,
        "num_photos": gate.num_photos,
        "sequence": [asdict(each) for each in gate.sequence],
        "minors_by_age": [asdict(each) for each in gate.minors_by_age],
        "adults": asdict(gate.adults),
        "adults_by_age": [asdict(each) for each in gate.adults_by_age],
        **{f"by_{key}": [asdict(part) for part in parts] for key, parts in gate.parts.items()},
        "notes": lines,
    }


def render(about: About, policy: Policy, gate: Gate, lines: list[str]) -> str:
    """The page as text."""
    label = "challenge age T, years" if policy.by == "age" else f"T: the largest P(under {policy.gate_age}) that passes"
    figures = {
        "false_positives": (
            plots.false_positives(gate.candidates, gate.chosen, policy.max_false_positive_rate, label),
            "Share of minors who pass by threshold",
        )
    }
    if gate.adults_by_age:
        figures["challenged"] = plots.challenged(gate.adults_by_age), "Share of adults who must show papers by age"
    return template("gate.html.j2").render(
        about=about,
        policy=policy,
        gate=gate,
        chosen=gate.chosen,
        answer=answer(policy, gate),
        notes=lines,
        figures=inline(figures),
        few=ENOUGH_FACES,
        interval=interval,
        exactly=lambda share: percent(share).replace("%", "\N{NO-BREAK SPACE}%"),
    )
