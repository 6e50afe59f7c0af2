"""Images of a catalog as tar shards, as WebDataset reads them, each with what the catalog tells of it beside it.

    <out>/shard-<listing>-<number>-<first row>.tar      17.jpg, 17.json, ...; whole or not at all
    <out>.agescale/pack.json                            of which catalog they are, and how large they may be
    <out>.agescale/left-out-<shard>.json                images that could not be read, and why

A shard's rows, and so its name, are decided by the catalog's part alone: the same command goes on behind a kill, and
packs what a catalog has grown by. Images are copied as they are.
"""

from __future__ import annotations

import io
import json
import math
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from agescale.ages.labels import is_exact
from agescale.config import PackConfig
from agescale.runtime import nodes
from agescale.runtime.cluster import is_cluster_at_hand, start_ray
from agescale.runtime.progress import ImageProgress
from agescale.runtime.resources import check_resources
from agescale.runtime.work import FEW_IMAGES, run_here, run_work
from agescale.store import lease, members, objects, paths
from agescale.store.errors import StoreError
from agescale.store.outputs import Output, check_unchanged
from agescale.tables import catalogs, folders, units
from agescale.tables.catalogs import Catalog, Part
from agescale.tables.units import Unit

BEGUN_NAME = "pack.json"
SHARD = re.compile(r"shard-[\d-]+\.tar")
UNKNOWN_BYTES = 100_000
"""Taken for the size of an image whose listing tells none."""
SAID = ("subject", "gender", "ethnicity", "split")
"""Columns of the catalog that a record tells, beside the label."""


@dataclass(frozen=True)
class Packed:
    """Shards that stand, and of those written now images, and images that could not be read."""

    num_shards: int
    num_images: int
    num_left_out: int


def pack(config: PackConfig) -> Packed:
    """Writes the shards that do not stand yet. Raises ValueError, before any work, where it cannot."""
    config = paths.with_absolute_uris(config)
    out, catalog = config.out, Catalog.open(config.catalog)
    catalog.check_complete()
    output = Output(
        out, "a folder of shards", lambda name: None if SHARD.fullmatch(name) else name, folders.beside(out)
    )
    output.check(catalog.places)
    with output.held(config.lease) as held:
        _begin(out, {"catalog_id": catalog.id, "shard_mb": config.shard_mb})
        wanted = {name_of(unit): unit for part in catalog.parts for unit in shards_of(catalog, part, config.shard_mb)}
        standing = set(objects.list_names(out, suffix=".tar"))
        todo = [pa.Table.from_pylist([vars(unit)]) for name, unit in wanted.items() if name not in standing]
        num_rows = sum(unit["stop"][0].as_py() - unit["start"][0].as_py() for unit in todo)
        num_images = num_left_out = 0
        writer = ShardWriter(catalog, out, held.claim)
        by_ray = num_rows > FEW_IMAGES or (num_rows > 0 and is_cluster_at_hand())
        with ImageProgress("packing", num_rows) as progress:
            for done in _run_by_ray(todo, writer, progress) if by_ray else run_here(todo, writer, progress):
                held.check()
                num_images += done["num_images"]
                num_left_out += done["num_left_out"]
    return Packed(len(wanted), num_images, num_left_out)


def _run_by_ray(todo: list[pa.Table], writer: ShardWriter, progress: ImageProgress) -> Iterator[dict[str, Any]]:
    start_ray()
    check_resources(1, cpus_per_worker=1, gpus_per_worker=0)
    nodes.check_shared(folders.beside(writer.out))
    yield from run_work(todo, writer, progress, num_cpus=1)


def _begin(out: str, settings: dict[str, Any]) -> None:
    uri = paths.join(folders.beside(out), BEGUN_NAME)
    if not objects.exists(uri):
        objects.write_bytes(uri, json.dumps(settings).encode())
    try:
        before = dict(json.loads(objects.read_bytes(uri)))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{uri}: damaged; delete it, and the shards in {out}, and pack again") from error
    check_unchanged(out, "other shards", before, settings)


def shards_of(catalog: Catalog, part: Part, shard_mb: int) -> list[Unit]:
    """The rows of one part, cut where a shard would hold more than so many megabytes, or as many rows as a unit may."""
    if part.relabels or not part.num_rows:
        return []
    sizes = catalog.read_part(part.name, ["size_bytes"])["size_bytes"].fill_null(UNKNOWN_BYTES).to_numpy()
    place_N = np.cumsum(sizes + 2 * tarfile.BLOCKSIZE) - 1
    shard_N = np.maximum(place_N // (shard_mb * 10**6), np.arange(len(sizes)) // units.MAX_UNIT_ROWS)
    starts = [0, *(np.flatnonzero(np.diff(shard_N)) + 1).tolist(), len(sizes)]
    return [Unit(part.name, start, stop) for start, stop in pairwise(starts)]


def name_of(unit: Unit) -> str:
    """
    >>> name_of(Unit("part-00001-000000.parquet", 2000, 3000))
    'shard-00001-000000-000002000.tar'
    """
    return f"shard-{unit.part.removeprefix('part-').removesuffix('.parquet')}-{unit.start:09d}.tar"


@dataclass(frozen=True)
class ShardWriter:
    """Reads the images of some rows of a part, and writes them as one shard. Runs in a Ray task.

    What is gone or another by now is left out, and told; a store that fails stops the job.
    """

    catalog: Catalog
    out: str
    claim: lease.Claim

    def __call__(self, work: pa.Table) -> pa.Table:
        (fields,) = work.to_pylist()
        unit = Unit(**fields)
        columns = ["size_bytes", *dict.fromkeys([*catalogs.LABEL_COLUMNS, *SAID])]
        rows = units.listed_rows(self.catalog, unit, (), columns)
        rows = self.catalog.superseded().current(rows, catalogs.listing_of(unit.part))
        rows = self.catalog.new_labels().told(rows)
        buffer, left_out, times = io.BytesIO(), [], Counter[str]()
        with objects.read_pool() as pool, tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as shard:
            told = rows.to_pylist()
            reads = members.reads(rows["uri"].to_pylist(), folders.archives(self.catalog.uri), pool)
            tasks = (pool.submit(_read, row, read) for row, read in zip(told, reads, strict=True))
            for row, data in zip(told, objects.ahead(tasks, num_ahead=64), strict=True):
                if isinstance(data, StoreError):
                    if not data.is_about_one_file:
                        raise data
                    left_out.append({"uri": row["uri"], "status": data.status, "error": str(data)})
                else:
                    self._add(shard, times, row, data)
        name = name_of(unit)
        beside = folders.beside(self.out)
        self.claim.prove()
        if left_out:
            report = paths.join(beside, f"left-out-{name.removesuffix('.tar')}.json")
            objects.write_bytes(report, json.dumps(left_out, indent=1).encode())
        objects.write_new(paths.join(self.out, name), buffer.getvalue(), scratch=beside)
        counts = {"num_rows": len(unit), "num_images": len(rows) - len(left_out), "num_left_out": len(left_out)}
        return pa.Table.from_pylist([counts])

    def _add(self, shard: tarfile.TarFile, times: Counter[str], row: Mapping[str, Any], data: bytes) -> None:
        """Puts an image and its record behind the others. Of those that WebDataset would take for one, because their
        names are the same up to the first dot, the later ones get a number."""
        name = row["uri"].removeprefix(paths.join(self.catalog.source, "")).replace("!/", "/").lstrip("/")
        record = record_of(row)
        folder, slash, file = name.rpartition("/")
        stem, dot, ending = file.partition(".")
        key = f"{folder}{slash}{stem}"
        times[key] += 1
        key += f"~{times[key]}" if times[key] > 1 else ""
        beside = {f"{key}.json": json.dumps(record).encode()} if record else {}
        for each, content in {f"{key}{dot}{ending}": data, **beside}.items():
            info = tarfile.TarInfo(each)
            info.size = len(content)
            shard.addfile(info, io.BytesIO(content))


def _read(row: Mapping[str, Any], read: members.Read) -> bytes | StoreError:
    try:
        return read(row["uri"], catalogs.as_listed(row["version"]), row["size_bytes"])
    except StoreError as error:
        return error


def record_of(row: Mapping[str, Any]) -> dict[str, str]:
    """What the catalog tells of an image, as ``jobs/catalog.py --layout records --label-column label`` reads it.

    >>> record_of({"age_low": 60.0, "age_high": math.inf, "gender": "f"})
    {'label': '60+', 'gender': 'f'}
    """
    low, high = row.get("age_low"), row.get("age_high")
    label = row.get("group")
    if low is not None and high is not None:
        is_open = math.isinf(high)
        label = f"{low:g}+" if is_open else f"{low:g}" if is_exact(low, high) else f"{low:g}-{high - 1:g}"
    told = {"label": label, **{name: row.get(name) for name in SAID}}
    return {name: str(value) for name, value in told.items() if value is not None}
