"""What a recipe reaches whichever faces are held back: trained and judged on several splits of one catalog, by seed,
beside the catalog's own.

python benchmarks/splits.py --catalog runs/utk --out runs/splits --recipe face --weights runs/faceres

A split by seed has the shares of the catalog's and none of its choices: persons, or photos of other bytes, are drawn
anew. Photos and found faces are not read or searched again. The mean over the splits says what to expect, their spread
how much of a result is the luck of one draw. The same command goes on where it was stopped.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import tyro

from agescale.cataloging import findings as quality
from agescale.cataloging.parts import split_of
from agescale.config import EvaluateConfig, ScoreConfig
from agescale.evaluation.driver import evaluate
from agescale.scoring.driver import score
from agescale.store import objects, parquet, paths
from agescale.tables import catalogs, faces, folders, schema
from agescale.tables.catalogs import Catalog
from agescale.training.driver import train
from agescale.training.recipes import RECIPES


@dataclass(frozen=True)
class Config:
    """Train and judge on a catalog's own split and on several by seed."""

    catalog: str
    """Catalog with labelled photos, whose images were read."""
    out: str
    """Folder of all splits: their catalogs, runs, predictions and reports."""
    recipe: str = "face"
    """How to train."""
    weights: str = ""
    """Initial weights, in place of the recipe's. Take none that have learned from these photos."""
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """Of the splits."""
    max_images: int | None = None
    """Photos to learn from, and to validate on, at most. Default: all."""
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    """Shares of train, val and test in the splits by seed."""
    tta: bool = False
    """Average the predictions over each photo and its mirror image."""


def main(config: Config) -> None:
    config = replace(config, catalog=paths.absolute(config.catalog), out=paths.absolute(config.out))
    catalog = Catalog.open(config.catalog)
    catalog.check_complete()
    own = judge(config, config.catalog, f"{config.out}/own")
    told = {"the catalog's own": own}
    for seed in config.seeds:
        folder = f"{config.out}/seed-{seed}"
        told[f"seed {seed}"] = judge(config, split_anew(catalog, f"{folder}/catalog", seed, config.split), folder)
    print("\n".join(table(told)))


def split_anew(catalog: Catalog, out: str, seed: int, fractions: tuple[float, float, float]) -> str:
    """Writes the same catalog with other splits, and returns where; its findings last, by which it is complete."""
    known = Catalog.find(out)
    if known and known.is_complete:
        return out
    metadata = {"id": f"{catalog.id}-{seed}", "settings": catalog.settings}
    geometry = faces.geometry_of(catalog)
    for part in catalog.parts:
        rows = parquet.read_table(catalog.file(part.name), schema=schema.CATALOG)
        split = [
            _split_anew(row, seed, fractions) for row in rows.select(["subject", "boxes", "content_hash"]).to_pylist()
        ]
        rows = rows.set_column(rows.schema.get_field_index("split"), "split", pa.array(split, pa.string()))
        said = {**metadata, "replaces": part.replaces, "relabels": part.relabels}
        folders.write_new_part(
            out, part.name, rows.cast(schema.with_metadata("catalog", said)), catalogs.ROW_GROUP_ROWS
        )
        if geometry and objects.exists(known_faces := faces.file_of(catalog.uri, geometry, part.name)):
            objects.write_bytes(faces.file_of(out, geometry, part.name), objects.read_bytes(known_faces))
    copy = Catalog.open(out)
    found = quality.find(copy.read(quality.FACTS), copy.age_groups, is_labelled_layout=True)
    covered = schema.with_metadata("findings", {"id": metadata["id"], "parts": copy.names})
    parquet.write_table(catalogs.findings_uri(out), found.cast(covered))
    return out


def _split_anew(row: dict[str, Any], seed: int, fractions: tuple[float, float, float]) -> str | None:
    """As the catalog would have it, were its persons and pictures named otherwise."""

    def named(key: str | None) -> str | None:
        return key and f"{seed} {key}"

    boxes = [{"subject": named(box["subject"])} for box in row["boxes"] or ()]
    known = {"split": None, "subject": named(row["subject"]), "boxes": boxes}
    return split_of(known, named(row["content_hash"]), fractions)


def judge(config: Config, catalog: str, folder: str) -> dict[str, Any]:
    """Trains on one split and says what the report does of its test and validation faces."""
    base = RECIPES[config.recipe].config
    settings = replace(base, catalog=(catalog,), out=f"{folder}/run", max_images=config.max_images)
    train(replace(settings, weights=config.weights or base.weights))
    scored = ScoreConfig(catalog, f"{folder}/ages", f"{folder}/run/best", split=("val", "test"), tta=config.tta)
    score(scored)
    evaluate(EvaluateConfig(catalog, f"{folder}/ages", f"{folder}/report", split=("test", "val")))
    return dict(json.loads(Path(f"{folder}/report/metrics.json").read_bytes()))


HEADER = """| split | test faces | MAE, years (95 % interval) | CS@5 | validation faces | MAE |
| --- | --- | --- | --- | --- | --- |"""


def table(told: dict[str, dict[str, Any]]) -> list[str]:
    """A line a split, and what those by seed have in common: mean and standard deviation, which is that of a split."""
    lines = [HEADER]
    for name, of_split in told.items():
        test, val = of_split["test"], of_split["val"]
        low, high = test["intervals"]["mae"]
        mae = f"{test['mae']:.2f} ({low:.2f} to {high:.2f})"
        of_test = f"{test['num_rows']:,} | {mae} | {test['cs_at_5']:.1%}"
        lines.append(f"| {name} | {of_test} | {val['num_rows']:,} | {val['mae']:.2f} |")
    by_seed = [of_split for name, of_split in told.items() if name.startswith("seed")]
    if len(by_seed) > 1:
        mae, val_mae = (spread([each[split]["mae"] for each in by_seed], "{:.2f}") for split in ("test", "val"))
        within = spread([each["test"]["cs_at_5"] for each in by_seed], "{:.1%}")
        lines.append(f"| mean of {len(by_seed)} seeds ± standard deviation | | {mae} | {within} | | {val_mae} |")
    return lines


def spread(values: list[float], style: str) -> str:
    return " ± ".join(map(style.format, (statistics.fmean(values), statistics.stdev(values))))


if __name__ == "__main__":
    main(tyro.cli(Config))
