"""The LightningDataModule: tells a FeatureSource which epoch it is."""

import time

from pytorch_lightning import LightningDataModule, Trainer

from headstart.config.train import TrainSettings
from headstart.features.source import FeatureSource, Loader
from headstart.training.callbacks.history import history_of


class ImageDataModule(LightningDataModule):
    """Gives the Trainer the loaders of each epoch; `encode_seconds` were spent so far on what these needed encoded."""

    trainer: Trainer

    def __init__(self, settings: TrainSettings, source: FeatureSource) -> None:
        super().__init__()
        self.settings, self.source = settings, source
        self.encode_seconds = 0.0

    def train_dataloader(self) -> Loader:
        return self._loader("train")

    def val_dataloader(self) -> Loader:
        return self._loader("valid")

    def teardown(self, stage: str) -> None:
        self.source.close()

    def _loader(self, split: str) -> Loader:
        # Not `current_epoch`, which Lightning sets right only after a resumed run has asked for its first loaders.
        epoch = 0 if self.trainer.overfit_batches else len(history_of(self.trainer))  # type: ignore[attr-defined]
        start = time.perf_counter()
        loader = self.source.epoch_loader(split, epoch, later=self._later(split, epoch))
        if self.source.has_features(epoch):
            self.encode_seconds += time.perf_counter() - start
        return loader

    def _later(self, split: str, epoch: int) -> int:
        """Returns how many images this training may still encode after the view of `split`, stored ones included."""
        if self.source.augmentation is None:
            return 0
        left = self.source.views_of(self.trainer.max_epochs or 0) - 1 - epoch
        once = ("valid", "test") if split == "train" and epoch == 0 else ("test",)
        splits = self.source.manifest.splits
        return max(0, left) * len(splits["train"]) + sum(len(splits.get(name, ())) for name in once)
