"""Trains a classifier, and returns it with the best epoch's weights."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from pytorch_lightning import Callback

from headstart.backbones.backbone import Backbone
from headstart.config.model import AUTO, MEAN
from headstart.config.train import TrainSettings, with_head
from headstart.data.manifest import Manifest
from headstart.features.source import FeatureSource
from headstart.log import log
from headstart.machine import training_device
from headstart.metrics import Row, full_names
from headstart.model.checkpoint import read_checkpoint
from headstart.model.classifier import Classifier, ClosedFormClassifier, build_classifier
from headstart.model.image_classifier import ImageClassifier
from headstart.model.recipe import recipe_of
from headstart.training.callbacks.best_and_last import BestAndLast
from headstart.training.callbacks.early_stopping import describe_end
from headstart.training.callbacks.history import History
from headstart.training.data_module import ImageDataModule
from headstart.training.head_choice import choose_head
from headstart.training.trainer import build_trainer, lightning_errors

# Multiplications of a step's forward pass up to which threads wait for each other longer than they compute.
SHORT_STEP = 100e6


@contextmanager
def cores_for_head(classifier: Classifier, batch_size: int) -> Iterator[None]:
    """Lets the steps of a new head on a frozen backbone use one core within the block, unless they are long.

    The backbone's forward passes use all of them: each encodes images of its own.
    """
    multiplications = batch_size * sum(parameter.numel() for parameter in classifier.head.parameters())
    recipe, threads = classifier.recipe, torch.get_num_threads()
    if recipe.finetune.first_epoch is None and not recipe.is_closed_form and multiplications <= SHORT_STEP:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


# Lightning sets it, so that PyTorch asks NVIDIA's driver, which leaves CUDA untouched.
ASKS_DRIVER = "PYTORCH_NVML_BASED_CUDA_CHECK"


@contextmanager
def skip_cuda_probe() -> Iterator[None]:
    """Keeps PyTorch from looking for a GPU's driver again within the block, if there is none.

    Every step of an optimizer asks whether there is a GPU, and looking takes a twentieth of a step of a new head.
    """
    before = os.environ.get(ASKS_DRIVER)
    if torch.cuda.is_available() or before is None:
        yield
        return
    os.environ[ASKS_DRIVER] = "0"
    try:
        yield
    finally:
        os.environ[ASKS_DRIVER] = before


@contextmanager
def sigterm_exits_with_143() -> Iterator[None]:
    """Lets SIGTERM end the program with status 143; Lightning would end it with status 0."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass(frozen=True)
class Fitted:
    """Holds what a fit gives: `classifier`, on the training device, has the best epoch's weights, counted from 1.

    `source` gives it the batches of its data.
    """

    classifier: ImageClassifier
    source: FeatureSource
    history: list[Row]
    best_epoch: int

    def metrics(self) -> dict[str, float]:
        """Returns the best epoch's validation metrics, its number, and how many epochs there were."""
        (row,) = (row for row in self.history if row["epoch"] == self.best_epoch)
        valid = {name: row[name] for name in sorted(full_names("valid")) if name in row}
        return valid | {"best_epoch": self.best_epoch, "epochs": len(self.history)}


def fit(settings: TrainSettings, manifest: Manifest, backbone: Backbone, callbacks: list[Callback]) -> Fitted:
    """Trains a new head for the classes of `manifest`, and the backbone as far as `settings.finetune` says.

    A closed-form head is computed instead, and the ridge regression of model.head=mean first.

    Raises:
        HeadstartError: the checkpoint does not fit, Lightning rejected a setting, or the training diverged.
    """
    with sigterm_exits_with_143(), lightning_errors(settings):
        if settings.model.head == AUTO:
            settings = with_head(settings, _chosen_head(settings, manifest, backbone))
        trainer = build_trainer(settings, callbacks)
        classifier = build_classifier(backbone, recipe_of(settings, backbone, manifest), settings.features)
        source = classifier.feature_source(settings, manifest)
        if isinstance(classifier, ClosedFormClassifier):
            classifier.order = torch.tensor(source.train_order())
            classifier.units = torch.from_numpy(manifest.units["train"])
        if classifier.recipe.head == MEAN and settings.ckpt_path is None:
            classifier.encoder.to(training_device(settings.trainer))
            features, labels = source.unaugmented_train().astype(np.float32), np.array(manifest.splits["train"].labels)
            classifier.fit_ridge(*map(torch.from_numpy, (features, labels, manifest.units["train"])))
        with cores_for_head(classifier, settings.data.batch_size), skip_cuda_probe():
            trainer.fit(classifier, ImageDataModule(settings, source), ckpt_path=settings.ckpt_path)
    (history,) = (callback for callback in trainer.callbacks if isinstance(callback, History))  # type: ignore[attr-defined]
    (best,) = (callback for callback in trainer.checkpoint_callbacks if isinstance(callback, BestAndLast))
    log.info("%s", describe_end(trainer, best.epoch_of_weights))
    log.info("time spent: %s", history.clock.total)
    # The Trainer has moved it to the CPU.
    classifier.to(trainer.strategy.root_device)
    return Fitted(classifier, source, history.rows, best.epoch_of_weights)


def _chosen_head(settings: TrainSettings, manifest: Manifest, backbone: Backbone) -> str:
    if settings.ckpt_path is not None:
        return str(read_checkpoint(Path(settings.ckpt_path))["hyper_parameters"]["head"])
    return choose_head(settings, manifest, backbone)
