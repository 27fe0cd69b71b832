"""The LightningDataModule: loaders of (uint8 pictures or features, labels) for each split."""

from typing import Any

import torch
from pytorch_lightning import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from headstart.data.cached import CachedFeatures, FeatureDataset
from headstart.data.dataset import ImageDataset
from headstart.data.manifest import Manifest
from headstart.data.sampler import ViewSampler
from headstart.data.transforms import EvalTransform, Preprocessing, TrainTransform, Transform
from headstart.data.workers import worker_count
from headstart.features.encoder import Encoder
from headstart.features.store import Array, FeatureStore

Loader = DataLoader[Any]
# Stands for a training without an end, where it is asked how many views there will be.
MANY_EPOCHS = 1000


class PictureDataModule(LightningDataModule):
    """Epoch `e` trains on view `e` of the train split (or e mod `views`); valid and test have one view.

    Args:
        manifest: what there is.
        preprocessing: the evaluation transform; the augmentation has the same sizes.
        batch_size: pictures a batch and process.
        num_workers: processes that decode, or "auto": see headstart.data.workers.
        seed: of the augmentation and of the order.
        views: how many views of the train split there are; None: one an epoch.
        frozen_epochs: how many the backbone stays as it is, so that the store may serve; None: all of them.
        balanced: whether to train on equally many pictures of each class.
        encoder: what encodes pictures on a miss of the store, and in the classifier where there is no store.
        store: where features are kept; None: batches are pictures.
        backbone: what identifies the encoder's backbone in the store, as plain values.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        preprocessing: Preprocessing,
        batch_size: int,
        num_workers: int | str,
        seed: int,
        views: int | None,
        frozen_epochs: int | None,
        balanced: bool,
        encoder: Encoder,
        store: FeatureStore | None,
        backbone: dict[str, Any],
    ) -> None:
        super().__init__()
        self.manifest = manifest
        self._batch_size = batch_size
        self._num_workers = num_workers
        self._seed = seed
        self._views = views
        self._frozen_epochs = frozen_epochs
        self._balanced = balanced
        self._encoder = encoder
        self._store = store
        self._backbone = backbone
        self._evaluation = EvalTransform(preprocessing)
        transforms: dict[str, Transform] = {"train": TrainTransform(preprocessing, seed)}
        self._datasets = {
            name: ImageDataset(split, transforms.get(name, self._evaluation)) for name, split in manifest.splits.items()
        }
        # By split, and whether they give features.
        self._samplers: dict[tuple[str, bool], ViewSampler] = {}
        self._loaders: dict[tuple[str, bool], Loader] = {}
        self._cached: dict[str, CachedFeatures] = {}
        if store is not None:
            self._cached = {name: self._features_of(name, data, store) for name, data in self._datasets.items()}

    def train_dataloader(self) -> Loader:
        return self._loader("train")

    def val_dataloader(self) -> Loader:
        return self._loader("valid")

    def test_dataloader(self) -> Loader:
        return self._loader("test")

    def unaugmented_features(self) -> dict[str, Array]:
        """The features (N, embedding_dim) of every split under the evaluation transform, in the order of its samples.

        Raises:
            ValueError: there is no store.
        """
        if self._store is None:
            raise ValueError("features are kept in a store, and there is none")
        self._encoder.prepare(self._pictures_to_encode())
        plain = ImageDataset(self.manifest.splits["train"], self._evaluation)
        cached = self._cached | {"train": self._features_of("train", plain, self._store)}
        return {name: features.view(0) for name, features in cached.items()}

    def _features_of(self, name: str, dataset: ImageDataset, store: FeatureStore) -> CachedFeatures:
        return CachedFeatures(
            dataset,
            name=name,
            encoder=self._encoder,
            store=store,
            backbone=self._backbone,
            num_workers=self._num_workers,
        )

    def _loader(self, split: str) -> Loader:
        # Asked for again in each epoch, if the backbone is freed on the way; given again, because workers take time.
        self._encoder.prepare(self._pictures_to_encode())
        epoch, served = self._epoch(), self._is_served(split)
        if (split, served) not in self._loaders:
            self._samplers[split, served] = self._sampler(split)
            self._loaders[split, served] = self._new_loader(split, served)
        loader = self._loaders[split, served]
        # The Trainer tells the sampler the epoch only after it has asked for the first batches.
        self._samplers[split, served].set_epoch(epoch if split == "train" else 0)
        return loader

    def _epoch(self) -> int:
        return _epochs_done(self.trainer) if self.trainer else 0

    def _is_served(self, split: str) -> bool:
        """Whether the store has what the backbone, as it is now, makes of the pictures."""
        if not self._cached or self._frozen_epochs is None:
            return bool(self._cached)
        return split != "test" and self._epoch() < self._frozen_epochs

    def _new_loader(self, split: str, served: bool) -> Loader:
        if served:
            # The dataset makes whole batches, faster than a worker could hand them over.
            options: dict[str, Any] = {"dataset": FeatureDataset(self._cached[split]), "collate_fn": _as_it_is}
        else:
            pictures = self._datasets[split]
            workers = worker_count(self._num_workers, self._encoder.device)
            options = {"dataset": pictures, "num_workers": workers, "persistent_workers": workers > 0}
        return DataLoader(
            batch_size=self._batch_size,
            sampler=self._samplers[split, served],
            drop_last=split == "train" and self._ends_alone(),
            pin_memory=torch.cuda.is_available(),
            # Each iterator draws a seed for its workers; from here, and not from the stream that dropout draws from.
            generator=torch.Generator(),
            **options,
        )

    def _ends_alone(self) -> bool:
        """Whether an epoch's last batch would be of one picture, another one in each epoch.

        BatchNorm cannot be trained with it.
        """
        return self._frozen_epochs is not None and len(self._datasets["train"]) % self._batch_size == 1

    def _sampler(self, split: str) -> ViewSampler:
        training, trainer = split == "train", self.trainer
        return ViewSampler(
            len(self._datasets[split]),
            seed=self._seed if training else None,
            balanced=self._datasets[split].split.labels if training and self._balanced else None,
            views=self._views if training else 1,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
        )

    def _pictures_to_encode(self) -> int:
        """In a whole training from empty caches that does not stop early, also if this is a part of it or its test."""
        epochs = self.trainer.max_epochs if self.trainer else 1
        passes = MANY_EPOCHS if epochs is None or epochs < 0 else epochs
        if self._frozen_epochs is not None:
            passes = min(passes, self._frozen_epochs)
        views = min(passes, self._views or passes) if self._cached else passes
        counts = self.manifest.counts()
        return counts.pop("train") * views + sum(counts.values())


def _as_it_is(batch: Any) -> Any:
    return batch


def _epochs_done(trainer: Trainer) -> int:
    progress: Any = trainer.fit_loop.epoch_progress.current
    return int(progress.processed)
