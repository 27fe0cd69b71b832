"""Simple classifiers on stored features: ridge and logistic regression, nearest neighbours, nearest class mean.

They take a fraction of a second, which makes them the yardstick for the trained head and the tool for questions about
the data.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from headstart.data.splits import FOLDS
from headstart.model.closed_form import NEIGHBOURS, PENALTIES, QUERIES, LeastSquares, directions, votes

Array = np.ndarray[Any, np.dtype[Any]]
PART = 4096  # images whose features and scores are in memory at a time


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

    @property
    def targets(self) -> Array:
        """One-hot labels (N, classes)."""
        return np.eye(self.classes)[self.labels]


# A trained classifier: features (M, d) → scores (M, classes), the highest of which is its prediction.
Probe = Callable[[Array], Array]
# The same, trained with several settings that share most of the work: the scores with each.
Probes = Callable[[Array], dict[float, Array]]
# Trains with each of some settings.
Fit = Callable[[Labelled, Sequence[Any]], Probes]


def majority_class(train: Labelled) -> Probe:
    """Trains the classifier that scores every image by the shares of the classes in `train`."""
    shares = train.targets.mean(0)
    return lambda features: np.tile(shares, (len(features), 1))


def ridge(train: Labelled, penalty: float) -> Probe:
    """Trains least squares on one-hot labels; `penalty` is relative to the mean variance of the features."""
    probes = ridges(train, (penalty,))
    return lambda features: probes(features)[penalty]


def ridges(train: Labelled, penalties: Sequence[float]) -> Probes:
    """Trains `ridge` with each of `penalties`."""
    fit = LeastSquares(train.features, train.targets)
    weights = {penalty: fit.weights(penalty) for penalty in penalties}
    return lambda features: {penalty: fit.scores(features, of) for penalty, of in weights.items()}


def logistics(train: Labelled, penalties: Sequence[float]) -> Probes:
    """Trains multinomial logistic regression on standardized features, by L-BFGS.

    The loss is the mean cross-entropy plus half the penalty times the sum of squared weights.
    """
    mean, scale = train.features.mean(0), train.features.std(0) + 1e-6
    x, labels = torch.from_numpy((train.features - mean) / scale).float(), torch.from_numpy(train.labels)
    # The best weights are combinations of the images; with fewer images than features, this basis is smaller.
    basis, coordinates = torch.linalg.qr(x.T) if len(x) < x.shape[1] else (None, None)
    x = x if coordinates is None else coordinates.T
    fits = {}
    for penalty in penalties:
        weights, bias = _logistic(x, labels, train.classes, penalty)
        fits[penalty] = (weights if basis is None else basis @ weights).numpy(), bias.numpy()

    def scores(features: Array) -> dict[float, Array]:
        standardized = (features - mean) / scale
        return {penalty: standardized @ weights + bias for penalty, (weights, bias) in fits.items()}

    return scores


def _logistic(x: torch.Tensor, labels: torch.Tensor, classes: int, penalty: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the weights (d, classes) and biases (classes) for x (N, d)."""
    weights = torch.zeros(x.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(x @ weights + bias, labels) + penalty / 2 * weights.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return weights.detach(), bias.detach()


def nearest_neighbours(train: Labelled, counts: Sequence[int]) -> Probes:
    """Trains a vote of each of so many nearest images, by and weighted by cosine similarity of centred features."""
    known, labels = torch.tensor(train.features), torch.tensor(train.labels)
    mean = known.mean(0)
    known = directions(known, mean)

    def scores(features: Array) -> dict[float, Array]:
        parts = torch.tensor(features).split(QUERIES)
        of_parts = [
            votes(directions(part, mean), known, labels, counts=counts, classes=train.classes) for part in parts
        ]
        return {count: torch.cat([of[count] for of in of_parts]).numpy() for count in counts}

    return scores


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


def predicted(probes: Probes, features: Array) -> dict[float, Array]:
    """Returns the classes (N) that each setting predicts for features (N, d), which may not fit into memory."""
    classes: dict[float, list[Array]] = defaultdict(list)
    for part in in_parts(features):
        for setting, scores in probes(part).items():
            classes[setting].append(scores.argmax(1))
    return {setting: np.concatenate(parts) for setting, parts in classes.items()}


def in_parts(features: Array) -> Iterator[Array]:
    """Yields at most PART rows at a time, as float32; at least one part."""
    for start in range(0, max(1, len(features)), PART):
        yield np.asarray(features[start : start + PART], np.float32)


def accuracy(classes: Array, labels: Array) -> float:
    """Returns the share of images whose predicted class (N) is their label (N)."""
    return float((classes == labels).mean())


# Cross-validation.

# How each is trained, and the settings to choose from.
PROBES: Mapping[str, tuple[Fit, tuple[float, ...]]] = {
    "ridge": (ridges, PENALTIES),
    "knn": (nearest_neighbours, NEIGHBOURS),
}


def cross_validate(data: Labelled, folds: Array) -> dict[str, Array]:
    """Says whether (N) each of PROBES classifies each image correctly when it is trained on the other `folds` (N).

    Its setting is chosen on one of these other folds.
    """
    return {name: _out_of_fold(data, folds, *probe) for name, probe in PROBES.items()}


def _out_of_fold(data: Labelled, folds: Array, fit: Fit, settings: tuple[float, ...]) -> Array:
    correct = np.zeros(len(data), bool)
    for fold in range(FOLDS):
        own, others = (np.flatnonzero(part) for part in (folds == fold, folds != fold))
        if len(own) and len(others):
            chosen = _choose(data, folds, fold, fit, settings)
            correct[own] = predicted(fit(data[others], (chosen,)), data.features[own])[chosen] == data.labels[own]
    return correct


def _choose(data: Labelled, folds: Array, fold: int, fit: Fit, settings: tuple[float, ...]) -> float:
    """Returns the setting with the highest accuracy on the fold after `fold`, without training on either."""
    following = (fold + 1) % FOLDS
    valid = data[np.flatnonzero(folds == following)]
    train = data[np.flatnonzero((folds != fold) & (folds != following))]
    if not len(valid) or not len(train):
        return settings[0]
    classes = predicted(fit(train, settings), valid.features)
    return max(settings, key=lambda setting: accuracy(classes[setting], valid.labels))


# The baselines that a trained head is compared with.

RIDGE, LOGISTIC = "ridge regression", "logistic regression"
# The value of `model.head` that trains a baseline.
HEADS = {"nearest neighbours": "knn", RIDGE: "ridge", LOGISTIC: "linear"}
# Images × features × classes from which logistic regression takes too long.
LOGISTIC_LIMIT = 2e8


def _without_settings(fit: Callable[[Labelled], Probe]) -> Fit:
    def fit_once(train: Labelled, _: Sequence[Any]) -> Probes:
        probe = fit(train)
        return lambda features: {0.0: probe(features)}

    return fit_once


# How each is trained, the settings to choose from, and how these are written.
BASELINES: Mapping[str, tuple[Fit, Sequence[float], str]] = {
    "majority class": (_without_settings(majority_class), (), ""),
    "nearest class mean": (_without_settings(nearest_mean), (), ""),
    "nearest neighbours": (nearest_neighbours, NEIGHBOURS, "k={:g}"),
    RIDGE: (ridges, PENALTIES, "penalty {:g}"),
    LOGISTIC: (logistics, (1e-4, 1e-3, 1e-2), "penalty {:g}"),
}


@dataclass(frozen=True)
class Baseline:
    """A baseline with the setting, `value` and in words, that has the highest accuracy on the valid split.

    `predicted` are the classes (N) of the images to score. Without settings to choose from, `value` is 0.
    """

    name: str
    setting: str
    value: float
    valid_accuracy: float
    predicted: Array


def fit_baselines(train: Labelled, valid: Labelled, features: Array) -> list[Baseline]:
    """Trains each of BASELINES on `train`, chooses its setting by the accuracy on `valid`, and classifies `features`.

    Only the features of `train` need fit into memory.
    """
    baselines = []
    for name, (fit, settings, words) in BASELINES.items():
        if name == LOGISTIC and train.features.size * train.classes > LOGISTIC_LIMIT:
            continue
        probes = fit(train, settings)
        on_valid = predicted(probes, valid.features)
        accuracies = {setting: accuracy(classes, valid.labels) for setting, classes in on_valid.items()}
        best = max(accuracies, key=accuracies.__getitem__)
        classes = predicted(probes, features)[best]
        baselines.append(Baseline(name, words.format(best), best, accuracies[best], classes))
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
