"""What is in a folder or bucket: a URI in, its files in the order of their names out, a page at a time.

Memory is flat however many there are, names can be cut into ranges that many tasks list at once, and a listing that was
made elsewhere (an inventory, say) is read as one of our own. Reads no file and knows nothing of catalogs.
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from agescale.store import client, objects, parquet, paths
from agescale.store.errors import StoreError

PAGE_FILES = 1000
"""Files of a page; the most that an object store tells in one answer."""
LAST = "\U0010ffff"
"""Sorts behind every letter that a name may hold."""

NUM_PROBES, PROBES_PER_RANGE = 2000, 16
"""Requests that show where the files are, before they are listed in so many ranges: some seconds, 16 at a time."""
MAX_LETTERS = 1000
"""Requests for the letters behind one beginning of names, one after the other."""
PIECES = 100
"""Pieces of a page that is known; between them may be cut."""


@dataclass(frozen=True)
class Listed:
    """One listed file: its URI, its path below the listed folder, its version and its size in bytes.

    The version of what is no file to be read (a named pipe, a socket, a device, a link that leads nowhere) is "".
    """

    uri: str
    relative: str
    version: str
    size_bytes: int
    run: str = ""  # of members of an archive: those that lie beside one another have the same
    record: str = ""  # what the archive tells of the member, as JSON


def list_files(uri: str) -> list[Listed]:
    """All that ``pages`` tells, at once."""
    return [item for page in pages(uri) for item in page]


def check_name(file: str) -> None:
    """Raises ValueError where the name of a folder is not UTF-8, so that no table could hold it."""
    try:
        file.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{os.fsencode(file)!r}: a name that is not UTF-8; rename the folder") from None


def pages(uri: str, after: str = "", until: str | None = None) -> Iterator[list[Listed]]:
    """Every file below ``uri`` whose relative path is greater than ``after`` and at most ``until``, in their order.

    Paths sort as text, as S3 sorts keys: ``a-b.jpg``, ``a.jpg``, ``a/b.jpg``. Hidden files and folders (a name that
    starts with a dot) are left out. Links are followed, but not to a folder that they stand in. Versions: the etag on
    S3, size and modification time on disk. Holds the names of one folder on disk, and one page on S3.

    Bytes of a name that are no UTF-8 stand as ``paths.table_name`` writes them.

    Raises StoreError where ``uri`` is missing, ValueError where that itself is not UTF-8.
    """
    uri = paths.absolute(uri)
    if archive := archive_of(uri):
        found = iter(_describe_archive(archive))
    elif not paths.is_remote(uri):
        check_name(uri)
        if not os.path.isdir(paths.local_path(uri)):
            raise StoreError("missing", f"{uri}: no such folder")
        found = _walk(partial(_read_folder, uri), partial(_describe_file, uri), "", after, until)
    elif _lists_by_name(uri):
        found = _read_range(uri, after, until)
    else:
        found = _walk(partial(_read_prefix, uri), partial(_describe_object, uri), "", after, until)
    num_found = 0
    while page := list(itertools.islice(found, PAGE_FILES)):
        num_found += len(page)
        yield page
    if archive and not num_found:
        raise StoreError("missing", f"{archive}: no such file")
    if paths.is_remote(uri) and not num_found and (after, until) == ("", None):
        raise StoreError("missing", f"{uri}: no such folder, or nothing in it")


def cut(uri: str, num: int) -> list[tuple[str, str | None]]:
    """About ``num`` ranges of relative paths, ``(after, until)`` as ``pages`` takes them, that hold every file once.

    Where the store can jump to any name they are of like size (the largest has hardly ever four times its share), as
    far as some NUM_PROBES + ``num`` PROBES_PER_RANGE requests tell; fewer where pages are fewer. Elsewhere they are cut
    at folders, whose names are asked for about as often as there are ranges, and nothing is known of their sizes.
    """
    uri = paths.absolute(uri)
    if archive_of(uri):
        return [("", None)]
    if paths.is_remote(uri) and _lists_by_name(uri):
        spans = _spans(uri, num)
        ends = np.cumsum([0, *(span.num_files for span in spans)])
        lasts = np.searchsorted(ends[1:-1], ends[-1] * np.arange(1, num) / num)
        cuts = list(dict.fromkeys(span.after for last in lasts.tolist() for span in spans[last + 1 : last + 2]))
    else:
        prefixes = _folders(partial(_read_prefix if paths.is_remote(uri) else _read_folder, uri), num)
        cuts = prefixes[:: math.ceil(len(prefixes) / num)][1:]
    cuts = sorted(set(map(_behind_archive, cuts)))
    return list(zip(["", *cuts], [*cuts, None], strict=True))


def _behind_archive(path: str) -> str:
    """A place to cut that does not lie between an archive and its members, or among these.

    >>> _behind_archive("a/b.jpg"), _behind_archive("a/b.tar") == f"a/b.tar!/{LAST}"
    ('a/b.jpg', True)
    """
    found = ARCHIVE_BEFORE.match(path)
    return f"{found[0]}!/{LAST}" if found else path


ARCHIVE_BEFORE = re.compile(rf"(?is).*?(?:{'|'.join(map(re.escape, paths.ARCHIVES))})(?=[\0-!]|$)")
"""The name of an archive that may stand before a path whose members stand behind it."""


def archive_of(source: str) -> str:
    """The archive whose members ``source`` (``paths.members_of``) stands for, or nothing."""
    found = paths.archive_and_member(source)
    return found[0] if found and not found[1] else ""


def as_folder(source: str) -> str:
    """What a source is listed as: an archive by the folder of its members, unless its name is a folder's."""
    return paths.members_of(source) if paths.is_archive(source) and _describe_archive(source) else source


def _describe_archive(uri: str) -> list[Listed]:
    """The one file of that URI, if it is there."""
    folder, _, name = uri.rpartition("/")
    if paths.is_remote(uri):
        key = paths.bucket_and_key(uri)[1]
        found = objects.list_objects(uri, Prefix=key, MaxKeys=1).get("Contents", [])
        return [_describe_object(folder, name, each) for each in found if each["Key"] == key]
    status = objects.describe_file(uri)
    is_file = status is not None and stat.S_ISREG(status.st_mode)
    return [Listed(uri, name, objects.file_version(status), status.st_size)] if status and is_file else []


# One folder after the other: on disk, and on stores that keep objects in folders


Entries = Iterator[tuple[str, Any]]
"""Relative paths of what a folder holds, folders with a slash behind, in their order, each with what is known of it."""


def _walk(
    read: Callable[[str], Entries],
    describe: Callable[[str, Any], Listed | None],
    folder: str,
    after: str,
    until: str | None,
) -> Iterator[Listed]:
    for path, info in read(folder):
        if until is not None and path > until:
            return
        if path.endswith("/"):
            if path > after or after.startswith(path):
                yield from _walk(read, describe, path, after, until)
        elif path > after and (item := describe(path, info)):
            yield item


def _read_folder(uri: str, folder: str) -> Entries:
    for name in sorted(objects.scan_folder(os.path.join(uri, folder))):
        if not name.startswith(".") and not (name.endswith("/") and _leads_back(uri, folder, name[:-1])):
            yield folder + name, None


def _leads_back(uri: str, folder: str, name: str) -> bool:
    """Whether a folder is a link to one that it stands in: it would be walked forever."""
    path = paths.local_path(os.path.join(uri, folder, name))
    if not os.path.islink(path):
        return False
    above = itertools.accumulate([uri, *folder.split("/")], os.path.join)
    return os.path.realpath(path) in map(os.path.realpath, map(paths.local_path, above))


def _describe_file(uri: str, path: str, info: None) -> Listed | None:
    file = os.path.join(uri, path)
    status = objects.describe_file(file)
    if status and objects.can_be_read(status):
        return Listed(file, path, objects.file_version(status), status.st_size)
    return Listed(file, path, "", 0) if os.path.lexists(paths.local_path(file)) else None  # else it is gone


def _read_prefix(uri: str, folder: str) -> Entries:
    """A folder of a store that tells names in the order of files and folders, ``a`` before ``a-b``, not of paths."""
    waiting: list[tuple[str, Any]] = []
    for answer in _answers(uri, folder, Delimiter="/"):
        entries = _objects(uri, answer)
        entries += [(_relative(uri, each["Prefix"]), None) for each in answer.get("CommonPrefixes", [])]
        for path, info in sorted(entries, key=lambda entry: entry[0].removesuffix("/")):
            if path[len(folder) :].startswith("."):
                continue
            heapq.heappush(waiting, (path, info))
            while waiting and waiting[0][0] <= path.removesuffix("/"):  # what comes yet is greater than this name
                yield heapq.heappop(waiting)
    yield from sorted(waiting)


def _folders(read: Callable[[str], Entries], num: int) -> list[str]:
    """At least ``num`` folders that hold everything, where there are so many, and the files beside them."""
    prefixes, has_grown = [""], True
    with objects.read_pool() as pool:
        while has_grown and len(prefixes) < num:
            longer = list(pool.map(partial(_subfolders, read), prefixes))
            has_grown = any(longer)
            prefixes = [each for prefix, found in zip(prefixes, longer, strict=True) for each in found or [prefix]]
    return prefixes


def _subfolders(read: Callable[[str], Entries], folder: str) -> list[str]:
    """Those of a folder, and the archives in it, which hold files, too."""
    if folder and not folder.endswith("/"):
        return []
    return [path for path, _ in read(folder) if path.endswith("/") or paths.is_archive(path)]


# Any range of names at once: stores that sort keys


def _lists_by_name(uri: str) -> bool:
    """Whether a store tells keys in the order of their text, as S3 does, and not a folder after the other.

    The first folder ``x/`` has to come behind all names that start with ``x.``.
    """
    root = _key(uri, "")
    for each in objects.list_objects(uri, Prefix=root, Delimiter="/", MaxKeys=PAGE_FILES).get("CommonPrefixes", [])[:1]:
        folder = each["Prefix"]
        behind = objects.list_objects(uri, Prefix=root, StartAfter=f"{folder[:-1]}.{LAST}", MaxKeys=1)
        return any(item["Key"].startswith(folder) for item in behind.get("Contents", []))
    return True


def _read_range(uri: str, after: str, until: str | None) -> Iterator[Listed]:
    arguments = {"StartAfter": _key(uri, after)} if after else {}
    last = after
    for answer in _answers(uri, "", **arguments):
        for path, info in _objects(uri, answer):
            if until is not None and path > until:
                return
            if path <= last:
                raise StoreError("unreachable", f"{uri}: the store lists {path} behind {last}; no S3 listing does")
            last = path
            if "/." not in f"/{path}":
                yield _describe_object(uri, path, info)


@dataclass(frozen=True)
class _Span:
    """Some files in a row: those behind ``after``, about so many. Where they are more than a page, ``prefix`` is what
    all of their names start with, and ``level`` how many letters have been told apart to get here."""

    after: str
    num_files: float
    prefix: str | None = None
    level: int = 0


def _spans(uri: str, num_ranges: int) -> list[_Span]:
    """Everything below ``uri``, in order, in spans that are small beside a range.

    A span of many files is cut letter by letter: in turns those that seem to hold a good part of a range, the largest
    first, and, because what their first page promises may be wrong, those that have been looked at least.
    """
    spans, num_left = [_Span("", math.inf, "")], NUM_PROBES + PROBES_PER_RANGE * num_ranges
    at_once = client.NUM_READ_THREADS
    with objects.read_pool() as pool:
        while num_left > 0 and (unknown := [span for span in spans if span.prefix is not None]):
            enough = sum(span.num_files for span in spans) / num_ranges / 4
            large = [span for span in unknown if span.num_files > enough]
            chosen = heapq.nlargest(at_once, large, key=lambda span: span.num_files)
            chosen += heapq.nsmallest(at_once, unknown, key=lambda span: span.level)
            chosen = list(dict.fromkeys(chosen))
            closer = dict(zip(chosen, pool.map(partial(_by_letters, uri), chosen), strict=True))
            num_left -= sum(num_asked for _, num_asked in closer.values())
            spans = [each for span in spans for each in (closer[span][0] if span in closer else [span])]
    return spans


def _by_letters(uri: str, span: _Span) -> tuple[list[_Span], int]:
    """A span of many files cut at the next letter of their names, and the number of requests that it took.

    A letter of few names is known when a page ends behind it, and cut between any of them. One that fills a page
    becomes a span of its own, of as many files as ``_num_files`` makes of that page.
    """
    spans: list[_Span] = []
    num_asked, after, prefix = 0, span.after, span.prefix or ""
    while num_asked < MAX_LETTERS:
        paths, is_all = _paths_behind(uri, prefix, after, PAGE_FILES)
        num_asked += 1
        letter = paths[-1][: len(prefix) + 1] if paths and not is_all else None
        few = [path for path in paths if letter is None or not path.startswith(letter)]
        if few:
            step = math.ceil(len(few) / PIECES)
            starts = [after, *few[step - 1 :: step]]
            pieces = (few[start : start + step] for start in range(0, len(few), step))
            spans += [_Span(start, len(piece)) for start, piece in zip(starts, pieces, strict=False)]
            after = few[-1]
        elif letter is not None:
            common = _common(paths[0], paths[-1])
            branches = _branches(uri, letter, common)
            longest = (branches or [common])[-1]
            num_asked += len(branches) + (longest != letter)
            spans.append(_Span(letter, _num_files(paths, common, len(branches)), longest, span.level + 1))
            after = letter + LAST
        if letter is None:
            return spans, num_asked
    return [
        *spans,
        _Span(after, sum(each.num_files for each in spans)),
    ], num_asked  # of a script of thousands of letters


def _branches(uri: str, prefix: str, path: str) -> list[str]:
    """Where later names that start with ``prefix`` part from ``path``, which starts with it, too: ever shorter
    beginnings of it, the last of which all of them have."""
    found: list[str] = []
    while len(path) > len(prefix):
        behind, _ = _paths_behind(uri, prefix, path + LAST, 1)
        if not behind:
            break
        path = _common(path, behind[0])
        found.append(path)
    return found


def _common(one: str, other: str) -> str:
    """What two names begin with alike.

    >>> _common("2026/07/15", "2026/08/01")
    '2026/0'
    """
    alike = itertools.takewhile(lambda letters: letters[0] == letters[1], zip(one, other, strict=False))
    return one[: sum(1 for _ in alike)]


def _num_files(paths: Sequence[str], common: str, num_branches: int) -> float:
    """About how many files there are of which ``paths`` are the first and all start with ``common``: as if the letters
    behind it went on as densely, and there were as many letters at each of the branches before.

    Half of what starts with "00", one branch up, where there are 16 letters:

    >>> round(_num_files([f"00{number:02x}" for number in range(128)], "00", num_branches=1))
    4096
    """
    tails = [path[len(common) :] for path in paths]
    num_letters = [len({tail[place : place + 1] for tail in tails}) for place in range(4)]
    num_pairs = len({tail[:2] for tail in tails})
    return len(paths) * max(num_letters) * num_letters[1] / num_pairs * float(max(num_letters)) ** num_branches


def _paths_behind(uri: str, prefix: str, after: str, most: int) -> tuple[list[str], bool]:
    """The first ``most`` relative paths that start with ``prefix`` and sort behind ``after``; whether these are all."""
    answer = objects.list_objects(uri, Prefix=_key(uri, prefix), StartAfter=_key(uri, after), MaxKeys=most)
    return [_relative(uri, item["Key"]) for item in answer.get("Contents", [])], not answer["IsTruncated"]


def _answers(uri: str, folder: str, **arguments: Any) -> Iterator[dict[str, Any]]:
    yield from objects.list_pages(uri, Prefix=_key(uri, folder), MaxKeys=PAGE_FILES, **arguments)


def _objects(uri: str, answer: dict[str, Any]) -> list[tuple[str, Any]]:
    found = ((_relative(uri, item["Key"]), item) for item in answer.get("Contents", []))
    return [(path, item) for path, item in found if path and not path.endswith("/")]  # those stand for folders


def _describe_object(uri: str, path: str, info: dict[str, Any]) -> Listed:
    version = str(info.get("ETag", "")).strip('"') or f"{info['Size']}-{info.get('LastModified')}"
    return Listed(paths.join(uri, path), path, version, int(info["Size"]))


def _key(uri: str, path: str) -> str:
    """The key of a path below ``uri``; the prefix of all of them where it is empty."""
    root = uri.removeprefix("s3://").partition("/")[2]
    return f"{root}/{path}" if root else path


def _relative(uri: str, key: str) -> str:
    return key.removeprefix(_key(uri, ""))


# Listings made elsewhere


ROWS = pa.schema([("uri", pa.string()), ("version", pa.string()), ("size_bytes", pa.int64())])
"""A listing as a table."""
SUFFIXES = (".parquet", ".csv", ".csv.gz")


def to_table(page: list[Listed]) -> pa.Table:
    columns = [[getattr(item, name) for item in page] for name in ROWS.names]
    return pa.table(columns, schema=ROWS)


def files_of(uri: str) -> list[str]:
    """The files of a listing: one, those in a folder, or those that the manifest.json of an S3 inventory names."""
    uri = paths.absolute(uri)
    if uri.endswith(".json"):
        try:
            manifest = json.loads(objects.read_bytes(uri))
            bucket = f"s3://{manifest['destinationBucket'].rpartition(':')[2]}"
            if manifest["fileFormat"] == "Parquet" and manifest["files"]:
                return [paths.join(bucket, file["key"]) for file in manifest["files"]]
        except (ValueError, KeyError, TypeError):
            pass
        raise ValueError(f"{uri}: no manifest of an S3 inventory in the format Parquet")
    if uri.endswith(SUFFIXES):
        return [uri]
    names = [name for name in objects.list_names(uri) if name.endswith(SUFFIXES)]
    if not names:
        raise ValueError(f"{uri}: no listing there; it is a file, or a folder of files, {' '.join(SUFFIXES)}")
    return [paths.join(uri, name) for name in names]


def read_rows(file: str, source: str) -> Iterator[pa.Table]:
    """One file of a listing as tables of ROWS, in its own order; names and keys without a bucket are below ``source``.

    Raises ValueError where columns are missing, or a row has no URI or no version.
    """
    first = 1
    for batch in parquet.iter_batches(file):
        columns = {name.lower(): batch.column(index) for index, name in enumerate(batch.schema.names)}
        version = _one_of(columns, "version", "etag", "e_tag")
        uri = _uris(columns, paths.absolute(source))
        if uri is None or version is None:
            raise ValueError(
                f"{file}: a listing has the columns uri, or bucket and key, or key or name (below --source), and "
                f"version, etag or e_tag; this one has {', '.join(batch.schema.names)}"
            )
        size = _one_of(columns, "size_bytes", "size")
        version = pc.utf8_trim(version.cast(pa.string()), '"')
        for what, values in (("URI", uri), ("version", version)):
            is_missing = pc.fill_null(pc.equal(values, ""), True)
            if pc.any(is_missing).as_py():
                row = first + pc.index(is_missing, True).as_py()
                raise ValueError(f"{file}: row {row} has no {what}")
        try:
            sizes = pa.nulls(len(batch), pa.int64()) if size is None else size.cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise ValueError(f"{file}: a size that is not a number, in the rows from {first} on ({error})") from error
        yield pa.table([uri, version, sizes], schema=ROWS)
        first += len(batch)


def _one_of(columns: dict[str, pa.Array], *names: str) -> pa.Array | None:
    return next((columns[name] for name in names if name in columns), None)


def _uris(columns: dict[str, pa.Array], source: str) -> pa.Array | None:
    name = _one_of(columns, "uri", "key", "name")
    if name is None:
        return None
    name = name.cast(pa.string())
    name = pc.if_else(pc.equal(name, ""), pa.scalar(None, pa.string()), name)
    if "uri" in columns:
        return name
    if "bucket" in columns:
        return pc.binary_join_element_wise("s3:/", columns["bucket"].cast(pa.string()), name, "/")
    return pc.binary_join_element_wise(source, name, "/")


SYSTEM_FOLDERS = frozenset(
    ["@eadir", "#recycle", "$recycle.bin", "lost+found", "system volume information", "__macosx"]
)
"""What disks, archives and network drives keep beside photos, in lower case."""


def is_in_system_folder(path: str) -> bool:
    """Whether a relative path lies in a folder that no person made: there are thumbnails and deleted files.

    >>> is_in_system_folder("child/@eaDir/a.jpg/THUMB.jpg"), is_in_system_folder("child/a.jpg")
    (True, False)
    """
    folders = path.lower().split("/")[:-1]
    return any(name in SYSTEM_FOLDERS or name.endswith(".agescale") or name.startswith(".") for name in folders)
