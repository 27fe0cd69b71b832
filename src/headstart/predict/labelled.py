"""Predictions of images whose folders are their true classes."""

import math
from pathlib import Path

import torch

from headstart.data.folders import is_folder
from headstart.data.layout import open_root
from headstart.data.manifest import Manifest, Split
from headstart.errors import HeadstartError, listed
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.result import Result
from headstart.model.closed_form import scale
from headstart.predict.predictor import Predictor
from headstart.predict.sources import Prediction


class Labelled:
    """Collects predictions, with the probabilities of all classes, and scores them.

    The label of an image is the first folder, below `source`, on its path. `predictor` predicts from `views` of each.

    Raises:
        HeadstartError: an image is in no folder, or in one that is not named as a class of the checkpoint.
    """

    name = "labelled"  # of the split

    def __init__(self, source: Path, paths: list[Path], predictor: Predictor, views: int) -> None:
        self._source, self._predictor, self._views = source, predictor, views
        self._index = {name: index for index, name in enumerate(predictor.classes)}
        self._rows: list[tuple[str, int]] = []
        self._log_probs: list[list[float]] = []
        self._familiarity: list[float] = []
        unknown = sorted({self._folder_of(path) for path in paths} - set(self._index))
        if unknown:
            raise HeadstartError(
                f"labelled=true: the folders {listed(unknown)} in {source} are not classes of the checkpoint, which "
                f"are {listed(predictor.classes)}"
            )

    def add(self, prediction: Prediction) -> Prediction:
        """Puts by one prediction, if there is one, and returns it."""
        if prediction.classes:
            row = [0.0] * len(self._index)
            for name, probability in zip(prediction.classes, prediction.probabilities, strict=True):
                row[self._index[name]] = probability
            self._log_probs.append(row)
            self._familiarity.append(prediction.familiarity if prediction.familiarity is not None else math.nan)
            label = self._index[self._folder_of(prediction.path)]
            self._rows.append((str(prediction.path.relative_to(self._source)), label))
        return prediction

    def manifest(self) -> Manifest:
        """The images as the one split of a dataset."""
        paths, labels = zip(*self._rows, strict=True)
        split = Split(self._source, paths, labels, ("",) * len(paths))
        return Manifest(self._source, self._predictor.classes, {self.name: split}, {}, (), (), {}, ())

    def result(self) -> Result:
        """How good the predictions are."""
        paths, labels = zip(*self._rows, strict=True)
        temperature = self._predictor.temperature(self._views)
        calibrated = torch.tensor(self._log_probs, dtype=torch.float64).clamp(min=1e-38).log()
        predictions = Predictions(
            paths,
            torch.tensor(labels),
            scale(calibrated, 1 / temperature),
            temperature,
            torch.tensor(self._familiarity),
            float(self._predictor.classifier.familiarity.threshold),
        )
        return Result(self.name, self._predictor.classes, predictions)

    def _folder_of(self, path: Path) -> str:
        parts = path.relative_to(self._source).parts
        if len(parts) < 2:
            raise HeadstartError(f"labelled=true: {path} is in no class folder of {self._source}")
        return parts[0]


def labelled_source(source: str) -> Path:
    """The folder of class folders that `source` names.

    Raises:
        HeadstartError: it is no folder.
    """
    path = Path(source).expanduser()
    if not is_folder(path):
        raise HeadstartError(f"labelled=true needs a folder of class folders: source={source} is none")
    return open_root(path).path
