"""Images that an export is compared on: some of those that the checkpoint was chosen by, or drawn ones."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from headstart.config.record import read_record
from headstart.data.images import read_rgb
from headstart.data.root import root_of
from headstart.datasets.shapes import TEN_CLASSES, draw_image
from headstart.errors import HeadstartError, UnreadableImage
from headstart.run_folder import RunFolder

MOST = 64  # images, spread evenly over a split


@dataclass(frozen=True)
class Samples:
    """RGB images in full size; `of` says which."""

    images: tuple[Image.Image, ...]
    of: str


def validation_samples(run: RunFolder, depth: int) -> Samples:
    """Some validation images of the finished run `run`, read with `depth`; drawn ones if it or they are not found."""
    try:
        return _of_split(run, "valid", depth)
    except HeadstartError as reason:
        names = (name.split("_") for name in TEN_CLASSES)
        images = tuple(draw_image(shape, texture, seed) for seed, (texture, shape) in enumerate(names))
        return Samples(images, f"drawn images, because {reason}")


def training_samples(run: RunFolder, depth: int) -> Samples:
    """Some training images of the finished run `run`, read with `depth`.

    Raises:
        HeadstartError: it or they are not found.
    """
    return _of_split(run, "train", depth)


def _of_split(run: RunFolder, split: str, depth: int) -> Samples:
    try:
        root = Path(read_record(run).data.root)
        with run.split.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            names = [row["path"] for row in csv.DictReader(file) if row["split"] == split]
    except (OSError, ValueError, KeyError, TypeError, HeadstartError):
        raise HeadstartError(f"{run.path} is not the folder of a finished run") from None
    base, count = root_of(root, names), min(len(names), MOST)
    images = tuple(_readable([base / names[place * len(names) // count] for place in range(count)], depth))
    if not images:
        raise HeadstartError(f"the {split} images of the run are not in {root}")
    return Samples(images, f"{split} images of {root}")


def _readable(paths: list[Path], depth: int) -> Iterator[Image.Image]:
    for path in paths:
        try:
            yield read_rgb(path, depth)
        except UnreadableImage:
            continue
