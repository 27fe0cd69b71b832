"""Runs commands in a terminal, as a user does, and gives what is on its screen afterwards."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pexpect
import pyte

ROWS = 24


@dataclass(frozen=True)
class Screen:
    """All lines of a terminal, those that have left the screen included, and whether its cursor can be seen."""

    status: int | None
    lines: list[str]
    raw: str
    has_cursor: bool


def in_terminal(
    command: Sequence[str],
    *,
    columns: int = 80,
    narrowed_to: int | None = None,
    env: Mapping[str, str] | None = None,
    python: str = sys.executable,
) -> Screen:
    """Runs `command`, whose first word is a script of Python, in a terminal of so many columns.

    When the first bar is shown, the terminal becomes as narrow as `narrowed_to`.
    """
    environment = {**os.environ, "TERM": "xterm-256color", **(env or {})}
    child = pexpect.spawn(
        python, list(command), dimensions=(ROWS, columns), env=environment, encoding="utf-8", timeout=300
    )
    before = ""
    if narrowed_to is not None:
        child.expect(r"\|")
        before = f"{child.before}{child.after}"
        child.setwinsize(ROWS, narrowed_to)
    child.expect(pexpect.EOF)
    child.close()
    raw = f"{before}{child.before}"
    screen = pyte.HistoryScreen(columns, ROWS, history=10_000, ratio=0.5)
    pyte.Stream(screen).feed(raw)
    above = ["".join(line[column].data for column in range(columns)) for line in screen.history.top]
    lines = [line.rstrip() for line in [*above, *screen.display]]
    while lines and not lines[-1]:
        lines.pop()
    return Screen(child.exitstatus, lines, raw, not screen.cursor.hidden)
