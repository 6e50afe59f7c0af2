"""A picture's URI or bytes in; what a model is to be shown of it out, or a photo to find faces in, or why neither."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from agescale.faces import images
from agescale.faces.geometry import FaceGeometry, FoundFace
from agescale.faces.images import Face, ImageError, Photo, Picture
from agescale.faces.isolation import Decoder
from agescale.store import members, objects
from agescale.store.errors import StoreError
from agescale.store.members import Read

Loaded = Face | Photo | ImageError | StoreError

LOOK_AHEAD = 256
"""Images decoded or being read before they are asked for; at 224 px they hold 38 MB."""
LOOK_AHEAD_PHOTOS = 32
"""The same of whole photos; they hold 50 to 200 MB."""


@dataclass(frozen=True)
class Framing:
    """What of a picture a model is shown, in ``size`` pixels squared: faces that are found by ``geometry``, of which
    there may be several, or the square in its middle of ``center_crop`` times the shorter side."""

    size: int
    center_crop: float = 1.0
    geometry: FaceGeometry | None = None
    only_largest: bool = True

    @property
    def look_ahead(self) -> int:
        return LOOK_AHEAD_PHOTOS if self.geometry else LOOK_AHEAD


@dataclass(frozen=True)
class KnownFaces:
    """What was found in a picture before: ``faces`` in pixels of it as it was decoded then, to that width and height.
    ``content_hash`` is the SHA-256 of its file."""

    faces: tuple[FoundFace, ...]
    width: int
    height: int
    content_hash: str

    def told(self, photo: Photo) -> Photo:
        """``photo`` with its faces, if it is decoded as it was then."""
        return replace(photo, faces=self.faces) if photo.pixels.shape[:2] == (self.height, self.width) else photo


@dataclass
class Spent:
    """Seconds of the threads that load pictures, added up: on the clock, and for decoding those of a processor, too
    (without those of the processes of ``IsolatedImages``)."""

    read_s: float = 0.0
    decode_s: float = 0.0
    decode_cpu_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, read_s: float, decode_s: float, decode_cpu_s: float) -> None:
        """What others took."""
        with self._lock:
            self.read_s += read_s
            self.decode_s += decode_s
            self.decode_cpu_s += decode_cpu_s

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(time.perf_counter() - started, 0.0, 0.0)

    @contextlib.contextmanager
    def decoding(self) -> Iterator[None]:
        started, cpu_s = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            self.add(0.0, time.perf_counter() - started, time.thread_time() - cpu_s)


def load_one(
    uri: str,
    framing: Framing,
    picture: Picture | None = None,
    version: str = "",
    size_bytes: int | None = None,
    decoder: Decoder = images,
    known: KnownFaces | None = None,
    read: Read = members.read_bytes,
    spent: Spent | None = None,
) -> Loaded:
    """The picture at ``uri``, or ``picture`` where it is at hand: its square, or the whole of it where faces are to be
    found, with those that are ``known``, or why there is none. What that takes is added to what is ``spent``."""
    spent = spent or Spent()
    try:
        if picture is None:
            with spent.reading():
                picture = read(uri, version, size_bytes)
            if known and objects.sha256(picture) != known.content_hash:  # no listing was asked whether it is the same
                known = None
        with spent.decoding():
            if framing.geometry is not None:
                photo = decoder.load_photo(picture)
                return known.told(photo) if known else photo
            return decoder.load_face(picture, framing.size, framing.center_crop)
    except (ImageError, StoreError) as error:
        return error
