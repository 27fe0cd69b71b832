"""What is known of a folder of pictures: its classes, and the samples of each split."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torchvision.datasets import ImageFolder

from headstart.data.images import is_picture
from headstart.data.splits import SPLITS, split_class
from headstart.errors import HeadstartError
from headstart.settings import SplitSettings

FOLDERS = {"train": ("train",), "valid": ("valid", "val", "validation"), "test": ("test",)}


@dataclass(frozen=True)
class Split:
    """The samples of one split in their fixed order: `paths` relative to `root`, `labels` into the class list."""

    root: Path
    paths: tuple[str, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the paths, labels and contents of all samples.

        Of contents rather than times, so that a copy of the data has the same fingerprint and a picture that was
        changed without a trace in its times has another.
        """
        total = hashlib.sha256()
        for path, label in zip(self.paths, self.labels, strict=True):
            with (self.root / path).open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            total.update(f"{path}\0{label}\0{content}\n".encode(errors="surrogateescape"))
        return total.hexdigest()


@dataclass(frozen=True)
class Manifest:
    """The class list, which is the train split's, and the splits: train, valid and, where there is one, test."""

    root: Path
    classes: tuple[str, ...]
    splits: dict[str, Split]
    ignored: tuple[str, ...]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the class list and the fingerprints of all splits."""
        parts = [*self.classes, *(f"{name}={split.fingerprint}" for name, split in self.splits.items())]
        return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()

    def counts(self) -> dict[str, int]:
        """Pictures a split."""
        return {name: len(split) for name, split in self.splits.items()}

    def describe(self) -> str:
        """One line for the terminal, with what was left out."""
        counts = ", ".join(f"{count} {name}" for name, count in self.counts().items())
        line = f"{self.root}: {len(self.classes)} classes, {counts} pictures"
        if self.ignored:
            kinds = Counter(Path(path).suffix or Path(path).name for path in self.ignored)
            named = ", ".join(f"{kind} ×{count}" for kind, count in kinds.most_common(5))
            line += f"; {len(self.ignored)} other files left out ({named})"
        return line


def scan(root: str | Path, split: SplitSettings, seed: int) -> Manifest:
    """Reads the folder `root`: {train,valid|val|validation,test}/<class>/*, or <class>/* split by the rule `split`.

    No file is changed.

    Raises:
        HeadstartError: says what the folder lacks, with its name.
    """
    root = Path(root)
    if not root.exists():
        raise HeadstartError(f"data.root={root} does not exist: give a folder of pictures with data.root=DIR")
    if not root.is_dir():
        raise HeadstartError(f"data.root={root} is a file: give the folder that holds the class folders")
    folders = _split_folders(root)
    return _of_split_folders(root, folders) if folders else _of_flat_folder(root, split, seed)


class _PictureFolder(ImageFolder):
    """torchvision's ImageFolder without hidden folders, with GIFs, told in this project's errors."""

    def __init__(self, root: Path) -> None:
        self.folder = root
        super().__init__(str(root), is_valid_file=is_picture, allow_empty=True)

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        classes = sorted(entry.name for entry in os.scandir(directory) if entry.is_dir() and _is_seen(entry.name))
        if not classes:
            raise HeadstartError(f"{directory} has no class folders: put the pictures of each class in one of its own")
        return classes, {name: label for label, name in enumerate(classes)}

    def names_of(self) -> dict[str, list[str]]:
        """The pictures of each class, as POSIX paths relative to the folder, sorted."""
        names: dict[str, list[str]] = {name: [] for name in self.classes}
        for path, label in self.samples:
            relative = Path(path).relative_to(self.folder)
            if all(_is_seen(part) for part in relative.parts):
                names[self.classes[label]].append(relative.as_posix())
        for name, found in names.items():
            if not found:
                raise HeadstartError(f"the class folder {self.folder / name} holds no pictures")
        return {name: sorted(found) for name, found in names.items()}


def _is_seen(name: str) -> bool:
    return not name.startswith((".", "__MACOSX"))


def _split_folders(root: Path) -> dict[str, Path]:
    """The folder of each split; empty for flat class folders. A class may itself be called "train"."""
    train = root / "train"
    if not train.is_dir() or not any(entry.is_dir() and _is_seen(entry.name) for entry in os.scandir(train)):
        return {}
    found: dict[str, Path] = {}
    for split, names in FOLDERS.items():
        present = [root / name for name in names if (root / name).is_dir()]
        if len(present) > 1:
            raise HeadstartError(f"{' and '.join(map(str, present))} are both there: which is the {split} split?")
        if present:
            found[split] = present[0]
    if "valid" not in found:
        raise HeadstartError(f"{root} has train/ but no valid/ (nor val/ or validation/) to choose the best epoch by")
    return found


def _of_split_folders(root: Path, folders: dict[str, Path]) -> Manifest:
    classes: tuple[str, ...] = ()
    splits = {}
    for name, folder in folders.items():
        pictures = _PictureFolder(folder)
        if name == "train":
            classes = _checked_classes(folder, pictures.classes)
        _check_same_classes(folders["train"], classes, folder, pictures.classes)
        names = pictures.names_of()
        splits[name] = _split_of(root, classes, {c: [f"{folder.name}/{n}" for n in names[c]] for c in classes})
    return Manifest(root, classes, splits, tuple(_other_files(root, folders.values())))


def _of_flat_folder(root: Path, rule: SplitSettings, seed: int) -> Manifest:
    pictures = _PictureFolder(root)
    classes = _checked_classes(root, pictures.classes)
    if {name.lower() for name in classes} <= {name for names in FOLDERS.values() for name in names}:
        raise HeadstartError(
            f"{root} has the folders {', '.join(classes)}, which look like splits and not like classes: name them "
            "train/, valid/ and test/, train/ and valid/ at least, with the class folders in each"
        )
    names = pictures.names_of()
    parts = {c: split_class(names[c], rule.train, rule.valid, seed=seed, class_name=c) for c in classes}
    splits = {}
    for split in SPLITS:
        of_class = {c: parts[c][split] for c in classes}
        if split == "test" and not any(of_class.values()):
            continue
        for c in classes:
            if not of_class[c]:
                raise HeadstartError(
                    f"data.split.train={rule.train} data.split.valid={rule.valid} leave none of the {len(names[c])} "
                    f"pictures of class '{c}' for the {split} split: choose other counts, or fractions such as "
                    "data.split.train=0.7 data.split.valid=0.15"
                )
        splits[split] = _split_of(root, classes, of_class)
    return Manifest(root, classes, splits, tuple(_other_files(root, [root])))


def _split_of(root: Path, classes: tuple[str, ...], names: dict[str, list[str]]) -> Split:
    samples = [(name, label) for label, c in enumerate(classes) for name in names[c]]
    return Split(root, tuple(name for name, _ in samples), tuple(label for _, label in samples))


def _checked_classes(folder: Path, classes: list[str]) -> tuple[str, ...]:
    if len(classes) < 2:
        raise HeadstartError(f"{folder} has one class only ({classes[0]}): to tell classes apart it takes two")
    return tuple(classes)


def _check_same_classes(train: Path, expected: tuple[str, ...], folder: Path, found: list[str]) -> None:
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing:
        raise HeadstartError(f"{folder} lacks the class folders {', '.join(missing)}, which {train} has")
    if extra:
        raise HeadstartError(f"{folder} has the class folders {', '.join(extra)}, which {train} lacks")


def _other_files(root: Path, folders: Iterable[Path]) -> Iterator[str]:
    """Files in the class folders that are no pictures by their names, relative to `root`."""
    for folder in folders:
        for base, inside, files in os.walk(folder, followlinks=True):
            inside[:] = [name for name in inside if _is_seen(name)]
            if Path(base) != folder:
                yield from (Path(base, f).relative_to(root).as_posix() for f in files if not is_picture(f))
