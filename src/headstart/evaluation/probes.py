"""Simple classifiers on features: ridge and logistic regression, nearest neighbours, nearest class mean.

They take a fraction of a second, which makes them the yardstick for the trained head and the tool for questions about
the data. Each is a function from features (M, d) to scores (M, classes), the highest of which is its prediction.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

Array = np.ndarray[Any, np.dtype[Any]]
Probe = Callable[[Array], Array]
ROWS = 1024  # compared at a time


@dataclass(frozen=True)
class Labelled:
    """Features (N, d) as float32, and the labels (N) of `classes` classes."""

    features: Array
    labels: Array
    classes: int

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Array) -> "Labelled":
        return Labelled(self.features[index], self.labels[index], self.classes)

    @property
    def targets(self) -> Array:
        """One-hot labels (N, classes)."""
        return np.eye(self.classes)[self.labels]


def majority_class(train: Labelled) -> Probe:
    """The shares of the classes in `train`, whatever the image."""
    shares = train.targets.mean(0)
    return lambda features: np.tile(shares, (len(features), 1))


def ridge(train: Labelled, penalty: float) -> Probe:
    """Least squares on one-hot labels; `penalty` is relative to the mean variance of the features."""
    mean, prior = train.features.mean(0, dtype=np.float64), train.targets.mean(0)
    centred, targets = train.features - mean, train.targets - prior
    # Of the two equal forms, the one with the smaller matrix.
    is_wide = len(train) < centred.shape[1]
    gram = centred @ centred.T if is_wide else centred.T @ centred
    strength = penalty * np.trace(gram) / min(len(train), centred.shape[1])
    gram[np.diag_indices_from(gram)] += max(strength, 1e-12)
    weights = centred.T @ np.linalg.solve(gram, targets) if is_wide else np.linalg.solve(gram, centred.T @ targets)
    return lambda features: (features - mean) @ weights + prior


def logistic(train: Labelled, penalty: float) -> Probe:
    """Multinomial logistic regression on standardized features, by L-BFGS; `penalty` is that of squared weights."""
    mean, scale = train.features.mean(0), train.features.std(0) + 1e-6
    x, labels = torch.from_numpy((train.features - mean) / scale).float(), torch.from_numpy(train.labels)
    # The best weights are combinations of the images; with fewer images than features, this basis is smaller.
    basis, coordinates = torch.linalg.qr(x.T) if len(x) < x.shape[1] else (None, None)
    x = x if coordinates is None else coordinates.T
    weights = torch.zeros(x.shape[1], train.classes, requires_grad=True)
    bias = torch.zeros(train.classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(x @ weights + bias, labels) + penalty / 2 * weights.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    found = weights.detach() if basis is None else basis @ weights.detach()
    learnt, offset = found.numpy(), bias.detach().numpy()
    return lambda features: (features - mean) / scale @ learnt + offset


def nearest_neighbours(train: Labelled, count: int) -> Probe:
    """A vote of the `count` nearest images by cosine similarity of centred features, weighted by it."""
    mean = train.features.mean(0)
    known, targets = unit_rows(train.features - mean), train.targets
    count = min(count, len(train))

    def scores(features: Array) -> Array:
        similarities = unit_rows(features - mean) @ known.T
        nearest = np.argpartition(-similarities, count - 1, axis=1)[:, :count]
        votes = np.take_along_axis(similarities, nearest, axis=1) + 1
        return np.einsum("nk,nkc->nc", votes, targets[nearest])

    return lambda features: np.concatenate([scores(part) for part in _in_parts(features)])


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


def _in_parts(features: Array) -> Iterator[Array]:
    """At most ROWS images at a time, because each is compared with all of those known."""
    yield from np.split(features, range(ROWS, len(features), ROWS))


def unit_rows(matrix: Array) -> Array:
    """Each row divided by its length."""
    return matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
