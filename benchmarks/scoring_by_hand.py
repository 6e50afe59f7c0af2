"""What a competent user would write by hand: a DataLoader over files, a torchvision model, a Parquet file at the end.

python benchmarks/scoring_by_hand.py FOLDER WEIGHTS OUT.parquet IMAGE_SIZE NETWORK
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torchvision.transforms as T
from networks import network
from PIL import Image
from torch.utils.data import DataLoader, Dataset

NUM_CPUS = 2


class Faces(Dataset):
    def __init__(self, folder: str, size: int) -> None:
        self.paths = sorted(path for path in Path(folder).rglob("*") if path.suffix in (".jpg", ".png", ".bmp"))
        self.transform = T.Compose(
            [
                T.Resize(size),
                T.CenterCrop(size),
                T.ToTensor(),
                T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        path = self.paths[index]
        return self.transform(Image.open(path).convert("RGB")), str(path)


def main() -> None:
    folder, weights, out, size, name = sys.argv[1:6]
    model = network(name, int(size))
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.eval()
    torch.set_num_threads(NUM_CPUS)
    ages = torch.arange(101.0)
    uris: list[str] = []
    predicted: list[float] = []
    first = None
    with torch.inference_mode():
        for images, paths in DataLoader(Faces(folder, int(size)), batch_size=64, num_workers=NUM_CPUS):
            predicted += (model(images).softmax(dim=1) @ ages).tolist()
            uris += paths
            first = first or (time.monotonic(), len(uris))
    if first and len(uris) > first[1]:
        print(f"steady {(len(uris) - first[1]) / (time.monotonic() - first[0]):.1f}")
    pq.write_table(pa.table({"uri": uris, "age": predicted}), out)


if __name__ == "__main__":
    main()
