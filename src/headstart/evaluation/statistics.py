"""How sure a measured accuracy is, and whether two differ by more than chance."""

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

# p-values below this are called more than chance.
SIGNIFICANT = 0.05
Z95 = 1.959963984540054  # the normal distribution's 97.5 % point


def wilson_interval(correct: int, count: int) -> tuple[float, float]:
    """The 95 % confidence interval of an accuracy of `correct` of `count` (Wilson 1927); (0, 1) for no samples."""
    if count == 0:
        return 0.0, 1.0
    share, spread = correct / count, Z95**2 / count
    centre = (share + spread / 2) / (1 + spread)
    half = Z95 / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def mcnemar(first: Array, second: Array) -> float:
    """The two-sided p-value that two classifiers are equally often right (exact McNemar test).

    `first` and `second` (N) say for the same samples whether each classifier is right.
    """
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    discordant, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(discordant, k) for k in range(fewer + 1))
    # Integers, because 2 ** 1100 is no float.
    return min(1.0, 2 * tail / 2**discordant)
