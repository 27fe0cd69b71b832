"""How an image becomes the square that the network sees, with Pillow alone: an export is used where PyTorch is not."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from headstart.data.pixels import FULL_DEPTH

Array = np.ndarray[Any, np.dtype[Any]]
# Resized to 256 pixels on its shorter side, an image of 20,000 × 1 pixels would take up 5 GB; of one this long, 16 MB.
ELONGATED = 64
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """The evaluation transform as plain values: sizes in pixels, the interpolation's name, and the normalization.

    Of an image that is not square, `resize_mode` "crop" makes the shorter side `resize_size` pixels long, and "squash"
    both; "pad" the longer one, and adds margins of the colour `fill` to the shorter one. Of 16-bit samples, the lower
    `depth` bits are used.
    """

    resize_size: int
    image_size: int
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    resize_mode: str = "crop"
    depth: int = FULL_DEPTH

    def __post_init__(self) -> None:
        # Plain values have lists.
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))

    @property
    def fill(self) -> tuple[int, ...]:
        """The mean colour, which is 0 when normalized, as in the network's own padding."""
        return tuple(min(255, max(0, round(255 * value))) for value in self.mean)

    def as_dict(self) -> dict[str, Any]:
        """Numbers, strings and lists, so that a checkpoint loads with `weights_only=True`."""
        values = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}
        # Without the usual depth, keys of stored features are those of versions that knew no other.
        if self.depth == FULL_DEPTH:
            del values["depth"]
        return values


def resized_and_cropped(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """What the network sees of an RGB image: bit for bit torchvision's Resize and CenterCrop."""
    crop, image = preprocessing.image_size, _resized(image, preprocessing)
    left, top = (round((edge - crop) / 2) for edge in image.size)
    return image.crop((left, top, left + crop, top + crop))


def squared(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """All of the image in a square of `resize_size` pixels; with "crop", the image as it is, or its `center`."""
    return center(image) if preprocessing.resize_mode == "crop" else _resized(image, preprocessing)


def center(image: Image.Image) -> Image.Image:
    """The middle of an image that is more than ELONGATED times as long as wide; any other one as it is."""
    short, long = sorted(image.size)
    if long <= ELONGATED * short:
        return image
    # With as many pixels left out before as behind.
    length = ELONGATED * short + (long - ELONGATED * short) % 2
    width, height = (length if edge == long else edge for edge in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _resized(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    size, mode = preprocessing.resize_size, preprocessing.resize_mode
    image = center(image) if mode == "crop" else image
    short, long = sorted(image.size)
    if mode == "squash":
        width, height = size, size
    else:
        part = long if mode == "pad" else short
        width, height = (max(1, int(size * edge / part)) for edge in image.size)
    if (new := (width, height)) != image.size:
        image = image.resize(new, Image.Resampling[preprocessing.interpolation.upper()])
    return _padded(image, preprocessing) if mode == "pad" else image


def _padded(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    size = preprocessing.resize_size
    square = Image.new("RGB", (size, size), preprocessing.fill)
    square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return square


def network_input(image: Image.Image, preprocessing: Preprocessing) -> Array:
    """The same as uint8 (3, image_size, image_size)."""
    return np.asarray(resized_and_cropped(image, preprocessing)).transpose(2, 0, 1)
