"""The class folders of a split, as torchvision's ImageFolder."""

import os
import shlex
from pathlib import Path
from typing import Any

from torchvision.datasets import ImageFolder

from headstart.data.folders import MADE, SECOND_LINK, Folder, listed
from headstart.data.images import read_rgb
from headstart.data.splits import Images
from headstart.data.storage import real_path
from headstart.errors import HeadstartError

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
        """The images of each class."""
        paths: Images = {name: [] for name in self.classes}
        for path, label in self.samples:
            paths[self.classes[label]].append(Path(path).relative_to(root).as_posix())
        return {name: sorted(found) for name, found in paths.items()}

    def _files(self, class_name: str) -> list[Path]:
        folders, links = self._folders[class_name].tree
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
            real = real_path(real) if folder.files[name] else real
            if real in files:
                self.left_out[folder.path / name] = SECOND_LINK
            files.setdefault(real, folder.path / name)
        return list(files.values())


def _why_no_classes(directory: str, archives: list[str]) -> str:
    if archives:
        place = shlex.quote(f"data.root={os.path.join(directory, archives[0])}")
        return f"{directory} has no class folders, but holds {listed(archives)}: to read an archive, set {place}"
    return f"{directory} has no class folders: put the images of each class into a folder"
