"""The rule of an age gate for a table of predictions: ``gate.json``, which jobs/gate.py wrote, and predictions in."""

from __future__ import annotations

import json

from agescale.ages.papers import PapersRule
from agescale.store import objects
from agescale.store.errors import StoreError
from agescale.tables.predictions import Predictions

RUN = ("model", "tta", "faces")
"""What of a run its ages hang on: a gate that was found on others says nothing of these."""


def read_rule(uri: str, predictions: Predictions) -> PapersRule:
    """Raises ValueError, in one line, where ``uri`` is no gate, or not one of predictions such as these."""
    try:
        said = json.loads(objects.read_bytes(uri))
        about, threshold = said["about"], float(said["threshold"])
        rule, run = PapersRule(about["by"], int(about["gate_age"]), threshold), about["run"]
        theirs = {name: run.get(name) for name in RUN}
    except StoreError as error:
        if error.status != "missing":
            raise
        raise ValueError(f"--gate {uri}: no such file; jobs/gate.py --out writes its gate.json") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"--gate {uri}: not the gate.json that jobs/gate.py writes") from error
    if not predictions.says_ages:
        raise ValueError(f"--gate {uri}: {predictions.uri} has no ages to judge by, its model only chooses groups")
    if different := [
        f"{name} {theirs[name]}, not {ours}" for name in RUN if theirs[name] != (ours := predictions.run.get(name))
    ]:
        raise ValueError(
            f"--gate {uri}: found on predictions of {', '.join(different)} as in {predictions.uri}; find a gate on "
            "predictions of this model, made in this way"
        )
    return rule
