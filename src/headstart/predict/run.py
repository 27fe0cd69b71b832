"""What predict.py does: find images, and predict their classes with a checkpoint or an exported model."""

from pathlib import Path

from headstart.config.predict import PredictSettings
from headstart.predict.drawings import FOLDERS
from headstart.predict.light_import import compiler_when_needed
from headstart.predict.sources import find_images


def predict(settings: PredictSettings) -> None:
    """Writes one row per image of the source, including those that cannot be read.

    Raises:
        HeadstartError: there is no checkpoint or model, or no image that could be read.
    """
    leave_out = [Path(settings.output) / name for name in FOLDERS] if settings.output is not None else []
    paths = find_images(settings.source, leave_out=leave_out)
    # Imported where they are used: a checkpoint takes PyTorch, and an exported model does not.
    if settings.model.file is None:
        with compiler_when_needed():
            from headstart.predict.from_checkpoint import predict_with_checkpoint

        predict_with_checkpoint(settings, paths)
    else:
        from headstart.predict.from_model import predict_with_model

        predict_with_model(settings, paths)
