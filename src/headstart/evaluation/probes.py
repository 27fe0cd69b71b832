"""Simple classifiers on stored features: ridge and logistic regression, nearest neighbours, nearest class mean.

They take a fraction of a second, which makes them the yardstick for the trained head and the tool for questions about
the data.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from headstart.data.preprocessing import Array
from headstart.model.closed_form import CLOSED_FORM_HEADS, ClosedForm, LeastSquares

PART = 4096  # images whose features and scores are in memory at a time
# Images that a classifier is fitted to at most; more would take minutes, and much memory.
MOST_TRAINED = 20_000


@dataclass(frozen=True)
class Labelled:
    """Features (N, d), and the labels (N) of `classes` classes. Probes take float32; stored ones may be float16."""

    features: Array
    labels: Array
    classes: int

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Array | slice) -> "Labelled":
        return Labelled(self.features[index], self.labels[index], self.classes)

    def read(self, rows: Array) -> "Labelled":
        """Returns the images `rows` (M) with their features in memory, as float32."""
        return Labelled(np.asarray(self.features[rows], np.float32), self.labels[rows], self.classes)

    @property
    def targets(self) -> Array:
        """One-hot labels (N, classes)."""
        return np.eye(self.classes)[self.labels]


def sample(total: int, seed: int) -> Array:
    """Returns the indices of all images, or of a random MOST_TRAINED of them, ascending."""
    return np.sort(np.random.default_rng(seed).permutation(total)[:MOST_TRAINED])


# A trained classifier: features (M, d) → scores (M, classes), the highest of which is its prediction.
Probe = Callable[[Array], Array]


def majority_class(train: Labelled) -> Probe:
    """Trains the classifier that scores every image by the shares of the classes in `train`."""
    shares = train.targets.mean(0)
    return lambda features: np.tile(shares, (len(features), 1))


def ridge(train: Labelled, penalty: float) -> Probe:
    """Trains least squares on one-hot labels; `penalty` is relative to the mean variance of the features."""
    fit = LeastSquares(train.features, train.targets)
    weights = fit.weights(penalty)
    return lambda features: fit.scores(features, weights)


def fit_head(kind: str, train: Labelled, units: Array | None = None) -> tuple[ClosedForm, Array]:
    """Fits the head of `model.head`, as training does, and returns it with the scores (N, classes) that it fitted by.

    These are what each image gets from the others; images of the same of `units` (N) say nothing about each other.
    """
    head: ClosedForm = CLOSED_FORM_HEADS[kind](train.features.shape[1], train.classes)
    features = torch.from_numpy(np.asarray(train.features, np.float32))
    by = None if units is None else torch.from_numpy(units)
    return head, head.fit(features, torch.from_numpy(train.labels), by).numpy()


def scores_of(head: ClosedForm) -> Probe:
    """Returns the probe that a fitted head is."""
    # A copy, because stored features are read-only, of which PyTorch warns.
    return lambda features: head(torch.tensor(features)).detach().numpy()


def nearest_mean(train: Labelled) -> Probe:
    """Trains a classifier by the cosine similarity of centred features to the mean of each class."""
    mean = train.features.mean(0)
    means = unit_rows(class_means(train) - mean)
    return lambda features: unit_rows(features - mean) @ means.T


def class_means(train: Labelled) -> Array:
    """Returns the mean features (classes, d) of each class; of a class without images, zeros."""
    counts = np.maximum(train.targets.sum(0), 1)
    means: Array = (train.targets.T @ train.features / counts[:, None]).astype(np.float32)
    return means


def unit_rows(matrix: Array) -> Array:
    """Divides each row by its length."""
    return matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)


def predicted(probe: Probe, features: Array) -> Array:
    """Returns the classes (N) predicted for features (N, d), which may not fit into memory."""
    return np.concatenate([probe(part).argmax(1) for part in in_parts(features)])


def in_parts(features: Array) -> Iterator[Array]:
    """Yields at most PART rows at a time, as float32; at least one part."""
    for start in range(0, max(1, len(features)), PART):
        yield np.asarray(features[start : start + PART], np.float32)


# Cross-validation.

# The heads by which backbones are compared.
COMPARED = ("ridge", "knn")


def cross_validate(data: Labelled, folds: Array, units: Array) -> dict[str, Array]:
    """Says whether (N) each head of COMPARED classifies each image correctly when it is fitted to the other `folds`."""
    correct = {kind: np.zeros(len(data), bool) for kind in COMPARED}
    for fold in np.unique(folds):
        own, others = (np.flatnonzero(part) for part in (folds == fold, folds != fold))
        for kind in COMPARED if len(others) else ():
            head, _ = fit_head(kind, data[others], units[others])
            correct[kind][own] = predicted(scores_of(head), data.features[own]) == data.labels[own]
    return correct


# The baselines that a trained head is compared with.

LOGISTIC = "logistic regression"
# The heads among them, with the value of `model.head` that trains each.
HEADS = {"nearest neighbours": "knn", "ridge regression": "ridge", LOGISTIC: "logistic"}
# Images × features × classes from which logistic regression takes too long.
LOGISTIC_LIMIT = 2e8


@dataclass(frozen=True)
class Baseline:
    """A simple classifier: the head that was fitted and its value of `model.head`, or neither.

    `valid` (Nv) and `predicted` (N) are the classes that it predicts for the valid split and for the images to score.
    """

    name: str
    kind: str | None
    head: ClosedForm | None
    valid: Array
    predicted: Array


def fit_baselines(train: Labelled, valid: Array, scored: Array, units: Array | None = None) -> list[Baseline]:
    """Trains the simple classifiers on `train` and classifies features (Nv, d) and (N, d).

    The heads are fitted just as `model.head` fits them: their settings are chosen on `train`, by what images say about
    those of other `units` (N). Only the features of `train` need fit into memory.
    """
    baselines = []
    for name, fit in {"majority class": majority_class, "nearest class mean": nearest_mean}.items():
        probe = fit(train)
        baselines.append(Baseline(name, None, None, predicted(probe, valid), predicted(probe, scored)))
    for name, kind in HEADS.items():
        if name != LOGISTIC or train.features.size * train.classes <= LOGISTIC_LIMIT:
            head, _ = fit_head(kind, train, units)
            probe = scores_of(head)
            baselines.append(Baseline(name, kind, head, predicted(probe, valid), predicted(probe, scored)))
    return baselines


# Similar images, and a map of all of them.


def nearest_images(train: Labelled, features: Array, count: int) -> Array:
    """Returns the indices (M, count) of the training images most similar to `features` (M, d), the most similar first.

    Similarity is the cosine of centred features. Those of `train` are read in parts: centred, they would be in memory
    twice.
    """
    mean = train.features.mean(0, dtype=np.float64).astype(np.float32)
    units = unit_rows(features - mean)
    similarities = np.concatenate([units @ unit_rows(part - mean).T for part in in_parts(train.features)], axis=1)
    return np.stack([np.argsort(-row, kind="stable")[:count] for row in similarities])


def project(features: Array, known: Array) -> Array:
    """Returns where features (N, d) are on the map (N, 2) of the two principal components of `known` (M, d)."""
    mean, axes = known.mean(0), principal_components(known)
    return np.concatenate([(part - mean) @ axes for part in in_parts(features)])


def principal_components(features: Array) -> Array:
    """Returns the two directions (d, 2) of most variance of features (N, d), by a randomized SVD (Halko et al. 2011).

    The largest entry of each is positive. Directions that do not exist, with fewer than two features or images, are 0.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        centred = torch.from_numpy(features - features.mean(0, dtype=np.float64).astype(np.float32))
        _, _, axes = torch.svd_lowrank(centred, q=min(20, *features.shape), niter=30)
    components: Array = F.pad(axes[:, :2], (0, max(0, 2 - axes.shape[1]))).numpy()
    return components * np.where(components[np.abs(components).argmax(0), [0, 1]] < 0, -1, 1)
