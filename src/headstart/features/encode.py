"""The features of a split, view by view: read from the store, or encoded now and stored."""

import sys
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import PIL
import torch
import torchvision
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from headstart.data.dataset import ImageDataset
from headstart.data.sampler import ViewSampler
from headstart.data.workers import loader_options, thread_imap, worker_count
from headstart.features.encoder import CPU_CHUNK, Encoder
from headstart.features.store import Array, FeatureStore, Key

# Images per batch on their way to the encoder, which cuts them to its own chunks.
ENCODING_BATCH = 64
# bf16 has 8 bits of mantissa and float16 has 11, so nothing is lost.
STORED_AS = {"bf16": "float16", "32": "float32"}


class SplitFeatures:
    """The features of `dataset`, a split or a transform of it.

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
        self._dataset = dataset
        self._split = split
        self._encoder = encoder
        self._store = store
        self._backbone = backbone
        self._num_workers = num_workers
        self._sampler = ViewSampler(len(dataset), seed=None)
        self._latest: tuple[int, Array] | None = None

    def encode_view(self, view: int) -> Array:
        """The features (N, embedding_dim) of one view in the order of the samples, memory-mapped."""
        if self._latest is None or self._latest[0] != view:
            self._latest = view, self._read_or_encode(view)
        return self._latest[1]

    def close(self) -> None:
        """Ends the worker processes; the garbage collector would wait seconds for them."""
        self.__dict__.pop("_loader", None)

    def _read_or_encode(self, view: int) -> Array:
        if not self._store.has(self.key, view):
            self._encoder.warm_up(self._dataset.transform.image_size)
        return self._store.matrix(
            self.key,
            view,
            shape=(len(self._dataset), self._encoder.embedding_dim),
            dtype=STORED_AS[self._encoder.precision],
            rows=lambda: self._rows(view),
        )

    @property
    def key(self) -> Key:
        """Everything the features depend on, known once the encoder is on its device. Compiled code only rounds."""
        values = {
            "backbone": self._backbone,
            "transform": self._dataset.transform.spec,
            "data": self._dataset.split.fingerprint,
            "precision": self._encoder.precision,
            "device": self._encoder.device.type,
            "versions": {module.__name__: module.__version__ for module in (torch, torchvision, PIL)},
        }
        return Key(f"{self._backbone['arch']}-{self._split}", values)

    def _rows(self, view: int) -> Iterator[Array]:
        title, total = f"encoding {self._split} view {view}", len(self._dataset)
        with tqdm(total=total, desc=title, unit="image", leave=False, disable=not sys.stderr.isatty()) as bar:
            for features in self._encode(view):
                bar.update(len(features))
                yield features.numpy()

    def _encode(self, view: int) -> Iterator[Tensor]:
        workers = worker_count(self._num_workers, self._encoder.device)
        if self._encoder.device.type == "cpu" and not workers:
            # Each core decodes, augments and encodes images of its own.
            keys = [(view, index) for index in range(len(self._dataset))]
            return thread_imap(
                self._decode_and_encode, [keys[i : i + CPU_CHUNK] for i in range(0, len(keys), CPU_CHUNK)]
            )
        self._sampler.set_epoch(view)
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
            sampler=self._sampler,
            **loader_options(self._num_workers, device, pixels=pixels, kept=self._split == "train"),
            pin_memory=device.type == "cuda",
            # It draws a seed for its workers, which must not come from the stream that dropout draws from.
            generator=torch.Generator(),
        )
