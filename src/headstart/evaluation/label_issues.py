"""Images whose label is least believed by classifiers trained on the other images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headstart.data.folds import stratified_folds
from headstart.evaluation.cross_fitting import scores_by_other_folds
from headstart.evaluation.probes import Array, Labelled


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


def find_label_issues(data: Sequence[Labelled], penalty: float, seed: int) -> LabelIssues:
    """Scores each image of `data`, in turn, by ridge regression on the folds that it is not in; they are stratified."""
    labels = np.concatenate([part.labels for part in data])
    belief, suggested = np.zeros(len(labels)), np.zeros(len(labels), int)
    for rows, scores in scores_by_other_folds(data, stratified_folds(labels, seed), penalty):
        places = np.arange(len(rows))
        own = scores[places, labels[rows]].copy()
        scores[places, labels[rows]] = -np.inf
        suggested[rows] = scores.argmax(1)
        belief[rows] = own - scores.max(1)
    return LabelIssues(belief, suggested)
