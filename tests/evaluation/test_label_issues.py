"""Labels that the other images do not support, and what more images would bring."""

import numpy as np
import pytest
from clusters import clusters

from headstart.evaluation.answers import find_label_issues, learning_curve
from headstart.evaluation.probes import Labelled


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_label_issues__swapped_labels_come_first(seed: int) -> None:
    data = clusters(400, 20, spread=0.8)
    generator = np.random.default_rng(seed)
    swapped = generator.choice(400, 20, replace=False)
    labels = data.labels.copy()
    labels[swapped] = (labels[swapped] + generator.integers(1, 4, 20)) % 4
    found = find_label_issues([Labelled(data.features, labels, 4)], 0.1, seed)
    first_tenth = set(found.order[:40].tolist())
    assert len(first_tenth & set(swapped.tolist())) >= 19
    right = found.suggested[swapped] == data.labels[swapped]
    assert right.mean() >= 0.9


def test_label_issues__an_image_has_no_say_about_itself() -> None:
    # Random labels: if an image were among those that judge it, its own label would be believed.
    generator = np.random.default_rng(0)
    data = Labelled(generator.normal(size=(60, 200)).astype(np.float32), generator.integers(0, 3, 60), 3)
    assert find_label_issues([data], 1e-3, seed=0).count >= 25


def test_label_issues__of_classes_with_fewer_images_than_folds() -> None:
    data = Labelled(clusters(7, 3).features, np.array([0, 0, 0, 0, 0, 1, 2]), 3)
    found = find_label_issues([data], 0.1, seed=0)
    assert sorted(found.order.tolist()) == list(range(7))


def test_learning_curve__rises_and_forecasts_less_than_1() -> None:
    train, scored = clusters(800, 20, spread=2.0), clusters(400, 20, spread=2.0, seed=1)
    found = learning_curve(train, scored, 0.1, seed=0)
    assert found is not None
    assert found.forecast is not None
    means = found.accuracies.mean(1)
    smallest = int(np.bincount(train.labels).min())
    assert found.counts == (2, 5, 10, 20, 35, 50, 75, 100, 150, smallest)
    assert means[-1] > means[0] + 0.2
    value, low, high = found.forecast
    assert means[-1] <= value <= 1
    assert low <= value <= high
    # A classifier trained on twice as many images of each class is close to the forecast.
    more = learning_curve(clusters(1600, 20, spread=2.0), scored, 0.1, seed=0)
    assert more is not None
    assert more.accuracies[-1].mean() == pytest.approx(value, abs=0.03)


def test_learning_curve__of_too_few_images_is_none() -> None:
    train = Labelled(clusters(4, 3).features, np.array([0, 0, 1, 1]), 2)
    assert learning_curve(train, train, 0.1, seed=0) is None


def test_learning_curve__of_classes_without_scored_images() -> None:
    train = clusters(80, 10)
    scored = train[np.flatnonzero(train.labels != 3)]
    found = learning_curve(train, scored, 0.1, seed=0)
    assert found is not None
    assert np.isnan(found.recalls[:, :, 3]).all()
    assert 3 not in found.worst_classes(4)
