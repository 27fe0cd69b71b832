"""What trials leave in memory."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from headstart.sweeping.trial import collect_garbage


class Node:
    """Refers to itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def only_ours() -> Iterator[None]:
    """Nothing is collected but by the functions under test."""
    gc.unfreeze()
    gc.disable()
    yield
    gc.unfreeze()
    gc.enable()


def test_collect_garbage__frees_cycles_in_every_trial() -> None:
    for _ in range(3):
        new = Node()
        reference = weakref.ref(new)
        del new
        collect_garbage()
        assert reference() is None


def test_collect_garbage__does_not_look_at_what_was_there_after_the_first_trial() -> None:
    old = Node()
    reference = weakref.ref(old)
    collect_garbage()
    count = gc.get_freeze_count()
    assert count > 0
    del old
    collect_garbage()
    assert gc.get_freeze_count() <= count
    assert reference() is not None
    # As at the end of a sweep.
    gc.unfreeze()
    gc.collect()
    assert reference() is None
