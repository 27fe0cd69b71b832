"""The one error that is told to the user as a sentence instead of a traceback."""


class HeadstartError(Exception):
    """What is wrong, where, and what to do, in one sentence."""

    def __init__(self, message: str) -> None:
        # A data-loader worker hands its error over as the text of a traceback that ends with the sentence.
        super().__init__(message.rsplit(f"{type(self).__name__}: ", 1)[-1].strip())


class UnreadableImage(HeadstartError):
    """A file that is not, or no longer, a picture; `fault` is the kind of its fault, one of FAULTS."""

    FAULTS = ("unreadable", "truncated", "empty file", "not a picture", "decompression bomb")

    def __init__(self, message: str, fault: str = "unreadable") -> None:
        super().__init__(message)
        self.fault = fault
