"""Seconds per 1,000 images and MB of a checkpoint and of its exports, on images that are already prepared.

python benchmarks/exported.py DATA [MODEL …]: the models are values of model.arch, resnet50 and mobilenet_v2 by default.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import empty_caches, run, save, training

from headstart.config.model import EncoderSettings, ExportSettings
from headstart.data.preprocessing import Array
from headstart.export.model_file import open_model
from headstart.export.write import export
from headstart.model.checkpoint import load_classifier
from headstart.run_folder import RunFolder

BATCHES, BATCH = 8, 32
EXPORTS = ({"format": "onnx"}, {"format": "onnx", "precision": "float16"}, {"format": "onnx", "precision": "int8"})
EXPORTS += ({"format": "pt2"},)


def measure(predict: Callable[[Array], object], image_size: int) -> float:
    """Seconds per 1,000 images, the median of several batches after one that is not timed."""
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 3, image_size, image_size), np.uint8)
    predict(images)
    seconds = []
    for _ in range(BATCHES):
        start = time.perf_counter()
        predict(images)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) / BATCH * 1000


def of_checkpoint(folder: RunFolder, precision: str) -> dict[str, float]:
    """The checkpoint, as predict.py runs it on this machine."""
    classifier = load_classifier(folder.best, EncoderSettings(precision=precision, compile=False), None)

    def predict(images: Array) -> None:
        with torch.inference_mode():
            classifier.predict_proba(torch.from_numpy(images))

    return {"seconds": measure(predict, classifier.recipe.preprocessing.image_size)}


def of_arch(data: Path, arch: str) -> dict[str, dict[str, float]]:
    """The checkpoint and each export by name."""
    with empty_caches() as environment, tempfile.TemporaryDirectory() as place:
        few = ("report=none", "trainer.max_epochs=1", "data.split.train=2", "data.split.valid=2", f"model.arch={arch}")
        run(*training(data, place, *few), **environment)
        folder = RunFolder(Path(place, "run"))
        found = {f"checkpoint, {precision}": of_checkpoint(folder, precision) for precision in ("32", "auto")}
        exact = load_classifier(folder.best, EncoderSettings(precision="32", compile=False), None)
        for settings in EXPORTS:
            (path,) = export(exact, folder, ExportSettings(**settings))
            model = open_model(path)
            seconds = measure(model, model.info.preprocessing.image_size)
            found[path.name] = {"seconds": seconds, "megabytes": path.stat().st_size / 1e6}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=lambda text: Path(text).resolve())
    parser.add_argument("models", nargs="*", default=["resnet50", "mobilenet_v2"])
    arguments = parser.parse_args()
    save("exported", **{arch: of_arch(arguments.data, arch) for arch in arguments.models})


if __name__ == "__main__":
    main()
