"""The LightningDataModule: loaders of (uint8 pictures, labels) for each split."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import torch
from pytorch_lightning import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from headstart.data.dataset import ImageDataset
from headstart.data.images import check_readable
from headstart.data.manifest import Manifest
from headstart.data.sampler import ViewSampler
from headstart.data.transforms import EvalTransform, Preprocessing, TrainTransform

Loader = DataLoader[tuple[Tensor, Tensor]]


class PictureDataModule(LightningDataModule):
    """Epoch `e` trains on view `e` of the train split; the valid and the test split have one view.

    Args:
        manifest: what there is.
        preprocessing: the evaluation transform; the augmentation has the same sizes.
        batch_size: pictures a batch and process.
        num_workers: processes that decode, or "auto".
        seed: of the augmentation and of the order.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        preprocessing: Preprocessing,
        batch_size: int,
        num_workers: int | str,
        seed: int,
    ) -> None:
        super().__init__()
        self.manifest = manifest
        self._preprocessing = preprocessing
        self._batch_size = batch_size
        self._num_workers = worker_count(num_workers)
        self._seed = seed

    def train_dataloader(self) -> Loader:
        return self._loader("train")

    def val_dataloader(self) -> Loader:
        return self._loader("valid")

    def test_dataloader(self) -> Loader:
        return self._loader("test")

    def _loader(self, split: str) -> Loader:
        training = split == "train"
        transform = TrainTransform(self._preprocessing, self._seed) if training else EvalTransform(self._preprocessing)
        dataset = ImageDataset(self.manifest.splits[split], transform)
        options: dict[str, Any] = {"persistent_workers": True} if self._num_workers else {}
        return DataLoader(  # the default collation makes tensors of the labels
            cast(Any, dataset),
            batch_size=self._batch_size,
            sampler=self._sampler(len(dataset), training),
            num_workers=self._num_workers,
            pin_memory=torch.cuda.is_available(),
            # Each iterator draws a seed for its workers; from here, and not from the stream that dropout draws from.
            generator=torch.Generator(),
            **options,
        )

    def _sampler(self, length: int, training: bool) -> ViewSampler:
        trainer = self.trainer
        # A resumed fit asks for its first batches before it tells the sampler the epoch.
        epoch = _epochs_done(trainer) if trainer and training else 0
        return ViewSampler(
            length,
            seed=self._seed if training else None,
            epoch=epoch,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
        )


def _epochs_done(trainer: Trainer) -> int:
    progress: Any = trainer.fit_loop.epoch_progress.current
    return int(progress.processed)


def worker_count(num_workers: int | str) -> int:
    """The number of processes that `data.num_workers` stands for."""
    if num_workers != "auto":
        return int(num_workers)
    cores = core_count()
    return min(cores, 8) if cores > 1 else 0


def core_count() -> int:
    """The cores this process may use, which in a container can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_all_readable(manifest: Manifest) -> None:
    """Decodes every picture once, so that a damaged one is found before hours of training, not after.

    Raises:
        UnreadableImage: names the first unreadable file.
    """
    paths = [split.root / path for split in manifest.splits.values() for path in split.paths]
    # Decoding releases the interpreter's lock.
    with ThreadPoolExecutor(core_count()) as pool:
        for _ in pool.map(check_readable, paths):
            pass
