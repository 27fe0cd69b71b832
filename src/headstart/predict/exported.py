"""predict.py with an exported model, without PyTorch."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import inf
from pathlib import Path
from typing import Any

from headstart.config.predict import PredictSettings
from headstart.data.images import Note
from headstart.export.model_file import Array, ModelFile, open_model, prepared, run
from headstart.machine import core_count
from headstart.predict.sources import Input, Notes, Prediction, inputs_of, predictions_of, read_input, rows_of
from headstart.predict.write import write

# An exported model, ready to predict. Of PyTorch it imports nothing, unless the model is a .pt2 file.


class ExportedPredictor:
    """Predicts as headstart.predict.predictor.Predictor does, from one view of each image.

    Several threads may use one.
    """

    def __init__(self, model: ModelFile) -> None:
        self._model = model

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self._model.info.classes

    def predict(
        self, source: Any, *, topk: int = 3, min_confidence: float = 0.0, batch_size: int = 32
    ) -> list[Prediction]:
        """One prediction per image of `source`, in its order; see headstart.predict.sources for what it may be.

        Args:
            topk: the number of classes of each.
            min_confidence: predictions less probable than this are doubted.

        Raises:
            HeadstartError: `source` has no images. An image that cannot be read gets a prediction with an error.
        """
        inputs = inputs_of(source)
        return list(self.stream(inputs, topk=topk, min_confidence=min_confidence, batch_size=batch_size))

    def stream(
        self, inputs: Sequence[Input], *, topk: int, min_confidence: float, batch_size: int
    ) -> Iterator[Prediction]:
        """Yields the predictions of `predict` one by one, as batches are done."""
        noted = Notes(self._model.info.preprocessing.depth)
        with ThreadPoolExecutor(core_count()) as pool:
            for first in range(0, len(inputs), batch_size):
                batch = inputs[first : first + batch_size]
                read = list(pool.map(self._read, batch, range(first, first + len(batch))))
                noted.add(batch, [note for _, note in read], first)
                items = [item for item, _ in read]
                images = [item for item in items if not isinstance(item, str)]
                errors = [item if isinstance(item, str) else None for item in items]
                found = self._predict(images, topk, min_confidence) if images else []
                yield from rows_of(batch, first, errors, found)
        noted.log()

    def _read(self, given: Input, index: int) -> tuple[Array | str, Note | None]:
        info = self._model.info
        return read_input(given, index, lambda read: prepared(read(info.preprocessing.depth), info))

    def _predict(self, images: list[Array], topk: int, min_confidence: float) -> list[Prediction]:
        probabilities, familiarity = run(self._model, images)
        threshold = self._model.info.familiarity_threshold
        return predictions_of(
            probabilities,
            familiarity,
            classes=self.classes,
            threshold=-inf if threshold is None else threshold,
            topk=topk,
            min_confidence=min_confidence,
        )


# What predict.py does with an exported model.


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
