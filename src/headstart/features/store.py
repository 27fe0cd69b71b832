"""Feature matrices on disk. It knows no model and no pictures: only keys, views, and how rows are made on a miss."""

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from numpy.lib import format as npy

from headstart.errors import HeadstartError
from headstart.files import replacing, write_json

Array = np.ndarray[Any, np.dtype[Any]]
FORMAT = 1
BLOCK = 1 << 20  # bytes read at a time for a checksum


@dataclass(frozen=True)
class Key:
    """All that a split's features depend on, as plain values; `name` begins the folder, for people to find it."""

    name: str
    values: dict[str, Any]

    @property
    def folder(self) -> str:
        """The name and the SHA-256 of all values, shortened."""
        text = json.dumps(self.values | {"format": FORMAT}, sort_keys=True)
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:20]}"


class FeatureStore:
    """Keeps `folder`/<key>/view-<v>.npy, written once and whole, and read through memory maps.

    A file is an ordinary .npy followed by the SHA-256 of all before; one that does not match is made again. Processes
    that want the same key at once wait for the one that makes it.

    Args:
        folder: where; made when needed.
        max_gb: of all files together, in 10⁹ bytes; the keys used longest ago go first. None: no limit.
    """

    def __init__(self, folder: Path, max_gb: float | None = None) -> None:
        self._folder = folder
        self._max_bytes = None if max_gb is None else int(max_gb * 1e9)

    def has(self, key: Key, view: int) -> bool:
        """Whether the file is there (it may turn out to be damaged)."""
        return self._path(key, view).exists()

    def find(self, values: dict[str, Any]) -> list[Key]:
        """The keys in the folder that have all of `values`, in the order of their folders' names."""
        found = []
        for path in sorted(self._folder.glob("*/key.json")):
            with suppress(OSError, ValueError):
                key = Key(path.parent.name.rpartition("-")[0], json.loads(path.read_text(encoding="utf-8")))
                if key.folder == path.parent.name and values.items() <= key.values.items():
                    found.append(key)
        return found

    def read(self, key: Key, view: int) -> Array | None:
        """The features of one view as they lie there; None where there are none, or they are damaged."""
        return self._open(self._path(key, view))

    def matrix(
        self, key: Key, view: int, *, shape: tuple[int, int], dtype: str, rows: Callable[[], Iterable[Array]]
    ) -> Array:
        """The features of one view, read-only and memory-mapped; on a miss made from `rows`, blocks of rows in order.

        Raises:
            HeadstartError: the folder cannot be written, the disk is full, or numbers do not fit into `dtype`.
        """
        path = self._path(key, view)
        found = self._expected(path, shape, dtype)
        if found is None:
            with self._writing(), self._lock(key):
                # Another process may have made it in the meantime.
                found = self._expected(path, shape, dtype)
                if found is None:
                    self._make(key, path, shape, dtype, rows())
                    found = self._expected(path, shape, dtype)
                    self._make_room(keep=path)
        if found is None:
            raise HeadstartError(f"{path} was damaged while it was written: is the disk in order?")
        self._touch(path)
        return found

    def _path(self, key: Key, view: int) -> Path:
        return self._folder / key.folder / f"view-{view:04}.npy"

    def _expected(self, path: Path, shape: tuple[int, int], dtype: str) -> Array | None:
        array = self._open(path)
        return array if array is not None and array.shape == shape and array.dtype == np.dtype(dtype) else None

    def _open(self, path: Path) -> Array | None:
        try:
            if not _is_whole(path):
                print(f"warning: {path} is damaged; its features are made again", file=sys.stderr)
                return None
            array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return array

    def _make(self, key: Key, path: Path, shape: tuple[int, int], dtype: str, rows: Iterable[Array]) -> None:
        folder = path.parent
        if not (folder / "key.json").exists():
            write_json(folder / "key.json", key.values)
        # Only the holder of the lock writes here, so these were left by a process that was killed.
        for left_over in folder.glob(".view-*.tmp"):
            left_over.unlink()
        with replacing(path) as temporary, temporary.open("wb") as file:
            _write(file, shape, dtype, rows)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            what = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else error.strerror
            raise HeadstartError(
                f"features.dir={self._folder} cannot be written ({what}): "
                "give another with features.dir=DIR, or do without by features.cache=false"
            ) from None

    @contextmanager
    def _lock(self, key: Key, *, timeout: float = -1) -> Iterator[None]:
        # Outside the key's folder, so that nobody holds a lock on a file that is being deleted with it.
        locks = self._folder / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{key.folder}.lock", timeout=timeout):
            yield

    def _touch(self, path: Path) -> None:
        """Notes the use of a file. In a folder that cannot be written nothing is ever deleted either."""
        try:
            os.utime(path)
        except OSError:
            return

    def _make_room(self, keep: Path) -> None:
        """Deletes the files of the keys used longest ago, then this key's own, until the rest fits."""
        if self._max_bytes is None:
            return
        size = keep.stat().st_size
        if size > self._max_bytes:
            keep.unlink()
            raise HeadstartError(
                f"one view of the features takes {size / 1e9:.3g} GB, more than features.max_gb="
                f"{self._max_bytes / 1e9:g}: raise it, or do without by features.cache=false"
            )
        folders = {folder: _last_use(folder) for folder in self._folder.iterdir() if (folder / "key.json").exists()}
        for folder in sorted(folders, key=lambda f: (f == keep.parent, folders[f])):
            if self._size() <= self._max_bytes:
                return
            if folder == keep.parent:
                self._shrink(keep)
            else:
                self._evict(folder)

    def _evict(self, folder: Path) -> None:
        try:
            with FileLock(self._folder / ".locks" / f"{folder.name}.lock", timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
        except Timeout:
            # Another process is writing there: it is in use.
            return

    def _shrink(self, keep: Path) -> None:
        for path in sorted(keep.parent.glob("view-*.npy"), key=lambda p: p.stat().st_mtime):
            if path != keep and self._size() > (self._max_bytes or 0):
                path.unlink()

    def _size(self) -> int:
        return sum(stat.st_size for stat in _stats(self._folder.glob("*/view-*.npy")))


def _write(file: BinaryIO, shape: tuple[int, int], dtype: str, rows: Iterable[Array]) -> None:
    """Writes an .npy of `shape` from blocks of rows, and the SHA-256 of it all."""
    total = hashlib.sha256()

    def put(content: bytes) -> None:
        file.write(content)
        total.update(content)

    put(_header(shape, dtype))
    count = 0
    for block in rows:
        with np.errstate(over="ignore"):
            converted = block.astype(dtype)
        if not np.isfinite(converted).all() and np.isfinite(block).all():
            raise HeadstartError(f"features as large as {np.abs(block).max():.3g} do not fit into {dtype}: "
                                 "set features.precision=32")  # fmt: skip
        put(np.ascontiguousarray(converted).tobytes())
        count += len(block)
    if count != shape[0]:
        raise ValueError(f"{count} rows came, {shape[0]} were announced")
    file.write(total.digest())


def _header(shape: tuple[int, int], dtype: str) -> bytes:
    import io

    header = io.BytesIO()
    description = {"descr": npy.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(header, description)
    return header.getvalue()


def _is_whole(path: Path) -> bool:
    """Whether the last 32 bytes are the SHA-256 of those before."""
    remaining = path.stat().st_size - hashlib.sha256().digest_size
    total = hashlib.sha256()
    with path.open("rb") as file:
        while remaining > 0:
            block = file.read(min(BLOCK, remaining))
            if not block:
                return False
            total.update(block)
            remaining -= len(block)
        return remaining == 0 and file.read() == total.digest()


def _last_use(folder: Path) -> float:
    return max((stat.st_mtime for stat in _stats(folder.glob("*"))), default=0.0)


def _stats(paths: Iterable[Path]) -> Iterator[os.stat_result]:
    """Of those that are still there: other processes write and delete in their keys' folders meanwhile."""
    for path in paths:
        with suppress(FileNotFoundError):
            yield path.stat()
