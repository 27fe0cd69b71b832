"""(split, view) → features: read from the store, or encoded now and stored. The only way from an image to its features.

`SplitFeatures` has the views of one split, from `PoolFeatures`, which has those of images that are stored together.
`FeatureSource` has all splits of a manifest, and batches of them for training and evaluation: of features or, where
these are not stored, of images.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import PIL
import torch
import torchvision
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from headstart.backbones.backbone import Backbone
from headstart.config.model import AUTO
from headstart.config.train import TrainSettings
from headstart.data.dataset import (
    IGNORED,
    EvalTransform,
    EvalViewsTransform,
    ImageDataset,
    PlainFirstTransform,
    TrainTransform,
    Transform,
    ViewSampler,
)
from headstart.data.images import decoding
from headstart.data.manifest import Manifest, Split
from headstart.data.preprocessing import Array, Preprocessing
from headstart.errors import HeadstartError
from headstart.features.encoder import Encoder, map_batches
from headstart.features.store import FeatureStore, Key, open_store
from headstart.log import progress_bar
from headstart.machine import training_device
from headstart.processes import (
    everywhere,
    first_on_node_first,
    gather,
    is_first_on_node,
    loader_options,
    rank,
    world_size,
)

Loader = DataLoader[Any]
# Images per batch on their way to the encoder, which cuts them to its own chunks.
ENCODING_BATCH = 64
# bf16 has 8 bits of mantissa and float16 has 11, so nothing is lost.
STORED_AS = {"bf16": "float16", "32": "float32"}
# Epochs of a training of the usual length.
USUAL_EPOCHS = 20
# Views of each training image with features.views=auto, the unaugmented one included: more of them cost time, and bring
# less than another seed does (benchmarks/views.py).
FEW_VIEWS = 2


class SplitFeatures:
    """Gives the features of `dataset`, a split under one transform, which are stored with those of its pools.

    Args:
        split: its name.
        num_workers: processes that decode, or "auto": see headstart.processes.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        split: str,
        *,
        encoder: Encoder,
        store: FeatureStore,
        num_workers: int | str,
    ) -> None:
        self._own = dataset.split.own
        # The split's own images first; a fold's are stored with those of all folds.
        self.pools = [
            PoolFeatures(pool, pool.split.stored_as if number else split, encoder, store, num_workers)
            for number, pool in enumerate(dataset.of_stored())
        ]
        self._latest: tuple[int, Array] | None = None

    def encode_view(self, view: int, later: int = 0) -> Array:
        """Returns the features (N, embedding_dim) of one view in the samples' order, memory-mapped unless of a pool.

        Several processes must call it together: each encodes a share of what is missing. The progress bar shows the
        time that these images take, and the `later` ones that the run may still encode after them.

        Raises:
            HeadstartError: they do not see the same store as the first process of their machine.
        """
        if self._latest is None or self._latest[0] != view:
            self._latest = view, self._own([pool.encode_view(view, later) for pool in self.pools])
        return self._latest[1]

    def close(self) -> None:
        """Ends the worker processes; the garbage collector would wait seconds for them."""
        for pool in self.pools:
            pool.close()


class PoolFeatures:
    """Gives the features of `dataset`, images that are stored together, of the split `split`: see `SplitFeatures`."""

    def __init__(
        self, dataset: ImageDataset, split: str, encoder: Encoder, store: FeatureStore, num_workers: int | str
    ) -> None:
        self._dataset = dataset
        self._split = split
        self._name = dataset.split.stored_as or split
        self._encoder = encoder
        self._store = store
        self._num_workers = num_workers
        # The (view, index) of what this process encodes: every `world_size`-th block of ENCODING_BATCH.
        indices = range(len(self._dataset))
        self._share = [(0, i) for i in indices if i // ENCODING_BATCH % world_size() == rank()]
        self._later = 0

    def close(self) -> None:
        """Ends the worker processes, as `SplitFeatures.close` does."""
        self.__dict__.pop("_loader", None)

    def encode_view(self, view: int, later: int) -> Array:
        """Returns the features (N, embedding_dim) of one view, memory-mapped; see `SplitFeatures.encode_view`."""
        self._later = later
        if not self._store.has(self.key(view), view):
            self._encoder.warm_up(self._dataset.transform.image_size)
        if world_size() == 1:
            return self._store_view(view, lambda: self._rows(view))
        stored = self._store.read(self.key(view), view)
        if everywhere(stored is not None) and stored is not None:
            return stored
        # Nobody waits for the lock of the store meanwhile: another job may hold it.
        rows = self._gathered(view)
        with first_on_node_first():
            if is_first_on_node():
                return self._store_view(view, lambda: rows)
            stored = self._store.read(self.key(view), view)
        if stored is None:
            raise HeadstartError("processes on the same machine need the same features.dir, and find different ones")
        return stored

    def _store_view(self, view: int, rows: Callable[[], Iterable[Array]]) -> Array:
        return self._store.get_or_compute(
            self.key(view),
            view,
            shape=(len(self._dataset), self._encoder.embedding_dim),
            dtype=STORED_AS[self._encoder.precision],
            rows=rows,
        )

    def key(self, view: int) -> Key:
        """Returns all that the features of a view depend on, once the encoder is on its device.

        Compiled code only rounds.
        """
        transform = self._dataset.transform
        if isinstance(transform, PlainFirstTransform):
            transform = transform.of_view(view)
        # Absent for ordinary images, so that their keys are those of versions that knew no other.
        split = self._dataset.split
        values: dict[str, Any] = ({"readings": list(split.readings)} if split.readings else {}) | {
            "backbone": self._encoder.backbone.source.identity(),
            "transform": transform.spec,
            "data": split.fingerprint,
            "precision": self._encoder.precision,
            "device": self._encoder.device.type,
            "versions": {module.__name__: module.__version__ for module in (torch, torchvision, PIL)},
        }
        return Key(f"{values['backbone']['arch']}-{self._name}", values | decoding())

    def _rows(self, view: int) -> Iterator[Array]:
        """Yields the features of this process's share, in order."""
        # In place, because the loader keeps the list.
        self._share[:] = [(view, index) for _, index in self._share]
        batches = map_batches(lambda batch: self._encoder(batch[0]).cpu(), self._loader, self._encoder.device)
        total = len(self._share) * world_size()
        with progress_bar(f"encoding {self._split} images", total, later=self._later) as advance:
            for features in batches:
                advance(len(features) * world_size())
                # Under DDP, what is unfrozen later requires gradients already.
                yield features.detach().numpy()

    def _gathered(self, view: int) -> list[Array]:
        """Returns the features of all processes in order, block by block; [] unless this is the first on its node."""
        size, filled = ENCODING_BATCH * world_size(), 0
        # Equally long in all processes; what is beyond the last image is cut off.
        mine = torch.zeros(-(-len(self._dataset) // size) * ENCODING_BATCH, self._encoder.embedding_dim)
        for features in self._rows(view):
            mine[filled : filled + len(features)] = torch.from_numpy(features)
            filled += len(features)
        blocks = (gather(block).flatten(0, 1).numpy() for block in mine.split(ENCODING_BATCH))
        ends = range(len(self._dataset), 0, -size)
        return [block[:end] for block, end in zip(blocks, ends, strict=True) if is_first_on_node()]

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


# All splits, and batches of them.


class FeatureDataset(Dataset[tuple[Tensor, Tensor]]):
    """Holds one view of a split: `matrix` has its features (N, embedding_dim). Batches are float32, with labels (N).

    PADDING has the features of the last sample, and the label IGNORED.
    """

    def __init__(self, split: Split, matrix: Array) -> None:
        self.split = split
        self._matrix = matrix
        self._labels = torch.tensor([*split.labels, IGNORED])

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, keys: list[tuple[int, int] | int]) -> tuple[Tensor, Tensor]:
        # The Trainer's `overfit_batches` replaces our sampler by one of plain indices.
        indices = [key if isinstance(key, int) else key[1] for key in keys]
        return torch.from_numpy(self._matrix[indices].astype(np.float32)), self._labels[indices]


class FeatureSource:
    """Gives the features of every split of `manifest`, and loaders of batches of (features or images, labels).

    Epoch `e` has view `e` of the train split, or e mod `features.views`, or its only view without augmentation. With
    features.views=auto, view 0 is not augmented, and FEW_VIEWS views take turns while the backbone is frozen. The other
    splits have one view. While the backbone is frozen, loaders give features, which are encoded when the loader
    is created; afterwards, or without a store, they give images.

    Args:
        settings: those of data, features and augmentation, and the seed.
        encoder: computes what is not stored, on the device where it is then.
        preprocessing: the classifier's.
        augments: whether the train split has a new view in each epoch, if there are transforms.
        frozen_epochs: the number of epochs for which the backbone stays frozen; None: all.
    """

    def __init__(
        self,
        settings: TrainSettings,
        manifest: Manifest,
        encoder: Encoder,
        preprocessing: Preprocessing,
        *,
        augments: bool = False,
        frozen_epochs: int | None = None,
    ) -> None:
        self.manifest = manifest
        self._settings = settings
        self._encoder = encoder
        self._frozen_epochs = frozen_epochs
        self._plain, self._views = EvalTransform(preprocessing), EvalViewsTransform(preprocessing)
        # What augments the train split; None: it is seen as the others are.
        self.augmentation: Transform | None = None
        if augments and settings.augment.transforms:
            augmented = TrainTransform(preprocessing, settings.data.seed, settings.augment.transforms)
            has_few = settings.features.views == AUTO
            self.augmentation = PlainFirstTransform(self._plain, augmented) if has_few else augmented
        self._datasets = {name: ImageDataset(split, self._plain) for name, split in manifest.splits.items()}
        training = self.augmentation or self._plain
        self._datasets["train"] = ImageDataset(manifest.splits["train"], training, self._keep_bytes)
        self._store = open_store(settings.features)
        self._features = {name: self._features_of(name, data) for name, data in self._datasets.items() if self._store}
        self._image_loaders: dict[str, Loader] = {}  # kept, because worker processes take time to start

    @property
    def is_stored(self) -> bool:
        """Whether features are all that is ever needed: there is a store, and the backbone stays frozen."""
        return self._store is not None and self._frozen_epochs is None

    def has_features(self, epoch: int) -> bool:
        """Whether the loaders of `epoch` give features."""
        return self._store is not None and self._is_frozen(epoch)

    def view_of(self, epoch: int) -> int:
        """Returns the view of the train split in `epoch`."""
        views = self._settings.features.views
        if self.augmentation is None:
            return 0
        if views == AUTO:
            # Nothing is saved by taking turns where a backbone that is trained sees the images themselves.
            views = FEW_VIEWS if self._is_frozen(epoch) else None
        return epoch if views is None else epoch % int(views)

    def views_of(self, epochs: int) -> int:
        """Returns the number of views of the train split whose features `epochs` epochs need."""
        return len({self.view_of(epoch) for epoch in range(epochs) if self._is_frozen(epoch)})

    def augmented_views(self, epochs: int) -> dict[int, int]:
        """Returns the augmented views of the train split in the first epochs, each with its first epoch."""
        views = {self.view_of(epoch): epoch for epoch in reversed(range(epochs)) if self.augmentation is not None}
        if isinstance(self.augmentation, PlainFirstTransform):
            del views[0]
        return dict(sorted(views.items()))

    def _is_frozen(self, epoch: int) -> bool:
        return self._frozen_epochs is None or epoch < self._frozen_epochs

    def unaugmented(self) -> dict[str, Array]:
        """Returns the features (N, embedding_dim) of every split under the evaluation transform, in order.

        Raises:
            ValueError: there is no store.
        """
        if self._store is None:
            raise ValueError("features need a store")
        self._prepare()
        splits = self._features.items()
        return {name: self.unaugmented_train() if name == "train" else split.encode_view(0) for name, split in splits}

    def unaugmented_train(self) -> Array:
        """Returns `unaugmented` of the train split alone; without a store, it is encoded now."""
        self._prepare()
        dataset = ImageDataset(self.manifest.splits["train"], self._plain)
        if self._store is None:
            self._encoder.warm_up(self._plain.image_size)
            loader = self._image_loader("train", dataset, self._in_order("train"), kept=False)
            batches = map_batches(lambda batch: self._encoder(batch[0]).detach().cpu(), loader, self._encoder.device)
            return torch.cat(list(batches)).numpy()
        features = self._features_of("train", dataset)
        matrix = features.encode_view(0)
        features.close()
        return matrix

    def epoch_loader(self, split: str, epoch: int, *, later: int = 0) -> Loader:
        """Returns this process's share of train or valid in `epoch`, train in an order of its own.

        `later` is the number of images that the training may still encode after these, for the progress bar.
        """
        self._prepare()
        if self.has_features(epoch):
            matrix = self._features[split].encode_view(self.view_of(epoch) if split == "train" else 0, later)
            return self._feature_loader(split, matrix, self._sampler(split))
        if split not in self._image_loaders:
            self._image_loaders[split] = self._image_loader(split, self._datasets[split], self._sampler(split))
        loader = self._image_loaders[split]
        if isinstance(loader.sampler, ViewSampler):
            # The Trainer tells the sampler the epoch only after it has asked for the first batches.
            loader.sampler.set_epoch(epoch)
        return loader

    def eval_loader(self, split: str, view: int = 0) -> Loader:
        """Returns this process's share of a whole split, in order, for a trained classifier.

        `view` is one of EvalViewsTransform; 0 is what validation sees during the training.
        """
        self._prepare()
        sampler, dataset = self._in_order(split), self._datasets[split]
        if view:
            dataset = ImageDataset(self.manifest.splits[split], self._views)
            sampler.set_epoch(view)
        if not self.is_stored:
            return self._image_loader(split, dataset, sampler, kept=False)
        features = self._features_of(split, dataset) if view else self._features[split]
        matrix = features.encode_view(view)
        if view:
            features.close()
        return self._feature_loader(split, matrix, sampler)

    def train_order(self) -> list[int]:
        """Returns the indices of the training samples in the order of the first epoch, of all processes together."""
        return [index for _, index in self._sampler("train", rank=0, world_size=1)]

    def first_samples(self, count: int) -> list[tuple[int, int]]:
        """Returns the (view, index) of the first training samples of the first epoch."""
        return list(islice(self._sampler("train"), count))

    def close(self) -> None:
        """Ends the worker processes that encode."""
        for features in self._features.values():
            features.close()

    def _prepare(self) -> None:
        # In a training of the usual length, whatever the length of this one: the same data run the same code.
        counts = {name: len(data) for name, data in self._datasets.items()}
        self._encoder.prepare(counts.pop("train") * self.views_of(USUAL_EPOCHS) + sum(counts.values()))

    @property
    def _keep_bytes(self) -> int:
        """Returns how many bytes of decoded training images are kept: none, if they are encoded once."""
        are_encoded_once = self._settings.features.cache and self._frozen_epochs is None
        has_one_view = self.views_of(USUAL_EPOCHS) == 1
        return 0 if are_encoded_once and has_one_view else int(self._settings.data.memory_gb * 1e9)

    def _features_of(self, name: str, dataset: ImageDataset) -> SplitFeatures:
        if self._store is None:
            raise ValueError("features need a store")
        return SplitFeatures(
            dataset,
            name,
            encoder=self._encoder,
            store=self._store,
            num_workers=self._settings.data.num_workers,
        )

    def _feature_loader(self, split: str, matrix: Array, sampler: ViewSampler) -> Loader:
        dataset = FeatureDataset(self.manifest.splits[split], matrix)
        return DataLoader(dataset, collate_fn=lambda batch: batch, **self._options(split, sampler))

    def _image_loader(self, split: str, dataset: ImageDataset, sampler: ViewSampler, *, kept: bool = True) -> Loader:
        data, pixels = self._settings.data, self._settings.data.batch_size * self._plain.image_size**2
        workers = loader_options(data.num_workers, self._encoder.device, pixels=pixels, kept=kept)
        return DataLoader(dataset, **self._options(split, sampler), **workers)

    def _options(self, split: str, sampler: ViewSampler) -> dict[str, Any]:
        return {
            "batch_size": self._settings.data.batch_size,
            "sampler": sampler,
            "drop_last": split == "train" and self._ends_alone(),
            "pin_memory": torch.cuda.is_available(),
            # It draws a seed for its workers, which must not come from the stream that dropout draws from.
            "generator": torch.Generator(),
        }

    def _ends_alone(self) -> bool:
        """Whether an epoch's last batch would be a single image, with which BatchNorm cannot be trained."""
        share = -(-len(self._datasets["train"]) // world_size())
        return self._frozen_epochs is not None and share % self._settings.data.batch_size == 1

    def _sampler(self, split: str, **share: int) -> ViewSampler:
        """The order of a split's samples; `share` may be another one than this process's."""
        if split != "train":
            return self._in_order(split)
        settings, labels = self._settings, self.manifest.splits["train"].labels
        return ViewSampler(
            len(labels),
            seed=settings.seed,
            balanced=labels if settings.data.balance == "sampler" else None,
            view_of=self.view_of,
            **{"rank": rank(), "world_size": world_size()} | share,
        )

    def _in_order(self, split: str) -> ViewSampler:
        """Returns this process's share of a split, in order; of view 0, unless its epoch is set to another."""
        return ViewSampler(len(self._datasets[split]), seed=None, rank=rank(), world_size=world_size())


def encode_unaugmented(settings: TrainSettings, manifest: Manifest, backbone: Backbone) -> dict[str, Array]:
    """Returns the features (N, embedding_dim) of each split, stored or computed now, where training would run.

    Afterwards, `backbone` is on that device.
    """
    encoder = Encoder(backbone, precision=settings.features.precision, compile=settings.features.compile)
    encoder.to(training_device(settings.trainer))
    return FeatureSource(
        settings, manifest, encoder, replace(backbone.preprocessing, depth=manifest.depth)
    ).unaugmented()
