"""Images to predict: files, or images in memory. PyTorch is not imported, because exports are used without it."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from headstart.data.images import read_rgb, upright_rgb
from headstart.errors import HeadstartError, UnreadableImage
from headstart.predict.sources import find_images

Input = Path | Image.Image
Result = TypeVar("Result")
# The depth of 16-bit samples → the image, upright and in RGB.
Read = Callable[[int], Image.Image]


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
    if isinstance(source, np.ndarray) or _is_tensor(source):
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


def read_input(given: Input, index: int, use: Callable[[Read], Result]) -> Result | str:
    """`use` of the `index`-th image, which it reads by itself, or the reason why it cannot be used."""
    name = given if isinstance(given, Path) else f"image {index}"

    def read(depth: int) -> Image.Image:
        return read_rgb(given, depth) if isinstance(given, Path) else upright_rgb(given, depth)

    try:
        return use(read)
    except UnreadableImage as error:
        return str(error)
    # Whatever is wrong with one image, the others are predicted all the same.
    except Exception as error:
        return f"{name} cannot be processed: {str(error) or type(error).__name__}"


def _picture(array: Any) -> Image.Image:
    """The image in a uint8 array (H×W or H×W×3) or tensor (3×H×W)."""
    is_tensor = _is_tensor(array)
    has_shape = array.ndim == 3 and array.shape[0] == 3 if is_tensor else array.ndim == 2 or array.shape[2:] == (3,)
    if str(array.dtype).rpartition(".")[2] != "uint8" or not has_shape or 0 in array.shape:
        wanted = "a tensor must be uint8 (3×H×W)" if is_tensor else "an array must be uint8 (H×W or H×W×3)"
        raise HeadstartError(f"{wanted}, not {array.dtype} {tuple(array.shape)}")
    if is_tensor:
        array = array.permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array).convert("RGB")


def _is_tensor(value: Any) -> bool:
    """Whether it is one of PyTorch, which is imported if there are any."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)
