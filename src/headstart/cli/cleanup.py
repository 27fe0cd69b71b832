"""Run folders on the command line: used ones are rejected, and those of runs that failed at once are removed."""

import shutil
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from headstart.cli.overrides import key_of, value_of
from headstart.errors import HeadstartError
from headstart.log import is_first_process
from headstart.run_folder import RunFolder, is_early_file

# Tasks that write into the folder of the checkpoint's run.
INTO_RUN = frozenset(("task=report", "task=export"))
PROCESS_START = time.time()


def is_multirun() -> bool:
    """Whether Hydra runs the current job as one of several."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def reject_used_run_folder(arguments: Collection[str]) -> None:
    """Raises HeadstartError, before Hydra writes its own files, if hydra.run.dir already holds a run."""
    # Further processes share the folder of the first, and reports are written into their run's.
    if not is_first_process() or not INTO_RUN.isdisjoint(arguments):
        return
    for argument in arguments:
        if key_of(argument) == "hydra.run.dir":
            folder = value_of(argument)
            if RunFolder(Path(folder)).record.exists():
                raise HeadstartError(f"{folder} already holds a run: choose another folder")


def remove_begun_run(*, even_with_checkpoint: bool = True) -> None:
    """Removes the folder of a run that failed before its first epoch ended, and parents that this leaves empty.

    Nothing is removed if anything in the folder is older than this process, or not a run's.
    """
    if is_multirun() or not is_first_process():
        return
    folder = Path(HydraConfig.get().runtime.output_dir)
    if not even_with_checkpoint and RunFolder(folder).last.exists():
        return
    if HydraConfig.get().output_subdir is None or not all(is_early_file(p.name) for p in folder.iterdir()):
        return
    if any(path.lstat().st_ctime < PROCESS_START for path in folder.rglob("*")):
        return
    # What cannot be removed stays; the error that ended the run is more important.
    shutil.rmtree(folder, ignore_errors=True)
    for parent in folder.parents:
        # A folder above the current one was not created by Hydra, even if it is empty.
        if Path.cwd() not in parent.parents or any(parent.iterdir()):
            return
        with suppress(OSError):
            parent.rmdir()
