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

import base64
import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from agescale import catalogs, checkpoints, images, judged, metrics, report, schema, selection, tables, units
from agescale.age_groups import AgeGroups
from agescale.config import EvaluateConfig, parse_names
from agescale.judged import Listed, Said
from agescale.metrics import Constant, Outcomes
from agescale.report import Gallery, Judgement, ShownFace, SplitResult
from agescale.store import paths
from agescale.tasks import TASKS

NUM_SHOWN = 12
FACE_PIXELS = 112
MAX_NAME = 80
MAX_ERRORS = 1_000_000
"""Rows of the table of errors: about what a spreadsheet holds."""
NOT_PREDICTED = "no prediction"


@dataclass(frozen=True)
class Rows:
    """All current rows of the catalog with what was predicted of each; arrays (N,), in the order of its parts and of
    the rows in them. What is drawn by chance (samples, persons) depends on it, and is the same every time."""

    listed: Listed
    outcomes: Outcomes
    said: Said
    age_std_N: np.ndarray  # and
    probability_N: np.ndarray  # of the predicted group: NaN also where a model does not learn how sure it is
    parts: dict[str, tuple[np.ndarray, list[str]]]  # by gender and ethnicity: index into the names, -1 = unknown
    heads: dict[str, tuple[np.ndarray, np.ndarray]]  # labels and what an auxiliary head says, as indices, -1 = nothing

    def is_in(self, split: str | None) -> np.ndarray:
        """Which rows are in a split, or in none."""
        return self.listed.split_N == (-1 if split is None else schema.SPLITS.index(split))

    @property
    def splits(self) -> list[str | None]:
        """The splits that there are, None for rows without one."""
        return [name for name in (*schema.SPLITS, None) if self.is_in(name).any()]


@dataclass(frozen=True)
class Evaluated:
    """Where the report is, and what of it is worth a line."""

    page: str  # URI
    notes: list[str]


def evaluate(config: EvaluateConfig) -> Evaluated:
    """Writes the report. Raises ValueError, before anything is written, where there is nothing to judge."""
    config = replace(
        config,
        catalog=paths.absolute(config.catalog),
        predictions=paths.absolute(config.predictions),
        against=config.against and paths.absolute(config.against),
        gender_from=config.gender_from and paths.absolute(config.gender_from),
        checkpoint=config.checkpoint and paths.absolute(config.checkpoint),
        out=paths.absolute(config.out),
    )
    settings = catalogs.settings(config.catalog)
    report.claim(config.out, _occupied(config))
    catalogs.check_complete(config.catalog)
    metadata = units.read_metadata(units.prediction_files(config.predictions)[0])
    groups = _groups(config, config.predictions, metadata)
    names = list(groups.names) if groups else []
    listed = judged.read_catalog(config.catalog, groups, _excluded(config))
    if not listed.has_labels:
        raise ValueError(
            f"{config.catalog}: none of its images has a label to judge by; name a catalog of labelled ones"
        )
    card = metadata.get("model_card") or {}
    if config.checkpoint:
        card = card | _card_of_checkpoint(config.checkpoint, metadata["run"]["model"])
    rows = _rows(config, listed, groups)
    if card.get("task") in TASKS and not TASKS[card["task"]].learns_spread:
        unknown_N = np.full(len(listed), np.nan)
        rows = replace(rows, age_std_N=unknown_N, probability_N=unknown_N)
    splits = _splits(config.split, rows)
    others = _others(config, rows, groups)
    results = [_judge(name, rows, names, others) for name in splits]
    central = next((result for result in results if result.metrics["num_rows"]), None)
    if central is None:
        names_only = "" if units.says_ages(metadata) else f"; the model knows the groups {', '.join(names)} and no ages"
        raise ValueError("; ".join(_why_nothing(result) for result in results) + names_only)
    if config.against and not central.comparisons:
        raise ValueError(f"--against {config.against}: of the judged faces of {central.name} it has scored none")

    about = {
        "catalog": config.catalog,
        "source": settings.get("source"),
        "layout": settings.get("layout"),
        "predictions": config.predictions,
        "against": config.against or None,
        "checkpoint": config.checkpoint or metadata.get("checkpoint"),
        "model": metadata["run"]["model"],
        "age_groups": groups.format() if groups else None,
        "model_age_groups": metadata["run"]["age_groups"],
        "gender_from": config.gender_from or None,
        "include_findings": config.include_findings,
        "asked_splits": config.split,
        "report_split": central.name,
        "judged_on": dt.datetime.now(dt.UTC).date().isoformat(),
    }
    about["unscored_splits"] = [name for name in rows.splits if name and not rows.said.is_ok_N[rows.is_in(name)].any()]
    ordered = [central, *(result for result in results if result is not central)]
    index_E = _errors(rows)
    judgement = Judgement(
        about=about,
        card=card,
        group_names=names,
        results=ordered,
        galleries=_galleries(
            config.catalog, settings, rows, central.name, names, float(card.get("center_crop") or 1.0)
        ),
        group_counts=_group_counts(rows, names),
        errors=_table_of_errors(rows, names, index_E[:MAX_ERRORS]),
        num_errors=len(index_E),
    )
    page = report.write_report(config.out, judgement)
    return Evaluated(page, _notes(about))


def _occupied(config: EvaluateConfig) -> dict[str, str]:
    """What stands where, so that the report does not: URIs of folders and what is there."""
    places = {
        **catalogs.places(config.catalog),
        **tables.places(config.predictions),
        config.against: "the other table of predictions",
        config.gender_from: "the table of predictions of the gender",
        config.checkpoint or "": "the checkpoint",
    }
    return {uri: what for uri, what in places.items() if uri}


def _notes(about: dict[str, Any]) -> list[str]:
    judged, own = about["age_groups"], about["model_age_groups"]
    return [] if judged == own else [f'age groups: {judged} (the model\'s own: --age-groups "{own}")']


def _own_groups(metadata: dict[str, Any]) -> AgeGroups | None:
    """The age groups that predictions were made in."""
    groups = metadata["run"]["age_groups"]
    return AgeGroups.parse(groups) if groups else None


def _groups(config: EvaluateConfig, predictions: str, metadata: dict[str, Any]) -> AgeGroups | None:
    """The age groups in which predictions with that ``metadata`` are judged: those asked for, else the catalog's where
    the predictions can be told in them, else their own. Raises ValueError where they cannot be told as asked."""
    own = _own_groups(metadata)
    if config.age_groups is not None:
        return units.parse_view(config.age_groups, predictions, metadata)
    of_catalog = catalogs.age_groups(config.catalog)
    if own is None or of_catalog is None:
        return own
    if units.says_ages(metadata):
        return of_catalog if of_catalog.is_bounded else own
    return of_catalog if set(of_catalog.names) == set(own.names) else own  # the same names, which have bounds by now


def _excluded(config: EvaluateConfig) -> pa.Table:
    """The rows that are left out because of findings."""
    excluded = catalogs.excluded(config.catalog)
    return excluded.slice(0, 0) if config.include_findings else excluded


def _rows(config: EvaluateConfig, listed: Listed, groups: AgeGroups | None) -> Rows:
    said = _read_predictions(config.predictions, config.catalog, listed, groups)
    gender_N = listed.gender_N
    if config.gender_from:
        other = judged.read_predictions(config.gender_from, listed, [])
        names = np.array([*listed.genders.names, None], dtype=object)  # the index -1 is None
        ours, theirs = (names[code[code >= 0]].tolist() for code in (np.unique(gender_N), other.has_gender))
        selection.check_genders(bool((other.gender_N >= 0).any()), ours, theirs)
        gender_N = np.where(gender_N >= 0, gender_N, other.gender_N)
    return Rows(
        listed=listed,
        outcomes=_outcomes(listed, said, groups),
        said=said,
        age_std_N=said.age_std_N,
        probability_N=said.probability_N,
        parts={
            "gender": listed.genders.sorted(gender_N),
            "ethnicity": listed.ethnicities.sorted(listed.ethnicity_N),
        },
        heads={
            "gender": (listed.gender_N, said.gender_N),
            "ethnicity": (listed.ethnicity_N, said.ethnicity_N),
        },
    )


def _read_predictions(uri: str, catalog: str, listed: Listed, groups: AgeGroups | None) -> Said:
    """Their group is one of ``groups`` where these derive from what they say, else one of the model's."""
    metadata = units.read_metadata(units.prediction_files(uri)[0])
    has_others = groups is not None and groups != _own_groups(metadata) and units.says_ages(metadata)
    said = judged.read_predictions(uri, listed, list(groups.names) if groups else [], groups if has_others else None)
    if not (said.status_N >= 0).any():
        raise ValueError(f"{uri}: none of these predictions is of an image of {catalog}")
    return said


def _outcomes(listed: Listed, said: Said, groups: AgeGroups | None) -> Outcomes:
    return Outcomes(
        true_age_N=listed.true_age_N,
        predicted_age_N=np.where(said.is_ok_N, said.age_N, np.nan).astype(np.float64),
        true_group_N=listed.true_group_N,
        predicted_group_N=np.where(said.is_ok_N, said.group_N, -1).astype(np.int64),
        unit_N=listed.unit_N,
        num_groups=len(groups.names) if groups else 0,
    )


def _others(config: EvaluateConfig, rows: Rows, groups: AgeGroups | None) -> tuple[np.ndarray, Outcomes] | None:
    """Of which rows ``config.against`` says anything, and what, in the same ``groups`` where it can be told in them; of
    other ones it says nothing that could be compared."""
    if not config.against:
        return None
    metadata = units.read_metadata(units.prediction_files(config.against)[0])
    own = _own_groups(metadata)
    view = groups if own and groups and groups.is_bounded and units.says_ages(metadata) else own
    said = _read_predictions(config.against, config.catalog, rows.listed, view)
    outcomes = _outcomes(rows.listed, said, view)
    if view != groups:
        outcomes = replace(outcomes, true_group_N=np.full(len(rows.listed), -1))
    return said.is_ok_N, outcomes


def _splits(text: str, rows: Rows) -> list[str | None]:
    """The asked splits that the catalog has, else the only one that there is."""
    asked = parse_names(text)
    if unknown := [name for name in asked if name not in schema.SPLITS]:
        raise ValueError(f"--split {text}: {', '.join(unknown)} is none of {', '.join(schema.SPLITS)}")
    there = rows.splits
    found: list[str | None] = [name for name in asked if name in there]
    if not found and len(there) != 1:
        has = ", ".join(name or "rows without a split" for name in there) or "no rows"
        raise ValueError(f"--split {text}: the catalog has {has}")
    return found or list(there)


def _judge(split: str | None, rows: Rows, names: list[str], others: tuple[np.ndarray, Outcomes] | None) -> SplitResult:
    in_split_N = rows.is_in(split)
    judged_N, counts = _who_is_judged(rows, in_split_N)
    outcomes = rows.outcomes.where(judged_N)
    constant, sources = _baseline(rows, outcomes)
    summary = metrics.summary(outcomes, constant, names)
    summary["num_subjects"] = _num_shared_units(outcomes)
    summary["auxiliary"] = {
        key: metrics.agreement(label_N[judged_N], said_N[judged_N])
        for key, (label_N, said_N) in rows.heads.items()
        if (said_N[judged_N] >= 0).any()
    }
    comparisons = _compared(rows, *others, judged_N) if others else {}
    if comparisons:
        summary["against"] = comparisons["all"][0]
    for name, source in sources.items():
        summary["baselines"][name]["labels_of"] = source
    status_S = rows.said.status_N[in_split_N & ~rows.listed.is_excluded_N & ~rows.said.is_ok_N]
    counts_S = np.bincount(status_S + 1, minlength=len(rows.said.statuses) + 1).tolist()
    statuses = sorted(zip([NOT_PREDICTED, *rows.said.statuses], counts_S, strict=True))
    parts = {"decade": metrics.decades(outcomes.true_age_N)}
    parts |= {key: (code_N[judged_N], of) for key, (code_N, of) in rows.parts.items()}
    gate = metrics.age_gate(outcomes.true_age_N, outcomes.predicted_age_N)
    return SplitResult(
        name=split or "unsplit",
        outcomes=outcomes,
        metrics=counts | summary,
        confusion=metrics.confusion_matrix(outcomes.true_group_N, outcomes.predicted_group_N, len(names)),
        by_group=metrics.by_group(outcomes, names),
        breakdowns={key: metrics.breakdown(outcomes, *part) for key, part in parts.items()},
        worst={key: metrics.worst_part(outcomes, *part) for key, part in parts.items()},
        gate=gate if any(row["num_rows"] for row in gate) else [],
        comparisons=comparisons,
        not_scored={status: count for status, count in statuses if count},
        findings=rows.listed.findings.get(split, {}),
    )


def _compared(
    rows: Rows, is_ok_N: np.ndarray, others: Outcomes, judged_N: np.ndarray
) -> dict[str, list[dict[str, Any]]]:
    """Both models on those of the judged rows that the other one has scored, too: over all, and part by part."""
    both_N = judged_N & is_ok_N
    one, other = rows.outcomes.where(both_N), others.where(both_N)
    parts = {"all": (np.zeros(len(one), np.int64), ["all"]), "decade": metrics.decades(one.true_age_N)}
    parts |= {key: (code_N[both_N], of) for key, (code_N, of) in rows.parts.items()}
    found = {key: metrics.compared(one, other, *part) for key, part in parts.items()}
    return {key: compared for key, compared in found.items() if compared}


def _who_is_judged(rows: Rows, in_split_N: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
    """The mask of judged rows, and counts, which add up: catalog = excluded + not scored + without label + judged."""
    can_compare_N = ~np.isnan(rows.outcomes.error_N) | (rows.outcomes.true_group_N >= 0)
    left_N, counts = in_split_N, {"num_catalog_rows": int(in_split_N.sum())}
    for name, keep_N in (
        ("num_excluded", ~rows.listed.is_excluded_N),
        ("num_not_scored", rows.said.is_ok_N),
        ("num_without_label", can_compare_N),
    ):
        counts[name] = int((left_N & ~keep_N).sum())
        left_N = left_N & keep_N
    return left_N, counts


def _baseline(rows: Rows, judged: Outcomes) -> tuple[Constant, dict[str, str]]:
    """The constant predictor of the train split's labels, where there are any, else of the judged rows themselves."""
    train = rows.outcomes.where(rows.is_in("train") & ~rows.listed.is_excluded_N)
    learnt = metrics.constant_predictor(train.true_age_N, train.true_group_N)
    own = metrics.constant_predictor(judged.true_age_N, judged.true_group_N)
    constant = Constant(
        age=own.age if learnt.age is None else learnt.age,
        group=own.group if learnt.group is None else learnt.group,
    )
    return constant, {
        "median_age": "judged rows" if learnt.age is None else "train",
        "majority_group": "judged rows" if learnt.group is None else "train",
    }


def _num_shared_units(outcomes: Outcomes) -> int | None:
    """Number of persons (units), where any has more than one picture."""
    num_units = len(np.unique(outcomes.unit_N))
    return num_units if num_units < len(outcomes) else None


def _why_nothing(result: SplitResult) -> str:
    m = result.metrics
    return (
        f"nothing to judge in {result.name}: of {m['num_catalog_rows']} rows {m['num_excluded']} are excluded by "
        f"findings, {m['num_not_scored']} were not scored and {m['num_without_label']} have no label to compare with"
    )


def _card_of_checkpoint(uri: str, digest: str | None) -> dict[str, Any]:
    """What a checkpoint says of its model. Raises ValueError where the predictions are not of this model."""
    checkpoint = checkpoints.read(uri)
    if checkpoint.digest != digest:
        raise ValueError(f"{uri}: its model is {checkpoint.digest}, the predictions are of model {digest}")
    return checkpoint.card()


def _group_counts(rows: Rows, names: list[str]) -> dict[str, list[int]]:
    """Faces of each group by split, with or without a prediction; none where there are no groups."""
    is_known_N = ~rows.listed.is_excluded_N & (rows.outcomes.true_group_N >= 0)
    counted = {}
    for split in (*schema.SPLITS, None):
        groups_N = rows.outcomes.true_group_N[is_known_N & rows.is_in(split)]
        if len(groups_N):
            counted[split or "unsplit"] = np.bincount(groups_N, minlength=len(names)).tolist()
    return counted


def _is_wrong(rows: Rows) -> np.ndarray:
    """Where a known group is not the predicted one, (N,)."""
    outcomes = rows.outcomes
    return (outcomes.true_group_N >= 0) & (outcomes.true_group_N != outcomes.predicted_group_N)


def _errors(rows: Rows) -> np.ndarray:
    """Positions of the faces of any split whose age or group is not quite the label's; the largest errors of the age
    first, then the wrong groups of which the model is surest."""
    compared_N, _ = _who_is_judged(rows, np.ones(len(rows.listed), bool))
    error_N = rows.outcomes.error_N
    index_E = np.flatnonzero(compared_N & ((np.abs(error_N) > 0) | _is_wrong(rows)))
    return index_E[np.lexsort((-np.nan_to_num(rows.probability_N[index_E]), -np.nan_to_num(np.abs(error_N[index_E]))))]


def _table_of_errors(rows: Rows, names: list[str], index_E: np.ndarray) -> pa.Table:
    """A row for each of these faces."""
    probability_E = rows.probability_N[index_E].astype(np.float64)
    ages, said = rows.outcomes.true_age_N[index_E], rows.outcomes.predicted_age_N[index_E]
    named = np.array([*names, None], dtype=object)  # the index -1 is None
    groups, said_groups = named[rows.outcomes.true_group_N[index_E]], named[rows.outcomes.predicted_group_N[index_E]]
    labels = [group if np.isnan(age) else f"{age:g}" for age, group in zip(ages, groups, strict=True)]
    predictions = [
        group if np.isnan(age) or np.isnan(label) else f"{age:.1f}"
        for label, age, group in zip(ages, said, said_groups, strict=True)
    ]
    return pa.table({
        "uri": rows.listed.places(index_E)["uri"],
        "split": pa.array(np.array([*schema.SPLITS, None], dtype=object)[rows.listed.split_N[index_E]], pa.string()),
        "label": pa.array(labels, pa.string()),
        "prediction": pa.array(predictions, pa.string()),
        "error": pa.array(np.round(rows.outcomes.error_N[index_E], 2), pa.float64(), from_pandas=True),
        "label_group": pa.array(groups, pa.string()),
        "predicted_group": pa.array(said_groups, pa.string()),
        "group_probability": pa.array(np.round(probability_E, 3), pa.float64(), from_pandas=True),
    })  # fmt: skip


def _galleries(
    catalog: str, settings: dict[str, Any], rows: Rows, central: str, names: list[str], center_crop: float
) -> list[Gallery]:
    """The worst faces of every split, that of the report first, and more of that one, as they look to the model."""
    splits = sorted((name or "unsplit" for name in rows.splits), key=lambda name: (name != central, name))
    chosen = [(kind, split, index) for split in splits for kind, index in _chosen(rows, split, names, split == central)]
    wanted = sorted({index for _, _, of_kind in chosen for index in of_kind})
    places = rows.listed.places(np.array(wanted))
    pictures = _pictures(catalog, places, center_crop, use_packed=bool(settings.get("pack")))
    shown = dict(zip(wanted, zip(places["uri"].to_pylist(), pictures, strict=True), strict=True))
    source = f"{settings.get('source')}/"
    return [
        Gallery(kind, split, [_shown_face(rows, index, names, source, *shown[index]) for index in of_kind])
        for kind, split, of_kind in chosen
    ]


def _chosen(rows: Rows, split: str, names: list[str], is_central: bool) -> list[tuple[str, list[int]]]:
    """Positions of the faces of each kind to show of a split; "wrong" stands in for "worst" where there are no ages."""
    judged_N, _ = _who_is_judged(rows, rows.is_in(None if split == "unsplit" else split))
    index_J, outcomes = np.flatnonzero(judged_N), rows.outcomes.where(judged_N)
    size_J = np.nan_to_num(np.abs(outcomes.error_N), nan=-1)
    is_wrong_J, confidence_J = _is_wrong(rows)[index_J], rows.probability_N[index_J]
    if not names:
        is_wrong_J, confidence_J = size_J > metrics.CS_YEARS, -rows.age_std_N[index_J]
    confidence_J = np.where(is_wrong_J & ~np.isnan(confidence_J), confidence_J, -np.inf)
    worst = [j for j in np.argsort(-size_J, kind="stable")[:NUM_SHOWN] if size_J[j] > 0]
    confident = [j for j in np.argsort(-confidence_J, kind="stable")[:NUM_SHOWN] if confidence_J[j] > -np.inf]
    chosen = {"worst": worst} if (size_J >= 0).any() else {"wrong": confident}
    if is_central:
        chosen |= {"confident": confident} if "worst" in chosen else {}
        chosen |= {"sample": list(np.random.default_rng(0).permutation(len(index_J))[:NUM_SHOWN])}
    return [(kind, [int(index_J[j]) for j in of_kind]) for kind, of_kind in chosen.items()]


def _pictures(catalog: str, rows: pa.Table, center_crop: float, use_packed: bool) -> list[str | None]:
    """A data URI for each row, or None where its face cannot be read any more."""
    order = np.lexsort((rows["row"].to_numpy(), rows["part"].to_numpy().astype(str)))
    found: list[str | None] = [None] * len(rows)
    with ThreadPoolExecutor(8) as pool:
        faces = catalogs.load_faces(catalog, rows.take(order), FACE_PIXELS, center_crop, use_packed, pool)
        for position, face in zip(order.tolist(), faces, strict=True):
            if isinstance(face, images.Face):
                jpeg = images.encode_jpeg(face.pixels, quality=85)
                found[position] = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
    return found


def _shown_face(rows: Rows, index: int, names: list[str], source: str, uri: str, picture: str | None) -> ShownFace:
    outcomes = rows.outcomes
    true_group, said_group = outcomes.true_group_N[index], outcomes.predicted_group_N[index]
    face = ShownFace(
        name=uri.removeprefix(source),
        picture=picture,
        true_age=_known(outcomes.true_age_N[index]),
        age=_known(outcomes.predicted_age_N[index]),
        age_std=_known(rows.age_std_N[index]),
        true_group=names[true_group] if true_group >= 0 else None,
        group=names[said_group] if said_group >= 0 else None,
        group_probability=_known(rows.probability_N[index]),
    )
    return replace(face, name=face.name if len(face.name) <= MAX_NAME else f"…{face.name[1 - MAX_NAME :]}")


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
