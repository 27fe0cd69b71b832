import time
from collections.abc import Callable, Iterable
from threading import get_ident
from typing import Any

import pytest
import torch

from headstart.machine import core_count
from headstart.processes import thread_imap, thread_map, worker_count

Map = Callable[[Callable[[int], Any], Iterable[int]], Iterable[Any]]
both = pytest.mark.parametrize("mapping", [thread_map, thread_imap])


@both
def test_map__in_order(mapping: Map) -> None:
    assert list(mapping(lambda n: n * n, range(50))) == [n * n for n in range(50)]


@both
def test_map__stops_after_an_error(mapping: Map) -> None:
    done: list[int] = []

    def work(number: int) -> None:
        if number == 0:
            raise OSError("no")
        time.sleep(0.05)
        done.append(number)

    with pytest.raises(OSError, match="no"):
        list(mapping(work, range(200)))
    before = len(done)
    time.sleep(0.2)
    assert len(done) == before < 100


@both
def test_map__each_thread_computes_on_one_core(mapping: Map) -> None:
    threads = torch.get_num_threads()
    assert set(mapping(lambda _: torch.get_num_threads(), range(50))) == {1}
    assert torch.get_num_threads() == threads


@both
def test_map__within_its_threads_takes_no_other(mapping: Map) -> None:
    outer = mapping(lambda n: (get_ident(), thread_map(lambda m: (get_ident(), m * n), range(9))), range(20))
    for number, (own, inner) in enumerate(outer):
        assert inner == [(own, m * number) for m in range(9)]


def test_imap__is_lazy() -> None:
    begun: list[int] = []
    results = thread_imap(begun.append, range(1000))
    next(results)
    assert len(begun) <= 2 * core_count() + 1
    results.close()  # type: ignore[attr-defined]
    assert len(begun) <= 2 * core_count() + 1


def test_worker_count() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [worker_count(3, device) for device in (cpu, gpu)] == [3, 3]
    assert worker_count("auto", cpu) == 0
    assert worker_count("auto", gpu) == min(core_count(), 32)
