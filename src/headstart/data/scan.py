"""Which files a folder of images holds, by split and class. Nothing is judged here."""

import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torchvision.datasets import ImageFolder

from headstart.config.data import SplitSettings
from headstart.data.folders import SECOND_LINK, Folder, walk
from headstart.data.images import read_rgb
from headstart.data.layout import Layout, find_layout
from headstart.data.splits import SPLITS, hold_out, split_class
from headstart.errors import HeadstartError

# Folders that are read without a word about how they are called.
USUAL_NAMES = {"train": ("train",), "valid": ("valid", "val", "validation"), "test": ("test",)}
# Why something is left out.
OUTSIDE = "image outside the class folders"
NO_SPLIT = "folder beside the splits"
UNLABELLED = "folder without class folders"

Images = dict[str, list[str]]  # the images of each class, as sorted POSIX paths relative to the root


class Sample(NamedTuple):
    """One image; `path` is a POSIX path relative to the root."""

    split: str
    class_name: str
    path: str


@dataclass(frozen=True)
class Scan:
    """The images of a folder by split, class and path, and the classes of each split, some of which may be empty.

    `folders` are those of the splits in the folder. The others were drawn by `rule`: valid from train or, if there are
    none, all from flat class folders; they have the same classes. `origins` say of each split where it is from, `notes`
    what the user should know about it.

    `left_out` are all other files, with the reason unless the name says it; `unlabelled` are folders of splits without
    class folders, `unreadable` folders that cannot be entered, with the reason.
    """

    root: Path
    rule: SplitSettings
    folders: dict[str, Path]
    classes: dict[str, tuple[str, ...]]
    samples: tuple[Sample, ...]
    origins: dict[str, str]
    notes: tuple[str, ...]
    left_out: dict[str, str]
    unlabelled: dict[str, Path]
    unreadable: dict[str, str]


def scan_folder(root: str | Path, rule: SplitSettings, seed: int, layout: str = "auto") -> Scan:
    """Reads ROOT/SPLIT/CLASS/*, or ROOT/CLASS/*, which is split by `rule`, as is train where there is no valid split.

    `layout` is data.layout. No file is changed.

    Raises:
        HeadstartError: the folder has neither layout, or may have both.
    """
    root = Path(root)
    if not root.exists():
        raise HeadstartError(f"data.root={root} does not exist: give a folder of images with data.root=DIR")
    if not root.is_dir():
        raise HeadstartError(f"data.root={root} is a file: give the folder that holds the class folders")
    found = find_layout(root, layout)
    readers = {split: ClassFolders(folder) for split, folder in (found.splits or {"": found.top}).items()}
    images = {split: reader.paths_from(root) for split, reader in readers.items()}
    images = _with_valid(images, rule, seed) if found.splits else _split_by_rule(images[""], rule, seed)
    left_out = dict(_outside(found.top, found))
    unreadable: dict[Path, str] = {}
    for reader in readers.values():
        left_out |= reader.left_out
        unreadable |= reader.unreadable
    origins = _origins(found, images, rule, seed)
    return Scan(
        root=root,
        rule=rule,
        folders={split: folder.path for split, folder in found.splits.items()},
        classes={split: tuple(of_split) for split, of_split in images.items()},
        samples=tuple(_samples(images)),
        origins=origins,
        notes=tuple(_notes(root, found, images, origins)),
        left_out={_relative(path, root): left_out[path] for path in sorted(left_out)},
        unlabelled={split: folder.path for split, folder in found.unlabelled.items()},
        unreadable={_relative(path, root): reason for path, reason in unreadable.items()},
    )


class ClassFolders(ImageFolder):
    """torchvision's ImageFolder without hidden folders, with every image that can be read, each file once per class."""

    def __init__(self, folder: Folder) -> None:
        self.left_out: dict[Path, str] = {}
        self.unreadable: dict[Path, str] = {}
        self._folders = {below.path.name: below for below in folder.folders}
        super().__init__(str(folder.path), loader=read_rgb, allow_empty=True)

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        if not self._folders:
            raise HeadstartError(f"{directory} has no class folders: put the images of each class into a folder")
        classes = sorted(self._folders)
        return classes, {name: label for label, name in enumerate(classes)}

    def make_dataset(self, directory: str, class_to_idx: dict[str, int], *_: Any, **__: Any) -> list[tuple[str, int]]:
        return [(str(path), label) for name, label in class_to_idx.items() for path in self._files(name)]

    def paths_from(self, root: Path) -> Images:
        """The images of each class."""
        paths: Images = {name: [] for name in self.classes}
        for path, label in self.samples:
            paths[self.classes[label]].append(_relative(Path(path), root))
        return {name: sorted(found) for name, found in paths.items()}

    def _files(self, class_name: str) -> list[Path]:
        folders, links = walk(self._folders[class_name])
        self.left_out |= links
        for folder in folders:
            self.left_out |= {folder.path / name: reason for name, reason in folder.others.items()}
            if folder.error is not None:
                self.unreadable[folder.path] = folder.error
        files: dict[str, Path] = {}
        found = [(folder, name) for folder in folders for name in folder.images]
        # Links last, so that what is left out is never the file itself.
        for folder, name in sorted(found, key=lambda item: item[0].files[item[1]]):
            real = os.path.join(folder.real, name)
            real = os.path.realpath(real) if folder.files[name] else real
            if real in files:
                self.left_out[folder.path / name] = SECOND_LINK
            files.setdefault(real, folder.path / name)
        return list(files.values())


def _samples(images: dict[str, Images]) -> Iterator[Sample]:
    for split, of_split in images.items():
        for class_name, paths in of_split.items():
            yield from (Sample(split, class_name, path) for path in paths)


def _with_valid(images: dict[str, Images], rule: SplitSettings, seed: int) -> dict[str, Images]:
    """Images by split, with a share of train as the valid split unless there is one."""
    if "valid" in images:
        return images
    parts = {c: hold_out(paths, rule.valid, seed=seed, class_name=c) for c, paths in images["train"].items()}
    drawn = {"train": {c: parts[c][0] for c in parts}, "valid": {c: parts[c][1] for c in parts}}
    return drawn | {split: of_split for split, of_split in images.items() if split not in drawn}


def _split_by_rule(paths: Images, rule: SplitSettings, seed: int) -> dict[str, Images]:
    rule.check()
    parts = {c: split_class(paths[c], rule.train, rule.valid, seed=seed, class_name=c) for c in paths}
    images = {split: {c: parts[c][split] for c in paths} for split in SPLITS}
    # Fractions have a test split even if all classes are too small for it.
    has_test = rule.train + rule.valid < 1 - 1e-9 if isinstance(rule.train, float) else any(images["test"].values())
    return images if has_test else {split: images[split] for split in ("train", "valid")}


def _outside(folder: Folder, found: Layout) -> Iterator[tuple[Path, str]]:
    """What is in no class folder, with the reason."""
    yield from ((folder.path / name, reason) for name, reason in folder.others.items())
    yield from ((folder.path / name, OUTSIDE) for name in folder.images)
    splits = [split.path for split in found.splits.values()]
    unlabelled = [split.path for split in found.unlabelled.values()]
    for below in folder.folders if splits and folder.path not in splits else []:
        if any(split.is_relative_to(below.path) for split in splits):
            yield from _outside(below, found)
        else:
            yield below.path, UNLABELLED if below.path in unlabelled else NO_SPLIT


def _origins(found: Layout, images: dict[str, Images], rule: SplitSettings, seed: int) -> dict[str, str]:
    if not found.splits:
        drawn = "by name" if isinstance(rule.train, int) else f"drawn with seed {seed}"
        shares = {"train": f"data.split.train={rule.train}", "valid": f"data.split.valid={rule.valid}", "test": "rest"}
        return {split: f"{shares[split]} of each class, {drawn}" for split in images}
    held_out = f"data.split.valid={rule.valid} of each class of train, drawn with seed {seed}"
    return {split: str(found.splits[split].path) if split in found.splits else held_out for split in images}


def _notes(root: Path, found: Layout, images: dict[str, Images], origins: dict[str, str]) -> Iterator[str]:
    is_usual = all(found.splits[s].path == root / found.splits[s].path.name for s in found.splits)
    if not is_usual or any(folder.path.name not in USUAL_NAMES[s] for s, folder in found.splits.items()):
        yield "; ".join(f"{split} split: {folder.path}" for split, folder in found.splits.items())
    for split, folder in found.unlabelled.items():
        yield (
            f"{folder.path} has no class folders, so it is not used as the {split} split; to predict on it: "
            f"python predict.py ckpt_path=RUN/checkpoints/best.ckpt {shlex.quote(f'source={folder.path}')}"
        )
    if found.splits and "valid" not in found.splits:
        count = sum(map(len, images["valid"].values()))
        used = "1 image of train is" if count == 1 else f"{count} images of train are"
        yield f"no valid split: {used} used for it ({origins['valid']})"


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
