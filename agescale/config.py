"""The settings of every job: flat, frozen dataclasses, which tyro turns into command lines. No behaviour here.

Units are in the names or in the text below each field, which is its ``--help``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class DrawConfig:
    """Draw faces with a known age into a local folder, in any of the layouts that jobs/catalog.py reads."""

    out: str
    """Folder to draw into."""
    layout: Literal["class_folders", "csv", "utkface", "unlabelled"] = "utkface"
    """How the labels are told."""
    num_faces: int = 600
    """Faces to draw."""
    seed: int = 0
    """Seed; the same one draws the same faces, byte for byte."""
    size: int = 128
    """Side of the pictures, pixels, more or less."""
    num_broken: int = 4
    """Broken files among them, as real folders have."""


@dataclass(frozen=True)
class CatalogConfig:
    """List the images of a folder or bucket once, with what is known of each, as Parquet."""

    source: str
    """Folder of images: a path or s3://bucket/prefix."""
    out: str
    """Folder of the catalog. The same command again adds what is new, changed or gone."""
    layout: Literal["class_folders", "csv", "utkface", "unlabelled"] = "unlabelled"
    """How labels are told: one folder a class, a CSV, UTKFace file names, or not at all."""
    csv: str | None = None
    """CSV of labels (layout csv); its image names are relative to --source."""
    image_column: str | None = None
    """Column of image names. Default: file_name, filename, image, path, file or ID, whichever there is."""
    label_column: str | None = None
    """Column of ages, ranges such as 25-49, or class names."""
    age_column: str | None = None
    """Column of exact ages, years. Default: age or real_age."""
    split_column: str | None = None
    """Column that says train, val or test; without it the split is a hash."""
    gender_column: str | None = None
    """Column of genders, for the breakdowns of the report."""
    ethnicity_column: str | None = None
    """Column of ethnicities, for the breakdowns of the report."""
    subject_column: str | None = None
    """Column of person identities; all images of a person stand in one split."""
    age_groups: str | None = None
    """Groups such as "child=0-12,teenager=13-19,adult=20-59,senior=60-", or a preset: life-stages, 25-years, decades,
    adulthood. Default: the class folders or class names, else 25-years."""
    split: str = "0.8,0.1,0.1"
    """Shares of train, val and test; 0,0,1 makes a pure test catalog."""
    pack: int = 0
    """Store each image in the catalog as a JPEG of at most this short side, pixels, so that training reads a few large
    files. 0: do not."""
    inspect: bool = False
    """Read every image of an unlabelled source too. Labelled ones are always read once."""


@dataclass(frozen=True)
class TrainConfig:
    """Train an age model on a catalog. Without any argument: a small one, on drawn faces."""

    catalog: str = ""
    """Catalog to train on. Default: drawn faces, made beside --out."""
    out: str = "runs/train"
    """Folder of the run: best/ (the checkpoint), history.parquet. The same command again continues it."""
    encoder: str = "cnn"
    """Architecture: cnn, or torchvision/NAME for any torchvision classification backbone."""
    task: Literal["classification", "distribution"] = "distribution"
    """What the head learns: the age groups, or a distribution over ages 0..100+ (DLDL-v2)."""
    weights: str = ""
    """Initial weights: a torchvision name such as IMAGENET1K_V1, or a file or s3:// URI. Default: random."""
    weights_sha256: str = ""
    """SHA-256 that the weights file must have, hex. Default: not checked."""
    weights_license: str = ""
    """Licence of the initial weights, kept in the checkpoint for whoever deploys it."""
    data_license: str = ""
    """Licence of the training images, kept in the checkpoint for whoever deploys it."""
    image_size: int = 96
    """Side of the square that the model looks at, pixels."""
    center_crop: float = 1.0
    """Share of the image's shorter side that is kept around its centre; 0.7 turns a wide crop into a tight one."""
    age_groups: str | None = None
    """Age groups as in jobs/catalog.py. Default: the catalog's."""
    hidden: tuple[int, ...] = ()
    """Sizes of dense layers between features and output, such as 512."""
    dropout: float = 0.2
    """Dropout before each dense layer, probability."""
    phases: str = "all:12@1e-3"
    """Fine-tuning phases, scope:epochs@learning-rate, such as "head:1@1e-3,last2:3@3e-4,all:9@3e-4"; the scope is head,
    lastN (the head and the last N blocks of the encoder) or all."""
    epochs: int | None = None
    """Cap on the epochs of all phases together."""
    batch_size: int = 64
    """Images a step over all workers together; each worker takes its share."""
    weight_decay: float = 0.05
    """AdamW's weight decay, off for biases and norms."""
    warmup_epochs: float = 0.5
    """Linear warm-up at the start of each phase, epochs; a cosine to 1e-6 follows."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    ema_decay: float = 0.998
    """Decay a step of the averaged weights, which are validated and kept. 0: no averaging."""
    augmentation: Literal["none", "light", "heavy"] = "light"
    """Random changes of training images, a fresh draw per image."""
    patience: int = 5
    """Epochs without a better validation metric after which a phase ends, and training with its last one."""
    seed: int = 0
    """Seed of initial weights, order of images and augmentation."""
    num_workers: int = 1
    """Training processes (DDP). Not part of the run's identity."""
    cpus_per_worker: float = 1.0
    """CPUs that Ray reserves for each training process. Not part of the run's identity."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes GPUs where the cluster has them. Not part of the run's identity."""
    cache: Literal["auto", "always", "never"] = "auto"
    """Keep decoded images in the object store between epochs; auto: if they fill under half of it. Not part of the
    run's identity."""


@dataclass(frozen=True)
class ScoreConfig:
    """Predict the age of every image of a catalog; one row each, whatever is wrong with it."""

    catalog: str
    """Catalog to score."""
    checkpoint: str
    """Checkpoint, such as runs/train/best."""
    out: str
    """Folder of the predictions. The same command again scores only what is missing."""
    unit_rows: int = 1000
    """Catalog rows of one output file, which is the unit of work: at most 10,000."""
    batch_size: int = 64
    """Images of one forward pass."""
    mirror: bool = False
    """Average each prediction over the image and its mirror image: twice the work, a little more accurate."""
    num_workers: int | None = None
    """Scoring processes. Default: one a GPU, else one for every two CPUs."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to score; auto takes GPUs where the cluster has them."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Judge predictions against a catalog's labels: metrics.json, tables, and one report.html."""

    catalog: str
    """Catalog with the labels."""
    predictions: str
    """Predictions of that catalog."""
    out: str
    """Folder of the report."""
    include_findings: bool = False
    """Judge rows with findings too (duplicates, conflicting labels)."""
    split: str = "test,val"
    """Splits to judge; the first is what the report is about."""
    checkpoint: str | None = None
    """Checkpoint to describe. Default: the one that the predictions name."""


EXECUTION_FIELDS = ("out", "num_workers", "cpus_per_worker", "device", "cache")
"""Settings of TrainConfig that change where and how fast a run runs, not what it is."""
