"""What can be checked before data are downloaded, generated or scanned."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from PIL import Image

from headstart.backbones.load import check_backbone, preprocessing_of
from headstart.config.augment import RECIPE
from headstart.config.literal import is_encodable
from headstart.config.train import EVALUATING, TrainSettings
from headstart.data.transforms import TrainTransform
from headstart.log import log
from headstart.model.checkpoint import check_loadable, read_checkpoint
from headstart.model.recipe import check_unchanged
from headstart.report.run_record import warn_about_versions
from headstart.run_folder import checkpoint_file, run_folder_of
from headstart.training.errors import lightning_errors
from headstart.training.trainer import build_trainer


def check_without_data(settings: TrainSettings) -> TrainSettings:
    """The settings, with the checkpoint's file where `ckpt_path` is the folder of a run.

    Raises:
        HeadstartError: the checkpoint, the architecture or the weights could not be used, or Lightning rejected a
            setting of the trainer, a callback or a logger.
    """
    evaluates = settings.task in EVALUATING
    if not is_encodable(settings.run_dir):
        settings = _without_loggers(settings)
    if settings.task not in ("audit", "export"):
        with lightning_errors(settings):
            build_trainer(settings)
    if settings.ckpt_path is not None:
        path = checkpoint_file(Path(settings.ckpt_path), "best" if evaluates else "last")
        settings = replace(settings, ckpt_path=str(path))
        if settings.task != "export":
            warn_about_versions(run_folder_of(path))
        if evaluates:
            check_loadable(path, settings.model.weights)
        elif settings.task == "train":
            _check_resumable(read_checkpoint(path), settings)
    if not evaluates and settings.task != "compare":
        check_backbone(settings.model, settings.data)
    if settings.task == "train":
        _try_augmentation(settings)
    return settings


def _try_augmentation(settings: TrainSettings) -> None:
    """Raises HeadstartError if the transforms of `augment` cannot be used, judging by one image."""
    preprocessing = preprocessing_of(settings.model, settings.data)
    if settings.augment.transforms not in ([], RECIPE):
        size = preprocessing.resize_size, preprocessing.image_size
        TrainTransform(preprocessing, settings.data.seed, settings.augment.transforms)(Image.new("RGB", size), 0, 0)


def _check_resumable(checkpoint: dict[str, Any], settings: TrainSettings) -> None:
    """What Recipe.check_resumable finds when the data are known, as far as it does not depend on them."""
    recipe = checkpoint["hyper_parameters"]
    saved = recipe | {"backbone arch": recipe["backbone"]["arch"], "backbone pooling": recipe["backbone"]["pooling"]}
    given = {"backbone arch": settings.model.arch, "backbone pooling": settings.model.pooling, "seed": settings.seed}
    check_unchanged(saved, given | asdict(settings.model))
    epochs, longest = (
        len(checkpoint["callbacks"].get("History", {}).get("rows", ())),
        settings.trainer.get("max_epochs"),
    )
    if longest is not None and 0 <= longest <= epochs:
        log.warning(
            "the run that is resumed has completed trainer.max_epochs=%d epochs, so nothing is trained: for more, set "
            "trainer.max_epochs=%d",
            *(longest, epochs + longest),
        )


def _without_loggers(settings: TrainSettings) -> TrainSettings:
    if settings.logger:
        log.warning("the run's folder has a name that is not UTF-8, to which TensorBoard cannot write: logger=none")
    return replace(settings, logger={})
