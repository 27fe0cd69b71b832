"""The folder that the paths of images are relative to: `data.root` or, in an archive, the only folder in it.

And which files in it the paths of a table mean.
"""

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from headstart.data.folders import Folder, open_folder
from headstart.data.formats import is_image_name
from headstart.data.layout import is_container, split_names
from headstart.data.storage import exists, is_folder, is_in_archive, list_folder
from headstart.errors import HeadstartError


def open_root(root: Path) -> Folder:
    """The folder `root`. If it is in an archive and all images are in one folder of it, as `zip -r` makes, that folder.

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
    """`root`, or the folder in it that `open_root` finds if some of the `paths` are relative to that."""
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


class Files:
    """The files below `root` by the spellings that tables have for them. Each folder is listed once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, frozenset[str]] = {}
        self._spellings: dict[str, dict[str, list[str]]] = {}

    def find(self, path: str) -> str | None:
        """The path of the file that is called so, or of the only one that is but for what `_spelling` leaves out.

        A name may lack the extension of an image. None: there is no such file, or there are several.
        """
        found = ""
        parts = path.split("/")
        for place, part in enumerate(parts, start=1):
            name = part if part in self._names(found) else self._meant(found, part, is_file=place == len(parts))
            if name is None:
                return None
            found = f"{found}/{name}" if found else name
        return found

    def _names(self, folder: str) -> frozenset[str]:
        if folder not in self._folders:
            try:
                self._folders[folder] = frozenset(entry.name for entry in list_folder(self._root / folder))
            except OSError:
                self._folders[folder] = frozenset()
        return self._folders[folder]

    def _meant(self, folder: str, part: str, *, is_file: bool) -> str | None:
        """The only name in the folder that is spelled like `part`, or else, without its extension, the only image's."""
        if folder not in self._spellings:
            spellings = self._spellings[folder] = dict[str, list[str]]()
            for name in self._names(folder):
                spellings.setdefault(_spelling(name), []).append(name)
                if is_image_name(name):
                    spellings.setdefault(f"{_spelling(os.path.splitext(name)[0])}/", []).append(name)
        spellings = self._spellings[folder]
        names = spellings.get(_spelling(part)) or (spellings.get(f"{_spelling(part)}/", []) if is_file else [])
        return names[0] if len(names) == 1 else None


def _spelling(name: str) -> str:
    """The name without case, spaces at its ends, and the ways in which Unicode encodes the same letters."""
    return unicodedata.normalize("NFC", name.strip().casefold())
