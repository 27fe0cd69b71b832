"""Which images `source=` means."""

import fnmatch
import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from headstart.data.folders import MADE, SECOND_LINK, Folder, left_out_summary, open_folder, walk
from headstart.data.storage import is_file, is_folder, is_in_archive
from headstart.errors import HeadstartError
from headstart.log import log


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
