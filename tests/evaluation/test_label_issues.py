"""Labels that the other images do not support."""

import numpy as np
import pytest
from clusters import clusters
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from sklearn.model_selection import cross_val_predict  # type: ignore[import-untyped]

from headstart.data.preprocessing import Array
from headstart.evaluation import probes
from headstart.evaluation.answers import (
    LabelIssues,
    confident_classes,
    confident_joint,
    find_label_issues,
)
from headstart.evaluation.probes import Labelled


def swapped(data: Labelled, count: int, seed: int) -> tuple[Labelled, Array]:
    """The data with `count` labels replaced by others, and the indices of these."""
    generator = np.random.default_rng(seed)
    rows = generator.choice(len(data), count, replace=False)
    labels = data.labels.copy()
    labels[rows] = (labels[rows] + generator.integers(1, data.classes, count)) % data.classes
    return Labelled(data.features, labels, data.classes), rows


def issues_of(data: Labelled, units: Array | None = None) -> LabelIssues:
    return find_label_issues([data[:50], data[50:]], np.arange(len(data)) if units is None else units, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_issues__swapped_labels_are_listed_and_first(seed: int) -> None:
    data = clusters(400, 20, spread=0.8)
    noisy, rows = swapped(data, 20, seed)
    found = issues_of(noisy)
    listed = set(np.flatnonzero(found.listed).tolist())
    assert len(listed & set(rows.tolist())) >= 0.8 * 20
    assert len(listed & set(rows.tolist())) >= 0.8 * len(listed)
    assert set(found.order[: found.count].tolist()) == listed
    assert len(set(found.order[:40].tolist()) & set(rows.tolist())) >= 19
    assert (found.suggested[rows] == data.labels[rows]).mean() >= 0.9
    assert found.low <= found.estimate <= found.high
    assert found.low <= 20 <= found.high + 2


@pytest.mark.slow
@pytest.mark.parametrize(("spread", "most"), [(0.8, 0), (1.2, 8)])
def test_issues__of_clean_labels_are_few(spread: float, most: int) -> None:
    found = issues_of(clusters(400, 20, spread=spread))
    assert found.count <= most
    assert found.low <= most


@pytest.mark.slow
def test_issues__an_image_has_no_say_about_itself_nor_has_a_copy() -> None:
    # Random labels: if an image were among those that judge it, its own label would be believed.
    generator = np.random.default_rng(0)
    data = Labelled(generator.normal(size=(60, 200)).astype(np.float32), generator.integers(0, 3, 60), 3)
    assert (issues_of(data).belief < 0).sum() >= 25
    copies = np.arange(60).repeat(2)
    twice = data[copies]
    assert (issues_of(twice, copies).belief < 0).sum() >= 50
    assert (issues_of(twice).belief < 0).sum() < 50


def test_issues__of_a_burst_are_judged_by_other_bursts() -> None:
    # Six images of each scene; of ten scenes all have the same wrong label.
    data = clusters(90, 30, spread=0.5)
    scenes = np.arange(90).repeat(6)
    noisy, rows = swapped(data, 10, 0)
    jitter = np.random.default_rng(1).normal(0, 0.02, (540, 30)).astype(np.float32)
    bursts = Labelled(noisy.features[scenes] + jitter, noisy.labels[scenes], 4)
    found = issues_of(bursts, scenes)
    assert found.listed[np.isin(scenes, rows)].mean() >= 0.8


def test_issues__of_classes_with_fewer_images_than_folds() -> None:
    data = Labelled(clusters(7, 3).features, np.array([0, 0, 0, 0, 0, 1, 2]), 3)
    found = find_label_issues([data], np.arange(7), seed=0)
    assert sorted(found.order.tolist()) == list(range(7))


def test_issues__beyond_the_images_that_are_fitted_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "MOST_TRAINED", 200)
    noisy, rows = swapped(clusters(400, 20, spread=0.8), 20, 0)
    found = issues_of(noisy)
    assert found.listed[rows].mean() >= 0.8
    assert found.count <= 26


@pytest.mark.slow
def test_confident_learning__is_cleanlabs() -> None:
    cleanlab = pytest.importorskip("cleanlab")
    noisy, _ = swapped(clusters(600, 20, spread=1.5), 40, 3)
    model = LogisticRegression(C=0.1)
    probs = cross_val_predict(model, noisy.features, noisy.labels, method="predict_proba")
    confident = confident_classes(noisy.labels, probs)
    joint = confident_joint(noisy.labels, confident, 4)
    expected = cleanlab.count.compute_confident_joint(noisy.labels, probs, calibrate=True)
    # Which is rounded to whole numbers with the same sums.
    np.testing.assert_allclose(joint, expected, atol=1)
