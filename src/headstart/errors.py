"""Errors that are reported to the user as one sentence instead of a traceback."""

from collections.abc import Iterable

from headstart.text import named


class HeadstartError(Exception):
    """An error of the user's: what is wrong, where, and what to do, in one sentence."""

    def __init__(self, message: str) -> None:
        # A DataLoader worker re-raises its error with the whole traceback as the message; the sentence comes last.
        super().__init__(named(message.rsplit(f"{type(self).__name__}: ", 1)[-1].strip()))


class UnreadableImage(HeadstartError):
    """A file that is not a readable image; `fault` is one of FAULTS."""

    FAULTS = ("unreadable", "truncated", "empty file", "not an image", "decompression bomb", "file too large")

    def __init__(self, message: str, fault: str = "unreadable") -> None:
        super().__init__(message)
        self.fault = fault


def listed(names: Iterable[object], most: int = 12) -> str:
    """Returns "a, b, c", or "a, b, … and 280 more" if there are more than `most`."""
    texts = [str(name) for name in names]
    shown = ", ".join(texts[:most])
    return shown if len(texts) <= most else f"{shown}, … and {len(texts) - most} more"
