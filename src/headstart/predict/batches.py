"""Images to predict as the batches of a DataLoader."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from headstart.data.images import Note
from headstart.data.preprocessing import Preprocessing
from headstart.data.transforms import EvalViewsTransform
from headstart.data.workers import thread_map
from headstart.predict.inputs import Input, Read, read_input

# An image in every view and preprocessing, or the reason why it cannot be used; and what is special about its file.
Item = tuple[list[Tensor] | str, Note | None]


class Batch(NamedTuple):
    """The images of a batch that could be read, stacked, in every view and preprocessing; none: no tensors.

    For each of its inputs, `errors` has the reason why it could not be read, or None, and `notes` what is special.
    """

    images: list[Tensor]
    errors: list[str | None]
    notes: list[Note | None]


class Inputs(Dataset[Item]):
    """Item `i` is the i-th image, or the reason why it cannot be used, and what is special about its file.

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

    def __getitems__(self, indices: list[int]) -> list[Item]:
        return thread_map(self.__getitem__, indices)

    def __getitem__(self, index: int) -> Item:
        return read_input(self._inputs[index], index, lambda read: self._views_of(read, index))

    def _views_of(self, read: Read, index: int) -> list[Tensor]:
        images = {depth: read(depth) for depth in {transform.depth for transform in self._transforms}}
        return [
            transform(images[transform.depth], view, index) for view in self._views for transform in self._transforms
        ]


def collate(items: list[Item]) -> Batch:
    """Stacked where they were read: a worker hands over one tensor per view, not one for each image."""
    images = [image for image, _ in items if not isinstance(image, str)]
    stacked = [torch.stack(of_one) for of_one in zip(*images, strict=True)]
    errors = [image if isinstance(image, str) else None for image, _ in items]
    return Batch(stacked, errors, [note for _, note in items])
