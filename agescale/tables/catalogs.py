"""A catalog as a value: opened once, then asked for its settings, parts, current rows and findings. Writes no rows
(``cataloging`` does).

A catalog is a table (see ``folders``): ``part-<listing>-<number>.parquet`` (facts, immutable; the name sorts in the
order of listings), and in the folder beside it ``findings.parquet``, written last, whose metadata name the parts that
it covers. A catalog gets an identity when it is born, which all its parts and findings tell.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from agescale.ages.groups import AgeGroups
from agescale.faces.images import PHOTO_SIDE
from agescale.faces.loading import Framing
from agescale.store import members, objects, parquet, paths
from agescale.tables import folders, footers, schema

FINDINGS_NAME = "findings.parquet"
NUM_PROBES = 3
"""Images of a part that are tried, where nothing of a unit could be read."""
LISTED_ROWS = 100_000
"""Rows that are Python's values at once."""
ROW_GROUP_ROWS = 256
"""Rows of a row group in a part; the least that has to be read for one packed image."""
LISTED_GROUP_ROWS = 10_000
"""The same in a part of listed images, of which nothing was read."""
LISTED_PART_ROWS = 100_000
"""Most rows of such a part."""


LISTING_SUFFIX = r"@\d+$"
"""What a version ends in that came back: the number of the listing that found it again."""


def as_listed(version: str) -> str:
    """A row's version as the store tells it.

    >>> as_listed("9a0364b9e99bb480dd25e1f0284c8555@12"), as_listed("311-1600000000")
    ('9a0364b9e99bb480dd25e1f0284c8555', '311-1600000000')
    """
    return re.sub(LISTING_SUFFIX, "", version)


LAST = "\U0010ffff"
"""Sorts behind every letter that a name may hold."""


@dataclass(frozen=True)
class Part:
    """What the footer of a part says."""

    name: str
    num_rows: int
    first: str  # the least URI in it
    last: str  # the greatest
    replaces: bool  # whether it names images that were in the catalog before; rows of the others stand in other parts
    relabels: bool = False  # whether it holds rows of other parts again, with the same keys and new labels


def ask_part(file: str) -> Part:
    """Reads the footer of one part."""
    footer = parquet.read_footer(file)
    said = folders.metadata_in(file, footer.schema.to_arrow_schema(), "catalog")
    first, last = parquet.column_range(footer, "uri")
    last = last or (LAST if footer.num_rows else "")
    name, relabels = paths.name_of(file), said.get("relabels", False)
    return Part(name, footer.num_rows, first or "", last, said.get("replaces", True), relabels)


def findings_uri(uri: str, form: str = "parquet") -> str:
    """Where the findings are; as CSV they are for people alone."""
    return paths.join(folders.beside(uri), FINDINGS_NAME.replace("parquet", form))


@dataclass(frozen=True)
class Catalog:
    """A catalog as it was listed when it was opened, however it grows meanwhile.

    What has to be read, is read once, when it is asked for; all of it but the findings travels to other processes.
    """

    uri: str
    versions: Mapping[str, str] = field(repr=False, hash=False)  # of its parts, oldest listing first

    @classmethod
    def open(cls, uri: str) -> Catalog:
        """Costs one listing. Raises ValueError where there is none."""
        if found := cls.find(uri):
            return found
        raise folders.nothing_there(uri, "catalog", "make one with jobs/catalog.py --source PHOTOS --out CATALOG")

    @classmethod
    def find(cls, uri: str) -> Catalog | None:
        """As ``open``; None where there is none."""
        uri = paths.absolute(uri)
        versions = folders.list_versions(uri, "catalog")
        return cls(uri, versions) if versions else None

    def only(self, names: Collection[str]) -> Catalog:
        """The catalog as if it had no other parts than these."""
        return replace(self, versions={name: self.versions[name] for name in self.versions if name in names})

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "findings"}

    @property
    def names(self) -> list[str]:
        """Names of the parts, oldest listing first."""
        return list(self.versions)

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Costs a file, and a footer for each part that came since the catalog was last complete."""
        said = footers.read(self.uri, self.versions, lambda file: asdict(ask_part(file)))
        return tuple(Part(**facts) for facts in said.values())

    def keep_footers(self) -> None:
        """Keeps what the parts say in one file, for the next ``parts``. Only for who holds the catalog's lease."""
        footers.keep(self.uri, "catalog", {part.name: asdict(part) for part in self.parts})

    def file(self, part: str) -> str:
        """URI of a part."""
        return paths.join(self.uri, part)

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """What the newest part says: the ``id``, which all say alike, and the ``settings``, of which those of the
        labels may have changed since (``cataloging.relabelling``)."""
        return folders.read_metadata(self.file(self.names[-1]), "catalog")

    @property
    def id(self) -> str:
        """The identity, which no other catalog has, at the same place or elsewhere."""
        return str(self.metadata["id"])

    @property
    def settings(self) -> dict[str, Any]:
        """What the catalog was made with: source, layout, age_groups, split, pack, ..."""
        return dict(self.metadata["settings"])

    @property
    def source(self) -> str:
        """The folder of the photos."""
        return str(self.settings.get("source") or "")

    @property
    def age_groups(self) -> AgeGroups | None:
        """The groups that the labels are told in, or None."""
        text = self.settings.get("age_groups")
        return AgeGroups.parse(text) if text else None

    @property
    def has_boxes(self) -> bool:
        """Whether labels are of faces by their boxes, of which a photo may have several (``tables.labels``)."""
        return bool(self.settings.get("box_columns"))

    @property
    def pack(self) -> int:
        """The shorter side of the pictures in the parts, in pixels; 0 where there are none."""
        return int(self.settings.get("pack") or 0)

    def holds_packed(self, framing: Framing) -> bool:
        """Whether the packed pictures hold all that a model looks at."""
        if framing.geometry is not None:  # they are searched for faces, maybe small ones
            return self.pack >= PHOTO_SIDE
        return self.pack * framing.center_crop >= framing.size

    @property
    def places(self) -> dict[str, str]:
        """The folders of the catalog and of its photos, for ``Output.check``. Whoever keeps the catalog among
        the photos may keep there what is made of it, too."""
        is_among = f"{self.uri}/".startswith(f"{self.source}/")
        of_photos = {} if not self.source or is_among else {self.source: "the folder of the photos"}
        return {self.uri: "the catalog", folders.beside(self.uri): "what belongs to the catalog", **of_photos}

    @property
    def is_complete(self) -> bool:
        """Whether the job that makes the catalog came to its end."""
        findings = findings_uri(self.uri)
        covered = folders.read_metadata(findings, "findings") if objects.exists(findings) else {}
        return covered == {"id": self.id, "parts": self.names}

    def check_complete(self) -> None:
        """Raises ValueError where the job that makes the catalog did not come to its end."""
        if not self.is_complete:
            raise ValueError(f"{self.uri}: the catalog is not complete; run the same jobs/catalog.py command again")

    @cached_property
    def findings(self) -> pa.Table:
        uri = findings_uri(self.uri)
        found = [parquet.read_table(uri)] if objects.exists(uri) else []
        return pa.concat_tables([schema.FINDINGS.empty_table(), *found], promote_options="default")

    def excluded(self, kinds: Sequence[str] = schema.EXCLUDED_KINDS) -> pa.Table:
        """``uri, version, kind`` of the rows that training and metrics leave out."""
        is_one = pc.is_in(self.findings["kind"], pa.array(list(kinds)))
        return self.findings.filter(is_one).select(["uri", "version", "kind"])

    def hidden_name(self, uri: str) -> str:
        """Stands for the name of an image where names are not to be shown: who has the catalog, whose id it hangs on,
        can tell which one it is; nobody else can try names until one fits."""
        return hashlib.sha256(f"{self.id}\n{uri}".encode()).hexdigest()[:16]

    def read_part(self, part: str, columns: Sequence[str]) -> pa.Table:
        """``columns`` of all rows of one part, with ``part`` and ``row``, which say where each stands."""
        table = parquet.read_table(self.file(part), list(columns), schema=schema.CATALOG)
        table = table.append_column("part", pa.array([part] * len(table), pa.string()))
        return table.append_column("row", pa.array(np.arange(len(table)), pa.int64()))

    def read(self, columns: Sequence[str], choose: Callable[[pa.Table], pa.Table] = lambda rows: rows) -> pa.Table:
        """``columns`` of the current rows (the newest of each URI, unless deleted) with their newest labels, and
        ``part`` and ``row`` added, which say where the image was listed. Of the rows of each part it keeps what
        ``choose`` leaves, so that no more is ever held.

        Never ask for ``image`` here: it would hold all pictures at once; ``load_faces`` reads them where they are
        needed.
        """
        return pa.concat_tables([choose(rows) for rows in self.current_rows(columns)])

    def current_rows(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The rows of ``read``, part by part in their order."""
        assert "image" not in columns, "images are read by load_faces"
        superseded, new_labels = self.superseded(), self.new_labels()
        wanted, told = list(dict.fromkeys([*columns, "uri", "version", "deleted"])), [*columns, "part", "row"]
        for part in self.parts:
            if not part.relabels:
                rows = self.read_part(part.name, wanted)
                rows = superseded.current(rows.filter(pc.invert(rows["deleted"])), listing_of(part.name))
                yield new_labels.told(rows).select(told)

    def superseded(self) -> Superseded:
        return Superseded(self.uri, self.parts)

    def new_labels(self) -> NewLabels:
        return NewLabels(self.uri, self.parts)

    def delivers_others(self, but: pa.ChunkedArray) -> bool:
        """Whether the store delivers any of some images other than ``but``: then it is not the store's fault that those
        cannot be read."""
        for part in dict.fromkeys([self.names[0], self.names[len(self.names) // 2], self.names[-1]]):
            rows = parquet.read_table(self.file(part), ["uri", "deleted"])
            is_other = pc.invert(pc.or_(rows["deleted"], pc.is_in(rows["uri"], but.combine_chunks())))
            others = rows["uri"].filter(is_other).to_pylist()
            if any(map(members.delivers, others[:: max(1, len(others) // NUM_PROBES)][:NUM_PROBES])):
                return True
        return False


def keys_of(rows: pa.Table) -> pa.Array:
    """One text for the key (uri, version) of each row of either table."""
    return pc.binary_join_element_wise(rows["uri"], rows["version"], "\n").combine_chunks()


def current(rows: pa.Table) -> pa.Table:
    """Of rows of a catalog in the order of its parts the newest of each URI, unless it is deleted."""
    if pc.count_distinct(rows["uri"]).as_py() < len(rows):
        numbered = rows.append_column("position", pa.array(np.arange(len(rows)), pa.int64()))
        positions = numbered.group_by("uri").aggregate([("position", "max")])["position_max"]
        rows = rows.take(positions.combine_chunks().sort())
    return rows.filter(pc.invert(rows["deleted"]))


def part_prefix(listing: int, range_number: int | None = None) -> str:
    """What the names of the parts of a listing begin with, or of those of one of the ranges of names that it has."""
    return f"part-{listing:05d}-" + ("" if range_number is None else f"{range_number:04d}")


def part_name(listing: int, number: int, range_number: int | None = None) -> str:
    """The name of a part, which sorts in the order of listings.

    >>> part_name(12, 3), part_name(12, 3, range_number=1)
    ('part-00012-000003.parquet', 'part-00012-0001000003.parquet')
    """
    return f"{part_prefix(listing, range_number)}{number:06d}.parquet"


def listing_of(part: str) -> int:
    """The number of the listing that a part comes from.

    >>> listing_of("part-00012-000003.parquet")
    12
    """
    return int(part.split("-")[1])


class Superseded:
    """Which rows are not current, because a later listing names their image again.

    Of the later listings only parts that replace rows are read, and only once where they have at most MAX_HELD_ROWS
    together; else, part by part, what lies between the URIs that are asked for. So memory does not grow with a catalog.
    """

    MAX_HELD_ROWS = 1_000_000
    PROBED_ROWS = 200_000  # URIs of later listings that are compared at once

    def __init__(self, uri: str, parts: Sequence[Part]) -> None:
        self.uri = uri
        self.parts = [part for part in parts if part.replaces]
        self.can_hold = sum(part.num_rows for part in self.parts) <= self.MAX_HELD_ROWS

    def current(self, rows: pa.Table, listing: int) -> pa.Table:
        """Of ``rows`` (column uri) of that listing those whose image no later one names."""
        return rows.filter(pc.invert(self.among(rows, listing)))

    def among(self, rows: pa.Table, listing: int) -> pa.Array:
        """Whether the image of each of ``rows`` (column uri) of that listing is named by a later one: bool (N,)."""
        uris = rows["uri"].combine_chunks()
        is_named = np.zeros(len(uris), bool)
        later = [part for part in self.parts if listing_of(part.name) > listing]
        if later and len(uris):
            extent = pc.min_max(uris).as_py()
            later = [part for part in later if part.first <= extent["max"] and part.last >= extent["min"]]
            for again in self._uris(later, extent["min"], extent["max"]):
                is_named[pc.index_in(again, value_set=uris).drop_null().to_numpy()] = True
        return pa.array(is_named)

    def _uris(self, parts: Sequence[Part], low: str, high: str) -> Iterator[pa.Array]:
        """URIs of ``parts``, at least those from ``low`` to ``high``."""
        held: list[pa.Array] = []
        for part in parts:
            if self.can_hold:
                held.append(self._held[part.name])
            else:
                between = (pc.field("uri") >= low) & (pc.field("uri") <= high)
                held.append(_read_uris(paths.join(self.uri, part.name), between))
            if sum(map(len, held)) >= self.PROBED_ROWS:
                yield pa.concat_arrays(held)
                held = []
        if held:
            yield pa.concat_arrays(held)

    @cached_property
    def _held(self) -> Mapping[str, pa.Array]:
        names = [part.name for part in self.parts]
        with objects.read_pool() as pool:
            return dict(zip(names, pool.map(lambda name: _read_uris(paths.join(self.uri, name)), names), strict=True))


LABEL_COLUMNS = (*schema.BOX_LABEL, "label_error", "boxes")
"""What a part that relabels tells anew."""


class NewLabels:
    """What parts that relabel tell of rows that stand in other parts, by their keys. A row's image is none of their
    business, so scoring passes them over. All that they tell is held: images with labels can be held anyway."""

    def __init__(self, uri: str, parts: Sequence[Part]) -> None:
        self.files = [paths.join(uri, part.name) for part in parts if part.relabels]

    def told(self, rows: pa.Table) -> pa.Table:
        """``rows`` (columns uri, version) with those of LABEL_COLUMNS that they have as they were told last."""
        if not self.files or not len(rows):
            return rows
        place = pc.index_in(keys_of(rows), value_set=self._keys)
        is_told = pc.is_valid(place)
        for name in set(LABEL_COLUMNS) & set(rows.column_names):
            column = pc.if_else(is_told, self._newest[name].take(place), rows[name])
            rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), column)
        return rows

    @cached_property
    def _newest(self) -> pa.Table:
        rows = parquet.read_tables(self.files, ["uri", "version", *LABEL_COLUMNS], schema.CATALOG)
        numbered = rows.append_column("position", pa.array(np.arange(len(rows)), pa.int64()))
        positions = numbered.group_by(["uri", "version"]).aggregate([("position", "max")])["position_max"]
        return rows.take(positions)

    @cached_property
    def _keys(self) -> pa.Array:
        return keys_of(self._newest)


def _read_uris(file: str, filters: pc.Expression | None = None) -> pa.Array:
    return parquet.read_table(file, ["uri"], filters)["uri"].combine_chunks()


def group_indices(rows: pa.Table, groups: AgeGroups) -> np.ndarray:
    """Index into ``groups`` (N,) of each row's label (age_low, age_high, group), -1 where it falls into none."""
    known: dict[tuple[float | None, float | None, str | None], int] = {}
    indices: list[np.ndarray] = [np.zeros(0, np.int64)]
    for batch in rows.select(["age_low", "age_high", "group"]).to_batches(max_chunksize=LISTED_ROWS):
        labels = list(zip(*(column.to_pylist() for column in batch.columns), strict=True))
        for label in set(labels) - known.keys():
            index = groups.index_of_label(*label)
            known[label] = -1 if index is None else index
        indices.append(np.array([known[label] for label in labels], np.int64))
    return np.concatenate(indices)
