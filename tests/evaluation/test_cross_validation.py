"""Accuracy on images that a classifier was not trained on."""

import numpy as np
import pytest
from clusters import clusters
from sklearn.neighbors import KNeighborsClassifier  # type: ignore[import-untyped]

from headstart.data.splits import FOLDS, grouped_folds, stratified_folds, unit_folds
from headstart.evaluation.probes import COMPARED, Labelled, cross_validate


@pytest.mark.slow
def test_cross_validate__random_labels_are_at_chance() -> None:
    # If an image, or a copy of it, were among those its classifier is trained on, its own label would be found.
    generator = np.random.default_rng(0)
    features = generator.normal(size=(200, 400)).astype(np.float32)
    labels = generator.integers(0, 4, 200)
    twice = Labelled(np.concatenate([features, features]), np.concatenate([labels, labels]), 4)
    units = np.tile(np.arange(200), 2)
    for correct in cross_validate(twice, unit_folds(twice.labels, units, 0), units).values():
        assert correct.mean() < 0.4
    apart = np.arange(400)
    for correct in cross_validate(twice, unit_folds(twice.labels, apart, 0), apart).values():
        assert correct.mean() > 0.6


def test_cross_validate__accuracy_is_close_to_that_of_scikit_learn() -> None:
    data = clusters(300, 10, spread=2.0)
    folds = stratified_folds(data.labels, 3)
    found = cross_validate(data, folds, np.arange(300))["knn"].mean()
    correct = np.zeros(len(data), bool)
    centred = data.features - data.features.mean(0)
    for fold in range(FOLDS):
        held_out = folds == fold
        other = KNeighborsClassifier(10, metric="cosine").fit(centred[~held_out], data.labels[~held_out])
        correct[held_out] = other.predict(centred[held_out]) == data.labels[held_out]
    assert found == pytest.approx(correct.mean(), abs=0.05)


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_cross_validate__few_images(count: int) -> None:
    data = clusters(count, 3, spread=1.0)
    found = cross_validate(data, stratified_folds(data.labels, 0), np.arange(count))
    assert tuple(found) == COMPARED
    assert all(len(correct) == count for correct in found.values())


def test_folds__are_even_within_classes_and_keep_copies_together() -> None:
    labels = np.repeat([0, 1, 2], [50, 25, 10])
    folds = stratified_folds(labels, 1)
    assert [np.bincount(folds[labels == label], minlength=FOLDS).tolist() for label in range(3)] == [
        [10] * FOLDS,
        [5] * FOLDS,
        [2] * FOLDS,
    ]
    contents = [f"{index // 2}" for index in range(85)]
    together = grouped_folds(labels, contents, contents, None, 1)
    assert all(together[index] == together[index + 1] for index in range(0, 84, 2))
