"""Datasets that headstart downloads or generates on first use: once, completely or not at all."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from headstart.config.data import CaltechSettings, DataSettings, ShapesSettings
from headstart.data.folders import OWN
from headstart.data.prepare import PreparedData, prepare_data
from headstart.errors import HeadstartError
from headstart.files import DATASET, MARKER, exclusively, mark, read_json, remove, remove_made, write_json
from headstart.storage import local

# Records what a folder was created with.
RECORD = f"{OWN}.json"
# What version 0.1 wrote there, for its folders are reused: key and value stay as they are in those files.
OLD_NAMES = {"drawn pictures": "generated shapes"}


def open_data(
    settings: DataSettings, prepare: Callable[[DataSettings, int], PreparedData] = prepare_data
) -> PreparedData:
    """Returns the images in the folder `settings.root`, which is created first if it is a dataset of headstart's.

    It and `settings.csv` may be remote: see headstart.storage.

    Args:
        prepare: `prepare_data`, for what can be trained on, or `inspect_data`, for every usable image.

    Raises:
        HeadstartError: the dataset could not be created, or as `prepare`.
    """
    if isinstance(settings, CaltechSettings):
        from headstart.datasets.caltech256 import make_caltech

        make_caltech(settings, settings.seed)
    elif isinstance(settings, ShapesSettings):
        from headstart.datasets.shapes import make_shapes

        make_shapes(settings, settings.seed)
    table = settings.csv and str(local(settings.csv, settings.cache_gb))
    settings = replace(settings, root=str(local(settings.root, settings.cache_gb)), csv=table)
    return prepare(settings, settings.seed)


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
    """Returns what the folder was created with; {} if headstart did not create it, or the record is damaged."""
    try:
        record = read_json(root / RECORD)
    except (OSError, ValueError):
        return {}
    if not isinstance(record, dict):
        return {}
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
