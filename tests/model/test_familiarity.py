"""The score of unusual images, against the plain computation."""

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity  # type: ignore[import-untyped]

from headstart.model.image_classifier import Familiarity


def fitted(features: torch.Tensor, labels: torch.Tensor, classes: int) -> Familiarity:
    found = Familiarity(classes, features.shape[1])
    for batch in torch.arange(len(labels)).split(7):
        found.observe(features[batch], labels[batch])
    found.fit_means(*found.observed)
    return found


def test_score__is_the_cosine_to_the_nearest_class_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(60, 9, generator=generator) + 3, torch.arange(60) % 4
    others = torch.randn(20, 9, generator=generator)
    found = fitted(features, labels, 4)
    center = features.numpy().mean(0)
    means = np.stack([features[labels == label].numpy().mean(0) for label in range(4)])
    wanted = cosine_similarity(others.numpy() - center, means - center).max(1)
    np.testing.assert_allclose(found(others).numpy(), wanted, atol=1e-5)
    found.fit_threshold(found(others))
    assert float(found.threshold) == pytest.approx(np.quantile(wanted, 0.05, method="weibull"), abs=1e-5)


@pytest.mark.slow
def test_threshold__has_the_share_of_new_images_below_it_that_it_promises() -> None:
    generator = torch.Generator().manual_seed(0)
    for count in (19, 40, 150):
        shares = []
        for _ in range(200):
            found = fitted(torch.randn(30, 6, generator=generator), torch.arange(30) % 3, 3)
            found.fit_threshold(found(torch.randn(count, 6, generator=generator)))
            shares.append(float((found(torch.randn(400, 6, generator=generator)) < found.threshold).double().mean()))
        assert np.mean(shares) == pytest.approx(0.05, abs=0.01)


def test_threshold__of_too_few_images_is_unknown() -> None:
    found = fitted(torch.randn(30, 6), torch.arange(30) % 3, 3)
    found.fit_threshold(found(torch.randn(18, 6)))
    assert found.threshold == -torch.inf


def test_classes_without_images__are_never_the_nearest() -> None:
    features = torch.randn(30, 5)
    found = fitted(features, torch.zeros(30, dtype=torch.long) + torch.arange(30) % 2, 3)
    assert not found.directions[2].any()
    opposite = found.center - found.directions[0] - found.directions[1]
    scores = torch.cosine_similarity((opposite - found.center)[None], found.directions[:2])
    assert float(found(opposite[None])) == pytest.approx(float(scores.max()), abs=1e-5)


def test_reset__forgets_the_epoch_before_but_not_what_was_fitted() -> None:
    features = torch.randn(30, 5)
    found = fitted(features, torch.arange(30) % 3, 3)
    center = found.center.clone()
    found.reset()
    assert not found.observed[1].any()
    # As in Lightning's sanity check before the first epoch.
    found.fit_means(*found.observed)
    assert torch.equal(found.center, center)


def test_threshold__needs_means() -> None:
    found = Familiarity(3, 5)
    found.fit_threshold(torch.zeros(4))
    assert found.threshold == -torch.inf


def test_score__never_exceeds_1() -> None:
    # The cosine of a vector with itself is rounded to more than 1 in every fifth case.
    features = torch.randn(500, 64)
    found = fitted(features, torch.arange(500), 500)
    assert found(features).max() == 1
