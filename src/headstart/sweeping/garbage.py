"""Collecting what trials leave in memory, without a look at all that was there before them."""

import gc


def collect_garbage() -> None:
    """Frees what a trial has left in reference cycles, and so has Hydra, which composed it.

    What is there after the first trial, such as a million objects of imported modules, is not looked at again until
    `look_at_everything_again`: it would take longer than a few epochs.
    """
    gc.collect()
    if not gc.get_freeze_count():
        gc.freeze()


def look_at_everything_again() -> None:
    """Undoes what `collect_garbage` does besides, at the end of a sweep."""
    gc.unfreeze()
