"""Would more images help? Accuracy by the number of training images per class, and where the curve leads."""

from dataclasses import dataclass

import numpy as np

from headstart.evaluation.probes import Array, Labelled, ridge

COUNTS = (2, 5, 10, 20, 35, 50, 75, 100, 150, 200, 300, 500)
REPEATS = 5
# Errors fall as `floor + height × n ** -decay`.
DECAYS = np.linspace(0.1, 2.0, 39)
SMALL = 3  # points from which a curve can be extrapolated


@dataclass(frozen=True)
class LearningCurve:
    """Accuracies of ridge regression trained on `counts` images per class, in several random draws.

    `accuracies` (counts, draws); `recalls` (counts, classes) are means over the draws, NaN for classes not scored.
    `forecast` is the accuracy with twice the images, with its 90 % interval; None: there are too few points.
    """

    counts: tuple[int, ...]
    accuracies: Array
    recalls: Array
    forecast: tuple[float, float, float] | None

    def worst_classes(self, count: int) -> list[int]:
        """The classes with the lowest recall, the lowest first."""
        last = self.recalls[-1]
        return [int(i) for i in np.argsort(last, kind="stable")[:count] if not np.isnan(last[i])]


def learning_curve(train: Labelled, scored: Labelled, penalty: float, seed: int) -> LearningCurve | None:
    """Trains on growing random subsets of `train`, the same number of images of each class, and tests on `scored`.

    None: the smallest class has too few images for two points.
    """
    smallest = int(np.bincount(train.labels, minlength=train.classes).min())
    counts = tuple(sorted({count for count in COUNTS if count < smallest} | {smallest} - {0, 1}))
    if len(counts) < 2:
        return None
    generator = np.random.default_rng(seed)
    right = np.stack([_draw(train, scored, counts, penalty, generator) for _ in range(REPEATS)], axis=1)
    present = np.bincount(scored.labels, minlength=train.classes)
    totals = right.mean(1) @ scored.targets
    recalls = np.divide(totals, present, out=np.full(totals.shape, np.nan), where=present > 0)
    accuracies = right.mean(2)
    return LearningCurve(counts, accuracies, recalls, _forecast(np.array(counts), accuracies, generator))


def _draw(
    train: Labelled, scored: Labelled, counts: tuple[int, ...], penalty: float, generator: np.random.Generator
) -> Array:
    """Whether (counts, N) each scored image is classified correctly, in one draw of nested subsets."""
    order = generator.permutation(len(train))
    # The rank of each image within its class, in this order.
    ranks = np.empty(len(train), int)
    for label in range(train.classes):
        own = order[train.labels[order] == label]
        ranks[own] = np.arange(len(own))
    probes = (ridge(train[np.flatnonzero(ranks < count)], penalty) for count in counts)
    return np.stack([probe(scored.features).argmax(1) == scored.labels for probe in probes])


def _forecast(counts: Array, accuracies: Array, generator: np.random.Generator) -> tuple[float, float, float] | None:
    """The accuracy at twice the largest count, and its 90 % interval by resampling the draws."""
    if len(counts) < SMALL:
        return None
    draws = accuracies.shape[1]
    resampled = [accuracies[:, generator.integers(0, draws, draws)].mean(1) for _ in range(200)]
    values = [_extrapolate(counts, 1 - curve) for curve in resampled]
    low, high = np.quantile(values, (0.05, 0.95))
    middle = _extrapolate(counts, 1 - accuracies.mean(1))
    return 1 - middle, 1 - float(max(high, middle)), 1 - float(min(low, middle))


def _extrapolate(counts: Array, errors: Array) -> float:
    """The error at twice the largest count, by the power law that fits best; never above the last error.

    Points weigh as much as their counts, because the end of the curve says most about where it leads.
    """
    best, found, weights = np.inf, float(errors[-1]), np.sqrt(counts)
    for decay in DECAYS:
        powers = counts**-decay
        design = np.stack([np.ones_like(powers), powers], axis=1)
        (floor, height), *_ = np.linalg.lstsq(design * weights[:, None], errors * weights, rcond=None)
        if floor < 0:
            floor, height = 0.0, float((counts * powers) @ errors / ((counts * powers) @ powers))
        residual = float((counts * np.square(floor + height * powers - errors)).sum())
        if residual < best:
            best, found = residual, float(floor + height * (2 * counts[-1]) ** -decay)
    return float(np.clip(found, 0, errors[-1]))
