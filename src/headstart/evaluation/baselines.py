"""What simple classifiers on the same features reach: the yardstick for the trained head."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from headstart.evaluation.probes import (
    Array,
    Fit,
    Labelled,
    Probe,
    Probes,
    accuracy,
    logistics,
    majority_class,
    nearest_mean,
    nearest_neighbours,
    predicted,
    ridges,
    unit_rows,
)
from headstart.model.neighbours import NEIGHBOURS
from headstart.model.ridge import PENALTIES

LOGISTIC_PENALTIES = (1e-4, 1e-3, 1e-2)
RIDGE = "ridge regression"
# The value of `model.head` that trains a baseline.
HEADS = {"nearest neighbours": "knn", RIDGE: "ridge", "logistic regression": "linear"}
# Images × features × classes from which logistic regression takes too long.
LOGISTIC_LIMIT = 2e8
CENTRED = 4096  # training images that are centred at a time


@dataclass(frozen=True)
class Baseline:
    """`predicted` are the classes (N) of the images to score; `setting` in words.

    `valid_accuracy` chose the setting, whose value is `value`; 0 if there is none to choose.
    """

    name: str
    setting: str
    value: float
    valid_accuracy: float
    predicted: Array

    def correct(self, labels: Array) -> Array:
        """Whether (N) each prediction is right."""
        right: Array = self.predicted == labels
        return right


@dataclass(frozen=True)
class Kind:
    """How a baseline is trained, with which settings, and how they are written."""

    name: str
    fit: Fit
    settings: Sequence[float]
    words: str


def fit_baselines(train: Labelled, valid: Labelled, features: Array) -> list[Baseline]:
    """Trains each baseline on `train`, chooses its setting by the accuracy on `valid`, and classifies `features`.

    Only those of `train` need fit into memory.
    """
    found = []
    for kind in _kinds(train):
        probes = kind.fit(train, kind.settings)
        on_valid = predicted(probes, valid.features)
        accuracies = {setting: accuracy(classes, valid.labels) for setting, classes in on_valid.items()}
        best = max(accuracies, key=accuracies.__getitem__)
        classes = predicted(probes, features)[best]
        found.append(Baseline(kind.name, kind.words.format(best), best, accuracies[best], classes))
    return found


def nearest_images(train: Labelled, features: Array, count: int) -> Array:
    """The indices (M, count) of the training images most similar to `features` (M, d), the most similar first."""
    mean = train.features.mean(0, dtype=np.float64).astype(np.float32)
    units = unit_rows(features - mean)
    best, places = np.zeros((len(units), 0), np.float32), np.zeros((len(units), 0), int)
    # In parts, or all centred training images would be in memory twice.
    for start in range(0, len(train), CENTRED):
        similarities = units @ unit_rows(train.features[start : start + CENTRED] - mean).T
        found = np.broadcast_to(start + np.arange(similarities.shape[1]), similarities.shape)
        candidates, indices = np.concatenate([best, similarities], axis=1), np.concatenate([places, found], axis=1)
        order = np.argsort(-candidates, axis=1, kind="stable")[:, :count]
        best, places = (np.take_along_axis(values, order, axis=1) for values in (candidates, indices))
    return places


def _kinds(train: Labelled) -> Iterator[Kind]:
    yield Kind("majority class", lambda data, _: _without_setting(majority_class(data)), (), "")
    yield Kind("nearest class mean", lambda data, _: _without_setting(nearest_mean(data)), (), "")
    yield Kind("nearest neighbours", nearest_neighbours, NEIGHBOURS, "k={:g}")
    yield Kind(RIDGE, ridges, PENALTIES, "penalty {:g}")
    if train.features.size * train.classes <= LOGISTIC_LIMIT:
        yield Kind("logistic regression", logistics, LOGISTIC_PENALTIES, "penalty {:g}")


def _without_setting(probe: Probe) -> Probes:
    return lambda features: {0.0: probe(features)}
