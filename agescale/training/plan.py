"""What a training run is, worked out and checked before anything starts: images, labels, model, phases.

In: a TrainConfig. Out: a Plan, the rows of each split, and the model that training starts from. Every mistake in the
settings is a ValueError here, in one line, before any cluster time is spent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from agescale.ages.groups import AgeGroups
from agescale.ages.labels import is_exact
from agescale.ages.parts import crossed
from agescale.config import EXECUTION_FIELDS, TrainConfig
from agescale.faces.geometry import FaceGeometry
from agescale.models import checkpoints
from agescale.models.age_model import AgeModel, build_spec_task, describe_blocks
from agescale.models.checkpoints import Provenance, Settings
from agescale.models.spec import ModelSpec, auxiliary_classes
from agescale.models.tasks import Task
from agescale.runtime.versions import installed_versions
from agescale.store import objects, parquet, paths
from agescale.store.errors import Damaged
from agescale.store.outputs import Output
from agescale.tables import catalogs, filters
from agescale.tables.catalogs import Catalog
from agescale.tables.predictions import Predictions
from agescale.training import calibration, finetuning, selection, weighting
from agescale.training.cells import Cells, cells_of, kinds_of
from agescale.training.initial_weights import initial_model, is_checkpoint, stored_at

IMAGES_NAME = "images.parquet"
"""Beside run.json and sweep.json: the images that a run, or all trainings of a sweep, learn from and are judged by."""
BEGUN_NAMES = ("run.json", "sweep.json")
LEARNED_COLUMNS = ["uri", "version", "split", "age_low", "age_high", "group", "gender", "ethnicity", "subject"]
"""Of catalogs, where nothing else is asked for: 10,000,000 rows have to fit into memory."""


class TaskSettings(TypedDict, total=False):
    """What a task's loss is told beyond the model's spec."""

    label_smoothing: float
    rank_weights: tuple[float, ...]


class Identity(TypedDict):
    """run.json: what a run is, whatever it is called and wherever it runs."""

    settings: Settings
    data: str  # names the images and labels


@dataclass(frozen=True)
class Plan:
    """All that is decided before the first process starts, and what each worker is given."""

    config: TrainConfig
    out: str
    spec: ModelSpec
    phases: tuple[finetuning.Phase, ...]
    task_settings: TaskSettings
    provenance: Provenance
    metric: str
    loaded: str  # what the initial weights lack and have too much, in words
    cells: Cells  # of the validation images

    def build_task(self) -> Task:
        return build_spec_task(self.spec, **self.task_settings)


@dataclass(frozen=True)
class Selected:
    """The images of a run and what names it: ``run`` is what run.json holds, ``catalog`` of a row the place of its own
    among ``catalogs``."""

    rows: pa.Table
    age_groups: AgeGroups
    run: Identity
    catalogs: tuple[Catalog, ...]

    @property
    def places(self) -> dict[str, str]:
        """The folders that are only read, for ``Output.check``."""
        return {uri: what for catalog in self.catalogs for uri, what in catalog.places.items()}


def select(config: TrainConfig, begun: str = "", known: Selected | None = None) -> Selected:
    """The rows that a run learns from and is validated on, after everything that selects and changes them.

    Where ``begun`` stands, the run.json or sweep.json beside which ``pin_images`` kept them, they are what it began
    with, whatever the catalog has become since. ``known`` are those of another run that differs in nothing of this.
    """
    if known is not None:
        return replace(known, run={"settings": _identity(config), "data": known.run["data"]})
    opened = tuple(map(Catalog.open, config.catalog))
    ids = [catalog.id for catalog in opened]
    for index, catalog in enumerate(opened):
        if catalog.id in ids[:index]:
            raise ValueError(f"--catalog: {config.catalog[ids.index(catalog.id)]} and {catalog.uri} are the same one")
    rows = pinned_images(begun, ids) if begun and objects.exists(begun) else None
    if rows is not None:
        said = rows.schema.metadata.get(b"age_groups")
        age_groups = AgeGroups.parse(said.decode()) if said else _age_groups(config, opened)
    else:
        for catalog in opened:
            catalog.check_complete()
        age_groups = _age_groups(config, opened)
        rows = _rows(config, opened, age_groups)
        origin = {"catalog_ids": json.dumps(ids), "parts": json.dumps([catalog.names for catalog in opened])}
        rows = rows.replace_schema_metadata({**origin, "age_groups": age_groups.format()})
    return Selected(rows, age_groups, {"settings": _identity(config), "data": selection.fingerprint(rows)}, opened)


def output(begun: str, owner: str) -> Output:
    """The folder of ``begun``, the run.json or sweep.json of ``owner``, which may not stand yet."""
    folder, _, own_name = begun.rpartition("/")

    def find_stranger(name: str) -> str | None:
        if objects.exists(begun):
            return None
        of_others = [other for other in BEGUN_NAMES if other != own_name and objects.exists(paths.join(folder, other))]
        return next(iter(of_others), None if _has_pinned_images(folder) else name)

    return Output(folder, owner, find_stranger)


def _has_pinned_images(folder: str) -> bool:
    """Whether a run or a sweep that was killed at its beginning has left its first file there."""
    uri = paths.join(folder, IMAGES_NAME)
    try:
        return objects.exists(uri) and b"catalog_ids" in (parquet.read_schema(uri).metadata or {})
    except ValueError:
        return False


def pin_images(folder: str, selected: Selected) -> None:
    """Keeps the images of a run, or of a sweep, that begins in ``folder``, with their labels, their places in the
    catalogs and the age groups: it goes on with them when a catalog has grown, or its labels or groups are others."""
    parquet.write_table(paths.join(folder, IMAGES_NAME), selected.rows)


def pinned_images(begun: str, catalog_ids: list[str]) -> pa.Table | None:
    """What ``pin_images`` kept beside ``begun``, or None. Raises ValueError where it is of no use."""
    folder = begun.rpartition("/")[0]
    uri = paths.join(folder, IMAGES_NAME)
    if not objects.exists(uri):
        return None
    try:
        rows = parquet.read_table(uri)
        said = rows.schema.metadata or {}
        born = None if b"catalog_id" in said else json.loads(said[b"catalog_ids"])
    except (Damaged, KeyError, ValueError) as error:
        hint = "delete it: the images are then chosen from the catalog once more"
        raise ValueError(f"{uri}: damaged, no table of a run's images; {hint}") from error
    if born is None:
        raise ValueError(f"{folder}: begun by an older agescale, which this one cannot go on with; give another --out")
    if born != catalog_ids:
        raise ValueError(
            f"{folder}: --catalog is not the one that it began with, or was built anew; give another --out"
        )
    return rows if "subject" in rows.column_names else rows.append_column("subject", pa.nulls(len(rows), pa.string()))


def build_plan(
    config: TrainConfig, selected: Selected, begins: bool = True
) -> tuple[Plan, dict[str, pa.Table], AgeModel]:
    """The plan, the rows of train and val with labels as numbers, and the model that training starts from; a run that
    has begun already needs no initial weights."""
    spec = _spec(config, selected.age_groups, selected.rows)
    if config.faces != "none":
        spec = replace(spec, faces=replace(_geometry(config, begins), size=config.image_size))
    phases = finetuning.parse_phases(config.phases)
    if config.epochs is not None:
        phases = finetuning.cap_epochs(phases, config.epochs)
    splits, cells = _splits(config, selected.rows, spec, selected.age_groups)
    task_settings = _task_settings(config, splits["train"])
    metric = _check_labels(build_spec_task(spec, **task_settings), splits)
    model, loaded = initial_model(config, spec, phases, loads_weights=begins)
    if config.batch_size < config.worker_range[1]:
        raise ValueError(
            f"--batch-size {config.batch_size} is less than an image for each of {config.num_workers} workers"
        )
    plan = Plan(
        config=config,
        out=config.out,
        spec=spec,
        phases=phases,
        task_settings=task_settings,
        provenance=_provenance(config, selected.run, splits, model),
        metric=metric,
        cells=cells,
        loaded=loaded,
    )
    return plan, splits, model


def _identity(config: TrainConfig) -> Settings:
    values = {name: value for name, value in asdict(config).items() if name not in EXECUTION_FIELDS}
    return dict(json.loads(json.dumps(values)))


def _age_groups(config: TrainConfig, opened: Sequence[Catalog]) -> AgeGroups:
    if config.age_groups:
        return AgeGroups.parse(config.age_groups)
    said = {catalog.uri: catalog.age_groups.format() for catalog in opened if catalog.age_groups}
    if config.task == "reconstruction":
        return AgeGroups.parse(next(iter(said.values()), "25-years"))  # never asked for
    for catalog in opened:
        if catalog.uri not in said:
            hint = "training needs labels (--layout of jobs/catalog.py)"
            raise ValueError(f"{catalog.uri}: an unlabelled catalog; {hint}")
    if len(set(said.values())) > 1:
        words = "; ".join(f"{uri} has {groups}" for uri, groups in said.items())
        raise ValueError(f"--catalog: their age groups are not the same ({words}); give --age-groups")
    return AgeGroups.parse(said[opened[0].uri])


def _rows(config: TrainConfig, opened: Sequence[Catalog], age_groups: AgeGroups) -> pa.Table:
    """What the run learns from and is validated on: the catalogs' rows, after everything that selects and changes."""
    choose = selection.usable_rows if config.task == "reconstruction" else selection.labelled_rows
    has_choice = bool(config.coarse_labels or config.where or config.max_images is not None)
    columns = selection.LABEL_COLUMNS if has_choice else LEARNED_COLUMNS
    columns = [*dict.fromkeys([*columns, *_box_columns(config, opened)])]
    key = ["content_hash"] if len(opened) > 1 and "content_hash" not in columns else []
    tables = [choose(catalog, [*columns, *key], config.leave_out) for catalog in opened]
    if len(opened) > 1:
        are_taken = selection.taken_once(opened, tables)
        tables = [
            rows.drop_columns(key).filter(pa.array(is_taken)) for rows, is_taken in zip(tables, are_taken, strict=True)
        ]
        if num_again := sum(int((~is_taken).sum()) for is_taken in are_taken):
            reason = "tests or validates with them, or one before has them"
            print(f"{num_again:,} images are left out, because another of the catalogs {reason}", flush=True)
    for number, rows in enumerate(tables):
        tables[number] = rows.append_column("catalog", pa.array(np.full(len(rows), number, np.int16)))
    rows = pa.concat_tables(tables)
    if config.gender_from:
        files = Predictions.open(config.gender_from).files
        predictions = parquet.read_tables(files, ["uri", "version", "gender"])
        rows = selection.in_catalog_order(selection.fill_gender(rows, predictions))
    if not has_choice:
        return rows
    train, val = (rows.filter(pc.equal(rows["split"], split)) for split in ("train", "val"))
    if config.coarse_labels:
        train = selection.coarsen_labels(train, config.coarse_labels, age_groups)
    if config.where:
        train, val = (filters.filter_rows(part, config.where) for part in (train, val))
    if config.max_images is not None:
        train, val = (selection.limit_rows(part, config.max_images) for part in (train, val))
    return selection.in_catalog_order(pa.concat_tables([train, val]))


def _box_columns(config: TrainConfig, opened: Sequence[Catalog]) -> list[str]:
    """What a catalog tells of single faces by their boxes is read where any does. Raises ValueError where it is of no
    use."""
    boxed = next((catalog for catalog in opened if catalog.has_boxes), None)
    if boxed is None:
        return []
    if config.faces == "none":
        raise ValueError(f"{boxed.uri}: its labels are of faces, by their boxes (--box-columns); give --faces largest")
    if config.gender_from:
        raise ValueError(f"--gender-from: {boxed.uri} has labels of several faces a photo, and takes none")
    return ["boxes", "width", "height"]


def _spec(config: TrainConfig, age_groups: AgeGroups, rows: pa.Table) -> ModelSpec:
    train = rows.filter(pc.equal(rows["split"], "train"))
    for column in config.auxiliary:
        _check_words(config, train, column)
    classes = {column: tuple(sorted(pc.unique(train[column]).drop_null().to_pylist())) for column in config.auxiliary}
    for column, names in classes.items():
        if len(names) < 2:
            raise ValueError(f"--auxiliary {column}: the images have {len(names)} kinds of {column}, at least 2 needed")
    if config.faces != "none" and config.center_crop != 1:
        raise ValueError(f"--center-crop {config.center_crop:g} and --faces {config.faces} are two ways; give one")
    if classes and config.task == "reconstruction":
        raise ValueError("--auxiliary: reconstruction has a decoder and no further heads")
    return ModelSpec(
        encoder=config.encoder,
        task=config.task,
        loss=config.loss,
        age_groups=age_groups.format(),
        image_size=config.image_size,
        widths=config.widths,
        num_features=config.num_features,
        spatial_dropout=config.spatial_dropout,
        head_sizes=config.head_sizes,
        dropout=config.dropout,
        genders=classes.get("gender", ()),
        ethnicities=classes.get("ethnicity", ()),
        center_crop=config.center_crop,
    )


def _check_words(config: TrainConfig, rows: pa.Table, column: str) -> None:
    """Raises ValueError where the catalogs do not name the same classes: none's words are all that there are."""
    told = rows.select(["catalog", column]).drop_null().group_by(["catalog", column]).aggregate([])
    words: dict[int, set[str]] = {}
    for number, word in zip(*(told[name].to_pylist() for name in ("catalog", column)), strict=True):
        words.setdefault(number, set()).add(word)
    if words and set().union(*words.values()) not in words.values():
        said = "; ".join(f"{config.catalog[number]} says {sorted(words[number])}" for number in sorted(words))
        raise ValueError(f"--auxiliary {column}: the catalogs have different words for it ({said})")


def _geometry(config: TrainConfig, begins: bool) -> FaceGeometry:
    """How faces are found: as by the model that is trained further, so that it sees what it knows, else our way."""
    before = config.weights if begins else paths.join(config.out, "last")
    known = checkpoints.read(stored_at(before)).spec.faces if is_checkpoint(before) else None
    return known or FaceGeometry()


def _splits(
    config: TrainConfig, rows: pa.Table, spec: ModelSpec, age_groups: AgeGroups
) -> tuple[dict[str, pa.Table], Cells]:
    """The rows of train and val with labels as numbers: ``group`` and auxiliary classes as indices, -1 where unknown,
    ``weight``, how much each image counts, ``is_counted``, for the intervals, and ``cell``."""
    cell_N, cells = cells_of(rows.filter(pc.equal(rows["split"], "val")), age_groups, config.worst_of)
    learned = rows if config.refit else rows.filter(pc.equal(rows["split"], "train"))
    _check_catalogs(config, learned)
    weight_N = _weights(config, learned, age_groups)
    labels = {"group": catalogs.group_indices(rows, age_groups)}
    names = [name for name in LEARNED_COLUMNS if name != "version"]
    rows = rows.select([*names, *({"box"} & set(rows.column_names)), "catalog", "part", "row"])
    classes = auxiliary_classes(spec)
    for column in ("gender", "ethnicity"):
        indices = pc.index_in(rows[column], pa.array(classes.get(column, ()), pa.string()))
        labels[column] = pc.fill_null(indices, -1).to_numpy().astype(np.int64)
    for name, values in labels.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array(values))
    splits = {name: rows.filter(pc.equal(rows["split"], name)) for name in ("train", "val")}
    if config.refit:
        splits["train"] = rows
    for name, split in splits.items():
        weight = weight_N if name == "train" else np.ones(len(split), np.float32)
        is_counted = calibration.counted(split) if name == "val" else np.zeros(len(split), bool)
        cell = cell_N if name == "val" else np.zeros(len(split), np.int64)
        for column, values in (("weight", weight), ("is_counted", is_counted), ("cell", cell)):
            split = split.append_column(column, pa.array(values))
        splits[name] = split.drop_columns(["subject"])
    return splits, cells


def _check_catalogs(config: TrainConfig, train: pa.Table) -> None:
    """Raises ValueError where nothing is learned from one of several catalogs."""
    counts = np.bincount(train["catalog"].to_numpy(), minlength=len(config.catalog))
    if len(train) and not counts.all():
        uri = config.catalog[int(np.argmin(counts))]
        raise ValueError(f"{uri}: no usable labelled image is left of its train split; see its findings, and --where")


def _weights(config: TrainConfig, rows: pa.Table, age_groups: AgeGroups) -> np.ndarray:
    """How much each training image counts (N,): by its label, and such that each catalog has its share of the sum."""
    weight_N = _label_weights(config, rows, age_groups)
    return weighting.mixed(weight_N, rows["catalog"].to_numpy(), config.mix) if config.mix else weight_N


def _label_weights(config: TrainConfig, rows: pa.Table, age_groups: AgeGroups) -> np.ndarray:
    if config.weighting == "classes":
        return weighting.class_weights(catalogs.group_indices(rows, age_groups), len(age_groups))
    if config.weighting == "density":
        return weighting.label_density_weights(rows["age_low"].to_numpy(), rows["age_high"].to_numpy())
    if config.weighting == "gender+decade":
        part_N = crossed(kinds_of(rows, age_groups), config.weighting)[0]
        if len(rows) and part_N.max() < 0:
            raise ValueError(f"--weighting {config.weighting}: no training image has both a gender and an exact age")
        return weighting.part_weights(part_N)
    return np.ones(len(rows), np.float32)


def _task_settings(config: TrainConfig, rows: pa.Table) -> TaskSettings:
    settings: TaskSettings = {}
    if config.label_smoothing:
        settings["label_smoothing"] = config.label_smoothing
    if config.weighting == "ranks" and config.task != "ordinal":
        raise ValueError("--weighting ranks weighs the thresholds of --task ordinal; others weigh images")
    if config.weighting == "ranks":
        settings["rank_weights"] = weighting.rank_weights(rows["age_low"].to_numpy(), rows["age_high"].to_numpy())
    if config.mixup and config.task == "reconstruction":
        raise ValueError("--mixup blends labels, and reconstruction has none")
    return settings


def _check_labels(task: Task, splits: Mapping[str, pa.Table]) -> str:
    """The validation metric to watch. Raises ValueError where a split is empty or its labels cannot be used."""
    counts = {}
    for name, rows in splits.items():
        if len(rows) == 0:
            raise ValueError(f"the catalog has no usable labelled image in its {name} split; see its findings")
        counts[name] = _label_counts(rows)
        task.check_labels(*counts[name])
    num_exact, _, num_group, _ = counts["val"]
    is_known = num_exact if task.metric == "mae" else num_group
    return task.metric if is_known else "loss"


def _label_counts(rows: pa.Table) -> tuple[int, int, int, int]:
    """Images with an exact age, with a wider range, in one of the groups (counted again), and without any label."""
    low_N, high_N = rows["age_low"].to_numpy(), rows["age_high"].to_numpy()
    is_aged_N, is_exact_N = ~np.isnan(high_N - low_N), is_exact(low_N, high_N)
    is_grouped_N = rows["group"].to_numpy() >= 0
    counts = (is_exact_N, is_aged_N & ~is_exact_N, is_grouped_N, ~is_aged_N & ~is_grouped_N)
    return int(counts[0].sum()), int(counts[1].sum()), int(counts[2].sum()), int(counts[3].sum())


def _provenance(config: TrainConfig, run: Identity, splits: Mapping[str, pa.Table], model: AgeModel) -> Provenance:
    return {
        "settings": run["settings"],
        "data": run["data"],
        "num_images": {name: len(rows) for name, rows in splits.items()},
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "blocks": describe_blocks(model),
        "initial_weights": {
            "source": config.weights or "random",
            "sha256": config.weights_sha256 or None,
            "license": config.weights_license or None,
        },
        "data_license": config.data_license or None,
        "versions": installed_versions(),
    }
