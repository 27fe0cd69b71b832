"""Who decodes pictures: worker processes, or the threads of this one."""

import functools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch
from torch.utils.data import get_worker_info

Item = TypeVar("Item")
Result = TypeVar("Result")


def core_count() -> int:
    """The cores this process may use, which in a container can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_count(num_workers: int | str, device: torch.device) -> int:
    """The number of worker processes that `data.num_workers` stands for, if the backbone runs on `device`.

    auto: none where that is the processor, which then has no core to spare (threads that decode before each batch are
    no slower than workers beside it); else one a core, eight at most.
    """
    if num_workers != "auto":
        return int(num_workers)
    return 0 if device.type == "cpu" else min(core_count(), 8)


def map_pictures(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`[function(item) for item in items]`, in threads; one after the other in a worker process.

    Decoding and resampling let go of the interpreter's lock.
    """
    if get_worker_info() is not None:
        return [function(item) for item in items]
    futures = [_pool().submit(function, item) for item in items]
    try:
        return [future.result() for future in futures]
    finally:
        # After an error nothing may go on working on what the caller clears away.
        for future in futures:
            future.cancel()
        wait(futures)


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(core_count(), thread_name_prefix="pictures")
