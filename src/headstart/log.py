"""Messages to the user: information to stdout, warnings and errors to stderr, from the first process of a job only."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from headstart.launchers import place_in_job

log = logging.getLogger("headstart")

# The status of a program that SIGPIPE ends, in a shell.
CLOSED_PIPE = 128 + 13


class _Formatter(logging.Formatter):
    """ "warning: …" and "error: …"; information as it is."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return f"{prefix}{record.getMessage()}"


class _Console(logging.Handler):
    """Writes to the current sys.stdout and sys.stderr, which tests and notebooks replace."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        try:
            print(self.format(record), file=stream, flush=True)
        except BrokenPipeError:
            exit_on_closed_pipe()


def is_first_process() -> bool:
    """Whether this is the only process of a job, or the one of rank 0."""
    return place_in_job().rank == 0


def exit_on_closed_pipe() -> NoReturn:
    """Ends the program without a word, as other programs end when nobody reads their output any more (| head)."""
    abandon_output()
    sys.exit(CLOSED_PIPE)


def abandon_output() -> None:
    """Discards what stdout and stderr still hold, if it cannot be written: Python would try again, and complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def log_to_console() -> None:
    """Sends the messages of this process to its stdout and stderr, unless it is one of higher rank."""
    _send_to(_Console())


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Sends messages to the file `path` instead, line by line, for as long as the block runs."""
    handlers = log.handlers
    handler = logging.FileHandler(path, mode="w", encoding="utf-8", errors="backslashreplace")
    _send_to(handler)
    try:
        yield
    finally:
        handler.close()
        log.handlers = handlers


def _send_to(handler: logging.Handler) -> None:
    handler.setFormatter(_Formatter())
    handler.addFilter(lambda record: is_first_process())
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    # Hydra's own logging would print every message a second time.
    log.propagate = False
