"""What Ray's documentation shows for batch inference: read_images, a preprocessing map, actors, write_parquet.

python benchmarks/scoring_by_ray.py FOLDER WEIGHTS OUT IMAGE_SIZE NETWORK
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import ray
import ray.data
import torch
import torchvision.transforms as T
from networks import network

NUM_CPUS = os.cpu_count() or 1


class Preprocess:
    def __init__(self, size: int) -> None:
        self.transform = T.Compose(
            [
                T.ToTensor(),
                T.Resize(size),
                T.CenterCrop(size),
                T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"uri": row["path"], "image": self.transform(row["image"]).numpy()}


class Model:
    def __init__(self, weights: str, name: str, size: int) -> None:
        self.model = network(name, size)
        self.model.load_state_dict(torch.load(weights, weights_only=True))
        self.model.eval()
        self.ages = torch.arange(101.0)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            ages = self.model(torch.as_tensor(batch["image"])).softmax(dim=1) @ self.ages
        return {"uri": batch["uri"], "age": ages.numpy()}


def main() -> None:
    folder, weights, out, size, name = sys.argv[1:6]
    ray.init(address="local", include_dashboard=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False  # lines by the hundred where there is no terminal
    images = ray.data.read_images(folder, mode="RGB", include_paths=True)
    ages = images.map(Preprocess(int(size))).map_batches(
        Model,
        fn_constructor_args=(weights, name, int(size)),
        compute=ray.data.ActorPoolStrategy(size=max(1, NUM_CPUS - 1)),  # one CPU reads and preprocesses
        batch_size=64,
        num_cpus=1,
    )
    ages.write_parquet(out)


if __name__ == "__main__":
    main()
