"""Errors as one sentence on stderr and exit status 1."""

import multiprocessing
import re
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import NoReturn

from hydra.errors import HydraException, MissingConfigException

from headstart.cli.cleanup import remove_begun_run
from headstart.config.suggest import nearest
from headstart.config.validation import unknown_key
from headstart.errors import HeadstartError
from headstart.log import exit_on_closed_pipe
from headstart.machine import fault_of_machine

# Packages whose exceptions are about the command line, or the machine.
HYDRA_PACKAGES = ("hydra", "hydra_plugins", "optuna", "submitit", "joblib")
PLUGINS = re.compile(r"hydra/(sweeper|launcher)/(optuna|joblib|submitit)")


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
            sentence: str | None = _system_sentence(error)
        else:
            sentence = str(error) if isinstance(error, HeadstartError) else fault_of_machine(error)
        if sentence is None:
            raise
        _kill_workers(others)
        remove_begun_run()
        fail(sentence)


def _kill_workers(others: set[BaseProcess]) -> None:
    """Ends child processes but `others`: Python would wait for one that does not answer."""
    if hasattr(signal, "SIGCHLD"):
        # PyTorch's handler would raise an error for each of them.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for process in set(multiprocessing.active_children()) - others:
        process.kill()


@contextmanager
def errors_in_threads() -> Iterator[None]:
    """Ends the program with one sentence if a thread, such as TensorBoard's, could not write a file.

    Raises:
        OSError: the error of the thread, unless another one is on its way.
    """
    found: list[OSError] = []
    before = threading.excepthook

    def remember(failed: threading.ExceptHookArgs) -> None:
        if isinstance(failed.exc_value, OSError):
            found.append(failed.exc_value)
        else:
            before(failed)

    threading.excepthook = remember
    try:
        yield
    finally:
        threading.excepthook = before
    if found:
        raise found[0]


class Failed(SystemExit):
    """The program cannot go on, for the reason that `sentence` gives; its status is 1."""

    def __init__(self, sentence: str) -> None:
        super().__init__(1)
        self.sentence = sentence


def fail(sentence: str) -> NoReturn:
    """Ends the program with the sentence and status 1."""
    raise Failed(sentence)


def is_about_command_line(error: Exception) -> bool:
    """Whether Hydra or one of its plugins raised it, such as for model=5: an option of a group must be a string."""
    *_, innermost = traceback.walk_tb(error.__traceback__)
    return str(innermost[0].f_globals.get("__name__", "")).partition(".")[0] in HYDRA_PACKAGES


def sentence_of(error: Exception, schema: type) -> str:
    """What an exception of Hydra, OmegaConf or the operating system means for a user of the keys in `schema`."""
    key = getattr(error.__cause__, "full_key", None)
    if key and str(error).startswith("Could not override"):
        return str(unknown_key(key, schema))
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        return _system_sentence(error)
    if missing := re.search(r"Missing mandatory value: (\S+)", str(error)):
        return f"{missing.group(1)} is missing: set it with {missing.group(1)}=VALUE"
    if PLUGINS.search(str(error)):
        return 'this needs an extra that is not installed: python -m pip install -e ".[sweep]"'
    if isinstance(error, MissingConfigException) and error.options:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={name} is not available{nearest(name, list(error.options))}"
    lines = [line.strip() for line in str(error).partition("Config search path")[0].splitlines()]
    kept = [line for line in lines if line and not line.startswith(("See https", "^", "full_key", "object_type"))]
    return "; ".join(kept) or "these settings were rejected by Hydra"


def _system_sentence(error: OSError) -> str:
    if fault := fault_of_machine(error):
        return fault
    return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
