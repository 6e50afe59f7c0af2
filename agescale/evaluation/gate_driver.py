"""From the two tables to a gate and its page: whose faces count, and what of the inputs is worth a line.

In: a ``GateConfig``. Out: the folder that ``gate_report.write_report`` fills. A face counts where it is not excluded
(findings), has an exact age, and was scored; one without a prediction does not pass any gate. Never runs a model.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np

from agescale.ages.groups import AgeGroups
from agescale.config import GateConfig
from agescale.evaluation import arrays, gate_report
from agescale.evaluation.gate_report import About
from agescale.evaluation.gates import Faces, Policy, gate_of
from agescale.evaluation.joined import JoinedRows, read_rows, splits_of
from agescale.models.spec import learns_spread
from agescale.store import paths
from agescale.tables import folders
from agescale.tables.catalogs import Catalog
from agescale.tables.predictions import Predictions


@dataclass(frozen=True)
class Found:
    """Where the page is, the threshold in a line, and what else is worth one."""

    page: str  # URI
    answer: str
    notes: list[str]


def find_gate(config: GateConfig) -> Found:
    """Writes ``gate.json`` and ``gate.html``. Raises ValueError, before anything is written, where no threshold can be
    certified."""
    config = paths.with_absolute_uris(config)
    catalog = Catalog.open(config.catalog)
    gate_report.claim(config.out, {
        **catalog.places,
        config.predictions: "the table of predictions",
        folders.beside(config.predictions): "what belongs to the predictions",
    })  # fmt: skip
    catalog.check_complete()
    predictions = Predictions.open(config.predictions)
    listed = arrays.read_catalog(catalog, None, catalog.excluded())
    rows = read_rows(predictions, listed, _groups(config, predictions))
    splits = splits_of(config.split, rows)
    names = [name or "unsplit" for name in splits]
    policy = Policy(config.by, config.age, config.minors, config.max_false_positive_rate, config.confidence)
    in_splits_N = np.logical_or.reduce([rows.is_in(name) for name in splits]) & ~listed.is_excluded_N
    faces = _faces(rows, in_splits_N, policy)
    where = f"{config.catalog} ({', '.join(names)})"
    gate = gate_of(faces, policy, {key: part_names for key, (_, part_names) in rows.parts.items()}, where)
    low, high = policy.band
    in_band_N = in_splits_N & (listed.true_age_N >= low) & (listed.true_age_N < high + 1)
    about = About(
        catalog=config.catalog,
        catalog_id=catalog.id,
        source=catalog.source or None,
        predictions=config.predictions,
        model=predictions.metadata["run"]["model"],
        checkpoint=predictions.metadata.get("checkpoint"),
        run=predictions.run,
        splits=names,
        judged_on=dt.datetime.now(dt.UTC).date().isoformat(),
        num_minors_not_scored=int(in_band_N.sum()) - gate.num_photos,
    )
    notes = gate_report.notes(about, policy, gate)
    if not set(config.split) & set(names):
        notes.insert(0, f"--split {' '.join(config.split)}: the catalog has only {names[0]}, which is taken")
    notes += _learnt(predictions, config.catalog, names)
    page = gate_report.write_report(config.out, about, policy, gate, notes)
    return Found(page, gate_report.answer(policy, gate), notes)


def _groups(config: GateConfig, predictions: Predictions) -> AgeGroups | None:
    """The groups that the predictions are read in: where the probability of being under age decides, it is that of one
    of two."""
    if not predictions.says_ages:
        raise ValueError(f"{config.predictions}: no ages to judge by, its model only chooses among groups by name")
    if config.by == "age":
        return predictions.age_groups
    task = predictions.model_card.get("task", "")
    if not learns_spread(task):
        raise ValueError(f"--by probability: a model of --task {task} does not learn how sure it is; use --by age")
    return AgeGroups.parse(f"minor=0-{config.age - 1},adult={config.age}-")


def _faces(rows: JoinedRows, in_splits_N: np.ndarray, policy: Policy) -> Faces:
    """Those that count, in the order of the hashes of their keys: which photo of a person is first hangs on nothing
    else."""
    predicted, listed = rows.predicted, rows.listed
    if policy.by == "age":
        score_N = rows.outcomes.predicted_age_N
    else:
        probability_N = predicted.probability_N.astype(np.float64)
        score_N = np.where(predicted.group_N == 0, probability_N, 1 - probability_N).round(6)
    known_N = in_splits_N & predicted.is_ok_N & ~np.isnan(listed.true_age_N) & ~np.isnan(score_N)
    index = np.flatnonzero(known_N)
    index = index[np.argsort(listed.hash_N[index])]
    (gender_N, _), (ethnicity_N, _) = rows.parts["gender"], rows.parts["ethnicity"]
    return Faces(listed.true_age_N[index], score_N[index], listed.cluster_N[index], gender_N[index], ethnicity_N[index])


def _learnt(predictions: Predictions, catalog: str, splits: list[str]) -> list[str]:
    """Whether the model has seen these faces, as far as it is known."""
    learnt = [name for name in splits if name != "test"]
    settings = predictions.model_card.get("settings") or {}
    catalogs = settings.get("catalog") or catalog
    if not learnt or catalog not in ([catalogs] if isinstance(catalogs, str) else catalogs):
        return []
    seen = "was" if settings else "may have been"
    which = ", ".join(learnt)
    return [f"the model {seen} trained or chosen on faces of this catalog ({which}): nothing here holds for new ones"]
