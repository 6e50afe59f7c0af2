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
import pyarrow.compute as pc

from agescale import catalogs, checkpoints, images, metrics, report, schema, selection, storage, tables, units
from agescale.age_groups import AgeGroups
from agescale.config import EvaluateConfig, parse_names
from agescale.labels import EXACT_YEARS
from agescale.metrics import Constant, Outcomes
from agescale.report import Gallery, Judgement, ShownFace, SplitResult
from agescale.tasks import TASKS

CATALOG_COLUMNS = ("uri", "version", "age_low", "age_high", "group", "subject", "gender", "ethnicity", "split")
PREDICTION_COLUMNS = (
    "uri", "version", "face", "status", "age", "age_std", "group", "group_probability", "gender", "ethnicity"
)  # fmt: skip
PARTS = ("gender", "ethnicity")
NUM_SHOWN = 12
FACE_PIXELS = 112
MAX_NAME = 80
NOT_PREDICTED = "no prediction"


@dataclass(frozen=True)
class Rows:
    """All current rows of the catalog in the order of their URIs, with what was predicted of each; arrays (N,)."""

    table: pa.Table  # uri, part, row
    outcomes: Outcomes
    split_N: np.ndarray  # names, or None
    status_N: np.ndarray  # of the prediction, or NOT_PREDICTED
    is_excluded_N: np.ndarray
    age_std_N: np.ndarray  # and
    probability_N: np.ndarray  # of the predicted group: NaN also where a model does not learn how sure it is
    parts: dict[str, tuple[np.ndarray, list[str]]]  # of PARTS: index into the names, -1 = unknown
    heads: dict[str, tuple[np.ndarray, np.ndarray]]  # labels and what an auxiliary head says, as indices, -1 = nothing


@dataclass(frozen=True)
class Evaluated:
    """Where the report is, and what of it is worth a line."""

    page: str  # URI
    notes: list[str]


def evaluate(config: EvaluateConfig) -> Evaluated:
    """Writes the report. Raises ValueError, before anything is written, where there is nothing to judge."""
    config = replace(
        config,
        catalog=storage.absolute(config.catalog),
        predictions=storage.absolute(config.predictions),
        against=config.against and storage.absolute(config.against),
        gender_from=config.gender_from and storage.absolute(config.gender_from),
        checkpoint=config.checkpoint and storage.absolute(config.checkpoint),
        out=storage.absolute(config.out),
    )
    settings = catalogs.settings(config.catalog)
    report.claim(config.out, _occupied(config, str(settings.get("source") or "")))
    catalogs.check_complete(config.catalog)
    metadata = units.read_metadata(units.prediction_files(config.predictions)[0])
    groups = _groups(config, config.predictions, metadata)
    names = list(groups.names) if groups else []
    predictions = read_predictions(config.predictions, groups)[0]
    catalog = _read_catalog(config)
    if pc.all(pc.and_(pc.is_null(catalog["age_low"]), pc.is_null(catalog["group"]))).as_py():
        raise ValueError(
            f"{config.catalog}: none of its images has a label to judge by; name a catalog of labelled ones"
        )
    card = metadata.get("model_card") or {}
    if config.checkpoint:
        card = card | _card_of_checkpoint(config.checkpoint, metadata["run"]["model"])
    rows = _join(config, catalog, predictions, groups)
    if card.get("task") in TASKS and not TASKS[card["task"]].learns_spread:
        unknown_N = np.full(len(rows.table), np.nan)
        rows = replace(rows, age_std_N=unknown_N, probability_N=unknown_N)
    splits = _splits(config.split, rows)
    findings = _findings_by_split(config.catalog, rows)
    others = _others(config, catalog, groups)
    results = [_judge(name, rows, names, findings.get(name, {}), others) for name in splits]
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
    there = [name for name in (*schema.SPLITS, None) if (rows.split_N == name).any()]
    about["unscored_splits"] = [
        name for name in there if name and not (rows.status_N[rows.split_N == name] == "ok").any()
    ]
    ordered = [central, *(result for result in results if result is not central)]
    judged = Judgement(
        about=about,
        card=card,
        group_names=names,
        results=ordered,
        galleries=_galleries(
            config.catalog, settings, rows, central.name, names, float(card.get("center_crop") or 1.0)
        ),
        group_counts=_group_counts(rows, names),
        errors=_errors(rows, names),
    )
    page = report.write_report(config.out, judged)
    return Evaluated(page, _notes(about))


def _occupied(config: EvaluateConfig, source: str) -> dict[str, str]:
    """What stands where, so that the report does not: URIs of folders and what is there."""
    places = {
        config.catalog: "the catalog",
        tables.beside(config.catalog): "what belongs to the catalog",
        config.predictions: "the table of predictions",
        tables.beside(config.predictions): "what belongs to the predictions",
        config.against: "the other table of predictions",
        config.gender_from: "the table of predictions of the gender",
        config.checkpoint or "": "the checkpoint",
        source: "the folder of the photos",
    }
    if f"{config.catalog}/".startswith(f"{source}/"):
        del places[source]  # whoever keeps the catalog there may keep the report there too
    return {uri: what for uri, what in places.items() if uri}


def _notes(about: dict[str, Any]) -> list[str]:
    judged, own = about["age_groups"], about["model_age_groups"]
    return [] if judged == own else [f'age groups: {judged} (the model\'s own: --age-groups "{own}")']


def read_predictions(uri: str, groups: AgeGroups | None = None) -> tuple[pa.Table, dict[str, Any]]:
    """The first face of every scored image, and the metadata of the files, which must all be of one model.

    Its group is one of ``groups`` where these are given and derive from what it says, else one of the model's.
    """
    files = units.prediction_files(uri)
    metadata = [units.read_metadata(file) for file in files]
    if len(models := {found["run"]["model"] for found in metadata}) > 1:
        raise ValueError(f"{uri}: predictions of {len(models)} models stand there; score each into a folder of its own")
    if groups is None or groups == _own_groups(metadata[0]) or not units.says_ages(metadata[0]):
        table = storage.read_tables(files, PREDICTION_COLUMNS)
    else:  # file by file, because distributions are large
        columns = [*PREDICTION_COLUMNS, "age_cdf"]
        parts = (tables.regrouped(storage.read_table(file, columns), groups) for file in files)
        table = pa.concat_tables([part.drop_columns(["age_cdf"]) for part in parts])
    table = table.filter(pc.equal(table["face"], 0)).drop_columns(["face"])
    return _one_each(table), metadata[0]


def _one_each(table: pa.Table) -> pa.Table:
    """One row for each image and version, an "ok" one where there is any: one model says the same of it every time."""
    table = table.append_column("is_bad", pc.not_equal(table["status"], "ok")).sort_by("is_bad")
    table = table.append_column("position", pa.array(np.arange(len(table))))
    first = table.group_by(["uri", "version"]).aggregate([("position", "min")])["position_min"]
    return table.take(first).drop_columns(["is_bad", "position"])


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


def _read_catalog(config: EvaluateConfig) -> pa.Table:
    """The current rows, with the gender that stands in, the labelled one beside it, and whether they are left out."""
    catalog = catalogs.read_catalog(config.catalog, CATALOG_COLUMNS)
    catalog = catalog.append_column("labelled_gender", catalog["gender"])
    if config.gender_from:
        catalog = selection.fill_gender(catalog, read_predictions(config.gender_from)[0])
    excluded = catalogs.excluded(config.catalog)["uri"] if not config.include_findings else pa.array([], pa.string())
    return catalog.append_column("is_excluded", pc.is_in(catalog["uri"], value_set=_flat(excluded)))


def _join(config: EvaluateConfig, catalog: pa.Table, predictions: pa.Table, groups: AgeGroups | None) -> Rows:
    renamed = predictions.rename_columns(
        [n if n in ("uri", "version") else f"said_{n}" for n in predictions.column_names]
    )
    table = catalog.join(renamed, keys=["uri", "version"], join_type="left outer").sort_by("uri").combine_chunks()
    if pc.all(pc.is_null(table["said_status"])).as_py():
        raise ValueError(f"{config.predictions}: none of these predictions is of an image of {config.catalog}")
    is_ok_N = pc.fill_null(pc.equal(table["said_status"], "ok"), False).to_numpy()
    low_N, high_N = _floats(table["age_low"]), _floats(table["age_high"])
    names = list(groups.names) if groups else []
    outcomes = Outcomes(
        true_age_N=np.where(high_N - low_N <= EXACT_YEARS, low_N, np.nan),
        predicted_age_N=np.where(is_ok_N, _floats(table["said_age"]), np.nan),
        true_group_N=catalogs.group_indices(table, groups) if groups else np.full(len(table), -1),
        predicted_group_N=np.where(is_ok_N, _codes(table["said_group"], names), -1),
        unit_N=metrics.units_of_subjects(_codes(table["subject"], _values(table["subject"]))),
        num_groups=len(names),
    )
    parts = {key: (_codes(table[key], _values(table[key])), _values(table[key])) for key in PARTS}
    return Rows(
        table=table.select(["uri", "part", "row"]),
        outcomes=outcomes,
        split_N=_objects(table["split"]),
        status_N=_objects(pc.fill_null(table["said_status"], NOT_PREDICTED)),
        is_excluded_N=table["is_excluded"].to_numpy(),
        age_std_N=_floats(table["said_age_std"]),
        probability_N=_floats(table["said_group_probability"]),
        parts=parts,
        heads={
            key: _codes_alike(table[label], table[f"said_{key}"])
            for key, label in (("gender", "labelled_gender"), ("ethnicity", "ethnicity"))
        },
    )


def _others(config: EvaluateConfig, catalog: pa.Table, groups: AgeGroups | None) -> Rows | None:
    """What ``config.against`` says of the same rows, in the same ``groups`` where it can be told in them; of other ones
    it says nothing that could be compared."""
    if not config.against:
        return None
    metadata = units.read_metadata(units.prediction_files(config.against)[0])
    own = _own_groups(metadata)
    view = groups if own and groups and groups.is_bounded and units.says_ages(metadata) else own
    predictions = read_predictions(config.against, view)[0]
    others = _join(replace(config, predictions=config.against), catalog, predictions, view)
    if view != groups:
        unknown_N = np.full(len(others.table), -1)
        others = replace(others, outcomes=replace(others.outcomes, true_group_N=unknown_N))
    return others


def _splits(text: str, rows: Rows) -> list[str | None]:
    """The asked splits that the catalog has, else the only one that there is."""
    asked = parse_names(text)
    if unknown := [name for name in asked if name not in schema.SPLITS]:
        raise ValueError(f"--split {text}: {', '.join(unknown)} is none of {', '.join(schema.SPLITS)}")
    there = [name for name in (*schema.SPLITS, None) if (rows.split_N == name).any()]
    found: list[str | None] = [name for name in asked if name in there]
    if not found and len(there) != 1:
        has = ", ".join(name or "rows without a split" for name in there) or "no rows"
        raise ValueError(f"--split {text}: the catalog has {has}")
    return found or list(there)


def _judge(
    split: str | None, rows: Rows, names: list[str], findings: dict[str, int], others: Rows | None
) -> SplitResult:
    in_split_N = rows.split_N == split
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
    comparisons = _compared(rows, others, judged_N) if others else {}
    if comparisons:
        summary["against"] = comparisons["all"][0]
    for name, source in sources.items():
        summary["baselines"][name]["labels_of"] = source
    skipped_N = in_split_N & ~rows.is_excluded_N & (rows.status_N != "ok")
    statuses, numbers = np.unique(rows.status_N[skipped_N].astype(str), return_counts=True)
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
        not_scored=dict(zip(statuses.tolist(), numbers.tolist(), strict=True)),
        findings=findings,
    )


def _compared(rows: Rows, others: Rows, judged_N: np.ndarray) -> dict[str, list[dict[str, Any]]]:
    """Both models on those of the judged rows that the other one has scored, too: over all, and part by part."""
    both_N = judged_N & (others.status_N == "ok")
    one, other = rows.outcomes.where(both_N), others.outcomes.where(both_N)
    parts = {"all": (np.zeros(len(one), np.int64), ["all"]), "decade": metrics.decades(one.true_age_N)}
    parts |= {key: (code_N[both_N], of) for key, (code_N, of) in rows.parts.items()}
    found = {key: metrics.compared(one, other, *part) for key, part in parts.items()}
    return {key: compared for key, compared in found.items() if compared}


def _who_is_judged(rows: Rows, in_split_N: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
    """The mask of judged rows, and counts, which add up: catalog = excluded + not scored + without label + judged."""
    can_compare_N = ~np.isnan(rows.outcomes.error_N) | (rows.outcomes.true_group_N >= 0)
    left_N, counts = in_split_N, {"num_catalog_rows": int(in_split_N.sum())}
    for name, keep_N in (
        ("num_excluded", ~rows.is_excluded_N),
        ("num_not_scored", rows.status_N == "ok"),
        ("num_without_label", can_compare_N),
    ):
        counts[name] = int((left_N & ~keep_N).sum())
        left_N = left_N & keep_N
    return left_N, counts


def _baseline(rows: Rows, judged: Outcomes) -> tuple[Constant, dict[str, str]]:
    """The constant predictor of the train split's labels, where there are any, else of the judged rows themselves."""
    train = rows.outcomes.where((rows.split_N == "train") & ~rows.is_excluded_N)
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


def _findings_by_split(catalog: str, rows: Rows) -> dict[str | None, dict[str, int]]:
    """Number of current rows by split and kind of finding. Files that are missing have no row, hence no split."""
    findings = catalogs.read_findings(catalog).select(["uri", "kind"])
    keyed = findings.group_by(["uri", "kind"]).aggregate([])
    place = pc.index_in(keyed["uri"], value_set=_flat(rows.table["uri"]))
    counts: dict[str | None, dict[str, int]] = {}
    for position, kind in zip(place.to_pylist(), keyed["kind"].to_pylist(), strict=True):
        if position is not None:
            of_split = counts.setdefault(rows.split_N[position], {})
            of_split[kind] = of_split.get(kind, 0) + 1
    return counts


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
    is_known_N = ~rows.is_excluded_N & (rows.outcomes.true_group_N >= 0)
    counted = {}
    for split in (*schema.SPLITS, None):
        groups_N = rows.outcomes.true_group_N[is_known_N & (rows.split_N == split)]
        if len(groups_N):
            counted[split or "unsplit"] = np.bincount(groups_N, minlength=len(names)).tolist()
    return counted


def _is_wrong(rows: Rows) -> np.ndarray:
    """Where a known group is not the predicted one, (N,)."""
    outcomes = rows.outcomes
    return (outcomes.true_group_N >= 0) & (outcomes.true_group_N != outcomes.predicted_group_N)


def _errors(rows: Rows, names: list[str]) -> pa.Table:
    """A row for each face of any split whose age or group is not quite the label's; the largest errors of the age
    first, then the wrong groups of which the model is surest."""
    compared_N, _ = _who_is_judged(rows, np.ones(len(rows.table), bool))
    error_N = np.where(compared_N, rows.outcomes.error_N, np.nan)
    index_E = np.flatnonzero(compared_N & ((np.abs(error_N) > 0) | _is_wrong(rows)))
    order_E = np.lexsort((-np.nan_to_num(rows.probability_N[index_E]), -np.nan_to_num(np.abs(error_N[index_E]))))
    index_E = index_E[order_E]
    ages, said = rows.outcomes.true_age_N[index_E], rows.outcomes.predicted_age_N[index_E]
    named = np.array([*names, None], dtype=object)  # the index -1 is None
    groups, said_groups = named[rows.outcomes.true_group_N[index_E]], named[rows.outcomes.predicted_group_N[index_E]]
    labels = [group if np.isnan(age) else f"{age:g}" for age, group in zip(ages, groups, strict=True)]
    predictions = [
        group if np.isnan(age) or np.isnan(label) else f"{age:.1f}"
        for label, age, group in zip(ages, said, said_groups, strict=True)
    ]
    return pa.table({
        "uri": rows.table["uri"].take(index_E),
        "split": pa.array(rows.split_N[index_E], pa.string()),
        "label": pa.array(labels, pa.string()),
        "prediction": pa.array(predictions, pa.string()),
        "error": pa.array(np.round(error_N[index_E], 2), pa.float64(), from_pandas=True),
        "label_group": pa.array(groups, pa.string()),
        "predicted_group": pa.array(said_groups, pa.string()),
        "group_probability": pa.array(np.round(rows.probability_N[index_E], 3), pa.float64(), from_pandas=True),
    })  # fmt: skip


def _galleries(
    catalog: str, settings: dict[str, Any], rows: Rows, central: str, names: list[str], center_crop: float
) -> list[Gallery]:
    """The worst faces of every split, that of the report first, and more of that one, as they look to the model."""
    splits = sorted({name or "unsplit" for name in rows.split_N.tolist()}, key=lambda name: (name != central, name))
    chosen = [(kind, split, index) for split in splits for kind, index in _chosen(rows, split, names, split == central)]
    wanted = sorted({index for _, _, of_kind in chosen for index in of_kind})
    pictures = _pictures(catalog, rows.table.take(wanted), center_crop, use_packed=bool(settings.get("pack")))
    picture = dict(zip(wanted, pictures, strict=True))
    source = f"{settings.get('source')}/"
    return [
        Gallery(kind, split, [_shown_face(rows, index, names, source, picture[index]) for index in of_kind])
        for kind, split, of_kind in chosen
    ]


def _chosen(rows: Rows, split: str, names: list[str], is_central: bool) -> list[tuple[str, list[int]]]:
    """Positions of the faces of each kind to show of a split; "wrong" stands in for "worst" where there are no ages."""
    judged_N, _ = _who_is_judged(rows, rows.split_N == (None if split == "unsplit" else split))
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
    order = np.lexsort((rows["row"].to_numpy(), _objects(rows["part"]).astype(str)))
    found: list[str | None] = [None] * len(rows)
    with ThreadPoolExecutor(8) as pool:
        faces = catalogs.load_faces(catalog, rows.take(order), FACE_PIXELS, center_crop, use_packed, pool)
        for position, face in zip(order.tolist(), faces, strict=True):
            if isinstance(face, images.Face):
                jpeg = images.encode_jpeg(face.pixels, quality=85)
                found[position] = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
    return found


def _shown_face(rows: Rows, index: int, names: list[str], source: str, picture: str | None) -> ShownFace:
    outcomes = rows.outcomes
    true_group, said_group = outcomes.true_group_N[index], outcomes.predicted_group_N[index]
    face = ShownFace(
        name=rows.table["uri"][index].as_py().removeprefix(source),
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


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _floats(column: pa.ChunkedArray) -> np.ndarray:
    return pc.cast(column, pa.float64()).to_numpy()


def _objects(column: pa.ChunkedArray) -> np.ndarray:
    return np.asarray(column.to_numpy(), dtype=object)


def _values(column: pa.ChunkedArray) -> list[str]:
    return sorted(value for value in pc.unique(column).to_pylist() if value is not None)


def _codes(column: pa.ChunkedArray, names: list[str]) -> np.ndarray:
    """Index into ``names`` of each value, -1 for null and for what is not there."""
    return pc.fill_null(pc.index_in(column, value_set=pa.array(names, pa.string())), -1).to_numpy().astype(np.int64)


def _codes_alike(one: pa.ChunkedArray, other: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the values of two columns into the names that either has."""
    names = sorted({*_values(one), *_values(other)})
    return _codes(one, names), _codes(other, names)
