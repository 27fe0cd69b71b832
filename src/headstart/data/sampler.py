"""The order of the samples, as a pure function of (seed, epoch)."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Sampler

from headstart.seeds import derive_seed

# The index of no sample, with which the last batches of several processes become equally long, and its label, which
# PyTorch's losses ignore.
PADDING = -1
IGNORED = -100


class ViewSampler(Sampler[tuple[int, int]]):
    """Yields `(view, index)` of every sample once per epoch; balanced, equally many of each class, as many in total.

    Args:
        length: the number of samples.
        seed: of the order; None keeps the order of the samples.
        balanced: the label of each sample, to draw equally many of each class: another part of a large class in each
            epoch, every sample of a small one several times.
        views: epoch e has view e mod `views`; None: view e.
        rank, world_size: this process takes every `world_size`-th sample, starting at `rank`, so that the batches of
            all processes together are those of one with batches `world_size` times as large. Every process gets the
            same number: at the end some get PADDING.
    """

    def __init__(
        self,
        length: int,
        *,
        seed: int | None,
        balanced: Sequence[int] | None = None,
        views: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._length = length
        self._seed = seed
        self._balanced = balanced
        self._epoch = 0
        self._views = views
        self._rank = rank
        self._world_size = world_size

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return -(-self._length // self._world_size)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        view = self._epoch if self._views is None else self._epoch % self._views
        order = self._order()
        padded = order + [PADDING] * (len(self) * self._world_size - self._length)
        return iter([(view, index) for index in padded[self._rank :: self._world_size]])

    def _order(self) -> list[int]:
        if self._seed is None:
            return list(range(self._length))
        generator = torch.Generator().manual_seed(derive_seed("order", self._seed, self._epoch))
        drawn = torch.arange(self._length) if self._balanced is None else self._draw_equally(generator)
        return drawn[torch.randperm(self._length, generator=generator)].tolist()

    def _draw_equally(self, generator: torch.Generator) -> Tensor:
        """`length` indices, as many of each class, give or take one; a sample repeats only after all of its class."""
        labels = torch.tensor(self._balanced)
        classes = labels.unique()
        share, left = divmod(self._length, len(classes))
        # Which classes get one more is random too.
        more = set(torch.randperm(len(classes), generator=generator)[:left].tolist())
        drawn = []
        for position, label in enumerate(classes):
            members = (labels == label).nonzero().squeeze(1)
            count = share + (position in more)
            rounds = [
                members[torch.randperm(len(members), generator=generator)] for _ in range(-(-count // len(members)))
            ]
            drawn.append(torch.cat(rounds)[:count])
        return torch.cat(drawn)
