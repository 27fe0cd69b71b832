"""Pictures by (view, index)."""

from torch import Tensor
from torch.utils.data import Dataset

from headstart.data.images import read_rgb
from headstart.data.manifest import Split
from headstart.data.transforms import Transform
from headstart.data.workers import map_pictures


def as_key(key: tuple[int, int] | int) -> tuple[int, int]:
    """(view, index). The Trainer's `overfit_batches` puts a sampler of plain indices in place of ours: view 0."""
    return (0, key) if isinstance(key, int) else key


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """The samples of a split. `dataset[view, index]` is a uint8 picture (3, image_size, image_size) and its label."""

    def __init__(self, split: Split, transform: Transform) -> None:
        self.split = split
        self.transform = transform

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[tuple[Tensor, int]]:
        """What a DataLoader asks for: a batch at once."""
        return map_pictures(self.__getitem__, keys)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        view, index = as_key(key)
        image = read_rgb(self.split.root / self.split.paths[index])
        return self.transform(image, view, index), self.split.labels[index]
