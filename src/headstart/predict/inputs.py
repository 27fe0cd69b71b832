"""Images to predict: files, or images in memory. PyTorch is not imported, because exports are used without it."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from headstart.data.depth import Samples, other_depth
from headstart.data.images import Note, note_of, read_rgb, upright_rgb
from headstart.errors import HeadstartError, UnreadableImage, listed
from headstart.log import log
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


def read_input(given: Input, index: int, use: Callable[[Read], Result]) -> tuple[Result | str, Note | None]:
    """`use` of the `index`-th image, which it reads by itself, or the reason why it cannot be used.

    And what is special about its file; None: nothing.
    """
    name, note = given if isinstance(given, Path) else f"image {index}", None

    def read(depth: int) -> Image.Image:
        nonlocal note
        image = read_rgb(given, depth) if isinstance(given, Path) else upright_rgb(given, depth)
        note = note_of(image)
        return image

    try:
        return use(read), note
    except UnreadableImage as error:
        return str(error), note
    # Whatever is wrong with one image, the others are predicted all the same.
    except Exception as error:
        return f"{name} cannot be processed: {str(error) or type(error).__name__}", note


class Notes:
    """Collects what is special about the files of a prediction, to say it once."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._samples: dict[str, Samples] = {}
        self._with_frames: list[str] = []

    def add(self, inputs: Iterable[Input], notes: Iterable[Note | None], first: int) -> None:
        """Takes in the notes of `inputs`, of which the first one has this number."""
        for number, (given, note) in enumerate(zip(inputs, notes, strict=True), first):
            name = str(given) if isinstance(given, Path) else f"image {number}"
            if note is not None and note.samples is not None:
                self._samples[name] = Samples(*note.samples)
            if note is not None and note.has_more_frames:
                self._with_frames.append(name)

    def log(self) -> None:
        """Warns about another bit depth than the training images', and about pages and frames that are not used."""
        if (reason := other_depth(self._samples, self._depth)) is not None:
            log.warning("%s", reason)
        if count := len(self._with_frames):
            what = "1 file has" if count == 1 else f"{count:,} files have"
            log.warning(
                "%s more than one page or frame; only the first is used: %s", what, listed(self._with_frames, 3)
            )


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
