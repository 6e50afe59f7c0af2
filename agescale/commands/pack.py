"""Write a catalog's images as tar shards, which are read by few requests, with their labels beside them.

python jobs/pack.py --catalog s3://bucket/catalog --out s3://bucket/shards
"""

from __future__ import annotations

from agescale.config import PackConfig
from agescale.operations.packing import pack
from agescale.store import paths
from agescale.tables import folders


def main(config: PackConfig) -> None:
    config = paths.with_absolute_uris(config)
    done = pack(config)
    print(f"packed {done.num_images:,} images now; {done.num_left_out:,} could not be read")
    if done.num_left_out:
        print(f"which, and why: {folders.beside(config.out)}/left-out-*.json")
    print(f"shards: {config.out} ({done.num_shards:,})")
