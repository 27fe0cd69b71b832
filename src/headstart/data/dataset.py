"""The images of a split, by (view, index)."""

from functools import partial

from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from headstart.data.decoded import DecodedImages
from headstart.data.manifest import Split
from headstart.data.sampler import IGNORED, PADDING
from headstart.data.transforms import Transform
from headstart.data.workers import thread_map


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

    def of_stored(self) -> "ImageDataset":
        """Of all images whose features are stored together with those of the split."""
        stored = self.split.stored
        return self if stored is self.split else ImageDataset(stored, self.transform, self._decoded.max_bytes)

    def _read(self, index: int) -> Image.Image:
        return self.split.read(index, self.transform.depth)
