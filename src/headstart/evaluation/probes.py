"""Simple classifiers on features: ridge and logistic regression, nearest neighbours, nearest class mean.

They take a fraction of a second, which makes them the yardstick for the trained head and the tool for questions about
the data. Each is a function from features (M, d) to scores (M, classes), the highest of which is its prediction. Those
with a setting are trained with several at once, which share most of the work.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from headstart.model.neighbours import QUERIES, directions, votes
from headstart.model.ridge import LeastSquares

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
