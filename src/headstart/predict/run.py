"""predict.py and headstart.load: predict with a checkpoint, or with an exported model, for which PyTorch is not needed.

PyTorch takes seconds to import, and is not installed everywhere that an .onnx file is used, so the modules that need it
are imported where they are used.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.config.model import is_model_file
from headstart.config.predict import UNDO, PredictSettings
from headstart.data.preprocessing import Array
from headstart.errors import HeadstartError
from headstart.export.model_file import ModelFile, open_model, prepare_image, run_model
from headstart.files import PREDICTIONS, REPORT, check
from headstart.log import log
from headstart.machine import core_count
from headstart.predict.sort import check_sort, continue_sort, undo_sort
from headstart.predict.sources import (
    Input,
    Item,
    Prediction,
    find_images,
    inputs_of,
    predictions_in_order,
    predictions_of,
    read_input,
    rejoin,
    separate,
)
from headstart.predict.write import write
from headstart.storage import local

if TYPE_CHECKING:
    from headstart.predict.predictor import Predictor


# Any stands for ExportedPredictor, so that methods that only a Predictor has can be used without a cast.
def load(path: str | Path, *, accelerator: str = "auto", **options: Any) -> "Predictor | Any":
    """Loads a checkpoint as a Predictor, or a .onnx or .pt2 file of task=export as an ExportedPredictor.

    Args:
        path: the file, or the folder of a run, a sweep or an ensemble.
        accelerator: "auto", "cpu", "cuda" or "mps".
        options: for a checkpoint: precision, compile and weights, see headstart.predict.predictor.load_predictor.

    Raises:
        HeadstartError: there is no such file, it could not be used, or the machine does not have the accelerator.

    Example:
        >>> headstart.load("logs/RUN").predict("photo.jpg")[0].label
    """
    path = local(path)
    if not is_model_file(str(path)):
        from headstart.predict.predictor import load_predictor

        return load_predictor(path, accelerator=accelerator, **options)
    if options:
        raise HeadstartError(f"{', '.join(options)}: {path} is an exported model, in which that is fixed")
    return ExportedPredictor(open_model(path, accelerator))


class ExportedPredictor:
    """Predicts with an exported model as Predictor does with a checkpoint, from one view of each image.

    It does not import PyTorch, unless the model is a .pt2 file. Several threads may share one.

    Example:
        >>> headstart.load("model.onnx").predict(["a.jpg", "b.jpg"], topk=1)
    """

    def __init__(self, model: ModelFile) -> None:
        self._model = model

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self._model.info.classes

    @property
    def depth(self) -> int:
        """The bits per sample with which 16-bit images are read."""
        return self._model.info.preprocessing.depth

    def predict(
        self, source: Any, *, topk: int = 3, min_confidence: float = 0.0, batch_size: int = 32
    ) -> list[Prediction]:
        """Returns one prediction per image of `source`, in its order.

        Args:
            source: what headstart.predict.sources.inputs_of takes.
            topk: the number of classes per prediction.
            min_confidence: predictions less probable than this are marked as unsure.

        Raises:
            HeadstartError: `source` has no images. An image that cannot be read gets a prediction with an error.
        """
        inputs = inputs_of(source)
        return list(self.stream(inputs, topk=topk, min_confidence=min_confidence, batch_size=batch_size))

    def stream(
        self, inputs: Sequence[Input], *, topk: int, min_confidence: float, batch_size: int
    ) -> Iterator[Prediction]:
        """Yields the predictions of `predict` one by one, as batches are done."""
        threshold = self._model.info.familiarity_threshold
        rank = partial(
            predictions_of,
            classes=self.classes,
            threshold=-inf if threshold is None else threshold,
            topk=topk,
            min_confidence=min_confidence,
        )

        def items() -> Iterator[Item[Prediction]]:
            with ThreadPoolExecutor(core_count()) as pool:
                for first in range(0, len(inputs), batch_size):
                    batch = inputs[first : first + batch_size]
                    images, marks = separate(pool.map(self._read, batch, range(first, first + len(batch))))
                    yield from rejoin(rank(*run_model(self._model, images)) if images else (), marks)

        yield from predictions_in_order(inputs, items(), self.depth)

    def _read(self, given: Input, index: int) -> Item[Array]:
        return read_input(given, index, lambda read: prepare_image(read(self.depth), self._model.info))


def predict(settings: PredictSettings) -> None:
    """Writes one row per image of the source, including those that cannot be read, or continues or undoes a sort.

    Raises:
        HeadstartError: there is no checkpoint or model, or no image that could be read, or `output` holds the user's
            own files, or images that were moved there.
    """
    if settings.output is not None:
        check(Path(settings.output), PREDICTIONS, "output")
        if settings.sort == UNDO:
            undo_sort(Path(settings.output))
            return
        if continue_sort(settings):
            return
    paths = find_images(settings.source)
    if settings.sort is not None:
        check_sort(settings, paths)
    if settings.model.file is None:
        _predict_with_checkpoint(settings, paths)
        return
    predictor = ExportedPredictor(open_model(Path(settings.model.file), settings.accelerator))
    predictions = predictor.stream(
        paths, topk=settings.topk, min_confidence=settings.min_confidence, batch_size=settings.data.batch_size
    )
    write(predictions, settings, paths, predictor.classes, predictor.depth)


def _predict_with_checkpoint(settings: PredictSettings, paths: list[Path]) -> None:
    from headstart.predict.predictor import predictor_of

    predictor, topk = predictor_of(settings), settings.topk
    if (members := len(predictor.ensemble)) > 1:
        log.info("ensemble of %d classifiers; familiarity and explanations are those of the best one", members)
    if settings.labelled:
        # It imports Lightning and Matplotlib, which takes seconds.
        from headstart.predict import labelled

        report = Path(str(settings.output)) / "report"
        check(report, REPORT)
        root, labels = labelled.true_classes(settings.source, paths, predictor.classes)
        topk = len(predictor.classes)
    predictions = predictor.stream(
        paths,
        topk=topk,
        batch_size=settings.data.batch_size,
        num_workers=settings.data.num_workers,
        views=settings.views,
        min_confidence=settings.min_confidence,
        explain=settings.explain,
    )
    rows = write(predictions, settings, paths, predictor.classes, predictor.depth)
    if settings.labelled:
        labelled.write_report(rows, root, labels, predictor, settings.views, report)
