"""What can be checked before data are downloaded, generated or scanned."""

from dataclasses import replace
from pathlib import Path

from headstart.backbones.load import check_backbone
from headstart.config.literal import is_encodable
from headstart.config.train import TrainSettings
from headstart.log import log
from headstart.model.checkpoint import check_loadable, read_checkpoint
from headstart.run_folder import checkpoint_file


def check_without_data(settings: TrainSettings) -> TrainSettings:
    """The settings, with the checkpoint's file where `ckpt_path` is the folder of a run.

    Raises:
        HeadstartError: the checkpoint, the architecture or the weights could not be used.
    """
    tests = settings.task == "test"
    if settings.ckpt_path is not None:
        path = checkpoint_file(Path(settings.ckpt_path), "best" if tests else "last")
        settings = replace(settings, ckpt_path=str(path))
        if tests:
            check_loadable(path, settings.model.weights)
        else:
            read_checkpoint(path)
    if not tests:
        check_backbone(settings.model, settings.data)
    return settings if is_encodable(settings.run_dir) else _without_loggers(settings)


def _without_loggers(settings: TrainSettings) -> TrainSettings:
    if settings.logger:
        log.warning("the run's folder has a name that is not UTF-8, to which TensorBoard cannot write: logger=none")
    return replace(settings, logger={})
