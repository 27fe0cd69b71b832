"""How well simple classifiers on features do on images that they were not trained on."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from headstart.data.folds import FOLDS
from headstart.evaluation.baselines import accuracy
from headstart.evaluation.probes import Array, Labelled, Probe, nearest_neighbours, ridge
from headstart.model.neighbours import NEIGHBOURS
from headstart.model.ridge import PENALTIES

# How each is trained with a setting, and the settings to choose from.
PROBES: Mapping[str, tuple[Callable[[Labelled, Any], Probe], tuple[float, ...]]] = {
    "ridge": (ridge, PENALTIES),
    "knn": (nearest_neighbours, NEIGHBOURS),
}


def cross_validate(data: Labelled, folds: Array) -> dict[str, Array]:
    """Whether (N) each of PROBES classifies each image correctly when it is trained on the other `folds` (N).

    Its setting is chosen on one of these other folds.
    """
    return {name: _out_of_fold(data, folds, *probe) for name, probe in PROBES.items()}


def _out_of_fold(
    data: Labelled, folds: Array, fit: Callable[[Labelled, Any], Probe], settings: tuple[float, ...]
) -> Array:
    correct = np.zeros(len(data), bool)
    for fold in range(FOLDS):
        held_out, others = (np.flatnonzero(part) for part in (folds == fold, folds != fold))
        if len(held_out) and len(others):
            probe = fit(data[others], _choose(data, folds, fold, fit, settings))
            correct[held_out] = probe(data.features[held_out]).argmax(1) == data.labels[held_out]
    return correct


def _choose(
    data: Labelled, folds: Array, fold: int, fit: Callable[[Labelled, Any], Probe], settings: tuple[float, ...]
) -> float:
    """The setting with the highest accuracy on the next fold."""
    following = (fold + 1) % FOLDS
    valid = data[np.flatnonzero(folds == following)]
    train = data[np.flatnonzero((folds != fold) & (folds != following))]
    if not len(valid) or not len(train):
        return settings[0]
    return max(settings, key=lambda setting: accuracy(fit(train, setting), valid))
