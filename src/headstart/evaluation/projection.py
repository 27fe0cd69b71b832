"""Features in two dimensions, by principal component analysis."""

from collections.abc import Iterator

import numpy as np

from headstart.evaluation.probes import Array, in_parts

ITERATIONS = 30
OVERSAMPLED = 18


def project(features: Array, known: Array) -> Array:
    """Where features (N, d) are on the map (N, 2) of the two principal components of `known` (M, d)."""
    mean, directions = known.mean(0), principal_components(known)
    return np.concatenate([(part - mean) @ directions for part in in_parts(features)])


def principal_components(features: Array) -> Array:
    """The two directions (d, 2) of most variance of features (N, d), by a randomized SVD (Halko et al. 2011).

    Signs are chosen such that the largest entry of each is positive.
    """
    mean = features.mean(0, dtype=np.float64)
    basis = np.random.default_rng(0).normal(size=(features.shape[1], 2 + OVERSAMPLED))
    for _ in range(ITERATIONS):
        basis, _ = np.linalg.qr(sum(part.T @ (part @ basis) for part in _centred(features, mean)))
    projected = np.concatenate([part @ basis for part in _centred(features, mean)])
    _, _, rotation = np.linalg.svd(projected, full_matrices=False)
    found: Array = basis @ rotation[:2].T
    if found.shape[1] < 2:
        found = np.pad(found, ((0, 0), (0, 2 - found.shape[1])))
    return found * np.where(found[np.abs(found).argmax(0), [0, 1]] < 0, -1, 1)


def _centred(features: Array, mean: Array) -> Iterator[Array]:
    """In parts: in double precision, all of them would take twice as much memory again."""
    return (part - mean for part in in_parts(features))
