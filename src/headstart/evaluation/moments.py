"""Sums over images from which a ridge regression follows."""

import numpy as np

from headstart.evaluation.probes import Array, Probe
from headstart.model.ridge import strength_of


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
