"""Messages to the user: information to stdout, warnings and errors to stderr, from the first process of a job only."""

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn, TextIO

from headstart.launchers import place_in_job
from headstart.progress import above_bar, is_terminal
from headstart.text import columns

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
            show(self.format(record), stream)
        except BrokenPipeError:
            exit_on_closed_pipe()


def show(text: str, stream: TextIO) -> None:
    """Prints `text` to `stream`; on a terminal, wrapped between words at its width, and above a progress bar."""
    if is_terminal(stream):
        text = "\n".join(wrapped(line, _width(stream)) for line in text.split("\n"))
    with above_bar(stream):
        print(text, file=stream, flush=True)


def wrapped(line: str, width: int) -> str:
    """`line`, wrapped between words where it is longer than `width` columns; longer words stay whole.

    A command at its end, such as "to predict: python predict.py …", is continued as a shell takes it, so that it can be
    pasted.
    """
    if columns(line) <= width:
        return line
    found = re.search(r"(?:^|: ) *(?=(?:python3?|headstart) )", line)
    start = found.end() if found else len(line)
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    lines = [""]
    # A quoted argument is one word.
    for word in re.finditer(r"\s*(?:'[^']*'|\"[^\"]*\"|\S)+", line):
        in_command = word.start() >= start
        room = width - (2 if in_command else 0)
        if lines[-1].strip() and columns(lines[-1]) + columns(word[0]) > room:
            lines[-1] += " \\" if in_command and word.start() > start else ""
            text = word[0].lstrip()
            lines.append(text if columns(indent + text) > room else indent + text)
        else:
            lines[-1] += word[0]
    return "\n".join(lines)


def _width(stream: TextIO) -> int:
    """The columns of a terminal; of one that does not know, a line has no end."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or sys.maxsize
    except (OSError, ValueError):
        return sys.maxsize


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
