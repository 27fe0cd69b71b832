"""Ridge regression's scores of each image by the fit to the images of all other folds."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from headstart.data.workers import thread_map
from headstart.evaluation.moments import Moments
from headstart.evaluation.probes import Array, Labelled, ridge
from headstart.model.ridge import ROWS


class _Block(NamedTuple):
    """Images: their indices (M), features (M, d) and labels (M)."""

    rows: Array
    features: Array
    labels: Array


def scores_by_other_folds(data: Sequence[Labelled], folds: Array, penalty: float) -> Iterator[tuple[Array, Array]]:
    """Indices (M) of images and their scores (M, classes), until all have had their turn.

    `folds` (N) are those of the images of `data` in turn. Together, these may not fit into memory: they are read in
    parts.
    """
    if len(folds) < data[0].features.shape[1]:
        return _few(data, folds, penalty)
    return _many(data, folds, penalty)


def _few(data: Sequence[Labelled], folds: Array, penalty: float) -> Iterator[tuple[Array, Array]]:
    features = np.concatenate([part.features for part in data], dtype=np.float32)
    everything = Labelled(features, np.concatenate([part.labels for part in data]), data[0].classes)
    for fold in np.unique(folds):
        held_out = np.flatnonzero(folds == fold)
        yield held_out, ridge(everything[np.flatnonzero(folds != fold)], penalty)(features[held_out])


def _many(data: Sequence[Labelled], folds: Array, penalty: float) -> Iterator[tuple[Array, Array]]:
    width, classes, count = data[0].features.shape[1], data[0].classes, folds.max() + 1
    moments = [Moments(width, classes) for _ in range(count)]
    # About a point among the features: far from it, the differences below would lose digits.
    origin = data[0].features[:ROWS].mean(0, dtype=np.float64)
    for block in _blocks(data):
        observe = partial(_observe, moments, block, folds[block.rows], origin)
        thread_map(observe, np.unique(folds[block.rows]))
    everything = Moments(width, classes)
    for of_fold in moments:
        everything.add(of_fold, 1)
    probes = []
    for of_fold in moments:
        # In place, because the products of wide features take much memory.
        everything.add(of_fold, -1)
        probes.append(everything.ridge(penalty))
        everything.add(of_fold, 1)
    for block in _blocks(data):
        own = folds[block.rows]
        for fold in np.unique(own):
            yield block.rows[own == fold], probes[fold](block.features[own == fold] - origin)


def _observe(moments: list[Moments], block: _Block, folds: Array, origin: Array, fold: int) -> None:
    own = folds == fold
    moments[fold].observe(block.features[own] - origin, block.labels[own])


def _blocks(data: Sequence[Labelled]) -> Iterator[_Block]:
    """At most ROWS images at a time, and their indices."""
    start = 0
    for part in data:
        for first in range(0, len(part), ROWS):
            found = part[first : first + ROWS]
            yield _Block(start + np.arange(len(found)), found.features, found.labels)
            start += len(found)
