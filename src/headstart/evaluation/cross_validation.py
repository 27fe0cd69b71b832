"""How well simple classifiers on features do on images that they were not trained on."""

from collections.abc import Mapping

import numpy as np

from headstart.data.folds import FOLDS
from headstart.evaluation.probes import Array, Fit, Labelled, accuracy, nearest_neighbours, predicted, ridges
from headstart.model.neighbours import NEIGHBOURS
from headstart.model.ridge import PENALTIES

# How each is trained, and the settings to choose from.
PROBES: Mapping[str, tuple[Fit, tuple[float, ...]]] = {
    "ridge": (ridges, PENALTIES),
    "knn": (nearest_neighbours, NEIGHBOURS),
}


def cross_validate(data: Labelled, folds: Array) -> dict[str, Array]:
    """Whether (N) each of PROBES classifies each image correctly when it is trained on the other `folds` (N).

    Its setting is chosen on one of these other folds.
    """
    return {name: _out_of_fold(data, folds, *probe) for name, probe in PROBES.items()}


def _out_of_fold(data: Labelled, folds: Array, fit: Fit, settings: tuple[float, ...]) -> Array:
    correct = np.zeros(len(data), bool)
    for fold in range(FOLDS):
        held_out, others = (np.flatnonzero(part) for part in (folds == fold, folds != fold))
        if len(held_out) and len(others):
            chosen = _choose(data, folds, fold, fit, settings)
            classes = predicted(fit(data[others], (chosen,)), data.features[held_out])[chosen]
            correct[held_out] = classes == data.labels[held_out]
    return correct


def _choose(data: Labelled, folds: Array, fold: int, fit: Fit, settings: tuple[float, ...]) -> float:
    """The setting with the highest accuracy on the next fold."""
    following = (fold + 1) % FOLDS
    valid = data[np.flatnonzero(folds == following)]
    train = data[np.flatnonzero((folds != fold) & (folds != following))]
    if not len(valid) or not len(train):
        return settings[0]
    classes = predicted(fit(train, settings), valid.features)
    return max(settings, key=lambda setting: accuracy(classes[setting], valid.labels))
