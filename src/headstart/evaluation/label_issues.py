"""Labels that a cross-validated classifier disagrees with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from headstart.data.splits import stratified_folds
from headstart.data.workers import thread_map
from headstart.evaluation.probes import Array, Labelled, Probe, ridge
from headstart.model.closed_form import ROWS, strength_of

# Sums over images from which a ridge regression follows.


class Moments:
    """Of images: their number, the sums of their features (d) and one-hot labels (classes), and those of products.

    Of two sets of images they add up, so that a fit to all but some need not read all the others again.
    """

    def __init__(self, width: int, classes: int) -> None:
        self.count = 0
        self.features, self.labels = np.zeros(width), np.zeros(classes)
        self.products, self.by_class = np.zeros((width, width)), np.zeros((classes, width))

    def observe(self, features: Array, labels: Array) -> None:
        """Adds images: features (N, d), labels (N)."""
        self.count += len(features)
        self.features += features.sum(0)
        self.labels += np.bincount(labels, minlength=len(self.labels))
        self.products += features.T @ features
        for label in np.unique(labels):
            self.by_class[label] += features[labels == label].sum(0)

    def add(self, other: "Moments", sign: int) -> None:
        """Adds the images of `other`, or removes them (-1)."""
        self.count += sign * other.count
        for name in ("features", "labels", "products", "by_class"):
            found = getattr(self, name)
            found += sign * getattr(other, name)

    def ridge(self, penalty: float) -> Probe:
        """That of headstart.evaluation.probes, fitted to the images."""
        mean, prior = self.features / self.count, self.labels / self.count
        gram = self.products - np.outer(self.features, mean)
        strength = strength_of(penalty, gram.trace(), min(self.count, len(gram)))
        gram[np.diag_indices_from(gram)] += strength
        weights = np.linalg.solve(gram, self.by_class.T - np.outer(self.features, prior))
        return lambda features: (features - mean) @ weights + prior


# Ridge regression's scores of each image by the fit to the images of all other folds.


class _Block(NamedTuple):
    """Images: their indices (M), features (M, d) and labels (M)."""

    rows: Array
    features: Array
    labels: Array


def scores_by_other_folds(data: Sequence[Labelled], folds: Array, penalty: float) -> Iterator[tuple[Array, Array]]:
    """Indices (M) of images and their scores (M, classes), until all have had their turn.

    `folds` (N) are those of the images of `data` in turn. Together, these may not fit into memory: they are read in
    parts.
    """
    if len(folds) < data[0].features.shape[1]:
        return _few(data, folds, penalty)
    return _many(data, folds, penalty)


def _few(data: Sequence[Labelled], folds: Array, penalty: float) -> Iterator[tuple[Array, Array]]:
    features = np.concatenate([part.features for part in data], dtype=np.float32)
    everything = Labelled(features, np.concatenate([part.labels for part in data]), data[0].classes)
    for fold in np.unique(folds):
        held_out = np.flatnonzero(folds == fold)
        yield held_out, ridge(everything[np.flatnonzero(folds != fold)], penalty)(features[held_out])


def _many(data: Sequence[Labelled], folds: Array, penalty: float) -> Iterator[tuple[Array, Array]]:
    width, classes, count = data[0].features.shape[1], data[0].classes, folds.max() + 1
    moments = [Moments(width, classes) for _ in range(count)]
    # About a point among the features: far from it, the differences below would lose digits.
    origin = data[0].features[:ROWS].mean(0, dtype=np.float64)
    for block in _blocks(data):
        observe = partial(_observe, moments, block, folds[block.rows], origin)
        thread_map(observe, np.unique(folds[block.rows]))
    everything = Moments(width, classes)
    for of_fold in moments:
        everything.add(of_fold, 1)
    probes = []
    for of_fold in moments:
        # In place, because the products of wide features take much memory.
        everything.add(of_fold, -1)
        probes.append(everything.ridge(penalty))
        everything.add(of_fold, 1)
    for block in _blocks(data):
        own = folds[block.rows]
        for fold in np.unique(own):
            yield block.rows[own == fold], probes[fold](block.features[own == fold] - origin)


def _observe(moments: list[Moments], block: _Block, folds: Array, origin: Array, fold: int) -> None:
    own = folds == fold
    moments[fold].observe(block.features[own] - origin, block.labels[own])


def _blocks(data: Sequence[Labelled]) -> Iterator[_Block]:
    """At most ROWS images at a time, and their indices."""
    start = 0
    for part in data:
        for first in range(0, len(part), ROWS):
            found = part[first : first + ROWS]
            yield _Block(start + np.arange(len(found)), found.features, found.labels)
            start += len(found)


# Images whose label is least believed by classifiers trained on the other images.


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
