"""What a trial leaves in memory."""

import gc
import weakref
from typing import Any

from headstart.sweeping.garbage import collecting_garbage


class Node:
    """Refers to itself."""

    def __init__(self) -> None:
        self.itself = self


def test_collecting_garbage__frees_cycles_of_the_block() -> None:
    with collecting_garbage():
        new: Any = Node()
        reference = weakref.ref(new)
        del new
    assert reference() is None


def test_collecting_garbage__leaves_earlier_objects_to_others() -> None:
    gc.disable()
    try:
        old: Any = Node()
        reference = weakref.ref(old)
        with collecting_garbage():
            del old
        assert reference() is not None
        assert gc.get_freeze_count() == 0
        gc.collect()
        assert reference() is None
    finally:
        gc.enable()
