"""The LightningDataModule: loaders of (uint8 images or features, labels) for each split."""

import itertools
import time
from typing import Any, cast

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from headstart.config.train import TrainSettings
from headstart.data.dataset import IGNORED, ImageDataset, ViewSampler
from headstart.data.manifest import Manifest, Split
from headstart.data.transforms import EvalTransform, EvalViewsTransform, TrainTransform, Transform
from headstart.data.workers import loader_options
from headstart.features.encode import SplitFeatures
from headstart.features.store import Array, open_store
from headstart.model.classifier import BATCHES, BlockClassifier, Classifier
from headstart.model.image_classifier import ImageClassifier
from headstart.processes import rank, world_size

Loader = DataLoader[Any]
USUAL_EPOCHS = 20


class FeatureDataset(Dataset[tuple[Tensor, Tensor]]):
    """One view of a split: `matrix` holds its features (N, embedding_dim). Batches are float32, with labels (N).

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


class ImageDataModule(LightningDataModule):
    """Epoch `e` trains on view `e` of the train split (or e mod `features.views`); valid and test have one view.

    Without augmentation there is one view. A head that is fitted at once has one epoch, on the unaugmented view.

    While the backbone is frozen, a loader gives features, which are encoded when it is created; then, or without a
    store, it gives images.
    """

    def __init__(self, settings: TrainSettings, manifest: Manifest) -> None:
        super().__init__()
        self.manifest = manifest
        self.encode_seconds = 0.0  # spent so far
        self.settings = settings

    def setup(self, stage: str) -> None:
        self.serve(cast(Classifier, self.trainer.lightning_module))  # type: ignore[union-attr]

    def serve(self, classifier: ImageClassifier) -> None:
        """From here on, loaders give what `classifier` takes. The Trainer calls it by way of `setup`."""
        self._encoder = classifier.encoder
        self._block = BATCHES if isinstance(classifier, BlockClassifier) else 1
        self._frozen_epochs = classifier.recipe.finetune.first_epoch
        preprocessing = classifier.recipe.preprocessing
        self._evaluation = EvalTransform(preprocessing)
        self._views = EvalViewsTransform(preprocessing)
        transforms = self.settings.augment.transforms
        self._trains_unaugmented = classifier.recipe.is_closed_form or not transforms
        training: Transform = self._evaluation
        if not self._trains_unaugmented:
            training = TrainTransform(preprocessing, self.settings.data.seed, transforms)
        self._datasets = {
            name: ImageDataset(split, training, self._keep_bytes)
            if name == "train"
            else ImageDataset(split, self._evaluation)
            for name, split in self.manifest.splits.items()
        }
        self._store = open_store(self.settings.features)
        self._features = {name: self._features_of(name, data) for name, data in self._datasets.items() if self._store}
        self._image_loaders: dict[str, Loader] = {}  # kept, because worker processes take time to start

    def teardown(self, stage: str) -> None:
        for features in self._features.values():
            features.close()

    def train_dataloader(self) -> Loader:
        return self._loader("train", self._sampler("train"))

    def val_dataloader(self) -> Loader:
        return self._loader("valid", self._sampler("valid"))

    def test_dataloader(self) -> Loader:
        return self.whole("test")

    def whole(self, split: str, view: int = 0) -> Loader:
        """The process's share of a whole split, in order; of valid and test, `view` is one of EvalViewsTransform."""
        return self._loader_of_view(split, view) if view else self._loader(split, self._in_order(split), kept=False)

    def first_samples(self, count: int) -> list[tuple[int, int]]:
        """The (view, index) of the first training samples of an epoch."""
        return list(itertools.islice(self._sampler("train"), count))

    @property
    def augmentation(self) -> Transform | None:
        """The train split's transform; None: it is that of evaluation."""
        return None if self._trains_unaugmented else self._datasets["train"].transform

    def unaugmented_features(self) -> dict[str, Array]:
        """The features (N, embedding_dim) of every split under the evaluation transform, in the order of its samples.

        Raises:
            ValueError: there is no store.
        """
        self._encoder.prepare(self._images_to_encode())
        plain = ImageDataset(self._datasets["train"].split, self._evaluation)
        features = self._features | {"train": self._features_of("train", plain)}
        found = {name: of_split.encode_view(0) for name, of_split in features.items()}
        features["train"].close()
        return found

    @property
    def _keep_bytes(self) -> int:
        """The size of the decoded training images that are kept: none, if they are encoded once."""
        settings = self.settings
        has_one_view = settings.features.cache and (self._trains_unaugmented or settings.features.views == 1)
        return 0 if has_one_view and self._frozen_epochs is None else int(settings.data.memory_gb * 1e9)

    @property
    def has_frozen_features(self) -> bool:
        """Whether there is a store, and the backbone stays frozen."""
        return bool(self._features) and self._frozen_epochs is None

    def _features_of(self, name: str, dataset: ImageDataset) -> SplitFeatures:
        if self._store is None:
            raise ValueError("features need a store")
        return SplitFeatures(
            dataset,
            name,
            encoder=self._encoder,
            store=self._store,
            backbone=self._encoder.backbone.source.identity(),
            num_workers=self.settings.data.num_workers,
        )

    def _loader(self, split: str, sampler: ViewSampler, *, kept: bool = True) -> Loader:
        """Of the features of the epoch's view, which are encoded now, or of images; `kept` for other epochs."""
        self._encoder.prepare(self._images_to_encode())
        if self._has_features(split):
            start = time.perf_counter()
            matrix = self._features[split].encode_view(self._view() if split == "train" else 0, self._later(split))
            self.encode_seconds += time.perf_counter() - start
            return self._loader_of_features(split, matrix, sampler, batches=self._block if kept else 1)
        if not kept or split not in self._image_loaders:
            options = self._options(split, sampler) | self._workers
            options["persistent_workers"] &= kept
            loader = DataLoader(self._datasets[split], **options)
            if not kept:
                return loader
            self._image_loaders[split] = loader
        loader = self._image_loaders[split]
        if isinstance(loader.sampler, ViewSampler):
            # The Trainer tells the sampler the epoch only after it has asked for the first batches.
            loader.sampler.set_epoch(self._epoch())
        return loader

    def _loader_of_view(self, split: str, view: int) -> Loader:
        """Of one view of valid or test, in order: its features, which are encoded now, or images."""
        self._encoder.prepare(self._images_to_encode())
        dataset = ImageDataset(self._datasets[split].split, self._views)
        if self._has_features(split):
            features = self._features_of(split, dataset)
            matrix = features.encode_view(view)
            features.close()
            return self._loader_of_features(split, matrix, self._in_order(split))
        sampler = self._in_order(split)
        sampler.set_epoch(view)
        options = self._options(split, sampler) | self._workers | {"persistent_workers": False}
        return DataLoader(dataset, **options)

    def _loader_of_features(self, split: str, matrix: Array, sampler: ViewSampler, *, batches: int = 1) -> Loader:
        """Its items are of `batches` batches each."""
        dataset, options = FeatureDataset(self._datasets[split].split, matrix), self._options(split, sampler)
        options["batch_size"] *= batches
        return DataLoader(dataset, collate_fn=lambda batch: batch, **options)

    @property
    def _workers(self) -> dict[str, Any]:
        data, pixels = self.settings.data, self.settings.data.batch_size * self._evaluation.image_size**2
        return loader_options(data.num_workers, self._encoder.device, pixels=pixels, kept=True)

    def _options(self, split: str, sampler: ViewSampler) -> dict[str, Any]:
        return {
            "batch_size": self.settings.data.batch_size,
            "sampler": sampler,
            "drop_last": split == "train" and self._ends_alone(),
            "pin_memory": torch.cuda.is_available(),
            # It draws a seed for its workers, which must not come from the stream that dropout draws from.
            "generator": torch.Generator(),
        }

    def _sampler(self, split: str) -> ViewSampler:
        settings, labels = self.settings, self._datasets[split].split.labels
        if split != "train":
            return self._in_order(split)
        return ViewSampler(
            len(labels),
            seed=settings.seed,
            balanced=labels if settings.data.balance == "sampler" else None,
            views=settings.features.views,
            rank=rank(),
            world_size=world_size(),
        )

    def _in_order(self, split: str) -> ViewSampler:
        """The process's share of a split's samples, in their order; of view 0, unless its epoch is set to another."""
        return ViewSampler(len(self._datasets[split]), seed=None, rank=rank(), world_size=world_size())

    def _epoch(self) -> int:
        """The epoch that a loader created now is for."""
        if self.trainer is None or self.trainer.overfit_batches:  # type: ignore[attr-defined]
            return 0
        progress: Any = self.trainer.fit_loop.epoch_progress.current
        return int(progress.processed)

    def _view(self) -> int:
        """The view of the train split in that epoch."""
        if self._trains_unaugmented:
            return 0
        views = self.settings.features.views
        return self._epoch() if views is None else self._epoch() % views

    def _later(self, split: str) -> int:
        """How many images this training may still encode after the current view of `split`, stored ones included."""
        if split == "test" or self.trainer is None or self._trains_unaugmented:
            return 0
        epochs, views = self.trainer.max_epochs or 0, self.settings.features.views
        left = (epochs if views is None else min(epochs, views)) - 1 - self._epoch()
        once = ("valid", "test") if split == "train" and self._epoch() == 0 else ("test",)
        return max(0, left) * len(self._datasets["train"]) + sum(len(self._datasets.get(name, ())) for name in once)

    def _has_features(self, split: str) -> bool:
        """Whether the backbone's features, as it is now, are those in the store."""
        if not self._features or self._frozen_epochs is None:
            return bool(self._features)
        # Without a trainer, it is one that has been trained.
        return split != "test" and self.trainer is not None and self._epoch() < self._frozen_epochs

    def _ends_alone(self) -> bool:
        """Whether an epoch's last batch would be a single image, with which BatchNorm cannot be trained."""
        share = -(-len(self._datasets["train"]) // world_size())
        return self._frozen_epochs is not None and share % self.settings.data.batch_size == 1

    def _images_to_encode(self) -> int:
        """In a training of the usual length, whatever the length of this one: the same data run the same code."""
        counts = {name: len(data) for name, data in self._datasets.items()}
        return counts.pop("train") * USUAL_EPOCHS + sum(counts.values())
