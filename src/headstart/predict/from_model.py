"""What predict.py does with an exported model."""

from pathlib import Path

from headstart.config.predict import PredictSettings
from headstart.export.model_file import open_model
from headstart.predict.exported import ExportedPredictor
from headstart.predict.write import write


def predict_with_model(settings: PredictSettings, paths: list[Path]) -> None:
    """Writes one row per image of `paths`.

    Raises:
        HeadstartError: there is no such model, or no image that could be read.
    """
    model = open_model(Path(str(settings.model.file)), settings.accelerator)
    predictor = ExportedPredictor(model)
    predictions = predictor.stream(
        paths, topk=settings.topk, min_confidence=settings.min_confidence, batch_size=settings.data.batch_size
    )
    write(predictions, settings, paths, predictor.classes, model.info.preprocessing.depth)
