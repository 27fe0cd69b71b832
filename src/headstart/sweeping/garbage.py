"""Collecting what a trial leaves in memory, without a look at everything that was there before it."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collecting_garbage() -> Iterator[None]:
    """Frees what the block created and nothing refers to, in reference cycles too.

    What existed before, such as a million objects of imported modules, is left out: looking at them takes longer than
    a few epochs.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()
