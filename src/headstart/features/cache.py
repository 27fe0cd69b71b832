"""Files that can be computed again: written completely or not at all, checked when they are read, deleted when unused.

Beside each file lies its SHA-256. Stored features and compiled networks are kept in this way.
"""

import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TypeVar

from headstart import files
from headstart.files import TEMPORARY, replacing, sha256_of, write_text
from headstart.log import log

Value = TypeVar("Value")


def is_kept(path: Path) -> bool:
    """Whether there is such a file (it may turn out to be damaged)."""
    return _checksum_of(path).exists()


def read(path: Path, load: Callable[[Path], Value], otherwise: str) -> Value | None:
    """Returns `load(path)`, and marks the file as used now; None if it is missing, or damaged.

    A warning about a damaged file ends with `otherwise`: what happens now.
    """
    try:
        # As bytes: a damaged one need not be text.
        if _checksum_of(path).read_bytes() != sha256_of(path).encode():
            log.warning("%s is damaged; %s", path, otherwise)
            return None
    except (FileNotFoundError, NotADirectoryError):
        return None
    # In a read-only folder nothing is ever deleted, so when it was used does not matter there.
    with suppress(OSError):
        os.utime(path)
    return load(path)


def get_or_make(
    load: Callable[[], Value | None], lock: AbstractContextManager[object], make: Callable[[], None]
) -> Value | None:
    """Returns `load()`, after `make()` if that is None: one of several processes makes it, the others wait."""
    value = load()
    if value is None:
        with lock:
            # Another process may have made it in the meantime.
            value = load()
            if value is None:
                make()
                value = load()
    return value


def keep(path: Path, write: Callable[[Path], object]) -> None:
    """Puts the file that `write` makes, given a temporary path, in place of `path`; for the holder of a lock."""
    # Of processes that were killed.
    for left_over in path.parent.glob(f".{path.name}.*{TEMPORARY}"):
        left_over.unlink()
    # Nobody reads a file without a checksum: neither while it is replaced, nor if the power fails meanwhile.
    _checksum_of(path).unlink(missing_ok=True)
    with replacing(path) as temporary:
        write(temporary)
    write_text(_checksum_of(path), sha256_of(path))


def make_room(paths: Iterable[Path], max_bytes: int, newest: Path) -> None:
    """Deletes those of the kept files `paths` that were not used for longest, until the rest fits; never `newest`."""
    files.make_room(paths, max_bytes, newest, delete)


def delete(path: Path) -> None:
    """Deletes a kept file and its checksum."""
    _checksum_of(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _checksum_of(path: Path) -> Path:
    return path.with_suffix(".sha256")
