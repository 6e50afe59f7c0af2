"""A checkpoint in one's own program: images in any form in, a result for each of them out. Without Ray.

``jobs/predict.py`` goes the same way, and ``jobs/score.py`` shares all of it from the decoder on. Writes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from PIL import Image

from agescale.ages import cdf as age_cdf
from agescale.faces import images, loading
from agescale.faces.isolation import Decoder
from agescale.faces.loading import Loaded
from agescale.models.framing import Which
from agescale.models.predictor import Predictor
from agescale.models.spec import learns_spread
from agescale.store import listing, objects, paths
from agescale.store.errors import StoreError
from agescale.tables import schema
from agescale.tables.predictions import stored_cdfs

BATCH_SIZE = 64
"""Images that the model sees at once; as many more are being read and decoded meanwhile."""

Picture = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | npt.NDArray[Any]
"""What ``Model.predict`` takes, or takes a list of."""

TAKEN = (
    "taken are paths, s3:// URIs, folders, bytes of image files, Pillow images, uint8 arrays (H, W, 3) in RGB, "
    "(H, W, 4), (H, W) or (N, H, W, 3), and lists of these"
)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says of one image. Names and units are those of the table of predictions (``schema.PREDICTIONS``).

    Where ``status`` is not ok there is no face to say anything of, ``error`` says why, and all that the model would
    have said is None; so is always what this model does not say (ages, where its groups have names only; ``gender``).
    """

    uri: str | None
    """Where the image came from; None where it was given as bytes, array or Pillow image."""
    face: int
    """Number of the face in its image, from 0 on: by size, then from left to right."""
    num_faces: int | None
    """Faces found in the image; None, as the next five, where none were looked for."""
    face_x: float | None
    """Left edge of the face, pixels of the upright image."""
    face_y: float | None
    face_width: float | None
    face_height: float | None
    face_score: float | None
    """How sure the detector is that this is a face, 0..1."""
    status: str
    """ok, unreadable, unsupported, too_small, too_large, missing, changed, forbidden, unreachable or no_face."""
    error: str | None
    age: float | None
    """Years, on the labels' scale: a label 34 is 34.0."""
    age_std: float | None
    """Spread of the predicted distribution, years. Says nothing where the model is a regression."""
    interval: tuple[float, float] | None
    """Ages between which this person's age is: where the model is calibrated with a probability of
    ``Model.interval_coverage``, else the central 80 % of the distribution, the model's own doubt."""
    age_lower: float | None
    """The ends of a calibrated interval, as tables have them; None where the model is not calibrated."""
    age_upper: float | None
    group: str | None
    group_probability: float | None
    group_probabilities: tuple[float, ...] | None
    """Of each of ``Model.groups``, where these have names only."""
    gender: str | None
    gender_probability: float | None
    ethnicity: str | None
    ethnicity_probability: float | None
    width: int | None
    """Pixels of the upright image."""
    height: int | None
    model: str = field(repr=False)
    """Digest of the checkpoint."""
    age_cdf: npt.NDArray[np.int32] | None = field(repr=False)
    """The distribution as tables store it: 65535 * P(age < k years), k = 0..100."""

    @property
    def cdf(self) -> npt.NDArray[np.float64] | None:
        """P(age < k years) for k = 0..100, shape (101,)."""
        return None if self.age_cdf is None else age_cdf.dequantize(self.age_cdf[None])[0]

    def probability_under(self, age_years: float) -> float:
        """P(age < age_years), 0 <= age_years <= 100: ``probability_under(18)`` that the birthday is still to come.

        Raises ValueError for another age, and where the model has said nothing of this image's age.
        """
        if self.age_cdf is None:
            reason = "the model's age groups have names only, no bounds" if self.status == "ok" else self.error
            raise ValueError(f"no age is predicted: {reason}")
        return float(age_cdf.probability_under(self.age_cdf[None], age_years)[0])


class Predictions(list[Prediction]):
    """Results in the order of the images, as a list; and as a table."""

    def __init__(self, results: Iterable[Prediction], columns: Iterable[str]) -> None:
        super().__init__(results)
        self._schema = pa.schema([schema.PREDICTIONS.field(name).with_nullable(True) for name in ("uri", *columns)])

    def to_arrow(self) -> pa.Table:
        """``uri`` and those columns of ``schema.PREDICTIONS`` that this model fills, a row a result."""
        columns = {name: [getattr(result, name) for result in self] for name in self._schema.names}
        return pa.table(columns, schema=self._schema)

    def to_pandas(self) -> Any:
        """``to_arrow`` as a pandas.DataFrame."""
        return self.to_arrow().to_pandas()


class Model:
    """A checkpoint, ready to predict; ``agescale.load`` makes one. May be used by several threads."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    @property
    def digest(self) -> str:
        """Names the model, as in the column ``model`` of its predictions."""
        return self._predictor.digest

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the age groups, in their order."""
        return self._predictor.age_groups.names

    @property
    def interval_coverage(self) -> float | None:
        """Share of faces, of such as it was calibrated on, whose age lies in ``Prediction.interval``; None where the
        model is not calibrated (``jobs/calibrate.py``)."""
        calibration = self._predictor.spec.calibration
        return calibration.coverage if calibration else None

    @property
    def image_size(self) -> int:
        """Pixels of the square that images are scaled to, inside ``predict``."""
        return self._predictor.spec.image_size

    def __repr__(self) -> str:
        spec = self._predictor.spec
        return f"<agescale.Model {self.digest}: {spec.encoder}, {spec.task}, {spec.image_size} px, {spec.age_groups}>"

    def predict(self, images: Picture | Iterable[Picture], batch_size: int = BATCH_SIZE) -> Predictions:
        """A result for each image, in their order; of any size. Each is taken for one face in its central square, or
        its largest face is found (see ``load``); where all faces are asked for, an image has as many results.

        An image is a path or URI (str or Path), the bytes of an image file, a Pillow image, or a uint8 array of the
        shape (H, W, 3) in RGB, (H, W, 4) with transparency or (H, W); files have EXIF orientation and all that undone,
        Pillow images too. A folder stands for all images below it, sorted by path, and an array (N, H, W, 3) for N of
        them; any iterable stands for its items, which are taken one after the other, as the model gets to them.

        An image that is broken or missing has a result that says so. Raises ValueError for what is no image at all and
        for a folder without one; StoreError where a store is down or refuses the credentials.
        """
        rows = predict_images(self._predictor, _each(images), batch_size)
        return Predictions(_results(rows, self._predictor), self._predictor.columns)


def load(
    checkpoint: str | os.PathLike[str] | None = None, device: str = "auto", tta: bool = False, faces: Which = "auto"
) -> Model:
    """The model of a checkpoint, such as ``runs/demo/run/best``: a folder that ``jobs/train.py`` wrote, as a path,
    ``file://`` or ``s3://`` URI. Without one the checkpoint that comes with agescale, for non-commercial research.

    ``device``: auto (a GPU where this machine has one), cpu, cuda or cuda:1. With ``tta`` each prediction is the
    average over the image and its mirror image: twice the work, a little more accurate. ``faces``: what of an image is
    looked at: none (its central square), largest (the largest face that is found in it), all (each face), or auto
    (squares, or largest faces, whichever the checkpoint was trained on).

    Raises ValueError where no checkpoint stands there, where it predicts no age, and for a device that is not there;
    StoreError where it cannot be read.
    """
    return Model(Predictor(_absolute(checkpoint), find_device(device), tta, faces))


def _absolute(checkpoint: str | os.PathLike[str] | None) -> str:
    return "" if checkpoint is None else paths.absolute(os.fspath(checkpoint))


def find_device(name: str) -> str:
    """The torch device that ``name`` means on this machine. Raises ValueError where there is none."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or not (number or "0").isdecimal():
        raise ValueError(f"device {name}: auto, cpu, cuda or cuda:1")
    if kind == "cuda" and torch.cuda.device_count() <= int(number or 0):
        raise ValueError(f"device {name}: torch finds no {'such ' * bool(number)}GPU on this machine")
    return name


@dataclass(frozen=True)
class Source:
    """One image to predict: the one at ``uri``, or else ``picture``."""

    uri: str = ""
    version: str = ""
    picture: images.Picture | None = None


def predict_images(
    predictor: Predictor, sources: Iterable[Source], batch_size: int = BATCH_SIZE, decoder: Decoder = images
) -> pa.Table:
    """A row of schema.PREDICTIONS for each image, in their order; read and decoded ahead in threads.

    Raises StoreError where a store is down or refuses the credentials.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size}: at least 1")
    framing = predictor.framing

    def read(source: Source) -> tuple[tuple[str, str], Loaded]:
        key = (source.uri, source.version)
        if not source.uri and source.picture is None:
            return key, StoreError("missing", "null instead of an image")
        return key, loading.load_one(source.uri, framing, source.picture, source.version, decoder=decoder)

    pool = objects.read_pool()
    try:
        num_ahead = min(BATCH_SIZE, framing.look_ahead)
        loaded = objects.ahead((pool.submit(read, source) for source in sources), num_ahead)
        rows = predictor.predict_loaded(loaded, batch_size)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # where one has failed, the others may take long to fail
    failures = set(rows["status"].to_pylist())
    if failures and failures <= {"forbidden", "unreachable"} and all(map(paths.is_remote, rows["uri"].to_pylist())):
        raise StoreError(rows["status"][0].as_py(), rows["error"][0].as_py())  # not these images' fault
    return rows


def list_photos(uri: str) -> dict[str, str]:
    """URI and version of the photo at ``uri``, or of all images in the folder there, sorted by path, those of formats
    that are not taken among them.

    The version is that of the listing, hence "" where a photo is named; whether it is there shows when it is read.
    Raises ValueError where a folder holds no image, StoreError where it cannot be listed.
    """
    uri = paths.table_name(paths.absolute(uri))
    if paths.is_remote(uri) and images.is_image_name(uri):
        return {uri: ""}  # who may read it need not be allowed to list the bucket
    try:
        listed = listing.list_files(uri)
    except StoreError as error:
        if error.status != "missing":
            raise
        return {uri: ""}  # no folder: a photo must be meant
    listed = [item for item in listed if not listing.is_in_system_folder(item.relative)]
    endings = (*images.EXTENSIONS, *images.OTHER_EXTENSIONS)
    pictures = {item.uri: item.version for item in listed if item.version and item.uri.lower().endswith(endings)}
    if not pictures:
        raise ValueError(f"{uri}: no image in this folder (a name that ends in {', '.join(images.EXTENSIONS)})")
    return pictures


def _each(pictures: Picture | Iterable[Picture]) -> Iterator[Source]:
    is_one = isinstance(pictures, (str, bytes, bytearray, memoryview, os.PathLike, Image.Image, np.ndarray, Mapping))
    if is_one or not isinstance(pictures, Iterable) or hasattr(pictures, "read"):  # a file's items are lines
        yield from _sources(pictures)
    else:
        for picture in pictures:
            yield from _sources(picture)


def _sources(picture: Any) -> Iterator[Source]:
    """The images that an item stands for. Raises ValueError where it is none."""
    if isinstance(picture, (str, os.PathLike)) and os.fspath(picture):
        yield from (Source(uri, version) for uri, version in list_photos(os.fsdecode(picture)).items())
    elif isinstance(picture, (bytes, bytearray, memoryview)):
        yield Source(picture=bytes(picture))
    elif isinstance(picture, Image.Image) and picture.mode != "F":
        yield Source(picture=picture)
    elif isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and _is_batch(picture):
        yield from (Source(picture=pixels) for pixels in picture)
    elif isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and _is_image(picture):
        yield Source(picture=picture)
    else:
        raise ValueError(f"no image: {_name_kind(picture)}; {TAKEN}")


def _is_image(pixels: npt.NDArray[Any]) -> bool:
    return pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))


def _is_batch(pixels: npt.NDArray[Any]) -> bool:
    return pixels.ndim == 4 and pixels.shape[3] in (3, 4)


def _name_kind(value: Any) -> str:
    """What was given, in a word or two.

    >>> _name_kind(np.zeros((3, 96, 96))), _name_kind(Image.new("F", (8, 8))), _name_kind({}), _name_kind("")
    ('float64 array of the shape (3, 96, 96)', 'Pillow image of mode F', 'dict', 'empty str')
    """
    if isinstance(value, np.ndarray):
        return f"{value.dtype} array of the shape {value.shape}"
    if isinstance(value, Image.Image):
        return f"Pillow image of mode {value.mode}"
    return f"{'empty ' if isinstance(value, str) and not value else ''}{type(value).__name__}"


def _results(rows: pa.Table, predictor: Predictor) -> Iterator[Prediction]:
    """The rows of ``predict_images`` as objects."""
    cdf_NA = stored_cdfs(rows["age_cdf"])  # of the rows that have one
    low_N, high_N = age_cdf.central_interval(cdf_NA, age_cdf.INTERVAL_SHARE)
    distributions = zip(cdf_NA, zip(low_N.tolist(), high_N.tolist(), strict=True), strict=True)
    has_spread = learns_spread(predictor.spec.task)
    names = [each.name for each in fields(Prediction) if each.name not in ("age_cdf", "interval")]
    for row, has_age in zip(rows.select(names).to_pylist(), rows["age_cdf"].is_valid().to_pylist(), strict=True):
        cdf_A, interval = next(distributions) if has_age else (None, None)
        row["uri"] = row["uri"] or None
        row["group_probabilities"] = row["group_probabilities"] and tuple(row["group_probabilities"])
        if row["age_lower"] is not None:
            interval = (row["age_lower"], row["age_upper"])
        elif not has_spread:
            interval = None
        yield Prediction(**row, age_cdf=cdf_A, interval=interval)


class Scorer:
    """Predicts the images of a Ray Dataset, for its ``map_batches``, each actor with a model of its own.

        ages = photos.map_batches(
            agescale.Scorer,
            fn_constructor_kwargs={"checkpoint": "s3://work/runs/fast/best", "column": "bytes"},
            batch_size=64,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=8),  # num_gpus=1
        )

    ``column`` holds the bytes of image files, as ``ray.data.read_binary_files`` reads them, or uint8 arrays (H, W, 3)
    in RGB, as ``read_images(mode="RGB")`` does; batches are dicts of numpy arrays (Ray's default) or pyarrow tables.
    Out comes a pyarrow table: the other columns of the batch, then those of ``schema.PREDICTIONS`` that this model
    fills, always of the same types. An image that is broken, or null, is a row that says so; only one that crashes its
    decoder ends the actor, as the jobs, which decode in processes of their own where that happens, do not let it.

    ``checkpoint`` (which each process reads: an absolute path, or a URI), ``device`` and ``tta`` are those of
    ``agescale.load``, and so are its errors. Raises ValueError for a batch without that column, with other things in
    it, or with a column that would be written twice.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike[str] | None = None,
        column: str = "bytes",
        device: str = "auto",
        tta: bool = False,
    ) -> None:
        self._predictor = Predictor(_absolute(checkpoint), find_device(device), tta)
        self._column = column

    def __call__(self, batch: Mapping[str, npt.NDArray[Any]] | pa.Table) -> pa.Table:
        if not isinstance(batch, (Mapping, pa.Table)):
            raise ValueError(f"a batch is a dict of numpy arrays or a pyarrow table, not a {type(batch).__name__}")
        names = batch.column_names if isinstance(batch, pa.Table) else list(batch)
        if self._column not in names:
            raise ValueError(f"no column {self._column!r} in {', '.join(names)}; column= names the one with the images")
        others = [name for name in names if name != self._column]
        if taken := [name for name in others if name in self._predictor.columns]:
            raise ValueError(f"the input has a column {taken[0]!r}, as the predictions do; give it another name first")
        values = batch[self._column]
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks().to_numpy(zero_copy_only=False)
        rows = predict_images(self._predictor, map(self._source, values))
        columns = {name: _to_arrow(batch[name]) for name in others}
        return pa.table(columns | {name: rows[name] for name in self._predictor.columns})

    def _source(self, value: Any) -> Source:
        if value is None or isinstance(value, bytes) or (isinstance(value, np.ndarray) and value.dtype == np.uint8):
            return Source(picture=value)
        raise ValueError(f"column {self._column!r}: no image, {_name_kind(value)}; taken are bytes and uint8 arrays")


def _to_arrow(values: npt.NDArray[Any] | pa.ChunkedArray) -> Any:
    is_tensor = isinstance(values, np.ndarray) and values.ndim > 1
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(values)) if is_tensor else values
