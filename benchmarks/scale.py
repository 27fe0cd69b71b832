"""Seconds per image and memory of each step, for folders of 1,000, 10,000 and 100,000 small images, drawn for it.

The search for near duplicates is timed by itself, with random features: its time grows with the square.

python benchmarks/scale.py
"""

import json
import tempfile
import time
from pathlib import Path

import numpy as np
from common import ROOT, empty_caches, save
from memory import peak
from PIL import Image

from headstart.auditing.report import find_from_features
from headstart.data.manifest import Split

COUNTS = (1_000, 10_000, 100_000)
CLASSES = 10
IMAGENET = 1_281_167  # images
COMPARED, DIM = 30_000, 2048  # images, and ResNet50's features of each
SIZES = ("data.image_size=32", "data.resize_size=36")


def draw(folder: Path, count: int) -> None:
    """`count` JPEGs of 48 × 40 pixels in ten class folders; each is a mosaic of twelve colours, blurred."""
    random = np.random.default_rng(count)
    for number in range(count):
        path = folder / f"class {number % CLASSES}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        colours = random.integers(0, 256, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(colours).resize((48, 40), Image.Resampling.BICUBIC).save(path)


def measure(count: int) -> dict[str, float]:
    """Seconds by step, and the peak memory (MB) of training and of prediction; `own` is without mapped files."""
    with tempfile.TemporaryDirectory() as place, empty_caches() as environment:
        folder = Path(place)
        draw(folder / "images", count)
        run = folder / "run"
        train = [
            *(str(ROOT / "train.py"), "data=folder", f"data.root={folder / 'images'}", f"hydra.run.dir={run}"),
            *("model.arch=mobilenet_v2", "model.weights=null", *SIZES, "augment=none", "features.compile=false"),
            "trainer.max_epochs=2",
        ]
        training = peak(train, environment)
        seconds = json.loads((run / "run.json").read_text())["seconds"]
        predict = [
            *(str(ROOT / "predict.py"), f"ckpt_path={run}", f"source={folder / 'images'}"),
            *("features.compile=false", f"output={folder / 'predictions.csv'}"),
        ]
        start = time.perf_counter()
        prediction = peak(predict, environment)
        predicted = time.perf_counter() - start
    steps = {name: seconds[name] for name in ("startup", "data", "model", "fit", "test", "report")} | {
        "predict": predicted
    }
    return steps | {
        "training_megabytes": training.whole,
        "training_own_megabytes": training.own,
        "prediction_megabytes": prediction.whole,
        "prediction_own_megabytes": prediction.own,
    }


def compare() -> float:
    """The seconds of looking for near duplicates."""
    features = np.random.default_rng(0).normal(size=(COMPARED, DIM)).astype(np.float16)
    names = tuple(map(str, range(COMPARED)))
    split = Split(Path(), names, (0,) * COMPARED, names)
    start = time.perf_counter()
    find_from_features({"train": split}, {"train": features})
    return time.perf_counter() - start


def main() -> None:
    found = {count: measure(count) for count in COUNTS}
    few, many = found[COUNTS[-2]], found[COUNTS[-1]]
    steps = ("data", "fit", "test", "report", "predict")
    # What starting takes cancels out.
    slope = {step: (many[step] - few[step]) / (COUNTS[-1] - COUNTS[-2]) for step in steps}
    save(
        "scale",
        measured={str(count): values for count, values in found.items()},
        milliseconds_per_image={step: 1000 * value for step, value in slope.items()},
        near_duplicates={"images": COMPARED, "seconds": compare()},
        minutes_for_imagenet={step: many[step] / 60 + (IMAGENET - COUNTS[-1]) * slope[step] / 60 for step in steps},
    )


if __name__ == "__main__":
    main()
