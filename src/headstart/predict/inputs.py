"""Images to predict: files, or images in memory, preprocessed as the validation split."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import to_pil_image

from headstart.data.images import read_rgb, upright_rgb
from headstart.data.transforms import EvalViewsTransform, Preprocessing
from headstart.data.workers import thread_map
from headstart.errors import HeadstartError, UnreadableImage
from headstart.predict.sources import find_images

Input = Path | Image.Image
# The images of a batch that could be read, stacked, in every view and preprocessing, and for each of its inputs the
# reason why not, or None. If none could be read, there are no tensors.
Batch = tuple[list[Tensor], list[str | None]]


def inputs_of(source: Any) -> list[Input]:
    """The images that `source` stands for: a file, folder or glob; an image or an array of one or several; or many.

    Images are PIL's, uint8 arrays (H×W, H×W×3 or N×H×W×3) or uint8 tensors (3×H×W or N×3×H×W).

    Raises:
        HeadstartError: there are none, or something is none of these.
    """
    if isinstance(source, str | Path):
        return list(find_images(str(source)))
    if isinstance(source, Image.Image):
        return [source]
    if isinstance(source, np.ndarray | Tensor):
        return list(map(_picture, source if source.ndim == 4 else [source]))
    if not isinstance(source, Iterable):
        raise HeadstartError(f"images are files, PIL images, arrays or tensors, not {type(source).__name__}")
    found: list[Input] = []
    for item in source:
        # A path in a list is a file, whether it exists or not: the prediction says so.
        found += [Path(item)] if isinstance(item, str | Path) else inputs_of(item)
    if not found:
        raise HeadstartError("there are no images to predict")
    return found


def _picture(array: Any) -> Image.Image:
    """The image in a uint8 array (H×W or H×W×3) or tensor (3×H×W)."""
    is_tensor = isinstance(array, Tensor)
    is_bytes = array.dtype == (torch.uint8 if is_tensor else np.uint8)
    has_shape = array.ndim == 3 and array.shape[0] == 3 if is_tensor else array.ndim == 2 or array.shape[2:] == (3,)
    if not is_bytes or not has_shape or 0 in array.shape:
        wanted = "a tensor must be uint8 (3×H×W)" if is_tensor else "an array must be uint8 (H×W or H×W×3)"
        raise HeadstartError(f"{wanted}, not {array.dtype} {tuple(array.shape)}")
    return to_pil_image(array) if is_tensor else Image.fromarray(array).convert("RGB")


class Inputs(Dataset[list[Tensor] | str]):
    """Item `i` is the i-th image, or the reason why it cannot be used.

    An image is given in each of `views` views, in each of the `preprocessings`.
    """

    def __init__(self, inputs: list[Input], preprocessings: Sequence[Preprocessing], views: int) -> None:
        self._inputs = inputs
        self._resize_size = max(preprocessing.resize_size for preprocessing in preprocessings)
        self._transforms = [EvalViewsTransform(preprocessing) for preprocessing in preprocessings]
        self._views = range(views)

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitems__(self, indices: list[int]) -> list[list[Tensor] | str]:
        return thread_map(self.__getitem__, indices)

    def __getitem__(self, index: int) -> list[Tensor] | str:
        given = self._inputs[index]
        name = given if isinstance(given, Path) else f"image {index}"
        try:
            image = read_rgb(given) if isinstance(given, Path) else upright_rgb(given)
            resized = self._resize_size**2 * max(image.size) / min(image.size)
            if Image.MAX_IMAGE_PIXELS is not None and resized > Image.MAX_IMAGE_PIXELS:
                return f"{name} cannot be resized: {image.width} × {image.height} pixels are too elongated"
            return [transform(image, view, index) for view in self._views for transform in self._transforms]
        except UnreadableImage as error:
            return str(error)
        # Whatever is wrong with one image, the others are predicted all the same.
        except Exception as error:
            return f"{name} cannot be processed: {str(error) or type(error).__name__}"


def collate(items: list[list[Tensor] | str]) -> Batch:
    """Stacked where they were read: a worker hands over one tensor per view, not one for each image."""
    images = [item for item in items if not isinstance(item, str)]
    stacked = [torch.stack(of_one) for of_one in zip(*images, strict=True)]
    return stacked, [item if isinstance(item, str) else None for item in items]
