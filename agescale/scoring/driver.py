"""Scores a catalog with Ray Data: rows in, as many rows of predictions out.

The catalog is cut into units (``units.py``), each of which becomes one file, whole or not at all, and is never scored
again while that stands: a killed job loses the units under way, and the same command scores what is missing. A start
costs a listing of either table, whatever is done already (``footers``). Within a unit a pool of threads reads and
decodes ahead of the model; only the units' names and counts pass through Ray.

    <out>/part-...-rows-...-<model>.parquet
    <out>.agescale/summary.json      written last: counts by status
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

from agescale.config import ScoreConfig
from agescale.models import checkpoints, included
from agescale.models.framing import faces_of, framing_of
from agescale.runtime.progress import ImageProgress
from agescale.runtime.versions import installed_versions
from agescale.scoring import verification
from agescale.scoring.plan import plan_work
from agescale.scoring.result import ScoreResult
from agescale.store import lease, objects, paths
from agescale.store.errors import Damaged, StoreError
from agescale.store.outputs import check_unchanged
from agescale.tables import faces, folders, predictions, units
from agescale.tables.catalogs import Catalog
from agescale.tables.predictions import Predictions


def score(config: ScoreConfig) -> ScoreResult:
    """Scores every unit of the catalog that has no file yet. Raises ValueError, before any work, where it cannot."""
    config = paths.with_absolute_uris(config)
    out, checkpoint_uri = config.out, config.checkpoint
    checkpoint = included.read(checkpoint_uri)
    folder, named = included.located(checkpoint_uri), checkpoint_uri or included.NAME
    checkpoints.read_file(folder, checkpoint.weights_file, checkpoint.weights_sha256)  # or it is damaged
    catalog = Catalog.open(config.catalog)
    settings = catalog.settings
    if settings["layout"] != "unlabelled" or settings.get("inspect"):  # a bucket is scored while it is being listed
        catalog.check_complete()
    output = folders.output(out, "predictions")
    output.check({**catalog.places, folder: "the checkpoint"}, "the table")
    summary_uri = predictions.summary_uri(out)
    with output.held(config.lease) as held:
        before = Predictions.find(out)
        _check_scored(before)
        if config.repair:
            _repair(catalog, out, held)
            before = Predictions.find(out)
        run = _begin(before, config, catalog, checkpoint)
        all_units = units.cut(catalog.parts, run["unit_rows"])
        work = plan_work(before.counts, all_units, checkpoint.digest, config.retry)
        progress = ImageProgress("scoring", work.num_rows)
        if work.todo:
            from agescale.scoring import execution  # here: Ray, which it starts, takes seconds to import
            from agescale.scoring.worker import UnitScorer

            objects.delete(summary_uri)
            if said := faces.found_on_the_fly(catalog, framing_of(checkpoint.spec, config.faces)):
                print(said, flush=True)
            made = checkpoint.spec.calibration
            if said := made.used_otherwise(run["faces"], config.tta) if made else "":
                print(said, flush=True)
            workers = execution.workers_for(config, work, catalog)
            card = {**checkpoint.card(), "tta": config.tta}
            metadata = {"run": run, "checkpoint": named, "model_card": card}
            scorer = UnitScorer(catalog, checkpoint_uri, out, metadata, config, workers)
            with progress:
                result = execution.run(work, scorer, progress, held)
        else:
            result = ScoreResult(predictions.by_status(work.standing), {}, 0.0)
        if work.todo or predictions.told_by_status(out) != result.by_status:  # it may be one of a job that slept
            summary = {**run, "checkpoint": named, "num_rows": result.num_rows, "by_status": result.by_status}
            summary |= {
                "num_units": len(work.units),
                "catalog_parts": catalog.names,
                "images_per_s": result.images_per_s,
                "bottleneck": result.bottleneck.to_dict(),
            }
            summary |= {"versions": installed_versions()}
            held.prove()
            objects.write_bytes(summary_uri, json.dumps(summary, indent=1).encode())
    return result


def _check_scored(standing: Predictions) -> None:
    """Raises ValueError where a table stands there that is made of another one, and is not to be scored into."""
    with contextlib.suppress(Damaged, StoreError):  # told later, or repaired
        if standing.names and standing.is_regrouped:
            raise ValueError(
                f"{standing.uri}: jobs/regroup.py made this table of another one; score into that, and regroup again"
            )


def _repair(catalog: Catalog, out: str, held: lease.Lease) -> None:
    """Deletes files of predictions that are damaged or wrong, so that their images are scored again."""
    for name in verification.wrong_files(catalog, out):
        held.prove()
        objects.delete(paths.join(out, name))
        print(f"{name}: deleted, it is damaged or wrong", flush=True)


def _begin(
    standing: Predictions, config: ScoreConfig, catalog: Catalog, checkpoint: checkpoints.Checkpoint
) -> dict[str, Any]:
    """What the predictions belong to. Raises ValueError where those that stand belong to something else."""
    before = standing.run if standing.names else {}
    run = {
        "model": checkpoint.digest,
        "age_groups": checkpoint.spec.age_groups,
        "catalog": catalog.uri,
        "catalog_id": catalog.id,
        "unit_rows": config.unit_rows or before.get("unit_rows"),
        "split": ",".join(sorted(config.split)),
        "tta": config.tta,
        "faces": faces_of(framing_of(checkpoint.spec, config.faces)),
    }
    if before.get("catalog_id") == catalog.id:
        run["catalog"] = before["catalog"]  # the same one, wherever it lies now, or by whatever name
    if before:
        check_unchanged(standing.uri, "another table of predictions", before, run)
    return run
