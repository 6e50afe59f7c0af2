"""Draw faces with a known age, to try everything out without a download.

python jobs/draw.py --out faces --layout class_folders --num-faces 600
"""

from __future__ import annotations

from agescale.config import DrawConfig
from agescale.store.paths import absolute, is_remote
from agescale.synthetic.dataset import claim, write_dataset


def main(config: DrawConfig) -> None:
    out = absolute(config.out)
    if is_remote(out):
        raise ValueError(f"{out}: faces are drawn into a local folder; copy it to a bucket from there")
    claim(out)
    num_files = write_dataset(out, config.layout, config.num_faces, config.seed, config.size, config.num_broken)
    print(f"drew {num_files:,} image files, {config.num_broken} of them broken on purpose: {out}")
