"""labelled=true: scores predictions of images whose folders are their true classes."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from headstart.data.folders import is_folder
from headstart.data.layout import open_root
from headstart.data.manifest import Manifest, Split
from headstart.errors import HeadstartError, listed
from headstart.evaluation.predictions import Predictions, Result
from headstart.log import log
from headstart.model.closed_form import scale
from headstart.predict.predictor import Predictor
from headstart.predict.sources import Prediction
from headstart.report.page import accuracy
from headstart.report.write import write_result
from headstart.storage import local

SPLIT = "labelled"  # its name in the report


def true_classes(source: str | Path, paths: list[Path], classes: Sequence[str]) -> tuple[Path, dict[Path, str]]:
    """Returns the folder `source`, and the class of each image: the first folder below `source` on its path.

    Raises:
        HeadstartError: `source` is not a folder, or an image is in no folder, or in one that is not named as a class of
            the checkpoint.
    """
    folder = local(source)
    if not is_folder(folder):
        raise HeadstartError(f"labelled=true needs a folder of class folders: source={source} is none")
    root = open_root(folder).path
    parts = {path: path.relative_to(root).parts for path in paths}
    if outside := [path for path in paths if len(parts[path]) < 2]:
        raise HeadstartError(f"labelled=true: {outside[0]} is in no class folder of {root}")
    labels = {path: first for path, (first, *_) in parts.items()}
    if unknown := sorted(set(labels.values()) - set(classes)):
        raise HeadstartError(
            f"labelled=true: the folders {listed(unknown)} in {root} are not classes of the checkpoint, which are "
            f"{listed(classes)}"
        )
    return root, labels


def write_report(
    rows: list[Prediction], root: Path, labels: dict[Path, str], predictor: Predictor, views: int, folder: Path
) -> None:
    """Logs the accuracy, and writes the report on the images as the one split of a dataset.

    Args:
        rows: the predictions, with the probabilities of all classes; those without any have an error.
        root, labels: what `true_classes` returned.
        views: the number of views per image that `predictor` predicted from.
    """
    classifier, classes, rows = predictor.classifier, predictor.classes, [row for row in rows if row.classes]
    paths = tuple(str(row.path.relative_to(root)) for row in rows)
    true = tuple(classes.index(labels[row.path]) for row in rows)
    ranked = [dict(zip(row.classes, row.probabilities, strict=True)) for row in rows]
    probabilities = torch.tensor([[of[name] for name in classes] for of in ranked], dtype=torch.float64)
    familiarity = [math.nan if row.familiarity is None else row.familiarity for row in rows]
    temperature = predictor.temperature(views)
    predictions = Predictions(
        paths,
        torch.tensor(true),
        # Before calibration, as those of the other splits.
        scale(probabilities.clamp(min=1e-38).log(), 1 / temperature),
        temperature,
        torch.tensor(familiarity),
        float(classifier.familiarity.threshold),
    )
    result = Result(SPLIT, classes, predictions)
    log.info("%s", accuracy(result))
    split = Split(root, paths, true, ("",) * len(paths))
    write_result(classifier, Manifest(root, classes, {SPLIT: split}, {}, (), (), {}, ()), result, folder)
