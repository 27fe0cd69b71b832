"""Folders of pictures that the project makes itself: once, whole or not at all."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headstart.data.listing import OWN
from headstart.errors import HeadstartError
from headstart.files import exclusively, write_json
from headstart.settings import DataSettings

# Tells what a folder was made with.
RECORD = f"{OWN}.json"


def make_once(
    settings: DataSettings, seed: int, what: str, options: dict[str, Any], write: Callable[[Path], dict[str, Any]]
) -> None:
    """Makes `data.root` unless it is there: then without work.

    `write(folder)` makes the folder with those of the splits, and returns what else to record. `what` names the
    pictures in messages, `options` is what they depend on, beside `data.split` and, where it draws lots, `seed`.

    Raises:
        HeadstartError: the folder holds something else, or was made with other options.
    """
    root = Path(settings.root)
    train, valid = settings.split.train, settings.split.valid
    split = {"split": {"train": train, "valid": valid}, "seed": None if isinstance(train, int) else seed}
    wanted = {"pictures": what} | options | split
    if _is_there(root, wanted):
        return
    # Other processes of the same run wait here, and then find the folder.
    with exclusively(root):
        if not _is_there(root, wanted):
            _make(root, wanted, write)


def _is_there(root: Path, wanted: dict[str, Any]) -> bool:
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    what = wanted["pictures"]
    try:
        record = json.loads((root / RECORD).read_text(encoding="utf-8"))
    except OSError:
        record = {}
    if record.get("pictures") != what:
        raise HeadstartError(
            f"data.root={root} holds something else than {what}: for pictures of your own say data=folder "
            f"data.root={root}, for {what} give another folder"
        )
    for key, value in wanted.items():
        if record[key] != value:
            raise HeadstartError(
                f"data.root={root} was made with {key} {record[key]}, not {value}: give another data.root, or delete it"
            )
    return True


def _make(root: Path, wanted: dict[str, Any], write: Callable[[Path], dict[str, Any]]) -> None:
    unfinished = root.parent / f"{OWN}-{root.name}.unfinished"
    # Left by a process that was killed.
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        write_json(unfinished / RECORD, wanted | write(unfinished))
        # A rename can reach the disk before what is renamed does.
        os.sync()
        if root.exists():
            root.rmdir()
        unfinished.rename(root)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
