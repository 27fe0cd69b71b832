"""Decoded images, kept in memory for the next epoch."""

from collections.abc import Callable

from PIL import Image
from torch.utils.data import get_worker_info

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
        """The image `index`, read at most once if it is kept."""
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
