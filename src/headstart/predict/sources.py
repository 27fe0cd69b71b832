"""The images to predict, found and prepared as the model wants them, and what a prediction is."""

import fnmatch
import glob
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
    is_file,
    is_folder,
    is_in_archive,
    left_out_summary,
    open_folder,
    walk,
)
from headstart.data.images import Note, note_of, read_rgb, upright_rgb
from headstart.data.preprocessing import Samples, other_depth
from headstart.errors import HeadstartError, UnreadableImage, listed
from headstart.log import log

# What is predicted of one image.


if TYPE_CHECKING:
    from torch import Tensor

Array = np.ndarray[Any, np.dtype[Any]]
UNFAMILIAR, UNSURE = "unlike anything trained on", "unsure"


@dataclass(frozen=True)
class Prediction:
    """The classes of one image with their probabilities, most probable first.

    `path` of an image given in memory is its index. `error` says why there are no classes, or why an image drawn from
    it is missing. `familiarity` is how familiar the image is, None for old checkpoints; `doubt` says why
    the first class should not be believed. `saliency` (h, w) is from 0 to 1, of `seen` (uint8, 3×H×W), which is what
    the network saw.
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
    """Predictions, without their paths, from probabilities (N, classes) and familiarity scores (N).

    `threshold` is that of the scores, -inf if it is not known.
    """
    # Stable, so that of two equal classes the first is the prediction, as argmax has it.
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :topk]
    ranked = np.take_along_axis(probabilities, order, axis=1)
    return [
        Prediction(
            Path(),
            tuple(classes[i] for i in indices),
            tuple(values),
            familiarity=score if math.isfinite(threshold) else None,
            doubt=UNFAMILIAR if score < threshold else UNSURE if values[0] < min_confidence else None,
        )
        for indices, values, score in zip(order.tolist(), ranked.tolist(), familiarity.tolist(), strict=True)
    ]


def rows_of(
    inputs: Sequence[object], first: int, errors: Iterable[str | None], found: Iterable[Prediction]
) -> Iterator[Prediction]:
    """One prediction per input, with its path, or with the reason why it could not be read.

    `found` are those of inputs without an error; the path of an image in memory is its number, counted from `first`.
    """
    predictions = iter(found)
    for number, (given, error) in enumerate(zip(inputs, errors, strict=True), start=first):
        path = given if isinstance(given, Path) else Path(str(number))
        yield replace(next(predictions), path=path) if error is None else Prediction(path, error=error)


# The images to predict: found, read, and prepared as the model wants them.


# Which images `source=` means.


def find_images(source: str | list[str]) -> list[Path]:
    """The files that `source` names, sorted: a file, a folder (with its subfolders), a glob (`**` too), or several.

    A file given by name or by a glob is used whatever its name; in folders, images are, unless they are hidden. Every
    folder is visited once, but none that headstart made, unless `source` names it. Logs what is left out.

    Raises:
        HeadstartError: nothing matches, or it holds no images.
    """
    if isinstance(source, list):
        return list(dict.fromkeys(path for one in source for path in find_images(one)))
    path = Path(source).expanduser()
    if is_file(path):
        return [path]
    found, left_out = _in_folder(path) if is_folder(path) else _matching(path)
    if not found and not left_out:
        raise HeadstartError(
            f"source={source} holds no images"
            if is_folder(path)
            else f"source={source} is not a file or folder, and no file matches it"
        )
    if not found:
        raise HeadstartError(f"source={source} holds no images: {left_out_summary(left_out)}")
    if left_out:
        log.info("%s: %s", source, left_out_summary(left_out))
    return sorted(found)


def common_folder(paths: list[Path]) -> Path:
    """The deepest folder that all `paths` are in."""
    return Path(os.path.commonpath([path.parent for path in paths]))


def _in_folder(path: Path) -> tuple[list[Path], dict[Path, str]]:
    """The images in a folder and below it, and what else is there."""
    folders, left_out = walk(open_folder(path))
    for folder in _readable(folders):
        left_out |= {folder.path / name: reason for name, reason in folder.others.items()}
    return [folder.path / name for folder in folders for name in folder.images], left_out


def _matching(pattern: Path) -> tuple[list[Path], dict[Path, str]]:
    """The files that match a glob, without those that another link leads to, or in folders that headstart made."""
    parts = pattern.parts
    named = start = next((place for place, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    tops = [Path(*parts[:start])]
    if start == len(parts) or not is_in_archive(tops[0]):
        if "**" not in parts:
            found = sorted(p for p in map(Path, glob.glob(str(pattern))) if p.is_file())
            return _each_once(found, _made_folders(found, tops[0]))
        start = parts.index("**")
        # Python's own ** would visit a folder again and again by a link to it.
        tops = [Path(p) for p in glob.glob(str(Path(*parts[:start])) or ".") if os.path.isdir(p)]
    folders, _ = walk(*map(Folder, sorted(tops)))
    found = [folder.path / name for folder in _readable(folders) for name in folder.files]
    lengths = {len(top.parts) for top in tops}
    found = [p for p in found if any(_matches(p.parts[n:], parts[start:]) for n in lengths)]
    made = {path for folder in folders for path in folder.made}
    return _each_once(found, made | _made_folders(found, Path(*parts[:named])))


def _made_folders(paths: list[Path], named: Path) -> set[Path]:
    """The folders that headstart made among those that `paths` are in, below the folder that is `named`."""
    above = {folder for path in paths for folder in path.relative_to(named).parents if folder.name}
    return {named / folder for folder in above if Folder(named / folder).is_made}


def _each_once(paths: list[Path], made: set[Path]) -> tuple[list[Path], dict[Path, str]]:
    """`paths` without those in the folders `made`, or whose folder is that of another one of the same name, by way of a
    link."""
    paths = [path for path in paths if made.isdisjoint(path.parents)]
    real = {path: Path(os.path.realpath(path.parent), path.name) for path in paths}
    first: dict[Path, Path] = {}
    # Links last, so that what is left out is never the folder itself.
    for path in sorted(paths, key=lambda path: real[path] != Path(os.path.abspath(path))):
        first.setdefault(real[path], path)
    links = {path: SECOND_LINK for path in paths if first[real[path]] != path}
    return list(first.values()), links | dict.fromkeys(made, MADE)


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path matches a glob: `**` stands for any number of folders."""
    if not pattern or not parts:
        return not parts and all(part == "**" for part in pattern)
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or _matches(parts[1:], pattern)
    return fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _readable(folders: list[Folder]) -> Iterator[Folder]:
    """Warns about the others."""
    for folder in folders:
        if folder.error is not None:
            log.warning("the folder %s cannot be read: %s", folder.path, folder.error)
        else:
            yield folder


# Images to predict: files, or images in memory. PyTorch is not imported, because exports are used without it.


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
