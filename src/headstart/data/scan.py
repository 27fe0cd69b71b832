"""Which files a folder of images holds, by split and class. Nothing is judged here."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from headstart.config.data import SplitSettings
from headstart.data.class_folders import ClassFolders
from headstart.data.folders import open_folder
from headstart.data.layout import find_layout
from headstart.data.splits import split_by_rule, with_valid
from headstart.errors import HeadstartError

# Folders that are read without a word about how they are called.
USUAL_NAMES = {"train": ("train",), "valid": ("valid", "val", "validation"), "test": ("test",)}


class Sample(NamedTuple):
    """One image; `path` is a POSIX path relative to the root."""

    split: str
    class_name: str
    path: str


@dataclass(frozen=True)
class Scan:
    """The images of a folder by split, class and path, and the classes of each split, some of which may be empty.

    `folders` are those of the splits in the folder. The others were drawn by `rule` and `seed`: valid from train or, if
    there are none, all from flat class folders; they have the same classes.

    `left_out` are all other files, with the reason unless the name says it; `unlabelled` are folders of splits without
    class folders, `unreadable` folders that cannot be entered, with the reason.
    """

    root: Path
    rule: SplitSettings
    seed: int
    folders: dict[str, Path]
    classes: dict[str, tuple[str, ...]]
    samples: tuple[Sample, ...]
    left_out: dict[str, str]
    unlabelled: dict[str, Path]
    unreadable: dict[str, str]

    @property
    def origins(self) -> dict[str, str]:
        """Where each split is from: its folder, or how it was drawn."""
        rule, drawn = self.rule, f"drawn with seed {self.seed}"
        if self.folders:
            held_out = f"data.split.valid={rule.valid} of each class of train, {drawn}"
            return {split: str(self.folders.get(split, held_out)) for split in self.classes}
        how = "by name" if isinstance(rule.train, int) else drawn
        shares = {"train": f"data.split.train={rule.train}", "valid": f"data.split.valid={rule.valid}", "test": "rest"}
        return {split: f"{shares[split]} of each class, {how}" for split in self.classes}

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about the splits."""
        return tuple(_notes(self))


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
    found = find_layout(open_folder(root), layout)
    readers = {split: ClassFolders(folder) for split, folder in (found.splits or {"": found.top}).items()}
    images = {split: reader.paths_from(root) for split, reader in readers.items()}
    images = with_valid(images, rule, seed) if found.splits else split_by_rule(images[""], rule, seed)
    left_out, unreadable = found.left_out, dict[Path, str]()
    for reader in readers.values():
        left_out |= reader.left_out
        unreadable |= reader.unreadable
    return Scan(
        root=root,
        rule=rule,
        seed=seed,
        folders={split: folder.path for split, folder in found.splits.items()},
        classes={split: tuple(of_split) for split, of_split in images.items()},
        samples=tuple(
            Sample(split, class_name, path)
            for split, of_split in images.items()
            for class_name, paths in of_split.items()
            for path in paths
        ),
        left_out={path.relative_to(root).as_posix(): left_out[path] for path in sorted(left_out)},
        unlabelled={split: folder.path for split, folder in found.unlabelled.items()},
        unreadable={path.relative_to(root).as_posix(): reason for path, reason in unreadable.items()},
    )


def _notes(scan: Scan) -> Iterator[str]:
    is_usual = all(path == scan.root / path.name for path in scan.folders.values())
    if not is_usual or any(path.name not in USUAL_NAMES[split] for split, path in scan.folders.items()):
        yield "; ".join(f"{split} split: {path}" for split, path in scan.folders.items())
    for split, path in scan.unlabelled.items():
        yield (
            f"{path} has no class folders, so it is not used as the {split} split; to predict on it: "
            f"python predict.py ckpt_path=RUN/checkpoints/best.ckpt {shlex.quote(f'source={path}')}"
        )
    if scan.folders and "valid" not in scan.folders:
        count = sum(sample.split == "valid" for sample in scan.samples)
        used = "1 image of train is" if count == 1 else f"{count} images of train are"
        yield f"no valid split: {used} used for it ({scan.origins['valid']})"
