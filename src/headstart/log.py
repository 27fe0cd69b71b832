"""What programs print: lines no wider than the terminal, tables, and one kind of progress bar."""

import logging
import multiprocessing
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, TypeVar, cast

from headstart.machine import place_in_job
from headstart.text import columns, named

# Commands in messages: quoted, so that they can be pasted into a shell.


def command(script: str, arguments: Iterable[str]) -> str:
    """Returns "python train.py model.lr=0.1", or "headstart train model.lr=0.1", for the `script` train.py."""
    running = Path(sys.argv[0])
    if running.name in ("headstart", "headstart.exe") or running.parts[-2:] == ("headstart", "__main__.py"):
        return " ".join(["headstart", script.removesuffix(".py"), *map(quoted, arguments)])
    # In a test, a notebook or another program it is one of somebody else's.
    path = running.with_name(script) if running.name in ("train.py", "predict.py") else Path(script)
    return " ".join(["python", *map(quoted, [str(path), *arguments])])


def shown(path: Path) -> Path:
    """Returns `path` as short as it can be given from the current folder."""
    place = path.absolute()
    return place.relative_to(Path.cwd()) if Path.cwd() in place.parents else path


def quoted(word: str) -> str:
    """Returns `word` as a shell reads it; bytes that are not text, and line breaks, as escapes."""
    if word.isprintable():
        return shlex.quote(word)
    content = "".join(_escaped(byte) for byte in os.fsencode(word))
    return f"$'{content}'"


def _escaped(byte: int) -> str:
    character = chr(byte)
    return character if re.fullmatch(r"[\w ./=,:+@%-]", character, re.ASCII) else f"\\x{byte:02x}"


# Tables for the terminal.

# Wider than any table, so that no line is wrapped.
WIDTH = 10_000


def render_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns lines of aligned columns under their names, without colour; without names if these are empty."""
    # Imported here because it takes a tenth of a second.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=any(columns))
    for name in columns:
        table.add_column(Text(name), no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(width=WIDTH, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


# The program's only progress bar: at the bottom of the terminal, messages above it, gone when the work is done.

if TYPE_CHECKING:
    from tqdm import tqdm

# Seconds: work that is done sooner shows no bar.
DELAY = 0.5
# Short, so that a terminal that is made narrower meanwhile does not break it into two lines.
FORMAT = "{desc} |{bar:20}| {postfix[0]}"
Advance = Callable[[int], None]
Item = TypeVar("Item")
# The bar on the screen, if there is one.
_shown: "tqdm[Any] | None" = None


@contextmanager
def progress_bar(title: str, total: int | None, *, later: int = 0, unit: str = "") -> Iterator[Advance]:
    """Shows a bar while the block runs; yields a function that adds the units done since its last call.

    Nothing is shown where stderr is no terminal, by processes other than the first, and while another bar is shown. The
    function may be called by any thread.

    Args:
        total: units in the block; None: unknown.
        later: units, at most, that the run goes on with after the block: the remaining time is that of the run.
        unit: "B" shows megabytes.
    """
    global _shown
    if not _can_be_shown():
        yield lambda count: None
        return
    # Imported late, because most commands end before they need it.
    from tqdm import tqdm

    start, postfix = time.monotonic(), [""]
    bar = tqdm(
        total=total,
        desc=title,
        delay=DELAY,
        leave=False,
        bar_format=FORMAT,
        mininterval=0.2,
        postfix=cast(Any, postfix),
    )

    def advance(count: int) -> None:
        postfix[0] = _says(int(bar.n) + count, total, later, unit, time.monotonic() - start)
        bar.update(count)

    _shown = bar
    try:
        yield advance
    finally:
        _shown = None
        bar.close()


def tracked(items: Iterable[Item], title: str, total: int) -> Iterator[Item]:
    """Yields `items`, with a bar that counts them."""
    with progress_bar(title, total) as advance:
        for item in items:
            yield item
            advance(1)


def is_terminal(stream: TextIO) -> bool:
    """Whether `stream` is a terminal, which has lines and a width."""
    try:
        return stream.isatty()
    except (AttributeError, ValueError):
        return False


@contextmanager
def above_bar(stream: TextIO) -> Iterator[None]:
    """Takes the bar off the screen while the block prints to `stream`, if that is a terminal."""
    if _shown is None or not is_terminal(stream):
        yield
        return
    with _shown.external_write_mode(file=stream):
        yield


def _says(done: int, total: int | None, later: int, unit: str, seconds: float) -> str:
    """Returns such as "328/400, at most 1:45 left"."""
    scale, digits, name = (1e6, 1, " MB") if unit == "B" else (1, 0, "")
    if total is None:
        return f"{done / scale:,.{digits}f}{name}"
    counts = f"{done / scale:,.{digits}f}/{total / scale:,.{digits}f}{name}"
    left = seconds / max(done, 1) * (total - done + later)
    return f"{counts}, {'at most ' if later else ''}{_clock(left)} left"


def _can_be_shown() -> bool:
    if _shown is not None or place_in_job().rank != 0 or os.environ.get("TERM", "dumb") in ("dumb", "unknown"):
        return False
    # Trials of a sweep that run side by side share a terminal.
    if multiprocessing.current_process().name != "MainProcess":
        return False
    # The bar of somebody else, such as Lightning's, puts a stream of its own in the place of stderr.
    return sys.stderr is not None and type(sys.stderr).__module__ != "rich.file_proxy" and is_terminal(sys.stderr)


def _clock(seconds: float) -> str:
    """Returns "0:42", "1:02:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


# Messages to the user: information to stdout, warnings and errors to stderr, from the first process of a job only.

log = logging.getLogger("headstart")

# The status of a program that SIGPIPE ends, in a shell.
CLOSED_PIPE = 128 + 13


class _Formatter(logging.Formatter):
    """ "warning: …" and "error: …"; information as it is."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return f"{prefix}{named(record.getMessage())}"


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
    """Returns `line`, wrapped between words where it is longer than `width` columns; longer words stay whole.

    A command at its end, such as "to predict: python predict.py …", is continued as a shell takes it, so that it can be
    pasted.
    """
    if columns(line) <= width:
        return line
    typed = re.search(r"(?:^|: ) *(?=(?:python3?|headstart) )", line)
    start = typed.end() if typed else len(line)
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
    """Returns the columns of a terminal; of one that does not know, a line has no end."""
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
