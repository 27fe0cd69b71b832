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


def test_collect_garbage__frees_cycles_but_does_not_look_at_what_was_there_after_the_first_trial() -> None:
    old = Node()
    references = [weakref.ref(old)]
    for _ in range(2):
        new = Node()
        references.append(weakref.ref(new))
        del new
        collect_garbage()
        assert references[-1]() is None
    count = gc.get_freeze_count()
    assert count > 0
    del old
    collect_garbage()
    assert gc.get_freeze_count() <= count
    assert references[0]() is not None
    # As at the end of a sweep.
    gc.unfreeze()
    gc.collect()
    assert references[0]() is None
