"""labelled=true: scores predictions of images whose folders are their true classes."""

import math
from pathlib import Path

import torch

from headstart.data.folders import is_folder
from headstart.data.layout import open_root
from headstart.data.manifest import Manifest, Split
from headstart.errors import HeadstartError, listed
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.result import Result
from headstart.log import log
from headstart.model.closed_form import scale
from headstart.predict.predictor import Predictor
from headstart.predict.sources import Prediction
from headstart.report.page import accuracy
from headstart.report.write import write_result

SPLIT = "labelled"  # its name in the report


class LabelledScorer:
    """Collects predictions, with the probabilities of all classes, and writes a report on how good they are.

    The label of an image is the first folder below `source` on its path.

    Args:
        views: the number of views per image that `predictor` predicts from.

    Raises:
        HeadstartError: `source` is not a folder, or an image is in no folder, or in one that is not named as a class of
            the checkpoint.
    """

    def __init__(self, source: str | Path, paths: list[Path], predictor: Predictor, views: int) -> None:
        folder = Path(source).expanduser()
        if not is_folder(folder):
            raise HeadstartError(f"labelled=true needs a folder of class folders: source={source} is none")
        self._source, self._predictor, self._views = open_root(folder).path, predictor, views
        self._index = {name: index for index, name in enumerate(predictor.classes)}
        self._rows: list[tuple[str, int]] = []
        self._probabilities: list[list[float]] = []
        self._familiarity: list[float] = []
        unknown = sorted({self._folder_of(path) for path in paths} - set(self._index))
        if unknown:
            raise HeadstartError(
                f"labelled=true: the folders {listed(unknown)} in {self._source} are not classes of the checkpoint, "
                f"which are {listed(predictor.classes)}"
            )

    def add(self, prediction: Prediction) -> Prediction:
        """Stores a prediction, unless it has an error instead of classes, and returns it."""
        if prediction.classes:
            row = [0.0] * len(self._index)
            for name, probability in zip(prediction.classes, prediction.probabilities, strict=True):
                row[self._index[name]] = probability
            self._probabilities.append(row)
            self._familiarity.append(prediction.familiarity if prediction.familiarity is not None else math.nan)
            label = self._index[self._folder_of(prediction.path)]
            self._rows.append((str(prediction.path.relative_to(self._source)), label))
        return prediction

    def write_report(self, folder: Path) -> None:
        """Logs the accuracy, and writes the report on the images as the one split of a dataset."""
        classifier, classes = self._predictor.classifier, self._predictor.classes
        paths, labels = zip(*self._rows, strict=True)
        temperature = self._predictor.temperature(self._views)
        log_probs = torch.tensor(self._probabilities, dtype=torch.float64).clamp(min=1e-38).log()
        predictions = Predictions(
            paths,
            torch.tensor(labels),
            # Before calibration, as those of the other splits.
            scale(log_probs, 1 / temperature),
            temperature,
            torch.tensor(self._familiarity),
            float(classifier.familiarity.threshold),
        )
        result = Result(SPLIT, classes, predictions)
        log.info("%s", accuracy(result))
        split = Split(self._source, paths, labels, ("",) * len(paths))
        write_result(classifier, Manifest(self._source, classes, {SPLIT: split}, {}, (), (), {}, ()), result, folder)

    def _folder_of(self, path: Path) -> str:
        parts = path.relative_to(self._source).parts
        if len(parts) < 2:
            raise HeadstartError(f"labelled=true: {path} is in no class folder of {self._source}")
        return parts[0]
