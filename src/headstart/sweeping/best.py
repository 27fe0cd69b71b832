"""SWEEP/best: the files of the best trial, for commands that need not know which one that is."""

import os
from pathlib import Path

from headstart.log import log
from headstart.marker import remove
from headstart.run_folder import RunFolder, SweepFolder, is_of_a_run


def show_best(sweep: SweepFolder, best: RunFolder | None) -> None:
    """Fills the folder `sweep.best` with links to the files of the trial `best`; None: removes it.

    It has no links to TensorBoard's events, and is no link itself: TensorBoard would show the best trial twice.
    """
    wanted = {path.name for path in best.path.iterdir() if _is_shown(path.name)} if best is not None else set()
    try:
        # Version 0.1 made it a link to the trial's folder.
        if sweep.best.is_symlink():
            remove(sweep.best)
        if wanted:
            sweep.best.mkdir(exist_ok=True)
        for name in wanted:
            _link(sweep.best / name, Path("..", best.path.name, name) if best is not None else Path())
        _clear(sweep.best, wanted)
    except OSError as error:
        # Something else has the name, or the file system has no links. The leaderboard names the best trial too.
        log.warning("%s could not be linked to the best trial: %s", sweep.best, error.strerror)


def _is_shown(name: str) -> bool:
    return is_of_a_run(name) and not name.startswith("events.")


def _link(link: Path, target: Path) -> None:
    """Makes `link` point to `target`, replacing an earlier link atomically, and nothing else."""
    if link.is_symlink() and link.readlink() == target:
        return
    if os.path.lexists(link) and not _is_ours(link):
        raise FileExistsError(None, "it holds other files")
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(target)
        temporary.replace(link)
    finally:
        temporary.unlink(missing_ok=True)


def _is_ours(path: Path) -> bool:
    """Whether it is a link to the file of that name in a trial's folder."""
    return path.is_symlink() and path.readlink().parts[::2] == ("..", path.name)


def _clear(folder: Path, wanted: set[str]) -> None:
    """Removes its own links that are not `wanted`, and the folder if nothing is left in it."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.name not in wanted and _is_ours(path):
            path.unlink()
    if not wanted and not any(folder.iterdir()):
        folder.rmdir()
