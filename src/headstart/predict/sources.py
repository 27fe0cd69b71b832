"""Predictions, and the images to predict: found, read, and matched with what is computed from them.

PyTorch is not imported, because exported models are used without it.
"""

import fnmatch
import glob
import itertools
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

from headstart.data.folders import (
    MADE,
    SECOND_LINK,
    Folder,
    fetch_all,
    is_file,
    is_folder,
    left_out_summary,
    open_folder,
    walk,
)
from headstart.data.images import Note, note_of, read_rgb, rgb_in, upright_rgb
from headstart.data.preprocessing import Array, Samples, other_depth
from headstart.errors import HeadstartError, UnreadableImage, listed
from headstart.log import log
from headstart.storage import local
from headstart.text import is_url

if TYPE_CHECKING:
    from torch import Tensor

UNUSUAL, UNSURE = "unusual", "unsure"


@dataclass(frozen=True)
class Prediction:
    """The classes of one image with their probabilities, most probable first.

    Attributes:
        path: the file, or the index of an image given in memory.
        error: why there are no classes, or why a drawing of the image is missing.
        familiarity: how similar the image is to the training images; None if the model has no threshold for it.
        doubt: why the first class should not be trusted.
        seen: the network's input, uint8 (3, H, W); only with explain.
        saliency: how much each region of `seen` speaks for the first class, from 0 to 1, (h, w); only with explain.
    """

    path: Path
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str | None = None
    familiarity: float | None = None
    doubt: str | None = None
    seen: "Tensor | None" = None
    saliency: "Tensor | None" = None

    @property
    def label(self) -> str | None:
        """The most probable class."""
        return self.classes[0] if self.classes else None


def predictions_of(
    probabilities: Array,
    familiarity: Array,
    *,
    classes: Sequence[str],
    threshold: float,
    topk: int,
    min_confidence: float,
) -> list[Prediction]:
    """Returns predictions, without paths, from probabilities (N, classes) and familiarity scores (N).

    Images whose score is below `threshold`, which is -inf if it is unknown, are marked as unusual.
    """
    # A stable sort predicts the first of two equally probable classes, as argmax does.
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :topk]
    ranked = np.take_along_axis(probabilities, order, axis=1)
    return [
        Prediction(
            Path(),
            tuple(classes[i] for i in indices),
            tuple(values),
            familiarity=score if math.isfinite(threshold) else None,
            doubt=UNUSUAL if score < threshold else UNSURE if values[0] < min_confidence else None,
        )
        for indices, values, score in zip(order.tolist(), ranked.tolist(), familiarity.tolist(), strict=True)
    ]


# The files that `source=` names.


def find_images(source: str | list[str]) -> list[Path]:
    """Returns the files that `source` names, sorted: a file, a folder (with its subfolders), a glob, or several.

    A file given by name or by a glob is used whatever its suffix; in folders, all images that are not hidden. Each
    folder is visited once, except those that headstart made, unless `source` names them. Logs what is left out.

    Raises:
        HeadstartError: nothing matches, or it holds no images.
    """
    if isinstance(source, list):
        return list(dict.fromkeys(path for one in source for path in find_images(one)))
    path = local(source)
    if is_file(path):
        return [path]
    images, left_out = _in_folder(path) if is_folder(path) else _matching(path)
    if not images and not left_out:
        raise HeadstartError(
            f"source={source} holds no images"
            if is_folder(path)
            else f"source={source} is not a file or folder, and no file matches it"
        )
    if not images:
        raise HeadstartError(f"source={source} holds no images: {left_out_summary(left_out)}")
    if left_out:
        log.info("%s: %s", source, left_out_summary(left_out))
    fetch_all(images)
    return sorted(images)


def common_folder(paths: list[Path]) -> Path:
    """Returns the deepest folder that all `paths` are in."""
    return Path(os.path.commonpath([path.parent for path in paths]))


def _in_folder(path: Path) -> tuple[list[Path], dict[Path, str]]:
    """Returns the images in a folder and below it, and the other files with the reasons why they are left out."""
    folders, left_out = walk(open_folder(path))
    for folder in _readable(folders):
        left_out |= {folder.path / name: reason for name, reason in folder.others.items()}
    return [folder.path / name for folder in folders for name in folder.images], left_out


def _matching(pattern: Path) -> tuple[list[Path], dict[Path, str]]:
    """Returns the files that a glob matches, and those left out, as duplicates by a link or in headstart's folders."""
    named = list(itertools.takewhile(lambda part: not glob.has_magic(part), pattern.parts))
    top, wildcards = Path(*named), pattern.parts[len(named) :]
    if not wildcards or not is_folder(top):
        return [], {}
    made: set[Path] = set()
    name = "*" if wildcards[-1] == "**" else wildcards[-1]
    folders = _readable(_folders(Folder(top), wildcards, made))
    paths = [folder.path / file for folder in folders for file in folder.files if fnmatch.fnmatchcase(file, name)]
    real = {path: Path(os.path.realpath(path.parent), path.name) for path in paths}
    first: dict[Path, Path] = {}
    # Links last, so that what is left out is never the folder itself.
    for path in sorted(paths, key=lambda path: real[path] != Path(os.path.abspath(path))):
        first.setdefault(real[path], path)
    links = {path: SECOND_LINK for path in paths if first[real[path]] != path}
    return list(first.values()), links | dict.fromkeys(made, MADE)


def _folders(folder: Folder, wildcards: Sequence[str], made: set[Path]) -> Iterator[Folder]:
    """Yields the folders whose files a glob may match, in which ** stands for any number of folders.

    Those on the way that headstart made are not entered, and added to `made`.
    """
    part, *rest = wildcards
    if part == "**":
        for below in walk(folder)[0]:
            made.update(below.made)
            yield from _folders(below, rest or ["*"], made)
    elif rest:
        made.update(path for path in folder.made if fnmatch.fnmatchcase(path.name, part))
        for below in folder.folders:
            if fnmatch.fnmatchcase(below.path.name, part):
                yield from _folders(below, rest, made)
    else:
        yield folder


def _readable(folders: Iterable[Folder]) -> Iterator[Folder]:
    """Yields the folders that could be read, and warns about the others."""
    for folder in folders:
        if folder.error is not None:
            log.warning("the folder %s cannot be read: %s", folder.path, folder.error)
        else:
            yield folder


# Images to predict: files, their contents, or images in memory.

Input = Path | bytes | Image.Image
Result = TypeVar("Result")
# Reads an image, upright and in RGB, given the depth of 16-bit samples.
Read = Callable[[int], Image.Image]
# What was made of one input, or its error; and what is special about its file.
Item = tuple[Result | str, Note | None]
# Of an input that is computed with others: its error, or None; and what is special about its file.
Mark = tuple[str | None, Note | None]


def inputs_of(source: Any) -> list[Input]:
    """Returns the images of `source`: a file, folder or glob, an image, an array of one or several, or a list of these.

    Images are PIL's, the content of a file (bytes), uint8 arrays (H×W, H×W×3 or N×H×W×3) or uint8 tensors (3×H×W or
    N×3×H×W).

    Raises:
        HeadstartError: there are none, or something is none of these.
    """
    if isinstance(source, str | Path):
        return list(find_images(str(source)))
    if isinstance(source, bytes | Image.Image):
        return [source]
    if isinstance(source, np.ndarray) or _is_tensor(source):
        return list(map(_image_of, source if source.ndim == 4 else [source]))
    if not isinstance(source, Iterable):
        raise HeadstartError(f"images are files, PIL images, arrays or tensors, not {type(source).__name__}")
    inputs: list[Input] = []
    for item in source:
        # A path in a list is a file; if it does not exist, its prediction says so.
        inputs += [local(item) if is_url(item) else Path(item)] if isinstance(item, str | Path) else inputs_of(item)
    if not inputs:
        raise HeadstartError("there are no images to predict")
    return inputs


def read_input(given: Input, index: int, use: Callable[[Read], Result]) -> Item[Result]:
    """Returns what `use` makes of the `index`-th image, or its error, and what is special about its file."""
    name, note = given if isinstance(given, Path) else f"image {index}", None

    def read(depth: int) -> Image.Image:
        nonlocal note
        if isinstance(given, Image.Image):
            image = upright_rgb(given, depth)
        else:
            image = read_rgb(given, depth) if isinstance(given, Path) else rgb_in(given, str(name), depth)
        note = note_of(image)
        return image

    try:
        return use(read), note
    except UnreadableImage as error:
        return str(error), note
    # One image that fails must not keep the others from being predicted.
    except Exception as error:
        return f"{name} cannot be processed: {str(error) or type(error).__name__}", note


def separate(items: Iterable[Item[Result]]) -> tuple[list[Result], list[Mark]]:
    """Returns the images of a batch that could be read, and the marks of all of its inputs."""
    items = list(items)
    images = [result for result, _ in items if not isinstance(result, str)]
    return images, [(result if isinstance(result, str) else None, note) for result, note in items]


def rejoin(results: Iterable[Result], marks: Iterable[Mark]) -> Iterator[Item[Result]]:
    """Yields the items of a batch with what was computed of those that could be read."""
    remaining = iter(results)
    for error, note in marks:
        yield next(remaining) if error is None else error, note


def in_order(inputs: Sequence[Input], items: Iterable[Item[Result]], depth: int) -> Iterator[tuple[Path, Result | str]]:
    """Yields for each input its path, or its number, and what was computed, or the reason why it could not be read.

    At the end, warns about images of another bit depth than `depth`, the training images', and about pages and frames
    that are not used.
    """
    samples: dict[str, Samples] = {}
    with_frames: list[str] = []
    for number, (given, (result, note)) in enumerate(zip(inputs, items, strict=True)):
        path, name = (given, str(given)) if isinstance(given, Path) else (Path(str(number)), f"image {number}")
        if note is not None and note.samples is not None:
            samples[name] = note.samples
        if note is not None and note.has_more_frames:
            with_frames.append(name)
        yield path, result
    if (reason := other_depth(samples, depth)) is not None:
        log.warning("%s", reason)
    if count := len(with_frames):
        what = "1 file has" if count == 1 else f"{count:,} files have"
        log.warning("%s more than one page or frame; only the first is used: %s", what, listed(with_frames, 3))


def predictions_in_order(
    inputs: Sequence[Input], items: Iterable[Item[Prediction]], depth: int
) -> Iterator[Prediction]:
    """Yields one prediction per input, with its path; see `in_order`."""
    for path, result in in_order(inputs, items, depth):
        yield Prediction(path, error=result) if isinstance(result, str) else replace(result, path=path)


def _image_of(array: Any) -> Image.Image:
    """Returns the image in a uint8 array (H×W or H×W×3) or tensor (3×H×W)."""
    is_tensor = _is_tensor(array)
    has_shape = array.ndim == 3 and array.shape[0] == 3 if is_tensor else array.ndim == 2 or array.shape[2:] == (3,)
    if str(array.dtype).rpartition(".")[2] != "uint8" or not has_shape or 0 in array.shape:
        wanted = "a tensor must be uint8 (3×H×W)" if is_tensor else "an array must be uint8 (H×W or H×W×3)"
        raise HeadstartError(f"{wanted}, not {array.dtype} {tuple(array.shape)}")
    if is_tensor:
        array = array.permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array).convert("RGB")


def _is_tensor(value: Any) -> bool:
    """Returns whether `value` is a tensor, without importing PyTorch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)
