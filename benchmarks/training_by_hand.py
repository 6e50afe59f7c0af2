"""What a competent user would write by hand: a DataLoader over files, augmentation by torchvision, a plain loop.

python benchmarks/training_by_hand.py FOLDER IMAGE_SIZE EPOCHS none|light pillow|fast feed|train

``fast`` decodes as agescale does; ``feed`` only makes the batches. Prints the seconds of each epoch.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
import torchvision.transforms as T
from networks import network
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from agescale.faces import images as fast

NUM_CPUS = 2
CHANGES = {
    "none": [],
    "light": [
        T.RandomHorizontalFlip(),
        T.RandomAffine(degrees=10, translate=(0.03, 0.03)),
        T.ColorJitter(0.15, 0.15, 0.15),
    ],
}


class Faces(Dataset):
    def __init__(self, folder: str, size: int, augmentation: str, decoding: str) -> None:
        self.paths = sorted(path for path in Path(folder).rglob("*") if path.suffix == ".jpg")
        self.size, self.decoding = size, decoding
        cut = (
            [T.RandomResizedCrop(size, scale=(0.85, 1), ratio=(1, 1))]
            if augmentation == "light"
            else [T.Resize((size, size))]
        )
        normalise = [T.ToTensor(), T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
        self.transform = T.Compose([*cut, *CHANGES[augmentation], *normalise])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, float]:
        path = self.paths[index]
        age = float(path.name.split("_")[0])
        if self.decoding == "fast":
            return self.transform(Image.fromarray(fast.load_face(path.read_bytes(), self.size).pixels)), age
        return self.transform(Image.open(path).convert("RGB")), age


def main() -> None:
    folder, size, num_epochs, augmentation, decoding, purpose = sys.argv[1:7]
    faces = Faces(folder, int(size), augmentation, decoding)
    loader = DataLoader(
        faces, batch_size=64, shuffle=True, drop_last=True, num_workers=NUM_CPUS, persistent_workers=True
    )
    torch.set_num_threads(NUM_CPUS)
    model = network("mobilenet_v2", int(size))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(int(num_epochs)):
        started = time.monotonic()
        for images, ages in loader:
            if purpose == "feed":
                continue
            loss = nn.functional.cross_entropy(model(images), ages.long().clamp(max=100))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"{time.monotonic() - started:.2f}", flush=True)


if __name__ == "__main__":
    main()
