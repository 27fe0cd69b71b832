"""Run folders on the command line: used ones are rejected, and those of runs that failed at once are removed."""

import time
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from headstart.errors import HeadstartError
from headstart.log import is_first_process
from headstart.marker import HYDRAS, RUN, check, mark, remove_made
from headstart.run_folder import RunFolder, is_early_file

# Tasks that write into the folder of the checkpoint's run.
INTO_RUN = frozenset(("report", "export"))
PROCESS_START = time.time()


def is_multirun() -> bool:
    """Whether Hydra runs the current job as one of several."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def claim_run_folder(folder: Path) -> None:
    """Makes the folder of a run, before Hydra writes its own files.

    Raises:
        HeadstartError: it already holds a run, or what headstart did not write.
    """
    check(folder, RUN, "hydra.run.dir")
    if RunFolder(folder).record.exists():
        raise HeadstartError(f"{folder} already holds a run: choose another folder")
    mark(folder, RUN)


def mark_if_new(folder: Path) -> None:
    """Marks the folder of a run that holds nothing but what Hydra has just written.

    Otherwise that is done before; but a configuration of the user's own need not have the callback that does it.
    """
    if is_first_process() and all(path.name == HYDRAS and not _is_older(path) for path in folder.iterdir()):
        mark(folder, RUN)


def remove_begun_run(*, even_with_checkpoint: bool = True) -> None:
    """Removes the folder of a run that failed before its first epoch ended, and those above it made for it.

    Nothing is removed if anything in the folder is older than this process, or not a run's.
    """
    if is_multirun() or not is_first_process():
        return
    folder = Path(HydraConfig.get().runtime.output_dir)
    if not even_with_checkpoint and RunFolder(folder).last.exists():
        return
    if HydraConfig.get().output_subdir is None or not all(is_early_file(p.name) for p in folder.iterdir()):
        return
    if any(map(_is_older, folder.rglob("*"))):
        return
    # What cannot be removed stays; the error that ended the run is more important.
    remove_made(folder)


def _is_older(path: Path) -> bool:
    """Whether it was there before this process."""
    return path.lstat().st_ctime < PROCESS_START
