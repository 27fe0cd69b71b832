"""Trains a classifier and returns it with the weights of its best epoch."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pytorch_lightning import Callback

from headstart.backbones.backbone import Backbone
from headstart.config.features import EncoderSettings
from headstart.config.train import TrainSettings
from headstart.data.manifest import Manifest
from headstart.log import log
from headstart.metrics import Row, full_names
from headstart.model.classifier import Classifier
from headstart.model.closed_form import build_classifier
from headstart.model.image_classifier import ImageClassifier
from headstart.model.recipe import Recipe, recipe_of
from headstart.training.callbacks.best_and_last import BestAndLast
from headstart.training.callbacks.early_stopping import describe_end
from headstart.training.callbacks.history import History
from headstart.training.cores import cores_for_head
from headstart.training.data_module import ImageDataModule
from headstart.training.errors import lightning_errors
from headstart.training.gpus import gpus_sought_once
from headstart.training.signals import sigterm_exits_with_143
from headstart.training.trainer import build_trainer

ClassifierBuilder = Callable[[Backbone, Recipe, EncoderSettings], Classifier]


@dataclass(frozen=True)
class Fitted:
    """`classifier` has the weights of the best epoch and is on the training device; `data` is what it was trained on.

    Epochs count from 1.
    """

    classifier: ImageClassifier
    data: ImageDataModule
    history: list[Row]
    best_epoch: int

    def metrics(self) -> dict[str, float]:
        """The best epoch's validation metrics, its number, and how many epochs there were."""
        (row,) = (row for row in self.history if row["epoch"] == self.best_epoch)
        valid = {name: row[name] for name in sorted(full_names("valid")) if name in row}
        return valid | {"best_epoch": self.best_epoch, "epochs": len(self.history)}


def fit(
    settings: TrainSettings,
    manifest: Manifest,
    backbone: Backbone,
    callbacks: list[Callback],
    build: ClassifierBuilder = build_classifier,
) -> Fitted:
    """Trains, or fits, a new head for the classes of `manifest`, and the backbone as far as `settings.finetune` says.

    `build` makes what Lightning's Trainer trains.

    Raises:
        HeadstartError: the checkpoint does not fit, Lightning rejected a setting, or the training diverged.
    """
    data = ImageDataModule(settings, manifest)
    with sigterm_exits_with_143(), wandb_run_of_its_own(), lightning_errors(settings):
        trainer = build_trainer(settings, callbacks)
        classifier = build(backbone, recipe_of(settings, backbone, manifest), settings.features)
        with cores_for_head(classifier, settings.data.batch_size), gpus_sought_once():
            trainer.fit(classifier, data, ckpt_path=settings.ckpt_path)
    (history,) = (callback for callback in trainer.callbacks if isinstance(callback, History))  # type: ignore[attr-defined]
    (best,) = (callback for callback in trainer.checkpoint_callbacks if isinstance(callback, BestAndLast))
    log.info("%s", describe_end(trainer, best.epoch_of_weights))
    log.info("time spent: %s", history.clock.total)
    # The Trainer has moved it to the CPU.
    classifier.to(trainer.strategy.root_device)
    return Fitted(classifier, data, history.rows, best.epoch_of_weights)


@contextmanager
def wandb_run_of_its_own() -> Iterator[None]:
    """Ends the run of Weights & Biases that the block has started, so that the next training gets another one.

    Lightning's WandbLogger leaves it open and, in the same process, takes any open run for its own. One that was open
    before is the surrounding program's: it is logged to, and stays open.
    """
    before, failed = _open_wandb_run(), True
    try:
        yield
        failed = False
    finally:
        run = _open_wandb_run()
        if run is not None and run is not before:
            run.finish(exit_code=int(failed))


def _open_wandb_run() -> Any:
    return getattr(sys.modules.get("wandb"), "run", None)
