"""The images of a dataset with their classes and splits, before any of them is opened."""

import fnmatch
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from torchvision.datasets import ImageFolder

from headstart.config.data import NEAR_DUPLICATES, SHARDS, DataSettings, SplitSettings
from headstart.data.folders import MADE, SECOND_LINK, Folder, exists, listed
from headstart.data.images import read_rgb
from headstart.data.labels import Labels, Problem, read_labels, read_shards
from headstart.data.layout import check_root, find_layout, open_root, root_of
from headstart.data.splits import Images, groups_by_path, split_images
from headstart.errors import HeadstartError
from headstart.files import MARKER
from headstart.log import command, log
from headstart.text import named

# Extensions by which a message suggests an archive, which is recognized by its content.
ARCHIVES = (".zip", ".tar")


class ClassFolders(ImageFolder):
    """torchvision's ImageFolder without hidden folders, with every image that can be read, each file once per class."""

    def __init__(self, folder: Folder) -> None:
        # Otherwise logs/, with nothing but runs in it, would be a class without images.
        made = [below.path for below in folder.folders if below.holds_only_made]
        self.left_out: dict[Path, str] = dict.fromkeys(made, MADE)
        self.unreadable: dict[Path, str] = {}
        self._folders = {below.path.name: below for below in folder.folders if below.path not in made}
        self._archives = [name for name in folder.others if name.lower().endswith(ARCHIVES)]
        super().__init__(str(folder.path), loader=read_rgb, allow_empty=True)

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        if not self._folders:
            raise HeadstartError(_why_no_classes(directory, self._archives))
        classes = sorted(self._folders)
        return classes, {name: label for label, name in enumerate(classes)}

    def make_dataset(self, directory: str, class_to_idx: dict[str, int], *_: Any, **__: Any) -> list[tuple[str, int]]:
        return [(str(path), label) for name, label in class_to_idx.items() for path in self._files(name)]

    def paths_from(self, root: Path) -> Images:
        """Returns the images of each class, relative to `root`."""
        paths: Images = {name: [] for name in self.classes}
        for path, label in self.samples:
            paths[self.classes[label]].append(Path(path).relative_to(root).as_posix())
        return {name: sorted(of_class) for name, of_class in paths.items()}

    def _files(self, class_name: str) -> list[Path]:
        folders, links = self._folders[class_name].tree
        self.left_out |= links
        for folder in folders:
            self.left_out |= {folder.path / name: reason for name, reason in folder.others.items()}
            if folder.error is not None:
                self.unreadable[folder.path] = folder.error
        files: dict[str, Path] = {}
        images = [(folder, name) for folder in folders for name in folder.images]
        # Links last, so that what is left out is never the file itself.
        for folder, name in sorted(images, key=lambda item: item[0].files[item[1]]):
            real = os.path.join(folder.real, name)
            real = os.path.realpath(real) if folder.files[name] else real
            if real in files:
                self.left_out[folder.path / name] = SECOND_LINK
            files.setdefault(real, folder.path / name)
        return list(files.values())


def _why_no_classes(directory: str, archives: list[str]) -> str:
    if archives:
        place = shlex.quote(f"data.root={os.path.join(directory, archives[0])}")
        return f"{directory} has no class folders, but holds {listed(archives)}: to read an archive, set {place}"
    return f"{directory} has no class folders: put the images of each class into a folder"


# Which files a folder of images holds, or a table names, by split and class. Nothing is judged here.

# Why an image is left out.
EXCLUDED = "data.exclude"
# Folders that are read without a word about how they are called.
USUAL_NAMES = {"train": ("train",), "valid": ("valid", "val", "validation"), "test": ("test",)}


# The splits that folds are drawn from: in cross-validation, each fold is the valid split once.
POOL = ("train", "valid")


class Sample(NamedTuple):
    """One image; `path` is a POSIX path relative to the root."""

    split: str
    class_name: str
    path: str


@dataclass(frozen=True)
class Fold:
    """Which one of how many folds is the valid split."""

    index: int
    count: int


@dataclass(frozen=True)
class Scan:
    """The images of a folder by split, class and path, and the classes of each split, some of which may be empty.

    `folders` are those of the splits in the folder; `csv` is the table that labels the images instead, and `given` are
    the splits that it or the folders say. The others were drawn by `rule` and `seed`: valid from train or, if none is
    given, all from all images; they have the same classes. With a `fold`, train and valid were drawn from both.

    `left_out` are all other files, with the reason unless the name says it; `unlabelled` are folders of splits without
    class folders, `unreadable` folders that cannot be entered, with the reason; `problems` are those of the table.
    `groups` are those of the paths that have one; None: there are no groups. `copies` has the same value for all copies
    of an image, as `find_copies` returns them, or, `by_features`, for near duplicates. `table_notes` are those about
    the table, and about corrections; `uncorrected` are the samples before these, and empty if there are none. `added`
    are the paths of the images that corrections add to train, each with the batch in which its features are stored.
    """

    root: Path
    rule: SplitSettings
    seed: int
    classes: dict[str, tuple[str, ...]]
    samples: tuple[Sample, ...]
    left_out: dict[str, str]
    given: tuple[str, ...]
    folders: dict[str, Path] = field(default_factory=dict)
    unlabelled: dict[str, Path] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    csv: Path | None = None
    problems: tuple[Problem, ...] = ()
    groups: dict[str, str] | None = None
    copies: dict[str, str] = field(default_factory=dict)
    by_features: bool = False
    fold: Fold | None = None
    table_notes: tuple[str, ...] = ()
    uncorrected: tuple[Sample, ...] = ()
    added: Mapping[str, str] = field(default_factory=dict)

    def place_of(self, split: str) -> str:
        """Returns what a message calls a split that is given, or where the others were drawn from."""
        if self.csv is not None:
            return named(f"the {split} split in {self.csv}" if split in self.given else str(self.csv))
        return named(str(self.folders[split] if split in self.given else self.root))

    @property
    def pooled(self) -> tuple[str, ...]:
        """The splits whose features are stored together, because an image may be in another of them next time."""
        return (*self.classes,) if self.by_features else POOL if self.fold is not None else ()

    @property
    def drawn(self) -> tuple[str, ...]:
        """The splits that headstart drew, train included where others were drawn from it."""
        others = {split for split in self.classes if split not in self.given}
        if others or self.fold is not None:
            others |= {"train"} if self.fold is None else {*POOL}
        return tuple(split for split in self.classes if split in others)

    @property
    def origins(self) -> dict[str, str]:
        """Where each split is from: its folder, the table, or how it was drawn."""
        return {split: self._origin(split) for split in self.classes}

    def _origin(self, split: str) -> str:
        rule, drawn = self.rule, f"drawn with seed {self.seed}"
        drawn += ", groups kept whole" if self.groups is not None else ""
        if self.fold is not None and split != "test":
            which = f"fold {self.fold.index}" if split == "valid" else f"all but fold {self.fold.index}"
            return f"{which} of {self.fold.count} of train and valid, {drawn}"
        if split in self.given:
            return self.place_of(split)
        if self.given:
            return f"data.split.valid={rule.valid} of each class of train, {drawn}"
        shares = {"train": f"data.split.train={rule.train}", "valid": f"data.split.valid={rule.valid}", "test": "rest"}
        return f"{shares[split]} of each class, {'by name' if isinstance(rule.train, int) else drawn}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about the splits."""
        return tuple(_notes(self))


def scan_images(settings: DataSettings, seed: int) -> Scan:
    """Reads which images `settings` name, by folders, a table or shards. No file is changed.

    Raises:
        HeadstartError: the folder or the table cannot be read as one of images.
    """
    if settings.group == NEAR_DUPLICATES:
        # They are found later, by the features of the images.
        return replace(scan_images(replace(settings, group=None), seed), by_features=True)
    if settings.csv is not None:
        return scan_csv(settings, Path(settings.csv).expanduser(), seed)
    if settings.layout == SHARDS:
        return scan_shards(settings, seed)
    return scan_folder(settings.root, settings.split, seed, settings.layout, settings.group, settings.exclude)


def scan_folder(
    root: str | Path,
    rule: SplitSettings,
    seed: int,
    layout: str = "auto",
    group: str | None = None,
    exclude: Sequence[str] = (),
) -> Scan:
    """Reads ROOT/SPLIT/CLASS/*, or ROOT/CLASS/*, which is split by `rule`, as is train where there is no valid split.

    `layout` is data.layout, `group` data.group, a regular expression, `exclude` data.exclude, glob patterns.

    Raises:
        HeadstartError: the folder has neither layout, or may have both.
    """
    top = open_root(Path(root))
    if top.is_made:
        raise HeadstartError(
            f"data.root={top.path} holds what headstart wrote: give the folder of your images, or, if these are yours, "
            f"delete {top.path / MARKER}"
        )
    root, of_folder = top.path, find_layout(top, layout)
    readers = {split: ClassFolders(folder) for split, folder in (of_folder.splits or {"": top}).items()}
    images, excluded = _without(exclude, {split: reader.paths_from(root) for split, reader in readers.items()})
    groups = groups_by_path(group, _paths(images)) if group is not None else None
    left_out, unreadable = of_folder.left_out, dict[Path, str]()
    for reader in readers.values():
        left_out |= reader.left_out
        unreadable |= reader.unreadable
    return Scan(
        root,
        rule,
        seed,
        *_drawn(images, rule, seed, groups),
        folders={split: folder.path for split, folder in of_folder.splits.items()},
        left_out={path.relative_to(root).as_posix(): left_out[path] for path in sorted(left_out)} | excluded,
        unlabelled={split: folder.path for split, folder in of_folder.unlabelled.items()},
        unreadable={path.relative_to(root).as_posix(): reason for path, reason in unreadable.items()},
        given=tuple(of_folder.splits),
        groups=groups,
    )


def scan_csv(settings: DataSettings, path: Path, seed: int) -> Scan:
    """Reads the table at `path`, which has a row for each image in `settings.root`; the folder is not searched.

    Raises:
        HeadstartError: the table is invalid, or names no file that exists.
    """
    root = Path(settings.root)
    check_root(root)
    labels = read_labels(
        path, root, settings.columns, settings.group, encoding=settings.encoding, missing=settings.missing
    )
    paths = _paths(labels.images)
    root = root_of(root, paths)
    if not any(exists(root / name) for name in paths):
        where = "the folder to which its paths are relative"
        raise HeadstartError(
            f"the files that {path} names, such as {paths[0]}, are not in data.root={root}: set "
            + (f"data.root={path.parent}, {where}" if exists(path.parent / paths[0]) else where)
        )
    return _labelled(settings, seed, root, path, labels)


def scan_shards(settings: DataSettings, seed: int) -> Scan:
    """Reads the WebDataset shards in `settings.root`, which are not unpacked.

    Raises:
        HeadstartError: as `read_shards`, or the folder cannot be read.
    """
    root = Path(settings.root)
    check_root(root)
    labels = read_shards(root, settings.columns.label)
    if settings.group is not None:
        labels = replace(labels, groups=groups_by_path(settings.group, _paths(labels.images)))
    return _labelled(settings, seed, root, root, labels)


def _labelled(settings: DataSettings, seed: int, root: Path, source: Path, labels: Labels) -> Scan:
    """The scan of images whose labels are from a table, or a folder of shards, `source`."""
    images, excluded = _without(settings.exclude, labels.images)
    return Scan(
        root,
        settings.split,
        seed,
        *_drawn(images, settings.split, seed, labels.groups),
        left_out=excluded,
        given=tuple(split for split in labels.images if split),
        csv=source,
        problems=tuple(problem for problem in labels.problems if problem.path not in excluded),
        groups=labels.groups,
        table_notes=labels.notes,
    )


def keep_copies_together(scan: Scan, copies: dict[str, str]) -> Scan:
    """Returns the scan with its `copies`, of which those in splits that were drawn are in one split each.

    Without copies among them, the draw stays as it is, and so do the splits that are given.
    """
    scan, drawn = replace(scan, copies=copies), scan.drawn
    if not any(sample.path in copies for sample in scan.samples if sample.split in drawn):
        return scan
    pool = "train" if scan.given else ""
    origins = {split: pool if split in drawn else split for split in scan.classes}
    images = {origins[split]: {name: list[str]() for name in names} for split, names in scan.classes.items()}
    for split, class_name, path in scan.samples:
        images[origins[split]][class_name].append(path)
    ordered = {split: {name: sorted(paths) for name, paths in of.items()} for split, of in images.items()}
    classes, samples = _drawn(ordered, scan.rule, scan.seed, scan.groups, copies)
    return replace(scan, classes=classes, samples=samples)


def _without(patterns: Sequence[str], images: dict[str, Images]) -> tuple[dict[str, Images], dict[str, str]]:
    """`images` without those that match one of the glob patterns, and these, each with the reason."""
    regexes = {pattern: re.compile(fnmatch.translate(pattern.lower())) for pattern in patterns}
    used: set[str] = set()
    excluded: dict[str, str] = {}
    for path in _paths(images):
        name = PurePosixPath(path.lower())
        for pattern, regex in regexes.items():
            if regex.match(str(name) if "/" in pattern else name.name):
                used.add(pattern)
                excluded[path] = EXCLUDED
    if unused := [pattern for pattern in patterns if pattern not in used]:
        log.warning("data.exclude: no image matches %s", listed(unused))
    # A class of which nothing remains is left out whole; one that was empty before is for others to judge.
    kept = {
        split: {
            name: [path for path in paths if path not in excluded]
            for name, paths in of_split.items()
            if not paths or not excluded.keys() >= {*paths}
        }
        for split, of_split in images.items()
    }
    return kept, excluded


def _drawn(
    images: dict[str, Images],
    rule: SplitSettings,
    seed: int,
    groups: Mapping[str, str] | None,
    copies: Mapping[str, str] | None = None,
) -> tuple[dict[str, tuple[str, ...]], tuple[Sample, ...]]:
    """The classes of each split, and all samples, after the splits that are not given were drawn."""
    drawn = split_images(images, rule, seed, groups, copies)
    classes = {split: tuple(of_split) for split, of_split in drawn.items()}
    return classes, tuple(
        Sample(split, class_name, path)
        for split, of_split in drawn.items()
        for class_name, paths in of_split.items()
        for path in paths
    )


def _paths(images: dict[str, Images]) -> list[str]:
    return [path for of_split in images.values() for paths in of_split.values() for path in paths]


def _notes(scan: Scan) -> Iterator[str]:
    yield from scan.table_notes
    is_usual = all(path == scan.root / path.name for path in scan.folders.values())
    if not is_usual or any(path.name not in USUAL_NAMES[split] for split, path in scan.folders.items()):
        yield "; ".join(f"{split} split: {path}" for split, path in scan.folders.items())
    for split, path in scan.unlabelled.items():
        yield (
            f"{path} has no class folders, so it is not used as the {split} split; to predict on it: "
            + command("predict.py", ["ckpt_path=last", f"source={path}"])
        )
    if scan.fold is not None:
        yield f"valid split: {scan.origins['valid']}"
    elif scan.given and "valid" not in scan.given:
        count = sum(sample.split == "valid" for sample in scan.samples)
        used = "1 image of train is" if count == 1 else f"{count} images of train are"
        yield f"no valid split: {used} used for it ({scan.origins['valid']})"
    if sets := [scan.copies[s.path] for s in scan.samples if s.split in scan.drawn and s.path in scan.copies]:
        count = len(set(sets))
        what = "near duplicates" if scan.by_features else "copies"
        yield f"{what} are kept in one split: {len(sets)} files of {count} image{'s' if count > 1 else ''}"
    if scan.groups is not None:
        yield f"groups: {len(set(scan.groups.values()))}"
