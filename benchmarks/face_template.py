"""Where the eyes, the nose and the mouth lie in UTKFace's chips: python benchmarks/face_template.py UTKFACE.tar [N]

Looks for the face in N chips (2,000 by default, spread over the file), and prints the medians of landmarks and box as
shares of the chip's side, their spread (half the distance between the quartiles), and the values for
agescale/faces/geometry.py. Chips whose best face is not in the middle are left out, and counted.
"""

from __future__ import annotations

import sys
import tarfile

import numpy as np

from agescale.faces import images
from agescale.faces.alignment import Pixels
from agescale.faces.detection import RetinaFaceDetector
from agescale.faces.geometry import FaceGeometry

NAMES = ("image-left eye", "image-right eye", "nose", "mouth, image-left", "mouth, image-right")


def main() -> None:
    chips = read_chips(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 2000)
    detector = RetinaFaceDetector(FaceGeometry())
    rows = []
    for start in range(0, len(chips), 100):
        batch = chips[start : start + 100]
        for chip, faces in zip(batch, detector.detect(batch), strict=True):
            side = chip.shape[0]
            if faces and faces[0].landmarks and all(0.3 < part / side < 0.7 for part in faces[0].centre):
                rows.append(np.array([*faces[0].box, *np.ravel(faces[0].landmarks)]) / side)
    lower, median, upper = np.percentile(rows, (25, 50, 75), axis=0)
    print(f"{len(rows)} of {len(chips)} chips")
    for name, at in zip(NAMES, range(4, 14, 2), strict=True):
        spread = (upper - lower)[at : at + 2] / 2
        print(f"{name:20} {median[at]:.4f} {median[at + 1]:.4f}   spread {spread[0]:.4f} {spread[1]:.4f}")
    print("box spread", *((upper - lower)[:4] / 2).round(4))
    pairs = [(round(median[at], 4), round(median[at + 1], 4)) for at in range(4, 14, 2)]
    print("template =", tuple((float(x), float(y)) for x, y in pairs))
    print("box =", tuple(float(share) for share in median[:4].round(4)))


def read_chips(path: str, number: int) -> list[Pixels]:
    with tarfile.open(path) as archive:
        members = [member for member in archive if member.isfile()]
        chosen = members[:: max(1, len(members) // number)][:number]
        files = [archive.extractfile(member) for member in chosen]
        return [images.load_square(file.read(), 8).pixels for file in files if file is not None]


if __name__ == "__main__":
    main()
