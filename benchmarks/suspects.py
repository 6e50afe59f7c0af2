"""How many planted wrong labels are suspected, and how many right ones; the figures of
docs/results.md#suspected-labels.

python jobs/catalog.py --source UTKFace --layout utkface --faces largest --suspects --out runs/utkface
python benchmarks/suspects.py --catalog runs/utkface
python benchmarks/suspects.py --catalog runs/utkface --checkpoint FACERES
agescale draw --num-faces 3000 --out drawn
python jobs/catalog.py --source drawn --layout utkface --suspects --out runs/drawn
python benchmarks/suspects.py --catalog runs/drawn

Labels of the catalog's photos are exchanged for those of others, and all are judged anew. Features are those beside the
catalog; with --checkpoint another network's are made first, and kept there too. The catalog itself is only read.
Precision takes each suspect whose label was not planted for a mistake, though some of these are wrong as the data come;
so it is also told without those that are suspect before any is planted.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import tyro

from agescale.cataloging import findings as quality
from agescale.cataloging import suspects
from agescale.cataloging.worker import FeatureWriter
from agescale.models.features import FeatureSource
from agescale.runtime.progress import ImageProgress
from agescale.runtime.work import run_here
from agescale.store import lease
from agescale.tables import features
from agescale.tables.catalogs import Catalog
from agescale.tables.companions import Companion

THRESHOLDS = (0.5, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True)
class Config:
    """Plant wrong labels, and count how many are suspected."""

    catalog: str
    """Catalog of photos with ages, made with --suspects."""
    checkpoint: str = ""
    """Checkpoint whose features are made beside the catalog in place of the included one's."""
    num_planted: int = 200
    """Labels that are exchanged."""
    min_years: float = 0
    """So far a planted label is from the true one, at least; 0: another age."""
    num_repetitions: int = 5
    """Plantings, each with another seed."""


def main(config: Config) -> None:
    catalog = Catalog.open(config.catalog)
    table = features_of(catalog, config.checkpoint)
    rows = catalog.read(quality.FACTS)
    labelled = rows.filter(suspects.can_be_judged(rows))
    places, known_NF = features.read(catalog, table, labelled)
    rows, features_NF = labelled.take(pa.array(places)), known_NF.astype(np.float32)
    low_N, high_N = (rows[name].to_numpy().astype(np.float64) for name in ("age_low", "age_high"))
    fold_N = suspects.folds(rows)
    began, cpu = time.monotonic(), time.process_time()
    as_they_are = suspects.judge(features_NF, low_N, high_N, fold_N)
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    print(f"{len(rows):,} labels of {len(labelled):,} judged in {seconds:.0f} s, {cpu:.0f} s of a CPU")
    error_N = np.abs(as_they_are.expected_N - low_N)
    print(f"mean error of what is expected: {error_N.mean():.2f} years; estimated share {as_they_are.share:.2%}")
    by_split(rows, as_they_are)
    planted(config, features_NF, low_N, high_N, fold_N, as_they_are)
    contradictory(rows, features_NF, low_N, high_N, fold_N)


def features_of(catalog: Catalog, checkpoint: str) -> Companion:
    """The features beside the catalog; of another checkpoint they are made where they are missing."""
    if not checkpoint:
        known = features.table_of(catalog)
        if known is None:
            raise SystemExit(f"{catalog.uri}: no features there; make it with --suspects")
        return known
    source = FeatureSource(catalog.settings.get("faces") or "none", checkpoint)
    table = features.table(source.digest)
    units = [pa.table({"part": [part]}) for part in table.missing_parts(catalog)]
    with ImageProgress("looking at faces", sum(each.num_rows for each in catalog.parts)) as progress:
        for _ in run_here(units, FeatureWriter(catalog, source, lease.Claim("", "", "")), progress):
            pass
    return table


def by_split(rows: pa.Table, judged: suspects.Judged) -> None:
    """Labels that the features' own network has learned from are judged milder than others."""
    splits = np.array(rows["split"].to_pylist(), object)
    low_N = rows["age_low"].to_numpy()
    for split in ("train", "val", "test"):
        is_one = splits == split
        if is_one.any():
            share = (judged.probability_N[is_one] > suspects.THRESHOLD).mean()
            error = np.abs(judged.expected_N - low_N)[is_one].mean()
            print(f"as the data come, {split}: {is_one.sum():,} photos, {share:.2%} suspect, error {error:.2f} years")


def planted(
    config: Config,
    features_NF: np.ndarray,
    low_N: np.ndarray,
    high_N: np.ndarray,
    fold_N: np.ndarray,
    as_they_are: suspects.Judged,
) -> None:
    counts: dict[float, list[tuple[int, int, int]]] = defaultdict(list)
    by_distance: dict[str, list[bool]] = defaultdict(list)
    for seed in range(config.num_repetitions):
        rng = np.random.default_rng(seed)
        chosen = rng.choice(len(low_N), config.num_planted, replace=False)
        wrong_low_N, wrong_high_N = low_N.copy(), high_N.copy()
        for place in chosen:
            far = np.flatnonzero(np.abs(low_N - low_N[place]) > max(config.min_years - 0.5, 0.5))
            other = rng.choice(far)
            wrong_low_N[place], wrong_high_N[place] = low_N[other], high_N[other]
        judged = suspects.judge(features_NF, wrong_low_N, wrong_high_N, fold_N)
        is_planted = np.isin(np.arange(len(low_N)), chosen)
        for threshold in THRESHOLDS:
            is_suspect = judged.probability_N > threshold
            known = as_they_are.probability_N > threshold
            found = int((is_suspect & is_planted).sum())
            others = int((is_suspect & ~is_planted).sum())
            counts[threshold].append((found, others, int((is_suspect & ~is_planted & ~known).sum())))
        distance_N = np.abs(wrong_low_N - low_N)
        for least, most in ((1, 5), (5, 10), (10, 20), (20, 30), (30, 50), (50, 121)):
            of_these = is_planted & (distance_N >= least) & (distance_N < most)
            by_distance[f"{least}-{most - 1}"] += (judged.probability_N > suspects.THRESHOLD)[of_these].tolist()
    total = config.num_planted * config.num_repetitions
    print(f"{config.num_planted} labels of others planted, {config.num_repetitions} times, all counted together")
    for threshold, each in counts.items():
        found, others, new = np.sum(each, axis=0).tolist()
        before = int((as_they_are.probability_N > threshold).sum())
        print(
            f"above {threshold}: recall {found / total:.1%}, precision {found / max(1, found + others):.1%}; without "
            f"those that are suspect as the data come ({before}): {found / max(1, found + new):.1%}"
        )
    for years, found_each in by_distance.items():
        if found_each:
            print(
                f"planted {years} years away: {sum(found_each)} of {len(found_each)} found ({np.mean(found_each):.0%})"
            )


def contradictory(
    rows: pa.Table, features_NF: np.ndarray, low_N: np.ndarray, high_N: np.ndarray, fold_N: np.ndarray
) -> None:
    """Files of the same bytes and several ages, one of which may be right: each is judged with the others hidden."""
    copies: dict[str, list[int]] = defaultdict(list)
    for place, digest in enumerate(rows["content_hash"].to_pylist()):
        copies[digest].append(place)
    groups = [group for group in copies.values() if len({low_N[place] for place in group}) > 1]
    if not groups:
        return
    in_groups = np.array([place for group in groups for place in group])
    is_hidden = np.isin(np.arange(len(low_N)), in_groups)
    suspect_of: dict[int, bool] = {}
    for number in range(max(map(len, groups))):
        shown = [group[number] for group in groups if number < len(group)]
        kept = np.flatnonzero(~is_hidden | np.isin(np.arange(len(low_N)), shown))
        judged = suspects.judge(features_NF[kept], low_N[kept], high_N[kept], fold_N[kept])
        probability = dict(zip(kept.tolist(), judged.probability_N.tolist(), strict=True))
        suspect_of |= {place: probability[place] > suspects.THRESHOLD for place in shown}
    num_wrong = sum(len({low_N[place] for place in group}) - 1 for group in groups)
    print(f"files of the same bytes and several ages: {len(groups)} groups, at least {num_wrong} wrong labels")
    for least in (1, 5, 10, 20, 30):
        far = [group for group in groups if np.ptp(low_N[group]) >= least]
        some = sum(any(suspect_of[place] for place in group) for group in far)
        every = sum(all(suspect_of[place] for place in group) for group in far)
        print(f"ages {least} and more years apart: {len(far)} groups, in {some} one is suspect, in {every} all are")


if __name__ == "__main__":
    main(tyro.cli(Config))
