"""Which images without labels to label next: those that the classifier is unsure about, each for others like it."""

from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from headstart.evaluation.probes import in_parts, unit_rows

Array = np.ndarray[Any, np.dtype[Any]]
# Among how many times as many of the most uncertain images those to label are spread out (β in Zhdanov 2019).
CANDIDATES = 10
# Cosine similarities of centred features: from the first one on, images are near duplicates; none have the second.
SIMILAR, NEVER = 0.9, 2.0
STEPS = 20  # of k-means, at most


@dataclass(frozen=True)
class Choice:
    """An image to label: its index, its margin, and how many uncertain images are nearest to it, itself included.

    The margin is the difference of its two highest probabilities.
    """

    index: int
    margin: float
    stands_for: int


def choose_next(
    features: Array, probabilities: Array, labelled: Array, *, count: int, seed: int, near: float = SIMILAR
) -> list[Choice]:
    """Returns at most `count` of N images to label next, those with the smallest margin first.

    Of the CANDIDATES × `count` images with the smallest margins, it chooses the nearest to each centre of `count`
    clusters, found by k-means with the weights 1 - margin: Zhdanov 2019, "Diverse mini-batch Active Learning". So they
    are uncertain, and differ from each other. No near duplicate of another candidate, or of an image with a label, is
    among the candidates; fewer than `count` are returned only if there are no others.

    Args:
        features: (N, d), and the classifier's `probabilities` (N, classes) for them.
        labelled: the features (M, d) of the images that have labels.
        seed: of the first centres; with the same one, the result is the same.
        near: the cosine similarity of centred features from which images are near duplicates.
    """
    margins = margins_of(probabilities)
    # As float64, so that the mean of many rows is exact.
    total = features.sum(0, dtype=np.float64) + labelled.sum(0, dtype=np.float64)
    mean = (total / (len(features) + len(labelled))).astype(np.float32)
    candidates = _distinct(features, labelled, mean, np.argsort(margins, kind="stable"), CANDIDATES * count, near)
    if not len(candidates):
        return []
    directions = unit_rows(features[candidates] - mean)
    nearest, sizes = _nearest_to_centres(directions, 1 - margins[candidates], min(count, len(candidates)), seed)
    chosen = candidates[nearest]
    order = np.argsort(margins[chosen], kind="stable")
    return [Choice(int(chosen[of]), float(margins[chosen[of]]), int(sizes[of])) for of in order]


def margins_of(probabilities: Array) -> Array:
    """Returns the difference (N) of the two highest of probabilities (N, classes)."""
    ranked = np.sort(probabilities, axis=1)[:, ::-1]
    margins: Array = ranked[:, 0] - ranked[:, 1:2].sum(1)
    return margins


def _distinct(features: Array, labelled: Array, mean: Array, order: Array, most: int, near: float) -> Array:
    """The first `most` images in this `order` that are no near duplicates of labelled ones, or of one before."""
    kept: list[int] = []
    for start in range(0, len(order), most):
        rows = order[start : start + most]
        directions = unit_rows(features[rows] - mean)
        highest = np.full(len(rows), -1.0)
        for part in chain(in_parts(labelled), in_parts(features[kept])):
            highest = np.maximum(highest, (directions @ unit_rows(part - mean).T).max(1, initial=-1))
        new: list[int] = []
        among = directions @ directions.T
        for place in np.flatnonzero(highest < near).tolist():
            if among[place, new].max(initial=-1) < near:
                new.append(place)
        kept += rows[new].tolist()
        if len(kept) >= most:
            break
    return np.array(kept[:most], int)


def _nearest_to_centres(points: Array, weights: Array, count: int, seed: int) -> tuple[Array, Array]:
    """The indices (count) of points (N, d), each the nearest to a centre of weighted k-means, and the clusters' sizes.

    No point is chosen twice; N is at least `count`.
    """
    # Where all weights are 0, all are the same.
    weights = weights + 1e-9
    centres = points[_spread(points, weights, count, np.random.default_rng(seed))]
    nearest = np.full(len(points), -1)
    for _ in range(STEPS):
        before, nearest = nearest, _distances(points, centres).argmin(1)
        if (nearest == before).all():
            break
        for cluster in np.unique(nearest):
            own = nearest == cluster
            centres[cluster] = np.average(points[own], axis=0, weights=weights[own])
    chosen: list[int] = []
    for distances in _distances(centres, points):
        distances[chosen] = np.inf
        chosen.append(int(distances.argmin()))
    return np.array(chosen, int), np.bincount(nearest, minlength=count)


def _spread(points: Array, weights: Array, count: int, generator: np.random.Generator) -> list[int]:
    """The indices of the first centres: k-means++ (Arthur and Vassilvitskii 2007), from the highest weight on."""
    chosen = [int(weights.argmax())]
    distances = _distances(points, points[chosen])[:, 0]
    while len(chosen) < count:
        # Also of equal points, none is chosen twice.
        chances = (distances + 1e-12) * weights
        chances[chosen] = 0
        chosen.append(int(generator.choice(len(points), p=chances / chances.sum())))
        distances = np.minimum(distances, _distances(points, points[chosen[-1:]])[:, 0])
    return chosen


def _distances(points: Array, others: Array) -> Array:
    """Squared distances (N, M)."""
    squares = (points**2).sum(1)[:, None] + (others**2).sum(1)[None]
    return np.maximum(squares - 2 * points @ others.T, 0)
