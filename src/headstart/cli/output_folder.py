"""Where the files of the program that runs go, for a caller in the same process."""

from contextvars import ContextVar
from pathlib import Path

_folder: ContextVar[Path] = ContextVar("output folder")


def remember_output(folder: Path) -> None:
    """Says where the files of a run or a sweep go."""
    _folder.set(folder)


def remembered_output() -> Path:
    """Where the files of the last one in this thread went."""
    return _folder.get()
