"""What WebDataset's documentation shows for reading shards: tars from a store, decoded by a loader's workers.

python benchmarks/scoring_by_webdataset.py s3://bucket/{0000..0004}.tar WEIGHTS OUT.parquet IMAGE_SIZE NETWORK

Prints the seconds that it took once its libraries were imported.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import s3fs
import torch
import torchvision.transforms as T
import webdataset as wds
from networks import network
from webdataset.gopen import gopen_schemes

NUM_CPUS = 2


def opened(url: str, mode: str, bufsize: int, **_: Any) -> Any:
    """WebDataset itself would call a command-line tool for s3://."""
    return s3fs.S3FileSystem().open(url, mode)


def main() -> None:
    shards, weights, out, size, name = sys.argv[1:6]
    started = time.monotonic()
    gopen_schemes["s3"] = opened
    transform = T.Compose(
        [
            T.Resize(int(size)),
            T.CenterCrop(int(size)),
            T.ToTensor(),
            T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    faces = wds.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("__key__", "jpg;png;bmp;webp")
    loader = wds.WebLoader(faces.map_tuple(None, transform).batched(64), batch_size=None, num_workers=NUM_CPUS)
    model = network(name, int(size))
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.eval()
    torch.set_num_threads(NUM_CPUS)
    ages = torch.arange(101.0)
    uris: list[str] = []
    predicted: list[float] = []
    with torch.inference_mode():
        for keys, images in loader:
            predicted += (model(torch.as_tensor(images)).softmax(dim=1) @ ages).tolist()
            uris += keys
    pq.write_table(pa.table({"uri": uris, "age": predicted}), out)
    print(f"{len(uris)} images in {time.monotonic() - started:.2f} s")


if __name__ == "__main__":
    main()
