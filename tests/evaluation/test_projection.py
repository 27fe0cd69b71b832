"""Principal components, against scikit-learn."""

import numpy as np
import pytest
from sklearn.decomposition import PCA  # type: ignore[import-untyped]

from headstart.evaluation.projection import principal_components


@pytest.mark.parametrize("shape", [(300, 40), (30, 500), (5, 3)])
def test_components__are_those_of_scikit_learn(shape: tuple[int, int]) -> None:
    features = np.random.default_rng(0).normal(size=shape) * np.linspace(3, 0.1, shape[1]) + 5
    wanted = PCA(2, svd_solver="full").fit(features).components_.T
    found = principal_components(features.astype(np.float32))
    signs = np.sign((found * wanted).sum(0))
    np.testing.assert_allclose(found, wanted * signs, atol=2e-3)
    assert np.array_equal(found, principal_components(features.astype(np.float32)))


def test_components__of_too_few_images() -> None:
    assert principal_components(np.ones((1, 6), np.float32)).shape == (6, 2)
    assert np.isfinite(principal_components(np.zeros((4, 6), np.float32))).all()
    assert principal_components(np.ones((4, 1), np.float32)).shape == (1, 2)
