"""What files a folder of pictures holds, by split and class. It judges nothing: the manifest and the audit do."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from torchvision.datasets import ImageFolder

from headstart.data.images import is_picture
from headstart.data.splits import SPLITS, split_class
from headstart.errors import HeadstartError
from headstart.settings import SplitSettings

FOLDERS = {"train": ("train",), "valid": ("valid", "val", "validation"), "test": ("test",)}
# How the names of files begin that this project keeps beside pictures it has made.
OWN = ".headstart"


@dataclass(frozen=True)
class Listing:
    """The pictures of each class in each split, as sorted POSIX paths relative to `root`.

    `folders` are those of the splits; empty where the class folders lie flat and were split by `rule`: then all splits
    have the same classes, and there is a test split if any class has pictures left for it. `left_out` are the other
    files: those that are no pictures by their names, and those outside of the class folders.
    """

    root: Path
    rule: SplitSettings
    folders: dict[str, Path]
    pictures: dict[str, dict[str, list[str]]]
    left_out: tuple[str, ...]

    def samples(self) -> Iterator[tuple[str, str, str]]:
        """(split, class, path) of every picture."""
        for split, classes in self.pictures.items():
            for name, paths in classes.items():
                yield from ((split, name, path) for path in paths)

    def without(self, paths: Collection[str]) -> "Listing":
        """The same folder with some pictures left out, none put in another split in their place."""
        kept = {
            split: {name: [path for path in found if path not in paths] for name, found in classes.items()}
            for split, classes in self.pictures.items()
        }
        return replace(self, pictures=kept)


def read_listing(root: str | Path, rule: SplitSettings, seed: int) -> Listing:
    """Reads ROOT/{train,valid|val|validation,test}/<class>/*, or ROOT/<class>/* and splits the latter by `rule`.

    No file is changed.

    Raises:
        HeadstartError: the folder is not laid out in one of these ways.
    """
    root = Path(root)
    if not root.exists():
        raise HeadstartError(f"data.root={root} does not exist: give a folder of pictures with data.root=DIR")
    if not root.is_dir():
        raise HeadstartError(f"data.root={root} is a file: give the folder that holds the class folders")
    folders = _split_folders(root)
    if folders:
        pictures = {name: _PictureFolder(folder).paths_from(root) for name, folder in folders.items()}
    else:
        pictures = _split_by_rule(root, rule, seed)
    return Listing(root, rule, folders, pictures, tuple(_left_out(root, list(folders.values()) or [root])))


class _PictureFolder(ImageFolder):
    """torchvision's ImageFolder without hidden folders, with GIFs, told in this project's errors."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(str(folder), is_valid_file=is_picture, allow_empty=True)

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        classes = sorted(entry.name for entry in os.scandir(directory) if entry.is_dir() and is_seen(entry.name))
        if not classes:
            raise HeadstartError(f"{directory} has no class folders: put the pictures of each class in one of its own")
        return classes, {name: label for label, name in enumerate(classes)}

    def paths_from(self, root: Path) -> dict[str, list[str]]:
        """The pictures of each class, as sorted POSIX paths relative to `root`."""
        paths: dict[str, list[str]] = {name: [] for name in self.classes}
        for path, label in self.samples:
            if all(is_seen(part) for part in Path(path).relative_to(self.folder).parts):
                paths[self.classes[label]].append(Path(path).relative_to(root).as_posix())
        return {name: sorted(found) for name, found in paths.items()}


def is_seen(name: str) -> bool:
    """Whether a file or folder of that name is neither hidden nor a system's own."""
    return not name.startswith((".", "__MACOSX")) and name.lower() not in ("thumbs.db", "desktop.ini")


def _split_folders(root: Path) -> dict[str, Path]:
    """The folder of each split; empty for flat class folders. A class may itself be called "train"."""
    train = root / "train"
    if not train.is_dir() or not any(entry.is_dir() and is_seen(entry.name) for entry in os.scandir(train)):
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


def _split_by_rule(root: Path, rule: SplitSettings, seed: int) -> dict[str, dict[str, list[str]]]:
    paths = _PictureFolder(root).paths_from(root)
    if {name.lower() for name in paths} <= {name for names in FOLDERS.values() for name in names}:
        raise HeadstartError(
            f"{root} has the folders {', '.join(paths)}, which look like splits and not like classes: name them "
            "train/, valid/ and test/, train/ and valid/ at least, with the class folders in each"
        )
    parts = {c: split_class(paths[c], rule.train, rule.valid, seed=seed, class_name=c) for c in paths}
    pictures = {split: {c: parts[c][split] for c in paths} for split in SPLITS}
    if not any(pictures["test"].values()):
        del pictures["test"]
    return pictures


def _left_out(root: Path, folders: list[Path]) -> Iterator[str]:
    """Files that are no samples, and folders that are none of the splits', relative to `root`.

    What is in a hidden folder is not told one by one.
    """
    tops = {root, *folders}
    for top in sorted(tops):
        for base, inside, files in os.walk(top, followlinks=True):
            unseen = [name for name in inside if not is_seen(name)]
            inside[:] = sorted(set(inside) - set(unseen))
            if Path(base) == root and root not in folders:
                unseen += [name for name in inside if root / name not in tops]
                inside.clear()
            unseen += [name for name in files if Path(base) in tops or not is_picture(name)]
            found = (Path(base, name).relative_to(root).as_posix() for name in sorted(unseen))
            yield from (path for path in found if not path.startswith(OWN))
