"""A folder that a job writes into: apart from what it reads, nobody else's, writable, and its own while it works there.

Every job takes its folder in this way: ``Output.check`` before it begins, ``Output.held`` while it writes, and
``check_unchanged`` for what it finds there of its own.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agescale.store import lease, objects, paths
from agescale.store.lease import Lease

ON_HELD: list[Callable[[str], None]] = []
"""Told of each folder that this process has for itself, once it has it."""


@dataclass(frozen=True)
class Output:
    """The folder that somebody gave for an ``owner``, such as "a run", which has one for itself."""

    uri: str
    owner: str
    find_stranger: Callable[[str], str | None]
    """Given the name of one file that stands there, that of one which is nothing of such an owner's, or None."""
    beside: str = ""
    """The folder of what belongs to it, where its lease lies, too; by default that is in the folder itself."""
    option: str = "--out"

    def check(self, places: Mapping[str, str], owner: str = "") -> None:
        """Raises ValueError where it is one of the ``places`` (URIs of folders, by what stands there), lies in or
        around one of them, or holds somebody else's files. Writes nothing."""
        self.check_apart(places, owner)
        name = objects.any_name(self.uri)
        if name and (stranger := self.find_stranger(name)):
            raise ValueError(
                f"{self.option} {self.uri}: there are other files already ({stranger}), and {self.owner} has a folder "
                f"of its own; give another {self.option}"
            )

    def check_apart(self, places: Mapping[str, str], owner: str = "") -> None:
        way = f"give a folder of {owner or self.owner}'s own"
        for uri, what in places.items():
            if f"{self.uri}/".startswith(f"{uri}/"):
                there = "there" if self.uri == uri else uri
                raise ValueError(f"{self.option} {self.uri}: {there} is {what}; {way}")
            if f"{uri}/".startswith(f"{self.uri}/"):
                raise ValueError(f"{self.option} {self.uri}: {what} ({uri}) stands in it; {way}")

    @contextlib.contextmanager
    def held(self, wants_lease: bool = True) -> Iterator[Lease]:
        """Makes the folder, and keeps it for this job until the block ends. Raises StoreError where nothing can be
        written, and what ``lease.hold`` raises."""
        for folder in filter(None, (self.beside, self.uri)):
            objects.check_writable(folder)
        if self.beside and not paths.is_remote(self.uri):
            _share(self.beside, os.stat(self.uri).st_mode)
        with lease.hold(self.uri, self.beside, wants_lease) as held:
            tell_held(self.uri)
            yield held


def tell_held(uri: str) -> None:
    for tell in ON_HELD:
        tell(uri)


def _share(folder: str, mode: int) -> None:
    """Lets a group write into a folder of ours where it may write into the one that it is beside."""
    status = os.stat(folder)
    if mode & stat.S_IWGRP and status.st_uid == os.geteuid():
        os.chmod(folder, stat.S_IMODE(status.st_mode) | (mode & stat.S_IRWXG))


def check_unchanged(
    out: str, what: str, before: Mapping[str, Any], now: Mapping[str, Any], way: str = "give another --out"
) -> None:
    """Raises ValueError, naming what differs and the way on, where ``what`` stands in the folder ``out`` is of other
    settings."""
    different = [f"{name} was {before.get(name)!r}, is {now[name]!r}" for name in now if before.get(name) != now[name]]
    if different:
        raise ValueError(f"{out}: {what} stands there ({'; '.join(different)}); {way}")
