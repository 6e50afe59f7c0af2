"""Judges predictions against a catalog's labels: the room between the two tables and the report.

In: an ``EvaluateConfig``. Out: the folder that ``report.write_report`` fills. Which rows count, what is true of each,
and which faces are shown is decided here; the numbers come from ``metrics``. Never runs a model: what is judged is what
``score`` wrote.

* A row is judged where it is not excluded (findings), was scored, and has a label that can be compared.
* An exact age (an interval of at most one year) is the age ``age_low``. A wider interval counts for the groups only,
  and only where it lies within one. Where the groups have names only, the true group is the catalog's class name.
* Groups are a view: other ones than the model's derive from its ``age_cdf``, as the model's own did.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from agescale.ages.few import ENOUGH_FACES
from agescale.ages.groups import AgeGroups
from agescale.config import EvaluateConfig
from agescale.evaluation import arrays, report
from agescale.evaluation.age_gate import GATE_AGE
from agescale.evaluation.error_table import error_table
from agescale.evaluation.fairness import Limit, Verdict
from agescale.evaluation.gallery import galleries
from agescale.evaluation.joined import JoinedRows, read_other, read_rows, splits_of
from agescale.evaluation.report import About, Judgement
from agescale.evaluation.split_result import SplitResult, judge_split
from agescale.models import checkpoints
from agescale.models.spec import learns_spread
from agescale.store import paths
from agescale.tables import folders, schema
from agescale.tables.catalogs import Catalog
from agescale.tables.predictions import Predictions


@dataclass(frozen=True)
class Evaluated:
    """Where the report is, and what of it is worth a line."""

    page: str  # URI
    notes: list[str]
    over: list[str]  # gaps that are larger than may be, a line for each limit


def evaluate(config: EvaluateConfig) -> Evaluated:
    """Writes the report. Raises ValueError, before anything is written, where there is nothing to judge."""
    config = paths.with_absolute_uris(config)
    catalog = Catalog.open(config.catalog)
    report.claim(config.out, _occupied(config, catalog))
    catalog.check_complete()
    predictions = Predictions.open(config.predictions)
    groups = _groups(config, catalog, predictions)
    names = list(groups.names) if groups else []
    card = _card(config, predictions)
    rows = _read_rows(config, catalog, predictions, groups, card)
    results = _judge_splits(config, rows, names, groups, predictions, catalog)
    about = About(
        catalog=config.catalog,
        source=catalog.settings.get("source"),
        layout=catalog.settings.get("layout"),
        predictions=config.predictions,
        against=config.against or None,
        checkpoint=config.checkpoint or predictions.metadata.get("checkpoint"),
        model=predictions.metadata["run"]["model"],
        age_groups=groups.format() if groups else None,
        model_age_groups=predictions.groups_of_model,
        gender_from=config.gender_from or None,
        include_findings=config.include_findings,
        asked_splits=config.split,
        report_split=results[0].name,
        judged_on=dt.datetime.now(dt.UTC).date().isoformat(),
        unscored_splits=_unscored_splits(rows),
        run=predictions.run,
        has_pictures=config.pictures,
    )
    errors, num_errors = error_table(rows, names)
    if not config.pictures:
        hidden = [catalog.hidden_name(uri) for uri in errors["uri"].to_pylist()]
        errors = errors.set_column(0, "uri", pa.array(hidden, pa.string()))
    center_crop = float(card.get("center_crop") or 1.0)
    judgement = Judgement(
        about=about,
        card=card,
        group_names=names,
        results=results,
        galleries=galleries(catalog, rows, results[0].name, names, center_crop, config.pictures),
        group_counts=_group_counts(rows, names),
        learned_minors=_learned_minors(rows),
        errors=errors,
        num_errors=num_errors,
    )
    limits = results[0].limits
    notes = _notes(about) + [verdict.line() for verdict in limits if not verdict.over]
    return Evaluated(
        report.write_report(config.out, judgement), notes, [verdict.line() for verdict in limits if verdict.over]
    )


def _card(config: EvaluateConfig, predictions: Predictions) -> dict[str, Any]:
    """What the predictions say of their model, and the checkpoint that is to be described."""
    if not config.checkpoint:
        return predictions.model_card
    return predictions.model_card | _card_of_checkpoint(config.checkpoint, predictions.metadata["run"]["model"])


def _read_rows(
    config: EvaluateConfig,
    catalog: Catalog,
    predictions: Predictions,
    groups: AgeGroups | None,
    card: Mapping[str, Any],
) -> JoinedRows:
    """The rows of both tables; of a model that does not learn how sure it is, without what it says of that."""
    listed = arrays.read_catalog(catalog, groups, _excluded(config, catalog))
    if not listed.has_labels:
        raise ValueError(
            f"{config.catalog}: none of its images has a label to judge by; name a catalog of labelled ones"
        )
    rows = read_rows(predictions, listed, groups, config.gender_from)
    if not learns_spread(card.get("task", "")):
        unknown_N = np.full(len(listed), np.nan)
        rows = replace(
            rows, age_std_N=unknown_N, probability_N=unknown_N, share_below_N=unknown_N, under_gate_N=unknown_N
        )
    return rows


def _judge_splits(
    config: EvaluateConfig,
    rows: JoinedRows,
    names: list[str],
    groups: AgeGroups | None,
    predictions: Predictions,
    catalog: Catalog,
) -> list[SplitResult]:
    """The asked splits, first the one that the report is about: the first in which any row is judged."""
    splits = splits_of(config.split, rows)
    other = read_other(config, rows, groups)
    limits = [Limit(metric, gap, by, option) for option, metric, gap, by in config.gap_limits]
    calibrated = predictions.calibrated_splits(catalog.id)
    results = [
        replace(judge_split(name, rows, names, other, limits), is_calibrated_on=name in calibrated) for name in splits
    ]
    central = next((result for result in results if result.summary.num_rows), None)
    if central is None:
        names_only = "" if predictions.says_ages else f"; the model knows the groups {', '.join(names)} and no ages"
        raise ValueError("; ".join(_why_nothing(result) for result in results) + names_only)
    if config.against and not central.comparisons:
        raise ValueError(f"--against {config.against}: of the judged faces of {central.name} it has scored none")
    for verdict in central.limits:
        _check_comparable(verdict, central.name)
    return [central, *(result for result in results if result is not central)]


def _check_comparable(verdict: Verdict, split: str) -> None:
    """Raises ValueError where no two parts of an asked kind have enough faces: a limit that nobody could tell to be
    exceeded is no limit that is kept."""
    compared = {gap.by for gap in verdict.gaps}
    if missing := [by for by in verdict.limit.by if by not in compared]:
        raise ValueError(
            f"{verdict.limit.option}: no two parts by {missing[0]} have {ENOUGH_FACES} persons each to be judged in "
            f"{split}; leave {missing[0]} out, or judge more faces whose labels tell it"
        )


def _unscored_splits(rows: JoinedRows) -> list[str]:
    is_scored_N = rows.predicted.is_ok_N
    return [name for name in rows.splits if name and not is_scored_N[rows.is_in(name)].any()]


def _occupied(config: EvaluateConfig, catalog: Catalog) -> dict[str, str]:
    """What stands where, so that the report does not: URIs of folders and what is there."""
    places = {
        **catalog.places,
        config.predictions: "the table of predictions",
        folders.beside(config.predictions): "what belongs to the predictions",
        config.against: "the other table of predictions",
        config.gender_from: "the table of predictions of the gender",
        config.checkpoint or "": "the checkpoint",
    }
    return {uri: what for uri, what in places.items() if uri}


def _notes(about: About) -> list[str]:
    judged, own = about.age_groups, about.model_age_groups
    return [] if judged == own else [f'age groups: {judged} (the model\'s own: --age-groups "{own}")']


def _groups(config: EvaluateConfig, catalog: Catalog, predictions: Predictions) -> AgeGroups | None:
    """The age groups in which predictions are judged: those asked for, else the catalog's where the predictions can be
    told in them, else their own. Raises ValueError where they cannot be told as asked."""
    own = predictions.age_groups
    if config.age_groups is not None:
        return predictions.view(config.age_groups)
    of_catalog = catalog.age_groups
    if own is None or of_catalog is None:
        return own
    if predictions.says_ages:
        return of_catalog if of_catalog.is_bounded else own
    return of_catalog if set(of_catalog.names) == set(own.names) else own  # the same names, which have bounds by now


def _excluded(config: EvaluateConfig, catalog: Catalog) -> pa.Table:
    """The rows that are left out because of findings."""
    excluded = catalog.excluded()
    return excluded.slice(0, 0) if config.include_findings else excluded


def _why_nothing(result: SplitResult) -> str:
    counts = result.counts
    return (
        f"nothing to judge in {result.name}: of {counts.num_catalog_rows} rows {counts.num_excluded} are excluded by "
        f"findings, {counts.num_not_scored} were not scored and "
        f" {counts.num_without_label} have no label to compare with"
    )


def _card_of_checkpoint(uri: str, digest: str | None) -> dict[str, Any]:
    """What a checkpoint says of its model. Raises ValueError where the predictions are not of this model."""
    checkpoint = checkpoints.read(uri)
    if checkpoint.digest != digest:
        raise ValueError(f"{uri}: its model is {checkpoint.digest}, the predictions are of model {digest}")
    return dict(checkpoint.card())


def _learned_minors(rows: JoinedRows) -> tuple[int, int] | None:
    """Of the faces of the training split with an exact age, how many are of minors, and all; None without any."""
    age_N = rows.listed.true_age_N[rows.is_in("train") & ~rows.listed.is_excluded_N]
    age_N = age_N[~np.isnan(age_N)]
    return (int((age_N < GATE_AGE).sum()), len(age_N)) if len(age_N) else None


def _group_counts(rows: JoinedRows, names: list[str]) -> dict[str, list[int]]:
    """Faces of each group by split, with or without a prediction; none where there are no groups."""
    is_known_N = ~rows.listed.is_excluded_N & (rows.outcomes.true_group_N >= 0)
    counted = {}
    for split in (*schema.SPLITS, None):
        groups_N = rows.outcomes.true_group_N[is_known_N & rows.is_in(split)]
        if len(groups_N):
            counted[split or "unsplit"] = np.bincount(groups_N, minlength=len(names)).tolist()
    return counted
