"""The folders in a zip or tar archive.

As when it is unpacked: of several files with one name, the last one counts; "/" at the start of a name, and "." and
".." in it, are left out.
"""

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass

from headstart.data.archive_members import (
    BLOCK,
    Directory,
    Item,
    Link,
    Member,
    Special,
    kind_of,
    members_of,
    read_member,
)
from headstart.files import ForkSafeLock

MOST_LINKS = 40  # on the way to a file, as on Linux
Tree = dict[str, "Tree | Member | Link | Special"]
Node = Tree | Member | Link | Special


@dataclass(frozen=True)
class Entry:
    """Something in a folder, as an os.DirEntry. `node` is what a link leads to; None: it leads nowhere."""

    name: str
    node: Node | None
    is_link: bool

    def is_dir(self) -> bool:
        """Whether it is a folder, or a link to one."""
        return isinstance(self.node, dict)

    def is_file(self) -> bool:
        """Whether it is a file, or a link to one."""
        return isinstance(self.node, Member)

    def is_symlink(self) -> bool:
        """Whether it is a link."""
        return self.is_link


class Archive:
    """The archive at `path`. Its list of files is read once; it is opened for each file, so that any process and any
    thread can read it.

    Raises:
        HeadstartError: it is damaged or incomplete, or cannot be read in place.
        OSError: it cannot be read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        with open(path, "rb") as file:
            self.stamp = _stamp(os.fstat(file.fileno()))
            self._top = _tree(members_of(path, file))

    @property
    def is_current(self) -> bool:
        """Whether the archive is still the one whose files are listed."""
        return self.stamp == _stamp(os.stat(self.path))

    def has(self, inner: str) -> bool:
        """Whether there is something at the path `inner` in the archive, if only a broken link."""
        above, _, name = inner.strip("/").rpartition("/")
        folder = self.node(above)
        return not name or (isinstance(folder, dict) and name in folder)

    def node(self, inner: str) -> Node | None:
        """What a path in the archive leads to; None: it leads nowhere."""
        try:
            return self._find(inner)[1]
        except OSError:
            return None

    def real(self, inner: str) -> str:
        """A path in the archive without the links on it, as far as they lead somewhere."""
        try:
            return self._find(inner)[0]
        except OSError:
            return inner

    def entries(self, inner: str) -> list[Entry]:
        """What is in a folder, by name.

        Raises:
            OSError: there is no such folder.
        """
        _, folder = self._find(inner)
        if not isinstance(folder, dict):
            raise _error(errno.ENOTDIR)
        return [self._entry(inner, name, node) for name, node in sorted(folder.items())]

    def read(self, inner: str) -> bytes:
        """The content of a file.

        Raises:
            OSError: there is no such file, or it is damaged, or the archive has been changed.
        """
        _, member = self._find(inner)
        if not isinstance(member, Member):
            raise _error(errno.EISDIR if isinstance(member, dict) else errno.EINVAL)
        with open(self.path, "rb") as file:
            if _stamp(os.fstat(file.fileno())) != self.stamp:
                raise OSError(errno.ESTALE, f"{self.path} has been changed since its files were listed: start again")
            return read_member(file, member)

    def _entry(self, folder: str, name: str, node: Node) -> Entry:
        is_link = isinstance(node, Link)
        return Entry(name, self.node(f"{folder}/{name}") if is_link else node, is_link)

    def _find(self, inner: str) -> tuple[str, Node]:
        """The real path of what is at a path, and the thing itself."""
        waiting, way, links = inner.split("/"), list[str](), 0
        while waiting:
            part = waiting.pop(0)
            if part == "..":
                if not way:
                    raise _error(errno.ENOENT)
                way.pop()
            elif part not in ("", "."):
                way.append(part)
                node = self._at(way)
                if isinstance(node, Link):
                    links += 1
                    if links > MOST_LINKS or not node.target or node.target.startswith("/"):
                        raise _error(errno.ELOOP if links > MOST_LINKS else errno.ENOENT)
                    way.pop()
                    waiting = [*node.target.split("/"), *waiting]
        return "/".join(way), self._at(way)

    def _at(self, way: Iterable[str]) -> Node:
        node: Node = self._top
        for part in way:
            if not isinstance(node, dict) or part not in node:
                raise _error(errno.ENOENT)
            node = node[part]
        return node


class _Opened:
    """The archives that this process has listed, by path."""

    def __init__(self) -> None:
        self._archives: dict[str, Archive] = {}
        self._lock = ForkSafeLock()

    def known(self, path: str) -> Archive:
        """The archive as it was listed last."""
        found = self._archives.get(path)
        return self.current(path) if found is None else found

    def current(self, path: str) -> Archive:
        """The archive, listed again if it has been changed."""
        with self._lock:
            if path not in self._archives or not self._archives[path].is_current:
                self._archives.pop(path, None)
                self._archives[path] = Archive(path)
            return self._archives[path]

    def __contains__(self, path: str) -> bool:
        return path in self._archives


OPENED = _Opened()


def is_archive(path: str) -> bool:
    """Whether a file is an archive, by its content, also one that cannot be read in place."""
    try:
        with open(path, "rb") as file:
            return kind_of(file.read(BLOCK)) is not None
    except OSError:
        return False


def in_archive(path: str | os.PathLike[str]) -> tuple[str, str] | None:
    """The archive that a path leads to or into, and the path in it; None: it does not."""
    text = os.fspath(path)
    outer = text
    while outer:
        place = os.path.abspath(outer)
        if os.path.isfile(place):
            return (place, text[len(outer) :].strip("/")) if place in OPENED or is_archive(place) else None
        above = os.path.dirname(outer)
        if os.path.isdir(place) or above == outer:
            return None
        outer = above
    return None


def _tree(members: Iterable[tuple[str, Item]]) -> Tree:
    top: Tree = {}
    for name, item in members:
        *folders, last = [part for part in name.split("/") if part not in ("", ".", "..")] or [""]
        here = top
        for part in folders:
            below = here.get(part)
            # What is said to be a file, but has files in it, is a folder.
            if not isinstance(below, dict):
                below = here[part] = {}
            here = below
        if isinstance(item, Directory):
            if last and not isinstance(here.get(last), dict):
                here[last] = {}
        elif last and not isinstance(here.get(last), dict):
            here[last] = item
    return top


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ino


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
