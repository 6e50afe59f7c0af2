"""Makes and grows a catalog: lists a source once, reads labelled images once, writes parts and findings.

A part stands whole or not at all, and rows that stand in a part are not listed again: that is all there is to restarts
and to growth. Where images are read, work is cut into parts of the listing; a Ray task reads the images of one and
writes it. Where they are only listed, a Ray task lists a range of names and writes part after part as they come, and
nobody holds more than some parts: labels and findings want the whole picture, a bucket to be scored need not fit in it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import math
import os
import threading
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from agescale import catalogs, changes, formats, images, layouts, quality, relabelling, schema, splits, tables
from agescale.age_groups import AgeGroups
from agescale.cluster import start_ray
from agescale.config import CatalogConfig
from agescale.data import decoder, run_units
from agescale.images import ImageError
from agescale.isolation import Decoder
from agescale.layouts import Label, Labels, LabelSource
from agescale.progress import ImageProgress
from agescale.relabelling import Relabelled
from agescale.store import lease, listing, objects, parquet, paths
from agescale.store.errors import Damaged, StoreError
from agescale.store.listing import Listed
from agescale.store.objects import read_pool
from agescale.store.outputs import check_unchanged

INSPECTED_PART_ROWS = 1024
"""Rows of a part whose images are read: some tens of MB where they are packed."""
LISTED_PART_ROWS = 100_000
"""Rows of a part whose images are only listed."""
SMALL_SOURCE_FILES = 10_000
"""So few are listed without Ray, which would take longer to start."""
RANGES_PER_CPU = 4
"""Ranges of names differ in size, and each that found something leaves a part."""
MAX_RANGES = 1000
MIN_PARTS = 8
"""So that a small catalog is read in parallel too."""

DECODING = threading.BoundedSemaphore(2)
"""Many threads read, two decode: a picture of 24 megapixels fills 72 MB."""

DEFAULT_AGE_GROUPS = "25-years"

MAX_UNREACHABLE = 64
"""Images in a row that the store did not deliver, each of them asked for over and over: the store is down."""
NUM_PROBES = 9
"""Images of the source that are tried, where others cannot be read."""
READ_AGAIN = ("missing", "changed", "forbidden", "unreachable")
"""What a store may have said of an image that it delivers now."""


@dataclass(frozen=True)
class CatalogResult:
    """What a run found: rows added by what they are, files that are no images, and the findings of all current rows.

    ``rows`` are the current rows' facts, where ``group`` is the age group; None where images are only listed.
    """

    num_new: int
    num_changed: int
    num_deleted: int
    num_current: int
    num_ignored: int
    findings: pa.Table
    rows: pa.Table | None = None
    group_names: tuple[str, ...] = ()
    unused_columns: tuple[str, ...] = ()  # settings for columns of the CSV that seem to be known, and were not named
    ignored: Mapping[str, int] = field(default_factory=dict)  # files that are no images, by the ends of their names
    relabelled: tuple[Relabelled, ...] = ()  # rows whose labels are other ones now
    new_groups: str = ""  # in words, where the age groups are other ones now


def build_catalog(config: CatalogConfig) -> CatalogResult:
    """Lists ``config.source`` and brings the catalog at ``config.out`` up to date with it."""
    source, out = paths.absolute(config.source), paths.absolute(config.out)
    _check(config)
    is_same = source == out or (not paths.is_remote(out) and os.path.realpath(source) == os.path.realpath(out))
    if is_same or source.startswith(f"{out}/"):
        there = "there are the photos themselves" if is_same else f"the photos ({source}) stand in it"
        raise ValueError(f"--out {out}: {there}; give another folder")
    if not _is_read(config):
        return _list_images(config, source, out)
    before = catalogs.list_parts(out)
    pictures, others = _list_pictures(source, out)
    tables.claim(out, "catalog")
    with lease.hold(out, tables.beside(out), config.lease) as held:
        if catalogs.list_parts(out) != before:  # by a job that may have listed the source later than this one
            pictures, others = _list_pictures(source, out)
        return _add_images(config, source, out, pictures, others, held)


def _list_pictures(source: str, out: str) -> tuple[list[Listed], frozenset[str]]:
    """The images of a source, and the names of its other files. Raises ValueError where it has no image."""
    listed = [
        item
        for item in listing.list_files(source)
        if not item.uri.startswith(f"{out}/") and not layouts.is_in_system_folder(item.relative)
    ]
    pictures = [item for item in listed if item.version and images.is_image_name(item.relative)]
    if not pictures:
        raise changes.no_images(source, len(listed))
    return pictures, frozenset(item.relative for item in listed) - {item.relative for item in pictures}


def _add_images(
    config: CatalogConfig, source: str, out: str, pictures: list[Listed], others: frozenset[str], held: lease.Lease
) -> CatalogResult:
    """Brings a catalog whose images are read up to date with the ``pictures`` of its source."""
    if config.repair:
        repair(out, held)
    _remove_late_parts(out)
    parts, known = catalogs.list_parts(out), _known_rows(out)
    groups = _age_groups(config, out if known is not None else None)
    labels = _labels(config, pictures, others, groups)
    settings = _settings(config, labels.age_groups)
    before = settings if known is None else catalogs.settings(out)
    _check_settings(out, before, settings)
    layouts.check_labelled(config.layout, labels)

    fractions = _fractions(config, labels)
    new, changed, gone, relabelled = _difference(known, pictures, labels, fractions)
    uris = (row["uri"] for row in gone)
    changes.check_deleted(source, out, uris, len(gone), len(known or ()), config.max_deleted_fraction)
    metadata = _metadata(out, settings)
    generation = changes.begin_listing(out, metadata["id"], num_ranges=0)
    units = _units(_told_apart(new, out, generation), labels, generation, first=0, replaces=False)
    units += _units(_told_apart(changed, out, generation), labels, generation, first=len(units), replaces=True)
    units += _tombstones(gone, generation, len(units))
    if units:
        probes = [item.uri for item in pictures[:: math.ceil(len(pictures) / NUM_PROBES)]]
        writer = PartWriter(out, metadata, config.pack, fractions, held.claim, probes)
        start_ray()
        with ImageProgress("cataloging", len(new) + len(changed) + len(gone)) as progress:
            for _ in run_units(units, writer, progress, num_cpus=1):
                held.check()
    parts += [unit["part"][0].as_py() for unit in units]
    if relabelled or (settings != before and not units):
        parts += relabelling.write_parts(out, relabelled, metadata, generation, len(units), held.prove)

    rows = catalogs.read_catalog(out, [*quality.FACTS, "gender", "ethnicity"], parts)
    findings = quality.find(rows, labels.age_groups, config.layout != "unlabelled")
    if config.layout == "csv":
        odd = [each for column in ("gender", "ethnicity") for each in quality.unusual_values(rows, column)]
        findings = pa.concat_tables([findings, pa.Table.from_pylist(odd, schema=schema.FINDINGS)])
    findings = pa.concat_tables([findings, _source_findings(source, config, pictures, labels)])
    findings = _with_lines(findings, source, labels)
    objects.write_bytes(catalogs.findings_uri(out, "csv"), formats.to_bytes(findings, "csv"))
    _write_findings(out, metadata, findings, parts, held)
    changes.end_listing(out, generation)
    rows = _with_group_names(rows, labels.age_groups)
    group_names = labels.age_groups.names if labels.age_groups else ()
    counts = (len(new), len(changed), len(gone), len(rows), len(others))
    ignored = Counter(PurePosixPath(name).suffix.lower() or "no ending" for name in others)
    return CatalogResult(
        *counts,
        findings=findings,
        rows=rows,
        group_names=group_names,
        unused_columns=labels.unused_columns,
        ignored=dict(ignored.most_common()),
        relabelled=tuple(relabelled),
        new_groups=_new_groups(before, settings),
    )


def _remove_late_parts(out: str) -> None:
    """Deletes what a job that was thought dead added, after the catalog was complete, to a listing before. Its images
    are in other parts, and nobody has read it, because the catalog has not been complete since."""
    findings = catalogs.findings_uri(out)
    try:
        covered = tables.read_metadata(findings, "findings")["parts"] if objects.exists(findings) else []
    except Damaged:  # it will be written anew
        covered = []
    newest = max(map(catalogs.listing_of, covered), default=0)
    for part in catalogs.list_parts(out):
        if part not in covered and catalogs.listing_of(part) <= newest:
            objects.delete(paths.join(out, part))


def repair(out: str, held: lease.Lease) -> None:
    """Empties the parts of a catalog that are damaged, so that this listing finds their images anew. Their names stay
    taken: no other part's predictions can be mistaken for theirs. Raises ValueError where no part is whole."""
    names = catalogs.list_parts(out)
    damaged = [name for name in names if not _is_whole(paths.join(out, name))]
    whole = [name for name in names if name not in damaged]
    if not damaged:
        return
    if not whole:
        gone = f"delete it and {tables.beside(out)}, make it anew, and score it into another folder"
        raise ValueError(f"{out}: none of its {len(names)} parts can be read; {gone}")
    said = {**catalogs.metadata(out, whole[0]), "replaces": False}
    held.prove()
    objects.delete(catalogs.findings_uri(out))  # it is not complete until this listing has ended
    for name in damaged:
        held.prove()
        version = objects.version(paths.join(out, name))
        empty = schema.CATALOG.empty_table().cast(schema.with_metadata("catalog", said))
        tables.replace_part(out, name, empty, str(version))
        print(f"{name}: was damaged and is empty now; predictions of it: jobs/score.py with --repair", flush=True)


def _is_whole(part: str) -> bool:
    try:
        catalogs.ask_part(part)
        parquet.check_table(part)
    except Damaged:
        return False
    return True


def _is_read(config: CatalogConfig) -> bool:
    """Whether every image is read, and not only listed."""
    return config.inspect or config.layout != "unlabelled"


def _fractions(config: CatalogConfig, labels: Labels) -> splits.Fractions | None:
    """Shares of the splits of images whose label tells none: of folders without a val, those in train."""
    train, val, test = splits.parse_fractions(config.split)
    if config.split_column:
        return None
    if not labels.has_splits:
        return train, val, test
    return (train / (train + val), val / (train + val), 0.0) if train + val else (1.0, 0.0, 0.0)


def _metadata(out: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What every part says. The identity, drawn when a catalog is born, tells it from a later one at the same path; a
    job that was killed before its first part may yet write one."""
    if catalogs.list_parts(out):
        known = catalogs.metadata(out)
    else:
        known = next(iter(changes.read_begun(out).values()), {"id": uuid.uuid4().hex})
    return {"id": known["id"], "settings": settings}


def _write_findings(
    out: str, metadata: dict[str, Any], findings: pa.Table, parts: Sequence[str], held: lease.Lease
) -> None:
    """Findings about those ``parts``: where others stand when they are read, they are of no complete catalog."""
    covered = {"id": metadata["id"], "parts": list(parts)}
    held.prove()
    catalogs.keep_footers(out)
    findings = findings.cast(schema.with_metadata("findings", covered))
    held.prove()
    parquet.write_table(catalogs.findings_uri(out), findings)


class PartWriter:
    """Reads the images of one unit of the listing and writes them as one part of the catalog. Runs in a Ray task.

    ``fractions`` are the shares of the splits of rows whose label tells none, or None. ``probes`` are some images of
    the whole source: where one of them can be read, it is not the store's fault that others cannot, and these are rows
    with a read_error. Raises the StoreError where none can.
    """

    def __init__(
        self,
        out: str,
        metadata: dict[str, Any],
        pack: int,
        fractions: splits.Fractions | None,
        claim: lease.Claim,
        probes: Sequence[str],
    ) -> None:
        self.out = out
        self.probes = probes
        self.claim = claim
        self.metadata = metadata
        self.pack = pack
        self.fractions = fractions

    def __call__(self, unit: pa.Table) -> pa.Table:
        part, is_read, replaces = (unit[name][0].as_py() for name in UNIT_FIELDS)
        rows = unit.drop_columns(UNIT_FIELDS).to_pylist()
        if is_read:
            with decoder(paths.join(self.out, part)) as decode:
                rows = self._read(rows, decode)
        for row in rows:
            row["split"] = _split_of(row, row.get("content_hash"), self.fractions)
        part_schema = schema.with_metadata("catalog", {**self.metadata, "replaces": replaces})
        table = pa.Table.from_pylist(rows, schema=part_schema)
        row_group_size = catalogs.ROW_GROUP_ROWS if is_read else None
        self.claim.prove()
        tables.write_new_part(self.out, part, table, row_group_size)  # else another execution of this task wrote it
        return pa.table({"num_rows": [len(table)]})

    def _read(self, rows: list[dict[str, Any]], decode: Decoder) -> list[dict[str, Any]]:
        pool = read_pool()
        try:
            outcomes = []
            num_unreachable = 0
            for row, error in pool.map(partial(self._inspect, decode), rows):
                num_unreachable = num_unreachable + 1 if error and error.status == "unreachable" else 0
                if error and (error.stops_the_job or num_unreachable == MAX_UNREACHABLE):
                    raise error
                outcomes.append((row, error))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # where one has failed, the others may take long to fail
        failed = {row["uri"]: error for row, error in outcomes if error}
        if failed:
            good = [row["uri"] for row, error in outcomes if not error][:1]
            _check_store([*good, *(uri for uri in self.probes if uri not in failed)], next(iter(failed.values())))
        return [row for row, _ in outcomes]

    def _inspect(self, decode: Decoder, row: dict[str, Any]) -> tuple[dict[str, Any], StoreError | None]:
        """The row with what its image tells, or with why it could not be read, which is the store's word then."""
        try:
            data = objects.read_bytes(row["uri"], catalogs.as_listed(row["version"]), row["size_bytes"])
        except StoreError as error:
            return {**row, "read_error": f"{error.status}: {error}"}, error
        row = {**row, "content_hash": objects.sha256(data)}
        try:
            with DECODING:
                row["width"], row["height"] = decode.inspect(data)
                if self.pack:
                    row["image"] = decode.pack(data, self.pack)
        except ImageError as error:
            row["read_error"] = f"{error.status}: {error}"
        return row, None


def _check_store(probes: Sequence[str], failure: StoreError) -> None:
    """Raises ``failure`` where the store delivers none of some other images now: then it was no image's fault."""
    for uri in probes:
        try:
            objects.read_bytes(uri)
        except StoreError as error:
            if error.stops_the_job:
                raise
        else:
            return
    raise StoreError(failure.status, f"{failure}; no image that was tried could be read; is the source there?")


def _check(config: CatalogConfig) -> None:
    """The user's mistakes that can be seen before anything is listed."""
    splits.parse_fractions(config.split)
    if config.age_groups:
        AgeGroups.parse(config.age_groups)
    if (config.layout == "csv") != (config.csv is not None):
        raise ValueError("--csv and --layout csv go together")
    if config.pack < 0 or 0 < config.pack < schema.MIN_SIDE:
        raise ValueError(f"--pack {config.pack}: pixels of the shorter side, at least {schema.MIN_SIDE}, or 0")
    if config.pack and not _is_read(config):
        raise ValueError("--pack reads every image: give --inspect with it, or leave it out")
    if not 0 <= config.max_deleted_fraction <= 1:
        raise ValueError(f"--max-deleted-fraction {config.max_deleted_fraction}: a share from 0 to 1")
    if config.listing and _is_read(config):
        raise ValueError("--listing goes with --layout unlabelled, and without --inspect")


CSV_COLUMNS = [f"{name}_column" for name in ("image", "label", "age", "split", "gender", "ethnicity", "subject")]


def _settings(config: CatalogConfig, age_groups: AgeGroups | None) -> dict[str, Any]:
    """What has to stay while a catalog grows; the metadata of its parts keep it."""
    return {
        "source": paths.absolute(config.source),
        "layout": config.layout,
        "csv": config.csv and paths.absolute(config.csv),
        **{column: getattr(config, column) for column in CSV_COLUMNS},
        "split": ",".join(f"{share:g}" for share in splits.parse_fractions(config.split)),
        "pack": config.pack,
        "inspect": config.inspect and config.layout == "unlabelled",
        "age_groups": age_groups.format() if age_groups else None,
    }


LABEL_SETTINGS = ("csv", *CSV_COLUMNS, "age_groups")
"""Settings that only say how labels are told: they may change like these."""


def _check_settings(out: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises ValueError where a catalog of other settings stands there: other images, or less would be known of them,
    which is mostly a setting that was forgotten."""
    kept = {name: now[name] for name in now if name not in LABEL_SETTINGS or (now[name] is None and before.get(name))}
    check_unchanged(out, "another catalog", before, kept)


def _new_groups(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if before["age_groups"] == now["age_groups"]:
        return ""
    return f"{now['age_groups']} (they were {before['age_groups']})"


def _age_groups(config: CatalogConfig, grown: str | None) -> AgeGroups | None:
    """The groups that were asked for, or that the catalog has already (class folders may have come since)."""
    if config.age_groups:
        return AgeGroups.parse(config.age_groups)
    return catalogs.age_groups(grown) if grown else None


def _labels(config: CatalogConfig, pictures: list[Listed], others: frozenset[str], groups: AgeGroups | None) -> Labels:
    label_source = LabelSource(
        age_groups=groups,
        root=paths.absolute(config.source),
        other_files=others,
        csv_bytes=objects.read_bytes(paths.absolute(config.csv)) if config.csv else None,
        **{column: getattr(config, column) for column in CSV_COLUMNS},
    )
    labels = layouts.LAYOUTS[config.layout]([item.relative for item in pictures], label_source)
    if labels.age_groups is None and config.layout != "unlabelled":
        labels = replace(labels, age_groups=AgeGroups.parse(DEFAULT_AGE_GROUPS))
    return labels


LABEL_FIELDS = tuple(name for name in catalogs.LABEL_COLUMNS if name != "label_error")


def _known_rows(out: str) -> dict[str, dict[str, Any]] | None:
    """Current rows by URI, or None where there is no catalog yet."""
    if not catalogs.list_parts(out):
        return None
    rows = catalogs.read_catalog(out, ["uri", "version", "read_error", "content_hash", *relabelling.TOLD])
    return {row["uri"]: row for row in rows.to_pylist()}


def _difference(
    known: dict[str, dict[str, Any]] | None,
    pictures: list[Listed],
    labels: Labels,
    fractions: splits.Fractions | None,
) -> tuple[list[Listed], list[Listed], list[dict[str, Any]], list[Relabelled]]:
    """New and changed objects (which the store did not deliver the last time, and does now, among them), the rows of
    deleted ones, and those whose source now tells other labels."""
    known = known or {}
    new, changed, relabelled = [], [], []
    failed = [item for item in pictures if _is_stores(known.get(item.uri, {}).get("read_error"))]
    with read_pool() as pool:
        answers = pool.map(_can_be_read, failed)
        back = {item.uri for item, can_be_read in zip(failed, answers, strict=True) if can_be_read}
    for item in pictures:
        row = known.get(item.uri)
        if row is None:
            new.append(item)
        elif catalogs.as_listed(row["version"]) != item.version or item.uri in back:
            changed.append(item)
        else:
            now = _told(labels.by_path[item.relative])
            now["split"] = _split_of(now, row["content_hash"], fractions)
            if found := relabelling.compare(row, now):
                relabelled.append(found)
    listed = {item.uri for item in pictures}
    gone = [row for uri, row in known.items() if uri not in listed]
    return new, changed, gone, relabelled


def _is_stores(read_error: str | None) -> bool:
    return (read_error or "").partition(":")[0] in READ_AGAIN


def _can_be_read(item: Listed) -> bool:
    try:
        objects.read_bytes(item.uri, item.version, item.size_bytes)
    except StoreError as error:
        if error.stops_the_job:
            raise
        return False
    return True


def _told_apart(items: list[Listed], out: str, generation: int) -> list[Listed]:
    """``items``, where a version that the catalog has had before is another one, as in ``changes``."""
    parts = catalogs.list_parts(out)
    tables = [catalogs.read_part(out, part, ["uri", "version"]) for part in parts] if items else []
    had = {key for table in tables for key in zip(table["uri"].to_pylist(), table["version"].to_pylist(), strict=True)}
    return [
        replace(item, version=f"{item.version}@{generation}") if (item.uri, item.version) in had else item
        for item in items
    ]


def _told(label: Label) -> dict[str, Any]:
    """What the source tells of a row: its columns ``relabelling.TOLD``."""
    told = {name: getattr(label, name) for name in LABEL_FIELDS}
    return {**told, "label_error": label.error, "split": label.split}


def _split_of(row: Mapping[str, Any], content_hash: str | None, fractions: splits.Fractions | None) -> str | None:
    """The split that a row is told, else the one that these shares give to its subject or its picture, if any."""
    key = row["subject"] or content_hash
    if row["split"] is not None or not fractions or not key:
        return row["split"]
    return splits.assign(key, fractions)


def _units(pictures: list[Listed], labels: Labels, generation: int, first: int, replaces: bool) -> list[pa.Table]:
    """Tables of rows to read and write, one a part, numbered from ``first`` on.

    Rows stand in the order of a hash of their names: every run of rows is then a fair sample, which is what training
    shuffles, while names in the order of a bucket often are in the order of ages.
    """
    order = sorted(pictures, key=lambda item: hashlib.sha256(item.relative.encode()).digest())
    part_rows = min(INSPECTED_PART_ROWS, max(1, math.ceil(len(order) / MIN_PARTS)))
    now = dt.datetime.now(dt.UTC)
    facts = ({"uri": item.uri, "version": item.version, "size_bytes": item.size_bytes} for item in order)
    rows = [
        {"listed_at": now, "deleted": False, **fact, **_told(labels.by_path[item.relative])}
        for fact, item in zip(facts, order, strict=True)
    ]
    starts = range(0, len(rows), part_rows)
    return [
        _unit(rows[start : start + part_rows], generation, first + index, True, replaces)
        for index, start in enumerate(starts)
    ]


def _tombstones(gone: list[dict[str, Any]], generation: int, first: int) -> list[pa.Table]:
    now = dt.datetime.now(dt.UTC)
    rows = [{"uri": row["uri"], "version": row["version"], "listed_at": now, "deleted": True} for row in gone]
    chunks = [rows[start : start + LISTED_PART_ROWS] for start in range(0, len(rows), LISTED_PART_ROWS)]
    return [_unit(chunk, generation, first + index, False, True) for index, chunk in enumerate(chunks)]


LISTED_FIELDS = ("uri", "version", "size_bytes", "listed_at", "deleted", *relabelling.TOLD)
UNIT_SCHEMA = pa.schema(
    [
        *(schema.CATALOG.field(name) for name in LISTED_FIELDS),
        pa.field("part", pa.string()),
        pa.field("is_read", pa.bool_()),
        pa.field("replaces", pa.bool_()),
    ]
)
UNIT_FIELDS = ["part", "is_read", "replaces"]
"""Of a unit as a whole, not of its rows."""


def _unit(rows: list[dict[str, Any]], generation: int, index: int, is_read: bool, replaces: bool) -> pa.Table:
    part = f"part-{generation:05d}-{index:06d}.parquet"
    of_unit = dict(zip(UNIT_FIELDS, (part, is_read, replaces), strict=True))
    return pa.Table.from_pylist([{**row, **of_unit} for row in rows], schema=UNIT_SCHEMA)


def _with_lines(findings: pa.Table, source: str, labels: Labels) -> pa.Table:
    """``findings`` with the lines of the CSV that name their images."""
    lines = {path: label.line for path, label in labels.by_path.items()} | labels.missing_lines
    root = paths.join(source, "")
    column = [lines.get(uri.removeprefix(root)) for uri in findings["uri"].to_pylist()]
    place = findings.schema.get_field_index("line")
    return findings.set_column(place, schema.FINDINGS.field("line"), pa.array(column, pa.int32()))


def _source_findings(source: str, config: CatalogConfig, pictures: list[Listed], labels: Labels) -> pa.Table:
    """Findings about what is no row: names in the CSV without a file, empty class folders."""
    found = []
    for name in sorted(labels.missing_files):
        row = {"uri": paths.join(source, name), "version": ""}
        found.append(quality.finding(row, "missing_file", labels.why_missing[name]))
    if config.layout == "class_folders":
        used = {item.relative.split("/")[0] for item in pictures}
        for folder in sorted(set(objects.list_folders(source)) - used):
            uri = paths.join(source, folder)
            has_catalog = f"{paths.absolute(config.out)}/".startswith(f"{uri}/")  # it may stand in its source
            if not has_catalog and not layouts.is_in_system_folder(f"{folder}/"):
                row = {"uri": uri, "version": ""}
                found.append(quality.finding(row, "empty_class", "the class folder holds no image"))
    return pa.Table.from_pylist(found, schema=schema.FINDINGS)


def count_by_kind(findings: pa.Table) -> dict[str, int]:
    return dict(sorted(Counter(findings["kind"].to_pylist()).items()))


def count_by_group_and_split(result: CatalogResult) -> dict[str, dict[str, int]]:
    """Images by age group, then by split; those without one count as ``none``. Splits without an image are left out."""
    assert result.rows is not None, "images that are only listed have neither"
    groups, splits_of_rows = (pc.fill_null(result.rows[name], "none").to_pylist() for name in ("group", "split"))
    counts = Counter(zip(groups, splits_of_rows, strict=True))
    present = [split for split in (*schema.SPLITS, "none") if split in splits_of_rows]
    return {group: {split: counts[group, split] for split in present} for group in (*result.group_names, "none")}


def remarks(result: CatalogResult) -> list[str]:
    """What a table of counts does not say by itself, a line each: no ages, and classes that cannot be validated."""
    if result.rows is None or not result.group_names:
        return []
    found = _about_labels(result)
    if pc.all(pc.is_null(result.rows["age_low"])).as_py():
        names = ",".join(
            f"{name}=0-12" if index == 0 else f"{name}=..." for index, name in enumerate(result.group_names)
        )
        found.append(
            "no image has an age, only the name of a class: models can learn these names and no ages; bounds for them, "
            f'--age-groups "{names}", and the same command make them ages'
        )
    if outside := count_by_kind(result.findings).get("outside_groups"):
        found.append(f"{outside:,} images have an age or a range of ages that lies in none of the age groups")
    by_group = count_by_group_and_split(result)
    few = [
        f"{name} {by_group[name].get('val', 0)}"
        for name in result.group_names
        if by_group[name].get("train") and by_group[name].get("val", 0) < splits.ENOUGH_VALIDATED
    ]
    if few:
        found.append(
            f"few validation images (under {splits.ENOUGH_VALIDATED}): {', '.join(few)}; which epoch is best "
            "for them is mostly chance, a larger --split has more"
        )
    return found


NUM_IN_WORDS = 10


def _about_labels(result: CatalogResult) -> list[str]:
    """What is new about labels that the catalog had already."""
    found = [f"age groups: {result.new_groups}"] if result.new_groups else []
    changed = [each for each in result.relabelled if each.words]
    if changed:
        found.append(f"other labels now, of images that were not read again: {len(changed):,}")
        found += [f"    {each.uri}: {each.words}" for each in changed[:NUM_IN_WORDS]]
        found += [f"    and {len(changed) - NUM_IN_WORDS:,} others"] if len(changed) > NUM_IN_WORDS else []
    if moved := sum(each.moves for each in result.relabelled):
        found.append(f"of them in another split now, as their persons or splits say: {moved:,}; these are scored again")
    return found


def _with_group_names(rows: pa.Table, age_groups: AgeGroups | None) -> pa.Table:
    """``rows`` with the name of the age group, or null, in place of the class name."""
    if age_groups is None:
        return rows
    indices = catalogs.group_indices(rows, age_groups).tolist()
    names = pa.array(age_groups.names, pa.string()).take(pc.if_else(pc.less(indices, 0), None, indices))
    return rows.set_column(rows.schema.get_field_index("group"), "group", names)


# Images that are only listed


def _list_images(config: CatalogConfig, source: str, out: str) -> CatalogResult:
    """Brings a catalog without labels up to date, in flat memory however large it is."""
    files, small, before = [], None, catalogs.list_parts(out)
    if config.listing:
        files = listing.files_of(config.listing)
        next(listing.read_rows(files[0], source), None)  # its columns, before anything starts
    else:
        small = _list_small(source, out)
    tables.claim(out, "catalog")
    counts: Counter[str] = Counter()
    with lease.hold(out, tables.beside(out), config.lease) as held:
        if config.repair:
            repair(out, held)
        names = catalogs.list_parts(out)
        if small is not None and names != before:  # by a job that may have listed the source later than this one
            small = _list_small(source, out)
        settings = _settings(config, _age_groups(config, out if names else None))
        if names:
            check_unchanged(out, "another catalog", catalogs.settings(out), settings)
        metadata = _metadata(out, settings)
        changes.seal_begun(out, metadata)
        known = catalogs.read_parts(out) if catalogs.list_parts(out) else []
        ranges = [] if files or small is not None else _ranges(source)
        num_ranges = len(ranges) or 1
        generation = changes.begin_listing(out, metadata["id"], num_ranges + 1)  # and one of what is deleted
        lister = changes.RangeLister(source, out, metadata, generation, known, LISTED_PART_ROWS, held.claim)
        with ImageProgress("cataloging", total=None) as progress:
            for summary in _run_lister(lister, ranges, small or _sorted_rows(files, source), progress):
                held.check()
                counts.update(summary)
                changed, deleted = counts["num_changed"], counts["num_deleted"]
                progress.note = f"{counts['num_new']} new, {changed} changed, {deleted} deleted"
        num_known = counts["num_rows"] - counts["num_new"] + counts["num_deleted"]
        gone = (uri for rows in lister.gone() for uri in rows["uri"].to_pylist())
        try:
            changes.check_deleted(source, out, gone, counts["num_deleted"], num_known, config.max_deleted_fraction)
        except ValueError:
            changes.end_listing(out, generation)
            raise
        lister.delete(num_ranges)
        findings = schema.FINDINGS.empty_table()
        _write_findings(out, metadata, findings, catalogs.part_names(out), held)
        changes.end_listing(out, generation)
    return CatalogResult(
        num_new=counts["num_new"],
        num_changed=counts["num_changed"],
        num_deleted=counts["num_deleted"],
        num_current=counts["num_rows"],
        num_ignored=counts["num_ignored"],
        findings=findings,
    )


def _list_small(source: str, out: str) -> list[pa.Table] | None:
    """The listing of a source of at most SMALL_SOURCE_FILES, else None. Raises ValueError where it has no image."""
    listed: list[pa.Table] = []
    num_pictures = num_others = 0
    for page in map(listing.to_table, listing.pages(source)):
        images_of_page, num_ignored = changes.select_images(page, source, out)
        listed.append(page)
        num_pictures += len(images_of_page)
        num_others += num_ignored
        if num_pictures and num_pictures + num_others > SMALL_SOURCE_FILES:
            return None
    if not num_pictures:
        raise changes.no_images(source, num_others)
    return listed


def _ranges(source: str) -> list[pa.Table]:
    """Units of listing (``changes.RANGE``), some for each CPU of the cluster."""
    start_ray()
    num_ranges = min(MAX_RANGES, RANGES_PER_CPU * int(ray.cluster_resources().get("CPU", 1)))
    ranges = enumerate(listing.cut(source, num_ranges))
    return [pa.table([[number], [after], [until]], schema=changes.RANGE) for number, (after, until) in ranges]


def _run_lister(
    lister: changes.RangeLister, units: list[pa.Table], listed: Iterable[pa.Table], progress: ImageProgress
) -> Iterator[dict[str, int]]:
    """What each window of the listing brought: of the source, in ``units``, or else of what is ``listed`` already."""
    if units:
        context = ray.data.DataContext.get_current().copy()
        context.target_max_block_size = 1  # else a task's summaries would come when it ends, and not as it goes on
        with ray.data.DataContext.current(context):
            yield from run_units(units, lister, progress, num_cpus=1)
        return
    for window in lister.update(listed, number=0):
        (summary,) = window.to_pylist()
        yield summary
        progress.add(summary["num_rows"], progress.note)


def _sorted_rows(files: list[str], source: str) -> Iterator[pa.Table]:
    """A listing made elsewhere in the order of URIs; Ray sorts it, on disk where it does not fit into memory."""
    start_ray()
    units = ray.data.from_arrow([pa.table({"file": [file]}) for file in files])
    rows = units.map_batches(
        lambda unit: listing.read_rows(unit["file"][0].as_py(), source), batch_size=None, batch_format="pyarrow"
    )
    yield from rows.sort("uri").iter_batches(batch_size=LISTED_PART_ROWS, batch_format="pyarrow")
