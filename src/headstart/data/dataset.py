"""Images by (view, index), from memory once they were decoded, and in which order."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler, get_worker_info

from headstart.data.manifest import Split
from headstart.data.splits import derive_seed
from headstart.data.transforms import Transform
from headstart.data.workers import thread_map
from headstart.files import ForkSafeLock

BYTES_PER_PIXEL = 4  # of Pillow's RGB images


class DecodedImages:
    """The first images that were read and fit into `max_bytes`; among worker processes, each has its share of it.

    Later ones do not replace them: when all are read in turn, each would be replaced before it is needed again.
    """

    _turn = ForkSafeLock()

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._images: dict[int, Image.Image] = {}
        self._size = 0

    def get(self, index: int, read: Callable[[], Image.Image]) -> Image.Image:
        """Returns the image `index`, read at most once if it is kept."""
        image = self._images.get(index)
        if image is None:
            image = read()
            self._keep(index, image)
        return image

    def _keep(self, index: int, image: Image.Image) -> None:
        worker = get_worker_info()
        size = image.width * image.height * BYTES_PER_PIXEL
        with self._turn:
            if self._size + size <= self.max_bytes // (worker.num_workers if worker else 1):
                self._size += size
                self._images[index] = image


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
        view_of: the view of an epoch; None: view e in epoch e.
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
        view_of: Callable[[int], int] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._length = length
        self._seed = seed
        self._balanced = balanced
        self._epoch = 0
        self._view_of = view_of or int
        self._rank = rank
        self._world_size = world_size

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch whose order comes next; Lightning calls this before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return -(-self._length // self._world_size)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        view = self._view_of(self._epoch)
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


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """`dataset[view, index]` is a uint8 image (3, image_size, image_size) and its label: IGNORED for PADDING.

    In all folds, an image has the same views: those of its index in their pool. Decoded images are kept up to a size of
    `keep_bytes`, for other views.
    """

    def __init__(self, split: Split, transform: Transform, keep_bytes: int = 0) -> None:
        self.split = split
        self.transform = transform
        self._decoded = DecodedImages(keep_bytes)

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[tuple[Tensor, int]]:
        """A batch, as a DataLoader asks for it."""
        return thread_map(self.__getitem__, keys)

    def __getitem__(self, key: tuple[int, int] | int) -> tuple[Tensor, int]:
        # The Trainer's `overfit_batches` replaces our sampler by one of plain indices.
        view, index = (0, key) if isinstance(key, int) else key
        image = self._decoded.get(index, partial(self._read, index))
        label = IGNORED if index == PADDING else self.split.labels[index]
        return self.transform(image, view, self.split.place(index)), label

    def of_stored(self) -> list["ImageDataset"]:
        """Returns a dataset for each pool of images whose features are stored together; the split has some of them."""
        if not self.split.pools:
            return [self]
        return [ImageDataset(pool, self.transform, self._decoded.max_bytes) for pool in self.split.pools]

    def _read(self, index: int) -> Image.Image:
        return self.split.read(index, self.transform.depth)
