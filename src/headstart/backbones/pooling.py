"""Features from the tokens of a vision transformer."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from headstart.errors import HeadstartError


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
