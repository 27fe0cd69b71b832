"""What backbones of torchvision and of timm have in common: choice, pooling, stages."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

from headstart.data.preprocessing import Preprocessing
from headstart.errors import HeadstartError

# What a source of pre-trained networks provides.


@dataclass(frozen=True)
class Choice:
    """Which network, with which weights: "default" (the first published ones), "bundled", a name, a file, or None for
    random ones.

    `pooling` makes features from what the last layer outputs: "default" (the network's own), "cls", "avg" or "cls+avg".
    `image_size` in pixels; None: that of the preset.
    """

    arch: str
    weights: str | None
    pooling: str = "default"
    image_size: int | None = None


@dataclass(frozen=True)
class Network:
    """`module` maps normalized images to features of `embedding_dim`.

    `cut` is the name of the classification layer that was removed; `weights` are their name or the absolute path of
    their file, None: they are random; `library` is the package that the code is from, and its version. `preset` is the
    preprocessing that belongs to the weights, which for a file is a guess: `guess` says whose it is.
    """

    module: nn.Module
    embedding_dim: int
    cut: str
    weights: str | None
    library: str
    preset: Preprocessing
    guess: str | None


@dataclass(frozen=True)
class Provider:
    """The functions of a provider. Each raises HeadstartError, with the reason, for what it does not have.

    Attributes:
        check: (choice) → nothing; whether `load` would fail is found out without a download.
        preset: (arch, weights) → the preprocessing that belongs to the weights.
        load: (choice, seed) → the network; `seed` is of random weights.
        find_stages: (module, images) → the names of the module's blocks, stage by stage from the input.
    """

    check: Callable[[Choice], None]
    preset: Callable[[str, str | None], Preprocessing]
    load: Callable[[Choice, int], Network]
    find_stages: Callable[[nn.Module, Tensor], list[list[str]]]


# Features from the tokens of a vision transformer.


class TokenPooling(nn.Module):
    """The class token, the mean of the patches' tokens, or both, one after the other: images → features (N, d) or
    (N, 2d).

    Args:
        model: the network, without its classification layer.
        tokens: (model, images) → normalized tokens (N, T, d).
        prefix: how many of them, at the beginning, are not of patches; the first is the class token.
        after: applied to what was pooled, each by itself.
    """

    def __init__(
        self,
        model: nn.Module,
        pooling: str,
        *,
        tokens: Callable[[nn.Module, Tensor], Tensor],
        prefix: int,
        after: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.parts = pooling.split("+")
        self._tokens, self._prefix = tokens, prefix
        # A part of `model`, whose parameters must not be there twice.
        self._after = (after or nn.Identity(),)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self._tokens(self.model, images)
        pooled = [tokens[:, 0] if part == "cls" else tokens[:, self._prefix :].mean(1) for part in self.parts]
        return torch.cat([self._after[0](part) for part in pooled], dim=1)


def cannot_pool(pooling: str, arch: str, reason: str) -> HeadstartError:
    """The error for a network that has nothing to pool in this way."""
    return HeadstartError(f"model.pooling={pooling} does not suit model.arch={arch}: {reason}")


# The stages of a network: its blocks, grouped by the size of the feature maps that they output.


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
