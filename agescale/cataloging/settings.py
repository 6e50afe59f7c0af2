"""The settings of a catalog: checked, told from those that it was made with, and the labels that they read."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agescale.ages.groups import AgeGroups
from agescale.cataloging import changes, layouts
from agescale.cataloging.layouts import Label, Labels, LabelSource
from agescale.config import CatalogConfig
from agescale.faces import images
from agescale.store import members, paths
from agescale.store.listing import Listed
from agescale.store.outputs import check_unchanged
from agescale.tables import splits
from agescale.tables.catalogs import Catalog

if TYPE_CHECKING:
    from agescale.models.features import FeatureSource

DEFAULT_AGE_GROUPS = "25-years"


def fractions_of(config: CatalogConfig, labels: Labels) -> splits.Fractions | None:
    """Shares of the splits of images whose label tells none: of folders without a val, those in train."""
    train, val, test = config.split
    if config.split_column:
        return None
    if not labels.has_splits:
        return train, val, test
    return (train / (train + val), val / (train + val), 0.0) if train + val else (1.0, 0.0, 0.0)


def metadata_of(out: str, known: Catalog | None, settings: dict[str, Any]) -> dict[str, Any]:
    """What every part says. The identity, drawn when a catalog is born, tells it from a later one at the same path; a
    job that was killed before its first part may yet write one."""
    if known:
        return {"id": known.id, "settings": settings}
    begun = next(iter(changes.read_begun(out).values()), {"id": uuid.uuid4().hex})
    return {"id": begun["id"], "settings": settings}


def check(config: CatalogConfig) -> None:
    """The user's mistakes that can be seen before anything is listed."""
    if config.age_groups:
        AgeGroups.parse(config.age_groups)
    if config.box_columns:
        layouts.box_columns_of(config.box_columns)
    if 0 < config.pack < images.MIN_SIDE:
        raise ValueError(f"--pack {config.pack}: pixels of the shorter side, at least {images.MIN_SIDE}, or 0")


CSV_COLUMNS = [f"{name}_column" for name in ("image", "label", "age", "split", "gender", "ethnicity", "subject")]
CSV_COLUMNS += ["box_columns"]


def settings_of(config: CatalogConfig, age_groups: AgeGroups | None) -> dict[str, Any]:
    """What has to stay while a catalog grows; the metadata of its parts keep it."""
    return {
        "source": config.source,
        "layout": config.layout,
        "csv": config.csv,
        **{column: getattr(config, column) for column in CSV_COLUMNS},
        "box_format": config.box_format if config.box_columns else None,
        "split": ",".join(f"{share:g}" for share in config.split),
        "pack": config.pack,
        "faces": None if config.faces == "none" else config.faces,
        "suspects": source.digest if (source := feature_source(config)) else None,
        "inspect": config.inspect and config.layout == "unlabelled",
        "age_groups": age_groups.format() if age_groups else None,
    }


def feature_source(config: CatalogConfig) -> FeatureSource | None:
    """What makes the features by which labels are judged, or None where that is not asked for."""
    if not config.suspects:
        return None
    from agescale.models.features import FeatureSource  # torch takes seconds, which most catalogs need not

    return FeatureSource(config.faces)


LATER_SETTINGS = ("csv", *CSV_COLUMNS, "box_format", "age_groups", "faces", "suspects")
"""Settings that only say how labels are told, or what is kept beside the catalog: they may change like these."""


def check_settings(out: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises ValueError where a catalog of other settings stands there: other images, or less would be known of them,
    which is mostly a setting that was forgotten."""
    kept = {name: now[name] for name in now if name not in LATER_SETTINGS or (now[name] is None and before.get(name))}
    check_unchanged(out, "another catalog", before, kept)


def new_groups(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if before["age_groups"] == now["age_groups"]:
        return ""
    return f"{now['age_groups']} (they were {before['age_groups']})"


def age_groups_of(config: CatalogConfig, known: Catalog | None) -> AgeGroups | None:
    """The groups that were asked for, or that the catalog has already (class folders may have come since)."""
    if config.age_groups:
        return AgeGroups.parse(config.age_groups)
    return known.age_groups if known else None


def read_labels(
    config: CatalogConfig, pictures: list[Listed], others: frozenset[str], groups: AgeGroups | None
) -> Labels:
    label_source = LabelSource(
        age_groups=groups,
        root=config.source,
        other_files=others,
        records={item.relative: json.loads(item.record) for item in pictures if item.record},
        csv_bytes=members.read_bytes(config.csv) if config.csv else None,
        box_format=config.box_format,
        **{column: getattr(config, column) for column in CSV_COLUMNS},
    )
    labels = _labels_of(config, [item.relative for item in pictures], label_source)
    if labels.age_groups is None and config.layout != "unlabelled":
        labels = replace(labels, age_groups=AgeGroups.parse(DEFAULT_AGE_GROUPS))
    return labels


def _labels_of(config: CatalogConfig, relative: list[str], source: LabelSource) -> Labels:
    """What a layout tells of the paths ``relative``. It sees the members of archives as if they lay in their place."""
    if config.layout == "records":
        return layouts.records(relative, source)
    name_of = {path: paths.outside_archives(path) for path in relative}
    labels = layouts.LAYOUTS[config.layout](list(dict.fromkeys(name_of.values())), source)
    by_path = {path: labels.by_path[name] for path, name in name_of.items()}
    if config.layout == "csv":  # of the others the name is all that tells
        times = Counter(name_of.values())
        for path, name in name_of.items():
            if times[name] > 1:
                by_path[path] = Label(error=f"{times[name]} images of this name in several archives; which is meant?")
    return replace(labels, by_path=by_path)
