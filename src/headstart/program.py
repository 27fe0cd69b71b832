"""A program that Hydra runs: the folder it writes to, and how an error of the user's or the machine's ends it."""

import multiprocessing
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from multiprocessing.process import BaseProcess
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from headstart.errors import HeadstartError
from headstart.files import HYDRAS, RUN, mark, remove_made
from headstart.log import exit_on_closed_pipe, is_first_process
from headstart.machine import fault_of_machine
from headstart.run_folder import RunFolder, is_early_file

# The folder of a run or a sweep. That of a run that failed at once is removed.

PROCESS_START = time.time()
# Where the files of the last run or sweep in this thread went, for a caller in the same process.
OUTPUT: ContextVar[Path] = ContextVar("output folder")


def is_multirun() -> bool:
    """Whether Hydra runs the current job as one of several."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


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


# Errors as one sentence on stderr and exit status 1.


class Failed(SystemExit):
    """The program cannot go on, for the reason that `sentence` gives; its status is 1."""

    def __init__(self, sentence: str) -> None:
        super().__init__(1)
        self.sentence = sentence


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Ends the program with one sentence and status 1 if the user's input or machine is at fault."""
    # Those of a program that runs this one in its own process.
    others = set(multiprocessing.active_children())
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        # What can be resumed stays.
        remove_begun_run(even_with_checkpoint=False)
        raise
    except BrokenPipeError:
        exit_on_closed_pipe()
    except (HeadstartError, OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, OSError):
            sentence: str | None = system_sentence(error)
        else:
            sentence = str(error) if isinstance(error, HeadstartError) else fault_of_machine(error)
        if sentence is None:
            raise
        _kill_workers(others)
        remove_begun_run()
        raise Failed(sentence) from error


def _kill_workers(others: set[BaseProcess]) -> None:
    """Ends child processes but `others`: Python would wait for one that does not answer."""
    if hasattr(signal, "SIGCHLD"):
        # PyTorch's handler would raise an error for each of them.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for process in set(multiprocessing.active_children()) - others:
        process.kill()


def system_sentence(error: OSError) -> str:
    """Returns what an error of the operating system says, and about which file."""
    if fault := fault_of_machine(error):
        return fault
    return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
