"""Simple classifiers on features, against scikit-learn's."""

import numpy as np
import pytest
import torch
from clusters import clusters
from sklearn.linear_model import Ridge  # type: ignore[import-untyped]
from sklearn.metrics.pairwise import cosine_similarity  # type: ignore[import-untyped]

from headstart.evaluation.probes import (
    HEADS,
    Labelled,
    class_means,
    fit_baselines,
    majority_class,
    nearest_images,
    nearest_mean,
    ridge,
)
from headstart.model.closed_form import CLOSED_FORM_HEADS


@pytest.mark.parametrize(("count", "width"), [(200, 12), (30, 80)])
def test_ridge__is_scikit_learns_in_both_forms(count: int, width: int) -> None:
    train, other = clusters(count, width), clusters(50, width, seed=1)
    centred = train.features - train.features.mean(0)
    strength = 0.1 * np.square(centred).sum() / min(count, width)
    expected = Ridge(alpha=strength).fit(train.features.astype(float), train.targets).predict(other.features)
    np.testing.assert_allclose(ridge(train, 0.1)(other.features), expected, atol=1e-5)


def test_ridge__scores_many_images_as_it_scores_each(monkeypatch: pytest.MonkeyPatch) -> None:
    train, other = clusters(60, 8), clusters(50, 8, seed=1)
    expected = ridge(train, 0.1)(other.features)
    monkeypatch.setattr("headstart.model.closed_form.ROWS", 7)
    np.testing.assert_allclose(ridge(train, 0.1)(other.features), expected, atol=1e-12)
    assert ridge(train, 0.1)(other.features[:0]).shape == (0, 4)


def test_ridge__with_constant_features_predicts_the_prior() -> None:
    train = Labelled(np.ones((6, 3), np.float32), np.array([0, 0, 0, 0, 1, 1]), 2)
    np.testing.assert_allclose(ridge(train, 0.1)(train.features), np.tile([4 / 6, 2 / 6], (6, 1)))


def test_nearest_mean__is_cosine_similarity_to_the_class_means() -> None:
    train, other = clusters(80, 5), clusters(10, 5, seed=1)
    mean = train.features.mean(0)
    means = np.stack([train.features[train.labels == label].mean(0) for label in range(4)])
    np.testing.assert_allclose(class_means(train), means, rtol=1e-5)
    expected = cosine_similarity(other.features - mean, means - mean)
    np.testing.assert_allclose(nearest_mean(train)(other.features), expected, atol=1e-5)


def test_majority_class__is_the_most_frequent() -> None:
    train = Labelled(np.zeros((3, 1), np.float32), np.array([1, 1, 0]), 2)
    assert majority_class(train)(np.zeros((2, 1))).argmax(1).tolist() == [1, 1]


@pytest.mark.slow
def test_baselines__are_what_model_head_trains() -> None:
    train, valid, test = (clusters(60, 8, seed=seed) for seed in (0, 1, 2))
    found = fit_baselines(train, valid.features, test.features)
    assert [b.name for b in found] == ["majority class", "nearest class mean", *HEADS]
    for baseline in found[2:]:
        assert baseline.kind == HEADS[baseline.name]
        head = CLOSED_FORM_HEADS[baseline.kind](8, 4)
        head.fit(torch.from_numpy(train.features), torch.from_numpy(train.labels))
        for of, features in ((baseline.valid, valid.features), (baseline.predicted, test.features)):
            assert of.tolist() == head(torch.from_numpy(features)).argmax(1).tolist()


@pytest.mark.slow
def test_baselines__are_the_same_in_parts_of_stored_features(monkeypatch: pytest.MonkeyPatch) -> None:
    train, valid, test = (clusters(60, 8, seed=seed) for seed in (0, 1, 2))
    stored = [of.features.astype(np.float16) for of in (valid, test)]
    whole = fit_baselines(train, *(of.astype(np.float32) for of in stored))
    monkeypatch.setattr("headstart.evaluation.probes.PART", 7)
    for one, other in zip(fit_baselines(train, *stored), whole, strict=True):
        assert one.name == other.name
        assert one.valid.tolist() == other.valid.tolist()
        assert one.predicted.tolist() == other.predicted.tolist()


def test_nearest_images__are_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    train, other = clusters(60, 8), clusters(20, 8, seed=1)
    expected = nearest_images(train, other.features, 5)
    monkeypatch.setattr("headstart.evaluation.probes.PART", 7)
    assert nearest_images(train, other.features, 5).tolist() == expected.tolist()


def test_nearest_images__of_training_images_are_themselves() -> None:
    train = clusters(20, 5)
    assert nearest_images(train, train.features, 3)[:, 0].tolist() == list(range(20))
