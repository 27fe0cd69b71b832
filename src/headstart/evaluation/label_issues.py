"""Images whose label is least believed by classifiers trained on the other images."""

from dataclasses import dataclass

import numpy as np

from headstart.data.folds import FOLDS, stratified_folds
from headstart.evaluation.probes import Array, Labelled, ridge


@dataclass(frozen=True)
class LabelIssues:
    """Of N images: `belief` (N) in the label, its score less the highest other one; `suggested` (N) classes.

    Below a belief of 0, another class is more probable than the label. `order` (N) has the least believed first.
    """

    belief: Array
    suggested: Array

    @property
    def order(self) -> Array:
        ranked: Array = np.argsort(self.belief, kind="stable")
        return ranked

    @property
    def count(self) -> int:
        """How many labels another class is more probable than."""
        return int((self.belief < 0).sum())


def find_label_issues(data: Labelled, penalty: float, seed: int) -> LabelIssues:
    """Scores each image by ridge regression on the folds that it is not in; the folds are stratified."""
    folds = stratified_folds(data.labels, seed)
    scores = np.zeros((len(data), data.classes))
    for fold in range(FOLDS):
        held_out = np.flatnonzero(folds == fold)
        if len(held_out):
            scores[held_out] = ridge(data[np.flatnonzero(folds != fold)], penalty)(data.features[held_out])
    rows = np.arange(len(data))
    own = scores[rows, data.labels].copy()
    scores[rows, data.labels] = -np.inf
    suggested: Array = scores.argmax(1)
    return LabelIssues(own - scores.max(1), suggested)
