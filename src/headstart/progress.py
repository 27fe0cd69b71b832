"""The program's only progress bar: at the bottom of the terminal, messages above it, gone when the work is done."""

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO, TypeVar, cast

from headstart.launchers import place_in_job

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
    """Such as "328/400, at most 1:45 left"."""
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
    """ "0:42", "1:02:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
