"""How a program ends: by a signal, a closed pipe, or an error of Hydra's, which becomes one sentence."""

import re
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from headstart.config.checks import nearest
from headstart.config.train import unknown_key
from headstart.errors import HeadstartError
from headstart.log import abandon_output, exit_on_closed_pipe
from headstart.program import Failed, system_sentence

# How a program ends that is told to: by a signal, or because nobody reads its output any more.

# SIGHUP comes when a terminal is closed.
SIGNALS = [number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None]


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
    """Lets signals end the program as sys.exit does, so that files are closed and temporary ones removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Ignored ones stay ignored, as nohup wants it.
    before = {number: signal.getsignal(number) for number in SIGNALS}
    default = [number for number, handler in before.items() if handler == signal.SIG_DFL]
    for number in default:
        signal.signal(number, _exit)
    try:
        yield
    finally:
        for number in default:
            signal.signal(number, before[number])


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


# Errors as one sentence on stderr and exit status 1.

# Packages whose exceptions are about the command line, or the machine.
HYDRA_PACKAGES = ("hydra", "hydra_plugins", "optuna", "submitit", "joblib")
REJECTED = "these settings were rejected by Hydra"
PLUGINS = re.compile(r"hydra/(sweeper|launcher)/(optuna|joblib|submitit)")


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
