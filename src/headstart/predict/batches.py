"""Images to predict as the batches of a DataLoader."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from headstart.data.preprocessing import Preprocessing
from headstart.data.transforms import EvalViewsTransform
from headstart.data.workers import thread_map
from headstart.predict.inputs import Input, Read, read_input

# The images of a batch that could be read, stacked, in every view and preprocessing, and for each of its inputs the
# reason why not, or None. If none could be read, there are no tensors.
Batch = tuple[list[Tensor], list[str | None]]


class Inputs(Dataset[list[Tensor] | str]):
    """Item `i` is the i-th image, or the reason why it cannot be used.

    An image is given in each of `views` views, in each of the `preprocessings`.
    """

    def __init__(self, inputs: list[Input], preprocessings: Sequence[Preprocessing], views: int) -> None:
        self._inputs = inputs
        self.image_count = len(inputs) * views  # in each preprocessing
        self.pixels = views * sum(preprocessing.image_size**2 for preprocessing in preprocessings)  # of an item
        self._transforms = [EvalViewsTransform(preprocessing) for preprocessing in preprocessings]
        self._views = range(views)

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitems__(self, indices: list[int]) -> list[list[Tensor] | str]:
        return thread_map(self.__getitem__, indices)

    def __getitem__(self, index: int) -> list[Tensor] | str:
        return read_input(self._inputs[index], index, lambda read: self._views_of(read, index))

    def _views_of(self, read: Read, index: int) -> list[Tensor]:
        images = {depth: read(depth) for depth in {transform.depth for transform in self._transforms}}
        return [
            transform(images[transform.depth], view, index) for view in self._views for transform in self._transforms
        ]


def collate(items: list[list[Tensor] | str]) -> Batch:
    """Stacked where they were read: a worker hands over one tensor per view, not one for each image."""
    images = [item for item in items if not isinstance(item, str)]
    stacked = [torch.stack(of_one) for of_one in zip(*images, strict=True)]
    return stacked, [item if isinstance(item, str) else None for item in items]
