"""What Lightning and its callbacks and loggers fail with because of a setting, in one sentence."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback
from pytorch_lightning.loggers import Logger
from pytorch_lightning.profilers import Profiler

from headstart.config.train import TrainSettings
from headstart.errors import HeadstartError
from headstart.files import write_text
from headstart.machine import fault_of_machine
from headstart.run_folder import RunFolder

LIGHTNING = ("pytorch_lightning", "lightning_fabric")
# With these Lightning says what is wrong; other exceptions, or those of a package that it uses, need their traceback.
EXPLAINED = (MisconfigurationException, TypeError, ValueError, RuntimeError, ImportError, NotImplementedError)


@contextmanager
def lightning_errors(settings: TrainSettings) -> Iterator[None]:
    """Turns what Lightning raises in the block into one sentence; what headstart's own code raises passes.

    Where the sentence may not be enough, the traceback is in the run's folder.

    Raises:
        HeadstartError: with Lightning's reason.
        KeyboardInterrupt: Ctrl-C.
    """
    try:
        yield
    except (HeadstartError, BrokenPipeError):
        raise
    except SystemExit as ended:
        # On Ctrl-C Lightning ends by itself, with status 1.
        if isinstance(ended.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    except Exception as error:
        if fault_of_machine(error):
            raise
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        if not _is_lightnings(frames):
            raise
        sentence = f"{_culprit(frames, settings)} rejected by Lightning: {reason_of(error)}"
        if not isinstance(error, EXPLAINED) or _package(frames[-1]) not in LIGHTNING:
            run = RunFolder(Path(settings.run_dir))
            write_text(run.traceback, traceback.format_exc())
            sentence += f" (traceback: {run.traceback})"
        raise HeadstartError(sentence) from None


def reason_of(error: BaseException) -> str:
    """One line: the message, after the exception's type unless it is one that explains what is wrong."""
    message = " ".join(str(error).split())
    return message if message and isinstance(error, EXPLAINED) else f"{type(error).__name__}: {message}".rstrip(": ")


def _is_lightnings(frames: list[FrameType]) -> bool:
    """Whether Lightning, rather than code of ours, called what raised the error."""
    for frame in reversed(frames):
        package = _package(frame)
        if package in LIGHTNING:
            return True
        is_outside = "site-packages" in frame.f_code.co_filename or package in sys.stdlib_module_names
        if package == "headstart" or not is_outside:
            return False
    return False


def _culprit(frames: list[FrameType], settings: TrainSettings) -> str:
    """ "callbacks.timer was", "the profiler was", or "the trainer settings were"."""
    for frame in reversed(frames):
        instance: Any = frame.f_locals.get("self")
        if isinstance(instance, Profiler):
            return f"trainer.profiler={settings.trainer.get('profiler')} was"
        if isinstance(instance, Callback | Logger) and (key := _key(type(instance), settings)):
            return f"{key} was"
    return "the trainer settings were"


def _key(kind: type, settings: TrainSettings) -> str | None:
    """The key of the entry that names the class `kind` or one of its bases; None: the Trainer created it itself."""
    names = {base.__name__ for base in kind.__mro__}
    for group, entries in (("callbacks", settings.callbacks), ("logger", settings.logger)):
        for name, entry in entries.items():
            if entry is not None and str(entry["_target_"]).rpartition(".")[2] in names:
                return f"{group}.{name}"
    return None


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
