"""Test accuracy on 12-bit versions of the images, with data.depth=auto and read as 16 bits, and on 8-bit versions.

python benchmarks/depth.py DATA WEIGHTS.pth
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import ROOT, empty_caches, run, save
from PIL import Image


def convert(data: Path, folder: Path, *, bits: int) -> Path:
    """The images in grayscale, with 8 bits or with 12 of 16."""
    for path in sorted(data.glob("*/*.jpg")):
        place = folder / path.parent.name / f"{path.stem}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        gray = Image.open(path).convert("L")
        # A sixteenth of the range, and noise below what 8 bits can hold.
        deep = np.asarray(gray).astype(np.uint16) * 16 + np.arange(gray.width, dtype=np.uint16) % 16
        (Image.fromarray(deep) if bits == 12 else gray).save(place)
    return folder


def accuracy(data: Path, weights: Path, *overrides: str) -> float:
    with empty_caches() as environment, tempfile.TemporaryDirectory() as folder:
        command = (str(ROOT / "train.py"), "data=folder", f"data.root={data}", f"hydra.run.dir={folder}/run")
        model = ("model.arch=mobilenet_v2", f"model.weights={weights}", "augment=none", "report=none")
        run(*command, *model, "data.near_duplicates=false", *overrides, **environment)
        metrics = json.loads(Path(folder, "run", "metrics.json").read_text())
    return float(metrics["test/acc"])


def main(data: Path, weights: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        deep, gray = (convert(data, Path(place, str(bits)), bits=bits) for bits in (12, 8))
        found = {
            "12 bits, data.depth=auto": accuracy(deep, weights),
            "12 bits, data.depth=16": accuracy(deep, weights, "data.depth=16"),
            "8 bits": accuracy(gray, weights),
        }
    save("depth", test_accuracy=found)


if __name__ == "__main__":
    main(*(Path(argument).resolve() for argument in sys.argv[1:]))
