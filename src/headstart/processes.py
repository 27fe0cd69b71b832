"""The processes of a job: what each of them knows of the others. A job of one process needs no communication."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed
from torch import Tensor

from headstart.machine import place_in_job

Value = TypeVar("Value")


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
