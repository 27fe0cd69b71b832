"""What predict.py does: find images, and predict their classes with a checkpoint or an exported model."""

from pathlib import Path

from headstart.config.predict import PredictSettings
from headstart.marker import PREDICTIONS, REPORT, check
from headstart.predict.light_import import compiler_when_needed
from headstart.predict.sources import find_images


def predict(settings: PredictSettings) -> None:
    """Writes one row per image of the source, including those that cannot be read.

    Raises:
        HeadstartError: there is no checkpoint or model, or no image that could be read, or `output` holds the user's
            own files.
    """
    if settings.output is not None:
        _check_output(settings, Path(settings.output))
    paths = find_images(settings.source)
    # Imported where they are used: a checkpoint takes PyTorch, and an exported model does not.
    if settings.model.file is None:
        with compiler_when_needed():
            from headstart.predict.from_checkpoint import predict_with_checkpoint

        predict_with_checkpoint(settings, paths)
    else:
        from headstart.predict.from_model import predict_with_model

        predict_with_model(settings, paths)


def _check_output(settings: PredictSettings, output: Path) -> None:
    """Raises HeadstartError, before anything is read, if a folder that will be written into is not headstart's."""
    check(output, PREDICTIONS, "output")
    for name, kind, is_written in (
        ("annotated", PREDICTIONS, settings.annotate),
        ("contact_sheets", PREDICTIONS, settings.annotate),
        ("explained", PREDICTIONS, settings.explain),
        ("report", REPORT, settings.labelled),
    ):
        if is_written:
            check(output / name, kind)
