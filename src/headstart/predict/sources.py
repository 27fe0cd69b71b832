"""Which pictures `source=` means."""

import glob
import os
from pathlib import Path

from headstart.data.images import is_picture
from headstart.errors import HeadstartError


def find_pictures(source: str, *, leave_out: Path | None = None) -> list[Path]:
    """The files that `source` names, sorted: a file, a folder (with its subfolders), or a glob (`**` too).

    A file named by itself or by a glob is taken whatever its extension; in folders, hidden ones are passed over.
    `leave_out` is a folder whose files are not taken: earlier output.

    Raises:
        HeadstartError: there is nothing there, or no picture in it.
    """
    path = Path(source).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [p for p in _walk(path) if is_picture(p)]
    else:
        found = [p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file()]
        if not found:
            raise HeadstartError(f"source={source} is no file, no folder, and no file matches it")
    if leave_out is not None:
        found = [p for p in found if not p.resolve().is_relative_to(leave_out.resolve())]
    if not found:
        raise HeadstartError(f"source={source} holds no pictures")
    return sorted(found)


def _walk(folder: Path) -> list[Path]:
    found = []
    for base, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(base, name) for name in files]
    return found


def common_folder(paths: list[Path]) -> Path:
    """The deepest folder that all `paths` are in."""
    return Path(os.path.commonpath([path.parent for path in paths]))
