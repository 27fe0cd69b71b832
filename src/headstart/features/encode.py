"""The features of a split, view by view: read from the store, or encoded now and stored."""

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

import PIL
import torch
import torchvision
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from headstart.data.dataset import ImageDataset
from headstart.data.images import decoding
from headstart.data.workers import loader_options, thread_imap, worker_count
from headstart.errors import HeadstartError
from headstart.features.encoder import CPU_CHUNK, Encoder
from headstart.features.store import Array, FeatureStore, Key
from headstart.log import progress_bar
from headstart.processes import everywhere, first_on_node_first, gather, is_first_on_node, rank, world_size

# Images per batch on their way to the encoder, which cuts them to its own chunks.
ENCODING_BATCH = 64
# bf16 has 8 bits of mantissa and float16 has 11, so nothing is lost.
STORED_AS = {"bf16": "float16", "32": "float32"}


class Share(Sampler[tuple[int, int]]):
    """The (view, index) of the samples that a process encodes: every `world_size`-th block of ENCODING_BATCH."""

    def __init__(self, length: int, rank: int, world_size: int) -> None:
        self.view = 0
        self.indices = [i for i in range(length) if i // ENCODING_BATCH % world_size == rank]

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter([(self.view, index) for index in self.indices])


class SplitFeatures:
    """The features of `dataset`, a split or a transform of it; those of a fold are stored with those of all folds.

    Args:
        split: its name, for progress bars and the folder in the store.
        backbone: what identifies the encoder's backbone: arch, weights_sha256, cut, has_photo_features.
        num_workers: processes that decode, or "auto": see headstart.data.workers.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        split: str,
        *,
        encoder: Encoder,
        store: FeatureStore,
        backbone: dict[str, Any],
        num_workers: int | str,
    ) -> None:
        self.labels = torch.tensor(dataset.split.labels)
        self._own = dataset.split.own
        self._dataset = dataset.of_stored()
        self._split = split
        self._name = split if dataset.split.pool is None else "folds"
        self._encoder = encoder
        self._store = store
        self._backbone = backbone
        self._num_workers = num_workers
        self._share = Share(len(self._dataset), rank(), world_size())
        self._latest: tuple[int, Array] | None = None
        self._later = 0

    def encode_view(self, view: int, later: int = 0) -> Array:
        """The features (N, embedding_dim) of one view in the order of the samples, memory-mapped unless of a fold.

        Several processes must call it together: each encodes a share of what is missing. The progress bar shows the
        time that these images take, and the `later` ones that the run may still encode after them.

        Raises:
            HeadstartError: they do not see the same store as the first process of their machine.
        """
        if self._latest is None or self._latest[0] != view:
            self._later = later
            self._latest = view, self._own(self._read_or_encode(view))
        return self._latest[1]

    def close(self) -> None:
        """Ends the worker processes; the garbage collector would wait seconds for them."""
        self.__dict__.pop("_loader", None)

    def _read_or_encode(self, view: int) -> Array:
        if not self._store.has(self.key, view):
            self._encoder.warm_up(self._dataset.transform.image_size)
        if world_size() == 1:
            return self._store_view(view, lambda: self._rows(view))
        found = self._store.read(self.key, view)
        if everywhere(found is not None) and found is not None:
            return found
        # Nobody waits for the lock of the store meanwhile: another job may hold it.
        rows = [block for block in self._rows(view) if is_first_on_node()]
        with first_on_node_first():
            return self._store_view(view, lambda: rows) if is_first_on_node() else self._read_from_neighbour(view)

    def _store_view(self, view: int, rows: Callable[[], Iterable[Array]]) -> Array:
        return self._store.matrix(
            self.key,
            view,
            shape=(len(self._dataset), self._encoder.embedding_dim),
            dtype=STORED_AS[self._encoder.precision],
            rows=rows,
        )

    def _read_from_neighbour(self, view: int) -> Array:
        found = self._store.read(self.key, view)
        if found is None:
            raise HeadstartError("processes on the same machine need the same features.dir, and find different ones")
        return found

    @property
    def key(self) -> Key:
        """Everything the features depend on, known once the encoder is on its device. Compiled code only rounds."""
        # Absent for ordinary images, so that their keys are those of versions that knew no other.
        readings = {"readings": list(found)} if (found := self._dataset.split.readings) else {}
        values: dict[str, Any] = readings | {
            "backbone": self._backbone,
            "transform": self._dataset.transform.spec,
            "data": self._dataset.split.fingerprint,
            "precision": self._encoder.precision,
            "device": self._encoder.device.type,
            "versions": {module.__name__: module.__version__ for module in (torch, torchvision, PIL)},
        }
        return Key(f"{self._backbone['arch']}-{self._name}", values | decoding())

    def _rows(self, view: int) -> Iterator[Array]:
        total = len(self._dataset)
        with progress_bar(f"encoding {self._split} images", total, later=self._later) as advance:
            for features in self._gathered(self._encode(view), total):
                advance(len(features))
                yield features.numpy()

    def _gathered(self, features: Iterator[Tensor], count: int) -> Iterator[Tensor]:
        """The rows of all processes in order, block by block, from those of this one's share."""
        if world_size() == 1:
            yield from features
            return
        left = count
        while left > 0:
            mine = _take(features, ENCODING_BATCH, self._encoder.embedding_dim)
            block = gather(mine).flatten(0, 1)[:left]
            left -= len(block)
            yield block

    def _encode(self, view: int) -> Iterator[Tensor]:
        workers = worker_count(self._num_workers, self._encoder.device)
        if self._encoder.device.type == "cpu" and not workers:
            # Each core decodes, augments and encodes images of its own.
            keys = [(view, index) for index in self._share.indices]
            return thread_imap(
                self._decode_and_encode, [keys[i : i + CPU_CHUNK] for i in range(0, len(keys), CPU_CHUNK)]
            )
        self._share.view = view
        return (self._encoder(images).cpu() for images, _ in self._loader)

    def _decode_and_encode(self, keys: list[tuple[int, int]]) -> Tensor:
        return self._encoder.encode_chunk(torch.stack([self._dataset[key][0] for key in keys]))

    @cached_property
    def _loader(self) -> DataLoader[Any]:
        # Created late, because the device is known late; kept, because worker processes take time to start.
        device, pixels = self._encoder.device, ENCODING_BATCH * self._dataset.transform.image_size**2
        return DataLoader(
            self._dataset,
            batch_size=ENCODING_BATCH,
            sampler=self._share,
            **loader_options(self._num_workers, device, pixels=pixels, kept=self._split == "train"),
            pin_memory=device.type == "cuda",
            # It draws a seed for its workers, which must not come from the stream that dropout draws from.
            generator=torch.Generator(),
        )


def _take(features: Iterator[Tensor], count: int, width: int) -> Tensor:
    """The next `count` rows (count, width); zeros where there are no more."""
    rows = torch.zeros(count, width)
    filled = 0
    while filled < count and (part := next(features, None)) is not None:
        rows[filled : filled + len(part)] = part
        filled += len(part)
    return rows
