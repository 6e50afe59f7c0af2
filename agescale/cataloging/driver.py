"""Makes and grows a catalog: lists a source once, reads labelled images once, writes parts and findings.

A part stands whole or not at all, and rows that stand in a part are not listed again: that is all there is to restarts
and to growth. Where images are read, work is cut into parts of the listing; a Ray task reads the images of one and
writes it, or this process, where they are few and no Ray runs. Where they are only listed, a Ray task lists a range of
names and writes part after part as they come, and nobody holds more than some parts: labels and findings want the whole
picture, a bucket to be scored need not fit in it.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray
import ray.data

from agescale.cataloging import changes, expansion, layouts, relabelling
from agescale.cataloging import findings as quality
from agescale.cataloging.comparison import difference
from agescale.cataloging.layouts import Labels
from agescale.cataloging.parts import planned_parts, tombstones
from agescale.cataloging.settings import (
    age_groups_of,
    check,
    check_settings,
    feature_source,
    fractions_of,
    metadata_of,
    new_groups,
    read_labels,
    settings_of,
)
from agescale.cataloging.summary import CatalogResult, with_group_names
from agescale.cataloging.worker import ArchiveReader, FaceWriter, FeatureWriter, PartWriter, run_lister, sorted_rows
from agescale.config import CatalogConfig
from agescale.faces import images
from agescale.reports import formats
from agescale.runtime import nodes
from agescale.runtime.cluster import is_cluster_at_hand, start_ray
from agescale.runtime.progress import ImageProgress
from agescale.runtime.resources import check_resources
from agescale.runtime.work import FEW_IMAGES, run_here, run_work
from agescale.store import archives, lease, listing, objects, parquet, paths
from agescale.store.errors import Damaged
from agescale.store.listing import Listed
from agescale.store.outputs import check_unchanged
from agescale.tables import catalogs, faces, features, folders, schema
from agescale.tables.catalogs import Catalog
from agescale.tables.companions import Companion
from agescale.tables.labels import per_label

if TYPE_CHECKING:
    from agescale.models.features import FeatureSource

SMALL_SOURCE_FILES = 10_000
"""So few are listed, or sorted, without Ray, which would take longer to start."""
MANY_BYTES = 256 * 2**20
"""Of archives that are not known yet; so many take longer to read than Ray to start."""
RANGES_PER_CPU = 4
"""Ranges of names differ in size, and each that found something leaves a part."""
MAX_RANGES = 1000
NUM_PROBES = 9
"""Images of the source that are tried, where others cannot be read."""


def build_catalog(config: CatalogConfig) -> CatalogResult:
    """Lists ``config.source`` and brings the catalog at ``config.out`` up to date with it."""
    config = paths.with_absolute_uris(config)
    config = replace(config, source=listing.as_folder(config.source))
    source, out = config.source, config.out
    check(config)
    is_same = source == out or (not paths.is_remote(out) and os.path.realpath(source) == os.path.realpath(out))
    if is_same or source.startswith(f"{out}/"):
        there = "there are the photos themselves" if is_same else f"it contains the photos ({source})"
        raise ValueError(f"--out {out}: {there}; give another folder")
    if not config.reads_images:
        return _list_images(config, source, out)
    before = folders.list_parts(out, "catalog")
    listed = _list_files(source, out)
    output = folders.output(out, "catalog")
    output.check({})
    with output.held(config.lease) as held:
        if folders.list_parts(out, "catalog") != before:  # by a job that may have listed the source later than this one
            listed = _list_files(source, out)
        return _add_images(config, source, out, listed, held)


def _list_files(source: str, out: str) -> list[Listed]:
    """The files of a source. Raises ValueError where none of them is an image, nor an archive."""
    listed = [
        item
        for item in listing.list_files(source)
        if not item.uri.startswith(f"{out}/") and not listing.is_in_system_folder(item.relative)
    ]
    if not any(_is_held(item) or _is_picture(item) for item in listed):
        raise changes.no_images(source, len(listed))
    return listed


def _is_picture(item: Listed) -> bool:
    return bool(item.version) and images.is_image_name(item.relative)


def _is_held(item: Listed) -> bool:
    """Whether it is an archive, and there."""
    return bool(item.version) and paths.is_archive(item.uri)


def _with_members(
    config: CatalogConfig, listed: list[Listed], source: str, out: str, progress: ImageProgress
) -> tuple[list[Listed], list[dict[str, Any]]]:
    """What is listed, the members of archives in their places, and findings about archives. Those that have not been
    read before are read by Ray, where they are large."""
    held = {item.uri: item for item in listed if _is_held(item)}
    if not held:
        return listed, []
    files = [item for item in listed if item.uri not in held]
    found: list[dict[str, Any]] = []
    folder, with_records = folders.archives(out), config.layout == "records"
    with objects.read_pool() as pool:
        is_kept = pool.map(lambda item: archives.is_kept(folder, item.uri, item.version, with_records), held.values())
        unknown = [item for item, is_known in zip(held.values(), is_kept, strict=True) if not is_known]
    if sum(item.size_bytes for item in unknown) > MANY_BYTES:
        units = [pa.table({"uri": [item.uri], "version": [item.version]}) for item in unknown]
        for _ in _run_by_ray(units, ArchiveReader(out, with_records), progress, source):
            pass

    def tell(uri: str, index: archives.Index) -> None:
        found.extend(expansion.findings_of(uri, index))
        files.extend(expansion.as_files(held[uri], index, source) if uri in held else [])

    rows = sorted(listed, key=lambda item: item.uri)
    for _ in expansion.expanded([listing.to_table(rows)], source, out, tell, with_records):
        pass
    return [item for item in files if not listing.is_in_system_folder(item.relative)], found


def _add_images(config: CatalogConfig, source: str, out: str, listed: list[Listed], held: lease.Lease) -> CatalogResult:
    """Brings a catalog whose images are read up to date with what its source has been ``listed`` as."""
    with ImageProgress("reading archives", total=None, is_quiet=True) as progress:
        listed, about_archives = _with_members(config, listed, source, out, progress)
    pictures = [item for item in listed if _is_picture(item)]
    others = frozenset(item.relative for item in listed if not _is_picture(item))
    if not pictures:
        raise changes.no_images(source, len(listed))
    if config.repair:
        repair(out, held)
    _remove_late_parts(out)
    catalog = Catalog.find(out)
    parts = catalog.names if catalog else []
    groups = age_groups_of(config, catalog)
    labels = read_labels(config, pictures, others, groups)
    settings = settings_of(config, labels.age_groups)
    before = catalog.settings if catalog else settings
    check_settings(out, before, settings)
    layouts.check_labelled(config.layout, labels)

    fractions = fractions_of(config, labels)
    found = difference(catalog, pictures, labels, fractions)
    uris = found.gone["uri"].to_pylist()
    changes.check_deleted(source, out, uris, len(uris), found.num_known, config.max_deleted_fraction)
    metadata = metadata_of(out, catalog, settings)
    listing_number = changes.begin_listing(out, metadata["id"], num_ranges=0)
    new, changed = found.told_apart(catalog, listing_number)
    num_read = len(new) + len(changed)
    by_ray = num_read > FEW_IMAGES or (num_read > 0 and is_cluster_at_hand())
    units = planned_parts(new, labels, listing_number, 0, replaces=False, in_parallel=by_ray)
    units += planned_parts(changed, labels, listing_number, len(units), replaces=True, in_parallel=by_ray)
    units += tombstones(found.gone.to_pylist(), listing_number, len(units))
    if units:
        probes = [item.uri for item in pictures[:: math.ceil(len(pictures) / NUM_PROBES)]]
        writer = PartWriter(out, metadata, config.pack, fractions, held.claim, probes)
        with ImageProgress("cataloging", num_read + len(found.gone)) as progress:
            for _ in _run_by_ray(units, writer, progress, source) if by_ray else run_here(units, writer, progress):
                held.check()
    parts += [unit["part"][0].as_py() for unit in units]
    if found.relabelled or (settings != before and not units):
        parts += relabelling.write_parts(out, found.relabelled, metadata, listing_number, len(units), held.prove)

    grown = Catalog.open(out).only(parts)
    rows = grown.read([*quality.FACTS, "gender", "ethnicity"])
    findings = _findings(rows, source, config, pictures, labels, about_archives)
    _write_findings(grown, metadata, findings, held)
    grown.keep_footers()
    changes.end_listing(out, listing_number)
    more: list[pa.Table] = []
    if geometry := faces.geometry_of(grown):
        whole = Catalog.open(out)
        _look(
            whole, faces.table(geometry), FaceWriter(whole, geometry, held.claim), "finding faces", config.repair, held
        )
        more.append(quality.without_face(rows, faces.faceless(grown, geometry)))
        if grown.has_boxes:
            more.append(quality.without_match(rows, faces.known_faces(out, rows, geometry)))
    judged = ""
    if source_of_features := feature_source(config):
        of_labels, judged = _suspects(Catalog.open(out), rows, source_of_features, config.repair, held)
        more.append(of_labels)
    if any(map(len, more)):
        findings = pa.concat_tables([findings, _with_lines(pa.concat_tables(more), source, labels)])
        _write_findings(grown, metadata, findings, held)
    group_names = labels.age_groups.names if labels.age_groups else ()
    counts = (len(new), len(changed), len(found.gone), len(rows), len(others))
    rows = with_group_names(per_label(rows), labels.age_groups)
    ignored = Counter(PurePosixPath(name).suffix.lower() or "no ending" for name in others)
    return CatalogResult(
        *counts,
        findings=findings,
        rows=rows,
        group_names=group_names,
        unused_columns=labels.unused_columns,
        ignored=dict(ignored.most_common()),
        relabelled=tuple(found.relabelled),
        judged=judged,
        new_groups=new_groups(before, settings),
    )


def _suspects(
    catalog: Catalog, rows: pa.Table, source: FeatureSource, repair: bool, held: lease.Lease
) -> tuple[pa.Table, str]:
    """Findings about the current ``rows`` whose labels seem wrong, and in words how many were judged. Has the features
    made that nobody has made yet."""
    from agescale.cataloging import suspects  # here, as scipy takes a second

    table = features.table(source.digest)
    _look(catalog, table, FeatureWriter(catalog, source, held.claim), "looking at faces", repair, held)
    labelled = rows.filter(suspects.can_be_judged(rows))
    places, known = features.read(catalog, table, labelled)
    return suspects.find(labelled.take(pa.array(places)), known)


def _look(
    catalog: Catalog,
    table: Companion,
    writer: FaceWriter | FeatureWriter,
    verb: str,
    repair: bool,
    held: lease.Lease,
) -> None:
    """Has the files of a ``table`` beside the catalog written that do not stand yet. The catalog is complete without
    them."""
    if repair:
        _delete_damaged(table, catalog.uri, held)
    num_rows = {part.name: part.num_rows for part in catalog.parts}
    units = [pa.table({"part": [part]}) for part in table.missing_parts(catalog)]
    if not units:
        return
    num_photos = sum(num_rows[unit["part"][0].as_py()] for unit in units)
    by_ray, num_faces = num_photos > FEW_IMAGES or is_cluster_at_hand(), 0
    with ImageProgress(verb, num_photos) as progress:
        run = _run_by_ray(units, writer, progress, catalog.source) if by_ray else run_here(units, writer, progress)
        for found in run:
            held.check()
            num_faces += found["num_faces"]
            progress.note = f"{num_faces:,} faces"


def _delete_damaged(table: Companion, catalog: str, held: lease.Lease) -> None:
    folder = table.folder(catalog)
    for name in folders.list_parts(folder, table.kind):
        try:
            parquet.check_table(paths.join(folder, name))
        except Damaged:
            held.prove()
            objects.delete(paths.join(folder, name))
            print(f"{name}: was damaged, and has been deleted", flush=True)


def _run_by_ray(
    units: list[pa.Table],
    writer: PartWriter | FaceWriter | FeatureWriter | ArchiveReader,
    progress: ImageProgress,
    source: str,
) -> Iterator[dict[str, Any]]:
    start_ray()
    check_resources(1, cpus_per_worker=1, gpus_per_worker=0)
    nodes.check_shared(folders.beside(writer.out), listing.archive_of(source) or source)
    yield from run_work(units, writer, progress, num_cpus=1)


def _remove_late_parts(out: str) -> None:
    """Deletes what a job that was thought dead added, after the catalog was complete, to a listing before. Its images
    are in other parts, and nobody has read it, because the catalog has not been complete since."""
    findings = catalogs.findings_uri(out)
    try:
        covered = folders.read_metadata(findings, "findings")["parts"] if objects.exists(findings) else []
    except Damaged:  # it will be written anew
        covered = []
    newest = max(map(catalogs.listing_of, covered), default=0)
    for part in folders.list_parts(out, "catalog"):
        if part not in covered and catalogs.listing_of(part) <= newest:
            objects.delete(paths.join(out, part))


def repair(out: str, held: lease.Lease) -> None:
    """Empties the parts of a catalog that are damaged, so that this listing finds their images anew. Their names stay
    taken: no other part's predictions can be mistaken for theirs. Raises ValueError where no part is whole."""
    catalog = Catalog.find(out)
    damaged = [name for name in catalog.names if not _is_whole(catalog.file(name))] if catalog else []
    if not catalog or not damaged:
        return
    whole = [name for name in catalog.names if name not in damaged]
    if not whole:
        gone = f"delete it and {folders.beside(out)}, make it anew, and score it into another folder"
        raise ValueError(f"{out}: none of its {len(damaged)} parts can be read; {gone}")
    said = {**catalog.only(whole[:1]).metadata, "replaces": False}
    held.prove()
    objects.delete(catalogs.findings_uri(out))  # it is not complete until this listing has ended
    for name in damaged:
        held.prove()
        version = objects.version(catalog.file(name))
        empty = schema.CATALOG.empty_table().cast(schema.with_metadata("catalog", said))
        folders.replace_part(out, name, empty, str(version))
        print(
            f"{name}: was damaged, and has been emptied; score its images again with jobs/score.py --repair", flush=True
        )


def _is_whole(part: str) -> bool:
    try:
        catalogs.ask_part(part)
        parquet.check_table(part)
    except Damaged:
        return False
    return True


def _write_findings(catalog: Catalog, metadata: dict[str, Any], findings: pa.Table, held: lease.Lease) -> None:
    """Findings about those parts: where others stand when they are read, they are of no complete catalog."""
    covered = {"id": metadata["id"], "parts": catalog.names}
    held.prove()
    objects.write_bytes(catalogs.findings_uri(catalog.uri, "csv"), formats.to_bytes(findings, "csv"))
    findings = findings.cast(schema.with_metadata("findings", covered))
    held.prove()
    parquet.write_table(catalogs.findings_uri(catalog.uri), findings)


def _findings(
    rows: pa.Table,
    source: str,
    config: CatalogConfig,
    pictures: list[Listed],
    labels: Labels,
    about_archives: list[dict[str, Any]],
) -> pa.Table:
    """What is wrong with the current ``rows`` of a catalog, faces aside, and with what is no row."""
    found = [quality.find(rows, labels.age_groups, config.layout != "unlabelled")]
    if config.layout == "csv":
        told = per_label(rows)
        odd = [each for column in ("gender", "ethnicity") for each in quality.unusual_values(told, column)]
        found.append(pa.Table.from_pylist(odd, schema=schema.FINDINGS))
    found.append(_source_findings(source, config, pictures, labels))
    found.append(pa.Table.from_pylist(about_archives, schema=schema.FINDINGS))
    return _with_lines(pa.concat_tables(found), source, labels)


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
    if config.layout == "class_folders" and not listing.archive_of(source):
        used = {item.relative.split("/")[0] for item in pictures}
        for folder in sorted(set(objects.list_folders(source)) - used):
            uri = paths.join(source, folder)
            has_catalog = f"{config.out}/".startswith(f"{uri}/")  # it may stand in its source
            if not has_catalog and not listing.is_in_system_folder(f"{folder}/"):
                row = {"uri": uri, "version": ""}
                found.append(quality.finding(row, "empty_class", "the class folder holds no image"))
    return pa.Table.from_pylist(found, schema=schema.FINDINGS)


# Images that are only listed


def _list_images(config: CatalogConfig, source: str, out: str) -> CatalogResult:
    """Brings a catalog without labels up to date, in flat memory however large it is."""
    files, small, before = [], None, folders.list_parts(out, "catalog")
    if config.listing:
        files = listing.files_of(config.listing)
        next(listing.read_rows(files[0], source), None)  # its columns, before anything starts
    else:
        small = _list_small(source, out)
    output, counts = folders.output(out, "catalog"), Counter[str]()
    output.check({})
    with output.held(config.lease) as held:
        if config.repair:
            repair(out, held)
        catalog = Catalog.find(out)
        standing = catalog.names if catalog else []
        if small is not None and standing != before:  # by a job that may have listed the source later than this one
            small = _list_small(source, out)
        settings = settings_of(config, age_groups_of(config, catalog))
        if catalog:
            check_unchanged(out, "another catalog", catalog.settings, settings)
        metadata = metadata_of(out, catalog, settings)
        changes.seal_begun(out, metadata)
        sealed = Catalog.find(out)
        known = sealed.parts if sealed else ()
        ranges = [] if files or small is not None else _ranges(source)
        if ranges:
            nodes.check_shared(folders.beside(out), listing.archive_of(source) or source)
        num_ranges = len(ranges) or 1
        listing_number = changes.begin_listing(out, metadata["id"], num_ranges + 1)  # and one of what is deleted
        lister = changes.RangeLister(
            source, out, metadata, listing_number, known, catalogs.LISTED_PART_ROWS, held.claim
        )
        listed = small or sorted_rows(files, source, SMALL_SOURCE_FILES)
        with ImageProgress("cataloging", total=None) as progress:
            for summary in run_lister(lister, ranges, listed, progress):
                held.check()
                counts.update(summary)
                changed, deleted = counts["num_changed"], counts["num_deleted"]
                progress.note = f"{counts['num_new']} new, {changed} changed, {deleted} deleted"
        num_known = counts["num_rows"] - counts["num_new"] + counts["num_deleted"]
        gone = (uri for rows in lister.gone() for uri in rows["uri"].to_pylist())
        try:
            changes.check_deleted(source, out, gone, counts["num_deleted"], num_known, config.max_deleted_fraction)
        except ValueError:
            changes.end_listing(out, listing_number)
            raise
        lister.delete(num_ranges)
        findings = expansion.aside(out, listing_number)
        grown = Catalog.open(out)
        _write_findings(grown, metadata, findings, held)
        grown.keep_footers()
        changes.end_listing(out, listing_number)
    return CatalogResult(
        num_new=counts["num_new"],
        num_changed=counts["num_changed"],
        num_deleted=counts["num_deleted"],
        num_current=counts["num_rows"],
        num_ignored=counts["num_ignored"],
        findings=findings,
    )


def _list_small(source: str, out: str) -> list[pa.Table] | None:
    """The listing of a source of at most SMALL_SOURCE_FILES and archives of no more than MANY_BYTES, else None. Raises
    ValueError where it has neither image nor archive."""
    listed: list[pa.Table] = []
    num_pictures = num_others = num_bytes = 0
    for files in listing.pages(source):
        page = listing.to_table(files)
        images_of_page, num_ignored = changes.select_images(page, source, out)
        held = [item for item in files if _is_held(item)]
        sizes = [item.size_bytes for item in held if not item.uri.startswith((f"{out}/", f"{folders.beside(out)}/"))]
        listed.append(page)
        num_pictures += len(images_of_page) + len(sizes)
        num_others += num_ignored - len(sizes)
        num_bytes += sum(sizes)
        if num_bytes > MANY_BYTES:
            return None
        if num_pictures and num_pictures + num_others > SMALL_SOURCE_FILES:
            return None
    if not num_pictures:
        raise changes.no_images(source, num_others)
    return listed


def _ranges(source: str) -> list[pa.Table]:
    """Units of listing (``changes.RANGE``), some for each CPU of the cluster."""
    start_ray()
    check_resources(1, cpus_per_worker=1, gpus_per_worker=0)
    num_ranges = min(MAX_RANGES, RANGES_PER_CPU * int(ray.cluster_resources().get("CPU", 1)))
    ranges = enumerate(listing.cut(source, num_ranges))
    return [pa.table([[number], [after], [until]], schema=changes.RANGE) for number, (after, until) in ranges]
