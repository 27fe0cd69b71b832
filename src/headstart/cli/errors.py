"""Errors as one sentence on stderr and exit status 1."""

import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from hydra.errors import HydraException, MissingConfigException

from headstart.cli.cleanup import remove_begun_run
from headstart.config.suggest import nearest
from headstart.config.validation import unknown_key
from headstart.errors import HeadstartError
from headstart.files import DISK_FULL
from headstart.log import abandon_output, exit_on_closed_pipe

# Packages whose exceptions are about the command line, or the machine.
HYDRA_PACKAGES = ("hydra", "hydra_plugins", "optuna", "submitit", "joblib")
# What PyTorch says about a worker process that was killed, or that does not answer.
DEAD_WORKER = re.compile(r"DataLoader worker|DataLoader timed out")
PLUGINS = re.compile(r"hydra/(sweeper|launcher)/(optuna|joblib|submitit)")


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Ends the program with one sentence and status 1 if the user's input or machine is at fault."""
    try:
        yield
    except KeyboardInterrupt:
        remove_begun_run()
        raise
    except SystemExit:
        # Told to end by a signal. What can be resumed stays.
        remove_begun_run(even_with_checkpoint=False)
        raise
    except BrokenPipeError:
        exit_on_closed_pipe()
    except (HeadstartError, OSError, MemoryError, RuntimeError) as error:
        sentence = str(error) if isinstance(error, HeadstartError) else _sentence_about_machine(error)
        if sentence is None:
            raise
        remove_begun_run()
        fail(sentence)


def fail(sentence: str) -> NoReturn:
    """Ends the program with the sentence and status 1."""
    abandon_output()
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(1)


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


def _sentence_about_machine(error: Exception) -> str | None:
    """What is wrong if the operating system, the memory or a worker process is at fault; None: something else is."""
    if isinstance(error, OSError):
        return _system_sentence(error)
    first = next(iter(str(error).splitlines()), "")
    if type(error).__name__ in ("MemoryError", "OutOfMemoryError") or "can't allocate memory" in first:
        return f"out of memory, try a smaller data.batch_size: {first}".removesuffix(": ")
    if DEAD_WORKER.search(str(error)):
        cause = " (it ran out of shared memory)" if "Bus error" in first else ""
        return f"a process that reads images was killed or stopped{cause}: try data.num_workers=0; {first}"
    return None


def _system_sentence(error: OSError) -> str:
    reason = error.strerror or str(error)
    if error.errno in DISK_FULL:
        return f"{error.filename or 'a file'} could not be written: {reason}"
    return f"{reason}{f': {error.filename}' if error.filename else ''}"
