"""Processes of a job and what each of them knows of the others; workers and threads of one process.

A job of one process needs no communication. Images are decoded, and on a CPU encoded, by worker processes or by the
threads of this one.
"""

import functools
import os
import shutil
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing import current_process
from threading import Barrier, local
from typing import Any, TypeVar

import torch
import torch.distributed
from PIL import Image, ImageFile
from torch import Tensor
from torch.utils.data import get_worker_info

from headstart.log import log
from headstart.machine import core_count, place_in_job

Value = TypeVar("Value")
# PyTorch advises as many workers as there are cores; who asked for more has a reason.
warnings.filterwarnings("ignore", message="This DataLoader will create")
# Where PyTorch puts what processes share, on Linux.
SHARED_MEMORY = "/dev/shm"
BATCHES_AHEAD = 2  # of each worker; PyTorch's default
LONGEST_WAIT = 300  # seconds for one batch
_own = local()  # of each thread
_is_forked = False
Item = TypeVar("Item")
Result = TypeVar("Result")


def world_size() -> int:
    """Returns the number of processes; 1 before they have been joined."""
    return torch.distributed.get_world_size() if _joined() else 1


def rank() -> int:
    """Returns the number of this process, from 0."""
    return torch.distributed.get_rank() if _joined() else 0


def is_first_on_node() -> bool:
    """Whether this process has the local rank 0: it writes what the processes of one machine share."""
    return world_size() == 1 or place_in_job().local_rank == 0


@contextmanager
def first_on_node_first() -> Iterator[None]:
    """Lets the first process of each machine run the block before its others, which find in a cache what it did."""
    if not is_first_on_node():
        barrier()
    yield
    if world_size() > 1 and is_first_on_node():
        barrier()


def barrier() -> None:
    """Waits for all processes."""
    gather(torch.zeros(1))


def gather(rows: Tensor) -> Tensor:
    """Returns rows (world_size, N, …) of all processes, in each, from rows (N, …), N the same in every process."""
    if world_size() == 1:
        return rows[None]
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    torch.distributed.all_gather(parts, rows.contiguous())
    return torch.stack(parts)


def interleaved(rows: Tensor) -> Tensor:
    """Returns rows (world_size · N, …) in the samples' order; each process has every `world_size`-th, from `rank`."""
    return gather(rows).transpose(0, 1).flatten(0, 1)


def total(values: Tensor) -> Tensor:
    """Returns the sum over all processes."""
    if world_size() > 1:
        values = values.clone()
        torch.distributed.all_reduce(values)
    return values


def everywhere(is_true: bool) -> bool:
    """Whether it is true in every process."""
    return int(total(torch.tensor(int(is_true)))) == world_size()


def from_first(value: Value) -> Value:
    """Returns the value of the first process, in all of them; its tensors are on the CPU."""
    if world_size() == 1:
        return value
    holder: list[Any] = [value]
    torch.distributed.broadcast_object_list(holder, device=torch.device("cpu"))
    return holder[0]


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Overwrites the tensors with those of the first process."""
    if world_size() > 1:
        for tensor in tensors:
            torch.distributed.broadcast(tensor, src=0)


def _joined() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def worker_count(num_workers: int | str, device: torch.device) -> int:
    """Returns the number of worker processes that `data.num_workers` stands for, if the backbone runs on `device`.

    auto: none on a CPU, which has no core to spare (threads that decode before each batch are as fast as workers beside
    it); else one per core, 32 at most: a GPU encodes faster than sixteen cores decode. None in the processes of a
    multiprocessing.Pool, which may not start any.
    """
    if current_process().daemon:
        return 0
    if num_workers != "auto":
        return int(num_workers)
    return 0 if device.type == "cpu" else min(core_count(), 32)


def loader_options(num_workers: int | str, device: torch.device, *, pixels: int, kept: bool) -> dict[str, Any]:
    """Returns arguments of a DataLoader: as many workers as are wanted, and as shared memory has room for.

    They hand over whole batches in shared memory, of which a container may have little; one that finds none left is
    killed. A worker that does not answer for a long time is an error, so that nothing hangs.

    Args:
        pixels: of a batch of RGB images.
        kept: whether workers stay for further epochs.
    """
    wanted, room = worker_count(num_workers, device), _shared_memory_left()
    # Each worker fills batches ahead while one more is in use; half of the room is left to others.
    count = wanted if room is None else min(wanted, room // (2 * 3 * pixels * (BATCHES_AHEAD + 1)))
    if count < wanted:
        _say_once(
            f"{count} instead of {wanted} workers read images: {SHARED_MEMORY} has room for {(room or 0) / 1e6:.0f} MB"
        )
    return {
        "num_workers": count,
        "timeout": LONGEST_WAIT if count else 0,
        "persistent_workers": count > 0 and kept,
        # Where workers are not copies of this process, they would have Pillow's own settings.
        "worker_init_fn": functools.partial(_decode_as, Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES),
    }


def _decode_as(most: int | None, truncated: bool, worker: int) -> None:
    Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = most, truncated


def _shared_memory_left() -> int | None:
    """The free bytes of shared memory; None: there is no such limit."""
    return shutil.disk_usage(SHARED_MEMORY).free if os.path.isdir(SHARED_MEMORY) else None


@functools.cache
def _say_once(message: str) -> None:
    log.info("%s", message)


def thread_map(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Returns `[function(item) for item in items]`, computed in one thread per core, each of which uses one core.

    One after the other in a worker process, or within such a thread. Decoding, resampling and PyTorch release the
    interpreter's lock.
    """
    return list(thread_imap(function, items))


def thread_imap(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yields the results of `thread_map` in order, while a few more are being computed."""
    if get_worker_info() is not None or getattr(_own, "is_worker", False):
        yield from map(function, items)
        return
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(_pool().submit(function, item))
            if len(pending) > 2 * core_count():
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # After an error no thread may go on writing into a folder that the caller removes.
        for future in pending:
            future.cancel()
        wait(pending)


def use_one_thread_after_fork() -> None:
    """Lets PyTorch compute on one thread, in the calling thread of a process that was forked from one with PyTorch.

    OpenMP would wait forever for the threads that it had in the parent, of which a fork copies none.
    """
    if _is_forked:
        torch.set_num_threads(1)


def _forget_threads() -> None:
    global _is_forked
    _is_forked = True
    _pool.cache_clear()


@functools.cache
def _pool() -> ThreadPoolExecutor:
    threads, cores = torch.get_num_threads(), core_count()
    pool = ThreadPoolExecutor(cores, thread_name_prefix="images", initializer=_use_one_core)
    # Starts all of them. PyTorch's setting is each thread's own, but also the default of threads yet to come.
    together = Barrier(cores)
    list(pool.map(lambda _: together.wait(), range(cores)))
    torch.set_num_threads(threads)
    return pool


def _use_one_core() -> None:
    _own.is_worker = True
    # Asked for once, or the thread would set it to the default later.
    torch.get_num_threads()
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
