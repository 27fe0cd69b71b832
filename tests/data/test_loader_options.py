"""How many worker processes the machine allows."""

import pytest
import torch

from headstart import processes
from headstart.processes import LONGEST_WAIT, loader_options

CPU = torch.device("cpu")
BATCH = 32 * 224**2  # pixels


def count(wanted: int, pixels: int = BATCH) -> int:
    return int(loader_options(wanted, CPU, pixels=pixels, kept=False)["num_workers"])


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Docker's default: 64 MB of shared memory."""
    monkeypatch.setattr(processes, "_shared_memory_left", lambda: 64_000_000)
    processes._say_once.cache_clear()
    return monkeypatch


def test_workers__as_many_as_wanted_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    for left in (None, 10**10):
        monkeypatch.setattr(processes, "_shared_memory_left", lambda left=left: left)
        assert count(8) == 8
    assert count(0) == 0


def test_workers__fewer_in_a_container(room: pytest.MonkeyPatch, messages: list[str]) -> None:
    assert [count(8), count(8), count(1)] == [2, 2, 1]
    (message,) = messages
    assert "2 instead of 8 workers" in message
    assert "/dev/shm" in message
    # What is in flight at most: two batches of each worker, and one more.
    assert 2 * 3 * 3 * BATCH <= 64_000_000


def test_workers__none_where_not_even_one_fits(room: pytest.MonkeyPatch) -> None:
    options = loader_options(8, CPU, pixels=64 * 1024**2, kept=True)
    assert options.items() >= {"num_workers": 0, "timeout": 0, "persistent_workers": False}.items()


def test_workers__nothing_waits_for_ever() -> None:
    options = loader_options(1, CPU, pixels=1, kept=True)
    assert options.items() >= {"num_workers": 1, "timeout": LONGEST_WAIT, "persistent_workers": True}.items()
