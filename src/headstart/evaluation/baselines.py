"""What simple classifiers on the same features reach: the yardstick for the trained head."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from headstart.evaluation.probes import (
    Array,
    Labelled,
    Probe,
    logistic,
    majority_class,
    nearest_mean,
    nearest_neighbours,
    ridge,
    unit_rows,
)
from headstart.model.neighbours import NEIGHBOURS
from headstart.model.ridge import PENALTIES

LOGISTIC_PENALTIES = (1e-4, 1e-3, 1e-2)
# The value of `model.head` that trains a baseline.
HEADS = {"nearest neighbours": "knn", "ridge regression": "ridge", "logistic regression": "linear"}
# Images × features × classes from which logistic regression takes too long.
LOGISTIC_LIMIT = 2e8
ROWS = 4096  # training images that are centred at a time


@dataclass(frozen=True)
class Baseline:
    """`scores` (N, classes) of the images to score, the highest of which is the prediction; `setting` in words.

    `valid_accuracy` chose the setting.
    """

    name: str
    setting: str
    valid_accuracy: float
    scores: Array

    def correct(self, labels: Array) -> Array:
        """Whether (N) each prediction is right."""
        right: Array = self.scores.argmax(1) == labels
        return right


def fit_baselines(train: Labelled, valid: Labelled, features: Array) -> list[Baseline]:
    """Trains each baseline on `train`, chooses its setting by the accuracy on `valid`, and scores `features`."""
    found = []
    for name, candidates in _candidates(train):
        fitted = ((setting, fit()) for setting, fit in candidates.items())
        valid_accuracy, setting, probe = max(
            ((accuracy(probe, valid), setting, probe) for setting, probe in fitted), key=lambda candidate: candidate[0]
        )
        found.append(Baseline(name, setting, valid_accuracy, probe(features)))
    return found


def choose_penalty(train: Labelled, valid: Labelled) -> float:
    """The penalty of ridge regression with the highest accuracy on `valid`."""
    return max(PENALTIES, key=lambda penalty: accuracy(ridge(train, penalty), valid))


def accuracy(probe: Probe, data: Labelled) -> float:
    """The share of `data` that `probe` classifies correctly."""
    return float((probe(data.features).argmax(1) == data.labels).mean())


def nearest_images(train: Labelled, features: Array, count: int) -> Array:
    """The indices (M, count) of the training images most similar to `features` (M, d), the most similar first."""
    mean = train.features.mean(0)
    units, places = unit_rows(features - mean), range(0, max(1, len(train)), ROWS)
    # In parts, or all centred training images would be in memory twice.
    parts = (unit_rows(train.features[start : start + ROWS] - mean) for start in places)
    similarities = np.concatenate([units @ part.T for part in parts], axis=1)
    order: Array = np.argsort(-similarities, axis=1, kind="stable")[:, :count]
    return order


def _candidates(train: Labelled) -> Iterator[tuple[str, dict[str, Callable[[], Probe]]]]:
    yield "majority class", {"": partial(majority_class, train)}
    yield "nearest class mean", {"": partial(nearest_mean, train)}
    yield "nearest neighbours", {f"k={k}": partial(nearest_neighbours, train, k) for k in NEIGHBOURS}
    yield "ridge regression", {f"penalty {p:g}": partial(ridge, train, p) for p in PENALTIES}
    if train.features.size * train.classes <= LOGISTIC_LIMIT:
        yield "logistic regression", {f"penalty {p:g}": partial(logistic, train, p) for p in LOGISTIC_PENALTIES}
