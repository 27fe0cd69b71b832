"""Features in two dimensions, by principal component analysis."""

import numpy as np

from headstart.evaluation.probes import Array

ITERATIONS = 30
OVERSAMPLED = 18


def principal_components(features: Array) -> Array:
    """The two directions (d, 2) of most variance of features (N, d), by a randomized SVD (Halko et al. 2011).

    Signs are chosen such that the largest entry of each is positive.
    """
    centred = features - features.mean(0, dtype=np.float64)
    basis = np.random.default_rng(0).normal(size=(centred.shape[1], 2 + OVERSAMPLED))
    for _ in range(ITERATIONS):
        basis, _ = np.linalg.qr(centred.T @ (centred @ basis))
    _, _, rotation = np.linalg.svd(centred @ basis, full_matrices=False)
    found: Array = basis @ rotation[:2].T
    if found.shape[1] < 2:
        found = np.pad(found, ((0, 0), (0, 2 - found.shape[1])))
    return found * np.where(found[np.abs(found).argmax(0), [0, 1]] < 0, -1, 1)
