"""What Ray's processes do in scoring: a unit of a catalog in, its file of predictions written."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from ray.util import metrics

from agescale.config import Backend, ScoreConfig
from agescale.faces.loading import Spent
from agescale.runtime import bottleneck
from agescale.runtime.work import decoder
from agescale.scoring.apart import ApartLoader
from agescale.store import objects, parquet, paths
from agescale.store.errors import StoreError
from agescale.store.objects import read_pool
from agescale.tables import catalogs, folders, packed, schema, units
from agescale.tables.catalogs import Catalog
from agescale.tables.predictions import Counts, read_counts
from agescale.tables.units import Unit

STORE_STATUSES = {"missing", "forbidden", "unreachable"}
"""Where all images of a unit have these, it may be the store's fault and not theirs."""


@dataclass(frozen=True)
class Workers:
    num: int
    num_threads: int  # of the forward pass on the CPU
    device: str
    backend: Backend = "auto"
    num_decoders: int = 0  # for each of them, apart; 0: they decode themselves


@dataclass(frozen=True)
class UnitScorer:
    """What a scoring process needs to know; small, because it travels to each of them."""

    catalog: Catalog  # as it was when scoring began
    checkpoint: str
    out: str
    metadata: dict[str, Any]
    config: ScoreConfig
    workers: Workers


@dataclass(frozen=True)
class Todo:
    """What is to do for a unit, whose file has that ``name``: its ``rows`` to be scored, None where the file is there;
    with ``num_retried`` the table that stands, of that version, and counts by status of what is no longer listed."""

    name: str
    unit: Unit
    num_retried: int
    rows: pa.Table | None = None
    before: pa.Table | None = None
    version: str = ""
    gone: Counter[str] = field(default_factory=Counter)


class ScoringActor:
    """Holds the model, and scores some units a call: reads their rows, predicts, writes their files."""

    def __init__(self, scorer: UnitScorer) -> None:
        import torch  # here: whoever gives the work to Ray's processes has no model

        from agescale.models.predictor import Predictor

        self.scorer = scorer
        device = scorer.workers.device
        if device == "cpu":
            torch.set_num_threads(min(scorer.workers.num_threads, len(os.sched_getaffinity(0))))
        config, backend = scorer.config, scorer.workers.backend
        self.predictor = Predictor(scorer.checkpoint, device, config.tta, config.faces, backend)
        if self.predictor.digest != scorer.metadata["run"]["model"]:
            where = scorer.checkpoint or f"agescale on {os.uname().nodename}"
            raise ValueError(f"{where}: the checkpoint was replaced meanwhile; run the same command again")
        self.why_eager = self.predictor.why_eager  # of this process, so it is told once, with the first task
        self.use_packed = scorer.catalog.holds_packed(self.predictor.framing)
        self.pool = read_pool()
        num_tasks = 2 * scorer.workers.num_decoders  # as many again are done, or wait for a CPU
        self.apart = ApartLoader(scorer.catalog.uri, self.predictor.framing, self.use_packed, num_tasks)
        self.num_scored = metrics.Counter("agescale_images_scored", "Images scored, by status", tag_keys=("status",))
        self.stage_seconds = metrics.Counter("agescale_stage_seconds", "Seconds of processes, by stage", ("stage",))
        self.superseded = scorer.catalog.superseded()

    def __call__(self, task: pa.Table) -> pa.Table:
        started = time.monotonic()
        self.predictor.meter.begin()
        self.spent = Spent()
        standing: dict[str, Counts] = {}
        scored_now: Counter[str] = Counter()
        num_rows = num_listed = 0
        for todo in self._planned(task.to_pylist()):
            name = todo.name
            with decoder(paths.join(self.scorer.out, name)) as self.decoder:
                standing[name], scored = self._retry(todo) if todo.num_retried else self._score(todo)
            scored_now.update(scored)
            num_rows += todo.num_retried or sum(standing[name]["statuses"].values())
            num_listed += todo.num_retried or len(todo.unit)
        for status, count in scored_now.items():
            self.num_scored.inc(count, tags={"status": status})
        seconds = self._seconds()
        for stage, spent_s in seconds.items():
            if spent_s > 0:  # Ray refuses 0
                self.stage_seconds.inc(spent_s, tags={"stage": stage})
        texts = {"standing": json.dumps(standing), "scored_now": json.dumps(scored_now), "why_eager": self.why_eager}
        self.why_eager = ""
        told = {"num_rows": num_rows, "num_listed": num_listed, **texts, "seconds": json.dumps(seconds)}
        return pa.Table.from_pylist([{**told, "wall_s": time.monotonic() - started}])

    def _seconds(self) -> dict[str, float]:
        """What this process has done since its meter began, by stage."""
        took, spent, workers = self.predictor.meter.end(), self.spent, self.scorer.workers
        decode_cpu_s = spent.decode_cpu_s / max(1, workers.num_threads)
        return bottleneck.divided(took, workers.device == "cpu", spent.read_s, spent.decode_s, decode_cpu_s)

    def _planned(self, rows: list[dict[str, Any]]) -> Iterator[Todo]:
        """What is to do for each unit. Where others decode, they are asked for the images of the next one already."""
        planned = map(self._plan, rows)
        if not self.scorer.workers.num_decoders:
            yield from planned
            return
        self.apart.forget()  # what a call that failed has left
        before: Todo | None = None
        for todo in planned:
            if todo.rows is not None:
                self.apart.begin(todo.rows, paths.join(self.scorer.out, todo.name))
            if before:
                yield before
            before = todo
        if before:
            yield before

    def _plan(self, row: dict[str, Any]) -> Todo:
        todo = Todo(row["output"], Unit(row["part"], row["start"], row["stop"]), row["num_retried"])
        output = paths.join(self.scorer.out, todo.name)
        with self.predictor.meter.stage("read"):
            if not todo.num_retried:  # one that is there was written by a process that died before it could say so
                return todo if objects.exists(output) else replace(todo, rows=self._current_rows(todo.unit))
            version = objects.version(output)
            before = parquet.read_table(output, schema.PREDICTIONS.names)
            is_retried = pc.is_in(before["status"], pa.array(self.scorer.config.retry, pa.string()))
            rows = self._current_rows(todo.unit)
            is_current = pc.is_in(before["uri"], rows["uri"].combine_chunks())
            retried = before["uri"].filter(pc.and_(is_retried, is_current)).combine_chunks()
            rows = rows.filter(pc.is_in(rows["uri"], retried))
            gone = _count(before.filter(pc.invert(is_current)))
            return replace(todo, rows=rows, before=before, version=str(version), gone=gone)

    def _score(self, todo: Todo) -> tuple[Counts, Counter[str]]:
        """Writes the file of a unit. Returns what the file says, and counts by status of what was scored for it now."""
        name, output = todo.name, paths.join(self.scorer.out, todo.name)
        if todo.rows is None:
            return read_counts(output), Counter()
        predictions = self._predict(todo.rows)
        scored = _count(predictions)
        has_none = bool(scored) and set(scored) <= STORE_STATUSES
        if has_none and not self.scorer.catalog.delivers_others(predictions["uri"]):
            status, error = predictions["status"][0].as_py(), predictions["error"][0].as_py()
            hint = "none of the images tried could be read; is the source available? The same command continues"
            raise StoreError(status, f"{error}; {hint}")
        counts: Counts = {"statuses": scored, "gone": {}}
        if not folders.write_new_part(self.scorer.out, name, self._as_part(predictions, counts)):
            return read_counts(output), Counter()  # a process that was thought dead has written it meanwhile
        return counts, scored

    def _retry(self, todo: Todo) -> tuple[Counts, Counter[str]]:
        """Writes the file of a unit anew, its failed rows scored again. Returns what ``_score`` does."""
        again = self._predict(todo.rows)
        predictions = _replace_rows(todo.before, again)
        counts: Counts = {"statuses": _count(predictions), "gone": todo.gone}
        if not folders.replace_part(self.scorer.out, todo.name, self._as_part(predictions, counts), todo.version):
            # a process that was thought dead has written it meanwhile
            return read_counts(paths.join(self.scorer.out, todo.name)), Counter()
        return counts, _count(again)

    def _current_rows(self, unit: Unit) -> pa.Table:
        rows = units.listed_rows(self.scorer.catalog, unit, self.scorer.config.split, ["size_bytes"])
        return self.superseded.current(rows, catalogs.listing_of(unit.part))

    def _as_part(self, predictions: pa.Table, counts: Counts) -> pa.Table:
        metadata = {**self.scorer.metadata, **counts, "backend": self.predictor.backend}
        return predictions.cast(schema.with_metadata("predictions", metadata))

    def _predict(self, rows: pa.Table) -> pa.Table:
        """One row of predictions for each of ``rows``, in their order; where others decode, of those next in turn."""
        if self.scorer.workers.num_decoders:
            found = self.apart.take(rows, self.spent)
            return self.predictor.predict_found(rows, found, self.scorer.config.batch_size)
        catalog, framing = self.scorer.catalog.uri, self.predictor.framing
        with self.predictor.meter.stage("read"):
            loaded = packed.load_faces(catalog, rows, framing, self.use_packed, self.pool, self.decoder, self.spent)
        return self.predictor.predict_rows(rows, loaded, self.scorer.config.batch_size)


def _count(predictions: pa.Table) -> Counter[str]:
    """Rows by status."""
    return Counter(predictions["status"].to_pylist())


def _replace_rows(before: pa.Table, again: pa.Table) -> pa.Table:
    """``before`` with the rows of ``again``, maybe several an image, in the places of those with the same URI."""
    rows_of: dict[str, list[int]] = {}
    for index, uri in enumerate(again["uri"].to_pylist(), start=len(before)):
        rows_of.setdefault(uri, []).append(index)
    uris = before["uri"].to_pylist()
    first_of = {uri: index for index, uri in reversed(list(enumerate(uris)))}
    indices: list[int] = []
    for index, uri in enumerate(uris):
        if uri not in rows_of:
            indices.append(index)
        elif index == first_of[uri]:
            indices += rows_of[uri]
    both = pa.concat_tables([before.replace_schema_metadata(None), again])
    return both.take(pa.array(indices, pa.int64()))
