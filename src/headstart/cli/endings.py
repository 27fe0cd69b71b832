"""How a program ends that is told to: by a signal, or because nobody reads its output any more."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from headstart.log import abandon_output, exit_on_closed_pipe

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
