"""A split's features, view by view: out of the store, or encoded now and kept there."""

import sys
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import PIL
import torch
import torchvision
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from headstart.data.dataset import ImageDataset, as_key
from headstart.data.sampler import ViewSampler
from headstart.data.workers import worker_count
from headstart.features.encoder import Encoder
from headstart.features.store import Array, FeatureStore, Key

# Pictures a batch on the way to the encoder, which cuts them to its own measure.
ENCODING_BATCH = 64
# bf16 has 8 bits of mantissa and float16 has 11: nothing is lost. What was computed in 32 bits is kept in 32.
STORED_AS = {"bf16": "float16", "32": "float32"}


class CachedFeatures:
    """The features of `dataset`, by view.

    Args:
        dataset: pictures by (view, index).
        name: of the split; with the architecture it begins the folder's name.
        backbone: what identifies the backbone, as plain values: arch, weights_sha256, cut, knows_photographs.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        *,
        name: str,
        encoder: Encoder,
        store: FeatureStore,
        backbone: dict[str, Any],
        num_workers: int | str,
    ) -> None:
        self.labels = torch.tensor(dataset.split.labels)
        self._dataset = dataset
        self._name = name
        self._encoder = encoder
        self._store = store
        self._backbone = backbone
        self._num_workers = num_workers
        self._sampler = ViewSampler(len(dataset), seed=None)

    @cached_property
    def _loader(self) -> DataLoader[Any]:
        # Made late, because the encoder's device is known late; kept, because workers take time to start.
        workers = worker_count(self._num_workers, self._encoder.device)
        return DataLoader(
            self._dataset,
            batch_size=ENCODING_BATCH,
            sampler=self._sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),
        )

    @property
    def key(self) -> Key:
        """Everything the features depend on. The data are told by the hash of their contents: see Split.fingerprint.

        Some of it depends on the device, so this is known only once the encoder is in its place and prepared.
        """
        values = {
            "backbone": self._backbone,
            "transform": self._dataset.transform.spec,
            "data": self._dataset.split.fingerprint,
            "precision": self._encoder.precision,
            "compiled": self._encoder.compiles,
            "device": self._encoder.device.type,
            "versions": {module.__name__: module.__version__ for module in (torch, torchvision, PIL)},
        }
        return Key(f"{self._backbone['arch']}-{self._name}", values)

    def view(self, view: int) -> Array:
        """The features of one view (N, embedding_dim) in index order, memory-mapped."""
        if not self._store.has(self.key, view):
            # Compilation may fail, and then the key is another.
            self._encoder.warm_up(self._dataset.transform.image_size)
        return self._store.matrix(
            self.key,
            view,
            shape=(len(self._dataset), self._encoder.embedding_dim),
            dtype=STORED_AS[self._encoder.precision],
            rows=lambda: self._encode(view),
        )

    def _encode(self, view: int) -> Iterator[Array]:
        self._sampler.set_epoch(view)
        bar = tqdm(
            total=len(self._dataset),
            desc=f"encoding {self._name} view {view}",
            unit="picture",
            leave=False,
            disable=not sys.stderr.isatty(),
        )
        with bar:
            for features in self._encoder.encode(images for images, _ in self._loader):
                bar.update(len(features))
                yield features.numpy()


class FeatureDataset(Dataset[tuple[Tensor, Tensor]]):
    """A batch for the keys (view, index), all of one view: float32 features (N, embedding_dim), and labels (N).

    The view is asked for when its first batch is.
    """

    def __init__(self, features: CachedFeatures) -> None:
        self._features = features
        self._view: int | None = None
        self._matrix: Array = np.empty((0, 0))

    def __len__(self) -> int:
        return len(self._features.labels)

    def __getitems__(self, keys: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        views, indices = zip(*map(as_key, keys), strict=True)
        if views[0] != self._view:
            self._view = views[0]
            self._matrix = self._features.view(self._view)
        return torch.from_numpy(self._matrix[list(indices)].astype(np.float32)), self._features.labels[list(indices)]
