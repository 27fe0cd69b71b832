"""How a dataset is laid out: class folders, splits, one folder around them, or a table."""

import os
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from headstart.data.folders import (
    MADE,
    Folder,
    exists,
    is_folder,
    is_in_archive,
    listed,
    open_folder,
)
from headstart.data.splits import SPLITS
from headstart.errors import HeadstartError

# How split folders are called, besides upper case, numbers and FILLERS ("Training_Set", "val2017", "testImages").
SPELLINGS = {
    "train": ("train", "training", "trn"),
    "valid": ("valid", "val", "validation", "validate", "validating", "dev", "devel", "development"),
    "test": ("test", "testing", "tst"),
    # The test split or, if there is another one, the valid split.
    "held out": ("eval", "evaluation", "holdout", "heldout"),
}
SPLIT_OF = {word: split for split, words in SPELLINGS.items() for word in words}
FILLERS = {
    *("set", "sets", "data", "dataset", "datasets", "split", "splits", "subset", "folder", "folders", "dir", "files"),
    *("image", "images", "img", "imgs", "photo", "photos", "picture", "pictures", "pic", "pics", "sample", "samples"),
    *("final", "full", "all", "my", "the", "x"),
}
# Folders in a class folder that are no classes: by date, by session, by camera, or of one kind of file.
PARTS = re.compile(
    r"(19|20)\d\d(\D?\d\d?){0,2}\D?|\d{3}[a-z_]{2}\w{3}"
    r"|(batch|part|day|session|week|month|series|cam|camera|roll|visit|shoot|trip|set)\W?_?\d+"
    r"|raw|originals?|edited|misc|more|others?|extra|new|old|jpe?g|png|crops?"
)


# Why something is left out.
OUTSIDE = "image outside the class folders"
NO_SPLIT = "folder beside the splits"
UNLABELLED = "folder without class folders"


@dataclass(frozen=True)
class Layout:
    """The classes are folders of each of `splits`, or, if there are none, of `top`.

    `unlabelled` are folders of splits that hold images, but no class folders.
    """

    top: Folder
    splits: dict[str, Folder]
    unlabelled: dict[str, Folder]

    @property
    def left_out(self) -> dict[Path, str]:
        """What is in no class folder, with the reason."""
        return dict(_outside(self.top, self))


def find_layout(top: Folder, choice: str) -> Layout:
    """Returns the layout of a folder; `choice` is data.layout.

    Split folders are recognized by what they hold, the same class folders, and by how they are called.

    Raises:
        HeadstartError: it cannot be read, or in more than one way; says how to choose.
    """
    if choice == "classes":
        return Layout(top, {}, {})
    # As in DIR/data/train.
    for base in (top, *_nested(top)):
        named = _by_split(base)
        if any(_unwrapped(folder).folders for folder in named.get("train", [])):
            if choice == "splits" or _is_certain(base, named):
                return _split_layout(top, named)
        elif choice == "auto":
            _check_no_splits(base, named)
    if choice == "splits":
        raise HeadstartError(f"data.layout=splits: {top.path} has no folder train/ with class folders")
    _check_no_parts(top)
    return Layout(top, {}, {})


def split_names(names: list[str]) -> dict[str, str]:
    """Returns the split of each of the names of sibling folders that stand for one."""
    words = {name: words_of(name) for name in names}
    # As "seg" in seg_train and seg_test.
    shared = {word for word, count in Counter(w for of_name in words.values() for w in of_name).items() if count > 1}
    named = {}
    for name, of_name in words.items():
        splits = {SPLIT_OF[word] for word in of_name if word in SPLIT_OF}
        if of_name - SPLIT_OF.keys() - FILLERS - shared:
            continue
        if splits == {"train", "valid"}:
            named[name] = "train"
        elif len(splits) == 1:
            named[name] = splits.pop()
    other = "valid" if "test" in named.values() else "test"
    return {name: other if split == "held out" else split for name, split in named.items()}


def words_of(name: str) -> set[str]:
    """Returns the words in a name: "trainImages2" → {"train", "images"}, "testset" → {"test", "set"}."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    spaced = re.sub(r"h[eo]ld[\W_]*out", "holdout", spaced.lower())
    return {part for word in re.findall(r"[^\W\d_]+", spaced) for part in _parts(word)}


def _parts(word: str) -> Iterator[str]:
    for split_word in sorted(SPLIT_OF, key=len, reverse=True):
        for rest in (word.removeprefix(split_word), word.removesuffix(split_word)):
            if rest != word and (rest in FILLERS or rest in SPLIT_OF or not rest):
                yield from {split_word, rest} - {""}
                return
    yield word


def _by_split(base: Folder) -> dict[str, list[Folder]]:
    """The folders in `base` that are called like splits; those with that very name come first. Empty ones are none."""
    by_split: dict[str, list[Folder]] = {}
    names = split_names([folder.path.name for folder in base.folders])
    for folder in sorted(base.folders, key=lambda folder: folder.path.name not in SPLITS):
        split = names.get(folder.path.name)
        if split is not None and folder.error is not None:
            raise HeadstartError(f"the folder {folder.path} cannot be read: {folder.error}")
        if split is not None and (folder.folders or folder.images):
            by_split.setdefault(split, []).append(folder)
    return by_split


def _nested(top: Folder) -> Iterator[Folder]:
    """The only folder in `top` with images, the only one in that, and so on."""
    folder = top
    while len(full := [below for below in folder.folders if below.has_images]) == 1 and not full[0].images:
        (folder,) = full
        yield folder


def _unwrapped(folder: Folder) -> Folder:
    """The folder in train/train or train/images, if the class folders are there."""
    while not folder.images and len(folder.folders) == 1 and folder.folders[0].folders:
        (inner,) = folder.folders
        name = inner.path.name
        if not (_is_filler(name) or name == folder.path.name or name in split_names([name, folder.path.name])):
            break
        folder = inner
    return folder


def _split_layout(top: Folder, named: dict[str, list[Folder]]) -> Layout:
    splits: dict[str, Folder] = {}
    unlabelled: dict[str, Folder] = {}
    for split in [split for split in SPLITS if split in named]:
        first, *more = named[split]
        if more:
            both = " and ".join(str(folder.path) for folder in named[split])
            raise HeadstartError(f"{both} both exist: which one is the {split} split? Rename the other")
        folder = _unwrapped(first)
        if split == "train" or _has_classes_of(splits["train"], folder):
            splits[split] = folder
        else:
            unlabelled[split] = first
    return Layout(top, splits, unlabelled)


def _has_classes_of(train: Folder, folder: Folder) -> bool:
    """Whether `folder` has class folders, and not merely one that holds its images, as in test/images."""
    known = {below.path.name.casefold() for below in train.folders}
    names = {below.path.name.casefold() for below in folder.folders}
    return len(names) > 1 or bool(names & known)


def _is_certain(base: Folder, named: dict[str, list[Folder]]) -> bool:
    """Whether the train folder and what is beside it are splits; they may as well be classes.

    Raises:
        HeadstartError: it is not known.
    """
    strangers = _strangers(base, named)
    if len(named) > 1 or not strangers:
        return True
    (train,) = named["train"][:1]
    if not is_container(train):
        # It has images of its own, as other classes have.
        return False
    raise HeadstartError(
        f"{base.path} can be read in two ways: {train.path.name} is the train split, and {_names(strangers)} "
        f"{'is' if len(strangers) == 1 else 'are'} something else, or all of them are classes: set data.layout=splits "
        "or data.layout=classes"
    )


def _check_no_splits(base: Folder, named: dict[str, list[Folder]]) -> None:
    """Raises HeadstartError if the folders in `base`, of which none is a train split, may still be splits."""
    strangers = _strangers(base, named)
    folders = [folder for of_split in named.values() for folder in of_split]
    if len(named) > 1 or (named and not strangers):
        which = (
            "the folders {}, which look like splits" if len(folders) > 1 else "one folder, {}, which looks like a split"
        )
        raise HeadstartError(
            f"{base.path} has {which.format(_names(folders))}: a split dataset needs train/ with class folders, and "
            "optionally valid/ and test/; if they are classes, set data.layout=classes"
        )
    if named and "train" not in named:
        (split,) = named
        is_labelled = any(map(is_container, folders))
        raise HeadstartError(
            f"{base.path} can be read in two ways: {_names(folders)} is a class like {_names(strangers)}, or the "
            f"{split} split: set data.layout=classes, or "
            f"{'rename the folder of the train split to train' if is_labelled else 'move it elsewhere'}"
        )


def _check_no_parts(top: Folder) -> None:
    """Raises HeadstartError if the folders in `top`, whose names do not say it, may still be splits or hold some."""
    full = [folder for folder in top.folders if folder.has_images]
    holders = [folder for folder in full if len(named := _by_split(folder)) > 1 and "train" in named]
    if len(holders) == 1:
        inner, others = holders[0].path, [folder for folder in full if folder not in holders]
        raise HeadstartError(
            f"{top.path} can be read in two ways: {inner.name} is a split dataset, or a class"
            f"{' like ' if others else ''}{_names(others)}: set {shlex.quote(f'data.root={inner}')} or "
            "data.layout=classes"
        )
    if holders:
        raise HeadstartError(
            f"{top.path} has folders called like splits inside {_names(holders)}: move the images to train/CLASS and "
            "test/CLASS, or set data.layout=classes to split all images of each class anew"
        )
    parts = [folder for folder in full if is_container(folder)]
    if shared := _shared_classes(parts, len(full)):
        raise HeadstartError(
            f"{top.path} can be read in two ways: {_names(parts)} are classes, or splits with the same class folders "
            f"({listed(shared)}): set data.layout=classes, or rename the folders of the splits to train, valid and test"
        )


def _shared_classes(parts: list[Folder], count: int) -> list[str]:
    """The class folders that several of `parts` have, if that makes splits of them, among `count` folders in all."""
    classes = [{below.path.name for below in part.folders if not _is_part(below.path.name)} for part in parts]
    counts = Counter(name for of_part in classes for name in of_part)
    shared = sorted(name for name, parts_with_it in counts.items() if parts_with_it > 1)
    if len(parts) < max(2, count / 2):
        return []
    if len(shared) < 2:
        # A part may lack classes that another one has.
        return shared if {*shared} in classes and len(counts) > 1 and len(parts) < 4 else []
    is_numbered = len({re.sub(r"\d+", "", part.path.name.casefold()) for part in parts}) == 1
    # Many folders that each have the same few are classes, each with its left and right side, say.
    return shared if len(parts) < 4 or len(shared) >= len(parts) or is_numbered else []


def _is_part(name: str) -> bool:
    return PARTS.fullmatch(name.casefold()) is not None or _is_filler(name)


def _is_filler(name: str) -> bool:
    words = words_of(name)
    return bool(words) and words <= FILLERS


def is_container(folder: Folder) -> bool:
    """Returns whether a folder holds folders of images, and few images of its own."""
    below = sum(len(inner.images) for inner in folder.tree[0]) - len(folder.images)
    return 10 * len(folder.images) <= below and below > 0


def _strangers(base: Folder, named: dict[str, list[Folder]]) -> list[Folder]:
    known = {folder.path for of_split in named.values() for folder in of_split}
    return [folder for folder in base.folders if folder.path not in known and folder.has_images]


def _names(folders: list[Folder]) -> str:
    return listed([folder.path.name for folder in folders])


def _outside(folder: Folder, layout: Layout) -> Iterator[tuple[Path, str]]:
    """What is in no class folder, with the reason."""
    yield from ((folder.path / name, reason) for name, reason in folder.others.items())
    yield from ((folder.path / name, OUTSIDE) for name in folder.images)
    splits = [split.path for split in layout.splits.values()]
    unlabelled = [split.path for split in layout.unlabelled.values()]
    for below in folder.folders if splits and folder.path not in splits else []:
        if any(split.is_relative_to(below.path) for split in splits):
            yield from _outside(below, layout)
        else:
            beside = MADE if below.holds_only_made else NO_SPLIT
            yield below.path, UNLABELLED if below.path in unlabelled else beside


# The folder that the paths of images are relative to: `data.root` or, in an archive, the only folder in it.


def open_root(root: Path) -> Folder:
    """Opens the folder `root` or, if all images of an archive are in one folder, as `zip -r` makes it, that one.

    So an archive and what is unpacked from it have the same paths.

    Raises:
        HeadstartError: it does not exist, or is neither a folder nor an archive that can be read.
    """
    check_root(root)
    folder = open_folder(root)
    while is_in_archive(root) and (inner := _only_folder(folder)) is not None:
        folder = inner
    return folder


def root_of(root: Path, paths: Iterable[str]) -> Path:
    """Returns `root`, or the folder in it that `open_root` opens if some of the `paths` are relative to that."""
    if not is_in_archive(root):
        return root
    inner = open_root(root).path
    return next((place for path in paths for place in (root, inner) if exists(place / path)), root)


def check_root(root: Path) -> None:
    """Raises HeadstartError unless `root` is a folder or an archive."""
    if not exists(root):
        raise HeadstartError(f"data.root={root} does not exist: give a folder of images with data.root=DIR")
    if os.path.isfile(root) and not os.access(root, os.R_OK):
        raise HeadstartError(f"data.root={root} cannot be read: its permissions do not allow it")
    if not is_folder(root):
        raise HeadstartError(
            f"data.root={root} is a file, and no zip or tar archive: give the folder that holds the class folders, or "
            f"an archive of it; a table of paths and labels is read with data=csv data.csv={root}"
        )


def _only_folder(folder: Folder) -> Folder | None:
    """The folder in `folder` that has all images, few of them itself, and is not called like a split."""
    full = [below for below in folder.folders if below.has_images]
    if folder.images or len(full) != 1 or not is_container(full[0]) or split_names([full[0].path.name]):
        return None
    return full[0]
