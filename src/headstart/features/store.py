"""Stores features: memory-mapped matrices under a key that names everything they depend on.

The store knows neither models nor images: only keys, views, and how to compute a missing view.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.lib.format import open_memmap

from headstart.config.model import FeatureSettings
from headstart.data.images import decoding
from headstart.data.manifest import Split
from headstart.data.preprocessing import Array
from headstart.errors import HeadstartError
from headstart.features import cache
from headstart.files import CACHE, cache_folder, mark, mark_if_empty, remove, write_json
from headstart.machine import DISK_FULL

FORMAT = 2


@dataclass(frozen=True)
class Key:
    """Holds everything that a split's features depend on, as plain values; `name` makes the folder easy to find."""

    name: str
    values: dict[str, Any]

    @property
    def folder(self) -> str:
        """Returns the name and a prefix of the SHA-256 of all values."""
        text = json.dumps(self.values | {"format": FORMAT}, sort_keys=True)
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:20]}"


class FeatureStore:
    """Keeps `folder`/<key>/view-<v>.npy, written once, complete or not at all, and read through memory maps.

    Beside each file lies its SHA-256; a file that does not match is computed again. Processes that need the same key at
    the same time wait for the one that computes it.

    Args:
        folder: created when needed.
        max_gb: of all files together, in 10⁹ bytes; the least recently used are deleted first. None: no limit.
    """

    def __init__(self, folder: Path, max_gb: float | None = None) -> None:
        self._folder = folder
        self._max_bytes = None if max_gb is None else int(max_gb * 1e9)

    def has(self, key: Key, view: int) -> bool:
        """Whether the view is stored (it may turn out to be damaged)."""
        return cache.is_kept(self._path(key, view))

    def find(self, values: dict[str, Any]) -> list[Key]:
        """Returns the stored keys that have all of `values`, in the order of their folders' names."""
        keys = (_key_of(path.parent) for path in sorted(self._folder.glob("*/key.json")))
        return [key for key in keys if key is not None and values.items() <= key.values.items()]

    def read(self, key: Key, view: int) -> Array | None:
        """Returns one view's stored features, read-only and memory-mapped; None if there are none, or damaged ones."""
        return cache.read(self._path(key, view), _mapped, "its features are computed again")

    def get_or_compute(
        self, key: Key, view: int, *, shape: tuple[int, int], dtype: str, rows: Callable[[], Iterable[Array]]
    ) -> Array:
        """Returns the features of one view, read-only and memory-mapped, computed if they are missing.

        `rows` yields blocks of them in order. Numbers that overflow a `dtype` of float16 make it float32.

        Raises:
            HeadstartError: the folder cannot be written, or the disk is full.
        """
        path = self._path(key, view)

        def write() -> None:
            mark(path.parent, CACHE)
            if not (path.parent / "key.json").exists():
                write_json(path.parent / "key.json", key.values)
            cache.keep(path, lambda temporary: _fill(temporary, shape, dtype, rows()))
            self._make_room(path)

        matrix = cache.get_or_make(lambda: self.read(key, view), self._writing(key), write)
        if matrix is None:
            raise HeadstartError(f"{path} was damaged while it was being written: check the disk")
        return matrix

    def _path(self, key: Key, view: int) -> Path:
        return self._folder / key.folder / f"view-{view:04}.npy"

    @contextmanager
    def _writing(self, key: Key) -> Iterator[None]:
        try:
            mark_if_empty(self._folder, CACHE)
            with self._lock(key.folder):
                yield
        except OSError as error:
            reason = "the disk is full" if error.errno in DISK_FULL else error.strerror
            raise HeadstartError(
                f"features.dir={self._folder} cannot be written ({reason}): "
                "choose another folder with features.dir=DIR, or disable the cache with features.cache=false"
            ) from None

    def _lock(self, name: str, timeout: float = -1) -> FileLock:
        # Outside the key's folder, so that nobody holds a lock on a file that is deleted with it.
        locks = self._folder / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        return FileLock(locks / f"{name}.lock", timeout=timeout)

    def _make_room(self, newest: Path) -> None:
        """Deletes the least recently used views until the rest fits, and the folders of keys that have none left."""
        if self._max_bytes is None:
            return
        size = newest.stat().st_size
        if size > self._max_bytes:
            cache.delete(newest)
            raise HeadstartError(
                f"one view of the features takes {size / 1e9:.3g} GB, more than features.max_gb="
                f"{self._max_bytes / 1e9:g}: increase it, or disable the cache with features.cache=false"
            )
        # The user may keep other folders beside those of the keys.
        folders = [path.parent for path in self._folder.glob("*/key.json") if _key_of(path.parent) is not None]
        cache.make_room((path for folder in folders for path in folder.glob("view-*.npy")), self._max_bytes, newest)
        for folder in folders:
            if not any(folder.glob("view-*.npy")):
                # Another process that holds the lock is writing there.
                with suppress(Timeout, OSError), self._lock(folder.name, timeout=0):
                    # Of an earlier version, it has no marker; its name shows what it is.
                    mark(folder, CACHE)
                    remove(folder)


def open_store(settings: FeatureSettings) -> FeatureStore | None:
    """Returns the store that `settings` describes; None if features are not cached."""
    if not settings.cache:
        return None
    folder = cache_folder() / "features" if settings.dir is None else Path(settings.dir).expanduser()
    return FeatureStore(folder, settings.max_gb)


def _mapped(path: Path) -> Array:
    array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def _fill(path: Path, shape: tuple[int, int], dtype: str, rows: Iterable[Array]) -> None:
    """Writes an .npy file of `shape` from blocks of rows."""
    matrix = _reserve(path, shape, dtype)
    count = 0
    for block in rows:
        if dtype == "float16" and _overflows(block):
            # From here on as float32. The rows that are there already lose nothing by it.
            matrix, dtype = _widen(path, matrix, count), "float32"
        matrix[count : count + len(block)] = block
        count += len(block)
    if count != shape[0]:
        raise ValueError(f"expected {shape[0]} rows, got {count}")
    matrix.flush()


def _reserve(path: Path, shape: tuple[int, ...], dtype: str) -> "np.memmap[Any, Any]":
    matrix = open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
    # Reserves the space: on a full disk, writing to a memory map would kill the process with SIGBUS.
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return matrix


def _overflows(block: Array) -> bool:
    """Whether a finite number in it is beyond those of float16."""
    return bool(np.any(np.abs(block) > np.finfo(np.float16).max, where=np.isfinite(block)))


def _widen(path: Path, matrix: "np.memmap[Any, Any]", count: int) -> "np.memmap[Any, Any]":
    """Returns the first `count` rows of `matrix`, the file `path`, in a float32 file in its place."""
    rows = np.array(matrix[:count])
    wider = _reserve(path, matrix.shape, "float32")
    wider[:count] = rows
    return wider


def _key_of(folder: Path) -> Key | None:
    """Returns the key whose features are in `folder`; None if it is another folder."""
    try:
        key = Key(folder.name.rpartition("-")[0], json.loads((folder / "key.json").read_text(encoding="utf-8")))
        return key if key.folder == folder.name else None
    except (OSError, ValueError, TypeError):
        return None


# Parts of a key that are absent where images are read in the usual way.
OPTIONAL = {"readings", "max_pixels", "truncated", "plugins"}


def stored_features(
    store: FeatureStore, splits: dict[str, Split], transform: dict[str, Any]
) -> dict[str, Array] | None:
    """Returns features of all `splits` that earlier runs stored, with one `transform` and one backbone, or None.

    Only of backbones whose key says that they have features for photographs.
    """
    pools = {pool.fingerprint: pool for split in splits.values() for pool in split.stored}
    of_backbone: dict[str, dict[str, Array]] = {}
    for data, pool in pools.items():
        for key in _keys(store, pool, {"transform": transform}):
            if not key.values["backbone"]["has_photo_features"]:
                continue
            shared = {part: value for part, value in key.values.items() if part not in ("data", "readings")}
            rest = json.dumps(shared, sort_keys=True)
            if (matrix := store.read(key, view=0)) is not None:
                of_backbone.setdefault(rest, {})[data] = matrix
    complete = next((features for features in of_backbone.values() if len(features) == len(pools)), None)
    if complete is None:
        return None
    return {name: split.own([complete[pool.fingerprint] for pool in split.stored]) for name, split in splits.items()}


def features_by_content(
    store: FeatureStore, splits: dict[str, Split], transform: dict[str, Any], backbone: dict[str, Any]
) -> dict[str, Array]:
    """Returns the stored features (embedding_dim) of each image, by the SHA-256 of its file."""
    features: dict[str, Array] = {}
    for pool in (pool for split in splits.values() for pool in split.stored):
        for key in _keys(store, pool, {"transform": transform, "backbone": backbone}):
            if (matrix := store.read(key, view=0)) is not None:
                features |= dict(zip(pool.contents, matrix, strict=True))
    return features


def _keys(store: FeatureStore, pool: Split, values: dict[str, Any]) -> list[Key]:
    """Returns the keys of a pool's images, read as they are today and with the settings of this process."""
    keys = store.find(values | {"data": pool.fingerprint})
    readings = {"readings": list(pool.readings)} if pool.readings else {}
    optional = readings | decoding()
    return [key for key in keys if {part: key.values[part] for part in OPTIONAL & key.values.keys()} == optional]
