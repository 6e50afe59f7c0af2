"""A checkpoint with intervals that hold, made of one without: the same weights, and what was found on labelled faces.

In: a ``CalibrateConfig``. Out: a folder with a checkpoint whose config.json, written last, tells the calibration. What
the model says of the faces comes from ``scoring``, into a table beside the checkpoint that goes on where it was killed:

    <out>/                          the checkpoint, with the notices that go with its weights
    <out>.agescale/predictions/     what was scored for it; kept for whoever wants to look, and not needed any more
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from agescale.ages.groups import AgeGroups
from agescale.config import CalibrateConfig, ScoreConfig
from agescale.evaluation.interval_calibration import calibration_of, labelled_faces
from agescale.models import checkpoints, foreign_models, included
from agescale.models.checkpoints import Checkpoint
from agescale.models.framing import faces_of, framing_of
from agescale.scoring.driver import score
from agescale.store import objects, paths
from agescale.store.outputs import Output, check_unchanged
from agescale.store.writers import Writer
from agescale.tables import folders
from agescale.tables.catalogs import Catalog
from agescale.tables.predictions import Predictions

NOTICES = (included.CARD_NAME, included.NOTICE_NAME, foreign_models.LICENSE_NAME)
"""Files beside weights that go where these go."""
TABLE_NAME = "predictions"


@dataclass(frozen=True)
class Calibrated:
    """The checkpoint in its folder, and what is worth a line."""

    checkpoint: Checkpoint
    notes: list[str]


def calibrate(config: CalibrateConfig) -> Calibrated:
    """Writes the checkpoint; where it stands already, nothing. Raises ValueError, before anything is written, where
    model, catalog and predictions do not belong together."""
    config = paths.with_absolute_uris(config)
    source, checkpoint = included.located(config.checkpoint), included.read(config.checkpoint)
    if checkpoint.spec.task == "classification" and not AgeGroups.parse(checkpoint.spec.age_groups).is_bounded:
        raise ValueError(f"{config.checkpoint}: says no ages, its model only chooses among groups by name")
    catalog = Catalog.open(config.catalog)
    given = _given(config, checkpoint, catalog) if config.predictions else None
    run = given.run if given else {"faces": faces_of(framing_of(checkpoint.spec)), "tta": config.tta}
    output = _output(config.out, checkpoint)
    places = {**catalog.places, source: "the checkpoint", **(given.places if given else {})}
    output.check_apart({uri: what for uri, what in places.items() if not uri.startswith(output.beside)})
    if checkpoints.exists(config.out):
        return _standing(config, checkpoint, catalog, run)
    output.check({})
    catalog.check_complete()
    checkpoints.read_file(source, checkpoint.weights_file, checkpoint.weights_sha256)  # or it is damaged
    faces = labelled_faces(catalog, config.split, config.interval_coverage)
    with output.held(config.lease) as held:
        calibration, notes = calibration_of(faces, given or _scored(config), config.interval_coverage)
        made = replace(checkpoint, spec=replace(checkpoint.spec, calibration=calibration), step=None)
        held.prove()
        for name in NOTICES:
            if objects.exists(paths.join(source, name)):
                objects.write_bytes(paths.join(config.out, name), objects.read_bytes(paths.join(source, name)))
        checkpoints.copy_weights(source, made, config.out, Writer(held.claim))
    return Calibrated(made, [*notes, *_used_otherwise(made), *_learnt(checkpoint, config)])


def _given(config: CalibrateConfig, checkpoint: Checkpoint, catalog: Catalog) -> Predictions:
    """The predictions that were named. Raises ValueError where they are another model's, or of another catalog."""
    predictions = Predictions.open(config.predictions)
    model = predictions.run["model"]
    if model != checkpoint.digest:
        named = config.checkpoint or f"the {included.NAME} one"
        raise ValueError(f"{config.predictions}: predictions of model {model}, and {named} is {checkpoint.digest}")
    predictions.check_of(catalog)
    if config.tta and not predictions.run.get("tta"):
        raise ValueError(f"--tta: {config.predictions} were scored without it; score with it, or leave both out")
    return predictions


def _scored(config: CalibrateConfig) -> Predictions:
    """What the model says of the images of the splits, scored as far as it is not yet."""
    out = paths.join(folders.beside(config.out), TABLE_NAME)
    score(
        ScoreConfig(
            catalog=config.catalog,
            checkpoint=config.checkpoint,
            out=out,
            split=config.split,
            batch_size=config.batch_size,
            tta=config.tta,
            num_workers=config.num_workers,
            device=config.device,
            lease=config.lease,
        )
    )
    return Predictions.open(out)


def _output(out: str, checkpoint: Checkpoint) -> Output:
    """The folder of a new checkpoint, in which nothing may stand but its beginning."""
    ours = {*NOTICES, checkpoint.weights_file}

    def find_stranger(found: str) -> str | None:
        return checkpoints.stranger_in(out, ours.__contains__, found)

    return Output(out, "a checkpoint", find_stranger, folders.beside(out))


def _standing(config: CalibrateConfig, checkpoint: Checkpoint, catalog: Catalog, run: Mapping[str, Any]) -> Calibrated:
    """The checkpoint that stands in ``out``. Raises ValueError where it is another one than this command makes."""
    standing = checkpoints.read(config.out)
    known = standing.spec.calibration
    told = ("coverage", "catalog_id", "split", "faces", "tta")
    before = {"model": _uncalibrated(standing), **{name: getattr(known, name, None) for name in told}}
    now = {
        "model": _uncalibrated(checkpoint),
        "coverage": config.interval_coverage,
        "catalog_id": catalog.id,
        "split": ",".join(sorted(config.split)),
        "faces": run.get("faces", "none"),
        "tta": run.get("tta", False),
    }
    check_unchanged(config.out, "another checkpoint", before, now)
    return Calibrated(standing, [f"{config.out}: stands already; nothing to do"])


def _uncalibrated(checkpoint: Checkpoint) -> str:
    """The digest of a model but for its intervals."""
    return replace(checkpoint, spec=replace(checkpoint.spec, calibration=None)).digest


def _used_otherwise(made: Checkpoint) -> list[str]:
    """Whether the checkpoint will look at other faces, as long as it is not told to look at these."""
    assert made.spec.calibration is not None
    by_itself = faces_of(framing_of(made.spec))
    said = replace(made.spec.calibration, tta=False).used_otherwise(by_itself, tta=False)
    return [f"{said}, unless jobs are told --faces {made.spec.calibration.faces}"] if said else []


def _learnt(checkpoint: Checkpoint, config: CalibrateConfig) -> list[str]:
    """Whether the model has seen these faces, as far as it is known."""
    settings = checkpoint.provenance.get("settings") or {}
    catalogs = settings.get("catalog") or ()
    if config.catalog not in ([catalogs] if isinstance(catalogs, str) else catalogs):
        return []
    learned = {"train", "val"} if settings.get("refit") else {"train"}
    if seen := " ".join(sorted(learned & set(config.split))):
        return [f"the model was trained on faces of this catalog ({seen}): on new ones its intervals are too narrow"]
    if "val" in config.split:
        return ["the model's epoch was chosen on these faces (val): on new ones its intervals may hold less often"]
    return []
