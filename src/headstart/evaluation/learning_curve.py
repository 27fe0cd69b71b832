"""Would more images help? Accuracy by the number of training images per class, and where the curve leads."""

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from headstart.data.workers import thread_map
from headstart.evaluation.probes import Array, Labelled, predicted, ridges

COUNTS = (2, 5, 10, 20, 35, 50, 75, 100, 150, 200, 300, 500)
REPEATS = 5
RESAMPLES = 200
# Errors fall as `floor + height × n ** -decay`.
DECAYS = np.linspace(0.1, 2.0, 39)
# The value at twice the largest count, and the ends of its interval.
Forecast = tuple[float, float, float]
SMALL = 3  # points from which a curve can be extrapolated


@dataclass(frozen=True)
class LearningCurve:
    """Accuracies of ridge regression trained on `counts` images per class, in several random draws.

    `accuracies` (counts, draws); `recalls` (counts, draws, classes), NaN for classes not scored. `forecast` is the
    accuracy with twice the images, with its 90 % interval; None: there are too few points.
    """

    counts: tuple[int, ...]
    accuracies: Array
    recalls: Array
    seed: int

    @cached_property
    def forecast(self) -> Forecast | None:
        return _forecast(np.array(self.counts), self.accuracies, self.seed)

    def forecast_of(self, label: int) -> Forecast | None:
        """The same of the recall of one class."""
        return _forecast(np.array(self.counts), self.recalls[:, :, label], self.seed)

    def recall(self, label: int) -> list[float]:
        """The mean recall of one class for each of `counts`."""
        return [float(value) for value in self.recalls[:, :, label].mean(1)]

    def worst_classes(self, count: int) -> list[int]:
        """The classes with the lowest recall, the lowest first."""
        last = self.recalls[-1].mean(0)
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
    orders = [generator.permutation(len(train)) for _ in range(REPEATS)]
    right = np.stack(thread_map(partial(_draw, train, scored, counts, penalty), orders), axis=1)
    present = np.bincount(scored.labels, minlength=train.classes)
    totals = right @ scored.targets
    recalls = np.divide(totals, present, out=np.full(totals.shape, np.nan), where=present > 0)
    return LearningCurve(counts, right.mean(2), recalls, seed)


def _draw(train: Labelled, scored: Labelled, counts: tuple[int, ...], penalty: float, order: Array) -> Array:
    """Whether (counts, N) each scored image is classified correctly, by nested subsets in this `order`."""
    # The rank of each image within its class, in this order.
    ranks = np.empty(len(train), int)
    for label in range(train.classes):
        own = order[train.labels[order] == label]
        ranks[own] = np.arange(len(own))
    probes = (ridges(train[np.flatnonzero(ranks < count)], (penalty,)) for count in counts)
    return np.stack([predicted(of_count, scored.features)[penalty] == scored.labels for of_count in probes])


def _forecast(counts: Array, accuracies: Array, seed: int) -> Forecast | None:
    """The accuracy at twice the largest count, and its 90 % interval by resampling the draws."""
    if len(counts) < SMALL:
        return None
    generator, draws = np.random.default_rng(seed), accuracies.shape[1]
    resampled = np.stack([accuracies[:, generator.integers(0, draws, draws)].mean(1) for _ in range(RESAMPLES)])
    middle, *values = _extrapolate(counts, 1 - np.concatenate([accuracies.mean(1)[None], resampled]))
    low, high = np.quantile(values, (0.05, 0.95))
    return 1 - float(middle), 1 - float(max(high, middle)), 1 - float(min(low, middle))


def _extrapolate(counts: Array, errors: Array) -> Array:
    """The errors (R) at twice the largest count, by the power laws that fit R curves (R, counts) best.

    Never above a curve's last error. Points weigh as much as their counts, because the end of the curve says most
    about where it leads.
    """
    powers = counts ** -DECAYS[:, None]
    # Weighted least squares in closed form, for each curve (rows) and each decay (columns).
    total, weighted = counts.sum(), powers * counts
    first, second = weighted.sum(1), (weighted * powers).sum(1)
    error, product = (errors * counts).sum(1)[:, None], errors @ weighted.T
    height = (total * product - first * error) / (total * second - first**2)
    floor = (error - height * first) / total
    height = np.where(floor < 0, product / second, height)
    floor = np.maximum(floor, 0)
    residuals = floor[..., None] + height[..., None] * powers - errors[:, None]
    best = (counts * residuals**2).sum(2).argmin(1)
    rows = np.arange(len(errors))
    found = floor[rows, best] + height[rows, best] * (2.0 * counts[-1]) ** -DECAYS[best]
    ends: Array = np.clip(found, 0, errors[:, -1])
    return ends
