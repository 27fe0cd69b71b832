"""Where compiled programs are kept: in the cache folder, each with its checksum."""

import hashlib
import json
import os
import shutil
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from headstart.files import folder_in_cache, sha256_of
from headstart.machine import cpu_instructions, cpu_name

FOLDER = "compiled"
MAX_BYTES = 2 * 10**9  # of all files together
WORK = ".work"  # the suffix of the folder of one compilation
ABANDONED = 24 * 3600  # seconds, after which nothing writes to such a folder


def program_path(identity: dict[str, Any]) -> Path:
    """Where the program is kept that depends on `identity`, and on the version of PyTorch and the CPU.

    Raises:
        HeadstartError: the cache folder cannot be written.
        PermissionError: somebody else could put programs there.
    """
    values = identity | {"format": 1, "torch": torch.__version__, "cpu": cpu_name(), "instructions": cpu_instructions()}
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:20]
    return _own_folder() / f"{identity['arch'].replace('/', '_')}-{digest}.so"


def is_kept(path: Path) -> bool:
    """Whether there is a program (it may turn out to be damaged)."""
    return _checksum(path).exists()


def is_whole(path: Path) -> bool:
    """Whether it is what was kept; it counts as used now.

    Raises:
        FileNotFoundError: there is none.
    """
    expected = _checksum(path).read_bytes()
    with suppress(OSError):
        os.utime(path)
    return sha256_of(path).encode() == expected


def keep(program: Path, path: Path) -> None:
    """Moves a program, which is in a folder beside `path`, to its place."""
    checksum = _checksum(program)
    checksum.write_text(sha256_of(program), encoding="utf-8")
    # Whatever a power failure leaves, the checksum tells.
    program.replace(path)
    checksum.replace(_checksum(path))
    _make_room(path)


def delete(path: Path) -> None:
    """Deletes a program."""
    _checksum(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _own_folder() -> Path:
    """A folder of this user alone: programs are run, and others may share the cache."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = folder_in_cache(FOLDER) / str(user)
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    is_shared = hasattr(os, "getuid") and (status.st_uid != user or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
    if is_shared or not stat.S_ISDIR(status.st_mode):
        raise PermissionError(f"{folder} is not a folder that only you can write")
    return folder


def _make_room(newest: Path) -> None:
    """Deletes the programs that were not used for longest, until the rest fits, and what killed processes left."""
    programs = sorted(filter(is_kept, newest.parent.glob("*.so")), key=lambda path: path.stat().st_mtime)
    size = sum(path.stat().st_size for path in programs)
    for path in programs:
        if size > MAX_BYTES and path != newest:
            size -= path.stat().st_size
            delete(path)
    for work in newest.parent.glob(f"*{WORK}"):
        if time.time() - work.stat().st_mtime > ABANDONED:
            shutil.rmtree(work, ignore_errors=True)


def _checksum(path: Path) -> Path:
    return path.with_suffix(".sha256")
