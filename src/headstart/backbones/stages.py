"""The stages of a network: its blocks, grouped by the size of the feature maps that they output."""

from collections.abc import Iterator
from itertools import groupby, pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")

# If all maps have the same size, as in a vision transformer, the network is divided into this many equal parts.
PARTS = 4
# The most groups that are stages by themselves.
MOST_STAGES = 9
# A module with at least this fraction of the parameters is a container rather than a block.
CONTAINER = 0.9


def find_stages(network: nn.Module, images: Tensor) -> list[list[str]]:
    """The names of the blocks with parameters, stage by stage from the input; `images` are a batch to try.

    Every parameter of `network` is in one of the blocks, or in `network` itself.
    """
    sizes: dict[str, tuple[int, ...]] = {}
    blocks = list(_blocks(network))
    handles = [_watch(network.get_submodule(name), name, sizes) for name in blocks]
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()
    keys: list[tuple[int, ...]] = []
    for name in blocks:
        # A block without feature maps, such as a last linear layer, belongs to the stage before it.
        keys.append(sizes.get(name) or (keys[-1] if keys else ()))
    stages = [[name for name, _ in group] for _, group in groupby(zip(blocks, keys, strict=True), key=lambda p: p[1])]
    return stages if len(stages) > 2 else _equal_parts(blocks)


def group_blocks(network: nn.Module, group_of: dict[str, int]) -> list[list[str]]:
    """The stages from the group of each parameter of `network` by its name, counted from the input.

    A parameter beside blocks of different groups, in the module that holds them, is in no stage.
    """
    blocks = list(_blocks_of_one_group(network, group_of))
    stages = [[name for name, of in blocks if of == group] for group in sorted({of for _, of in blocks})]
    if len(stages) <= MOST_STAGES:
        return stages
    return [[name for stage in part for name in stage] for part in _equal_parts(stages)]


def _blocks_of_one_group(module: nn.Module, group_of: dict[str, int], prefix: str = "") -> Iterator[tuple[str, int]]:
    for name, child in module.named_children():
        path = f"{prefix}{name}."
        groups = {group for parameter, group in group_of.items() if parameter.startswith(path)}
        if len(groups) == 1:
            yield path[:-1], groups.pop()
        elif groups:
            yield from _blocks_of_one_group(child, group_of, path)


def _blocks(module: nn.Module, prefix: str = "") -> Iterator[str]:
    whole = _count(module)
    for name, child in module.named_children():
        count = _count(child)
        is_container = type(child) in (nn.Sequential, nn.ModuleList) or count >= CONTAINER * whole
        if count and is_container and any(_count(c) for c in child.children()):
            yield from _blocks(child, f"{prefix}{name}.")
        elif count:
            yield f"{prefix}{name}"


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _watch(module: nn.Module, name: str, sizes: dict[str, tuple[int, ...]]) -> torch.utils.hooks.RemovableHandle:
    def note(_: nn.Module, __: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim > 2 and output.shape[-2:].numel() > 1:
            sizes[name] = tuple(output.shape[-2:])

    return module.register_forward_hook(note)


def _equal_parts(blocks: list[T]) -> list[list[T]]:
    bounds = [len(blocks) * part // PARTS for part in range(PARTS + 1)]
    return [blocks[start:stop] for start, stop in pairwise(bounds) if start < stop]
