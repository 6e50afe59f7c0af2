"""One directory format of a trained model, on disk or S3; writes and reads it, without Ray.

    config.json                  written last: without it there is no checkpoint
    weights-<digest>.pt          the state dict that predicts
    training-<digest>.pt         what continuing needs besides (only where training goes on)

A new version of a checkpoint first writes files under new names, then replaces config.json, which names them, and then
removes those that the old one named: whatever dies meanwhile, the folder holds the old checkpoint or the new one, and
no writer removes what another one has written. Each file has its SHA-256 in config.json, and the run's best weights
theirs in its progress, so that a checkpoint proves of which epoch it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, cast

from agescale.ages.cdf import PointEstimate
from agescale.models.spec import ModelSpec, auxiliary_classes
from agescale.store import objects, paths, writers
from agescale.store.errors import StoreError
from agescale.store.writers import Writer

if TYPE_CHECKING:  # what is told of a model is read without torch, which takes seconds to load
    from torch import Tensor

    from agescale.models.age_model import AgeModel

FORMAT_VERSION = 1
CONFIG_NAME = "config.json"

StateDict = dict[str, "Tensor"]
Settings = dict[str, Any]
"""Fields of a TrainConfig as JSON has them; those of an older agescale may be fewer, or others."""

DEFAULTS = {one.name: one.default for one in fields(ModelSpec) if one.default is not MISSING}


class Validation(TypedDict):
    """What a model reaches on the validation split, None where it is not known, and the best way to tell an age."""

    val_loss: float | None
    val_mae: float | None
    val_worst_group_mae: float | None
    val_accuracy: float | None
    mae_by_catalog: list[float | None]  # on the validation images of each catalog
    decode: PointEstimate


class Epoch(Validation):
    """One epoch of a training: a row of history.parquet. ``lr`` is the largest of its phase."""

    epoch: int
    phase: str
    phase_index: int
    lr: float
    train_loss: float
    images_per_s: float
    seconds: float
    stage_seconds: NotRequired[dict[str, float]]
    """Of the first process, by stage (runtime/bottleneck.py), as far as it has seen the epoch itself: the decoding that
    came before a run's first one included, and the saving of the epoch before."""
    is_best: NotRequired[bool]  # of the epochs so far; told when it joins them


class LearnerState(TypedDict):
    """What going on with a training needs besides the weights that predict."""

    model: StateDict
    ema: StateDict  # empty without averaging
    optimizer: dict[str, Any]  # whatever torch makes of it


@dataclass(frozen=True)
class RunProgress:
    """How far training is: epochs done, their history, the best metric, whether it is over.

    ``best_sha256`` is that of the weights file of the best epoch.
    """

    epochs_done: int = 0
    history: tuple[Epoch, ...] = ()
    metric: str = ""
    best_epoch: int | None = None
    best_value: float | None = None
    best_sha256: str = ""
    is_finished: bool = False


@dataclass(frozen=True)
class Order:
    """What the order of images in an epoch hangs on besides the run: a step of another order says nothing of it."""

    num_workers: int | str  # of a range such as 2:8, in which their number changes, no order is promised
    num_images: int
    is_held: bool  # decoded once for all epochs, or in each


@dataclass(frozen=True)
class Step:
    """How far an epoch is that is under way: the steps that were taken, and what they add up to."""

    order: Order
    number: int = 0  # of steps
    num_images: int = 0
    sums: tuple[float, float] = (0.0, 0.0)  # of losses, and of their weights
    seconds: float = 0.0


class InitialWeights(TypedDict):
    source: str  # "random", or what --weights said
    sha256: str | None
    license: str | None


class Provenance(TypedDict, total=False):
    """Where a model comes from, for whoever deploys or audits it. One that was made by hand tells less."""

    settings: Settings
    data: str  # names the images and labels
    num_images: dict[str, int]  # by split
    num_parameters: int
    blocks: list[tuple[str, str, int]]  # name, output shape, parameters
    initial_weights: InitialWeights
    data_license: str | None
    versions: dict[str, str]  # of libraries


class Card(Provenance, total=False):
    """What predictions and reports tell of a model: this, and the fields of its ModelSpec."""

    architecture: str
    history: list[Epoch]
    best_epoch: int | None
    metric: str


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's config.json.

    ``epoch`` is that of its weights, ``progress`` that of the run when it was written. With a ``step`` the weights are
    so much further, in the epoch after it.
    """

    spec: ModelSpec
    weights_file: str
    weights_sha256: str
    training_file: str | None = None
    training_sha256: str | None = None
    epoch: int = 0
    progress: RunProgress = RunProgress()
    provenance: Provenance = field(default_factory=Provenance)
    holder: str = ""  # of the run, who wrote it
    step: Step | None = None
    told_digest: str = field(default="", compare=False)  # as its file has it, which somebody may have edited

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 by the name of each file that it needs."""
        needed = {self.weights_file: self.weights_sha256}
        return needed | ({self.training_file: str(self.training_sha256)} if self.training_file else {})

    @property
    def is_best(self) -> bool:
        """Whether its weights are those of the best epoch that its progress tells of."""
        return self.weights_sha256 == self.progress.best_sha256

    @property
    def digest(self) -> str:
        """Names the model in every prediction: 16 hex digits over what it computes, its weights included.

        Settings that are at their default are left out, so that a new one does not rename old models.
        """
        said = {name: value for name, value in asdict(self.spec).items() if value != DEFAULTS.get(name)}
        identity = json.dumps([said, self.weights_sha256], sort_keys=True)
        return hashlib.sha256(identity.encode()).hexdigest()[:16]

    def card(self) -> Card:
        spec = asdict(self.spec)
        told: Card = {
            "architecture": spec.pop("encoder"),
            **self.provenance,
            "history": list(self.progress.history),
            "best_epoch": self.progress.best_epoch,
            "metric": self.progress.metric,
        }
        return cast(Card, spec | told)


def exists(uri: str) -> bool:
    return objects.exists(paths.join(uri, CONFIG_NAME))


def save(
    uri: str,
    spec: ModelSpec,
    weights: StateDict,
    progress: RunProgress,
    provenance: Provenance,
    training: LearnerState | None = None,
    writer: Writer | None = None,
    step: Step | None = None,
) -> Checkpoint:
    """Writes a checkpoint of the last epoch of ``progress``, or of a ``step`` after it, replacing an older one in the
    same folder. Raises Held, and the older one stays, where the run is not the writer's any more."""
    with _replaced(uri, writer) as write:
        weights_file, weights_sha256 = _write_tensors(uri, "weights", weights)
        training_file, training_sha256 = _write_tensors(uri, "training", training) if training else (None, None)
        if step is None and progress.best_epoch == progress.epochs_done:
            progress = replace(progress, best_sha256=weights_sha256)
        checkpoint = Checkpoint(
            spec, weights_file, weights_sha256, training_file, training_sha256, progress.epochs_done, progress,
            provenance, writer.holder if writer else "", step,
        )  # fmt: skip
        write(checkpoint)
    return checkpoint


def stranger_in(uri: str, ours: Callable[[str], bool], found: str) -> str | None:
    """A file, of those in a folder or else the ``found`` one, that is not the beginning of a checkpoint that was to be
    made there; what is hidden was cut short."""
    names = [name for name in objects.list_names(uri) if not name.startswith(".")]
    return next((name for name in names or [found] if not ours(name)), None)


def copy_weights(source: str, checkpoint: Checkpoint, uri: str, writer: Writer | None = None) -> None:
    """Writes the checkpoint in ``source``, without what only continuing needs, into the folder ``uri``."""
    data = read_file(source, checkpoint.weights_file, checkpoint.weights_sha256)
    with _replaced(uri, writer) as write:
        objects.write_bytes(paths.join(uri, checkpoint.weights_file), data)
        holder = writer.holder if writer else ""
        write(replace(checkpoint, training_file=None, training_sha256=None, holder=holder))


def update(uri: str, writer: Writer | None = None, **changes: Any) -> None:
    """Replaces some of what a checkpoint tells; the model and its digest stay."""
    with _replaced(uri, writer) as write:
        write(replace(read(uri), **changes))


def remove_strays(uri: str) -> None:
    """Removes files of tensors that config.json does not name: their writer was killed, or has lost the run."""
    named = _named_files(paths.join(uri, CONFIG_NAME))
    for name in objects.list_names(uri, suffix=".pt"):
        if name not in named:
            objects.delete(paths.join(uri, name))


@contextlib.contextmanager
def _replaced(uri: str, writer: Writer | None) -> Iterator[Callable[[Checkpoint], None]]:
    """Lets the block write tensors and then, by the function that it gets, the config.json that names them."""
    config = paths.join(uri, CONFIG_NAME)
    seen, before = writers.seen(config) if writer else None, _named_files(config)

    def write(checkpoint: Checkpoint) -> None:
        data = json.dumps(_as_json(checkpoint), indent=1).encode()
        if writer is None:
            objects.write_bytes(config, data)
        else:
            writer.replace(config, data, seen)
        for name in before - checkpoint.files.keys():
            objects.delete(paths.join(uri, name))

    if writer is not None:
        writer.prove()
    yield write


def _named_files(config: str) -> set[str]:
    """Names of the files that a config.json names; none where it is not there, or says nothing."""
    try:
        values = json.loads(objects.read_bytes(config))
        return {name for name in (values["weights_file"], values["training_file"]) if isinstance(name, str)}
    except StoreError as error:
        if error.status != "missing":
            raise
    except (ValueError, KeyError, TypeError):
        pass
    return set()


def read(uri: str) -> Checkpoint:
    """A checkpoint without its weights. Raises ValueError where there is none, or one from a newer agescale."""
    try:
        values = json.loads(objects.read_bytes(paths.join(uri, CONFIG_NAME)))
    except StoreError as error:
        if error.status != "missing":
            raise
        hint = "; a run keeps its best one in best/" if exists(paths.join(uri, "best")) else ""
        raise ValueError(f"{uri}: no checkpoint there (no {CONFIG_NAME}){hint}") from error
    except ValueError as error:
        raise ValueError(f"{uri}/{CONFIG_NAME}: damaged, not a checkpoint's JSON ({error})") from error
    if not isinstance(values, dict) or "format_version" not in values:
        raise ValueError(f"{uri}/{CONFIG_NAME}: not the config of an agescale checkpoint")
    if values["format_version"] != FORMAT_VERSION:
        raise ValueError(f"{uri}: checkpoint format {values['format_version']}, this agescale reads {FORMAT_VERSION}")
    try:
        return _from_json(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        hint = "damaged, or of a newer agescale"
        raise ValueError(f"{uri}/{CONFIG_NAME}: {hint} ({reason})") from error


def _from_json(values: dict[str, Any]) -> Checkpoint:
    progress = values["progress"]
    return Checkpoint(
        spec=ModelSpec.from_dict(values["model"]),
        weights_file=values["weights_file"],
        weights_sha256=values["weights_sha256"],
        training_file=values["training_file"],
        training_sha256=values.get("training_sha256"),
        epoch=values.get("epoch", 0),
        progress=RunProgress(**{**progress, "history": tuple(progress["history"])}),
        provenance=values["provenance"],
        holder=values.get("holder", ""),
        step=_step_from_json(values["step"]) if values.get("step") else None,
        told_digest=values.get("digest", ""),
    )


def _step_from_json(values: dict[str, Any]) -> Step:
    return Step(**{**values, "order": Order(**values["order"]), "sums": tuple(values["sums"])})


def load_model(uri: str, checkpoint: Checkpoint | None = None) -> AgeModel:
    """The model of a checkpoint with its weights, in evaluation mode, on the CPU."""
    from agescale.models.age_model import AgeModel

    checkpoint = checkpoint or read(uri)
    model = AgeModel(checkpoint.spec)
    model.load_state_dict(load_tensors(uri, checkpoint.weights_file, checkpoint.weights_sha256))
    return model.eval()


def load_into(model: AgeModel, uri: str, sha256: str = "") -> str:
    """Starts ``model`` from a checkpoint: its encoder, the task's head where it is of the same kind, and further heads
    that tell the same classes apart. Returns what it took.

    Raises ValueError, in one line, for a checkpoint of another architecture, or with another checksum.
    """
    from agescale.models.age_model import build_spec_task

    checkpoint = read(uri)
    theirs, ours = checkpoint.spec, model.spec
    if sha256 and checkpoint.weights_sha256 != sha256.lower():
        raise ValueError(f"{uri}: the SHA-256 of its weights is {checkpoint.weights_sha256}, not {sha256}")
    tensors = load_tensors(uri, checkpoint.weights_file, checkpoint.weights_sha256)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    fits = {name: tensor for name, tensor in tensors.items() if shapes.get(name) == tensor.shape}
    wanted = {name for name in {*shapes, *tensors} if name.startswith("encoder.")}
    if not wanted <= fits.keys():
        raise ValueError(
            f"{uri}: a checkpoint of {_encoder_of(theirs)}, whose encoder does not fit {_encoder_of(ours)}"
        )
    is_same_task = theirs.task == ours.task and build_spec_task(theirs).loss_name == build_spec_task(ours).loss_name
    if ours.task == "classification":
        is_same_task &= theirs.age_groups == ours.age_groups
    has_head = is_same_task and all(name in fits for name in shapes if name.startswith("head."))
    parts = {"encoder": "encoder.", "head": "head."} if has_head else {"encoder": "encoder."}
    known = auxiliary_classes(theirs)
    for column, names in auxiliary_classes(ours).items():
        if known.get(column) == names:
            parts[f"{column} head"] = f"auxiliary.{column}."
    model.load_state_dict({name: fits[name] for name in fits if name.startswith(tuple(parts.values()))}, strict=False)
    return f"took the {' and the '.join(parts)} of a checkpoint trained on {theirs.task}"


def _encoder_of(spec: ModelSpec) -> str:
    dense = "" if spec.num_features is None else f" (--num-features {spec.num_features})"
    return f"{spec.encoder} at {spec.image_size} px{dense}"


def load_training(uri: str, checkpoint: Checkpoint) -> LearnerState:
    """What ``save`` got as ``training``."""
    assert checkpoint.training_file is not None, "this checkpoint cannot be continued"
    return cast(LearnerState, load_tensors(uri, checkpoint.training_file, checkpoint.training_sha256))


def check_files(uri: str, checkpoint: Checkpoint) -> None:
    """Raises ValueError, in one line, where a file of the checkpoint is gone, or is not what was written."""
    for name, sha256 in checkpoint.files.items():
        read_file(uri, name, sha256)


def load_tensors(uri: str, name: str, sha256: str | None = None) -> dict[str, Any]:
    """Tensors of a file that torch.save wrote (never code: ``weights_only``). Raises ValueError on a wrong checksum."""
    from agescale.models.state_dicts import tensors_in

    return tensors_in(paths.join(uri, name), read_file(uri, name, sha256))


def read_file(uri: str, name: str, sha256: str | None) -> bytes:
    """A file that a checkpoint names. Raises ValueError where it is gone, or has another checksum."""
    try:
        data = objects.read_bytes(paths.join(uri, name))
    except StoreError as error:
        if error.status != "missing":
            raise
        raise ValueError(f"{uri}/{name}: the checkpoint is damaged: this file is missing") from error
    if sha256:
        told = f"the checkpoint is damaged: this file of {len(data):,} bytes is not the one that was written: "
        objects.check_sha256(f"{uri}/{name}", data, sha256, told)
    return data


def _write_tensors(uri: str, stem: str, values: Mapping[str, Any]) -> tuple[str, str]:
    import torch

    buffer = io.BytesIO()
    torch.save(values, buffer)
    data = buffer.getvalue()
    sha256 = objects.sha256(data)
    name = f"{stem}-{sha256[:12]}.pt"
    objects.write_bytes(paths.join(uri, name), data)
    return name, sha256


def _as_json(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "digest": checkpoint.digest,
        "epoch": checkpoint.epoch,
        "model": asdict(checkpoint.spec),
        "weights_file": checkpoint.weights_file,
        "weights_sha256": checkpoint.weights_sha256,
        "training_file": checkpoint.training_file,
        "training_sha256": checkpoint.training_sha256,
        "progress": asdict(checkpoint.progress),
        "provenance": checkpoint.provenance,
        "holder": checkpoint.holder,
        "step": asdict(checkpoint.step) if checkpoint.step else None,
    }
