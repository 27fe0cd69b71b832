"""Principal components, against scikit-learn."""

import numpy as np
import pytest
from sklearn.decomposition import PCA  # type: ignore[import-untyped]

from headstart.evaluation.probes import principal_components, project


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


def test_project__is_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    known, features = (np.random.default_rng(seed).normal(size=(50, 6)).astype(np.float32) for seed in (0, 1))
    whole = project(features, known)
    np.testing.assert_allclose(whole, PCA(2).fit(known).transform(features), atol=2e-3)
    monkeypatch.setattr("headstart.evaluation.probes.PART", 7)
    np.testing.assert_allclose(project(features, known), whole, rtol=1e-4, atol=1e-5)
