"""How sure a measured accuracy is, and whether two differ by more than chance."""

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

# p-values below this are called more than chance.
SIGNIFICANT = 0.05


def wilson_interval(correct: int, count: int) -> tuple[float, float]:
    """Returns the 95 % confidence interval of an accuracy of `correct` of `count` (Wilson 1927); (0, 1) for no samples.

    It begins at exactly 0 if none is correct, and ends at exactly 1 if all are.
    """
    if count == 0:
        return 0.0, 1.0
    # Imported here because it takes half a second, which predicting need not wait for.
    from scipy.stats import binomtest  # type: ignore[import-untyped]

    found = binomtest(correct, count).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def mcnemar(first: Array, second: Array) -> float:
    """The two-sided p-value that two classifiers are equally often right (exact McNemar test).

    `first` and `second` (N) say for the same samples whether each classifier is right.
    """
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    discordant, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(discordant, k) for k in range(fewer + 1))
    # Integers, because 2 ** 1100 is no float.
    return min(1.0, 2 * tail / 2**discordant)
