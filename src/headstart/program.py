"""A program that Hydra runs: the folder it writes to, and how it ends.

It ends by a signal, a closed pipe, or an error of the user's, the machine's or Hydra's, which becomes one sentence.
"""

import multiprocessing
import queue
import re
import signal
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from headstart.config.checks import nearest
from headstart.config.train import unknown_key
from headstart.errors import HeadstartError
from headstart.files import HYDRAS, RUN, mark, remove_made
from headstart.log import abandon_output, exit_on_closed_pipe, is_first_process
from headstart.machine import fault_of_machine
from headstart.run_folder import RunFolder, is_early_file

# The folder of a run or a sweep. That of a run that failed at once is removed.

PROCESS_START = time.time()
# Where the files of the last run or sweep in this thread went, for a caller in the same process.
OUTPUT: ContextVar[Path] = ContextVar("output folder")
# SIGHUP comes when a terminal is closed.
SIGNALS = [number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]
# The code that handles locks and queues, and how often a signal is postponed because of it.
LOCKING = {queue.Queue.put.__code__.co_filename, threading.Condition.notify.__code__.co_filename}
MOST_ATTEMPTS = 100
# Packages whose exceptions are about the command line, or the machine.
HYDRA_PACKAGES = ("hydra", "hydra_plugins", "optuna", "submitit", "joblib")
REJECTED = "these settings were rejected by Hydra"
PLUGINS = re.compile(r"hydra/(sweeper|launcher)/(optuna|joblib|submitit)")


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


# How a program ends that is told to: by a signal, or because nobody reads its output any more.


@contextmanager
def quiet_when_pipe_is_closed() -> Iterator[None]:
    """Ends the program silently when the reader of its output has gone away, as in `--help | head -1`."""
    try:
        try:
            yield
        finally:
            # Otherwise Python would do it after everything else, and report the error in its own words.
            sys.stdout.flush()
    except BrokenPipeError:
        exit_on_closed_pipe()
    finally:
        abandon_output()


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Lets signals end the program by an exception, so that files are closed and temporary ones removed.

    It is KeyboardInterrupt for Ctrl-C, and that of sys.exit for the others.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Ignored ones stay ignored, as nohup wants it.
    before = {number: signal.getsignal(number) for number in SIGNALS}
    default = [number for number, handler in before.items() if handler in (signal.SIG_DFL, signal.default_int_handler)]
    ending = _Ending()
    for number in default:
        signal.signal(number, ending.begin)
    try:
        yield
    finally:
        ending.has_begun = True
        for number in default:
            signal.signal(number, before[number])


class _Interrupt(KeyboardInterrupt):
    """KeyboardInterrupt that supports weak references, which show whether it was swallowed."""


class _Exit(SystemExit):
    """SystemExit that supports weak references."""


class _Ending:
    """Raises the exception by which a signal ends the program, where it does no harm.

    In the middle of handing something over to another thread, it may leave that thread, such as TensorBoard's, asleep,
    and the program would hang when it waits for the thread (https://github.com/python/cpython/issues/92530). In a
    destructor, it would have no effect.
    """

    def __init__(self) -> None:
        self.has_begun = False
        self._place: tuple[int, int] | None = None
        self._attempts = 0

    def begin(self, number: int, frame: FrameType | None) -> None:
        if self._hands_over(frame):
            self._again(number, 0.01)
            return
        error = _Interrupt() if number == signal.SIGINT else _Exit(128 + number)
        self._again(number, 1, weakref.ref(error))
        try:
            raise error
        finally:
            # Its traceback refers to this frame: together they would be a reference cycle, which stays alive.
            del error

    def _hands_over(self, frame: FrameType | None) -> bool:
        """Whether the code that a signal has interrupted handles a lock or a queue, rather than waits for one."""
        frames = []
        while frame is not None:
            frames.append(frame)
            frame = frame.f_back
        if not any(frame.f_code.co_filename in LOCKING for frame in frames) or self._attempts == MOST_ATTEMPTS:
            return False
        self._attempts += 1
        before, self._place = self._place, (id(frames[0]), frames[0].f_lasti)
        # A thread that waits stays at one instruction. Reacquiring a lock is no waiting: it will soon be free.
        return before != self._place or frames[0].f_code.co_name == "_acquire_restore"

    def _again(self, number: int, seconds: float, error: "weakref.ref[BaseException] | None" = None) -> None:
        """Sends the signal once more, unless its exception is on its way."""
        main = threading.get_ident()

        def send() -> None:
            if not self.has_begun and (error is None or error() is None):
                # Only the main thread handles signals, and it may be asleep.
                signal.pthread_kill(main, number)

        timer = threading.Timer(seconds, send)
        timer.daemon = True
        timer.start()


# Errors as one sentence on stderr and exit status 1.


@contextmanager
def errors_in_threads() -> Iterator[None]:
    """Ends the program with one sentence if a thread, such as TensorBoard's, could not write a file.

    Raises:
        OSError: the error of the thread, unless another one is on its way.
    """
    failures: list[OSError] = []
    before = threading.excepthook

    def remember(failed: threading.ExceptHookArgs) -> None:
        if isinstance(failed.exc_value, OSError):
            failures.append(failed.exc_value)
        else:
            before(failed)

    threading.excepthook = remember
    try:
        yield
    finally:
        threading.excepthook = before
    if failures:
        raise failures[0]


@contextmanager
def one_sentence(schema: type, *, tracebacks: bool) -> Iterator[None]:
    """Ends the program with one sentence if Hydra, or a program with the settings `schema`, finds what the user mends.

    Args:
        tracebacks: errors of Hydra and of the system pass instead.
    """
    try:
        yield
        # What cannot be written is an error too.
        sys.stdout.flush()
    except HeadstartError as error:
        raise Failed(str(error)) from error
    except BrokenPipeError:
        raise
    except (HydraException, OmegaConfBaseException, OSError) as error:
        if tracebacks:
            raise
        raise Failed(sentence_of(error, schema)) from error
    except (ValueError, RuntimeError, AssertionError, ImportError) as error:
        if tracebacks or not _is_about_command_line(error):
            raise
        raise Failed(" ".join(str(error).split()) or REJECTED) from error
    except KeyboardInterrupt:
        sys.exit(130)


def _is_about_command_line(error: Exception) -> bool:
    """Whether Hydra or one of its plugins raised it, such as for model=5: an option of a group must be a string."""
    *_, innermost = traceback.walk_tb(error.__traceback__)
    return str(innermost[0].f_globals.get("__name__", "")).partition(".")[0] in HYDRA_PACKAGES


def sentence_of(error: Exception, schema: type) -> str:
    """Returns what an error of Hydra, OmegaConf or the operating system means for a user of the keys in `schema`."""
    key = getattr(error.__cause__, "full_key", None)
    if key and str(error).startswith("Could not override"):
        return str(unknown_key(key, schema))
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        return system_sentence(error)
    if missing := re.search(r"Missing mandatory value: (\S+)", str(error)):
        return f"{missing.group(1)} is missing: set it with {missing.group(1)}=VALUE"
    if PLUGINS.search(str(error)):
        return 'this needs an extra that is not installed: python -m pip install -e ".[sweep]"'
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={name} is not available{nearest(name, list(error.options))}"
    lines = [line.strip() for line in str(error).partition("Config search path")[0].splitlines()]
    kept = [line for line in lines if line and not line.startswith(("See https", "^", "full_key", "object_type"))]
    return "; ".join(kept) or REJECTED
