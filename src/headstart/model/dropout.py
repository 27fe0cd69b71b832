"""Dropout in several processes: what one process would drop of the batches of all of them."""

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from headstart.processes import rank, world_size


def seed_dropout(seed: int, device: torch.device) -> None:
    """Seeds what is drawn from on `device`; torch.manual_seed looks for GPUs too, which takes as long as a step."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


class Dropout(nn.Dropout):
    """nn.Dropout, of which every process draws the same mask for all of them, and uses its rows."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        mask = super().forward(input.new_ones(len(input) * world_size(), *input.shape[1:]))
        return input * mask[rank() :: world_size()]


class DropPath(StochasticDepth):
    """torchvision's StochasticDepth, likewise."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        mask = super().forward(input.new_ones(len(input) * world_size(), *(1,) * (input.ndim - 1)))
        return input * mask[rank() :: world_size()]


def drop_as_one_process(network: nn.Module) -> None:
    """Replaces the network's layers of these kinds."""
    for module in network.modules():
        if type(module) is nn.Dropout:
            module.__class__ = Dropout
        elif type(module) is StochasticDepth:
            module.__class__ = DropPath
