"""Whether what somebody hands on is what was made: the files of a checkpoint, and a report with its model card.

URIs in, what is wrong out, one line each. Changes nothing, and runs no model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from agescale.evaluation import model_card, report
from agescale.models import checkpoints
from agescale.reports.page import is_about
from agescale.store import objects, paths


@dataclass(frozen=True)
class Evidence:
    """What was looked at, and what is wrong with it."""

    says: str
    model: str  # digest
    problems: tuple[str, ...]


def verify_checkpoint(uri: str) -> Evidence:
    """Every file of a checkpoint against the SHA-256 that its config.json tells. Raises ValueError where there is no
    checkpoint, StoreError where it cannot be read."""
    known = checkpoints.read(uri)
    problems = []
    if known.told_digest not in ("", known.digest):
        told = f"of model {known.told_digest}, and tells of {known.digest}: it was edited"
        problems.append(f"{uri}/{checkpoints.CONFIG_NAME}: {told}")
    for name, sha256 in known.files.items():
        try:
            checkpoints.read_file(uri, name, sha256)
        except ValueError as error:
            problems.append(str(error))
    return Evidence(f"checkpoint {uri}: {len(known.files)} files, model {known.digest}", known.digest, tuple(problems))


def verify_report(uri: str, model: str = "") -> Evidence:
    """A report's files against its model card, the card's figures against ``metrics.json``, and both against the digest
    of the ``model`` that they should be of, if any. Raises ValueError where there is no report."""
    metrics = paths.join(uri, report.METRICS_NAME)
    if not is_about(metrics, report.MARKS):
        raise ValueError(f"{uri}: no report there (no {report.METRICS_NAME} of one)")
    data = objects.read_bytes(metrics)
    said = json.loads(data)["about"]["model"]
    problems = [f"{metrics}: of model {said}, not of {model}"] if model and said != model else []
    card = _read(paths.join(uri, model_card.CARD_NAME))
    if card is None:
        problems.append(f"{paths.join(uri, model_card.CARD_NAME)}: not there; the same jobs/evaluate.py writes it")
    else:
        text = card.decode(errors="replace")
        files = {name: _read(paths.join(uri, name)) for name in model_card.files_of(text)}
        found = model_card.problems(text, files | {report.METRICS_NAME: data})
        problems += [paths.join(uri, problem) for problem in found]
    return Evidence(f"report {uri}: its card and figures are those of model {said}", said, tuple(problems))


def _read(uri: str) -> bytes | None:
    return objects.read_bytes(uri) if objects.exists(uri) else None
