"""The settings of every job: flat, frozen dataclasses, which tyro turns into command lines.

Units are in the names or in the text below each field, which is its ``--help``. Types say what numbers and words may
be: settings check themselves, with the same line in Python and on the command line. What depends on a catalog, a
checkpoint or a cluster is checked where that is known.
"""

from __future__ import annotations

import datetime as dt
import math
import re
import types
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from tyro.conf import Positional, arg


@dataclass(frozen=True)
class Limits:
    """What a number of a setting may be, and how that is said."""

    low: float
    high: float
    words: str

    def hold(self, value: float) -> bool:
        return self.low <= value <= self.high


MAX_UNIT_ROWS = 10_000
"""Catalog rows of one file of predictions: what a worker holds in memory, and loses when it dies."""
_LEAST = 1e-9  # "above 0"
Share = Annotated[float, Limits(0, 1, "a share from 0 to 1")]
InnerShare = Annotated[float, Limits(_LEAST, 1 - _LEAST, "a share above 0 and below 1")]
PositiveShare = Annotated[float, Limits(_LEAST, 1, "a share above 0, at most 1")]
Positive = Annotated[float, Limits(_LEAST, math.inf, "more than 0")]
NotNegative = Annotated[float, Limits(0, math.inf, "at least 0")]
MoreThanOne = Annotated[float, Limits(1 + _LEAST, math.inf, "more than 1")]
Count = Annotated[int, Limits(1, math.inf, "at least 1")]
CountOrZero = Annotated[int, Limits(0, math.inf, "at least 0")]
AgeThreshold = Annotated[int, Limits(1, 100, "whole years from 1 to 100")]
GateAge = Annotated[int, Limits(1, 59, "whole years from 1 to 59")]
Split = Literal["train", "val", "test"]
Judgement = Literal["near_duplicate", "near_leaking", "suspect"]
GAP_METRICS, GATE_GAP_METRICS = ("mae", "bias", "cs_at_5", "accuracy"), ("minors", "adults")
GAP_PARTS = ("gender", "ethnicity", "decade")
"""What ``--max-gap`` and ``--max-gate-gap`` are about; parts are those of ``--worst-of``, too."""
FailedStatus = Literal[
    "unreadable",  # the bytes are no image that decodes
    "unsupported",  # an image format that is not taken
    "too_small",
    "too_large",
    "missing",  # the store has no such object
    "changed",  # another object stands there than was listed; the next listing names it
    "forbidden",  # the store refuses
    "unreachable",  # the store did not answer; worth another try
    "no_face",  # faces were looked for, and none was found
]
"""Why an image has no prediction."""


Backend = Literal["auto", "eager", "openvino"]
"""What computes a model on a CPU: torch as it is, or OpenVINO."""

BoxFormat = Literal["xywh", "xyxy"]
"""How a box is written, in torchvision's words: left, top, width, height (COCO), or two corners (Pascal VOC)."""


def option_of(name: str) -> str:
    """The option of a setting.

    >>> option_of("batch_size")
    '--batch-size'
    """
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True)
class Checked:
    """Settings that cannot be what no setting may be: ValueError, in one line, names the option and what it may be. An
    empty text is one that is not given, as of a variable that is not set.

    >>> TrainConfig(batch_size=0)
    Traceback (most recent call last):
    ValueError: --batch-size 0: at least 1
    >>> TrainConfig(device="tpu")
    Traceback (most recent call last):
    ValueError: --device tpu: one of auto, cpu, cuda
    """

    def __post_init__(self) -> None:
        hints = hints_of(type(self))
        for field in fields(self):
            value = getattr(self, field.name)
            if value == "" and type(None) in get_args(hints[field.name]):
                object.__setattr__(self, field.name, None)
                continue
            if wanted := wanted_of(hints[field.name], value):
                given = " ".join(map(str, value)) if isinstance(value, tuple) else value
                raise ValueError(f"{option_of(field.name)} {given}: {wanted}")


def hints_of(settings: type[Any]) -> dict[str, Any]:
    """The types of a class of settings, by name."""
    return get_type_hints(settings, include_extras=True)


def wanted_of(hint: Any, value: Any) -> str:
    """What a value of that type may be, where it is not; else nothing."""
    kind, inner = get_origin(hint), get_args(hint)
    if kind is Annotated:
        limits = [each for each in inner[1:] if isinstance(each, Limits)]
        return wanted_of(inner[0], value) or next((each.words for each in limits if not each.hold(value)), "")
    if kind in (Union, types.UnionType):
        choices = [wanted_of(each, value) for each in inner if each is not type(None)]
        return "" if value is None or "" in choices else choices[0]
    if kind is tuple:
        if not isinstance(value, tuple):
            return "a tuple"
        return next((wanted for each in value if (wanted := wanted_of(inner[0], each))), "")
    if kind is Literal:
        return "" if value in inner else f"one of {', '.join(map(str, inner))}"
    if hint is bool or isinstance(value, bool):
        return "" if hint is bool and isinstance(value, bool) else "yes or no" if hint is bool else _NAMES[hint]
    if hint is float:
        return "" if isinstance(value, int | float) and math.isfinite(value) else _NAMES[float]
    return "" if isinstance(value, hint) else _NAMES[hint]


def _are_parts(text: str) -> bool:
    """Whether these are kinds of parts, with commas between, or several with + between."""
    kinds = [kind.split("+") for kind in text.split(",")]
    return all(set(each) <= set(GAP_PARTS) and len(set(each)) == len(each) for each in kinds)


def _check_worst_of(text: str) -> None:
    if text and not _are_parts(text):
        raise ValueError(
            f"--worst-of {text}: PART,..., such as gender,ethnicity; a part is {', '.join(GAP_PARTS)}, or several of "
            "these with + between"
        )


_NAMES = {float: "a finite number", int: "a whole number", str: "a text"}


@dataclass(frozen=True, kw_only=True)
class Logged(Checked):
    """Settings of jobs whose output is a log; what others print is their result."""

    log_format: Literal["text", "json"] = "text"
    """How lines are printed: as text, or each as one JSON object (time, level, job, message, and numbers where there
    are some) for a collector of logs."""


@dataclass(frozen=True, kw_only=True)
class Recorded(Logged):
    """Settings of jobs that leave a record of each execution beside --out."""

    notify_url: str = ""
    """Web hook: gets a POST of that record, as JSON, when the job ends, whatever its exit code."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.notify_url and not self.notify_url.startswith(("http://", "https://")):
            raise ValueError("--notify-url: begins with http:// or https://")


@dataclass(frozen=True)
class DrawConfig(Logged):
    """Draw faces with a known age into a local folder, in any of the layouts that jobs/catalog.py reads."""

    out: str
    """Folder to draw into."""
    layout: Literal["class_folders", "csv", "utkface", "unlabelled"] = "utkface"
    """Where the labels are stored."""
    num_faces: Count = 600
    """Faces to draw."""
    seed: int = 0
    """Seed; the same one draws the same faces, byte for byte."""
    size: Count = 128
    """Approximate side of the pictures, pixels."""
    num_broken: CountOrZero = 4
    """Broken files among them, as real folders have."""


@dataclass(frozen=True)
class CatalogConfig(Recorded):
    """List the images of a folder or bucket once, with what is known of each, as Parquet."""

    source: str
    """Folder of images: a path or s3://bucket/prefix. It may be, or hold, tar, zip and Parquet files, whose members
    are images like others."""
    out: str
    """Folder of the catalog. The same command again adds what is new, changed or gone, and updates labels that have
    changed."""
    layout: Literal["class_folders", "csv", "utkface", "records", "unlabelled"] = "unlabelled"
    """Where labels are: one folder per class (perhaps below train, val and test), a CSV, UTKFace file names, records
    beside the images in archives (.json and .cls of WebDataset, columns of Parquet), or nowhere (unlabelled)."""
    csv: str | None = None
    """CSV of labels (layout csv); its image names are relative to --source. It may lie in an archive:
    faces.zip!/labels.csv."""
    image_column: str | None = None
    """Column of image names. Default: file_name, filename, image, path, file or ID, whichever there is."""
    label_column: str | None = None
    """Column of ages, ranges such as 25-49 or 60+, or class names."""
    age_column: str | None = None
    """Column of ages or ranges, years. Default: age, real_age or apparent_age."""
    split_column: str | None = None
    """Column that says train, val or test; without it the split is a hash."""
    gender_column: str | None = None
    """Column of genders, for the breakdowns of the report."""
    ethnicity_column: str | None = None
    """Column of ethnicities, for the breakdowns of the report."""
    subject_column: str | None = None
    """Column of person identities; all images of a person stand in one split."""
    box_columns: str | None = None
    """Four columns that say whose label a row of the CSV is, where photos have several faces: the face's box in pixels
    of the upright photo, such as x,y,width,height. A photo may have several rows then."""
    box_format: BoxFormat = "xywh"
    """What the four columns hold: left, top, width and height (xywh, as in COCO), or left, top, right and bottom
    (xyxy, as in Pascal VOC)."""
    age_groups: str | None = None
    """Groups such as "child=0-12,teenager=13-19,adult=20-59,senior=60-", or a preset: life-stages, 25-years, decades,
    adulthood. Default: the class folders or class names, else 25-years."""
    split: tuple[Share, ...] = (0.8, 0.1, 0.1)
    """Shares of train, val and test, which sum to 1; 0 0 1 makes a pure test catalog."""
    pack: CountOrZero = 0
    """Store each image in the catalog as a JPEG of at most this short side, pixels, so that training reads a few large
    files. 0: do not."""
    inspect: bool = False
    """Read every image of an unlabelled source too. Labelled ones are always read once."""
    faces: Literal["none", "largest", "all"] = "none"
    """Find the faces in all images once, and keep where they are beside the catalog, so that training and scoring with
    --faces need not find them again: as it is done for the largest face of an image, or, looking closer, for all of
    them. May be added later."""
    suspects: bool = False
    """Suspect labels that are probably wrong: findings about photos of which a model that has not seen them expects
    quite another age. It learns from the other photos' labels, and looks at faces through the checkpoint that comes
    with agescale, for non-commercial research. May be added later."""
    listing: str | None = None
    """Listing made elsewhere, in place of listing an unlabelled --source: Parquet or CSV with a header (a file, a
    folder of them, the manifest.json of an S3 inventory in Parquet), in any order. Columns: uri, or bucket and key, or
    key or name (below --source); version, etag or e_tag; size or size_bytes, where known."""
    max_deleted_fraction: Share = 0.1
    """Refuse to mark images as deleted where more than this share of the catalog's images is missing: a disk or a
    prefix may be unavailable. Up to 20 may always go. 1: never refuse."""
    repair: bool = False
    """Empty parts of the catalog that are damaged first, so that their images are listed anew."""
    report: bool = False
    """Write findings.html beside the catalog: of each kind of finding how many, what to do, and the first ones."""
    pictures: bool = True
    """Show photos and names of files in it. --no-pictures: no pixels, and a hash for each name."""
    lease: bool = True
    """Lock --out against other jobs. --no-lease: do not, for a store without conditional writes, where you make sure
    that no other job writes there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.pictures and not self.report:
            raise ValueError("--no-pictures is about the page of --report: give both")
        if (self.layout == "csv") != (self.csv is not None):
            raise ValueError("--csv and --layout csv go together")
        if self.pack and not self.reads_images:
            raise ValueError("--pack reads every image: give --inspect with it, or leave it out")
        if self.faces != "none" and not self.reads_images:
            raise ValueError(f"--faces {self.faces} reads every image: give --inspect with it, or leave it out")
        if self.suspects and self.layout == "unlabelled":
            raise ValueError("--suspects judges labels: give the --layout that tells them, or leave it out")
        if len(self.split) != 3 or abs(sum(self.split) - 1) > 1e-6:
            given = " ".join(map(str, self.split))
            raise ValueError(f"--split {given}: three shares that sum to 1 are needed, such as 0.8 0.1 0.1")
        if self.listing and self.reads_images:
            raise ValueError("--listing goes with --layout unlabelled, and without --inspect")

    @property
    def reads_images(self) -> bool:
        """Whether every image is read, and not only listed."""
        return self.inspect or self.layout != "unlabelled"


@dataclass(frozen=True)
class TrainConfig(Recorded):
    """Train an age model on a catalog."""

    catalog: tuple[str, ...] = ()
    """Catalogs to train on, one or several; drawn: drawn faces, made beside --out, to try things out. A photo that
    stands in several is taken once: never for training where another one validates or tests with it."""
    mix: tuple[Positive, ...] = ()
    """Shares of the catalogs in the loss, and in the validation metrics, in the order of --catalog; 1 1 and 0.5 0.5 are
    the same half of each, whatever their sizes. No image is left out or drawn twice: each weighs share * N / n, where n
    of the N training images are its catalog's, on top of --weighting. Default: every image counts the same."""
    out: str = "runs/train"
    """Folder of the run: best/ (the checkpoint), history.parquet. The same command again continues it."""
    where: str = ""
    """Train and validate on these images only, a pandas query such as "gender == 'male' and age_low >= 18" over uri,
    split, age_low, age_high, group, gender, ethnicity, subject, width, height. Sees coarse labels, where there are."""
    leave_out: tuple[Judgement, ...] = ()
    """Findings of the catalog that may be mistaken, whose images are left out all the same: near_leaking, which look
    the same as one of a split that judges, near_duplicate, which look the same as another one, suspect, whose labels
    are probably wrong (jobs/catalog.py --suspects). Default: none."""
    max_images: Count | None = None
    """Train, and validate, on at most so many images each, a stable random choice. Default: all."""
    coarse_labels: Share = 0.0
    """Share of the exact training ages that are replaced by their age group, to see what coarse labels are worth. To
    train on the remaining exact ages alone, add --where "age_high - age_low <= 1.001"."""
    gender_from: str = ""
    """Predictions whose gender is used where the catalog has none."""
    refit: bool = False
    """Train on the validation images as well, and keep the last epoch: a final training with settings chosen before.
    Its validation metrics are then meaningless."""
    encoder: str = "cnn"
    """Architecture: cnn, skip_cnn, attention_cnn, conv_autoencoder, torchvision/NAME for any torchvision
    classification backbone, or timm/NAME for any of timm's."""
    widths: tuple[Count, ...] = ()
    """Filters of each convolution block of cnn, skip_cnn, attention_cnn, conv_autoencoder. Default: the encoder's."""
    num_features: Count | None = None
    """Size of the encoder's dense layer: of cnn, by default 512, or behind a timm/NAME, by default none."""
    spatial_dropout: Annotated[float, Limits(0, 1 - _LEAST, "at least 0 and below 1")] | None = None
    """Probability of dropping a whole feature map in attention_cnn. Default: 0.1."""
    task: Literal["classification", "regression", "distribution", "ordinal", "reconstruction"] = "distribution"
    """What the head learns: the age groups, the age, a distribution over ages 0..100+, the thresholds "at least k years
    old", or (without labels) the image itself."""
    loss: str = ""
    """The task's loss. distribution: dldl (DLDL-v2), mean-variance; regression: l1, huber; ordinal: coral, corn;
    classification: cross-entropy; reconstruction: mse. Default: the first one named."""
    label_smoothing: Share = 0.0
    """Share of each class label that is spread over all classes (classification)."""
    weighting: Literal["none", "classes", "density", "gender+decade", "ranks"] = "none"
    """Weight training images by the rarity of their age group (classes), of their age (density: label distribution
    smoothing) or of their gender at their decade of age (gender+decade), or an ordinal task's thresholds by their
    importance (ranks, as in the CORAL paper)."""
    auxiliary: tuple[Literal["gender", "ethnicity"], ...] = ()
    """Further heads that learn what the catalog knows of gender and ethnicity; missing labels are ignored."""
    auxiliary_weight: NotNegative = 0.2
    """Weight of each auxiliary head's cross-entropy beside the task's loss."""
    weights: str = ""
    """Initial weights: a name of torchvision's or timm's, such as IMAGENET1K_V1, a file or s3:// URI, an agescale
    checkpoint, whose heads are taken too where they fit, or included, the one that comes with agescale. Default:
    random."""
    weights_sha256: str = ""
    """SHA-256 that the weights file (of a checkpoint: its weights-*.pt) must have, hex. Default: not checked."""
    weights_license: str = ""
    """Licence of the initial weights, kept in the checkpoint for whoever deploys it."""
    data_license: str = ""
    """Licence of the training images, kept in the checkpoint for whoever deploys it."""
    image_size: Count = 96
    """Side of the model's square input, pixels."""
    center_crop: PositiveShare = 1.0
    """Share of the image's shorter side that is kept around its centre; 0.7 turns a wide crop into a tight one."""
    faces: Literal["none", "largest"] = "none"
    """What of each image is learned from: its central square (none), or the largest face that is found in it, upright
    and at one scale. The checkpoint remembers it, and is shown faces in whatever photos it is to predict."""
    age_groups: str | None = None
    """Age groups as in jobs/catalog.py. Default: the catalog's."""
    head_sizes: tuple[Count, ...] = ()
    """Sizes of the head's dense layers, between features and output, such as 512."""
    dropout: Share = 0.2
    """Dropout before each dense layer, probability."""
    phases: str = "all:12@1e-3"
    """Fine-tuning phases, scope:epochs@learning-rate, such as "head:1@1e-3,last2:3@3e-4,all:9@3e-4"; the scope is head,
    lastN (the head and the last N blocks of the encoder) or all."""
    layer_decay: PositiveShare = 1.0
    """Layer-wise learning-rate decay, such as 0.75: the heads learn at the phase's rate, each block of the encoder at
    this share of the rate of the block behind it. 1: all at the same."""
    freeze_batch_norm: bool = False
    """Keep the statistics of the encoder's batch norms as they are, and normalise by them, while it learns: for weights
    whose batch norms were published folded, and for small batches."""
    epochs: Count | None = None
    """Cap on the epochs of all phases together."""
    batch_size: Count = 64
    """Global batch size: images per step over all workers together; each worker takes its share."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """Optimiser; sgd with Nesterov momentum 0.9."""
    schedule: Literal["cosine", "exponential", "constant"] = "cosine"
    """Learning-rate schedule of each phase after its warm-up; cosine and exponential end at 1e-6."""
    warmup_epochs: NotNegative = 0.5
    """Linear warm-up at the start of each phase, epochs."""
    weight_decay: NotNegative = 0.05
    """Weight decay, off for biases and norms; in adam and sgd it is an L2 penalty of half as much."""
    head_weight_decay: NotNegative | None = None
    """Weight decay of the heads. Default: --weight-decay."""
    clip_norm: NotNegative = 1.0
    """Gradient clipping: the largest norm. 0: no clipping."""
    ema_decay: Share = 0.998
    """Decay per step of the exponential moving average (EMA) of the weights, which is validated and kept. 0: none."""
    augmentation: Literal["none", "flip", "light", "heavy", "framing"] = "light"
    """Random changes of training images, a fresh draw per image; flip: mirrored or not; framing: those of light, with
    more of scale (0.8 to 1.25), shift and roll, for a model that is to bear faces that are cut out otherwise than those
    it learns from."""
    mixup: NotNegative = 0.0
    """Blend pairs of training images and their labels with shares from Beta(mixup, mixup). 0: do not."""
    interval_coverage: Annotated[float, Limits(0, 1 - _LEAST, "at least 0 and below 1")] = 0.9
    """Share of faces whose age is to lie in their interval (age_lower, age_upper), as jobs/calibrate.py finds them: on
    the validation faces, which each epoch is judged on. 0: no intervals."""
    worst_of: str = ""
    """Parts of the validation faces of whose MAEs the worst is kept in the history (val_worst_group_mae), such as
    gender,ethnicity or gender+decade, as in --max-gap of jobs/evaluate.py. Default: the age groups."""
    patience: Count = 5
    """Epochs without a better validation metric after which a phase ends, and training with its last one."""
    seed: int = 0
    """Seed of initial weights, order of images and augmentation."""
    num_workers: CountOrZero | str = 1
    """Training processes (DDP), such as 4; or 2:8, as many of them as there is room for, which may change meanwhile.
    0: train in the job's own process, which begins seconds earlier and can be debugged, and whose death ends the job.
    Not part of the run's identity."""
    cpus_per_worker: Positive = 1.0
    """CPUs that Ray reserves for each training process. Not part of the run's identity."""
    gpus_per_worker: NotNegative = 1.0
    """GPUs that Ray reserves for each training process, where it trains on one; a part of one lets small models share
    it. Not part of the run's identity."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes GPUs where the cluster has them. Not part of the run's identity."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """What the steps of training are computed in; auto: bfloat16 on a GPU, float32 on a CPU. A CPU with AVX-512 BF16 or
    AMX is about twice as fast with bfloat16. Heads and losses are float32 in any case, and images are judged as they
    will be scored."""
    cache: Literal["auto", "always", "never"] = "auto"
    """Keep decoded images, or what the frozen part of a model makes of them, in the object store between epochs; auto:
    if they fill under half of it. Not part of the run's identity."""
    save_minutes: NotNegative = 5.0
    """Minutes of an epoch after which its state is saved, so that no more is lost. 0: only at ends of epochs. Not part
    of the run's identity."""
    lease: bool = True
    """Lock --out against other jobs. --no-lease: do not, for a store without conditional writes, where you make sure
    that no other job writes there. Not part of the run's identity."""
    mlflow: str = ""
    """Tracking URI of an MLflow, such as http://HOST:5000 or sqlite:///mlflow.db, which gets the settings, the metrics
    of each epoch and the checkpoint (pip install 'agescale[mlflow]'). Not part of the run's identity."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.num_workers, str):
            ends = re.fullmatch(r"(\d+):(\d+)", self.num_workers)
            if not ends or not 1 <= int(ends[1]) <= int(ends[2]):
                raise ValueError(f"--num-workers {self.num_workers}: a number, or a range such as 2:8")
        _check_worst_of(self.worst_of)
        if self.mix and len(self.mix) != len(self.catalog):
            given = " ".join(f"{share:g}" for share in self.mix)
            raise ValueError(f"--mix {given}: a share for each of --catalog, which names {len(self.catalog)}")

    @property
    def worker_range(self) -> tuple[int, int]:
        """The least and the most training processes."""
        low, _, high = str(self.num_workers).partition(":")
        return int(low), int(high or low)


@dataclass(frozen=True)
class SweepConfig(Recorded):
    """Search for the best settings of training. The same command continues a sweep that was stopped."""

    catalog: str
    """Catalog to train on; trials are compared on its validation split, the test split is never looked at."""
    out: str
    """Folder of the sweep: best/ (the winner), leaderboard.parquet, sweep_report.html."""
    space: str = "quick"
    """What may be tried: quick, architectures, full, or a Python file that defines SPACE, a list of dicts from settings
    of jobs/train.py to lists or scipy.stats distributions."""
    num_trials: Count | None = None
    """Trials in all; more of them may be asked for later. Default: 20, or all points of a grid, or as many as
    --total-epochs allows."""
    epochs: Count = 10
    """Maximum epochs of a trial."""
    searcher: Literal["optuna", "random", "grid"] = "optuna"
    """Search algorithm: optuna (TPE, which learns from earlier trials), random (the same trials for the same seed), or
    grid (every point of a space of lists, shuffled by the seed)."""
    scheduler: Literal["asha", "none"] = "asha"
    """Early stopping: asha stops trials that fall behind; none lets every trial finish."""
    grace_epochs: Count = 1
    """Epochs that every trial gets before ASHA may stop it."""
    reduction_factor: MoreThanOne = 4.0
    """ASHA's reduction factor: at each rung one of so many trials continues; rungs are as many times apart."""
    objective: Literal["mae", "worst_group_mae", "accuracy"] = "mae"
    """Metric of the validation split to optimise."""
    worst_of: str = ""
    """Parts of the faces of whose MAEs worst_group_mae is the largest, such as gender,ethnicity or gender+decade, as in
    --max-gap of jobs/evaluate.py. Default: the age groups."""
    weights: tuple[str, ...] = ()
    """ENCODER=SOURCE of initial weights, such as torchvision/vgg16=IMAGENET1K_V1 or =vgg16.pth. Others start from
    random."""
    hours: Positive | None = None
    """Stop after so many hours; the same command continues. Default: no limit."""
    total_epochs: Count | None = None
    """Budget: start no new trial once all trials together have trained for so many epochs. Default: no limit."""
    refit: bool = False
    """Train the winner once more, on training and validation images together, into refit/."""
    where: str = ""
    """Train and validate on these images only, as in jobs/train.py."""
    leave_out: tuple[Judgement, ...] = ()
    """Findings whose images are left out, as in jobs/train.py."""
    max_images: Count | None = None
    """Train, and validate, on at most so many images each."""
    num_workers: Count = 1
    """Training processes of each trial (DDP)."""
    cpus_per_worker: Positive = 1.0
    """CPUs of each training process."""
    gpus_per_worker: NotNegative = 1.0
    """GPUs of each training process, where there are any; 0.5 lets two share one."""
    max_concurrent: Count | None = None
    """Trials at a time. Default: as many as the cluster holds."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes GPUs where the cluster has them."""
    seed: int = 0
    """Seed of proposals and of every trial."""
    lease: bool = True
    """Lock --out against other jobs. --no-lease: do not, for a store without conditional writes, where you make sure
    that no other job writes there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_worst_of(self.worst_of)
        for item in self.weights:
            if "=" not in item:
                raise ValueError(f"--weights {item}: ENCODER=SOURCE, such as torchvision/vgg16=vgg16.pth")


@dataclass(frozen=True)
class ScoreConfig(Recorded):
    """Predict the age of every image of a catalog; one row each, whatever is wrong with it."""

    catalog: str
    """Catalog to score."""
    out: str
    """Folder of the predictions. The same command again scores only what is missing."""
    checkpoint: str = ""
    """Checkpoint, such as runs/train/best. Default: the one that comes with agescale, for non-commercial research."""
    unit_rows: Annotated[int, Limits(1, MAX_UNIT_ROWS, f"from 1 to {MAX_UNIT_ROWS:,}")] | None = None
    """Catalog rows of one output file, which is the unit of work: at most 10,000. Default: a tenth of the part of the
    catalog, but at least 1,000 and at most 10,000."""
    batch_size: Count = 64
    """Images of one forward pass."""
    split: tuple[Split, ...] = ()
    """Only the images of these splits, such as test val, to judge a model. Default: every image."""
    faces: Literal["auto", "none", "largest", "all"] = "auto"
    """What of each image is looked at: its central square (none), the largest face that is found in it (largest), all
    faces, with a row for each (all), or what the checkpoint was trained on: squares, or largest faces (auto)."""
    tta: bool = False
    """Average each prediction over the image and its mirror image: twice the work, a little more accurate."""
    num_workers: CountOrZero | None = None
    """Scoring processes. 0: score in the job's own process, without Ray. Default: one a GPU, else one a CPU; none for
    200 images or fewer where no Ray runs."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to score; auto takes GPUs where the cluster has them."""
    backend: Backend = "auto"
    """What computes the model on CPUs: torch (eager) or OpenVINO (needs agescale[cpu]); the ages are the same. auto:
    OpenVINO where it is installed and there are enough images for the seconds that it takes to begin."""
    decode: Literal["auto", "inside", "apart"] = "auto"
    """Who reads and decodes images, and finds faces: threads of the scoring processes (inside), or tasks of their own
    on all CPUs of the cluster that no scoring process has (apart). auto: apart for GPUs with two such CPUs each."""
    retry: tuple[FailedStatus, ...] = ()
    """Statuses of rows to score again, such as unreachable missing."""
    repair: bool = False
    """Verify the table first, and delete files that are damaged or wrong, so that their images are scored again."""
    max_failed_fraction: Share = 0.1
    """Share of the rows scored by this run that may fail; above it the table is complete, and the exit code 3."""
    lease: bool = True
    """Lock --out against other jobs. --no-lease: do not, for a store without conditional writes, where you make sure
    that no other job writes there."""


@dataclass(frozen=True)
class PredictConfig(Checked):
    """Predict the ages of some photos on this machine alone, and print them."""

    photos: Annotated[Positional[tuple[str, ...]], arg(metavar="PHOTO ...", help_behavior_hint="(one or more)")]
    """Photos and folders of photos: paths or s3:// URIs."""
    checkpoint: str = ""
    """Checkpoint, such as runs/train/best. Default: the one that comes with agescale, for non-commercial research."""
    out: str = ""
    """File to write the predictions to: a path or s3:// URI that ends in .csv, .json or .parquet. Default: they are
    printed."""
    format: Literal["table", "csv", "json"] | None = None
    """What is printed or written. Default: as --out ends, else a table for people."""
    draw: str = ""
    """Folder for copies of the photos with age, interval and age group written below and a frame around what the model
    saw, and index.html with all of them. Default: none are made."""
    faces: Literal["auto", "none", "largest", "all"] = "auto"
    """What of each photo is looked at: its central square (none), the largest face that is found in it (largest), all
    faces (all), or what the checkpoint was trained on: squares, or largest faces (auto)."""
    tta: bool = False
    """Average each prediction over the image and its mirror image: twice the work, a little more accurate."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to predict; auto takes a GPU where this machine has one."""


@dataclass(frozen=True)
class VerifyConfig(Logged):
    """Verify a table of predictions (one row for each image of its catalog, and nothing else), the files of a
    checkpoint, or a report with its model card."""

    catalog: str = ""
    """Catalog that was scored."""
    predictions: str = ""
    """Predictions of that catalog."""
    checkpoint: str = ""
    """Checkpoint whose files are to be the ones that were written."""
    report: str = ""
    """Report whose files and figures are to be those of its model_card.md, and of --checkpoint, where one is given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.catalog) != bool(self.predictions):
            raise ValueError("--catalog and --predictions go together")
        if not (self.predictions or self.checkpoint or self.report):
            raise ValueError("--predictions with --catalog, --checkpoint or --report: say what is to be verified")


@dataclass(frozen=True)
class TableConfig(Logged):
    """Write the current rows of predictions, and nothing else, as a table for other people."""

    catalog: str
    """Catalog that was scored."""
    predictions: str
    """Predictions of that catalog."""
    out: str
    """What to write: a name that ends in .csv (UTF-8, for spreadsheets) or .parquet is one file, which is replaced;
    any other a new folder of Parquet files."""
    columns: tuple[str, ...] = ()
    """Columns: file (the image's name below the catalog's source), those of the predictions, and of the catalog
    age_low, age_high, subject, split, size_bytes, listed_at, content_hash, label_group, label_gender, label_ethnicity;
    where labels are of faces by their boxes, a face has that of the box in which it is. Default: file, ages, group,
    status and error."""
    probability_under: tuple[AgeThreshold, ...] = ()
    """Ages such as 18 21: a column probability_under_18 for each, the probability of being younger."""
    where: str = ""
    """Only rows for which this pandas query over all these columns holds, such as "status == 'ok' and age < 25"."""
    age_groups: str | None = None
    """Age groups with bounds, as in jobs/catalog.py, for group and group_probability; they derive from
    the predicted distributions. Default: the model's."""
    gate: str | None = None
    """The gate.json that jobs/gate.py wrote of predictions by the same model: one more column, needs_papers, says who
    does not pass there."""
    lease: bool = True
    """Lock --out against other jobs. --no-lease: do not, for a store without conditional writes, where you make sure
    that no other job writes there."""


@dataclass(frozen=True)
class PreflightConfig(Logged):
    """Try a cluster before a long job: its nodes, versions, clocks, disks and rights, and how fast it would be."""

    catalog: str = ""
    """Catalog that the job is to read; without one no image is tried."""
    checkpoint: str = ""
    """Checkpoint to score with; without one no model is tried."""
    out: tuple[str, ...] = ()
    """Folders that the job is to write into: each is tried, from every node."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the model is to run; auto takes GPUs where the cluster has them."""
    num_workers: Count | None = None
    """Processes that are to score. Default: one a GPU, else one a CPU."""
    batch_size: Count = 64
    """Images a forward pass, as the job will be told."""
    num_images: Count = 200
    """Images of the catalog to try."""
    price_per_hour: NotNegative | None = None
    """Price of one hour of the whole cluster, in any currency: what the job would cost is told, too."""
    max_cost: NotNegative | None = None
    """What scoring the whole catalog may cost; a job that would cost more is a thing to mend. With --price-per-hour."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_cost is not None and (self.price_per_hour is None or not self.catalog or not self.checkpoint):
            raise ValueError("--max-cost: give --price-per-hour, --catalog and --checkpoint with it")


@dataclass(frozen=True)
class StatusConfig(Checked):
    """What stands in some folders, how far it is, and who works there. Changes nothing, and starts no Ray."""

    out: tuple[str, ...]
    """Folders that jobs write into: catalogs, runs, sweeps, predictions, reports, gates, drifts."""
    format: Literal["table", "json"] = "table"
    """For people, or one array of objects for programs."""


@dataclass(frozen=True)
class WeightsConfig(Checked):
    """Which models agescale brings (included), or knows of others; with a name, make a checkpoint of that one. Nothing
    is downloaded."""

    name: Annotated[Positional[str], arg(metavar="NAME")] = ""
    """Model to make a checkpoint of, or included alone: its card is printed. Default: what is known of each is
    printed."""
    source: str = ""
    """Folder with its files as others have published them: a path or s3:// URI. Their SHA-256 is checked."""
    out: str = ""
    """Folder of the checkpoint: a new one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name == "included":
            if self.source:
                raise ValueError(f"--source {self.source}: included comes with agescale; leave it out")
        elif bool(self.name) != bool(self.source) or bool(self.name) != bool(self.out):
            raise ValueError("NAME, --source and --out go together")


@dataclass(frozen=True)
class ExportConfig(Checked):
    """Write a checkpoint as one file for programs without agescale: uint8 images in; age distribution, age and interval
    out."""

    out: str
    """File to write: a path or s3:// URI that ends in .onnx or .pt2. One that stands there is replaced."""
    checkpoint: str = ""
    """Checkpoint, such as runs/train/best. Default: the one that comes with agescale, for non-commercial research."""
    format: Literal["onnx", "torch"] | None = None
    """onnx, for ONNX Runtime and others (needs agescale[onnx]), or torch, for torch.export.load. Default: as --out
    ends."""


@dataclass(frozen=True)
class CompactConfig(Recorded):
    """Write a catalog of many nights, and predictions of it, anew as tables of few files: the nights go on with those.
    The same command continues."""

    catalog: str
    """Catalog that has grown; it is only read."""
    out: str
    """Folder of the new catalog: the current rows, in whole parts."""
    predictions: str = ""
    """Predictions of the catalog; only read as well."""
    out_predictions: str = ""
    """Folder of the same predictions, of the new catalog."""
    lease: bool = True
    """Lock the new folders against other jobs. --no-lease: do not, for a store without conditional writes, where you
    make sure that no other job writes there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.predictions) != bool(self.out_predictions):
            raise ValueError("--predictions and --out-predictions go together")


@dataclass(frozen=True)
class RegroupConfig(Recorded):
    """Tell predictions in other age groups, or behind an age gate, from their stored distributions: a new table of
    predictions. The same command continues, and adds what has been scored since."""

    predictions: str
    """Predictions; they are only read, and neither images nor the model are."""
    out: str
    """Folder of the new table."""
    age_groups: str | None = None
    """Age groups with bounds, as in jobs/catalog.py, for group and group_probability. Default: as they are."""
    gate: str | None = None
    """The gate.json that jobs/gate.py wrote of predictions by the same model: a column needs_papers says who does not
    pass there."""
    lease: bool = True
    """Lock --out against other jobs. --no-lease: do not, for a store without conditional writes, where you make sure
    that no other job writes there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.age_groups or self.gate):
            raise ValueError("--age-groups or --gate: one of them is needed")


@dataclass(frozen=True)
class PackConfig(Recorded):
    """Write a catalog's images as tar shards, with their labels beside them. The same command continues, and packs what
    has come since."""

    catalog: str
    """Catalog of the images; it and they are only read."""
    out: str
    """Folder of the shards."""
    shard_mb: Count = 100
    """Megabytes of a shard at most, unless one image has more; what a process holds at once, twice."""
    lease: bool = True
    """Lock --out against other jobs. --no-lease: do not, for a store without conditional writes, where you make sure
    that no other job writes there."""


@dataclass(frozen=True)
class CalibrateConfig(Recorded):
    """Make of a checkpoint one of the same weights whose age intervals cover a stated share of faces."""

    catalog: str
    """Catalog with exact ages, of people such as the model will see."""
    out: str
    """Folder of the new checkpoint. The same command again goes on, or changes nothing."""
    checkpoint: str = ""
    """Checkpoint, such as runs/train/best. Default: the one that comes with agescale, for non-commercial research."""
    predictions: str = ""
    """Predictions of that catalog by that very model. Default: the images of --split are scored first, into a folder
    beside --out."""
    split: tuple[Split, ...] = ("val",)
    """Splits whose faces count, taken together."""
    interval_coverage: InnerShare = 0.9
    """Share of faces whose age is to lie in their interval."""
    batch_size: Count = 64
    """Images of one forward pass."""
    tta: bool = False
    """Average each prediction over the image and its mirror image, as it will be done when the model is used: used
    otherwise, a line says that the intervals may not hold."""
    num_workers: CountOrZero | None = None
    """Scoring processes, as in jobs/score.py."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to score; auto takes GPUs where the cluster has them."""
    lease: bool = True
    """Lock --out against other jobs. --no-lease: do not, for a store without conditional writes, where you make sure
    that no other job writes there."""


@dataclass(frozen=True)
class EvaluateConfig(Recorded):
    """Judge predictions against a catalog's labels: metrics.json, tables, and one report.html."""

    catalog: str
    """Catalog with the labels."""
    predictions: str
    """Predictions of that catalog."""
    out: str
    """Folder of the report."""
    against: str = ""
    """Predictions of another model, for the difference of the two on the faces that both have scored."""
    gender_from: str = ""
    """Predictions whose gender is used, for the breakdowns, where the catalog has none."""
    include_findings: bool = False
    """Judge rows with findings too (duplicates, conflicting labels)."""
    split: tuple[Split, ...] = ("test", "val")
    """Splits to judge; the first is what the report is about."""
    age_groups: str | None = None
    """Age groups to judge in, with bounds, as in jobs/catalog.py: they derive from the predicted distributions, nothing
    is scored again. Default: the catalog's where they have bounds, else the model's."""
    max_gap: tuple[str, ...] = ()
    """How far a metric may differ between any two parts of the faces, such as mae=1.0:gender,ethnicity or
    accuracy=0.05:gender+ethnicity; where the first split is shown to differ by more, the exit code is 3. Metrics: mae,
    bias (years), cs_at_5, accuracy (shares); parts: gender, ethnicity, decade, and several with + between."""
    max_gate_gap: tuple[str, ...] = ()
    """The same of an age gate at 18 by the predicted age: minors=0.1:gender is about the share of those of 14 to 17 who
    pass, adults=0.1:gender about that of those of 18 to 24 who are stopped."""
    checkpoint: str | None = None
    """Checkpoint to describe. Default: the one that the predictions name."""
    pictures: bool = True
    """Show faces and names of files. --no-pictures: no pixels, and a hash for each name, so that the report may go
    where the photos may not."""
    mlflow: str = ""
    """Tracking URI of the MLflow that knows the checkpoint's run: that run gets the metrics and the report."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for option, metrics, texts in self._gaps():
            for text in texts:
                found = re.fullmatch(r"(\w+)=([0-9.]+):([\w+,]+)", text)
                is_known = found and found[1] in metrics and re.fullmatch(r"\d*\.?\d+", found[2])
                if not found or not is_known or not _are_parts(found[3]):
                    raise ValueError(
                        f"{option} {text}: METRIC=GAP:PART,..., such as {metrics[0]}=0.1:gender,ethnicity; a metric is "
                        f"{' or '.join(metrics)}, a part {', '.join(GAP_PARTS)}, or several of these with + between"
                    )

    def _gaps(self) -> tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]:
        return ("--max-gap", GAP_METRICS, self.max_gap), ("--max-gate-gap", GATE_GAP_METRICS, self.max_gate_gap)

    @property
    def gap_limits(self) -> list[tuple[str, str, float, tuple[str, ...]]]:
        """Of each limit the option as given, the metric, the gap that may be, and the kinds of parts."""
        given = [(option, text) for option, _, texts in self._gaps() for text in texts]
        parts = [(option, text, *re.split("[=:]", text)) for option, text in given]
        return [(f"{option} {text}", name, float(gap), tuple(by.split(","))) for option, text, name, gap, by in parts]


@dataclass(frozen=True)
class DriftConfig(Recorded):
    """Tell whether predictions are of other photos than those before: drift.json and drift.html."""

    predictions: str
    """Predictions to look at."""
    against: str
    """Predictions to compare them with, best by the same model: of last month, or of the images that it was judged on.
    With --since it may be the same table: then what was scored before. A catalog, or a checkpoint, whose training
    images are meant, will do as well: of these only the sizes of photos are compared."""
    out: str
    """Folder of the two files."""
    since: str | None = None
    """Only what was scored from then on, such as 2026-11-30 or 2026-11-30T02:00 (UTC). Default: all."""
    max_psi: Positive = 0.2
    """Population stability index above which the exit code is 3, where the difference is hardly chance, too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            _ = self.since_time
        except ValueError:
            raise ValueError(f"--since {self.since}: a date, or a time, such as 2026-11-30T02:00") from None

    @property
    def since_time(self) -> dt.datetime | None:
        if self.since is None:
            return None
        time = dt.datetime.fromisoformat(self.since)
        return time if time.tzinfo else time.replace(tzinfo=dt.UTC)


@dataclass(frozen=True)
class GateConfig(Recorded):
    """Find the threshold of an age gate that minors pass no more often than may be: gate.json and gate.html."""

    catalog: str
    """Catalog with the labels."""
    predictions: str
    """Predictions of that catalog."""
    out: str
    """Folder of the two files."""
    age: GateAge = 18
    """Age from which people may pass, years."""
    max_false_positive_rate: InnerShare = 0.1
    """Share of the minors of --band that may pass without papers."""
    confidence: InnerShare = 0.95
    """With what probability that share is not exceeded."""
    by: Literal["age", "probability"] = "age"
    """What decides who must show papers: a predicted age below the threshold, or a predicted probability of being under
    --age above it."""
    band: tuple[CountOrZero, ...] = ()
    """Ages of the minors that count, the first and the last year. Default: the four years below --age, of 18: 14 17."""
    split: tuple[Split, ...] = ("test",)
    """Splits whose faces count, taken together."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.band and not (len(self.band) == 2 and self.band[0] <= self.band[1] < self.age):
            given = " ".join(map(str, self.band))
            raise ValueError(f"--band {given}: the first and the last year of it, both below --age {self.age}")

    @property
    def minors(self) -> tuple[int, int]:
        """The first and the last year of the band."""
        return (self.band[0], self.band[1]) if self.band else (max(self.age - 4, 0), self.age - 1)


EXECUTION_FIELDS = (
    "out", "num_workers", "cpus_per_worker", "gpus_per_worker", "device", "cache", "save_minutes", "lease", "mlflow",
    "log_format", "notify_url",
)  # fmt: skip
"""Settings of TrainConfig that change where and how fast a run runs, not what it is."""
