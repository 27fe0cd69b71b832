"""How long a program took from its start to its work; most of it goes into imports."""

import time

# Imported before everything that takes long.
_IMPORTED = time.perf_counter()
_programs: list[float] = []


def program_starts() -> None:
    """Called by a program that does one thing, as those of the command line."""
    _programs.append(time.perf_counter() if _programs else _IMPORTED)


def startup_seconds() -> float | None:
    """Since the program's start; None in Python, where other things may have happened before."""
    return time.perf_counter() - _programs[-1] if _programs else None
