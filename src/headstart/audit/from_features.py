"""What features say about images: near duplicates and outliers."""

from collections.abc import Iterator

import numpy as np

from headstart.audit.findings import Finding
from headstart.audit.near_duplicates import near_duplicates
from headstart.data.manifest import Split
from headstart.evaluation.probes import Array, unit_rows

# An outlier is less similar to its nearest images than most are, by this many interquartile ranges.
FAR = 3.0
NEIGHBOURS = 5
ROWS = 1024  # compared at a time


def find_from_features(splits: dict[str, Split], features: dict[str, Array]) -> list[Finding]:
    """`features` (N, embedding_dim) are unaugmented, in the order of each split's samples."""
    matrices = {name: np.asarray(matrix, np.float32) for name, matrix in features.items()}
    mean = np.concatenate(list(matrices.values())).mean(0)
    units = {name: unit_rows(matrix - mean) for name, matrix in matrices.items()}
    paths = [path for split in splits.values() for path in split.paths]
    return [*near_duplicates(splits, units), *_outliers(paths, np.concatenate([units[name] for name in splits]))]


def _outliers(paths: list[str], units: Array) -> Iterator[Finding]:
    """Images that are far from all others, the farthest first."""
    if len(units) <= NEIGHBOURS:
        return
    similarities = np.concatenate([_mean_of_nearest(units, start) for start in range(0, len(units), ROWS)])
    low, high = np.quantile(similarities, (0.25, 0.75))
    for index in np.argsort(similarities, kind="stable").tolist():
        if similarities[index] >= low - FAR * (high - low):
            return
        yield Finding("outlier", (paths[index],), f"similarity {similarities[index]:.2f} to its nearest images")


def _mean_of_nearest(units: Array, start: int) -> Array:
    """The mean similarity (up to ROWS) of some images to the NEIGHBOURS nearest other ones."""
    block = units[start : start + ROWS] @ units.T
    rows = np.arange(len(block))
    block[rows, start + rows] = -1
    found: Array = np.partition(block, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS:].mean(1)
    return found
