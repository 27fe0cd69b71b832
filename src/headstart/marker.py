"""Which folders headstart made: they carry a marker. Nothing without one is deleted, replaced or taken for its own.

A folder that a command writes into is claimed first: it is new, or empty, or one that the same kind of command made
before. So fixed names, such as metrics.json or contact_sheets/, never meet the user's files. What carries a marker is
never read as the user's images, unless it is named itself.
"""

import itertools
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from headstart.errors import HeadstartError
from headstart.run_folder import MARKER, RunFolder

# Kinds of folders, and what a message calls them.
RUN, SWEEP, ENSEMBLE, REPORT, CACHE = "run", "sweep", "ensemble", "report", "cache"
PREDICTIONS, DATASET = "predictions", "dataset"  # features too: their files have other names
CALLED = {RUN: "a run", SWEEP: "a sweep", ENSEMBLE: "an ensemble", REPORT: "a report"}
# Runs of earlier versions have no marker, but this file, with keys that no other program's would have.
RECORD, KEYS = RunFolder(Path()).record.name, {"backbone", "data_fingerprint"}
# Hydra's, which it would overwrite.
HYDRAS = ".hydra"
# The folders that this process made.
_made: set[Path] = set()


def kind_of(folder: Path) -> str | None:
    """The kind of a folder that headstart made; "" if its marker is damaged, None if it has none.

    The runs of earlier versions are known by their records.
    """
    if os.path.lexists(folder / MARKER):
        return str(_values_in((folder / MARKER).read_bytes()).get("kind", ""))
    if os.path.isfile(folder / RECORD) and is_record((folder / RECORD).read_bytes()):
        return RUN
    is_report = os.path.isfile(folder / "report.json") and kind_of(folder.parent) == RUN
    return REPORT if is_report and folder.name == "report" else None


def is_record(content: bytes) -> bool:
    """Whether the content of a file called run.json is that of a run."""
    return _values_in(content).keys() >= KEYS


def check(folder: Path, kind: str, key: str = "") -> None:
    """Raises HeadstartError unless files of this kind may be written into `folder`, which the setting `key` names.

    It may be new, empty, or made by headstart for files of the same kind.
    """
    if not folder.is_dir():
        return
    found = kind_of(folder)
    if found == kind or (found is None and _is_empty(folder)):
        return
    why = "is not empty, and headstart did not make it"
    if found is not None:
        why = f"is the folder of {CALLED.get(found, found or 'another output')}"
    if not key:
        raise HeadstartError(f"{folder} {why}: move it elsewhere")
    raise HeadstartError(f"{key}={folder} {why}: choose another folder, such as {key}={_free(folder / kind)}")


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
        temporary = folder / f"{MARKER}.{os.getpid()}.tmp"
        temporary.write_text(json.dumps({"kind": kind}) + "\n", encoding="utf-8")
        temporary.replace(folder / MARKER)


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


def _is_empty(folder: Path) -> bool:
    """Whether nothing is in it but what the operating system, a file manager or git puts there."""
    # It takes a while to import, and most folders are new.
    from headstart.data.formats import is_visible

    with os.scandir(folder) as entries:
        return not any(is_visible(entry.name) or entry.name == HYDRAS for entry in entries)


def _free(path: Path) -> Path:
    """`path`, or if it exists, with the first number that makes it a new one."""
    numbered = (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))
    return next(place for place in (path, *itertools.islice(numbered, 99)) if not os.path.lexists(place))


def _values_in(content: bytes) -> dict[str, Any]:
    """The JSON object in a file's content; empty if it is none, or damaged."""
    try:
        values = json.loads(content)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}
