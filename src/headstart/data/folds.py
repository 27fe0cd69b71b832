"""Folds for cross-validation."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
FOLDS = 5


def stratified_folds(labels: Array, seed: int, count: int = FOLDS) -> Array:
    """The fold (N) of each image, of which there are `count`, as even within each class as can be."""
    order = np.random.default_rng(seed).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    folds = np.empty(len(labels), int)
    folds[by_class] = np.arange(len(labels)) % count
    return folds


def folds_of_distinct(labels: Array, contents: Array, seed: int, count: int = FOLDS) -> Array:
    """The fold (N) of each image, the same for images with the same of `contents` (N)."""
    _, first, which = np.unique(contents, return_index=True, return_inverse=True)
    folds: Array = stratified_folds(labels[first], seed, count)[which]
    return folds
