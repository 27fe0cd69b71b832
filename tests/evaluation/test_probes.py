"""Simple classifiers on features, against scikit-learn's."""

import numpy as np
import pytest
from clusters import clusters
from sklearn.linear_model import LogisticRegression, Ridge  # type: ignore[import-untyped]
from sklearn.metrics.pairwise import cosine_similarity  # type: ignore[import-untyped]
from sklearn.neighbors import KNeighborsClassifier  # type: ignore[import-untyped]

from headstart.evaluation.probes import (
    Fit,
    Labelled,
    class_means,
    fit_baselines,
    logistics,
    majority_class,
    nearest_images,
    nearest_mean,
    nearest_neighbours,
    ridge,
    ridges,
)
from headstart.model import closed_form
from headstart.model.closed_form import NEIGHBOURS, PENALTIES


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


@pytest.mark.parametrize(("count", "width"), [(200, 6), (40, 90)])
def test_logistic__is_scikit_learns_in_both_forms(count: int, width: int) -> None:
    train, other = clusters(count, width, spread=2.0), clusters(50, width, seed=1, spread=2.0)
    mean, scale = train.features.mean(0), train.features.std(0)
    # scikit-learn sums over samples where headstart averages.
    model = LogisticRegression(C=1 / (0.01 * len(train)), tol=1e-8, max_iter=1000)
    model.fit((train.features - mean) / scale, train.labels)
    scores = logistics(train, (0.01,))(other.features)[0.01]
    found = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    np.testing.assert_allclose(found, model.predict_proba((other.features - mean) / scale), atol=2e-3)


def test_nearest_neighbour__is_scikit_learns() -> None:
    train, other = clusters(80, 5), clusters(40, 5, seed=1)
    mean = train.features.mean(0)
    model = KNeighborsClassifier(1, metric="cosine").fit(train.features - mean, train.labels)
    found = nearest_neighbours(train, (1,))(other.features)[1].argmax(1)
    assert found.tolist() == model.predict(other.features - mean).tolist()


def test_nearest_neighbours__more_than_there_are_images() -> None:
    train = clusters(5, 3, classes=2)
    scores = nearest_neighbours(train, (20,))(train.features)[20]
    assert scores.shape == (5, 2)
    assert np.isfinite(scores).all()


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


def test_baselines__settings_are_chosen_on_valid_and_scored_on_the_rest() -> None:
    train, valid, test = (clusters(60, 8, seed=seed) for seed in (0, 1, 2))
    found = fit_baselines(train, valid, test.features)
    names = [baseline.name for baseline in found]
    assert names[0] == "majority class"
    assert names[1:] == ["nearest class mean", "nearest neighbours", "ridge regression", "logistic regression"]
    penalty = float(found[3].setting.removeprefix("penalty "))
    assert found[3].predicted.tolist() == ridge(train, penalty)(test.features).argmax(1).tolist()
    best = max(float((ridge(train, p)(valid.features).argmax(1) == valid.labels).mean()) for p in (1e-3, 1e-2, 0.1, 1))
    assert found[3].valid_accuracy == best


def test_baselines__are_the_same_in_parts_of_stored_features(monkeypatch: pytest.MonkeyPatch) -> None:
    train, valid, test = (clusters(60, 8, seed=seed) for seed in (0, 1, 2))
    stored = [Labelled(of.features.astype(np.float16), of.labels, of.classes) for of in (valid, test)]
    read = [Labelled(of.features.astype(np.float32), of.labels, of.classes) for of in stored]
    whole = fit_baselines(train, read[0], read[1].features)
    monkeypatch.setattr("headstart.evaluation.probes.PART", 7)
    for one, other in zip(fit_baselines(train, stored[0], stored[1].features), whole, strict=True):
        assert (one.name, one.value, one.valid_accuracy) == (other.name, other.value, other.valid_accuracy)
        assert one.predicted.tolist() == other.predicted.tolist()


def test_nearest_images__are_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    train, other = clusters(60, 8), clusters(20, 8, seed=1)
    expected = nearest_images(train, other.features, 5)
    monkeypatch.setattr("headstart.evaluation.probes.PART", 7)
    assert nearest_images(train, other.features, 5).tolist() == expected.tolist()


def test_nearest_images__of_training_images_are_themselves() -> None:
    train = clusters(20, 5)
    assert nearest_images(train, train.features, 3)[:, 0].tolist() == list(range(20))


def test_nearest_neighbours__of_many_images_are_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    train, other = clusters(60, 8), clusters(50, 8, seed=1)
    whole = nearest_neighbours(train, (5,))(other.features)[5]
    monkeypatch.setattr(closed_form, "QUERIES", 7)
    np.testing.assert_allclose(nearest_neighbours(train, (5,))(other.features)[5], whole, rtol=1e-5)
    assert nearest_neighbours(train, (5,))(other.features[:0])[5].shape == (0, 4)


@pytest.mark.parametrize(
    ("fit", "settings"), [(ridges, PENALTIES), (nearest_neighbours, NEIGHBOURS), (logistics, (0.1, 1))]
)
def test_probes__with_several_settings_are_those_with_each(fit: Fit, settings: tuple[float, ...]) -> None:
    train, other = clusters(60, 8, spread=2.0), clusters(30, 8, seed=1)
    together = fit(train, settings)(other.features)
    assert list(together) == list(settings)
    for setting, scores in together.items():
        np.testing.assert_allclose(scores, fit(train, (setting,))(other.features)[setting], rtol=1e-5, atol=1e-6)
