"""Would more images help? Accuracy by the number of training images, and where the curve leads.

The forecast is of what a user would see: the accuracy on the same scored images, of ridge regression trained with twice
the images from the same source.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np

from headstart.data.splits import derive_seed, unit_folds
from headstart.data.workers import thread_map
from headstart.evaluation.probes import Array, Labelled, predicted, ridge

# The train split is cut into so many parts, in so many ways; the curve has points for 1, 2, 4, … of them.
PARTS, FEWEST_PARTS, CUTS = 8, 4, 4
# Errors fall as `floor + height × n ** -decay`.
DECAYS = np.linspace(0.1, 2.0, 39)
# The interval holds the accuracy with the probability LEVEL. Its variance is FACTOR times that between draws of half
# the images; beyond its end, the curve is uncertain by a SHARE of the gain that it forecasts.
LEVEL, FACTOR, SHARE = 0.9, 0.75, 0.5
# The value at twice the largest count, and the ends of its interval.
Forecast = tuple[float, float, float]


@dataclass(frozen=True)
class LearningCurve:
    """Which of N scored images ridge regression classifies correctly, by the number of its training images.

    `counts` are the training images per class, on average, ascending; the last is all of them. `right` has for each an
    array (draws, N); draws 2k and 2k + 1 have no image in common. `labels` (N) are those of the scored images.
    """

    counts: tuple[float, ...]
    right: tuple[Array, ...]
    labels: Array

    @cached_property
    def accuracies(self) -> list[float]:
        """The mean accuracy for each count."""
        return [float(draws.mean()) for draws in self.right]

    @cached_property
    def spreads(self) -> list[float]:
        """The standard deviation of the accuracy between draws, for each count; 0 for the last."""
        return [float(draws.mean(1).std()) for draws in self.right]

    @cached_property
    def forecast(self) -> Forecast:
        """The accuracy with twice the images, with its 90 % interval."""
        return _forecast(self.right)

    def forecast_of(self, label: int) -> Forecast:
        """Returns the forecast of the recall of a class."""
        return _forecast([draws[:, self.labels == label] for draws in self.right])

    def recall(self, label: int) -> list[float]:
        """Returns the mean recall of a class for each count."""
        return [float(draws[:, self.labels == label].mean()) for draws in self.right]

    def worst_classes(self, count: int) -> list[int]:
        """Returns the classes with the lowest recall, the lowest first."""
        present = np.unique(self.labels)
        return [int(i) for i in sorted(present, key=lambda label: self.recall(label)[-1])[:count]]


def learning_curve(train: Labelled, scored: Labelled, penalty: float, units: Array, seed: int) -> LearningCurve | None:
    """Trains on growing random parts of `train` and tests on `scored`; images of one of `units` (N) stay together.

    None: there are too few images, or units, for three points.
    """
    per_class = len(train) / train.classes
    parts = PARTS if min(per_class, len(np.unique(units)) / train.classes) >= PARTS else FEWEST_PARTS
    if len(np.unique(units)) < parts or per_class < parts:
        return None
    cuts = [unit_folds(train.labels, units, derive_seed("curve", seed, cut), parts) for cut in range(CUTS)]
    sizes = [2**power for power in range(parts.bit_length())]
    subsets = {size: [rows for cut in cuts for rows in _subsets(cut, size)] for size in sizes}
    # All of the images are the same in every cut.
    subsets[parts] = subsets[parts][:1]

    def right(rows: Array) -> Array:
        return predicted(ridge(train[rows], penalty), scored.features) == scored.labels

    return LearningCurve(
        tuple(per_class * size / parts for size in sizes),
        tuple(np.stack(thread_map(right, subsets[size])) for size in sizes),
        scored.labels,
    )


def _subsets(cut: Array, size: int) -> Iterator[Array]:
    """Yields the indices of the images in each run of `size` parts."""
    for first in range(0, cut.max() + 1, size):
        yield np.flatnonzero((cut >= first) & (cut < first + size))


def _forecast(right: "tuple[Array, ...] | list[Array]") -> Forecast:
    """Returns the forecast from which scored images are classified correctly (draws, N), by doubling counts.

    With A(n) the accuracy of n training images and V(n) its variance between draws, which falls as 1/n, the error of
    forecasting A(2n) from the curve of the n images has the variance V(n) / 2 = V(n/2) / 4 where accuracies add up, and
    more where they do not: FACTOR V(n/2) held on all sets of benchmarks/truth.py. V(n/2) is measured between halves
    that share no image, and is at least that of N scored images which flip one by one. To it come the extrapolation's
    own uncertainty, and half an image.
    """
    halves, now = right[-2], float(right[-1].mean())
    value = 1 - _extrapolate(np.array([1 - draws.mean() for draws in right]))
    pairs = halves[0::2], halves[1::2]
    between = float(((pairs[0].mean(1) - pairs[1].mean(1)) ** 2).mean()) / 2
    flips = float((pairs[0] != pairs[1]).mean()) / 2 / halves.shape[1]
    deviation = np.sqrt(FACTOR * max(between, flips) + (SHARE * (value - now)) ** 2)
    half = NormalDist().inv_cdf((1 + LEVEL) / 2) * deviation + 0.5 / halves.shape[1]
    return value, max(0.0, value - half), min(1.0, value + half)


def _extrapolate(errors: Array) -> float:
    """Returns the error with twice the images, by the power law that fits errors for 1, 2, 4, … of parts best.

    Never above the last error. Points weigh as much as their counts, because the end of the curve says most about where
    it leads. It is weighted least squares in closed form, for each decay.
    """
    counts = 2.0 ** np.arange(len(errors))
    powers = counts ** -DECAYS[:, None]
    total, weighted = counts.sum(), powers * counts
    first, second = weighted.sum(1), (weighted * powers).sum(1)
    error, product = (errors * counts).sum(), weighted @ errors
    height = (total * product - first * error) / (total * second - first**2)
    floor = (error - height * first) / total
    height = np.where(floor < 0, product / second, height)
    floor = np.maximum(floor, 0)
    residuals = floor[:, None] + height[:, None] * powers - errors
    best = (counts * residuals**2).sum(1).argmin()
    return float(np.clip(floor[best] + height[best] * (2 * counts[-1]) ** -DECAYS[best], 0, errors[-1]))
