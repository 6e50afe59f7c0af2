"""Train an age model on a catalog, on one laptop or many GPUs; the same command continues a run that died.

python jobs/train.py drawn --catalog drawn            # a small model, on drawn faces
python jobs/train.py fast --catalog s3://bucket/catalog --out s3://bucket/runs/fast
python jobs/train.py fast --catalog s3://bucket/utk s3://bucket/appa --mix 1 1 --out s3://bucket/runs/both
"""

from __future__ import annotations

from dataclasses import replace

from agescale.cataloging.driver import build_catalog
from agescale.config import CatalogConfig, TrainConfig
from agescale.operations import tracking
from agescale.runtime.cluster import start_ray
from agescale.store import objects, paths
from agescale.synthetic import dataset
from agescale.tables import catalogs
from agescale.training import plan, runs
from agescale.training.driver import train


def main(config: TrainConfig) -> None:
    out = paths.absolute(config.out)
    with tracking.followed(config.mlflow, out):
        config = replace(config, mlflow="")  # no password in what Ray's processes are told
        if "drawn" in config.catalog:
            start_ray(has_dashboard=True)  # one for both
            drawn = drawn_catalog(out)
            config = replace(config, catalog=tuple(drawn if uri == "drawn" else uri for uri in config.catalog))
        progress = train(config)
    print(f"checkpoint: {paths.join(out, 'best')} (epoch {progress.best_epoch}, "
          f"validation {progress.metric} {progress.best_value:.3f})")  # fmt: skip


def drawn_catalog(out: str) -> str:
    """A catalog of drawn faces beside the run, made once."""
    if paths.is_remote(out):
        raise ValueError("--catalog drawn: faces are drawn beside --out, and not into a bucket")
    faces, catalog = f"{out}-faces", f"{out}-catalog"
    plan.output(paths.join(out, runs.RUN_NAME), "a run").check({})
    if not objects.exists(catalogs.findings_uri(catalog)):
        dataset.claim(faces)
        dataset.write_dataset(faces, "utkface", num_faces=1000)
        build_catalog(CatalogConfig(source=faces, layout="utkface", out=catalog, pack=128))
    return catalog
