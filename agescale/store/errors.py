"""What a store answers instead of the data, in one line and a status."""

from __future__ import annotations

from typing import Any


class StoreError(OSError):
    """What a store answered instead of the data. ``status`` is one of missing, changed, forbidden, unreachable; and
    unreadable, where an archive does not hold what it says of a member.

    ``stops_the_job``: the credentials have expired or are refused, so that no other object can be read either.
    ``is_of_this``: it is a state of this object, such as being archived.
    """

    def __init__(self, status: str, message: str, stops_the_job: bool = False, is_of_this: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.stops_the_job = stops_the_job
        self.is_of_this = is_of_this

    @property
    def is_about_one_file(self) -> bool:
        """Whether it tells of this object alone: it is gone, another or damaged, or a local file is closed to us. What
        else a store answers (refused credentials, silence) will be the same for the next object, so a job had better
        stop."""
        is_local = "://" not in str(self)
        return (
            self.is_of_this
            or self.status in ("missing", "changed", "unreadable")
            or (self.status == "forbidden" and is_local)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # OSError pickles its own arguments only, and Ray sends errors between processes
        return StoreError, (self.status, str(self), self.stops_the_job, self.is_of_this)


class NoConditions(StoreError):
    """The store refuses writes that are to take place on a condition only; others it may take."""

    def __reduce__(self) -> tuple[Any, ...]:
        return NoConditions, (self.status, str(self), self.stops_the_job)


class Damaged(ValueError):
    """A Parquet file of ours that was cut or garbled, or is somebody else's; what to do depends on what it is of."""

    def __init__(self, uri: str, reason: str) -> None:
        super().__init__(f"{uri}: damaged, not as it was written ({one_line(reason)})")
        self.uri, self.reason = uri, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return Damaged, (self.uri, self.reason)


def one_line(text: str) -> str:
    return " ".join(text.split())[:200]


def changed(uri: str) -> StoreError:
    return StoreError("changed", f"{uri}: changed since it was listed")
