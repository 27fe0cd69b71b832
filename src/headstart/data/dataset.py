"""The images of a split, by (view, index)."""

from torch import Tensor
from torch.utils.data import Dataset

from headstart.data.images import read_rgb
from headstart.data.manifest import Split
from headstart.data.sampler import IGNORED, PADDING
from headstart.data.transforms import Transform
from headstart.data.workers import thread_map


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """`dataset[view, index]` is a uint8 image (3, image_size, image_size) and its label: IGNORED for PADDING.

    In all folds, an image has the same views: those of its index in their pool.
    """

    def __init__(self, split: Split, transform: Transform) -> None:
        self.split = split
        self.transform = transform

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[tuple[Tensor, int]]:
        """A batch, as a DataLoader asks for it."""
        return thread_map(self.__getitem__, keys)

    def __getitem__(self, key: tuple[int, int] | int) -> tuple[Tensor, int]:
        # The Trainer's `overfit_batches` replaces our sampler by one of plain indices.
        view, index = (0, key) if isinstance(key, int) else key
        image = read_rgb(self.split.root / self.split.paths[index], self.transform.depth)
        label = IGNORED if index == PADDING else self.split.labels[index]
        return self.transform(image, view, self.split.place(index)), label
