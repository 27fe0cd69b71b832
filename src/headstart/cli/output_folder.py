"""Where the files of the program that runs go, for a caller in the same process."""

from contextvars import ContextVar
from pathlib import Path

output_folder: ContextVar[Path] = ContextVar("output_folder")
