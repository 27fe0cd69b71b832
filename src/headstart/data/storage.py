"""Files in folders, and in zip and tar archives as if these were folders: `images.zip/ant/1.jpg`.

Whatever lists or reads the user's images does it here. An archive inside another one is a mere file.
"""

import errno
import io
import os
from pathlib import Path
from typing import IO

from headstart.data.archives import OPENED, Entry, Member, Node, in_archive, is_archive

LARGEST = 8 * 10**9  # bytes of any file that is read as a whole
Place = str | os.PathLike[str]


def read_file(path: Place) -> bytes:
    """The content of a file.

    Raises:
        OSError: it cannot be read, or has more than LARGEST bytes.
    """
    if (size := _size_of(path)) > LARGEST:
        raise OSError(errno.EFBIG, f"its {size / 1e9:.1f} GB are too many to be read into memory")
    with open_file(path) as file:
        return file.read()


def size_of(path: Place) -> int:
    """The number of bytes in a file, which is not read.

    Raises:
        OSError: there is none, or it is not a regular file: reading a pipe or a device may never end.
    """
    size = _size_of(path)
    if os.path.lexists(path) and not os.path.isdir(path) and not os.path.isfile(path):
        raise OSError(errno.EINVAL, "it is not a regular file, but a pipe, a socket or a device")
    return size


def _size_of(path: Place) -> int:
    try:
        return os.stat(path).st_size
    except NotADirectoryError:
        found = in_archive(path)
        member = OPENED.known(found[0]).node(found[1]) if found is not None else None
        return member.size if isinstance(member, Member) else 0


def open_file(path: Place) -> IO[bytes]:
    """A file, open for reading.

    Raises:
        OSError: it cannot be read.
    """
    try:
        return open(path, "rb")
    except NotADirectoryError:
        # A folder on the way to it is a file; only then is it looked at what that is.
        if (found := in_archive(path)) is None:
            raise
        archive, inner = found
        return io.BytesIO(OPENED.known(archive).read(inner))


def list_folder(path: Place) -> list[os.DirEntry[str]] | list[Entry]:
    """What is in a folder or an archive, by name. An archive that has been changed is listed again.

    Raises:
        OSError: it cannot be read.
        HeadstartError: it is an archive that is damaged, or cannot be read in place.
    """
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except NotADirectoryError:
        if (found := in_archive(path)) is None:
            raise
        archive, inner = found
        return OPENED.current(archive).entries(inner)


def real_path(path: Place) -> str:
    """The absolute path without links, as os.path.realpath."""
    real = os.path.realpath(path)
    if os.path.lexists(real) or (found := in_archive(path)) is None:
        return real
    archive, inner = found
    return os.path.join(os.path.realpath(archive), OPENED.known(archive).real(inner))


def exists(path: Place) -> bool:
    """Whether there is something at `path`."""
    return Path(path).exists() or _node(path) is not None


def lexists(path: Place) -> bool:
    """Whether there is something at `path`, if only a broken link."""
    if os.path.lexists(path):
        return True
    found = in_archive(path)
    return found is not None and OPENED.known(found[0]).has(found[1])


def is_folder(path: Place) -> bool:
    """Whether `path` is a folder, an archive, or a folder in one.

    Raises:
        HeadstartError: it is an archive that is damaged, or cannot be read in place.
    """
    return os.path.isdir(path) or isinstance(_node(path), dict)


def is_file(path: Place) -> bool:
    """Whether `path` is a file, but no archive, or a file in an archive."""
    if os.path.isfile(path):
        return not is_archive(os.fspath(path))
    return isinstance(_node(path), Member)


def is_in_archive(path: Place) -> bool:
    """Whether `path` is an archive, or in one."""
    return in_archive(path) is not None


def _node(path: Place) -> Node | None:
    found = in_archive(path)
    return OPENED.current(found[0]).node(found[1]) if found is not None else None
