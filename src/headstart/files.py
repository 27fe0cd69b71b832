"""Files and folders: written completely or not at all, marked as headstart's own, hashed, cached."""

import functools
import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakSet

from filelock import FileLock

from headstart.errors import HeadstartError
from headstart.log import log
from headstart.machine import DISK_FULL

# Which folders headstart made: they carry a marker. Nothing without one is deleted, replaced or taken for its own. A
# folder that a command writes into is claimed first: it is new, or empty, or one that the same kind of command made
# before. So fixed names, such as metrics.json or contact_sheets/, never meet the user's files. What carries a marker
# is never read as the user's images, unless it is named itself.

MARKER = ".headstart-output"

# Kinds of folders, and what a message calls them.
RUN, SWEEP, ENSEMBLE, REPORT, CACHE = "run", "sweep", "ensemble", "report", "cache"
PREDICTIONS, DATASET = "predictions", "dataset"  # features too: their files have other names
CALLED = {RUN: "a run", SWEEP: "a sweep", ENSEMBLE: "an ensemble", REPORT: "a report"}
# Hydra's, which it would overwrite.
HYDRAS = ".hydra"
# Of operating systems, network drives and archives.
SYSTEM = ("thumbs.db", "desktop.ini", "@eadir", "#recycle", "$recycle.bin", "lost+found", "system volume information")
# The folders that this process made.
_made: set[Path] = set()


def kind_of(folder: Path) -> str | None:
    """Returns the kind of a folder that headstart made; "" if its marker is damaged, None if it has none."""
    if not os.path.lexists(folder / MARKER):
        return None
    try:
        return str(json.loads((folder / MARKER).read_bytes())["kind"])
    except (ValueError, KeyError, TypeError):
        return ""


def check(folder: Path, kind: str, key: str = "") -> None:
    """Raises HeadstartError unless files of this kind may be written into `folder`, which the setting `key` names.

    It may be new, empty, or made by headstart for files of the same kind.
    """
    if not folder.is_dir():
        return
    actual = kind_of(folder)
    if actual == kind or (actual is None and _is_empty(folder)):
        return
    why = "is not empty, and headstart did not make it"
    if actual is not None:
        why = f"is the folder of {CALLED.get(actual, actual or 'another output')}"
    if not key:
        raise HeadstartError(f"{folder} {why}: move it elsewhere")
    raise HeadstartError(f"{key}={folder} {why}: choose another folder, such as {key}={unused_path(folder / kind)}")


def claim(folder: Path, kind: str, key: str = "") -> None:
    """Makes `folder`, unless it exists, and marks it as one that headstart made.

    Raises:
        HeadstartError: it holds something else, as `check` says.
    """
    check(folder, kind, key)
    mark(folder, kind)


def mark(folder: Path, kind: str) -> None:
    """Marks a folder whose content is known to be headstart's; makes it unless it exists."""
    new = [place for place in map(Path.absolute, (folder, *folder.parents)) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    _made.update(new)
    if not os.path.lexists(folder / MARKER):
        write_text(folder / MARKER, json.dumps({"kind": kind}) + "\n")


def mark_if_empty(folder: Path, kind: str) -> None:
    """Makes `folder`, unless it exists, and marks it if nothing is in it: it may be shared with other files."""
    if not folder.exists() or _is_empty(folder):
        mark(folder, kind)


def is_own(path: Path) -> bool:
    """Whether `path` is, or is in, a folder that headstart made. What a link leads to is elsewhere, the link is not."""
    place = Path(os.path.realpath(path.parent), path.name)
    folders = place.parents if place.is_symlink() else (place, *place.parents)
    return any(kind_of(folder) is not None for folder in folders)


def remove(path: Path) -> None:
    """Deletes a file, a link or a folder, if there is one, that is in a folder that headstart made.

    Raises:
        HeadstartError: it is not.
    """
    if not os.path.lexists(path):
        return
    if not is_own(path):
        raise HeadstartError(f"{path} is in the way, and headstart did not write it: move it elsewhere")
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def remove_made(folder: Path) -> None:
    """Deletes what is in a folder that headstart made, then the folder and those above it, if this process made them.

    What cannot be deleted, or is not headstart's, stays.
    """
    with suppress(OSError, HeadstartError):
        for path in folder.iterdir():
            if path.name != MARKER:
                remove(path)
        remove(folder / MARKER)
    for place in map(Path.absolute, (folder, *folder.parents)):
        if place not in _made:
            return
        with suppress(OSError):
            place.rmdir()


def is_visible(name: str) -> bool:
    """Whether a file or folder of that name is neither hidden nor the operating system's."""
    return not name.startswith((".", "__MACOSX")) and name.lower() not in SYSTEM


def _is_empty(folder: Path) -> bool:
    """Whether nothing is in it but what the operating system, a file manager or git puts there."""
    with os.scandir(folder) as entries:
        return not any(is_visible(entry.name) or entry.name == HYDRAS for entry in entries)


def unused_path(path: Path) -> Path:
    """Returns `path`, or if it exists, with the first number that makes it a new one."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(place for place in (path, *itertools.islice(numbered, 99)) if not os.path.lexists(place))


# Files that are written completely or not at all, locks between threads and processes, and the cache folder.

# The variable that names the cache folder.
CACHE_VARIABLE = "HEADSTART_CACHE"
TEMPORARY = ".tmp"
_NEEDS_QUOTES = re.compile(r"[,;|\t\r\n\"]|^\s|\s$")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path`; renames it to `path` if the block ends without an error.

    Parent folders are created. Whenever the process dies, `path` holds the old content or the new, never a part. The
    OSError of a full disk names `path`.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whatever the name, even one of 255 bytes, that of the temporary file must not be too long. The block creates
        # the file: were it created here, a signal could come before the `try` that removes it.
        temporary = path.with_name(f".{path.name[:60]}.{secrets.token_hex(6)}{TEMPORARY}")
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Lets the OSError of a full disk, raised in the block, name the file `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL and (error.filename is None or str(error.filename).endswith(TEMPORARY)):
            error.filename = str(path)
        raise


def write_text(path: Path, text: str, errors: str = "surrogateescape") -> None:
    """Writes `text` to `path`, completely or not at all; names that are not UTF-8 keep their bytes."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors=errors)


def write_csv(path: Path, header: Iterable[object], rows: Iterable[Iterable[object]]) -> None:
    """Writes a table to `path` as CSV, completely or not at all."""
    write_text(path, csv_row(header) + "".join(map(csv_row, rows)))


def csv_row(values: Iterable[object]) -> str:
    """Returns a row of a CSV, with a line end. Quotes are around each cell that a reader may otherwise change.

    These are also those with spaces at an end, which are left out when people's tables are read.
    """
    cells = ["" if value is None else str(value) for value in values]
    quoted = ('"' + cell.replace('"', '""') + '"' if _NEEDS_QUOTES.search(cell) else cell for cell in cells)
    return ",".join(quoted) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Writes `value` to `path` as indented JSON, completely or not at all."""
    # In names that are not UTF-8, the bytes become escapes, which JSON allows.
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", errors="backslashreplace")


def read_json(path: Path) -> Any:
    """Returns the JSON in `path`."""
    return json.loads(path.read_text(encoding="utf-8"))


class ForkSafeLock:
    """A lock between threads. A forked process finds it free, because the thread that held it is not in there.

    Pickled or copied, it is a new one.
    """

    _all: ClassVar["WeakSet[ForkSafeLock]"] = WeakSet()

    def __init__(self) -> None:
        self._renew()
        self._all.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[Any, ...]:
        return ForkSafeLock, ()

    def _renew(self) -> None:
        # Reentrant, so that it is no harm if the thread that held it is the one that forked.
        self._lock = threading.RLock()

    @classmethod
    def _renew_all(cls) -> None:
        for lock in cls._all:
            lock._renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=ForkSafeLock._renew_all)


@dataclass(frozen=True)
class LoadedFile:
    """A file that an object was loaded from, and its SHA-256: another process can load the same object from it."""

    path: Path
    sha256: str

    @classmethod
    def at(cls, path: Path) -> "LoadedFile":
        """The file `path` as it is now."""
        return cls(path.absolute(), sha256_of(path))

    def check_unchanged(self) -> None:
        """Raises HeadstartError if the file is gone, or has other content."""
        try:
            is_same = sha256_of(self.path) == self.sha256
        except OSError as error:
            raise HeadstartError(f"{self.path} cannot be read again in another process: {error.strerror}") from None
        if not is_same:
            raise HeadstartError(
                f"{self.path} has changed since it was loaded, and another process cannot load the same: load it again"
            )


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of the file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_room(
    paths: Iterable[Path], max_bytes: int, newest: Path, delete: Callable[[Path], object] = Path.unlink
) -> None:
    """Deletes those of the files `paths` that were not used for longest, until the rest fits; never `newest`."""
    stats: dict[Path, os.stat_result] = {}
    for path in paths:
        # Other processes delete files meanwhile.
        with suppress(FileNotFoundError):
            stats[path] = path.stat()
    size = sum(stat.st_size for stat in stats.values())
    for path in sorted(stats.keys() - {newest}, key=lambda path: stats[path].st_mtime):
        if size > max_bytes:
            size -= stats[path].st_size
            with suppress(FileNotFoundError):
                delete(path)


def exclusively(path: Path) -> FileLock:
    """Returns the lock, a context, that lets one process at a time do something with `path`.

    Its file is in the cache folder.

    Raises:
        HeadstartError: the cache folder cannot be written.
    """
    place = hashlib.sha256(str(path.resolve()).encode(errors="surrogateescape")).hexdigest()[:20]
    return FileLock(folder_in_cache("locks") / f"{place}.lock")


def folder_in_cache(name: str) -> Path:
    """Returns a folder in the cache folder; makes it, and marks it as headstart's unless files were in it before.

    Raises:
        HeadstartError: the cache folder cannot be written.
    """
    folder = cache_folder() / name
    try:
        mark_if_empty(folder, CACHE)
    except OSError as error:
        raise _no_cache(f"{folder} cannot be written: {error.strerror}") from None
    return folder


def cache_folder() -> Path:
    """Returns where headstart keeps what it can compute again: HEADSTART_CACHE, or a folder in the user's cache folder.

    A user who has none gets one in the folder of temporary files, which a warning names.

    Raises:
        HeadstartError: none of them can be written.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(os.path.abspath(os.path.expanduser(chosen)))
    usual = usual_cache_folder()
    is_usable = usual is not None and _can_be_written(usual / "headstart")
    return usual / "headstart" if usual is not None and is_usable else _temporary_cache_folder()


def usual_cache_folder() -> Path | None:
    """Returns the user's cache folder, if there is one that can be written."""
    place = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(place)
    # Without a home folder, "~" stays as it is.
    return folder if folder.is_absolute() and _can_be_written(folder) else None


def _can_be_written(folder: Path) -> bool:
    """Whether the folder, or the nearest one above it that exists, can be written."""
    # os.path.exists, because Path.exists raises an error for what may not even be looked at.
    existing = next(place for place in (folder, *folder.parents) if os.path.exists(place))
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


@functools.cache
def _temporary_cache_folder() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else 0
    try:
        folder = Path(tempfile.gettempdir(), f"headstart-{user}")
        folder.mkdir(mode=0o700, exist_ok=True)
        # Somebody else may have put a folder, or a link, in its place.
        is_own = folder.lstat().st_uid == user and folder.is_dir() and not folder.is_symlink()
    except OSError as error:
        raise _no_cache(error.strerror or str(error)) from None
    if not is_own or not _can_be_written(folder):
        raise _no_cache(f"{folder} belongs to another user")
    log.warning(
        "no cache folder of yours can be written, so %s is used: choose one with %s=DIR", folder, CACHE_VARIABLE
    )
    return folder


def _no_cache(reason: str) -> HeadstartError:
    return HeadstartError(
        f"there is no folder for the cache ({reason}): set the environment variable {CACHE_VARIABLE} to a folder"
    )
