"""Simple classifiers and projections of stored features: baselines, cross-validation, principal components."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from headstart.data.splits import FOLDS
from headstart.model.closed_form import NEIGHBOURS, PENALTIES, QUERIES, LeastSquares, directions, votes

# Simple classifiers on features: ridge and logistic regression, nearest neighbours, nearest class mean. They take a
# fraction of a second, which makes them the yardstick for the trained head and the tool for questions about the data.
# Each is a function from features (M, d) to scores (M, classes), the highest of which is its prediction. Those with a
# setting are trained with several at once, which share most of the work.


Array = np.ndarray[Any, np.dtype[Any]]
Probe = Callable[[Array], Array]
# Features (M, d) → the scores with each setting.
Probes = Callable[[Array], dict[float, Array]]
PART = 4096  # images whose scores are in memory at a time


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


# Trains with each of some settings.
Fit = Callable[[Labelled, Sequence[Any]], Probes]


def majority_class(train: Labelled) -> Probe:
    """The shares of the classes in `train`, whatever the image."""
    shares = train.targets.mean(0)
    return lambda features: np.tile(shares, (len(features), 1))


def ridge(train: Labelled, penalty: float) -> Probe:
    """Least squares on one-hot labels; `penalty` is relative to the mean variance of the features."""
    probes = ridges(train, (penalty,))
    return lambda features: probes(features)[penalty]


def ridges(train: Labelled, penalties: Sequence[float]) -> Probes:
    """`ridge` with each of `penalties`."""
    fit = LeastSquares(train.features, train.targets)
    weights = {penalty: fit.weights(penalty) for penalty in penalties}
    return lambda features: {penalty: fit.scores(features, of) for penalty, of in weights.items()}


def logistics(train: Labelled, penalties: Sequence[float]) -> Probes:
    """Multinomial logistic regression on standardized features, by L-BFGS; a penalty is that of squared weights."""
    mean, scale = train.features.mean(0), train.features.std(0) + 1e-6
    x, labels = torch.from_numpy((train.features - mean) / scale).float(), torch.from_numpy(train.labels)
    # The best weights are combinations of the images; with fewer images than features, this basis is smaller.
    basis, coordinates = torch.linalg.qr(x.T) if len(x) < x.shape[1] else (None, None)
    x = x if coordinates is None else coordinates.T
    found = {}
    for penalty in penalties:
        weights, bias = _logistic(x, labels, train.classes, penalty)
        found[penalty] = (weights if basis is None else basis @ weights).numpy(), bias.numpy()

    def scores(features: Array) -> dict[float, Array]:
        standardized = (features - mean) / scale
        return {penalty: standardized @ weights + bias for penalty, (weights, bias) in found.items()}

    return scores


def _logistic(x: torch.Tensor, labels: torch.Tensor, classes: int, penalty: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights (d, classes) and biases (classes) for x (N, d)."""
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
    """A vote of so many nearest images by cosine similarity of centred features, weighted by it."""
    known, labels = torch.tensor(train.features), torch.tensor(train.labels)
    mean = known.mean(0)
    known = directions(known, mean)

    def scores(features: Array) -> dict[float, Array]:
        parts = (torch.tensor(features[start : start + QUERIES]) for start in range(0, max(1, len(features)), QUERIES))
        found = [votes(directions(part, mean), known, labels, counts=counts, classes=train.classes) for part in parts]
        return {count: torch.cat([of[count] for of in found]).numpy() for count in counts}

    return scores


def nearest_mean(train: Labelled) -> Probe:
    """Cosine similarity of centred features to the mean of each class."""
    mean = train.features.mean(0)
    means = unit_rows(class_means(train) - mean)
    return lambda features: unit_rows(features - mean) @ means.T


def class_means(train: Labelled) -> Array:
    """The mean features (classes, d) of each class; of a class without images, zeros."""
    counts = np.maximum(train.targets.sum(0), 1)
    means: Array = (train.targets.T @ train.features / counts[:, None]).astype(np.float32)
    return means


def unit_rows(matrix: Array) -> Array:
    """Each row divided by its length."""
    return matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)


def predicted(probes: Probes, features: Array) -> dict[float, Array]:
    """The classes (N) that each setting predicts. Features (N, d), which may not fit into memory, are read in parts."""
    found: dict[float, list[Array]] = defaultdict(list)
    for part in in_parts(features):
        for setting, scores in probes(part).items():
            found[setting].append(scores.argmax(1))
    return {setting: np.concatenate(classes) for setting, classes in found.items()}


def in_parts(features: Array) -> Iterator[Array]:
    """At most PART rows at a time, as float32; at least one part."""
    for start in range(0, max(1, len(features)), PART):
        yield np.asarray(features[start : start + PART], np.float32)


def accuracy(classes: Array, labels: Array) -> float:
    """The share of images whose predicted class (N) is their label (N)."""
    return float((classes == labels).mean())


# How well simple classifiers on features do on images that they were not trained on.


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


# Features in two dimensions, by principal component analysis.


ITERATIONS = 30
OVERSAMPLED = 18


def project(features: Array, known: Array) -> Array:
    """Where features (N, d) are on the map (N, 2) of the two principal components of `known` (M, d)."""
    mean, directions = known.mean(0), principal_components(known)
    return np.concatenate([(part - mean) @ directions for part in in_parts(features)])


def principal_components(features: Array) -> Array:
    """The two directions (d, 2) of most variance of features (N, d), by a randomized SVD (Halko et al. 2011).

    Signs are chosen such that the largest entry of each is positive.
    """
    mean = features.mean(0, dtype=np.float64)
    basis = np.random.default_rng(0).normal(size=(features.shape[1], 2 + OVERSAMPLED))
    for _ in range(ITERATIONS):
        basis, _ = np.linalg.qr(sum(part.T @ (part @ basis) for part in _centred(features, mean)))
    projected = np.concatenate([part @ basis for part in _centred(features, mean)])
    _, _, rotation = np.linalg.svd(projected, full_matrices=False)
    found: Array = basis @ rotation[:2].T
    if found.shape[1] < 2:
        found = np.pad(found, ((0, 0), (0, 2 - found.shape[1])))
    return found * np.where(found[np.abs(found).argmax(0), [0, 1]] < 0, -1, 1)


def _centred(features: Array, mean: Array) -> Iterator[Array]:
    """In parts: in double precision, all of them would take twice as much memory again."""
    return (part - mean for part in in_parts(features))


# What simple classifiers on the same features reach: the yardstick for the trained head.


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
