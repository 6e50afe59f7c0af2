"""The model card beside a report: ``model_card.md``, with the front matter that Hugging Face reads, and whether it is
still what was written.

In: a judgement's facts and the files of its report. Out: the card's text; or, of a card and the files that stand beside
it, what is wrong, one line each. Its last line holds the SHA-256 of all the report's files and of the text above it:
that proves it against mistakes and edits by hand, not against somebody who computes these anew. Figures are compared
with ``metrics.json`` besides. Reads no tables.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from agescale.reports.page import template
from agescale.store.objects import sha256

CARD_NAME = "model_card.md"
METRICS = {"mae": "mean absolute error, years", "cs_at_5": "share of ages at most 5 years off",
           "accuracy": "accuracy of the age group", "macro_f1": "macro F1 of the age groups"}  # fmt: skip
LAST_LINE = re.compile(r"<!-- agescale (\{.*\}) -->\n\Z")
INDEX = re.compile(r"^model-index: (.*)$", re.MULTILINE)


def write(numbers: Mapping[str, Any], files: Mapping[str, bytes], facts: Mapping[str, Any]) -> str:
    """The card of a report with those ``files`` by name; ``numbers`` are what ``metrics.json`` says, ``facts`` what the
    template tells of."""
    text = f"---\n{_front_matter(numbers, facts['results'])}---\n\n{template('model_card.md.j2').render(facts)}\n"
    text = re.sub(r"\n{3,}", "\n\n", text)
    said = {"files": {name: sha256(data) for name, data in files.items()}, "text": sha256(text.encode())}
    return f"{text}<!-- agescale {json.dumps(said)} -->\n"


def _front_matter(numbers: Mapping[str, Any], results: Sequence[Any]) -> str:
    """YAML, in which whatever comes from data is JSON, which YAML is a superset of."""
    about = numbers["about"]
    of_splits = [
        {
            "task": {"type": "image-classification", "name": "age of a face"},
            "dataset": {"type": "agescale-catalog", "name": about["source"] or about["catalog"], "split": result.name},
            "metrics": [
                {"type": key, "name": name, "value": numbers[result.name][key]}
                for key, name in METRICS.items()
                if numbers[result.name][key] is not None
            ],
        }
        for result in results
        if result.summary.num_rows
    ]
    index = [{"name": f"agescale {about['model']}", "results": of_splits}]
    return (
        "library_name: agescale\nlicense: other\nlicense_name: see-terms\npipeline_tag: image-classification\n"
        f"tags: [age-estimation, face]\nmodel-index: {json.dumps(index)}\n"
    )


def problems(card: str, files: Mapping[str, bytes | None]) -> list[str]:
    """What is wrong with a card beside those ``files`` by name, None where one is gone; ``metrics.json`` is there."""
    if (said := _said(card)) is None:
        return [f"{CARD_NAME}: its last line is not as jobs/evaluate.py writes it"]
    of_files, of_text = said
    is_edited = sha256(LAST_LINE.sub("", card).encode()) != of_text
    wrong = [f"{CARD_NAME}: edited since it was written"] if is_edited else []
    for name, told in of_files.items():
        data = files.get(name)
        if data is None:
            wrong.append(f"{name}: not there")
        elif sha256(data) != told:
            wrong.append(f"{name}: not the file that {CARD_NAME} was written with; one of them is of another report")
    return wrong + _other_figures(card, files["metrics.json"] or b"{}")


def files_of(card: str) -> list[str]:
    """Names of the files that a card was written with; none where it does not say."""
    said = _said(card)
    return list(said[0]) if said else []


def _said(card: str) -> tuple[dict[str, str], str] | None:
    """The SHA-256 of each file by its name, and that of the text, of a card's last line; None where it has no such."""
    found = LAST_LINE.search(card)
    try:
        said = json.loads(found[1]) if found else {}
        return dict(said["files"]), str(said["text"])
    except (ValueError, KeyError, TypeError):
        return None


def _other_figures(card: str, metrics: bytes) -> list[str]:
    """A line for each figure of the front matter that ``metrics.json`` does not say."""
    found = INDEX.search(card)
    try:
        numbers = json.loads(metrics)
        results = json.loads(found[1])[0]["results"] if found else None
        if results is None:
            return [f"{CARD_NAME}: no figures in its front matter"]
        figures = [(each["dataset"]["split"], row["type"], row["value"]) for each in results for row in each["metrics"]]
        ours = [(split, name, value, numbers.get(split, {}).get(name)) for split, name, value in figures]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return [f"{CARD_NAME}: the figures of its front matter are not as jobs/evaluate.py writes them"]
    return [
        f"{CARD_NAME}: {name} of {split} is {value}, in metrics.json {other}"
        for split, name, value, other in ours
        if value != other
    ]
