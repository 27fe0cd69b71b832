"""The report's charts and a map of the features in TensorBoard."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchvision.transforms.v2.functional import to_dtype, to_image

from headstart.data.manifest import Manifest
from headstart.data.workers import thread_map
from headstart.evaluation.answers import FromFeatures
from headstart.evaluation.probes import Array
from headstart.evaluation.result import Result
from headstart.marker import remove
from headstart.run_folder import RunFolder
from headstart.text import on_one_line

# Of the projector.
MOST_IMAGES, SIDE = 400, 40  # pixels
HEADER = ["class", "prediction", "path"]


def add_to_tensorboard(
    run: RunFolder, charts: Mapping[str, Path], manifest: Manifest, result: Result, found: FromFeatures | None
) -> None:
    """Writes the charts as images and, if there are features, those of scored images for the projector.

    They are a TensorBoard run of their own, in the folder of the report. Nothing is written if the training did not log
    to TensorBoard.
    """
    for earlier in run.report.glob("events.out.tfevents.*"):
        remove(earlier)
    if not any(run.path.glob("events.out.tfevents.*")):
        return
    with SummaryWriter(str(run.report)) as writer:
        for name, path in charts.items():
            with Image.open(path) as chart:
                writer.add_image(name, np.asarray(chart.convert("RGB")), dataformats="HWC")
        if found is not None:
            # TensorBoard's name for what it is about to write.
            remove(run.report / "00000")
            writer.add_embedding(*_to_project(manifest, result, found.features), tag="features", metadata_header=HEADER)


def _to_project(manifest: Manifest, result: Result, features: Array) -> tuple[Array, list[list[str]], Tensor]:
    """Features (N, d), labels, and thumbnails (N, 3, SIDE, SIDE) from 0 to 1 of the images that can be read."""
    paths, labels = result.predictions.paths, result.predictions.labels.tolist()
    # Spread over the split, which is sorted by class.
    shown = np.unique(np.linspace(0, len(paths) - 1, min(MOST_IMAGES, len(paths))).astype(int)).tolist()
    images = thread_map(lambda index: _thumbnail(manifest, paths[index]), shown)
    rows = [(index, image) for index, image in zip(shown, images, strict=True) if image is not None]
    kept = [index for index, _ in rows]
    names = [[result.classes[labels[i]], result.classes[int(result.predicted[i])], paths[i]] for i in kept]
    cells = [[on_one_line(cell).encode("utf-8", "replace").decode() for cell in row] for row in names]
    return features[kept].astype(np.float32), cells, torch.stack([image for _, image in rows])


def _thumbnail(manifest: Manifest, path: str) -> Tensor | None:
    if (image := manifest.read(path, manifest.depth)) is None:
        return None
    return to_dtype(to_image(ImageOps.pad(image, (SIDE, SIDE))), torch.float32, scale=True)
