"""Train an age model on a catalog, on one laptop or many GPUs; the same command continues a run that died.

python jobs/train.py drawn --catalog drawn            # a small model, on drawn faces
python jobs/train.py fast --catalog s3://bucket/catalog --out s3://bucket/runs/fast
"""

from __future__ import annotations

import sys
from dataclasses import replace

from agescale import catalogs, recipes, runs, synthetic, training_plan
from agescale.cataloging import build_catalog
from agescale.cluster import start_ray
from agescale.command_line import run_job
from agescale.config import CatalogConfig, TrainConfig
from agescale.store import objects, paths
from agescale.training import train


def main(config: TrainConfig) -> None:
    if config.catalog == "drawn":
        start_ray(has_dashboard=True)  # one for both
        config = replace(config, catalog=drawn_catalog(paths.absolute(config.out)))
    progress = train(config)
    print(f"checkpoint: {paths.join(paths.absolute(config.out), 'best')} (epoch {progress.best_epoch}, "
          f"validation {progress.metric} {progress.best_value:.3f})")  # fmt: skip


def drawn_catalog(out: str) -> str:
    """A catalog of drawn faces beside the run, made once."""
    if paths.is_remote(out):
        raise ValueError("--catalog drawn: faces are drawn beside --out, and not into a bucket")
    faces, catalog = f"{out}-faces", f"{out}-catalog"
    training_plan.check_place(paths.join(out, runs.RUN_NAME), "a run")
    if not objects.exists(catalogs.findings_uri(catalog)):
        synthetic.claim(faces)
        synthetic.write_dataset(faces, "utkface", num_faces=1000)
        build_catalog(CatalogConfig(source=faces, layout="utkface", out=catalog, pack=128))
    return catalog


if __name__ == "__main__":
    recipe = recipes.take_name(sys.argv)
    run_job(main, TrainConfig, recipes.RECIPES[recipe] if recipe else None, recipes.describe())
