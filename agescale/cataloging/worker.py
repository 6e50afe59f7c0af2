"""What Ray's processes do for a catalog: a unit of rows or of a listing in, its part of the catalog written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from agescale.cataloging import changes, expansion
from agescale.cataloging.parts import PLANNED_FIELDS, split_of
from agescale.faces.finding import finder_of
from agescale.faces.geometry import FaceGeometry
from agescale.faces.images import Face, ImageError, Photo, Pixels
from agescale.faces.isolation import Decoder
from agescale.faces.loading import LOOK_AHEAD, Framing
from agescale.runtime.cluster import start_ray
from agescale.runtime.progress import ImageProgress
from agescale.runtime.work import decoder, run_work
from agescale.store import lease, listing, members, objects, paths
from agescale.store.errors import StoreError
from agescale.store.objects import read_pool
from agescale.tables import catalogs, faces, features, folders, packed, schema, splits
from agescale.tables.catalogs import Catalog

if TYPE_CHECKING:
    from agescale.models.features import FeatureSource  # torch takes seconds, which most catalogs need not

DECODING = threading.BoundedSemaphore(2)
"""Many threads read, two decode: a picture of 24 megapixels fills 72 MB."""

FEATURE_PHOTOS = 64
"""Photos whose features are made at once."""
MAX_UNREACHABLE = 64
"""Images in a row that the store did not deliver, each of them asked for over and over: the store is down."""


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
        part, is_read, replaces = (unit[name][0].as_py() for name in PLANNED_FIELDS)
        rows = unit.drop_columns(PLANNED_FIELDS).to_pylist()
        if is_read:
            with decoder(paths.join(self.out, part)) as decode:
                rows = self._read(rows, decode)
        for row in rows:
            row["split"] = split_of(row, row.get("content_hash"), self.fractions)
        part_schema = schema.with_metadata("catalog", {**self.metadata, "replaces": replaces})
        table = pa.Table.from_pylist(rows, schema=part_schema)
        row_group_size = catalogs.ROW_GROUP_ROWS if is_read else None
        self.claim.prove()
        folders.write_new_part(self.out, part, table, row_group_size)  # else another execution of this task wrote it
        return pa.table({"num_rows": [len(table)]})

    def _read(self, rows: list[dict[str, Any]], decode: Decoder) -> list[dict[str, Any]]:
        pool = read_pool()
        try:
            outcomes = []
            num_unreachable = 0
            reads = members.reads([row["uri"] for row in rows], folders.archives(self.out), pool)
            tasks = (pool.submit(self._inspect, decode, row, read) for row, read in zip(rows, reads, strict=True))
            for row, error in objects.ahead(tasks, LOOK_AHEAD):
                num_unreachable = num_unreachable + 1 if error and error.status == "unreachable" else 0
                if error and (error.stops_the_job or num_unreachable == MAX_UNREACHABLE):
                    raise error
                outcomes.append((row, error))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # where one has failed, the others may take long to fail
        failed = {row["uri"]: error for row, error in outcomes if error}
        if failed:
            good = [row["uri"] for row, error in outcomes if not error][:1]
            check_store([*good, *(uri for uri in self.probes if uri not in failed)], next(iter(failed.values())))
        return [row for row, _ in outcomes]

    def _inspect(
        self, decode: Decoder, row: dict[str, Any], read: members.Read
    ) -> tuple[dict[str, Any], StoreError | None]:
        """The row with what its image tells, or with why it could not be read, which is the store's word then."""
        try:
            data = read(row["uri"], catalogs.as_listed(row["version"]), row["size_bytes"])
        except StoreError as error:
            return {**row, "read_error": f"{error.status}: {error}"}, error
        row = {**row, "content_hash": objects.sha256(data)}
        try:
            with DECODING:
                row |= decode.inspect(data)._asdict()
                if self.pack:
                    row["image"] = decode.pack(data, self.pack)
        except ImageError as error:
            row["read_error"] = f"{error.status}: {error}"
        return row, None


class ArchiveReader:
    """Reads what one archive of the source holds, which is kept beside the catalog. Runs in a Ray task."""

    def __init__(self, out: str, with_records: bool) -> None:
        self.out = out
        self.with_records = with_records

    def __call__(self, unit: pa.Table) -> pa.Table:
        index = expansion.read(unit["uri"][0].as_py(), unit["version"][0].as_py(), self.out, self.with_records)
        return pa.table({"num_rows": [len(index.members)]})


class FaceWriter:
    """Finds the faces in the photos of one part of a catalog and writes where they are. Runs in a Ray task.

    What cannot be read has no row. Raises the StoreError where the store delivers nothing.
    """

    def __init__(self, catalog: Catalog, geometry: FaceGeometry, claim: lease.Claim) -> None:
        self.out = catalog.uri
        self.catalog = catalog
        self.geometry = geometry
        self.claim = claim

    def __call__(self, unit: pa.Table) -> pa.Table:
        part = unit["part"][0].as_py()
        framing = Framing(self.geometry.size, geometry=self.geometry, only_largest=False)
        listed, rows = _photos_of(self.catalog, part)
        searched = _looked_at(
            self.catalog, rows, framing, faces.file_of(self.out, self.geometry, part), finder_of(framing).search
        )
        photos = ((row, photo) for row, photo in searched if isinstance(photo, Photo))
        found = [face for row, photo in photos for face in faces.rows_of(row, photo, self.geometry)]
        table = pa.Table.from_pylist(found, schema=schema.FACES)
        self.claim.prove()
        faces.write(self.out, self.geometry, part, table)
        return pa.table({"num_rows": [len(listed)], "num_faces": [sum(row["num_faces"] > 0 for row in found)]})


class FeatureWriter:
    """Makes the features of the photos of one part of a catalog and writes them. Runs in a Ray task.

    What cannot be read, or shows no face where faces are looked for, has no row. Raises as ``FaceWriter`` does.
    """

    def __init__(self, catalog: Catalog, source: FeatureSource, claim: lease.Claim) -> None:
        self.out = catalog.uri
        self.catalog = catalog
        self.source = source
        self.claim = claim

    def __call__(self, unit: pa.Table) -> pa.Table:
        part, table, framing = unit["part"][0].as_py(), features.table(self.source.digest), self.source.framing
        listed, rows = _photos_of(self.catalog, part)
        keys: list[dict[str, str]] = []
        waiting: list[Pixels] = []
        made: list[npt.NDArray[np.float16]] = []
        shown = _looked_at(self.catalog, rows, framing, table.file_of(self.out, part), finder_of(framing).find)
        for row, found in shown:
            if isinstance(found, list) and isinstance(found[0], Face):
                keys.append(row)
                waiting.append(found[0].pixels)
            if len(waiting) == FEATURE_PHOTOS:
                made.append(self.source.of(np.stack(waiting)))
                waiting = []
        if waiting:
            made.append(self.source.of(np.stack(waiting)))
        self.claim.prove()
        rows = features.as_rows(keys, made)
        table.write(self.out, part, rows, {"model": self.source.known.digest})
        return pa.table({"num_rows": [len(listed)], "num_faces": [len(keys)]})


def _photos_of(catalog: Catalog, part: str) -> tuple[pa.Table, pa.Table]:
    """All rows of a part, and those of photos that can be read and that no later listing names again."""
    columns = ["uri", "version", "size_bytes", "deleted", "read_error", "content_hash"]
    listed = catalog.read_part(part, columns)
    rows = listed.filter(pc.and_(pc.invert(listed["deleted"]), pc.is_null(listed["read_error"])))
    return listed, catalog.superseded().current(rows, catalogs.listing_of(part))


def _looked_at(
    catalog: Catalog, rows: pa.Table, framing: Framing, output: str, look: Callable[..., Iterator[tuple[Any, Any]]]
) -> Iterator[tuple[dict[str, Any], Any]]:
    """Each of ``rows`` whose photo the store delivers, and what a finder's ``look`` says of it, for the file
    ``output``. Raises the StoreError where the store delivers nothing."""
    failure: StoreError | None = None
    num_loaded = 0
    with read_pool() as pool, decoder(output) as decode:
        loaded = packed.load_faces(catalog.uri, rows, framing, catalog.holds_packed(framing), pool, decode)
        for row, found in look(zip(rows.to_pylist(), loaded, strict=True)):
            if isinstance(found, StoreError):
                failure = found
                if not found.is_about_one_file:
                    raise found
                continue
            num_loaded += 1
            yield row, found
    if failure and not num_loaded and not catalog.delivers_others(rows["uri"]):
        raise StoreError(failure.status, f"{failure}; none of the images tried could be read; is the source there?")


def check_store(probes: Sequence[str], failure: StoreError) -> None:
    """Raises ``failure`` where the store delivers none of some other images now: then it was no image's fault."""
    if not any(map(members.delivers, probes)):
        raise StoreError(failure.status, f"{failure}; none of the images tried could be read; is the source available?")


def run_lister(
    lister: changes.RangeLister, units: list[pa.Table], listed: Iterable[pa.Table], progress: ImageProgress
) -> Iterator[dict[str, int]]:
    """What each window of the listing brought: of the source, in ``units``, or else of what is ``listed`` already."""
    if units:
        context = ray.data.DataContext.get_current().copy()
        context.target_max_block_size = 1  # else a task's summaries would come when it ends, and not as it goes on
        with ray.data.DataContext.current(context):
            yield from run_work(units, lister, progress, num_cpus=1)
        return
    for window in lister.update(listed, number=0):
        (summary,) = window.to_pylist()
        yield summary
        progress.add(summary["num_rows"], progress.note)


def sorted_rows(files: list[str], source: str, few: int) -> Iterator[pa.Table]:
    """A listing made elsewhere in the order of URIs. More rows than a ``few`` are sorted by Ray, on disk where they do
    not fit into memory."""
    first = [listing.ROWS.empty_table()]
    for rows in chain.from_iterable(listing.read_rows(file, source) for file in files):
        first.append(rows)
        if sum(map(len, first)) > few:
            break
    else:
        yield pa.concat_tables(first).sort_by("uri")
        return
    start_ray()
    units = ray.data.from_arrow([pa.table({"file": [file]}) for file in files])
    rows = units.map_batches(
        lambda unit: listing.read_rows(unit["file"][0].as_py(), source), batch_size=None, batch_format="pyarrow"
    )
    yield from rows.sort("uri").iter_batches(batch_size=catalogs.LISTED_PART_ROWS, batch_format="pyarrow")
