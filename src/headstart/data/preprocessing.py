"""How an image becomes the square that the network sees, with Pillow alone: an export is used where PyTorch is not."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

Array = np.ndarray[Any, np.dtype[Any]]
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """The evaluation transform as plain values: sizes in pixels, the interpolation's name, and the normalization.

    `resize_mode` "crop": `resize_size` is that of the shorter side; "squash": of both, whatever the image's shape.
    """

    resize_size: int
    image_size: int
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    resize_mode: str = "crop"

    def __post_init__(self) -> None:
        # Plain values have lists.
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))

    def as_dict(self) -> dict[str, Any]:
        """Numbers, strings and lists, so that a checkpoint loads with `weights_only=True`."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


def resized_and_cropped(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """What the network sees of an RGB image: bit for bit torchvision's Resize and CenterCrop."""
    size, crop = preprocessing.resize_size, preprocessing.image_size
    width, height = image.size
    if preprocessing.resize_mode == "squash":
        new = size, size
    else:
        new = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
    if new != image.size:
        image = image.resize(new, Image.Resampling[preprocessing.interpolation.upper()])
    left, top = (round((edge - crop) / 2) for edge in new)
    return image.crop((left, top, left + crop, top + crop))


def network_input(image: Image.Image, preprocessing: Preprocessing) -> Array:
    """The same as uint8 (3, image_size, image_size)."""
    return np.asarray(resized_and_cropped(image, preprocessing)).transpose(2, 0, 1)
