"""Folders of images that headstart itself creates: once, completely or not at all."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headstart.config.data import DataSettings
from headstart.data.folders import OWN
from headstart.errors import HeadstartError
from headstart.files import DATASET, exclusively, mark, read_json, remove, remove_made, write_json
from headstart.run_folder import MARKER

# Records what a folder was created with.
RECORD = f"{OWN}.json"
OLD_NAMES = {"drawn pictures": "generated shapes"}


def create_once(
    settings: DataSettings, seed: int, what: str, options: dict[str, Any], write: Callable[[Path], dict[str, Any]]
) -> None:
    """Creates `data.root` unless it exists.

    `write(folder)` creates the folder with those of the splits, and returns what else to record. `what` names the
    images in messages, `options` is what they depend on besides `data.split` and, for fractions, `seed`.

    Raises:
        HeadstartError: the folder holds something else, or was created with other options.
    """
    root = Path(settings.root)
    train, valid = settings.split.train, settings.split.valid
    split = {"split": {"train": train, "valid": valid}, "seed": None if isinstance(train, int) else seed}
    wanted = {"images": what} | options | split
    if _exists(root, wanted):
        return
    # Other processes of the same run wait here, and then find the folder.
    with exclusively(root):
        if not _exists(root, wanted):
            _create(root, wanted, write)


def _exists(root: Path, wanted: dict[str, Any]) -> bool:
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    what, record = wanted["images"], _record(root)
    if record.get("images") != what:
        raise HeadstartError(
            f"data.root={root} does not hold {what}: use data=folder data.root={root} for your own images, or choose "
            f"another folder for {what}"
        )
    for key, value in wanted.items():
        if record.get(key) != value:
            raise HeadstartError(
                f"data.root={root} was created with {key} {record.get(key)}, not {value}: choose another data.root, or "
                "delete the folder"
            )
    return True


def _record(root: Path) -> dict[str, Any]:
    """What the folder was created with; empty if it was not created by headstart, or the record is damaged."""
    try:
        record = read_json(root / RECORD)
    except (OSError, ValueError):
        return {}
    if not isinstance(record, dict):
        return {}
    # Version 0.1's names.
    old = record.get("pictures")
    return {"images": OLD_NAMES.get(str(old), old)} | record


def _create(root: Path, wanted: dict[str, Any], write: Callable[[Path], dict[str, Any]]) -> None:
    unfinished = root.parent / f"{OWN}-{root.name}.unfinished"
    # Left by a process that was killed, perhaps just after it took the marker away.
    if _record(unfinished):
        mark(unfinished, DATASET)
    remove(unfinished)
    mark(unfinished, DATASET)
    try:
        write_json(unfinished / RECORD, wanted | write(unfinished))
        # A rename can reach the disk before what is renamed does.
        os.sync()
        # What carries a marker is not read as images.
        (unfinished / MARKER).unlink()
        if root.exists():
            root.rmdir()
        unfinished.rename(root)
    finally:
        if unfinished.exists():
            remove_made(unfinished)
